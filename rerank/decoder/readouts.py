"""The seam for what is read of a decoder: which rows a pass reads, and how the scores of a list come out of them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch

from ...errors import ModelError, RankingError
from ...models.decoder import Decoder
from ..layout import Layout, load_layout
from ..readout import Reading, document_scores, head_scores, row_shares
from .forward import Wanted, read
from .graphs import Graphs
from .kept import KeptBlock
from .prompt import Block, Prompt, Template

__all__ = ["AttentionReadout", "DecoderReadout", "ListScores", "equal_for_equals"]

Part = TypeVar("Part")


@dataclass(slots=True)
class ListScores:
    """One list, scored; by place in the list as it was given to be scored.

    Args:
        scores: float64 (N,), the score of each document.
        shares: float64 (S, N), each signal token's attention on each document; None if scores are not attention.
        tokens: for each document float (T,), the attention on its tokens; None unless it was asked for.
        blocks: documents as read; None for those that an earlier round left behind.
        signal: texts of the signal tokens.
        notes: what you should know before you rely on the ranking.
    """

    scores: np.ndarray
    shares: np.ndarray | None
    tokens: list[np.ndarray] | None
    blocks: list[Block | None]
    signal: tuple[str, ...] = ()
    notes: list[str] = dataclasses.field(default_factory=list)


class DecoderReadout(ABC, Generic[Part]):
    """What a layout reads of a decoder: derive from it, write `read` and `scores`.

    Args:
        decoder: the model, loaded with what `needs` says.
        template: fills the layout's prompts; it has the layout, too.
        layer_count: layers of the model, those that were not loaded included.

    Attributes:
        joins: whether a list may be read in several passes and scored from what was read in all of them, as if it had
            been read in one. If False, groups are ranked apart and the best of each meet again.

    Raises:
        ModelError: if the model lacks what is read.
    """

    joins: ClassVar[bool] = False

    def __init__(self, decoder: Decoder, template: Template, layer_count: int) -> None:
        self.decoder, self.template, self.layout = decoder, template, template.layout

    @staticmethod
    @abstractmethod
    def needs(layout: Layout, layer_count: int) -> dict[str, Any]:
        """What `load_decoder` has to load of a model with so many layers, as its options."""

    @abstractmethod
    def read(
        self, prompts: Sequence[Prompt], *, tokens: bool = False, kept: Sequence[KeptBlock] | None = None
    ) -> list[Part]:
        """Read prompts in one forward pass, in which none sees another.

        Args:
            prompts: the prompts of the lists.
            tokens: whether the attention on each token is wanted, too.
            kept: for a single prompt, its instruction and its documents, in order, as they were read before.

        Returns:
            What was read of each.
        """

    @abstractmethod
    def scores(self, prompts: Sequence[Prompt], parts: Sequence[Part]) -> ListScores:
        """Score a list.

        Args:
            prompts: the prompts in which it was read; one, unless the readout ``joins``.
            parts: what was read of each part of the list.
        """


class AttentionReadout(DecoderReadout[Reading]):
    """The attention of the query block's signal tokens; see `sightline.rerank.readout`."""

    def __init__(self, decoder: Decoder, template: Template, layer_count: int) -> None:
        super().__init__(decoder, template, layer_count)
        spec = self.layout.readout
        if wrong := [pair for pair in spec.selected_heads if pair[1] >= decoder.heads]:
            raise ModelError(f"{decoder.name!r} has heads 0 to {decoder.heads - 1} in a layer, not {wrong[0][1]}")
        layers = spec.signal_layers(layer_count)
        heads: Mapping[int, tuple[int, ...] | None] = {
            layer: tuple(head for at, head in spec.selected_heads if at == layer) or None for layer in layers
        }
        stop = layers[-1] if layers[-1] < decoder.signal_layer else None
        self.wanted = Wanted(self.layout, heads, tokens=spec.calibration != "none", stop=stop)
        self.graphs: Graphs | None = None

    @staticmethod
    def needs(layout: Layout, layer_count: int) -> dict[str, Any]:
        """See `DecoderReadout.needs`: layers up to the highest that is read."""
        return {"signal_layer": layout.readout.signal_layers(layer_count)[-1]}

    def read(
        self, prompts: Sequence[Prompt], *, tokens: bool = False, kept: Sequence[KeptBlock] | None = None
    ) -> list[Reading]:
        """See `DecoderReadout.read`."""
        return self._read(prompts, dataclasses.replace(self.wanted, tokens=tokens or self.wanted.tokens), kept)

    def _read(self, prompts: Sequence[Prompt], wanted: Wanted, kept: Sequence[KeptBlock] | None) -> list[Reading]:
        if self.graphs is not None and kept is not None and (one := self.graphs.read(prompts[0], wanted, kept)):
            return [one]
        return read(self.decoder, prompts, wanted, kept)

    def scores(self, prompts: Sequence[Prompt], parts: Sequence[Reading]) -> ListScores:
        """See `DecoderReadout.scores`."""
        [prompt], [reading] = prompts, parts
        if bool((reading.lse == -torch.inf).all()):
            raise RankingError(f"none of the {len(prompt.documents)} documents has a token to attend to")
        scores, shares = document_scores(reading, self.layout.readout), row_shares(reading, self.layout.readout)
        if self.layout.order_free:  # then equal documents differ by rounding only, which is no reason to rank them
            scores, shares = (equal_for_equals(prompt.documents, x) for x in (scores, shares))
        tokens = None
        if reading.tokens is not None and reading.tokens.ndim == 1:
            tokens = [part.numpy() for part in reading.tokens.split(reading.lengths)]
        return ListScores(scores.numpy(), shares.numpy(), tokens, list(prompt.documents), prompt.signal_tokens)

    def by_head(self, prompt: Prompt, *, calibrate: bool = True, kept: Sequence[KeptBlock] | None = None) -> np.ndarray:
        """Scores by each head that is read, float64 (H, N).

        Args:
            prompt: the prompt of the list.
            calibrate: calibrate as the layout says; False reads the attention as it is.
            kept: the instruction and documents that were read before; see `DecoderReadout.read`.
        """
        layout = self.layout if calibrate else load_layout(self.layout, calibration="none", outliers=None)
        tokens = layout.readout.calibration != "none"
        wanted = dataclasses.replace(self.wanted, layout=layout, by_head=True, tokens=tokens)
        [reading] = self._read([prompt], wanted, kept)
        return head_scores(reading, layout.readout).numpy()

    def largest_logits(self, prompt: Prompt, layer: int, kept: Sequence[KeptBlock] | None = None) -> np.ndarray:
        """The mean over signal tokens and heads of the largest logit in each document at one layer, float64 (N,).

        Args:
            prompt: the prompt of the list.
            layer: a layer up to the signal layer; the pass ends there.
            kept: the instruction and documents that were read before; see `DecoderReadout.read`.
        """
        changes: dict[str, Any] = {"readout": "maxsim", "calibration": "none", "outliers": None, "length": "sum"}
        layout = load_layout(self.layout, **changes)
        wanted = Wanted(layout, {layer: None}, stop=layer if layer < self.decoder.signal_layer else None)
        [reading] = self._read([dataclasses.replace(prompt, queries=prompt.queries[:1])], wanted, kept)
        return document_scores(reading, layout.readout).numpy()


def equal_for_equals(blocks: Sequence[Block], values: torch.Tensor) -> torch.Tensor:
    """Values (..., N), each the mean over the documents that have the same tokens."""
    first: dict[tuple[int, ...], int] = {}
    group = torch.tensor([first.setdefault(block.ids, len(first)) for block in blocks])
    if len(first) == len(blocks):
        return values
    sums = values.new_zeros(*values.shape[:-1], len(first)).index_add_(-1, group, values)
    return (sums / group.bincount(minlength=len(first)))[..., group]
