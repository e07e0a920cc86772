"""BERT for inference on a CPU: the tokens of a batch stand one after another, without padding.

The architecture is that of Devlin et al. (2019, https://arxiv.org/abs/1810.04805), as transformers' ``BertModel`` has
it. Texts share the linear layers alone: up to their rounding, a text's states do not depend on its neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .linears import Activation, inference_linear

__all__ = ["PackedBert", "packed_bert"]

# What rounding may do to states whose numbers are about 1; measured on MiniLM: .000006.
_TOLERANCE = 1e-4

_Step = Callable[[torch.Tensor], torch.Tensor]


class PackedBert:
    """The network over packed tokens; it copies the weights, so it does not follow when they are trained.

    Args:
        network: a ``BertModel`` of transformers, on a CPU, in float32.
        dtype: the number format of the matrix products: ``torch.float32`` or ``torch.bfloat16``. Sums, layer norms and
            what layers hand on stay in float32.
    """

    def __init__(self, network: Any, dtype: torch.dtype = torch.float32) -> None:
        embeddings = network.embeddings
        self.dtype, self.heads = dtype, network.config.num_attention_heads
        self.words = embeddings.word_embeddings.weight.detach()
        kind = embeddings.token_type_embeddings.weight[0]
        self.positions = (embeddings.position_embeddings.weight + kind).detach()
        self.norm = _norm(embeddings.LayerNorm)
        self.layers = [_Layer(layer, dtype, self.heads) for layer in network.encoder.layer]

    def __call__(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Compute the last hidden states.

        Args:
            ids: the token ids of each of N texts, special tokens included. None may be empty.

        Returns:
            float32 (T, D): the states of the first text's tokens, then those of the second's, and so on.
        """
        lengths = [len(text) for text in ids]
        tokens = torch.tensor([token for text in ids for token in text])
        places = torch.cat([torch.arange(length) for length in lengths])
        x = self.norm(self.words[tokens] + self.positions[places])
        # Texts of one length that stand together are one call of the attention.
        runs = [(length, len(list(run))) for length, run in itertools.groupby(lengths)]
        for layer in self.layers:
            x = layer(x, runs)
        return x


def packed_bert(network: Any, dtype: torch.dtype, ids: Sequence[Sequence[int]]) -> PackedBert | None:
    """Return the packed form of a network, if there is one and it gives the same states.

    Args:
        network: the model as transformers loads it.
        dtype: the number format of the matrix products; see `PackedBert`.
        ids: the token ids of a few texts, on which the float32 form is compared with transformers' own.

    Returns:
        The packed form; None for another architecture, on another device, or if a state differs by more than .0001.
    """
    from transformers import BertModel

    config = network.config
    fits = (
        type(network) is BertModel
        and network.device.type == "cpu"
        and network.dtype == torch.float32
        and config.hidden_act == "gelu"
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not config.is_decoder
    )
    if not fits:
        return None
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        exact = PackedBert(network)
        theirs = torch.cat([network(input_ids=torch.tensor([text])).last_hidden_state[0] for text in ids])
        if not bool(((exact(ids) - theirs).abs() <= _TOLERANCE).all()):
            return None
        return exact if dtype == torch.float32 else PackedBert(network, dtype)


class _Layer:
    def __init__(self, layer: Any, dtype: torch.dtype, heads: int) -> None:
        attention = layer.attention
        own = [attention.self.query, attention.self.key, attention.self.value]
        self.dtype, self.heads = dtype, heads
        self.project = _linear(torch.cat([part.weight for part in own]), torch.cat([part.bias for part in own]), dtype)
        self.join = _linear(attention.output.dense.weight, attention.output.dense.bias, dtype)
        self.attended = _norm(attention.output.LayerNorm)
        self.widen = _linear(layer.intermediate.dense.weight, layer.intermediate.dense.bias, dtype, "gelu")
        self.narrow = _linear(layer.output.dense.weight, layer.output.dense.bias, dtype)
        self.norm = _norm(layer.output.LayerNorm)

    def __call__(self, x: torch.Tensor, runs: Sequence[tuple[int, int]]) -> torch.Tensor:
        x = self.attended(x + self.join(self._attend(self.project(x.to(self.dtype)), runs)))
        return self.norm(x + self.narrow(self.widen(x.to(self.dtype))))

    def _attend(self, projected: torch.Tensor, runs: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Every text attends to itself: (T, 3 * D) to (T, D)."""
        width = projected.shape[1] // 3
        parts, start = [], 0
        for length, texts in runs:
            rows = projected[start : (start := start + length * texts)]
            q, k, v = rows.view(texts, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            attended = nn.functional.scaled_dot_product_attention(q, k, v)
            parts.append(attended.transpose(1, 2).reshape(length * texts, width))
        return torch.cat(parts)


def _linear(weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype, activation: Activation = "none") -> _Step:
    return inference_linear(weight.detach().to(dtype), bias.detach().to(dtype), activation)


def _norm(norm: nn.LayerNorm) -> _Step:
    weight, bias, eps = norm.weight.detach(), norm.bias.detach(), norm.eps
    return lambda x: nn.functional.layer_norm(x, weight.shape, weight, bias, eps)
