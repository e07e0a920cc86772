"""Find the attention heads that retrieve, on judged lists.

Three published criteria over the same reading of each list:

- ``qr``: the attention on the gold documents (QRHead, Zhang et al. 2025, section 3);
- ``ndcg``: nDCG@10 of the ranking by the head alone (QRHead's code for BEIR);
- ``core``: how far gold is ahead of the hard negatives, as a softmax (CoRe, 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import get_args

import numpy as np

from ..documents import Document
from ..errors import InputError
from .decoder.reranker import DecoderReranker
from .heads import Heads, Method

__all__ = ["core_score", "detect_heads", "ndcg_score", "qr_score"]


def qr_score(scores: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Sum the attention on the gold documents: float (H, N), bool (N,) to (H,)."""
    attention: np.ndarray = scores[:, gold].sum(axis=1)
    return attention


def ndcg_score(scores: np.ndarray, grades: np.ndarray, cutoff: int = 10) -> np.ndarray:
    """Compute nDCG of the ranking by each head: float (H, N), gains (N,) to (H,). Ties keep the order of the list."""
    discounts = 1 / np.log2(np.arange(2, min(cutoff, len(grades)) + 2))
    best = (np.sort(grades)[::-1][: len(discounts)] * discounts).sum()
    order = np.argsort(-scores, axis=1, kind="stable")[:, : len(discounts)]
    ndcg: np.ndarray = (grades[order] * discounts).sum(axis=1) / best
    return ndcg


def core_score(scores: np.ndarray, gold: np.ndarray, temperature: float) -> np.ndarray:
    """Compute how far gold is ahead of all negatives, as a softmax, averaged over gold: (H, N), bool (N,) to (H,)."""
    z = scores / temperature
    largest = z.max(axis=1, keepdims=True)
    powers = np.exp(z - largest)
    negatives = powers[:, ~gold].sum(axis=1, keepdims=True)
    positives = powers[:, gold]
    # Far behind the largest, both underflow; then nothing of the gold is ahead.
    ahead: np.ndarray = (positives / np.maximum(positives + negatives, np.finfo(float).tiny)).mean(axis=1)
    return ahead


def detect_heads(
    reranker: DecoderReranker,
    lists: Iterable[tuple[str, Sequence[Document], Sequence[int]]],
    method: Method = "qr",
    *,
    data: str,
    seed: int = 0,
    temperature: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Heads:
    """Score every head of a model on judged lists.

    Each list is shuffled, so that a head that follows the order of the candidates is not mistaken for one that
    retrieves.

    Args:
        reranker: a reranker with the layout that the heads are for, which reads all layers and heads.
        lists: a query, documents and their grades for each list. A list without both gold and negatives tells nothing
            and is skipped.
        method: the criterion: ``qr``, ``ndcg`` or ``core``.
        data: the name of the data that the lists come from, for the record.
        seed: the seed of the shuffles.
        temperature: the temperature of ``core``. If None, 0.001 for Mistral and Granite models and 0.1 for others, as
            published.
        progress: a function that is called with the number of lists read so far.

    Raises:
        InputError: if there is no such method, or no list has both gold and negatives.
    """
    if method not in get_args(Method):
        raise InputError(f"heads are found by 'qr', 'core' or 'ndcg', not {method!r}")
    if method == "core" and temperature is None:
        temperature = _published_temperature(reranker)
    shuffler = np.random.default_rng(seed)
    total, read, candidates = np.zeros(0), 0, 0
    for query, documents, grades in lists:
        gains = np.asarray(grades, dtype=np.float64).clip(0)
        gold = gains > 0
        if not gold.any() or gold.all():
            continue
        order = shuffler.permutation(len(documents))
        # CoRe detects on attention as it is; its own layout calibrates only when it ranks.
        by_head = reranker.head_scores(query, [documents[i] for i in order], calibrate=method != "core")
        value = _head_values(method, by_head, gains[order], temperature)
        total = value if not read else total + value
        read, candidates = read + 1, max(candidates, len(documents))
        if progress is not None:
            progress(read)
    if not read:
        raise InputError(f"none of the lists of {data} has both a relevant document and one that is not")
    decoder, layout = reranker.decoder, reranker.spec
    scores = (total / read).reshape(-1, decoder.heads)
    return Heads(
        model=decoder.name,
        revision=decoder.revision,
        layout=layout.name,
        fingerprint=layout.fingerprint,
        method=method,
        data=data,
        queries=read,
        candidates=candidates,
        seed=seed,
        temperature=temperature if method == "core" else None,
        scores=tuple(tuple(round(float(x), 8) for x in row) for row in scores),
    )


def _published_temperature(reranker: DecoderReranker) -> float:
    kind = str(getattr(reranker.decoder.config, "model_type", ""))
    return 0.001 if kind.startswith(("mistral", "granite")) else 0.1


def _head_values(method: Method, scores: np.ndarray, gains: np.ndarray, temperature: float | None) -> np.ndarray:
    """A list's value for every head: float (H, N), gains (N,) to (H,)."""
    gold = gains > 0
    if method == "core":
        assert temperature is not None
        return core_score(scores, gold, temperature)
    return qr_score(scores, gold) if method == "qr" else ndcg_score(scores, gains)
