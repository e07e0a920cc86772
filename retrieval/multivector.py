"""Multi-vector retrieval: the passages of the largest MaxSim, found by centroids of their kept token states.

MaxSim (Khattab and Zaharia, SIGIR 2020) takes, for each token of the query, the nearest token of a passage. Nobody can
look at all tokens for each query, so tokens are clustered, and a query looks up the passages that have a token near its
own, as in PLAID (Santhanam et al., CIKM 2022): the centroids nearest to its tokens propose passages, the scores of
centroids order them, a centroid that was not looked up counts as much as the best of those (as XTR imputes it; Lee et
al., NeurIPS 2023), and the best are scored exactly by the states that the index keeps.

`MultiVectorIndex` searches; `Centroids` are what it looks up, in one file that can be made again from the states.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from ..errors import InputError
from ..files import replace_file
from .faiss_index import import_faiss

if TYPE_CHECKING:
    from ..kernels import Keys

__all__ = ["MULTIVECTOR_FILE", "NPROBE", "Centroids", "MultiVectorIndex", "grown", "lag"]

logger = logging.getLogger(__name__)

MULTIVECTOR_FILE = "multivector.safetensors"
NPROBE = 32
"""Centroids that each token of a query looks up; chosen on the dev collections."""
_TAIL = 256  # so many passages are scored without centroids: those of a small index, or the latest of a large one
_CENTROIDS = 8  # times the square root of the number of tokens
_PROJECTED = 64  # dimensions in which tokens are clustered
_POINTS = 16  # tokens for each centroid, from which it is learnt
_ITERATIONS = 4
_SEED = 7
_ANEW = 4  # centroids serve so many times the tokens for which they were learnt
_EXACT = 500  # so many passages more than are asked for are scored exactly
_PASSAGES_AT_ONCE = 512

Read = Callable[[np.ndarray], "list[Keys]"]
"""Gives the token states of passages by their rows."""


@dataclass(frozen=True, eq=False)
class Centroids:
    """Centroids of token states, and which passages have a token near each.

    Args:
        projection: float32 (D, P), the principal directions of the states, in which they are clustered.
        centres: float32 (C, P), the cluster centres that k-means found there. A token belongs to the nearest one.
        centroids: float16 (C, D), the mean of the states that belong to each centre, in all dimensions, so that a token
            of the query loses nothing to the projection.
        offsets: int64 (C + 1,), the place where the passages of each centroid begin.
        passages: int32 (N,), the rows of these passages, ascending for each centroid.
        rows: the number of rows of the index that were looked at, from the first on, those of deleted passages
            included.
        tokens: the number of token states that the index had when the centroids were learned.
        source: the name of the states that were looked at; see `sightline.retrieval.open_files`.
    """

    projection: np.ndarray
    centres: np.ndarray
    centroids: np.ndarray
    offsets: np.ndarray
    passages: np.ndarray
    rows: int
    tokens: int
    source: str

    def propose(self, query: np.ndarray, nprobe: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find passages that have a token near one of the query's, with approximate scores.

        Args:
            query: float32 (S, D), the states of the query's tokens.
            nprobe: the number of centroids to look up for each token, from 1 to C.
            allowed: bool (rows,), which passages may be proposed. Rows beyond its end may not.

        Returns:
            (rows, scores): int64 ascending and float32, of one length.
        """
        scores = query @ self._means.T
        last = min(nprobe, scores.shape[1] - 1)
        order = np.argpartition(-scores, last, axis=1)
        near = np.unique(order[:, :nprobe])
        # What a token gets at most from a passage that none of its own centroids proposes.
        floor = np.take_along_axis(scores, order[:, last, None], axis=1)
        lists = [self.passages[self.offsets[i] : self.offsets[i + 1]] for i in near]
        rows = np.concatenate(lists).astype(np.int64)
        of = np.repeat(near, [len(one) for one in lists])
        kept = rows < len(allowed)
        kept[kept] = allowed[rows[kept]]
        rows, of = rows[kept], of[kept]
        if not len(rows):
            return rows, np.empty(0, dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        best = np.maximum.reduceat(scores[:, of[order]], starts, axis=1)
        return rows[starts], np.maximum(best, floor).mean(axis=0)

    @functools.cached_property
    def _means(self) -> np.ndarray:
        return self.centroids.astype(np.float32)

    def save(self, path: Path) -> None:
        """Write them, with a digest, beside the place and rename them into it, as the one writer of the file.

        Raises:
            OSError: if the disk refuses.
        """
        import torch
        from safetensors.torch import save

        facts = {"rows": self.rows, "tokens": self.tokens, "source": self.source}
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        # One entry, for safetensors gives several no order.
        replace_file(path, save(tensors, {"facts": json.dumps(facts | {"digest": _digest(facts, arrays)})}))

    @classmethod
    def load(cls, path: Path) -> Centroids | None:
        """What `save` wrote, memory-mapped; None, with a warning, if there is a file and it holds something else."""
        from safetensors import SafetensorError, safe_open

        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                arrays = {name: file.get_tensor(name).numpy() for name in _ARRAYS}
            if facts.pop("digest") != _digest(facts, arrays):
                raise ValueError("checksum mismatch")
            return cls(**arrays, **facts)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s is damaged (%s); it is made again from the token states", path, error)
            return None


_ARRAYS = ("projection", "centres", "centroids", "offsets", "passages")


def _digest(facts: Mapping[str, object], arrays: dict[str, np.ndarray]) -> str:
    hasher = xxhash.xxh3_128(json.dumps(facts).encode())
    for name in _ARRAYS:
        hasher.update(json.dumps([name, arrays[name].shape, str(arrays[name].dtype)]).encode())
        hasher.update(np.ascontiguousarray(arrays[name]).data)
    return hasher.hexdigest()


def lag(centroids: Centroids | None, live: np.ndarray) -> bool:
    """Tell whether an index has too many passages that its centroids do not cover.

    Args:
        centroids: the centroids; None if there are none.
        live: bool (rows,), which passages of the index are not deleted.
    """
    return int(np.count_nonzero(live[0 if centroids is None else centroids.rows :])) > _TAIL


def grown(old: Centroids | None, live: np.ndarray, tokens: int, source: str, read: Read) -> Centroids:
    """Make centroids over all passages: the old ones with the passages that came since, or new ones.

    Old ones serve until there are four times as many tokens as when they were learnt. New ones are learnt from a
    sample, which is always the same.

    Args:
        old: the centroids over the first rows; None if there are none.
        live: bool (rows,), which passages are not deleted; at least one.
        tokens: the number of token states of the index, those of deleted passages included; at least one.
        source: the name of the states; see `Centroids`.
        read: a function that returns the states of passages.

    Raises:
        MissingExtraError: if FAISS is not installed.
    """
    if old is not None and tokens > _ANEW * old.tokens:
        old = None
    rows = np.flatnonzero(live)
    new = rows if old is None else rows[rows >= old.rows]
    logger.info("clustering the token states of %d passages for multi-vector retrieval", len(new))
    if old is None:
        count = max(1, min(int(_CENTROIDS * tokens**0.5), tokens // 2))
        projection, centres = _learnt(rows, count, count * _POINTS * len(live) // tokens, read)
    else:
        projection, centres = old.projection, old.centres
    nearest = import_faiss().IndexFlatL2(centres.shape[1])
    nearest.add(centres)
    own: list[np.ndarray] = [np.empty(0, dtype=np.int32)]
    passages: list[np.ndarray] = [np.empty(0, dtype=np.int32)]
    if old is not None:
        kept = np.flatnonzero(live[old.passages])
        own.append(np.repeat(np.arange(len(centres), dtype=np.int32), np.diff(old.offsets))[kept])
        passages.append(old.passages[kept])
    sums, members = np.zeros((len(centres), len(projection))), np.zeros(len(centres), dtype=np.int64)
    for start in range(0, len(new), _PASSAGES_AT_ONCE):
        batch = new[start : start + _PASSAGES_AT_ONCE]
        parts = _floats(read(batch))
        states = np.concatenate(parts)
        found = nearest.search(states @ projection, 1)[1][:, 0]
        of = np.repeat(np.arange(len(batch)), [len(part) for part in parts])
        pairs = np.unique(found * len(batch) + of)  # a passage once, however many of its tokens are there
        own.append((pairs // len(batch)).astype(np.int32))
        passages.append(batch[pairs % len(batch)].astype(np.int32))
        if old is None and len(found):
            order = np.argsort(found, kind="stable")
            starts = np.flatnonzero(np.diff(found[order], prepend=-1))
            sums[found[order[starts]]] += np.add.reduceat(states[order], starts, axis=0)
            members += np.bincount(found, minlength=len(centres))
    means = (sums / members.clip(1)[:, None]).astype(np.float16) if old is None else old.centroids
    centroid, passage = np.concatenate(own), np.concatenate(passages)
    order = np.lexsort((passage, centroid))
    offsets = np.searchsorted(centroid[order], np.arange(len(centres) + 1))
    return Centroids(
        projection,
        centres,
        means,
        offsets.astype(np.int64),
        passage[order],
        len(live),
        tokens if old is None else old.tokens,
        source,
    )


def _learnt(rows: np.ndarray, count: int, passages: int, read: Read) -> tuple[np.ndarray, np.ndarray]:
    """The projection and at most ``count`` centres, from the states of about so many passages."""
    faiss = import_faiss()
    chosen = np.random.default_rng(_SEED).choice(rows, min(len(rows), passages + 1), replace=False)
    projection, sample = None, []
    for start in range(0, len(chosen), _PASSAGES_AT_ONCE):
        states = np.concatenate(_floats(read(np.sort(chosen[start : start + _PASSAGES_AT_ONCE]))))
        if projection is None:
            directions = np.linalg.eigh(states.T @ states)[1][:, ::-1]
            projection = np.ascontiguousarray(directions[:, :_PROJECTED], dtype=np.float32)
        sample.append(states @ projection)
    assert projection is not None
    points = np.concatenate(sample)
    if len(points) <= count:
        return projection, points if len(points) else np.zeros((1, projection.shape[1]), dtype=np.float32)
    kmeans = faiss.Kmeans(
        projection.shape[1],
        count,
        niter=_ITERATIONS,
        seed=_SEED,
        min_points_per_centroid=1,  # it would print a warning of its own
        max_points_per_centroid=len(points),
    )
    kmeans.train(np.ascontiguousarray(points))
    return projection, np.array(kmeans.centroids, dtype=np.float32)


def _floats(keys: Sequence[Keys]) -> list[np.ndarray]:
    from ..kernels.states.keys import to_float

    return [to_float(key).numpy() for key in keys]


class MultiVectorIndex:
    """Search by MaxSim over kept token states.

    Args:
        centroids: the centroids over the first passages. Passages after them are scored exactly for each query; if
            None, all passages are.
        read: a function that returns the token states of passages by their rows.

    Example:
        >>> import torch
        >>> passages = [torch.eye(3)[:2], torch.eye(3)[1:]]
        >>> index = MultiVectorIndex(None, lambda rows: [passages[row] for row in rows])
        >>> rows, scores = index.search(np.eye(3, dtype=np.float32)[2:], 2, np.array([True, True]))
        >>> rows.tolist(), scores.tolist()
        ([1, 0], [1.0, 0.0])
    """

    def __init__(self, centroids: Centroids | None, read: Read) -> None:
        self._centroids = centroids
        self._read = read

    def search(
        self, query: np.ndarray, k: int, allowed: np.ndarray, nprobe: int = NPROBE
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best passages for a query.

        Args:
            query: float32 (S, D), the states of the query's tokens.
            k: the largest number of passages to find, at least 1.
            allowed: bool (rows,), which passages may be returned.
            nprobe: the number of centroids that each token looks up, at least 1. With all of them, every passage is
                scored exactly.

        Returns:
            (rows, scores): int64 and float32 of one length <= k, best first, ties by row. Scores are exact: the mean
            over the query's tokens of the largest inner product. Passages without a token are left out.

        Raises:
            InputError: if ``k`` or ``nprobe`` is below 1, or the query has no token, or tokens of another length than
                the passages'.
        """
        if k < 1 or nprobe < 1:
            raise InputError(f"k and nprobe must be at least 1, not {k} and {nprobe}")
        if query.ndim != 2 or not len(query):
            raise InputError("the query has no token to search with; give a query with a word in it")
        rows = self._proposed(query, k, allowed, nprobe)
        scores = self._exact(query, rows)
        rows, scores = rows[np.isfinite(scores)], scores[np.isfinite(scores)]
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]

    def _proposed(self, query: np.ndarray, k: int, allowed: np.ndarray, nprobe: int) -> np.ndarray:
        """The passages to score exactly."""
        centroids, most = self._centroids, k + _EXACT
        count = 0 if centroids is None else len(centroids.centroids)
        if centroids is None or nprobe >= count or np.count_nonzero(allowed) <= max(most, _TAIL):
            return np.flatnonzero(allowed)
        covered = allowed[: centroids.rows]
        rows, scores = centroids.propose(query, nprobe, covered)
        while len(rows) < most and nprobe < count:  # few passages are allowed, or have a token near the query's
            nprobe *= 4
            rows, scores = centroids.propose(query, min(nprobe, count), covered)
        best = np.sort(rows[np.lexsort((rows, -scores))[:most]])
        return np.concatenate([best, len(covered) + np.flatnonzero(allowed[len(covered) :])])

    def _exact(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Their MaxSim: float32, -inf for a passage without tokens."""
        import torch

        from ..kernels import states_max

        scores = np.empty(len(rows), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(rows), _PASSAGES_AT_ONCE):
                batch = slice(start, start + _PASSAGES_AT_ONCE)
                largest = states_max(torch.from_numpy(query), self._read(rows[batch]))
                scores[batch] = largest.mean(dim=0).numpy()
        return scores
