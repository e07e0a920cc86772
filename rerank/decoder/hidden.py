"""Readouts of hidden states: what a decoder thinks behind its last layer, at one token of each block.

| readout | what is read | published as |
|---|---|---|
| ``yes_no`` | logits of two tokens at the end of each block | Qwen3-Reranker, mxbai-rerank-v2, zerank |
| ``cosine`` | states of a marker in each block and in the query block, through a projector | jina-reranker-v3 |
| ``id_logits`` | logits of the candidates' ids at the first token of the answer | FIRST |

All layers run, on the same packed blocks as attention is read from; the last norm and the head are applied to the rows
that are read, and to no others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...errors import ModelError
from ...kernels import block_attention
from ...kernels.threads import idle_threads
from ...models.checkpoints import load_tensors
from ...models.decoder import Decoder
from ..layout import Layout
from .forward import LaidOut, Layouts, lay_out
from .kept import KeptBlock
from .prompt import Prompt, Template, candidate_id
from .readouts import DecoderReadout, ListScores, equal_for_equals

__all__ = ["HIDDEN", "CosineReadout", "HiddenReadout", "IdLogitsReadout", "YesNoReadout"]


@dataclass(frozen=True, slots=True)
class _States:
    """What was read of one prompt.

    Args:
        values: float64, what the readout made of the states of its rows.
        tokens: per document float (T,), the attention on its tokens; None unless it was asked for.
    """

    values: torch.Tensor
    tokens: list[np.ndarray] | None


class HiddenReadout(DecoderReadout[_States]):
    """What the readouts of hidden states have in common: one pass through all layers, and a few rows of its end.

    Raises:
        ModelError: if the model was loaded for its attention only, or without a logit that is read.
    """

    def __init__(self, decoder: Decoder, template: Template, layer_count: int) -> None:
        super().__init__(decoder, template, layer_count)
        outputs = self.needs(self.layout, layer_count)["outputs"]
        if decoder.outputs is None or (missing := [text for text in outputs if text not in decoder.outputs]):
            raise ModelError(
                f"layout {self.layout.name!r} reads hidden states, but {decoder.name!r} was loaded "
                + ("for its attention only" if decoder.outputs is None else f"without the logits of {missing}")
                + f"; load it with load_decoder(..., outputs={outputs})"
            )
        self._columns = [decoder.outputs.index(text) for text in outputs]

    @staticmethod
    def needs(layout: Layout, layer_count: int) -> dict[str, Any]:
        """See `DecoderReadout.needs`: all layers, and the logits that are read."""
        return {"outputs": []}

    @abstractmethod
    def _rows(self, prompt: Prompt) -> list[int]:
        """Places of the tokens that are read, among the prompt's tokens."""

    @abstractmethod
    def _values(self, states: torch.Tensor, prompt: Prompt) -> torch.Tensor:
        """What the readout makes of the states (R, D) of a prompt's rows."""

    def read(
        self, prompts: Sequence[Prompt], *, tokens: bool = False, kept: Sequence[KeptBlock] | None = None
    ) -> list[_States]:
        """See `DecoderReadout.read`; nothing can be kept."""
        assert kept is None
        laid = lay_out(prompts, self.layout)
        rows = [[start + row for row in self._rows(prompt)] for prompt, start in zip(prompts, laid.starts, strict=True)]
        causal = self.layout.require_prompt().mask == "causal"
        layouts = Layouts(laid.contexts, causal, signal=[], positions=laid.positions)
        marks = _Marks(prompts, laid, layouts, rows) if tokens else None
        flat = torch.tensor([row for part in rows for row in part], dtype=torch.int64)
        with torch.inference_mode(), idle_threads():
            states = self.decoder.states(
                torch.from_numpy(laid.ids), torch.from_numpy(laid.positions), _WholePass(layouts, marks), flat
            )
            values = [
                self._values(part, prompt).cpu().double()
                for part, prompt in zip(states.split([len(part) for part in rows]), prompts, strict=True)
            ]
        found = [None] * len(prompts) if marks is None else marks.by_document()
        return [_States(*pair) for pair in zip(values, found, strict=True)]

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return self.decoder.logits(states)[:, self._columns]

    def _scored(self, prompts: Sequence[Prompt], parts: Sequence[_States], scores: torch.Tensor) -> ListScores:
        blocks = [block for prompt in prompts for block in prompt.documents]
        scores = scores * self.layout.readout.scale
        if self.layout.order_free:  # then equal documents differ by rounding only, which is no reason to rank them
            scores = equal_for_equals(blocks, scores)
        tokens = [part.tokens for part in parts if part.tokens is not None]
        marks = [one for part in tokens for one in part] if len(tokens) == len(parts) else None
        return ListScores(scores.numpy(), None, marks, list(blocks))


class YesNoReadout(HiddenReadout):
    """Log-odds of one answer against another at a token of each block, or one answer's logit.

    With a block mask, positions that restart and the query in the instruction, each block is what the model would read
    if it were given the query and that document alone: the scores are those of the published pointwise computation, and
    a list may be read in any number of passes (Nogueira et al., 2020, https://arxiv.org/abs/2003.06713; Qwen3-Reranker,
    2025, https://arxiv.org/abs/2506.05176).
    """

    joins = True

    @staticmethod
    def needs(layout: Layout, layer_count: int) -> dict[str, Any]:
        """See `DecoderReadout.needs`."""
        return {"outputs": list(layout.readout.answers)}

    def _rows(self, prompt: Prompt) -> list[int]:
        return _document_rows(prompt, self.template)

    def _values(self, states: torch.Tensor, prompt: Prompt) -> torch.Tensor:
        logits = self._logits(states)
        return logits[:, 0] - logits[:, 1] if logits.shape[1] == 2 else logits[:, 0]

    def scores(self, prompts: Sequence[Prompt], parts: Sequence[_States]) -> ListScores:
        """See `DecoderReadout.scores`."""
        return self._scored(prompts, parts, torch.cat([part.values for part in parts]))


class IdLogitsReadout(HiddenReadout):
    """The logit of each candidate's id as the first token of the answer (FIRST, 2024, https://arxiv.org/abs/2406.15657)."""

    @staticmethod
    def needs(layout: Layout, layer_count: int) -> dict[str, Any]:
        """See `DecoderReadout.needs`."""
        prompt = layout.require_prompt()
        return {"outputs": [candidate_id(prompt.ids, place) for place in range(prompt.max_documents or 0)]}

    def _rows(self, prompt: Prompt) -> list[int]:
        return [_query_row(prompt)]

    def _values(self, states: torch.Tensor, prompt: Prompt) -> torch.Tensor:
        return self._logits(states)[0, : len(prompt.documents)]

    def scores(self, prompts: Sequence[Prompt], parts: Sequence[_States]) -> ListScores:
        """See `DecoderReadout.scores`."""
        [part] = parts
        return self._scored(prompts, parts, part.values)


class CosineReadout(HiddenReadout):
    """Cosine of a token's state in each block with one of the query block, both through a projector.

    A list that takes several passes is put together as the published code of jina-reranker-v3 does (2025,
    https://arxiv.org/abs/2509.25085): query vectors are averaged, each with the weight ``max((1 + s) / 2)`` over the
    cosines s of its documents, and all documents are compared with the average.

    Raises:
        ModelError: if the projector is not among the model's weights, or does not fit its states.
    """

    joins = True

    def __init__(self, decoder: Decoder, template: Template, layer_count: int) -> None:
        super().__init__(decoder, template, layer_count)
        names, width = self.layout.readout.projector, int(decoder.config.hidden_size)
        self._projector = load_tensors(decoder.name, names, decoder.revision or None) if names else []
        for name, weight in zip(names, self._projector, strict=True):
            if weight.ndim != 2 or weight.shape[1] != width:
                raise ModelError(
                    f"{name!r} of {decoder.name!r} has the shape {tuple(weight.shape)}; a projector of states of "
                    f"{width} dimensions has (any, {width})"
                )
            width = weight.shape[0]

    def _rows(self, prompt: Prompt) -> list[int]:
        return [*_document_rows(prompt, self.template), _query_row(prompt)]

    def _values(self, states: torch.Tensor, prompt: Prompt) -> torch.Tensor:
        for number, weight in enumerate(self._projector):
            states = (states.relu() if number else states) @ weight.to(states).T
        return states

    def scores(self, prompts: Sequence[Prompt], parts: Sequence[_States]) -> ListScores:
        """See `DecoderReadout.scores`."""
        queries = torch.stack([part.values[-1] for part in parts])
        weights = torch.stack([(1 + _cosines(part.values[:-1], part.values[-1]).max()) / 2 for part in parts])
        # Each weight is 0 only if all documents point away from their queries; then all passes count alike.
        weights = torch.where(weights.sum() > 0, weights, 1.0)
        query = (weights[:, None] * queries).sum(dim=0) / weights.sum()
        return self._scored(prompts, parts, _cosines(torch.cat([part.values[:-1] for part in parts]), query))


# The readouts of hidden states by their names in layouts; all other readouts read attention.
HIDDEN: Mapping[str, type[HiddenReadout]] = {
    "yes_no": YesNoReadout,
    "cosine": CosineReadout,
    "id_logits": IdLogitsReadout,
}


def _cosines(documents: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Cosines (N,) of documents (N, D) with a query (D,)."""
    return torch.nn.functional.cosine_similarity(documents, query[None], dim=1)


def _document_rows(prompt: Prompt, template: Template) -> list[int]:
    """Places of the documents' tokens that are read, among the prompt's tokens."""
    rows, start = [], len(prompt.instruction)
    for block in prompt.documents:
        rows.append(start + template.place(block.ids, template.spec.document_token))
        start += len(block.ids)
    return rows


def _query_row(prompt: Prompt) -> int:
    """The place of the query block's last signal token, among the prompt's tokens."""
    documents, _, instruction = prompt.context
    return instruction + sum(documents) + prompt.queries[0].signal[-1]


class _WholePass:
    """A pass through all layers; see `Call`. Only its last hidden states are read."""

    signal_rows = torch.empty(0, dtype=torch.int64)
    key_rows: torch.Tensor | None = None

    def __init__(self, layouts: Layouts, marks: _Marks | None) -> None:
        self.layouts, self.marks = layouts, marks

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        if self.marks is not None:
            self.marks.add(q, k, scale, window)
        return block_attention(q, k, v, self.layouts.on(q.device, window)[0], scale=scale)[0]

    def signal(self, layer: int, q: torch.Tensor, k: torch.Tensor, scale: float, window: int | None) -> None:
        raise AssertionError("a whole model has no signal layer")


class _Marks:
    """What the rows that are read attend to in the documents: a mean over all layers and heads, for evidence.

    Args:
        prompts: the lists of the pass.
        laid: the pass.
        layouts: its packing.
        rows: for each prompt its rows among the tokens of the pass: one for each document, or one for all.
    """

    def __init__(
        self, prompts: Sequence[Prompt], laid: LaidOut, layouts: Layouts, rows: Sequence[Sequence[int]]
    ) -> None:
        self.prompts, self.laid, self.rows, self.layers = prompts, laid, rows, 0
        seen, blocks = {}, layouts.attention.blocks
        for row in sorted({row for part in rows for row in part}):
            own = blocks[layouts.attention.owner(np.array([row]))[0]]
            prefix = np.arange(own["prefix_start"], own["prefix_stop"])
            seen[row] = torch.from_numpy(np.concatenate([prefix, np.arange(own["start"], row + 1)]))
        self._seen, self._packing = seen, layouts.attention
        self._sums = {row: torch.zeros(len(laid.ids)) for row in seen}

    def add(self, q: torch.Tensor, k: torch.Tensor, scale: float, window: int | None) -> None:
        """Read one layer that sees so far back: q (T, Hq, D), k (T, Hkv, D)."""
        self.layers += 1
        packing = self._packing.with_window(window)
        for row, everything in self._seen.items():
            seen = everything[torch.from_numpy(packing.near(np.array([row]), everything.numpy()))]
            keys = k[seen.to(k.device)].float()
            logits = torch.einsum("hgd,shd->hgs", q[row].float().view(keys.shape[1], -1, keys.shape[2]), keys) * scale
            self._sums[row][seen] += logits.softmax(dim=-1).mean(dim=(0, 1)).cpu()

    def by_document(self) -> list[list[np.ndarray]]:
        """For each prompt, for each document float (T,), of the tokens that count as the document."""
        out = []
        for prompt, start, rows in zip(self.prompts, self.laid.starts, self.rows, strict=True):
            at, documents = start + len(prompt.instruction), []
            for i, block in enumerate(prompt.documents):
                row = rows[i] if len(rows) == len(prompt.documents) else rows[-1]
                first, last = block.counted
                documents.append((self._sums[row][at + first : at + last] / self.layers).numpy())
                at += len(block.ids)
            out.append(documents)
        return out
