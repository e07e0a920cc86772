"""Forward passes over packed lists, and what is read in them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ...kernels import Context, Packing, block_attention, block_lse, block_max, row_lse, token_mass
from ...kernels.packing import DOCUMENT
from ...kernels.threads import idle_threads
from ...models.cache import Form
from ...models.decoder import Decoder, Enough
from ..layout import Layout
from ..readout import Reading, joint_normaliser
from .kept import KeptBlock, compressed, joined
from .prompt import Prompt, strided

__all__ = [
    "LaidOut",
    "Layouts",
    "Packed",
    "Wanted",
    "last_position",
    "lay_out",
    "out_of_reach",
    "pack",
    "positions_of",
    "read",
    "read_documents",
]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pass reads.

    Args:
        layout: says how logits are scaled and normalised.
        heads: per layer that is read the indices of heads, or None for all.
        tokens: whether the attention on each token is read, too.
        by_head: whether that is kept apart by head.
        stop: a layer after whose reading the pass ends; None for the signal layer.
    """

    layout: Layout
    heads: Mapping[int, tuple[int, ...] | None]
    tokens: bool = False
    by_head: bool = False
    stop: int | None = None


class _Readings:
    """Collects what the layers of one pass show, for all lists of the pass."""

    def __init__(self, scope: Wanted, layout: Packing, columns: Sequence[Sequence[int]]) -> None:
        self.scope, self.layout, self.columns = scope, layout, columns
        contexts = layout.signal_contexts.tolist()
        counts = [len(columns[context]) for context in contexts]
        scale, ssmax = scope.layout.readout.scale, scope.layout.readout.ssmax
        # One factor per row: lists in one pass may differ in their number of documents.
        self.factors = [scale * (ssmax * math.log(max(n, 2)) if ssmax else 1.0) for n in counts]
        # What a signal row sees of tokens that count as no document: they compete, but have no share.
        self.gaps: torch.Tensor | None = None
        if any(len(own) < len(c.documents) for own, c in zip(columns, layout.contexts, strict=True)):
            self.gaps = torch.ones(len(counts), 1, layout.documents, dtype=torch.bool)
            for row, context in enumerate(contexts):
                self.gaps[row, 0, columns[context]] = False
        self.lse: list[torch.Tensor] = []
        self.normaliser: list[torch.Tensor] = []
        self.largest: list[torch.Tensor] = []
        self.tokens: list[list[torch.Tensor]] = []
        self.complete = False

    def add(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, scale: float, row: torch.Tensor | None, layout: Packing
    ) -> None:
        """Read one layer: q (R, Hq, D), k (T, Hkv, D), and its rows' natural log-sum-exp (R, Hq) where it is known."""
        scope, spec = self.scope, self.scope.layout.readout
        if any(factor != 1.0 for factor in self.factors):
            q, row = q * q.new_tensor(self.factors)[:, None, None], None
        lse = block_lse(q, k, layout, scale=scale)  # (R, Hq, N)
        if spec.normalisation == "all_keys":
            normaliser = (row if row is not None else row_lse(q, k, layout, scale=scale, lse=lse)).double()
        else:
            normaliser = joint_normaliser(
                lse if self.gaps is None else lse.masked_fill(self.gaps.to(lse.device), -torch.inf)
            )
            # A row whose window holds no document pays nothing to any, rather than nothing of nothing.
            normaliser = normaliser.masked_fill(normaliser == -torch.inf, 0)
        chosen = scope.heads[layer]
        index = None if chosen is None else torch.tensor(chosen, device=q.device)

        def select(x: torch.Tensor) -> torch.Tensor:
            return x if index is None else x.index_select(1, index)

        largest = select(block_max(q, k, layout, scale=scale)) if spec.readout == "maxsim" else None
        masses = []
        if scope.tokens:
            masses = token_mass(q, k, layout, normaliser, scale=scale, heads=index, reduce=not scope.by_head)
        if self.complete:  # a checkpointed layer is computed again for its gradients
            return
        self.lse.append(select(lse).cpu())
        self.normaliser.append(select(normaliser).cpu())
        if largest is not None:
            self.largest.append(largest.cpu())
        if scope.tokens:
            self.tokens.append([x.cpu() for x in masses])

    def split(self) -> list[Reading]:
        """One reading per list, by its own query: of a null query, only the attention on tokens."""
        self.complete = True
        layout = self.layout
        lse, normaliser = torch.cat(self.lse, dim=1), torch.cat(self.normaliser, dim=1)
        largest = torch.cat(self.largest, dim=1) if self.largest else None
        tokens = [
            torch.cat(parts) if self.scope.by_head else torch.stack(parts).sum(dim=0) / lse.shape[1]
            for parts in zip(*self.tokens, strict=True)
        ]
        out, at = [], 0
        for number, context in enumerate(layout.contexts):
            blocks = layout.signal_blocks[layout.signal_contexts == number]
            rows = torch.from_numpy(layout.signal_blocks == blocks[0])
            columns, queries = list(self.columns[number]), len(context.queries)
            here = tokens[at : at + queries] if self.scope.tokens else []
            if len(columns) < len(context.documents):
                lengths = torch.tensor(context.documents)
                own = torch.zeros(len(lengths), dtype=torch.bool)
                own[columns] = True
                here = [x[..., own.repeat_interleave(lengths)] for x in here]
            out.append(
                Reading(
                    lse[rows][..., columns],
                    normaliser[rows],
                    tuple(context.documents[column] for column in columns),
                    None if largest is None else largest[rows][..., columns],
                    *here,
                )
            )
            at += queries
        return out


class Layouts:
    """One packing as attention runs over it and as the signal is read, on whatever device a layer lives.

    Args:
        contexts: the blocks.
        causal: whether documents see those before them.
        signal: the signal tokens.
        positions: of all tokens.
        spans: the same contexts, their documents cut into what counts and what does not; None where all counts.
    """

    def __init__(
        self,
        contexts: Sequence[Context],
        causal: bool,
        signal: Sequence[int],
        positions: Sequence[int],
        spans: Sequence[Context] | None = None,
    ) -> None:
        self.signal = Packing(contexts if spans is None else spans, positions=positions).with_signal(signal)
        if causal:  # a mask over all documents is that of one long instruction
            whole = [Context((), c.queries, c.instruction + sum(c.documents)) for c in contexts]
            self.attention = Packing(whole, positions=positions)
        else:
            self.attention = self.signal if spans is None else Packing(contexts, positions=positions)
        self._moved: dict[torch.device, tuple[Packing, Packing]] = {}

    def on(self, device: torch.device, window: int | None) -> tuple[Packing, Packing]:
        """As attention runs, and as the signal is read, in a layer that sees so far back."""
        if device not in self._moved:
            signal = self.signal.to(device)
            self._moved[device] = (self.attention.to(device) if self.attention is not self.signal else signal, signal)
        attention, signal = self._moved[device]
        return attention.with_window(window), signal.with_window(window)


class _ListPass:
    """A pass over lists, or over the query blocks of one behind blocks whose keys and values are kept; see `Call`."""

    key_rows: torch.Tensor | None = None

    def __init__(self, layouts: Layouts, readings: _Readings, kept: Sequence[KeptBlock] = ()) -> None:
        self.layouts, self.readings, self.kept = layouts, readings, kept
        self.first = sum(block.tokens for block in kept)  # what is read of the packed tokens starts there
        self.signal_rows: torch.Tensor = layouts.signal.signal - self.first
        if readings.scope.layout.readout.normalisation == "documents" and not kept:
            spans = layouts.signal.spans(DOCUMENT)
            self.key_rows = torch.cat([torch.arange(start, stop) for _, _, start, stop in spans])

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        attention, signal = self.layouts.on(q.device, window)
        rows, k = self.signal_rows.to(q.device), self._behind_kept("keys", layer, k)
        if layer == self.readings.scope.stop:  # nothing needs its result, and its values may not have been kept
            self.readings.add(layer, q[rows], k, scale, None, signal)
            raise Enough
        v = self._behind_kept("values", layer, v)
        out, lse = block_attention(q, k, v, attention.behind(self.first), scale=scale)
        if layer in self.readings.scope.heads:
            self.readings.add(layer, q[rows], k, scale, lse[rows], signal)
        return out

    def signal(self, layer: int, q: torch.Tensor, k: torch.Tensor, scale: float, window: int | None) -> None:
        _, signal = self.layouts.on(q.device, window)
        k = self._behind_kept("keys", layer, k)
        if self.key_rows is not None:  # the kernels want a key for every token; nothing looks at the others
            whole = k.new_zeros(signal.tokens, *k.shape[1:])
            k = whole.index_copy_(0, self.key_rows.to(k.device), k)
        self.readings.add(layer, q, k, scale, None, signal)

    def _behind_kept(self, what: Literal["keys", "values"], layer: int, own: torch.Tensor) -> torch.Tensor:
        return joined([getattr(block, what)[layer] for block in self.kept], own) if self.kept else own


class _DocumentPass:
    """A pass over an instruction and documents without a query, whose keys and values are kept; see `Call`."""

    signal_rows = torch.empty(0, dtype=torch.int64)
    key_rows: torch.Tensor | None = None

    def __init__(self, context: Context, positions: Sequence[int], form: Form, stride: int) -> None:
        self.layouts = Layouts([context], causal=False, signal=[], positions=positions)
        self.form, self.stride = form, stride
        self.lengths = [context.instruction, *context.documents]
        self.keys: list[list[torch.Tensor]] = []
        self.values: list[list[torch.Tensor]] = []

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        self.keys.append(self._pieces(k))
        self.values.append(self._pieces(v))
        return block_attention(q, k, v, self.layouts.on(q.device, window)[0], scale=scale)[0]

    def signal(self, layer: int, q: torch.Tensor, k: torch.Tensor, scale: float, window: int | None) -> None:
        self.keys.append(self._pieces(k))

    def blocks(self) -> list[KeptBlock]:
        """What is kept of the instruction and of each document."""
        keys, values = (
            list(zip(*pieces, strict=True)) or [()] * len(self.lengths) for pieces in (self.keys, self.values)
        )
        return [KeptBlock(*block) for block in zip(keys, values, strict=True)]

    def _pieces(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Keys or values of each block, the instruction's as computed: every block sees it, and it is kept once."""
        first = self.lengths[0]
        # Copies: a view would keep the whole pass in memory for the sake of one document.
        documents = compressed(x[first:], self.form).split(self.lengths[1:])
        if self.stride == 1:
            return [x[:first].clone(), *(piece.clone() for piece in documents)]
        return [x[:first].clone(), *(piece[strided(len(piece), self.stride)] for piece in documents)]


@dataclass(frozen=True, slots=True)
class Packed:
    """Lists laid out for one forward pass, in which none sees another.

    Args:
        ids: int64 (T,), tokens.
        positions: int64 (T,).
        call: what attention does in the pass, see `Decoder.run`.
        answers: where the first query block of each list ends among the T, with what has been answered.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    call: _ListPass
    answers: tuple[int, ...]

    def readings(self) -> list[Reading]:
        """One per list, once the pass has been made; with gradients if it was."""
        return self.call.readings.split()


@dataclass(frozen=True, slots=True)
class LaidOut:
    """Lists side by side, as the tokens of one pass.

    Args:
        ids: their tokens.
        positions: of these.
        contexts: token counts of each list.
        starts: where each list starts among the tokens.
    """

    ids: list[int]
    positions: list[int]
    contexts: list[Context]
    starts: list[int]


def lay_out(prompts: Sequence[Prompt], layout: Layout) -> LaidOut:
    """Lay lists out side by side."""
    out = LaidOut([], [], [prompt.context for prompt in prompts], [])
    for prompt, context in zip(prompts, out.contexts, strict=True):
        out.starts.append(len(out.ids))
        for ids in (prompt.instruction, *(b.ids for b in prompt.documents), *(q.ids for q in prompt.queries)):
            out.ids.extend(ids)
        positions, at = positions_of(context, layout), context.instruction
        for block in prompt.documents:
            if block.places is not None:
                positions[at : at + len(block.ids)] = [context.instruction + place for place in block.places]
            at += len(block.ids)
        out.positions.extend(positions)
    return out


def pack(prompts: Sequence[Prompt], scope: Wanted, kept: Sequence[KeptBlock] | None = None) -> Packed:
    """Lay lists out for one forward pass.

    Args:
        prompts: the lists.
        scope: what is read.
        kept: for a single list: its instruction and its documents, in order, read before by `read_documents`.
    """
    laid, layout = lay_out(prompts, scope.layout), scope.layout
    ids, positions, signal, answers = laid.ids, laid.positions, [], []
    counted = [_counted(prompt) for prompt in prompts]
    for prompt, context, start in zip(prompts, laid.contexts, laid.starts, strict=True):
        at = start + context.instruction + sum(context.documents)
        answers.append(at + len(prompt.queries[0].ids))
        for query in prompt.queries:
            signal += [at + row for row in query.signal]
            at += len(query.ids)
    gaps = any(len(columns) < len(context.documents) for context, columns in counted)
    spans = [context for context, _ in counted] if gaps else None
    layouts = Layouts(laid.contexts, layout.require_prompt().mask == "causal", signal, positions, spans)
    readings = _Readings(scope, layouts.signal, [columns for _, columns in counted])
    call = _ListPass(layouts, readings, kept or ())
    ids, positions, answers = ids[call.first :], positions[call.first :], [end - call.first for end in answers]
    return Packed(torch.tensor(ids), torch.tensor(positions), call, tuple(answers))


def _counted(prompt: Prompt) -> tuple[Context, list[int]]:
    """The prompt's context, each document cut into what counts and what does not; and the places of what counts."""
    lengths: list[int] = []
    columns: list[int] = []
    for block in prompt.documents:
        start, stop = block.counted
        lengths += [start] if start else []
        columns.append(len(lengths))
        lengths.append(stop - start)
        lengths += [len(block.ids) - stop] if len(block.ids) > stop else []
    return prompt.context._replace(documents=lengths), columns


def read(
    decoder: Decoder, prompts: Sequence[Prompt], scope: Wanted, kept: Sequence[KeptBlock] | None = None
) -> list[Reading]:
    """Read lists in one forward pass, without gradients; none sees another.

    Args:
        decoder: the model.
        prompts: the lists.
        scope: what is read.
        kept: see `pack`.

    Returns:
        One `Reading` per list.
    """
    packed = pack(prompts, scope, kept)
    with torch.inference_mode(), idle_threads():
        decoder.run(packed.ids, packed.positions, packed.call)
    return packed.readings()


def read_documents(
    decoder: Decoder,
    instruction: Sequence[int],
    documents: Sequence[Sequence[int]],
    layout: Layout,
    form: Form = "exact",
) -> list[KeptBlock]:
    """Read documents behind an instruction, for later queries.

    Args:
        decoder: the model.
        instruction: its tokens.
        documents: tokens of each.
        layout: one with a block mask and positions that restart.
        form: in which the documents are kept; the instruction is kept as it is computed.

    Returns:
        What is kept of the instruction, and of each document: of its tokens those that the query will see.
    """
    context = Context([len(ids) for ids in documents], (), len(instruction))
    positions = positions_of(context, layout)
    call = _DocumentPass(context, positions, form, layout.stride)
    ids = [*instruction, *(i for document in documents for i in document)]
    with torch.inference_mode(), idle_threads():
        decoder.run(torch.tensor(ids), torch.tensor(positions), call)
    return call.blocks()


def positions_of(context: Context, layout: Layout) -> list[int]:
    """Positions of a context's tokens, in packed order."""
    first = context.instruction
    out = list(range(first))
    for length in context.documents if layout.require_prompt().positions == "restart" else (sum(context.documents),):
        out += range(first, first + length)
    start = _query_start(context, layout)
    for length in context.queries:
        out += range(start, start + length)
    return out


def last_position(context: Context, layout: Layout) -> int:
    """The largest of `positions_of`, without laying them out."""
    apart = layout.require_prompt().positions == "restart"
    longest = max(context.documents, default=0) if apart else sum(context.documents)
    ends = (_query_start(context, layout) + length for length in context.queries)
    return max([context.instruction + longest, *ends]) - 1


def out_of_reach(context: Context, layout: Layout, window: int, row: int) -> list[int]:
    """Documents of which a signal token sees nothing, by their places.

    Args:
        context: the token counts of a list.
        layout: says where the tokens stand.
        window: how far back the layer sees, see `sightline.kernels.Packing`.
        row: the signal token, counted from the start of its query block.
    """
    apart, first = layout.require_prompt().positions == "restart", context.instruction
    oldest = _query_start(context, layout) + row - window
    ends = context.documents if apart else itertools.accumulate(context.documents)
    return [
        place
        for place, (end, tokens) in enumerate(zip(ends, context.documents, strict=True))
        if tokens and first + end - 1 <= oldest
    ]


def _query_start(context: Context, layout: Layout) -> int:
    prompt = layout.require_prompt()
    if prompt.positions == "sequential":
        return context.instruction + sum(context.documents)
    return context.instruction + layout.max_block_tokens if prompt.query_position is None else prompt.query_position
