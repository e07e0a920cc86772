"""The seam for readers of blocks: text in, token states out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["BlockReader", "TokenStates"]


@dataclass(frozen=True, slots=True)
class TokenStates:
    """What the block reader saw in a list of N texts, packed: text n owns rows ``offsets[n]:offsets[n + 1]``.

    Args:
        states: float32 (T, dim), L2-normalised last hidden states, special tokens left out; None if not asked for.
        offsets: int64 (N + 1,).
        spans: int32 (T, 2), the characters ``[start, end)`` of its text that each token covers.
        pooled: float32 (N, dim), L2-normalised mean over all tokens, special ones included: the bi-encoder's embedding.
        truncated: int64 (N,), how many tokens at the end of each text were not read.
    """

    states: np.ndarray | None
    offsets: np.ndarray
    spans: np.ndarray
    pooled: np.ndarray
    truncated: np.ndarray


class BlockReader(Protocol):
    """A model whose token states an index can keep beside the embeddings."""

    name: str
    revision: str
    dim: int
    max_length: int

    def read(self, texts: Sequence[str], *, states: bool = True) -> TokenStates:
        """Read each text alone; see `sightline.models.minilm.MiniLM.read`."""
        ...
