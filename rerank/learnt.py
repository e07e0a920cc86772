"""What the default model's query block may learn to ask, and how to read the answers; its documents stay as they are.

All of it is on the side of the query, so that token states of documents which were kept for the training-free readout
serve this one, too. Untrained, every part leaves the scores of the layout ``minilm-log-mass`` as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn

from ..errors import InputError, ModelError
from ..kernels.states.keys import to_float
from .readout import Reading, log_attention, order_free_mean, read_states
from .results import NOTHING

if TYPE_CHECKING:
    from ..kernels import Keys

__all__ = ["PARTS", "LearntReadout", "Part"]

Part = Literal["weights", "projection", "heads", "read"]
PARTS: tuple[Part, ...] = get_args(Part)

# the weight by whose presence a part is known
_SIGNS: dict[Part, str] = {"weights": "weigh", "projection": "down", "heads": "inner", "read": "gate"}
# weights with one number for each dimension of a state, and the axis that has them
_WIDE = {"weigh": 0, "up": 0, "bias": 0, "down": 1}
_HIDDEN = 32
_RANK = 16
_STEP = 5.0  # cosines differ by hundredths: what the small network sees and says of them is stretched by so much


class LearntReadout(nn.Module):
    """From a query's token states to scores; S signal tokens, N documents, D dimensions.

    - ``weights``: signal tokens count by a softmax over a linear function of their states, so by their meaning in
      context, rather than alike.
    - ``projection``: rows ask with ``g (x + U V x) + b``: a low-rank bilinear form, a temperature, and a bias of keys.
    - ``heads``: three heads of attention, at the layout's scale, at twice that, and at infinity (MaxSim), each also
      relative to its mean over the list, are read by a network of one hidden layer, for each signal token and document
      alike; its result adds to the log mass. So candidates compete in what each token makes of them.
    - ``read``: before it asks, the query block reads the documents: ``x <- unit(x + g Attention(x))``.

    Args:
        parts: the parts to use, in any order.
        dim: D, the number of dimensions of a state.
        scale: the scale of the layout.

    Raises:
        InputError: if there is no such part, or no part is given.

    Example:
        >>> sum(weight.numel() for weight in LearntReadout(["weights", "heads"]).parameters())
        640
    """

    def __init__(self, parts: Sequence[Part], dim: int = 384, scale: float = 20.0) -> None:
        super().__init__()
        if not parts or set(parts) - set(PARTS):
            raise InputError(f"what can be learnt is {', '.join(PARTS)}, not {', '.join(parts) or 'nothing'}")
        self.parts: tuple[Part, ...] = tuple(part for part in PARTS if part in parts)
        self.scale = scale
        # Drawn apart from what others draw: the start is the same wherever it is made.
        draw = torch.Generator().manual_seed(0)
        if "weights" in parts:
            self.weigh = nn.Parameter(torch.zeros(dim))
        if "projection" in parts:
            self.down = nn.Parameter(torch.randn(_RANK, dim, generator=draw) * dim**-0.5)
            self.up = nn.Parameter(torch.zeros(dim, _RANK))
            self.bias = nn.Parameter(torch.zeros(dim))
            self.gain = nn.Parameter(torch.zeros(()))
        if "heads" in parts:
            self.inner = nn.Parameter(torch.randn(_HIDDEN, 6, generator=draw) * 6**-0.5)
            self.inner_bias = nn.Parameter(torch.zeros(_HIDDEN))
            self.outer = nn.Parameter(torch.zeros(_HIDDEN))
        if "read" in parts:
            self.gate = nn.Parameter(torch.zeros(()))
            self.sharpness = nn.Parameter(torch.zeros(()))

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor], scale: float, source: object) -> LearntReadout:
        """Make the readout that has these weights.

        Args:
            weights: the weights by name.
            scale: the scale of the layout.
            source: the file that the weights come from, for messages.

        Raises:
            ModelError: if they are not the weights of a readout, or not finite.
        """
        parts = [part for part, name in _SIGNS.items() if name in weights]
        wrong = f"{source}: these are not the weights of a learnt readout; train or copy the folder again"
        if not parts or not all(value.isfinite().all() for value in weights.values()):
            raise ModelError(wrong)
        dims = [value.shape[_WIDE[name]] for name, value in weights.items() if value.ndim > _WIDE.get(name, value.ndim)]
        readout = cls(parts, dim=dims[0] if dims else 384, scale=scale)
        try:
            readout.load_state_dict({name: value.float() for name, value in weights.items()})
        except RuntimeError as error:
            raise ModelError(wrong) from error
        return readout

    @property
    def dim(self) -> int | None:
        """D; None if no part depends on it."""
        return next((weight.shape[_WIDE[name]] for name, weight in self.named_parameters() if name in _WIDE), None)

    @property
    def list_free(self) -> bool:
        """Whether a document's score depends on the query and the document only: ``heads`` and ``read`` look around."""
        return not {"heads", "read"} & set(self.parts)

    def forward(self, q: torch.Tensor, keys: Sequence[Keys]) -> torch.Tensor:
        """Score one list.

        Args:
            q: float32 (S, D), the states of the signal tokens, as unit rows.
            keys: the token states of N documents, each (T_n, D).

        Returns:
            The scores, float64 (N,); see `scores`.
        """
        rows = self.ask(q, keys)
        return self.scores(q, self.read(rows, keys))

    def ask(self, q: torch.Tensor, keys: Sequence[Keys]) -> torch.Tensor:
        """The rows that ask in the place of ``q``: float32 (S, D), by ``read`` and ``projection``."""
        rows = q
        if "read" in self.parts:
            rows = rows + self.gate * _attend(self.sharpness.exp() * rows, keys, self.scale)
            rows = nn.functional.normalize(rows, dim=-1)
        if "projection" in self.parts:
            rows = self.gain.exp() * (rows + rows @ self.down.T @ self.up.T + self.bias)
        return rows

    def read(self, rows: torch.Tensor, keys: Sequence[Keys]) -> Reading:
        """What the rows of `ask` see."""
        return read_states(rows, keys, scale=self.scale, largest="heads" in self.parts)

    def scores(self, q: torch.Tensor, reading: Reading) -> torch.Tensor:
        """Means over the signal tokens of the log mass with what was learnt; by ``weights`` and ``heads``.

        Args:
            q: float32 (S, D), the states of the signal tokens, as unit rows.
            reading: the reading that `read` returned.

        Returns:
            float64 (N,). Documents without tokens stand at the end, whatever was learnt.
        """
        weights = q.new_full((len(q),), 1 / len(q))
        if "weights" in self.parts:
            weights = torch.softmax(q @ self.weigh, dim=0)
        values = log_attention(reading)[:, 0]  # (S, N)
        if "heads" in self.parts:
            values = values + self._heads(reading)
        empty = torch.isneginf(reading.lse[:, 0]).all(dim=0)
        return order_free_mean(values * (weights * len(q))[:, None]).masked_fill(empty, NOTHING)

    def _heads(self, reading: Reading) -> torch.Tensor:
        assert reading.largest is not None and reading.products is not None
        twice, lse = 2 * self.scale, reading.lse[:, 0]
        read = [lse / self.scale, reading.products.lse(twice) / twice, reading.largest[:, 0]]
        seen = ~torch.isneginf(lse)
        features = []
        for logits in read:
            value = torch.where(seen, logits, torch.zeros_like(logits)).double()
            mean = value.sort(dim=1).values.sum(dim=1) / seen.sum(dim=1).clamp_min(1)
            features += [value, _STEP * (value - mean[:, None])]
        # Sums of single products, not a matrix product: to the last bit, no document's result depends on its place.
        hidden: torch.Tensor = self.inner_bias.double()[:, None, None]
        for number, feature in enumerate(features):
            hidden = hidden + self.inner.double()[:, number, None, None] * feature  # (H, S, N)
        hidden = hidden.relu() * self.outer.double()[:, None, None]
        total = hidden[0]
        for part in hidden[1:]:
            total = total + part
        return _STEP * total


def _attend(rows: torch.Tensor, keys: Sequence[Keys], scale: float) -> torch.Tensor:
    """Attention over all tokens of all documents, whose states are the values: (S, D)."""
    states = torch.cat([to_float(key) for key in keys])
    return torch.softmax(scale * (rows @ states.T), dim=-1) @ states
