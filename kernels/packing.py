"""The layout of a packed batch of contexts: which token sees which, as offsets, never as a mask.

Every block of a context, be it the instruction, a document or a query block, sees one span of earlier tokens (its
*prefix*) and itself:

| block | its prefix | itself |
|---|---|---|
| instruction | nothing | causal, or whole for encoders |
| document | the instruction | causal, or whole |
| query block | the instruction and all documents | causal, or whole |

So the mask is two intervals per token, and whatever walks it (the reference, the CPU path, the Triton kernels) needs no
more than that. Several query blocks over the same documents do not see one another. (BlockRank, 2025, section 4.1.)

A sliding window (Mistral 7B, 2023, section 2) takes away what stands too far back by the positions that the model is
given, which need not be the places in memory: where positions restart at every document, a window cuts each one alike.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from .errors import input_error

__all__ = ["BLOCK", "DOCUMENT", "INSTRUCTION", "QUERY", "SEEN", "Context", "Packing", "of_handle"]

INSTRUCTION, DOCUMENT, QUERY = range(3)
SEEN = ["start", "stop", "prefix_start", "prefix_stop"]  # a block's own tokens, and the earlier ones that it sees
# Then the later tokens that see the block, what it is, its context, and its place there among its kind.
BLOCK = np.dtype([(name, np.int64) for name in (*SEEN, "readers_start", "readers_stop", "kind", "context", "index")])
_MAX_TOKENS = 2**31 - 1
_MAX_DRAWN = 200

_HANDLES = itertools.count()
_ALIVE: weakref.WeakValueDictionary[int, Packing] = weakref.WeakValueDictionary()

T = TypeVar("T")


class Context(NamedTuple):
    """Token counts of one context, in the order in which its tokens are packed: instruction, documents, query blocks.

    Args:
        documents: the number of tokens of each document, which may be 0.
        queries: the number of tokens of each query block, at least one each. Query blocks read the same documents and
            do not see one another.
        instruction: the number of tokens before the documents (template, query prefix), which every document sees. May
            be 0.
    """

    documents: Sequence[int]
    queries: Sequence[int] = ()
    instruction: int = 0


class Packing:
    """Contexts packed one after another, without padding.

    Args:
        contexts: the token counts, as given.
        causal: whether a token sees only itself and what comes before it in its own block (decoders), or its whole
            block (encoders).
        device: the device on which the kernels look for the offsets.
        positions: (T,), the position of each token, by which windows go. If None, those of each context count from 0.
        window: the length of the sliding window: a token at position p does not see keys at positions up to ``p -
            window``. If None, there is no limit. Only if ``causal``.

    Attributes:
        tokens: T, the number of all tokens of all contexts.
        documents: N, the number of documents of the context that has most; columns of `sightline.kernels.block_lse`.
        contexts: the counts, as given.
        blocks: structured array (B,) of the type `BLOCK`, whose fields are int64: one row per block that has tokens, in
            packed order.
        signal: int64 (R,), on `device`: the packed indices of the signal tokens. They are all tokens of all query
            blocks unless `with_signal` chose others.
        document_tokens: the number of tokens of all documents of a context, for each query block that has signal
            tokens, in packed order: the sizes of what `sightline.kernels.token_mass` returns.
        first: the packed index of the first token that has a query; 0 unless `behind` chose another.
        spare: the number of rows of zeros behind the tables of tiles; 0 unless `reserve` chose another.
        handle: a number by which `of_handle` finds the layout, for as long as it is in use elsewhere.

    Raises:
        InputError: if a count is not a whole number, negative, or zero for a query block; if there is no token, or more
            than 2^31 - 1; if there is not one position for each token; if the window is less than 1, or not causal.

    Example:
        >>> layout = Packing([Context(documents=[2, 1], queries=[2], instruction=1)])
        >>> layout.tokens, layout.documents, layout.signal.tolist()
        (6, 2, [4, 5])
        >>> print(layout.draw())
        I 0 |#.....
        D 1 |##....
        D 2 |###...
        D 3 |#..#..
        Q 4 |#####.
        Q 5 |######
        >>> print(layout.with_window(3).draw())
        I 0 |#.....
        D 1 |##....
        D 2 |###...
        D 3 |...#..
        Q 4 |..###.
        Q 5 |...###
    """

    def __init__(
        self,
        contexts: Sequence[Context],
        *,
        causal: bool = True,
        device: torch.device | str = "cpu",
        positions: Sequence[int] | np.ndarray | None = None,
        window: int | None = None,
    ) -> None:
        self.contexts = tuple(_checked(context, i) for i, context in enumerate(contexts))
        self.causal = bool(causal)
        self.device = _with_number(device)
        self.documents = max((len(context.documents) for context in self.contexts), default=0)
        blocks: list[tuple[int, ...]] = []
        at = 0
        for number, (documents, queries, instruction) in enumerate(self.contexts):
            first, then = at + instruction, at + instruction + sum(documents)
            end = then + sum(queries)
            blocks.append((at, first, at, at, first, end, INSTRUCTION, number, 0))
            for i, span in enumerate(_spans(first, documents)):
                blocks.append((*span, at, first, then, end, DOCUMENT, number, i))
            for i, span in enumerate(_spans(then, queries)):
                blocks.append((*span, at, then, end, end, QUERY, number, i))
            at = end
        if not 0 < at <= _MAX_TOKENS:
            raise input_error(f"a layout of {at} tokens cannot be laid out; it takes 1 to {_MAX_TOKENS}")
        self.blocks = np.array([block for block in blocks if block[1] > block[0]], dtype=BLOCK)
        self.tokens = at
        if positions is None:
            positions = np.concatenate([np.arange(_size(context)) for context in self.contexts])
        self.positions = np.asarray(positions, dtype=np.int64)
        if self.positions.shape != (at,):
            raise input_error(f"positions have the shape {self.positions.shape}, but there are {at} tokens")
        self.first = self.spare = 0
        self.window = self._checked_window(window)
        self._kept: dict[object, tuple[object, Callable[[Packing], object]]] = {}
        self._register()
        rows = [np.arange(start, stop) for _, _, start, stop in self.spans(QUERY)]
        self._set_signal(np.concatenate(rows) if rows else np.empty(0, dtype=np.int64))

    def with_signal(self, rows: Sequence[int] | torch.Tensor) -> Packing:
        """Return the same layout with other signal tokens.

        Args:
            rows: packed indices, strictly increasing, each inside a query block.

        Raises:
            InputError: if the indices are not like that.
        """
        if isinstance(rows, torch.Tensor) and (rows.is_floating_point() or rows.dtype == torch.bool):
            raise input_error(f"signal tokens are given by their packed indices, not by {rows.dtype}")
        chosen = np.asarray(rows.tolist() if isinstance(rows, torch.Tensor) else rows)
        if chosen.ndim != 1 or (len(chosen) and chosen.dtype.kind not in "iu"):
            raise input_error("signal tokens are given as a flat list of packed indices")
        if (np.diff(chosen) <= 0).any():
            raise input_error("signal tokens must be given in increasing order, each once")
        out = self._changed()
        out._set_signal(chosen.astype(np.int64))
        return out

    def with_window(self, window: int | None) -> Packing:
        """Return the same layout with another sliding window, or with none. It is made once for each.

        Raises:
            InputError: if the window is less than 1, or the layout is not causal.
        """
        if window == self.window:
            return self

        checked = self._checked_window(window)
        return self.keep(("window", window), lambda layout: layout._changed(window=checked))

    def behind(self, first: int) -> Packing:
        """Return the same layout with only kept keys and values for the tokens before ``first``.

        `sightline.kernels.block_attention` then takes and gives only the rows of the other tokens, without gradients.
        The layout is made once for each place.

        Raises:
            InputError: if no block starts there.
        """
        if first == self.first:
            return self
        if first not in self.blocks["start"]:
            raise input_error(f"no block starts at token {first}, so nothing can be read from there on")
        return self.keep(("behind", first), lambda layout: layout._changed(first=int(first)))

    def reserve(self, spare: int) -> Packing:
        """Return the same layout with room in its tables for others, which `rewrite` writes there.

        Args:
            spare: the number of tiles, and of tiles that are cut into parts, that another layout may have more. How
                tiles are cut is rounded, so a layout of fewer tokens may have more of them: up to one for each token
                that has a query.
        """
        return self._changed(spare=spare)

    @property
    def queried(self) -> np.ndarray:
        """The `blocks` from `first` on."""
        blocks: np.ndarray = self.blocks[self.blocks["start"] >= self.first]
        return blocks

    def _changed(self, **changes: object) -> Packing:
        out = object.__new__(Packing)
        out.__dict__.update(self.__dict__ | {"_kept": {}} | changes)
        out._register()
        return out

    def _register(self) -> None:
        self.handle = next(_HANDLES)
        _ALIVE[self.handle] = self

    def _checked_window(self, window: int | None) -> int | None:
        if window is None:
            return None
        if window < 1:
            raise input_error(f"a window of {window} tokens hides a token from itself; it takes at least 1")
        if not self.causal:
            raise input_error("a window needs a causal layout: it says how far back a token sees")
        return int(window)

    def near(self, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Tell whether the window lets rows see keys, by their packed indices (broadcast against one another): bool."""
        if self.window is None:
            return np.ones(np.broadcast_shapes(rows.shape, keys.shape), dtype=bool)
        near: np.ndarray = self.positions[keys] > self.positions[rows] - self.window
        return near

    def to(self, device: torch.device | str) -> Packing:
        """Return the same layout on another device."""
        device = _with_number(device)
        if device == self.device:
            return self
        return self._changed(device=device, signal=self.signal.to(device))

    def _set_signal(self, rows: np.ndarray) -> None:
        owner = self.owner(rows)
        outside = (owner < 0) | (self.blocks["kind"][owner] != QUERY)
        if outside.any():
            raise input_error(
                f"token {rows[outside][0]} is not in a query block; signal tokens are those of query blocks"
            )
        self.signal_rows = rows
        self.signal_blocks = owner
        self.signal = torch.from_numpy(rows).to(self.device)
        read_by = self.blocks["context"][np.unique(owner)].tolist()
        self.document_tokens = tuple(sum(self.contexts[context].documents) for context in read_by)

    def owner(self, tokens: np.ndarray) -> np.ndarray:
        """Return the row of `blocks` that each packed index lies in; -1 outside of the layout.

        int64, shaped like ``tokens``.
        """
        rows = np.searchsorted(self.blocks["start"], tokens, side="right") - 1
        return np.where((tokens >= 0) & (tokens < self.tokens), rows, -1)

    def spans(self, kind: int) -> list[tuple[int, int, int, int]]:
        """List the blocks of a kind that have tokens: (context, index in it, start, stop), in packed order."""
        chosen = self.blocks[self.blocks["kind"] == kind]
        return list(zip(*(chosen[field].tolist() for field in ("context", "index", "start", "stop")), strict=True))

    @property
    def signal_contexts(self) -> np.ndarray:
        """Return the context of each signal token, increasing: int64 (R,)."""
        contexts: np.ndarray = self.blocks["context"][self.signal_blocks]
        return contexts

    @property
    def pairs(self) -> int:
        """Count (query, key) pairs, whatever the window. A head's forward pass costs 4 * D FLOPs for each."""
        blocks = self.blocks
        size = blocks["stop"] - blocks["start"]
        own = size * (size + 1) // 2 if self.causal else size * size
        return int((own + size * (blocks["prefix_stop"] - blocks["prefix_start"])).sum())

    def mask(self) -> torch.Tensor:
        """Make the dense mask, bool (T, T), True where row sees column, for references and small drawings."""
        seen = torch.zeros(self.tokens, self.tokens, dtype=torch.bool)
        for start, stop, prefix_start, prefix_stop in self.blocks[SEEN].tolist():
            seen[start:stop, prefix_start:prefix_stop] = True
            own = torch.ones(stop - start, stop - start, dtype=torch.bool)
            seen[start:stop, start:stop] = own.tril() if self.causal else own
        if self.window is not None:
            every = np.arange(self.tokens)
            seen &= torch.from_numpy(self.near(every[:, None], every))
        return seen.to(self.device)

    def draw(self) -> str:
        """Draw the mask as text: a line per token, ``#`` for each token that it sees.

        Raises:
            InputError: if there are more than 200 tokens.
        """
        if self.tokens > _MAX_DRAWN:
            raise input_error(f"a drawing holds {_MAX_DRAWN} tokens, this layout has {self.tokens}; draw a smaller one")
        kinds = np.repeat(self.blocks["kind"], self.blocks["stop"] - self.blocks["start"])
        width = len(str(self.tokens - 1))
        return "\n".join(
            f"{'IDQ'[kind]} {i:>{width}} |" + "".join("#" if seen else "." for seen in row)
            for i, (kind, row) in enumerate(zip(kinds, self.mask().tolist(), strict=True))
        )

    def keep(self, key: object, make: Callable[[Packing], T]) -> T:
        """Return what ``make`` returns for this layout, made once for each key, so that layers share the work."""
        if key not in self._kept:
            self._kept[key] = make(self), make
        return self._kept[key][0]  # type: ignore[return-value]

    def rewrite(self, other: Packing) -> None:
        """Write another layout into the tables that kernels were given of this one.

        What was recorded with this layout, as a CUDA graph, then computes over the other. Tables that are longer than
        the other's end in zeros, which kernels pass over. Nothing else of this layout changes.

        Args:
            other: a layout of the same kind, on any device.

        Raises:
            InputError: if the other has longer tables, or needs more room for partial results.
        """
        for key, (kept, make) in self._kept.items():
            _write(kept, other.keep(key, make), key)

    def __repr__(self) -> str:
        counts = f"{len(self.contexts)} contexts, {len(self.blocks)} blocks, {self.tokens} tokens"
        kind = "bidirectional" if not self.causal else f"window {self.window}" if self.window else "causal"
        return f"Packing({counts}, {kind}, {self.device})"


def _write(kept: object, other: object, key: object) -> None:
    """Write what another layout keeps under a key over what this one keeps."""
    if isinstance(kept, Packing) and isinstance(other, Packing):
        kept.rewrite(other)
    elif isinstance(kept, torch.Tensor) and isinstance(other, torch.Tensor):
        if len(other) > len(kept):
            raise input_error(f"a table of {len(other)} rows ({key}) does not go into one of {len(kept)}")
        kept[: len(other)].copy_(other)
        kept[len(other) :].zero_()
    elif isinstance(kept, tuple) and isinstance(other, tuple):
        for mine, theirs in zip(kept, other, strict=True):
            _write(mine, theirs, key)
    elif isinstance(kept, int) and isinstance(other, int) and other > kept:
        raise input_error(f"{key} takes {other}, more than the {kept} of this layout")


def of_handle(handle: int) -> Packing:
    """Return the layout with this `Packing.handle`. Operators of torch take numbers, not objects.

    Raises:
        InputError: if nobody holds the layout any longer.
    """
    layout = _ALIVE.get(handle)
    if layout is None:
        raise input_error(
            f"there is no layout {handle} any more; keep it until compiled code has run, backward passes too"
        )
    return layout


def _size(context: Context) -> int:
    return context.instruction + sum(context.documents) + sum(context.queries)


def _with_number(device: torch.device | str) -> torch.device:
    """A device as tensors on it name it: of ``cuda``, which one."""
    device = torch.device(device)
    return device if device.type == "cpu" else torch.empty(0, device=device).device


def _spans(start: int, counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Start and stop of blocks that stand one after another, from their token counts."""
    return itertools.pairwise(itertools.accumulate(counts, initial=start))


def _checked(context: Context, number: int) -> Context:
    try:
        documents, queries, instruction = context
        counts = [
            tuple(map(operator.index, documents)),
            tuple(map(operator.index, queries)),
            (operator.index(instruction),),
        ]
    except (TypeError, ValueError):
        raise input_error(
            f"context {number} is {context!r}; it takes Context(documents, queries, instruction) of token counts"
        ) from None
    for name, values in zip(("document", "query block", "instruction"), counts, strict=True):
        for i, value in enumerate(values):
            if value < 0 or (value == 0 and name == "query block"):
                least = 1 if name == "query block" else 0
                raise input_error(f"context {number}, {name} {i}: {value} tokens; it takes at least {least}")
    return Context(counts[0], counts[1], counts[2][0])
