"""Token states on disk, memory-mapped: what the block reader saw in each passage, kept for next time."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..models.encoder import Encoder
from ..models.loading import load_reader
from ..models.reader import BlockReader
from .faiss_index import import_faiss

if TYPE_CHECKING:
    import torch

    from ..kernels import Keys

__all__ = ["SPANS", "StatesForm", "decode_spans", "encode_spans", "states_form", "states_reader"]

logger = logging.getLogger(__name__)

SPANS = np.dtype((np.uint16, (2,)))  # of one token: the characters [start, end) of its text
_NO_SPANS = 65535
_CENTROIDS = 256
_ENOUGH = 39 * _CENTROIDS  # FAISS asks for so many points


class StatesForm(ABC):
    """A form in which token states are kept: what a token's row is, and how states become rows and rows become keys.

    Attributes:
        kind: the name of the form.
        dim: D, the length of a state.
        dtype: the dtype of a token's row.
        codes: the shape (C, W) of the table that is learned from the first states, float32; None if there is none.
    """

    kind: str
    dim: int
    dtype: np.dtype
    codes: tuple[int, int] | None = None

    def learn(self, states: np.ndarray) -> np.ndarray:
        """The table that the form needs, learnt from some states: float32 of the shape ``codes``.

        Args:
            states: float32 (T, D), some states, at least one.
        """
        raise NotImplementedError(f"{self.kind} has no table")

    @abstractmethod
    def encode(self, states: np.ndarray, table: np.ndarray | None = None) -> np.ndarray:
        """Rows of float32 states (T, D).

        Args:
            states: float32 (T, D), the states that a reader gave.
            table: the table that `learn` gave, if there is one.
        """

    @abstractmethod
    def decode(
        self, rows: np.ndarray, ranges: Iterable[tuple[int, int]], table: np.ndarray | None = None
    ) -> list[Keys]:
        """Ranges of a file's rows as attention keys, without a copy where the form allows it.

        Args:
            rows: the rows of the whole file.
            ranges: the rows ``[first, stop)`` of each passage.
            table: the table that `learn` gave, if there is one.
        """


class _Halves(StatesForm):
    """``fp16``: 2 D bytes."""

    def __init__(self, kind: str, dim: int) -> None:
        self.kind, self.dim, self.dtype = kind, dim, np.dtype((np.float16, (dim,)))

    def encode(self, states: np.ndarray, table: np.ndarray | None = None) -> np.ndarray:
        return states.astype(np.float16)

    def decode(
        self, rows: np.ndarray, ranges: Iterable[tuple[int, int]], table: np.ndarray | None = None
    ) -> list[Keys]:
        import torch

        whole = torch.from_numpy(np.asarray(rows))
        return [whole[first:stop] for first, stop in ranges]


class _Bytes(StatesForm):
    """``int8``: D signed bytes and a float32 scale, symmetric per token."""

    def __init__(self, kind: str, dim: int) -> None:
        self.kind, self.dim, self.dtype = kind, dim, np.dtype((np.int8, (dim + 4,)))

    def encode(self, states: np.ndarray, table: np.ndarray | None = None) -> np.ndarray:
        values, scales = _symmetric(states, 127)
        return np.concatenate([values, scales[:, None].view(np.int8)], axis=1)

    def decode(
        self, rows: np.ndarray, ranges: Iterable[tuple[int, int]], table: np.ndarray | None = None
    ) -> list[Keys]:
        import torch

        from ..kernels import QuantizedKeys

        whole = torch.from_numpy(np.asarray(rows))
        values = whole[:, :-4]
        if whole.shape[1] % 4 == 0:  # then the scales lie where a float32 may
            scales = torch.from_numpy(np.asarray(rows).view(np.float32)[:, -1])  # torch's own view takes no empty array
            return [QuantizedKeys(values[first:stop], scales[first:stop]) for first, stop in ranges]
        return [QuantizedKeys(values[first:stop], _floats(whole[first:stop, -4:])) for first, stop in ranges]


class _HalfBytes(StatesForm):
    """``int4``: D numbers of -7 to 7, two in a byte, the first in the low half, and a float32 scale."""

    def __init__(self, kind: str, dim: int) -> None:
        if dim % 2:
            raise InputError(f"token states of {dim} dimensions cannot be kept as 'int4', which needs an even number")
        self.kind, self.dim, self.dtype = kind, dim, np.dtype((np.uint8, (dim // 2 + 4,)))

    def encode(self, states: np.ndarray, table: np.ndarray | None = None) -> np.ndarray:
        values, scales = _symmetric(states, 7)
        halves = (values + 8).astype(np.uint8)
        return np.concatenate([halves[:, ::2] | halves[:, 1::2] << 4, scales[:, None].view(np.uint8)], axis=1)

    def decode(
        self, rows: np.ndarray, ranges: Iterable[tuple[int, int]], table: np.ndarray | None = None
    ) -> list[Keys]:
        import torch

        from ..kernels import QuantizedKeys

        every = np.arange(256)
        pairs = np.stack([(every & 15) - 8, (every >> 4) - 8], axis=1).astype(np.int8).view(np.int16)[:, 0]
        return [
            QuantizedKeys(
                torch.from_numpy(pairs.take(rows[first:stop, :-4]).view(np.int8)),
                _floats(torch.from_numpy(np.asarray(rows[first:stop, -4:]))),
            )
            for first, stop in ranges
        ]


class _Products(StatesForm):
    """``pqM``: product quantisation (Jégou et al., 2011) in M bytes.

    A state is cut into M parts, and of each the nearest of 256 centroids is kept, which are learnt from the first batch
    of passages. Centroids are rounded to 8 bits by one scale, so that decoded states are read as ``int8`` ones are.
    """

    def __init__(self, kind: str, dim: int) -> None:
        self.parts = int(kind[2:])
        if not self.parts or dim % self.parts:
            raise InputError(f"{kind!r} cuts a token state into {self.parts} parts, which {dim} dimensions do not make")
        self.kind, self.dim, self.dtype = kind, dim, np.dtype((np.uint8, (self.parts,)))
        self.codes = (self.parts * _CENTROIDS, dim // self.parts)

    def learn(self, states: np.ndarray) -> np.ndarray:
        faiss = import_faiss()
        if len(states) < _ENOUGH:
            logger.warning(
                "%s is learnt from %d token states, of the first passages; with fewer than %d, passages that are added "
                "later may be kept less exactly",
                self.kind,
                len(states),
                _ENOUGH,
            )
        quantizer = faiss.ProductQuantizer(self.dim, self.parts, 8)
        quantizer.cp.min_points_per_centroid = 1  # it would print a warning of its own
        sample = np.resize(states, (max(len(states), _CENTROIDS), self.dim))
        quantizer.train(np.ascontiguousarray(sample, dtype=np.float32))
        table: np.ndarray = faiss.vector_to_array(quantizer.centroids).reshape(self.codes)
        values, scale = _by_one_scale(table)
        rounded: np.ndarray = (values * scale).astype(np.float32)
        return rounded

    def _or_none_learnt(self, table: np.ndarray | None) -> np.ndarray:
        """The table; of an index without a token, from which nothing was learnt, one of zeros."""
        assert self.codes is not None
        return np.zeros(self.codes, dtype=np.float32) if table is None else table

    def encode(self, states: np.ndarray, table: np.ndarray | None = None) -> np.ndarray:
        table = self._or_none_learnt(table)
        rows = np.empty((len(states), self.parts), dtype=np.uint8)
        width = self.codes[1] if self.codes else 0
        for part in range(self.parts):
            centroids = table[part * _CENTROIDS : (part + 1) * _CENTROIDS]
            near = states[:, part * width : (part + 1) * width] @ centroids.T - (centroids**2).sum(axis=1) / 2
            rows[:, part] = near.argmax(axis=1)
        return rows

    def decode(
        self, rows: np.ndarray, ranges: Iterable[tuple[int, int]], table: np.ndarray | None = None
    ) -> list[Keys]:
        import torch

        from ..kernels import QuantizedKeys

        table = self._or_none_learnt(table)
        values, scale = _by_one_scale(table)
        whole = values.view(np.dtype((np.void, table.shape[1])))[:, 0]
        base = np.arange(self.parts) * _CENTROIDS
        return [
            QuantizedKeys(
                torch.from_numpy(whole.take(rows[first:stop] + base).view(np.int8)),
                torch.full((stop - first,), scale),
            )
            for first, stop in ranges
        ]


def states_form(kind: str, dim: int) -> StatesForm:
    """Return a form by its name.

    Args:
        kind: ``fp16``; ``int8``, D bytes and 4; ``int4``, D / 2 bytes and 4; or ``pqM``, M bytes.
        dim: D, the length of a state.

    Raises:
        InputError: if there is no such form, or it cannot hold states of this length.

    Example:
        >>> [states_form(kind, 384).dtype.itemsize for kind in ("fp16", "int8", "int4", "pq48")]
        [768, 388, 196, 48]
    """
    form = _FORMS.get(re.sub(r"^pq[0-9]{1,5}$", "pqM", kind))
    if form is None:
        raise InputError(f"token states are kept as 'fp16', 'int8', 'int4' or 'pqM' such as 'pq48', not {kind!r}")
    return form(kind, dim)


_FORMS: dict[str, Callable[[str, int], StatesForm]] = {
    "fp16": _Halves,
    "int8": _Bytes,
    "int4": _HalfBytes,
    "pqM": _Products,
}


def _symmetric(states: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers of -largest to largest, int8 (T, D), and the float32 scale of each token."""
    scales = (np.maximum(np.abs(states).max(axis=1, initial=0), 1e-12) / largest).astype(np.float32)
    return np.rint(states / scales[:, None]).astype(np.int8), scales


def _by_one_scale(table: np.ndarray) -> tuple[np.ndarray, float]:
    """Integers of -127 to 127, int8 of the table's shape, and what they are multiples of."""
    scale = max(float(np.abs(table).max()), 1e-12) / 127
    return np.rint(table / scale).astype(np.int8), scale


def _floats(data: torch.Tensor) -> torch.Tensor:
    """Float32 numbers out of rows of four bytes, wherever they lie."""
    import torch

    return data.clone(memory_format=torch.contiguous_format).view(torch.float32)[:, 0]


def encode_spans(spans: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Encode the characters that tokens cover in the form in which they are kept: uint16 (T, 2).

    Args:
        spans: int (T, 2), the characters that each token covers; see `sightline.models.reader.TokenStates`.
        offsets: int64 (N + 1,), the place where each text's tokens begin. A text with a place beyond 65,534 keeps no
            spans.
    """
    kept = spans.astype(np.uint16)
    for text in np.unique(np.searchsorted(offsets, np.flatnonzero(spans[:, 1] >= _NO_SPANS), side="right") - 1):
        kept[offsets[text] : offsets[text + 1]] = _NO_SPANS
    return kept


def decode_spans(spans: np.ndarray, ranges: Iterable[tuple[int, int]]) -> list[np.ndarray | None]:
    """Ranges of the kept spans, each uint16 (T, 2); None for a text that keeps none."""
    rows = np.asarray(spans)
    return [None if first < stop and rows[first, 1] == _NO_SPANS else rows[first:stop] for first, stop in ranges]


def states_reader(encoder: Encoder, name: str | None = None, revision: str | None = None) -> BlockReader:
    """Return the model whose token states are kept.

    Args:
        encoder: the encoder of the index.
        name: the name of a reader for `load_reader`. If None, the encoder itself if it can read tokens, else the
            default model.
        revision: the revision of that reader, if it is known. An encoder of that revision is the reader, whatever its
            path.

    Returns:
        The encoder, or a reader that computes with the encoder's backend.
    """
    if isinstance(encoder, BlockReader) and (
        name in (None, encoder.name) or (revision and encoder.revision == revision)
    ):
        return encoder
    return load_reader(name or "minilm", backend=getattr(encoder, "backend", None))
