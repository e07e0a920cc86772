"""Token states on disk, memory-mapped: what the block reader saw in each passage, kept for next time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..models.encoder import Encoder
from ..models.loading import load_reader
from ..models.reader import BlockReader

if TYPE_CHECKING:
    from ..kernels import Keys

__all__ = ["decode", "dtype_of", "encode", "states_reader"]


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


def decode(rows: np.ndarray) -> Keys:
    """Rows of the file as attention keys, without a copy where the form allows it."""
    import torch

    from ..kernels import QuantizedKeys

    if rows.dtype == np.float16:
        return torch.from_numpy(rows)
    scales = np.ascontiguousarray(rows[:, -4:]).view(np.float32)[:, 0]
    return QuantizedKeys(torch.from_numpy(rows[:, :-4]), torch.from_numpy(scales))


def states_reader(encoder: Encoder) -> BlockReader:
    """The model whose token states are kept: the encoder itself where it can read tokens, else the default model."""
    return encoder if isinstance(encoder, BlockReader) else load_reader()
