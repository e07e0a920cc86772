"""Forward passes over packed lists, and what is read in them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ...kernels import Context, Packing, Paged, block_attention, block_lse, block_max, row_lse, token_mass
from ...kernels.packing import DOCUMENT
from ...kernels.threads import idle_threads
from ...models.cache import Form
from ...models.decoder import Decoder, Enough
from ..layout import Layout
from ..readout import Reading, joint_normaliser
from .kept import Behind, KeptBlock, What, compressed
from .prompt import Prompt, strided

__all__ = [
    "Gathered",
    "LaidOut",
    "Layouts",
    "ListPass",
    "Packed",
    "Readings",
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
        heads: for each layer that is read, the indices of the heads, or None for all of them.
        tokens: whether the attention on each token is read, too.
        by_head: whether that is kept apart by head.
        stop: a layer after whose reading the pass ends; None for the signal layer.
    """

    layout: Layout
    heads: Mapping[int, tuple[int, ...] | None]
    tokens: bool = False
    by_head: bool = False
    stop: int | None = None


class _Constants(NamedTuple):
    """What the readings of every layer need, on one device: factors (R, 1, 1) or None, gaps, and heads by layer."""

    factors: torch.Tensor | None
    gaps: torch.Tensor | None
    heads: dict[int, torch.Tensor | None]


class Gathered(NamedTuple):
    """What all layers of one pass show, for all its lists: L layers of H heads, R signal rows, N documents.

    Args:
        lse: float (R, L * H, N), see `Reading.lse`.
        normaliser: float (R, L * H).
        largest: float (R, L * H, N); None unless the readout is ``maxsim``.
        tokens: float (K,), or (L * H, K) by head, for all query blocks; None unless it was asked for.
    """

    lse: torch.Tensor
    normaliser: torch.Tensor
    largest: torch.Tensor | None
    tokens: torch.Tensor | None


class Readings:
    """Collects what the layers of one pass show, for all lists of the pass.

    It stays on the layers' device until the end, so that no layer waits for the host.

    Args:
        scope: the parts of the attention to read.
        layout: the packing, with its signal tokens.
        columns: for each list, the columns of the documents that count.
    """

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
        self._moved: dict[tuple[torch.device, torch.dtype], _Constants] = {}
        self.lse: list[torch.Tensor] = []
        self.normaliser: list[torch.Tensor] = []
        self.largest: list[torch.Tensor] = []
        self.tokens: list[list[torch.Tensor]] = []
        self.complete = False

    def add(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor | Paged,
        scale: float,
        row: torch.Tensor | None,
        layout: Packing,
    ) -> None:
        """Read one layer: q (R, Hq, D), k (T, Hkv, D), and its rows' natural log-sum-exp (R, Hq) where it is known."""
        scope, spec = self.scope, self.scope.layout.readout
        factors, gaps, heads = self.constants(q.device, q.dtype)
        if factors is not None:
            q, row = q * factors, None
        lse = block_lse(q, k, layout, scale=scale)  # (R, Hq, N)
        if spec.normalisation == "all_keys":
            normaliser = (row if row is not None else row_lse(q, k, layout, scale=scale, lse=lse)).double()
        else:
            normaliser = joint_normaliser(lse if gaps is None else lse.masked_fill(gaps, -torch.inf))
            # A row whose window holds no document pays nothing to any, rather than nothing of nothing.
            normaliser = normaliser.masked_fill(normaliser == -torch.inf, 0)
        index = heads[layer]

        def select(x: torch.Tensor) -> torch.Tensor:
            return x if index is None else x.index_select(1, index)

        largest = select(block_max(q, k, layout, scale=scale)) if spec.readout == "maxsim" else None
        masses = []
        if scope.tokens:
            masses = token_mass(q, k, layout, normaliser, scale=scale, heads=index, reduce=not scope.by_head)
        if self.complete:  # a checkpointed layer is computed again for its gradients
            return
        self.lse.append(select(lse))
        self.normaliser.append(select(normaliser))
        if largest is not None:
            self.largest.append(largest)
        if scope.tokens:
            self.tokens.append(masses)

    def constants(self, device: torch.device, dtype: torch.dtype) -> _Constants:
        """Return what every layer needs, moved to a device once: a copy from the host makes it wait."""
        if (device, dtype) not in self._moved:
            factors, spec = None, self.scope.layout.readout
            if spec.scale != 1 or spec.ssmax:
                factors = torch.tensor(self.factors, dtype=dtype, device=device)[:, None, None]
            chosen = [() if heads is None else heads for heads in self.scope.heads.values()]
            flat = torch.tensor([head for heads in chosen for head in heads], dtype=torch.int64, device=device)
            indices = dict(zip(self.scope.heads, flat.split([len(heads) for heads in chosen]), strict=True))
            self._moved[device, dtype] = _Constants(
                factors,
                None if self.gaps is None else self.gaps.to(device),
                {layer: None if self.scope.heads[layer] is None else index for layer, index in indices.items()},
            )
        return self._moved[device, dtype]

    def rewrite(self, other: Readings) -> None:
        """Write the constants of other readings, of no more rows and documents, over these.

        What was recorded with these readings, as a CUDA graph, then reads the other lists.
        """
        for (_, dtype), mine in self._moved.items():
            theirs = other.constants(torch.device("cpu"), dtype)
            if mine.factors is not None and theirs.factors is not None:
                mine.factors[: len(theirs.factors)].copy_(theirs.factors)
            if mine.gaps is not None and theirs.gaps is not None:
                rows, _, columns = theirs.gaps.shape  # no row sees anything in the columns behind
                mine.gaps[:rows, :, :columns].copy_(theirs.gaps)

    def gather(self) -> Gathered:
        """Return what all layers showed, on the device of the last, and take no more."""
        self.complete = True
        lse, normaliser = _gathered(self.lse), _gathered(self.normaliser)
        largest = _gathered(self.largest) if self.largest else None
        tokens = None
        if self.tokens:
            layers = [torch.cat(parts, dim=-1) for parts in self.tokens]
            if not self.scope.by_head:
                layers = [x[None] for x in layers]
            tokens = _gathered(layers, dim=0)
            tokens = tokens if self.scope.by_head else tokens.sum(dim=0) / lse.shape[1]
        self.lse, self.normaliser, self.largest, self.tokens = [], [], [], []
        return Gathered(lse, normaliser, largest, tokens)

    def split(self, gathered: Gathered) -> list[Reading]:
        """Return one reading per list, by its own query: of a null query, only the attention on tokens."""
        layout = self.layout
        lse, normaliser = gathered.lse.cpu(), gathered.normaliser.cpu()
        largest, every = (None if x is None else x.cpu() for x in (gathered.largest, gathered.tokens))
        tokens = () if every is None else every.split(layout.document_tokens, dim=-1)
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


def _gathered(layers: Sequence[torch.Tensor], dim: int = 1) -> torch.Tensor:
    """What the layers showed, one beside the other, on the device of the last."""
    return torch.cat([x.to(layers[-1].device) for x in layers], dim=dim)


class Layouts:
    """One packing as attention runs over it and as the signal is read, on whatever device a layer lives.

    Args:
        contexts: the blocks of each list.
        causal: whether documents see those before them.
        signal: the signal tokens of each list.
        positions: the positions of all tokens.
        spans: the same contexts, their documents cut into what counts and what does not; None where all counts.
        first: the first token that has a query: what stands before it is kept.
        spare: room in the tables of tiles; see `sightline.kernels.Packing.reserve`.
    """

    def __init__(
        self,
        contexts: Sequence[Context],
        causal: bool,
        signal: Sequence[int],
        positions: Sequence[int] | np.ndarray,
        spans: Sequence[Context] | None = None,
        first: int = 0,
        spare: int = 0,
    ) -> None:
        self.signal = Packing(contexts if spans is None else spans, positions=positions).with_signal(signal)
        if causal:  # a mask over all documents is that of one long instruction
            whole = [Context((), c.queries, c.instruction + sum(c.documents)) for c in contexts]
            attention = Packing(whole, positions=positions)
        else:
            attention = self.signal if spans is None else Packing(contexts, positions=positions)
        self.attention = attention.behind(first)
        if spare:
            self.attention = self.attention.reserve(spare)
        self._moved: dict[torch.device, tuple[Packing, Packing]] = {}

    def on(self, device: torch.device, window: int | None) -> tuple[Packing, Packing]:
        """As attention runs, and as the signal is read, in a layer that sees so far back."""
        if device not in self._moved:
            signal = self.signal.to(device)
            self._moved[device] = (self.attention.to(device) if self.attention is not self.signal else signal, signal)
        attention, signal = self._moved[device]
        return attention.with_window(window), signal.with_window(window)

    def rewrite(self, other: Layouts) -> None:
        """Write other layouts into the tables that kernels were given of these; see `Packing.rewrite`."""
        for attention, signal in self._moved.values():
            attention.rewrite(other.attention)
            signal.rewrite(other.signal)


class ListPass:
    """A pass over lists, or over the query blocks of one behind blocks whose keys and values are kept; see `Call`.

    Args:
        layouts: the packing of the lists.
        readings: takes what the layers show.
        kept: what is kept of the tokens before the pass's own, or the blocks of which it is; None if nothing is.
    """

    key_rows: torch.Tensor | None = None

    def __init__(self, layouts: Layouts, readings: Readings, kept: Sequence[KeptBlock] | Behind | None = None) -> None:
        self.layouts, self.readings, self.kept = layouts, readings, kept
        self.first = layouts.attention.first  # what is read of the packed tokens starts there
        self.signal_rows: torch.Tensor = layouts.signal.signal - self.first
        self._rows: dict[torch.device, torch.Tensor] = {}
        if readings.scope.layout.readout.normalisation == "documents" and kept is None:
            spans = layouts.signal.spans(DOCUMENT)
            self.key_rows = torch.from_numpy(np.concatenate([np.arange(start, stop) for _, _, start, stop in spans]))

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """See `Call.attend`."""
        attention, signal = self.layouts.on(q.device, window)
        if q.device not in self._rows:
            self._rows[q.device] = self.signal_rows.to(q.device)
        rows, keys = self._rows[q.device], self._behind_kept("keys", layer, k)
        if layer == self.readings.scope.stop:  # nothing needs its result, and its values may not have been kept
            self.readings.add(layer, q[rows], keys, scale, None, signal)
            raise Enough
        values = self._behind_kept("values", layer, v)
        out, lse = block_attention(q, keys, values, attention, scale=scale)
        if layer in self.readings.scope.heads:
            self.readings.add(layer, q[rows], keys, scale, lse[rows], signal)
        return out

    def signal(self, layer: int, q: torch.Tensor, k: torch.Tensor, scale: float, window: int | None) -> None:
        """See `Call.signal`."""
        _, signal = self.layouts.on(q.device, window)
        if self.key_rows is not None:  # the kernels want a key for every token; nothing looks at the others
            whole = k.new_zeros(signal.tokens, *k.shape[1:])
            k = whole.index_copy_(0, self.key_rows.to(k.device), k)
        self.readings.add(layer, q, self._behind_kept("keys", layer, k), scale, None, signal)

    def _behind_kept(self, what: What, layer: int, own: torch.Tensor) -> torch.Tensor | Paged:
        if self.kept is None:
            return own
        if not isinstance(self.kept, Behind):
            self.kept = Behind(self.kept, self.layouts.signal.tokens - self.first)
        return self.kept.read(what, layer, own)


class _DocumentPass:
    """A pass over an instruction and documents without a query, whose keys and values are kept; see `Call`."""

    signal_rows = torch.empty(0, dtype=torch.int64)
    key_rows: torch.Tensor | None = None

    def __init__(self, context: Context, positions: np.ndarray, form: Form, stride: int, layers: int) -> None:
        self.layouts = Layouts([context], causal=False, signal=[], positions=positions)
        self.form, self.layers, self.first = form, layers, context.instruction
        self.sizes = list(context.documents)  # of what is kept of each
        self.places: torch.Tensor | None = None  # where that stands among the documents' tokens, if it is not all
        if stride > 1:
            kept = [strided(length, stride) for length in context.documents]
            starts = itertools.accumulate(context.documents, initial=0)
            self.sizes = [len(places) for places in kept]
            places = [start + i for start, own in zip(starts, kept, strict=False) for i in own]
            self.places = torch.tensor(places, dtype=torch.int64)
        # One tensor for each block, into which its layers are written; and the slots of each.
        self._wholes: list[torch.Tensor] = []
        self._slots: list[list[torch.Tensor]] = []
        self._alike = True

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        self._keep(layer, k)
        self._keep(self.layers + layer, v)
        return block_attention(q, k, v, self.layouts.on(q.device, window)[0], scale=scale)[0]

    def signal(self, layer: int, q: torch.Tensor, k: torch.Tensor, scale: float, window: int | None) -> None:
        self._keep(layer, k)

    def blocks(self) -> list[KeptBlock]:
        """What is kept of the instruction and of each document."""
        if self._alike:
            return [KeptBlock((whole,)) for whole in self._wholes]
        # Copies: a view would keep the slots in memory that were made for layers of another shape.
        return [KeptBlock(tuple(x.clone() for x in slots)) for slots in self._slots]

    def _keep(self, slot: int, x: torch.Tensor) -> None:
        """Write the keys or values of a layer; the instruction's as computed: every block sees it."""
        documents = x[self.first :]
        if self.places is not None:
            self.places = self.places.to(x.device)
            documents = documents.index_select(0, self.places)
        parts = [x[: self.first], *compressed(documents, self.form).contiguous().split(self.sizes)]
        if not self._wholes:
            self._wholes = [part.new_empty(2 * self.layers - 1, *part.shape) for part in parts]
            self._slots = [list(whole.unbind()) for whole in self._wholes]
        for slots, part in zip((self._slots[0], self._slots[-1]), (parts[0], parts[-1]), strict=True):
            place = slots[slot]
            self._alike &= (place.shape, place.dtype, place.device) == (part.shape, part.dtype, part.device)
        if not self._alike:
            for slots, part in zip(self._slots, parts, strict=True):
                slots[slot] = torch.empty_like(part)
        instruction, *places = (slots[slot] for slots in self._slots)
        instruction.copy_(parts[0])
        if places:
            torch._foreach_copy_(places, parts[1:])  # one launch, or a few


@dataclass(frozen=True, slots=True)
class Packed:
    """Lists laid out for one forward pass, in which none sees another.

    Args:
        ids: int64 (T,), the token ids.
        positions: int64 (T,), the position of each token.
        call: the object that computes attention in the pass; see `Decoder.run`.
        answers: where the first query block of each list ends among the T, with what has been answered.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    call: ListPass
    answers: tuple[int, ...]

    def readings(self) -> list[Reading]:
        """One per list, once the pass has been made; with gradients if it was."""
        readings = self.call.readings
        return readings.split(readings.gather())


@dataclass(frozen=True, slots=True)
class LaidOut:
    """Lists side by side, as the tokens of one pass.

    Args:
        ids: int64, their tokens, without those of blocks that were read before.
        positions: int64 (T,), of all tokens.
        contexts: token counts of each list.
        starts: where each list starts among all tokens.
    """

    ids: np.ndarray
    positions: np.ndarray
    contexts: list[Context]
    starts: list[int]


def lay_out(prompts: Sequence[Prompt], layout: Layout, kept: int = 0) -> LaidOut:
    """Lay lists out side by side.

    Args:
        prompts: the prompts of the lists.
        layout: says where their tokens stand.
        kept: the number of blocks, from the first, that were read before: their ids are left out.
    """
    contexts = [prompt.context for prompt in prompts]
    positions = []
    for prompt, context in zip(prompts, contexts, strict=True):
        own, at = positions_of(context, layout), context.instruction
        for block in prompt.documents:
            if block.places is not None:
                own[at : at + len(block.ids)] = context.instruction + np.array(block.places, dtype=np.int64)
            at += len(block.ids)
        positions.append(own)
    ids = [
        ids
        for prompt in prompts
        for ids in (prompt.instruction, *(b.ids for b in prompt.documents), *(q.ids for q in prompt.queries))
    ]
    *starts, _ = itertools.accumulate((prompt.size for prompt in prompts), initial=0)
    return LaidOut(
        np.fromiter(itertools.chain.from_iterable(ids[kept:]), dtype=np.int64),
        np.concatenate(positions),
        contexts,
        starts,
    )


def pack(prompts: Sequence[Prompt], scope: Wanted, kept: Sequence[KeptBlock] | None = None) -> Packed:
    """Lay lists out for one forward pass.

    Args:
        prompts: the prompts of the lists.
        scope: the parts of the attention to read.
        kept: for a single list, its instruction and its documents, in order, as `read_documents` read them before.
    """
    laid, layout = lay_out(prompts, scope.layout, len(kept or ())), scope.layout
    positions, signal, answers = laid.positions, [], []
    counted = [_counted(prompt) for prompt in prompts]
    for prompt, context, start in zip(prompts, laid.contexts, laid.starts, strict=True):
        at = start + context.instruction + sum(context.documents)
        answers.append(at + len(prompt.queries[0].ids))
        for query in prompt.queries:
            signal += [at + row for row in query.signal]
            at += len(query.ids)
    gaps = any(len(columns) < len(context.documents) for context, columns in counted)
    spans = [context for context, _ in counted] if gaps else None
    first = sum(block.tokens for block in kept or ())
    layouts = Layouts(laid.contexts, layout.require_prompt().mask == "causal", signal, positions, spans, first)
    readings = Readings(scope, layouts.signal, [columns for _, columns in counted])
    call = ListPass(layouts, readings, kept)
    positions, answers = positions[call.first :], [end - call.first for end in answers]
    return Packed(torch.from_numpy(laid.ids), torch.from_numpy(positions), call, tuple(answers))


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
        decoder: the model that reads.
        prompts: the prompts of the lists.
        scope: the parts of the attention to read.
        kept: the instruction and documents that were read before; see `pack`.

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
        decoder: the model that reads.
        instruction: the tokens of the instruction.
        documents: the tokens of each document.
        layout: one with a block mask and positions that restart.
        form: the form in which the documents are kept. The instruction is kept as it is computed.

    Returns:
        What is kept of the instruction, and of each document: of its tokens those that the query will see.
    """
    context = Context([len(ids) for ids in documents], (), len(instruction))
    positions = positions_of(context, layout)
    call = _DocumentPass(context, positions, form, layout.stride, decoder.signal_layer + 1)
    ids = np.fromiter(itertools.chain(instruction, *documents), dtype=np.int64, count=len(positions))
    with torch.inference_mode(), idle_threads():
        decoder.run(torch.from_numpy(ids), torch.from_numpy(positions), call)
    return call.blocks()


def positions_of(context: Context, layout: Layout) -> np.ndarray:
    """Positions of a context's tokens, in packed order: int64 (T,)."""
    first, apart = context.instruction, layout.require_prompt().positions == "restart"
    start = _query_start(context, layout)
    runs = [(0, first)]
    runs += [(first, length) for length in (context.documents if apart else (sum(context.documents),))]
    runs += [(start, length) for length in context.queries]
    begins, lengths = np.array(runs, dtype=np.int64).T
    ends = np.cumsum(lengths)
    positions: np.ndarray = np.arange(ends[-1]) + np.repeat(begins - (ends - lengths), lengths)
    return positions


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
        window: the number of positions that the layer sees back; see `sightline.kernels.Packing`.
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
