"""Token states on disk, memory-mapped: what the block reader saw in each passage, kept for next time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..models.encoder import Encoder
from ..models.loading import load_reader
from ..models.reader import BlockReader

if TYPE_CHECKING:
    from ..kernels import Keys

__all__ = ["SPANS", "decode", "decode_spans", "dtype_of", "encode", "encode_spans", "states_reader"]

SPANS = np.dtype((np.uint16, (2,)))  # of one token: the characters [start, end) of its text
_NO_SPANS = 65535


def dtype_of(kind: str, dim: int) -> np.dtype:
    """The dtype of one token's row.

    ``fp16`` is ``dim`` halves; ``int8`` is ``dim`` signed bytes and a float32 scale, symmetric per token.

    Raises:
        InputError: if ``kind`` is neither.
    """
    if kind == "fp16":
        return np.dtype((np.float16, (dim,)))
    if kind == "int8":
        return np.dtype((np.int8, (dim + 4,)))
    raise InputError(f"token states are kept as 'fp16' or 'int8', not {kind!r}")


def encode(states: np.ndarray, kind: str) -> np.ndarray:
    """Float32 states (T, dim) in the form they are kept: (T, dim) float16 or (T, dim + 4) int8."""
    if kind == "fp16":
        return states.astype(np.float16)
    scales = (np.maximum(np.abs(states).max(axis=1, initial=0), 1e-12) / 127).astype(np.float32)
    values = np.rint(states / scales[:, None]).astype(np.int8)
    return np.concatenate([values, scales[:, None].view(np.int8)], axis=1)


def decode(states: np.ndarray, ranges: Iterable[tuple[int, int]]) -> list[Keys]:
    """Ranges of the file's rows as attention keys, without a copy where the form allows it.

    Args:
        states: the rows of the whole file, in the form they are kept.
        ranges: ``[first, stop)`` of each passage.
    """
    import torch

    from ..kernels import QuantizedKeys

    rows = torch.from_numpy(np.asarray(states))
    if states.dtype == np.float16:
        return [rows[first:stop] for first, stop in ranges]
    values = rows[:, :-4]
    if rows.shape[1] % 4 == 0:  # then the scales lie where a float32 may
        scales = rows.view(torch.float32)[:, -1]
        return [QuantizedKeys(values[first:stop], scales[first:stop]) for first, stop in ranges]
    scales = rows[:, -4:]
    return [
        QuantizedKeys(
            values[first:stop],
            scales[first:stop].clone(memory_format=torch.contiguous_format).view(torch.float32)[:, 0],
        )
        for first, stop in ranges
    ]


def encode_spans(spans: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The characters that tokens cover, in the form they are kept: uint16 (T, 2).

    Args:
        spans: int (T, 2), see `sightline.models.reader.TokenStates`.
        offsets: int64 (N + 1,), where each text's tokens are. A text with a place beyond 65,534 keeps no spans.
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
    """The model whose token states are kept.

    Args:
        encoder: the encoder of the index.
        name: a name for `load_reader`; None for the encoder itself if it can read tokens, else the default model.
        revision: the revision of that reader, if it is known: an encoder of that revision is it, whatever its path.
    """
    if isinstance(encoder, BlockReader) and (
        name in (None, encoder.name) or (revision and encoder.revision == revision)
    ):
        return encoder
    return load_reader(name or "minilm")
