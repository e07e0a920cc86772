"""A drop-in for the ranking of sentence-transformers' ``CrossEncoder``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from ..rerank.reranker import Reranker, load_reranker

__all__ = ["CrossEncoder"]


class CrossEncoder:
    """Ranks like ``sentence_transformers.CrossEncoder``.

    There is no ``predict``: a score is relative to its list, so a pair alone has none.

    Args:
        reranker: a name for `sightline.load_reranker`, or a `sightline.Reranker`.

    Example:
        >>> CrossEncoder().rank("what sound do cats make", ["Dogs bark.", "Cats purr."], top_k=1)[0]["corpus_id"]
        1
    """

    def __init__(self, reranker: str | Reranker = "minilm") -> None:
        self._reranker = load_reranker(reranker) if isinstance(reranker, str) else reranker

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Any = None,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rank one list; the parameters are those of ``CrossEncoder.rank``.

        Args:
            query: a text.
            documents: texts.
            top_k: how many to return; None for all.
            return_documents: add each document as ``text``.
            prompt_name: there are no prompts: must be None.
            prompt: there are no prompts: must be None.
            batch_size: without effect, here as there, on any score; not used.
            show_progress_bar: not used.
            activation_fn: scores are no logits: must be None.
            device: the model stays where it is: must be None.
            pool: there are no worker processes: must be None.
            chunk_size: of a pool's work; not used.

        Returns:
            mappings with ``corpus_id`` (place in ``documents``), ``score`` and, if asked for, ``text``; best first.

        Raises:
            InputError: if the query or a document cannot be used, or an argument would have to do what is not done.
        """
        asked = {"prompt_name": prompt_name, "prompt": prompt, "activation_fn": activation_fn}
        for name, value in {**asked, "device": device, "pool": pool}.items():
            if value is not None:
                raise InputError(f"{name} has no meaning for a reranker of Sightline; leave it out")
        ranking = self._reranker.rank(query, documents, top_k)
        return [
            {"corpus_id": item.index, "score": item.score}
            | ({"text": documents[item.index]} if return_documents else {})
            for item in ranking
        ]
