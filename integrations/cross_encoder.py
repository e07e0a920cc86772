"""A drop-in for sentence-transformers' ``CrossEncoder``."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..rerank.base import Reranker
from ..rerank.requests import Candidate
from ..rerank.results import relevance_or_score
from ..wording import quoted
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
    "keep_in_fp32_modules": (None,),
    "classifier_dropout": (None,),
}
_FORMER_NAMES = {"sentences": "inputs", "activation_fct": "activation_fn"}
_WITHOUT_EFFECT = ("num_workers", "apply_softmax", "convert_to_numpy", "convert_to_tensor")


def _as_before(method: Callable[..., Any]) -> Callable[..., Any]:
    """Take the arguments of earlier versions that the method of the original still takes, with the same effect."""
    parameters = inspect.signature(method).parameters

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **options: Any) -> Any:
        for name in _WITHOUT_EFFECT:
            if name not in parameters:
                options.pop(name, None)
        for former, name in _FORMER_NAMES.items():
            if former in options:
                options.setdefault(name, options.pop(former))
        return method(self, *args, **options)

    return wrapper


class CrossEncoder:
    """Scores and ranks like ``sentence_transformers.CrossEncoder``.

    Two things change in your code: the import and the name of the model, which is one that `sightline.load_reranker`
    takes.

    ``predict`` and ``rank`` give the same scores: by default, or with ``torch.nn.Sigmoid()`` as ``activation_fn``, the
    relevance, from 0 to 1; with ``torch.nn.Identity()``, the reranker's own score. A reranker without relevance gives
    its own score by default. A reranker whose scores are relative to their list, such as ``minilm-mass``, can ``rank``
    but not ``predict``.

    Args:
        model_name_or_path: the name of a reranker, as `sightline.load_reranker` takes it, or a `sightline.Reranker`.
        device: the torch device to compute on. If None, CUDA if there is one, else the CPU.
        max_length: the number of tokens that are read of each document. If None, what the layout says.
        revision: the branch, tag or commit of a model on the hub (``hf:``).
        model_kwargs: options for the model, of which only ``dtype`` (or ``torch_dtype``) is accepted.
        activation_fn: the activation that ``predict`` and ``rank`` use unless you give them another.
        cache_mb: megabytes of memory for what was read of documents, so that they are not read again; 0 for none. It
            applies to a reranker that is given by name, and all adapters of a process share it.
        options: the other arguments of the original, which are accepted with their default values only.

    Raises:
        InputError: if there is no such reranker, or an argument has no counterpart here.

    Example:
        >>> model = CrossEncoder()
        >>> model.rank("what sound do cats make", ["Dogs bark.", "Cats purr."], top_k=1)[0]["corpus_id"]
        1
        >>> model.predict([("who purrs", "Cats purr."), ("who purrs", "Dogs bark.")]).argmax()
        np.int64(0)
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | Reranker = "minilm",
        *,
        device: Any = None,
        max_length: int | None = None,
        revision: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        activation_fn: Any = None,
        cache_mb: int = 256,
        **options: Any,
    ) -> None:
        for old, new in _RENAMED.items():
            if old in options:
                value = options.pop(old)
                if new == "model_name_or_path":
                    model_name_or_path = value
                elif new == "model_kwargs":
                    model_kwargs = value
                elif new == "activation_fn":
                    activation_fn = value
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
            model_name_or_path, cache_mb, device=device, max_block_tokens=max_length, revision=revision, dtype=dtype
        )
        self._activation = activation_fn
        self._raw(None)  # what cannot be followed is refused at once

    @_as_before
    def predict(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Any = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
    ) -> Any:
        """Score pairs, each by itself. The parameters are those of ``CrossEncoder.predict``.

        Args:
            inputs: P pairs of a query and a text, or one pair. A text that is empty or None scores lowest.
            prompt_name: must be None, since there are no prompts.
            prompt: must be None, since there are no prompts.
            batch_size: the number of pairs that are scored together, at least 1. It limits memory and does not affect
                scores.
            show_progress_bar: whether to show a progress bar. None for no bar.
            activation_fn: the activation. ``torch.nn.Sigmoid()`` gives the relevance, from 0 to 1, and
                ``torch.nn.Identity()`` the reranker's own score. If None, that of the constructor; if that is None too,
                the relevance, or the score if the reranker has no relevance.
            apply_softmax: has no effect, since a pair has one score.
            convert_to_numpy: whether to return an array.
            convert_to_tensor: whether to return a tensor instead, on the CPU.
            device: must be None, since the model stays where it was loaded.
            pool: must be None, since there are no worker processes.
            chunk_size: has no effect, since there are no worker processes.

        Returns:
            float32 (P,): an array, a tensor, or, with neither, a list of tensors of one number. For one pair, one
            number: ``numpy.float32``, or a tensor.

        Raises:
            InputError: if a pair cannot be used, the reranker's scores are relative to their list, or an argument asks
                for something that this class does not do.
        """
        _refuse(prompt_name=prompt_name, prompt=prompt, device=device, pool=pool)
        raw = self._raw(activation_fn)
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {batch_size!r}")
        pairs, single = _pairs(inputs)
        scores = np.zeros(len(pairs), dtype=np.float32)
        with _progress(len(pairs), show_progress_bar) as tell:
            for start in range(0, len(pairs), batch_size):
                some = pairs[start : start + batch_size]
                scores[start : start + len(some)] = self._reranker.predict(some, raw_scores=raw)
                tell(len(some))
        if convert_to_tensor:
            tensor = torch.from_numpy(scores)
            return tensor[0] if single else tensor
        if convert_to_numpy:
            return scores[0] if single else scores
        tensors = list(torch.from_numpy(scores))
        return tensors[0] if single else tensors

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
        """Rank one list. The parameters are those of ``CrossEncoder.rank``.

        Args:
            query: the text of the query.
            documents: the texts to rank. One that is empty or None is ranked last.
            top_k: the number of documents to return, at least 1. If None, or more than there are, all of them.
            return_documents: whether to add each document as ``text``.
            prompt_name: must be None, since there are no prompts.
            prompt: must be None, since there are no prompts.
            batch_size: has no effect on any score.
            show_progress_bar: accepted for compatibility; it has no effect.
            activation_fn: the activation; see `predict`.
            device: must be None, since the model stays where it was loaded.
            pool: must be None, since there are no worker processes.
            chunk_size: has no effect, since there are no worker processes.

        Returns:
            Mappings with ``corpus_id`` (place in ``documents``), ``score`` and, if asked for, ``text``, best first.

        Raises:
            InputError: if the query or a document cannot be used, or an argument asks for something that this class
                does not do.
        """
        _refuse(prompt_name=prompt_name, prompt=prompt, device=device, pool=pool)
        raw = self._raw(activation_fn)
        documents = text_list("documents", documents)
        ranking = self._reranker.rank(query, [candidate(None, text) for text in documents], top_k)
        return [
            {"corpus_id": item.index, "score": item.score if raw else relevance_or_score(item)}
            | ({"text": documents[item.index]} if return_documents else {})
            for item in ranking
        ]

    def _raw(self, activation_fn: Any) -> bool:
        """Whether a call gives the reranker's own scores; False for the relevance.

        Raises:
            InputError: if there is no such activation, or no relevance.
        """
        chosen = self._activation if activation_fn is None else activation_fn
        reason = self._reranker.why_no_relevance()
        if chosen is None:
            return reason is not None
        if isinstance(chosen, torch.nn.Identity):
            return True
        if not isinstance(chosen, torch.nn.Sigmoid):
            raise InputError(
                f"activation_fn is torch.nn.Sigmoid() for the relevance or torch.nn.Identity() for the reranker's own "
                f"score, not {quoted(chosen)}"
            )
        if reason:
            raise InputError(
                f"{self._reranker.name} has no relevance, which torch.nn.Sigmoid() stands for: {reason}; use "
                "torch.nn.Identity()"
            )
        return False


def _refuse(**arguments: Any) -> None:
    """Refuse arguments that are given and cannot be followed."""
    for name, value in arguments.items():
        if value is not None:
            raise InputError(f"{name} has no meaning for a reranker of Sightline; leave it out")


def _pairs(inputs: Any) -> tuple[list[tuple[str, Candidate]], bool]:
    """The pairs of a call, and whether it was a single one: a pair's first part is a text, a list's a pair."""
    if isinstance(inputs, str | bytes | Mapping) or not isinstance(inputs, Iterable):
        raise InputError(f"inputs must be pairs of a query and a text, or one pair, not {quoted(inputs)}")
    parts = inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)
    single = bool(parts) and isinstance(parts[0], str)
    pairs = []
    for place, pair in enumerate([parts] if single else parts):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[0], str):
            raise InputError(f"input {place} must be a pair of a query and a text, not {quoted(pair)}")
        pairs.append((pair[0], candidate(None, pair[1])))
    return pairs, single


@contextlib.contextmanager
def _progress(total: int, show: bool | None) -> Iterator[Callable[[int], object]]:
    """A bar on stderr, if it is to be shown; call what it yields with the number of pairs done since."""
    if not show:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=total)
        yield lambda done: bar.advance(task, done)
