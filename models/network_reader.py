"""What block readers over a torch network share: equal texts are read once, in batches, and queries are remembered."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from .batching import token_budget_batches, tokens_at_once
from .devices import Backend
from .reader import BlockReader, Tokens, TokenStates

if TYPE_CHECKING:
    import torch

__all__ = ["PROBE_TEXTS", "NetworkReader"]

# Of different lengths, the empty text among them: what a backend is checked on.
PROBE_TEXTS = ("", "Cats purr.", "How are the states of a network checked? By reading a few texts twice. " * 3)

_QUERIES_REMEMBERED = 1024


class NetworkReader(BlockReader):
    """A block reader over a torch network. You write `_tokenised` and `_forward`.

    It is also an `Encoder`, whose embeddings come from the same readings.

    Args:
        device: the device that the network is on.
    """

    device: torch.device
    backend: Backend = "torch"

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._queries: dict[str, TokenStates] = {}

    @abstractmethod
    def _tokenised(self, texts: Sequence[str], kind: Literal["query", "document"], behind: str) -> Tokens:
        """Token ids of texts as they are read."""

    @abstractmethod
    def _forward(
        self, tokens: Tokens, batch: Sequence[int], kind: Literal["query", "document"]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Read some texts.

        Args:
            tokens: what `_tokenised` returned.
            batch: places of B texts in it.
            kind: what the texts are.

        Returns:
            For each text the states of its tokens, float (n, dim) of unit length, ``tokens.counts`` of them; and the
            embeddings, float (B, dim).
        """

    def read(
        self,
        texts: Sequence[str],
        *,
        kind: Literal["query", "document"] = "document",
        states: bool = True,
        behind: str = "",
    ) -> TokenStates:
        """Read each text alone, in length-sorted batches under a token budget.

        Args:
            texts: N strings. An empty one has no token states, and the embedding of an empty text.
            kind: the kind of texts, queries or documents. Models that read both alike ignore it.
            states: whether to keep the token states (4 * dim bytes per token). If False, only the embeddings are
                computed.
            behind: a text that every text sees before itself, such as the query. Its own states are left out, and the
                room that it takes, up to a half, is lost to the texts. Only the embedded default can do this.

        Returns:
            `TokenStates` in input order. Up to rounding, a text's rows depend on nothing but the text.

        Raises:
            InputError: if you give ``behind``, and the model reads each text alone.
        """
        import torch

        from ..kernels.threads import idle_threads

        tokens = self._tokenised(texts, kind, behind)
        counts = tokens.counts
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        packed = np.empty((int(offsets[-1]), self.dim), dtype=np.float32) if states else None
        pooled = np.empty((len(counts), self.dim), dtype=np.float32)
        with torch.inference_mode():
            # Texts that differ but have the same tokens are read once, so that they get the same rows to the last bit.
            first: dict[tuple[int, ...], int] = {}
            source = [first.setdefault(tuple(ids), i) for i, ids in enumerate(tokens.ids)]
            distinct = np.array(list(first.values()), dtype=np.int64)
            sizes = [len(tokens.ids[i]) for i in distinct]
            for places in token_budget_batches(sizes, tokens_at_once(self.device)):
                with idle_threads():
                    batch = distinct[places].tolist()
                    rows, embeddings = self._forward(tokens, batch, kind)
                    pooled[batch] = embeddings.float().cpu().numpy()
                    if packed is not None:
                        for i, own in zip(batch, rows, strict=True):
                            packed[offsets[i] : offsets[i + 1]] = own.float().cpu().numpy()
        for i, origin in enumerate(source):
            if origin != i:
                pooled[i] = pooled[origin]
                if packed is not None:
                    packed[offsets[i] : offsets[i + 1]] = packed[offsets[origin] : offsets[origin + 1]]
        spans = np.array([span for text_spans in tokens.spans for span in text_spans], dtype=np.int32).reshape(-1, 2)
        return TokenStates(packed, offsets, spans, pooled, tokens.truncated)

    def read_queries(self, texts: Sequence[str]) -> list[TokenStates]:
        """Read queries, each as a list of one. Recent ones are remembered, for the bi-encoder and the block reader."""
        # Threads may replace or fill the memory meanwhile: look once, and answer from what was seen.
        remembered = self._queries
        known = {text: read for text in texts if (read := remembered.get(text)) is not None}
        new = list(dict.fromkeys(text for text in texts if text not in known))
        if new:
            read = self.read(new, kind="query")
            assert read.states is not None
            for i, text in enumerate(new):
                rows = slice(read.offsets[i], read.offsets[i + 1])
                text_row = slice(i, i + 1)
                offsets = read.offsets[i : i + 2] - read.offsets[i]
                known[text] = TokenStates(
                    read.states[rows], offsets, read.spans[rows], read.pooled[text_row], read.truncated[text_row]
                )
            if len(remembered) + len(new) > _QUERIES_REMEMBERED:
                remembered = self._queries = {}
            remembered.update((text, known[text]) for text in new[:_QUERIES_REMEMBERED])
        return [known[text] for text in texts]

    def forget_queries(self) -> None:
        """Forget the queries that `read_queries` remembers, so that a benchmark reads every query."""
        self._queries = {}

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Embed queries: float32 (N, dim)."""
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        return np.concatenate([read.pooled for read in self.read_queries(texts)])

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Embed documents: float32 (N, dim)."""
        return self.read(texts, states=False).pooled
