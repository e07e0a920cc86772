"""Evidence: which parts of a document got the attention, and the text without the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..documents import Document, Grain
from ..errors import InputError
from ..sentences import sentence_spans

__all__ = ["Evidence", "Pruned", "asked_evidence", "find_evidence", "prune"]

_GAP = "…"  # stands for sentences that were left out


@dataclass(frozen=True, slots=True)
class Evidence:
    """A span of a document that got attention.

    The masses of all spans sum to the document's mass, or to 1 if scores are not attention and documents have no mass.

    Args:
        start: the first character of the span in the document's ``field``, counted from 0.
        end: the character after its last one.
        mass: the attention mass on the span.
        text: the characters of the span.
        field: the field that the span is in, ``text`` or ``title``.
    """

    start: int
    end: int
    mass: float
    text: str
    field: Literal["text", "title"] = "text"


@dataclass(frozen=True, slots=True)
class Pruned:
    """A text without the sentences that got little attention.

    Args:
        text: the sentences that were kept, in their order, with an ellipsis for each gap.
        evidence: these sentences with their mass, largest first. Offsets count in this ``text``.
    """

    text: str
    evidence: tuple[Evidence, ...]


def find_evidence(document: Document, spans: np.ndarray, mass: np.ndarray, grain: Grain) -> tuple[Evidence, ...]:
    """Attribute token masses to spans of the title and the text.

    Args:
        document: the document whose ``contents`` the model read.
        spans: int (T, 2), the characters of ``contents`` that each token covers. Tokens that cover none, such as the
            markers of late-interaction models, are left out with their mass.
        mass: float (T,), the attention mass on each token.
        grain: ``sentence`` sums over sentences (and over the title), largest mass first; ``token`` keeps tokens, in the
            order of the text.

    Returns:
        Spans with their mass. Together they hold the mass of the text's tokens: the document's mass, or 1 if scores are
        not attention and documents have none. Sentences that were not read are left out.
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


def prune(text: str, evidence: Sequence[Evidence] | None, share: float, *, start: int = 0) -> Pruned:
    """Keep the sentences of a text that hold a share of the attention on it.

    The sentences with the largest mass are kept, as few as hold the share; of equal ones the first. A sentence that the
    model did not read has no mass. Mass on the title does not count. If nothing in the text has any mass, nothing is
    left out.

    Args:
        text: the text to prune.
        evidence: the spans by sentence or by token, as rerankers return them.
        share: the share of the attention to keep, above 0 and at most 1.
        start: the place where the text begins in the document that the offsets of the evidence count in, in characters.

    Raises:
        InputError: if there is no evidence, or the share is out of range.

    Example:
        >>> found = [Evidence(11, 21, 0.7, "Dogs bark."), Evidence(0, 10, 0.1, "Cats purr.")]
        >>> prune("Cats purr. Dogs bark.", found, 0.8).text
        '… Dogs bark.'
    """
    _check_share(share)
    if evidence is None:
        raise InputError('pruning needs evidence, and there is none; ask for it with evidence="sentence"')
    sentences = sentence_spans(text)
    if not sentences:
        return Pruned(text, ())
    mass = np.zeros(len(sentences))
    starts = [first for first, _ in sentences]
    for span in evidence:
        if span.field == "text" and 0 <= span.start - start < len(text):
            owner = int(np.searchsorted(starts, span.start - start, side="right")) - 1
            mass[max(owner, 0)] += max(span.mass, 0.0)
    order = np.argsort(-mass, kind="stable")
    before = np.cumsum(mass[order]) - mass[order]
    total = mass.sum()
    kept = sorted(order[(before < share * total) & (mass[order] > 0)].tolist()) if total else range(len(sentences))
    pieces: list[str] = []
    spans = []
    length = previous_end = 0
    previous = -1
    for place in kept:
        first, end = sentences[place]
        skipped = place > previous + 1
        gap = text[previous_end:first] if not skipped else f"{_GAP} " if previous < 0 else f" {_GAP} "
        spans.append(_at(length + len(gap), text[first:end], float(mass[place])))
        pieces += [gap, text[first:end]]
        length += len(gap) + end - first
        previous, previous_end = place, end
    pieces.append(text[previous_end:] if previous == len(sentences) - 1 else f" {_GAP}")
    return Pruned("".join(pieces), tuple(sorted(spans, key=lambda span: -span.mass)))


def asked_evidence(evidence: Grain | None, share: float | None) -> Grain | None:
    """Return the evidence to ask a reranker for: what you asked for, or what pruning to this share needs.

    Raises:
        InputError: if the share is out of range.
    """
    if share is None:
        return evidence
    _check_share(share)
    return evidence or "sentence"


def _check_share(share: float) -> None:
    """Raise `InputError` unless this is a share that `prune` can keep."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise InputError(f"pruning keeps a share of the attention, a number above 0 and at most 1, not {share!r}")


def _at(start: int, text: str, mass: float) -> Evidence:
    return Evidence(start, start + len(text), mass, text)
