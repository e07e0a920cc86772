"""A drop-in for the ranking of sentence-transformers' ``CrossEncoder``."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import InputError
from ..rerank.base import Reranker
from .snippets import candidate, drop_in, text_list

__all__ = ["CrossEncoder"]

# Old names that sentence-transformers still takes, with those that have replaced them.
_RENAMED = {
    "model_name": "model_name_or_path",
    "automodel_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "tokenizer_kwargs": "processor_kwargs",
    "config_args": "config_kwargs",
    "cache_dir": "cache_folder",
    "default_activation_function": "activation_fn",
}
# Constructor arguments, and the values at which they need nothing done.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "modules": (None,),
    "prompts": (None,),
    "default_prompt_name": (None,),
    "cache_folder": (None,),
    "trust_remote_code": (None, False),
    "local_files_only": (None, False),
    "token": (None, False),
    "processor_kwargs": (None, {}),
    "config_kwargs": (None, {}),
    "model_card_data": (None,),
    "backend": (None, "torch"),
    "num_labels": (None, 1),
    "activation_fn": (None,),
    "keep_in_fp32_modules": (None,),
    "classifier_dropout": (None,),
}
_NO_PREDICT = (
    "CrossEncoder.predict cannot exist here: a score is relative to the list that it was computed in, so a pair alone "
    "has none; use rank(query, documents)"
)


def _as_before(rank: Callable[..., Any]) -> Callable[..., Any]:
    """Take the arguments of earlier versions that ``CrossEncoder.rank`` still takes, with the same effect."""

    @functools.wraps(rank)
    def wrapper(self: Any, *args: Any, **options: Any) -> Any:
        for name in ("apply_softmax", "convert_to_numpy", "convert_to_tensor", "num_workers"):
            options.pop(name, None)
        if "activation_fct" in options:
            options.setdefault("activation_fn", options.pop("activation_fct"))
        return rank(self, *args, **options)

    return wrapper


class CrossEncoder:
    """Ranks like ``sentence_transformers.CrossEncoder``.

    Two things change in your code: the import and the model's name, which is one of `sightline.load_reranker`. There is
    no ``predict``: a score is relative to its list, so a pair alone has none.

    Args:
        model_name_or_path: a name for `sightline.load_reranker`, or a `sightline.Reranker`.
        device: a torch device; None for CUDA where there is one, else CPU.
        max_length: tokens read of each document; None for what the layout says.
        revision: the branch, tag or commit of a model on the hub (``hf:``).
        model_kwargs: only ``dtype`` (or ``torch_dtype``).
        options: the other arguments of the original are accepted at their defaults, and refused by name otherwise.

    Raises:
        InputError: if there is no such reranker, or an argument cannot be followed.

    Example:
        >>> CrossEncoder().rank("what sound do cats make", ["Dogs bark.", "Cats purr."], top_k=1)[0]["corpus_id"]
        1
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | Reranker = "minilm",
        *,
        device: Any = None,
        max_length: int | None = None,
        revision: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        for old, new in _RENAMED.items():
            if old in options:
                value = options.pop(old)
                if new == "model_name_or_path":
                    model_name_or_path = value
                elif new == "model_kwargs":
                    model_kwargs = value
                else:
                    options[new] = value
        for name, value in options.items():
            if name not in _NEUTRAL:
                raise InputError(f"CrossEncoder has no argument {name!r}")
            if not any(value is neutral or value == neutral for neutral in _NEUTRAL[name]):
                raise InputError(f"{name} has no meaning for a reranker of Sightline; leave it out")
        loading = dict(model_kwargs or {})
        dtype = loading.pop("dtype", loading.pop("torch_dtype", None))
        if loading:
            raise InputError(f"model_kwargs may have 'dtype' and nothing else, not {next(iter(loading))!r}")
        self._reranker = drop_in(
            model_name_or_path, device=device, max_block_tokens=max_length, revision=revision, dtype=dtype
        )

    def predict(self, *args: Any, **options: Any) -> Any:
        """Not available.

        Raises:
            InputError: always; the message says why.
        """
        raise InputError(_NO_PREDICT)

    @_as_before
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
            documents: texts. An empty one, or None, is ranked last.
            top_k: how many to return, at least 1; None, or more than there are, for all.
            return_documents: add each document as ``text``.
            prompt_name: must be None, since there are no prompts.
            prompt: must be None, since there are no prompts.
            batch_size: not used: it has no effect on any score.
            show_progress_bar: not used.
            activation_fn: must be None, since scores are no logits.
            device: must be None, since the model stays where it was loaded.
            pool: must be None, since there are no worker processes.
            chunk_size: without effect, since there are no worker processes.

        Returns:
            mappings with ``corpus_id`` (place in ``documents``), ``score`` and, if asked for, ``text``; best first.

        Raises:
            InputError: if the query or a document cannot be used, or an argument asks for something that is not done.
        """
        unusable = {"prompt_name": prompt_name, "prompt": prompt, "activation_fn": activation_fn}
        for name, value in {**unusable, "device": device, "pool": pool}.items():
            if value is not None:
                raise InputError(f"{name} has no meaning for a reranker of Sightline; leave it out")
        documents = text_list("documents", documents)
        ranking = self._reranker.rank(query, [candidate(None, text) for text in documents], top_k)
        return [
            {"corpus_id": item.index, "score": item.score}
            | ({"text": documents[item.index]} if return_documents else {})
            for item in ranking
        ]
