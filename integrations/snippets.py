"""What the modules of this folder share: search results and candidates on their way from and to other libraries."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..documents import Unit, cleaned
from ..errors import InputError, UnknownNameError
from ..models.cache import CacheSettings, shared_cache
from ..names import PREFIXES, RerankerName
from ..rerank.base import Reranker
from ..rerank.evidence import prune
from ..rerank.loading import as_reranker, load_reranker
from ..rerank.placement import Order, arrange
from ..rerank.requests import Candidate
from ..rerank.results import Ranked, relevance_or_score
from ..search import Hit, Searcher, SearchResult
from ..wording import quoted

__all__ = [
    "Made",
    "Snippet",
    "as_searcher",
    "candidate",
    "drop_in",
    "is_missing",
    "keeping",
    "pruned",
    "snippets",
    "text_list",
]


T = TypeVar("T")
_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


@dataclass(frozen=True, slots=True)
class Snippet:
    """A text for a language model to read.

    Args:
        id: the id of the document. For a passage that is only a part of it, its place is added, as in
            ``"manual#120-480"``, since other libraries take texts with the same id for the same text.
        text: the text of the document or the passage.
        score: the hit's relevance, or its score if there is no relevance; see `sightline.Hit`.
        metadata: a deep copy of the document's metadata; ``title`` and, for a part, ``document_id`` are added where it
            has no such fields. With evidence, or where the text is pruned, ``evidence`` lists spans as mappings with
            offsets in ``text``.
        document_id: the id of the whole document.
        start: the place where the text begins in the document, in characters.
        end: the place where the text ends in the document.
    """

    id: str
    text: str
    score: float
    metadata: dict[str, Any]
    document_id: str
    start: int
    end: int


def snippets(result: SearchResult, unit: Unit, order: Order, share: float | None = None) -> list[Snippet]:
    """The hits of a search at this unit as texts, in this order, pruned if there is a share to prune to."""
    return arrange([_snippet(hit, unit, share) for hit in result.hits], order)


def _snippet(hit: Hit, unit: Unit, share: float | None) -> Snippet:
    document = hit.document
    start, end = (hit.passage.start, hit.passage.end) if unit == "passage" else (0, len(document.text))
    part = end - start < len(document.text)
    metadata = copy.deepcopy(dict(document.metadata))
    if document.title:
        metadata.setdefault("title", document.title)
    if part:
        metadata.setdefault("document_id", document.id)
    text, evidence = document.text[start:end], hit.evidence
    if share is not None:
        pruned = prune(text, evidence, share, start=start)
        text, evidence = pruned.text, pruned.evidence
    elif evidence is not None:
        evidence = tuple(
            span if span.field == "title" else dataclasses.replace(span, start=span.start - start, end=span.end - start)
            for span in evidence
        )
    if evidence is not None:
        metadata["evidence"] = [dataclasses.asdict(span) for span in evidence]
    id = f"{document.id}#{start}-{end}" if part else document.id
    return Snippet(id, text, relevance_or_score(hit), metadata, document.id, start, end)


def pruned(text: Any, item: Ranked, share: float | None, start: int = 0) -> Any:
    """A ranked text, pruned to this share of the attention if there is one; anything but a string comes back as it is.

    Args:
        text: the text that the reranker read from character ``start`` of the candidate's text on.
        item: the ranked document, with evidence.
        share: the share of the attention to keep; see `sightline.rerank.prune`. If None, all of it.
        start: the place where the text begins in the candidate's text.
    """
    return text if share is None or not isinstance(text, str) else prune(text, item.evidence, share, start=start).text


def candidate(id: object, text: object, title: object = None) -> Candidate:
    """Another library's document as a reranker reads it.

    Libraries let through what models cannot read: a NUL becomes a blank, a lone surrogate becomes U+FFFD, and None or
    NaN becomes an empty text, which is ranked last. The library's own object is not changed.

    Args:
        id: the id, which decides between ties, as a string. None, NaN and blanks count as no id.
        text: the text of the document.
        title: the title, which is read before the text. Anything but a string counts as no title.
    """
    named = "" if is_missing(id) else cleaned(str(id)).strip()
    read: dict[str, Any] = {"id": named} if named else {}
    read["text"] = "" if is_missing(text) else cleaned(text) if isinstance(text, str) else text
    return {**read, "title": cleaned(title) if isinstance(title, str) else ""}


def is_missing(value: object) -> bool:
    """Whether a value stands for none: None, NaN, or pandas' NA and NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


class Made(Generic[T]):
    """Makes something of each value of a field once; an updated copy of a model, which has another value, shares it.

    Args:
        make: the function that makes it of a value.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._results: list[tuple[Any, T]] = []

    def of(self, value: Any) -> T:
        """What was made of this value."""
        for known, result in self._results:
            if known is value or known == value:
                return result
        result = self._make(value)
        self._results.append((value, result))
        return result


def as_searcher(searcher: Searcher | str | os.PathLike[str]) -> Searcher:
    """A searcher itself, or one over the index at this path.

    Raises:
        InputError: if it is neither.
    """
    if isinstance(searcher, str | os.PathLike):
        return Searcher(os.fspath(searcher))
    if not isinstance(searcher, Searcher):
        raise InputError(f"searcher must be a Searcher or the path of an index, not {quoted(searcher)}")
    return searcher


def keeping(
    reranker: str | os.PathLike[str] | Reranker, cache_mb: int, cache_folder: str | os.PathLike[str] | None
) -> Reranker:
    """A reranker itself, or the one of this name, which keeps what it reads of documents.

    Adapters of a process that ask for the same share one cache. A reranker that was loaded elsewhere stays as it is.

    Args:
        reranker: the name of a reranker, as `load_reranker` takes it, or a reranker.
        cache_mb: megabytes of memory; 0 for none.
        cache_folder: a folder that also keeps what was read; None for none.

    Raises:
        InputError: if it is neither, or the cache cannot be had.
    """
    loaded = as_reranker(reranker)
    if loaded is not reranker:
        folder = None if cache_folder is None else Path(cache_folder)
        loaded.keep_documents(shared_cache(CacheSettings(mb=cache_mb, folder=folder)))
    return loaded


def text_list(name: str, texts: Any) -> list[Any]:
    """The parts of a list of documents.

    Args:
        name: the name of the argument, for the message.
        texts: a list, or another iterable. Texts and mappings are refused: their parts would be taken for documents.

    Raises:
        InputError: if it is no such list.
    """
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise InputError(f"{name} must be a list of texts, not a single {type(texts).__name__}")
    return list(texts)


def drop_in(reranker: str | os.PathLike[str] | Reranker, cache_mb: int = 0, **options: Any) -> Reranker:
    """The reranker of a class that takes another library's arguments.

    Args:
        reranker: the name of a reranker, as `load_reranker` takes it, or a reranker.
        cache_mb: megabytes of memory; see `keeping`.
        options: options of `load_reranker`; None stands for one that is not given.

    Raises:
        InputError: if there is no such reranker, or options come with one that is loaded.
    """
    chosen = {name: value for name, value in options.items() if value is not None}
    if "dtype" in chosen:
        chosen["dtype"] = _DTYPES.get(named := str(chosen["dtype"]).removeprefix("torch."), named)
        if named == "auto":
            del chosen["dtype"]
    if isinstance(reranker, os.PathLike):
        reranker = os.fspath(reranker)
    if not isinstance(reranker, str):
        if chosen:
            raise InputError(f"{next(iter(chosen))} is set when a reranker is loaded; this one is loaded already")
        return as_reranker(reranker)
    if "revision" in chosen and RerankerName.parse(reranker).kind not in PREFIXES:
        raise InputError(f"revision is for models of the hub, hf:MODEL, not for {reranker!r}; leave it out")
    try:
        loaded = load_reranker(reranker, **chosen)
    except UnknownNameError as error:
        raise UnknownNameError(
            f"the model's name changes with the import: use one of Sightline's, such as 'minilm' or 'sightline-mini'. "
            f"{str(error)[0].upper()}{str(error)[1:]}"
        ) from error
    if cache_mb:
        loaded.keep_documents(shared_cache(CacheSettings(mb=cache_mb)))
    return loaded
