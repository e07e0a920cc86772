"""A drop-in for the ``Reranker`` of the `rerankers <https://github.com/AnswerDotAI/rerankers>`_ library.

Needs ``pip install 'sightline-search[rerankers]'``. Results are objects of that library, so that the code that
reads them need not change.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ..extras import importing

with importing("rerankers", extra="rerankers"):
    from rerankers import Document
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result

from ..errors import InputError
from ..rerank import base as rerank
from ..rerank.results import relevance_or_score
from ..wording import quoted
from .snippets import candidate, drop_in, is_missing, text_list

__all__ = ["Reranker"]

_Candidate: TypeAlias = str | Document | Mapping[str, Any] | tuple[Any, str] | None


class Reranker(BaseRanker):
    """Ranks like ``rerankers.Reranker(...)``; ``rank_async`` runs in a worker thread and leaves the event loop free.

    Two things change in your code: the import and the name of the model, which is one that `sightline.load_reranker`
    takes. ``Result.score`` has the relevance, from 0 to 1, or the score if the reranker has no relevance.

    Args:
        model_name: the name of a reranker, as `sightline.load_reranker` takes it, or a `sightline.Reranker`.
        lang: the language, by which the original chooses a default model. Only ``en`` is accepted here.
        model_type: has no effect, since the name says what kind of reranker it is.
        verbose: accepted for compatibility; it has no effect.
        dtype: the number format to compute in; see `sightline.load_reranker`.
        device: the torch device to compute on; see `sightline.load_reranker`.
        batch_size: has no effect on any score.
        min_score: the lowest relevance, from 0 to 1, of the documents to return, which may be none. Needs a reranker
            with a relevance, such as the default. The original has no such argument.
        cache_mb: megabytes of memory for what was read of documents, so that they are not read again; 0 for none. It
            applies to a reranker that is given by name, and all adapters of a process share it.
        options: other arguments of the original, which are refused by name unless they are None.

    Raises:
        InputError: if there is no such reranker, or an argument has no counterpart here.

    Example:
        >>> results = Reranker().rank("what sound do cats make", ["Dogs bark.", "Cats purr."], doc_ids=["d", "c"])
        >>> results.top_k(1)[0].doc_id, results[0].rank
        ('c', 1)
    """

    ranking_type = "listwise"

    def __init__(
        self,
        model_name: str | rerank.Reranker = "minilm",
        lang: str = "en",
        model_type: str | None = None,
        verbose: int = 1,
        *,
        dtype: Any = None,
        device: Any = None,
        batch_size: int | None = None,
        min_score: float | None = None,
        cache_mb: int = 256,
        **options: Any,
    ) -> None:
        model_name = options.pop("model_name_or_path", model_name)
        if lang != "en":
            raise InputError(f"lang={lang!r} chooses no model here; leave it out, and name a model that reads it")
        for name, value in options.items():
            if name in ("api_key", "api_provider", "url") and value is not None:
                raise InputError(
                    f"{name} has no meaning here: a rerank service is named in model_name, as remote:cohere/MODEL or "
                    "remote:URL/MODEL, and its key comes from the environment, such as COHERE_API_KEY"
                )
            if value is not None:
                raise InputError(f"{name} has no meaning for a reranker of Sightline; leave it out")
        self._reranker, self._min_score = drop_in(model_name, cache_mb, dtype=dtype, device=device), min_score
        self._reranker.check_min_score(min_score)

    def rank(
        self,
        query: str,
        docs: str | Document | Mapping[str, Any] | Sequence[_Candidate],
        doc_ids: Sequence[str] | Sequence[int] | None = None,
        metadata: Sequence[dict[str, Any] | None] | None = None,
        batch_size: int | None = None,
    ) -> RankedResults:
        """Rank one list.

        Args:
            query: the text of the query.
            docs: the documents: texts; documents of the rerankers library, which are copied; mappings with ``text`` and
                maybe ``doc_id`` (or ``id``) and ``metadata``; or pairs of id and text. An empty text, or None, is
                ranked last.
            doc_ids: an id for each document. If None, the documents keep their own. Documents without an id get their
                place in the list, or the next number that no other document has.
            metadata: a mapping or None for each document. If None, the documents keep their own.
            batch_size: has no effect on any score.

        Raises:
            InputError: if the query or a document cannot be used, or the lists differ in length.
        """
        documents = [docs] if isinstance(docs, str | Document | Mapping) else text_list("docs", docs)
        for name, values in (("doc_ids", doc_ids), ("metadata", metadata)):
            if values is not None and len(values) != len(documents):
                raise InputError(f"{len(documents)} docs came with {len(values)} {name}; give one for each")
        copies = [_copy(document, place) for place, document in enumerate(documents)]
        for place, copied in enumerate(copies):
            if doc_ids is not None:
                copied.doc_id = doc_ids[place]
            about: Any = copied.metadata if metadata is None else metadata[place]
            if not (is_missing(about) or isinstance(about, Mapping)):
                raise InputError(f"the metadata of document {place} must be a mapping, not {quoted(about)}")
            copied.metadata = {} if is_missing(about) else dict(about)
        taken = {str(copied.doc_id) for copied in copies if copied.doc_id is not None}
        free = (number for number in itertools.count(len(copies)) if str(number) not in taken)
        for place, copied in enumerate(copies):
            if copied.doc_id is None:
                copied.doc_id = next(free) if str(place) in taken else place
        candidates = [candidate(None, copied.text) for copied in copies]
        ranking = self._reranker.rank(query, candidates, min_score=self._min_score)
        results = [
            Result(copies[item.index], relevance_or_score(item), rank) for rank, item in enumerate(ranking, start=1)
        ]
        return RankedResults(results, query, has_scores=True)

    def score(self, query: str, doc: str) -> float:
        """Score one document, as `rank` does.

        Args:
            query: the text of the query.
            doc: the text of the document.

        Raises:
            InputError: if a text cannot be used, or the scores of the reranker are relative to their list.
        """
        raw = self._reranker.why_no_relevance() is not None
        return float(self._reranker.predict([(query, candidate(None, doc))], raw_scores=raw)[0])


def _copy(document: Any, place: int) -> Document:
    """A part of the list as a document of the rerankers library."""
    if isinstance(document, Document):
        if document.document_type != "text":
            raise InputError(f"document {place} is of type {document.document_type!r}; only text can be ranked")
        return copy.copy(document)
    if isinstance(document, Mapping):
        if "text" not in document:
            raise InputError(
                f"document {place} has no 'text'; there are: {', '.join(map(repr, document)) or 'no fields'}"
            )
        text, id = document["text"], document.get("doc_id", document.get("id"))
        return Document("" if text is None else text, id, document.get("metadata"))
    if isinstance(document, tuple):
        if len(document) != 2:
            raise InputError(f"document {place} is a tuple of {len(document)}; a pair of id and text can be ranked")
        id, text = document
        return Document("" if text is None else text, id)
    return Document("" if document is None else document)
