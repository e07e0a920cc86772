"""What every retriever of this folder returns, before it takes the form of its library."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ..rerank.placement import Order, arrange
from ..rerank.reranker import Candidate
from ..search import Hit, SearchResult

__all__ = ["Level", "Snippet", "candidate", "snippets"]

Level = Literal["document", "passage"]


@dataclass(frozen=True, slots=True)
class Snippet:
    """A text for a generator to read.

    Args:
        id: the document's; a passage that is only a part of it has its place added, as in ``"manual#120-480"``, since
            other libraries take what shares an id for the same thing.
        text: the document's, or the passage's.
        score: see `sightline.Hit`.
        metadata: the document's, deeply copied; and, where it has no such fields itself, ``title`` and, for a part,
            ``document_id``. With evidence, ``evidence`` lists spans as mappings, offsets in ``text``.
        document_id: the document's id.
        start: where the text begins in the document, in characters.
        end: where it ends.
    """

    id: str
    text: str
    score: float
    metadata: dict[str, Any]
    document_id: str
    start: int
    end: int


def snippets(result: SearchResult, level: Level, order: Order) -> list[Snippet]:
    """The hits of a search at this level as texts, in this order."""
    return arrange([_snippet(hit, level) for hit in result.hits], order)


def _snippet(hit: Hit, level: Level) -> Snippet:
    document = hit.document
    start, end = (hit.passage.start, hit.passage.end) if level == "passage" else (0, len(document.text))
    part = end - start < len(document.text)
    metadata = copy.deepcopy(dict(document.metadata))
    if document.title:
        metadata.setdefault("title", document.title)
    if part:
        metadata.setdefault("document_id", document.id)
    if hit.evidence is not None:
        metadata["evidence"] = [
            dataclasses.asdict(span)
            if span.field == "title"
            else {**dataclasses.asdict(span), "start": span.start - start, "end": span.end - start}
            for span in hit.evidence
        ]
    id = f"{document.id}#{start}-{end}" if part else document.id
    return Snippet(id, document.text[start:end], hit.score, metadata, document.id, start, end)


def candidate(id: str | None, text: str | None, title: Any = None) -> Candidate:
    """Another library's document as a reranker reads it; a title that is no text is none."""
    named = {"id": id} if id else {}
    return {**named, "text": text, "title": title if isinstance(title, str) else ""}
