"""Which parts of a document got the attention: spans of its text, by sentence or by token."""

from __future__ import annotations

import numpy as np

from ..documents import Document, Grain
from ..sentences import sentence_spans
from .results import Evidence

__all__ = ["find_evidence"]


def find_evidence(document: Document, spans: np.ndarray, mass: np.ndarray, grain: Grain) -> tuple[Evidence, ...]:
    """Attribute token masses to spans of the title and the text.

    Args:
        document: the document whose ``contents`` the model read.
        spans: int (T, 2), the characters of ``contents`` that each token covers. Tokens that cover none, such as the
            markers of late-interaction models, are not of the text, and left out with their mass.
        mass: float (T,), the attention mass on each token.
        grain: ``sentence`` sums over sentences (and over the title), largest mass first; ``token`` keeps tokens, in the
            order of the text.

    Returns:
        Spans with their mass; together they hold what the mass of the text's tokens sums to: the document's mass, or 1
        where scores are not attention and documents have none. Sentences that were not read are left out.
    """
    of_text = spans[:, 1] > spans[:, 0]
    spans, mass = spans[of_text], mass[of_text]
    title = len(document.title) + 1 if document.title else 0
    in_title = spans[:, 1] < title
    marks = []
    if grain == "token":
        for (start, end), share, titled in zip(spans.tolist(), mass.tolist(), in_title.tolist(), strict=True):
            shift = 0 if titled else title
            marks.append(_evidence(document, start - shift, end - shift, share, titled))
        return tuple(marks)
    if in_title.any():
        marks.append(_evidence(document, 0, len(document.title), float(mass[in_title].sum()), True))
    sentences = sentence_spans(document.text)
    starts = np.array([start for start, _ in sentences])
    # A token belongs to the sentence in which it starts.
    owner = (np.searchsorted(starts, spans[~in_title, 0] - title, side="right") - 1).clip(0)
    sums = np.bincount(owner, weights=mass[~in_title], minlength=len(sentences))
    read = np.bincount(owner, minlength=len(sentences)) > 0
    marks += [
        _evidence(document, *sentence, float(total), False)
        for sentence, total, seen in zip(sentences, sums, read, strict=True)
        if seen
    ]
    return tuple(sorted(marks, key=lambda evidence: -evidence.mass))


def _evidence(document: Document, start: int, end: int, mass: float, titled: bool) -> Evidence:
    text = document.title if titled else document.text
    return Evidence(start, end, mass, text[start:end], "title" if titled else "text")
