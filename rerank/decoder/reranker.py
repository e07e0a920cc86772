"""Reranking with a decoder: one engine, over which BlockRank, ICR, QRHead, CoRe, Qwen3-Reranker etc. are layouts."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ...documents import Document
from ...errors import InputError, ModelError
from ...kernels import Context, choose
from ...kernels.threads import idle_threads
from ...models.cache import DocumentCache, cache_key
from ...models.checkpoints import load_config, load_decoder, revision_of
from ...models.decoder import Decoder
from ...models.reader import DecoderForm, DecoderReading, DocumentStates, StoredBlock
from ...names import DECODERS, folder_of
from ..base import Request, Reranker, Scored
from ..heads import find_heads
from ..layout import Layout, check_kind, load_layout
from ..ranking import below
from ..requests import Candidate, check_request
from .forward import Wanted, last_position, out_of_reach, read_documents
from .graphs import Graphs
from .hidden import HIDDEN
from .kept import KeptBlock
from .prompt import Block, Prompt, Template, strided
from .readouts import AttentionReadout, DecoderReadout, ListScores

__all__ = ["DecoderReranker", "saved_layout", "with_heads", "within_positions"]

logger = logging.getLogger(__name__)

_ROUTE_FRACTION = 0.57  # layer 16 of 28, as in BlockSearch
_STORED_TOKENS = 4096  # of documents read at a time for an index, which bounds the memory for their keys and values

_States = Sequence[DocumentStates | StoredBlock | None]


@dataclass(slots=True)
class _Pending:
    """One list in one order, while it is read in one pass or several."""

    number: int
    order: list[int]
    prompts: list[Prompt]
    parts: list[Any]


class DecoderReranker(Reranker):
    """Ranks by the attention of a decoder's signal tokens, or by its hidden states, as the layout's readout says.

    Several lists are packed into one forward pass without seeing one another. That fills a GPU; a CPU, which multiplies
    30 tokens at a time as fast as 3,000, gains little. A list longer than ``token_budget`` is read in groups of
    documents. If the layout's mask is ``block``, this changes no score beyond rounding. If documents see one another,
    the groups are ranked separately and their better halves meet again (a tournament), and the ranking says so. The
    same happens if a list exceeds the model's positions or the layout's ``max_documents``, or if sliding windows hide a
    document from the query in all layers that are read.

    Evidence marks what got the attention that is read. With a readout of hidden states, it marks what the scored token
    attends to, averaged over all layers and heads. That is a hint at what the score depends on, not its parts.

    Args:
        model: a name that `load_decoder` loads, with or without ``hf:``, or a `Decoder`.
        layout: a `Layout` or the name of one. If None, the layout that was saved with the model, else
            ``icr-block-heads`` for ``smollm2`` and ``icr`` for others.
        name: the name that you asked for. If None, ``hf:MODEL#LAYOUT``.
        heads: a file that ``sightline heads`` wrote, or a list of ``layer-head``. If None, what the layout says.
        token_budget: the number of tokens in one forward pass.
        cache: a cache that keeps documents between queries, if the layout reads them independently of the query. If
            None, nothing is kept.
        route: the number of documents of a longer list to rank: those with the largest logits at ``route_layer``. The
            others stand below them in the order of these logits (BlockSearch, 2026). If None, all are ranked at once.
            Like ``cache``, this is for readouts of attention.
        route_layer: the layer whose logits decide. If None, the layer at 0.57 of all layers, or the signal layer if
            that is lower.
        seed: the seed of shuffles and random ids.
        cuda_graphs: whether passes over kept documents are recorded as CUDA graphs, which spares the host the work of
            starting each kernel. The first list of a kind takes longer. Lists share a graph if the numbers of their
            documents, of all tokens of these, and of their query's tokens are about the same; the last 16 graphs are
            held. Documents that an index or a cache keeps in fewer bytes than the model computes in are read without.
        loading: options of `load_decoder`: ``revision``, ``dtype``, ``device``, ``device_map``,
            ``quantization_config``, ``compile``.

    Raises:
        ModelError: if the model cannot be loaded, or the layout does not fit it.
        InputError: if an option cannot be used.

    Example:
        >>> reranker = DecoderReranker("Qwen/Qwen3-0.6B", "icr")  # doctest: +SKIP
        >>> reranker.rank("what do cats do", ["Iron rusts.", "Cats purr."])[0].document.text  # doctest: +SKIP
        'Cats purr.'
    """

    has_evidence = True
    reading: DecoderReading

    def __init__(
        self,
        model: str | Decoder,
        layout: Layout | str | None = None,
        *,
        name: str | None = None,
        heads: str | Path | Sequence[str] | None = None,
        token_budget: int = 65_536,
        cache: DocumentCache | None = None,
        route: int | None = None,
        route_layer: int | None = None,
        seed: int = 0,
        cuda_graphs: bool = False,
        **loading: Any,
    ) -> None:
        model = model.removeprefix("hf:") if isinstance(model, str) else model
        if layout is None:
            layout = saved_layout(model if isinstance(model, str) else model.name)
        layout = load_layout(layout) if isinstance(layout, str) else layout
        check_kind(layout, "decoder")
        if token_budget < 1 or (route is not None and route < 1) or (route_layer is not None and route_layer < 0):
            raise InputError("token_budget and route must be at least 1, route_layer at least 0")
        if layout.readout.hidden and (cache is not None or route is not None):
            raise InputError(
                f"layout {layout.name!r} reads hidden states, which depend on the query, so it takes no "
                + ("cache: no document can be kept" if cache is not None else "route: it reads no attention")
            )
        if (cache is not None or cuda_graphs) and not layout.keepable:
            what = "cache" if cache is not None else "cuda_graphs"
            raise InputError(
                f"layout {layout.name!r} reads documents together with the query or with one another, so they cannot "
                f"be kept; take a layout such as blockrank-cached or icr-block, or no {what}"
            )
        if isinstance(model, Decoder):
            model_name, revision, layer_count = model.name, model.revision, model.signal_layer + 1
            positions = model.positions
        else:
            config = load_config(model, loading.get("revision"))
            model_name, revision = model, revision_of(model, config, loading.get("revision"))
            layer_count = int(config.num_hidden_layers)
            positions = getattr(config, "max_position_embeddings", None)
        layout = within_positions(layout, positions, model_name)
        layout = with_heads(layout, heads, model_name, revision)
        kind: type[DecoderReadout[Any]] = HIDDEN.get(layout.readout.readout, AttentionReadout)
        needs = kind.needs(layout, layer_count)
        decoder = model if isinstance(model, Decoder) else load_decoder(model, **needs, **loading)
        self.decoder, self.spec, self.layout, self.readout = decoder, layout, layout.name, layout.readout.readout
        self.model, self.revision = decoder.name, decoder.revision
        self.name = name or f"hf:{decoder.name}#{layout.name}"
        self.token_budget, self.route, self.seed = token_budget, route, seed
        self.keepable = layout.keepable and not layout.readout.hidden
        self.keep_documents(cache)
        self.template = self.window = Template(layout, decoder.tokenizer, decoder.name)
        self._readout: DecoderReadout[Any] = kind(decoder, self.template, layer_count)
        if cuda_graphs:
            self._attention.graphs = Graphs(decoder)
        self.list_free, self.calibration = layout.list_free, layout.relevance
        layer = needs.get("signal_layer", decoder.signal_layer)
        routing = int(_ROUTE_FRACTION * layer_count) if route_layer is None else route_layer
        self.route_layer = min(routing, decoder.signal_layer)
        read = [] if layout.readout.hidden else layout.readout.signal_layers(layer_count)
        self._reach = self._farthest(read)
        if (start := layout.require_prompt().query_position) is not None and self._reach is not None:
            longest = Context([layout.max_block_tokens], [1], len(self.template.instruction("")))
            if out_of_reach(longest, layout, self._reach, 0):
                raise ModelError(
                    f"layout {layout.name!r} puts the query at position {start}, but the layers of {decoder.name!r} "
                    f"that are read see {self._reach} positions back, so they see no document; give a smaller "
                    "query_position, or read heads of other layers"
                )
        fingerprint = self._fingerprint() if layout.keepable else ""
        last = layer if route is None else max(layer, self.route_layer)
        self.reading = DecoderReading(self.name, self.model, self.revision, self.layout, fingerprint, last)
        self.backend = choose(decoder.device, decoder.dtype, decoder.head_dim).backend

    def head_scores(self, query: str, documents: Sequence[Candidate], *, calibrate: bool = True) -> np.ndarray:
        """Score the documents by each head that is read, float64 (H, N): layer after layer, heads in order.

        Args:
            query: the text of the query.
            documents: the documents, in the order in which they are to stand.
            calibrate: whether to calibrate as the layout says. If False, the attention is read as it is.

        Raises:
            InputError: if the layout reads hidden states, or the request cannot be served.
        """
        prompt, kept = self.prompt(query, check_request(query, documents), 0), None
        attention = self._attention
        if self.spec.stride > 1:
            prompt, kept = self._keep(prompt)
        return attention.by_head(prompt, calibrate=calibrate, kept=kept)

    @property
    def wanted(self) -> Wanted:
        """What a pass reads of the attention.

        Raises:
            InputError: if the layout reads hidden states.
        """
        return self._attention.wanted

    @property
    def _attention(self) -> AttentionReadout:
        if not isinstance(self._readout, AttentionReadout):
            raise InputError(f"layout {self.layout!r} reads hidden states, not the attention of heads; take another")
        return self._readout

    def orders(self, blocks: Sequence[Document]) -> Iterator[tuple[list[int], int]]:
        """Iterate over the orders in which the documents are to stand, each with the seed of its ids."""
        places = list(range(len(blocks)))
        if self.spec.order_free or self.template.spec.shuffles:
            # The same whatever order they are given in, so that not even rounding depends on it.
            places.sort(key=lambda i: (blocks[i].contents, blocks[i].title))
        if self.template.spec.shuffles:
            for number in range(self.template.spec.shuffles):
                seed = self.seed * 1000 + number
                yield random.Random(seed).sample(places, len(places)), seed
        else:
            yield places[::-1] if self.template.spec.order == "reversed" else places, self.seed

    def prompt(self, query: str, blocks: Sequence[Document], seed: int) -> Prompt:
        """Lay a list out, with its documents in the order in which they stand.

        Args:
            query: the text of the query.
            blocks: the documents of the list.
            seed: the seed of random ids.
        """
        return self.template.prompt(query, blocks, seed, remember=self.cache is not None)

    def misfit(self, prompt: Prompt) -> str:
        """Say why the model cannot read a list in one pass, and what to do about it; "" if it can.

        The reason is that it has too few positions, or sliding windows so narrow that a document is not seen where
        attention is read.
        """
        context, decoder = prompt.context, self.decoder
        last = last_position(context, self.spec)
        if decoder.positions is not None and last >= decoder.positions:
            return (
                f"{decoder.name!r} has {decoder.positions} positions, and the list takes {last + 1}; give fewer or "
                "shorter documents, a shorter query, or a smaller query_position or max_block_tokens"
            )
        if self._reach is None or not (signal := prompt.queries[0].signal):
            return ""
        row = signal[0] if self.readout == "mass" else signal[-1]
        hidden = out_of_reach(context, self.spec, self._reach, row)
        return (
            f"the layers of {decoder.name!r} that are read see {self._reach} positions back from the query, which "
            f"leaves out {len(hidden)} of {len(context.documents)} documents; give fewer or shorter documents, a "
            "smaller query_position or max_block_tokens, or read heads of other layers"
            if hidden
            else ""
        )

    def _farthest(self, layers: Sequence[int]) -> int | None:
        """How far back a signal token sees a document in the layers that are read; None for everything.

        Mass may be found in any of them; of what is averaged in logarithms none may be missing, nor where lists are
        routed.
        """
        windows = [self.decoder.windows[layer] for layer in layers]
        limits = [window for window in windows if window is not None]
        if self.readout == "mass" and len(limits) < len(windows):
            limits = []
        elif self.readout == "mass":
            limits = [max(limits)]
        if self.route is not None and (window := self.decoder.windows[self.route_layer]) is not None:
            limits.append(window)
        return min(limits, default=None)

    # -- documents that an index keeps -------------------------------------------------------------------------------

    def form(self, kind: Literal["fp16", "int8"]) -> DecoderForm:
        """Return the form in which an index keeps this decoder's documents.

        Args:
            kind: the number format, ``fp16`` or ``int8``.

        Raises:
            InputError: if the layout reads documents together with the query or with one another.
        """
        if not self.spec.keepable:
            raise InputError(
                f"layout {self.layout!r} reads documents together with the query or with one another, so they cannot "
                "be kept; take a layout such as icr-block or blockrank-cached"
            )
        keys = self._instruction.read("keys", 0)
        values = self._instruction.read("values", 0) if self.decoder.signal_layer else keys
        return DecoderForm(self.reading, kind, keys.shape[1], keys.shape[2], values.shape[2])

    def read_stored(self, documents: Sequence[Document], form: DecoderForm) -> Iterator[list[np.ndarray]]:
        """Read documents for an index, a few at a time; see `DecoderReader.read_stored`.

        Raises:
            InputError: if what is kept is of another reading.
            ModelError: if the model's layers have keys and values of several shapes.
        """
        if reason := form.reading.misfit(self.reading):
            raise InputError(f"{self.name} cannot read documents for states of {form.reading.name}: {reason}")
        instruction, layer = self.template.instruction(""), form.reading.layer
        blocks = self.template.documents(documents)
        for group in _groups([len(block.ids) for block in blocks], min(_STORED_TOKENS, self.token_budget)):
            ids = [blocks[i].ids for i in group]
            _, *kept = read_documents(self.decoder, instruction, ids, self.spec, form.kind)
            data = [block.stored(layer) for block in kept]
            sizes = [len(strided(len(tokens), self.spec.stride)) * form.token_bytes for tokens in ids]
            if any(len(part) != size for part, size in zip(data, sizes, strict=True)):
                raise ModelError(
                    f"layers of {self.decoder.name!r} have keys and values of several shapes, so no index can keep them"
                )
            yield data

    def _fingerprint(self) -> str:
        """A hash of what the keys and values of a document follow from, beside its text and the model."""
        prompt = self.spec.require_prompt()
        parts = (
            self.template.instruction(""),
            prompt.separator,
            prompt.block,
            prompt.block_end,
            self.spec.max_block_tokens,
            self.spec.stride,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    @functools.cached_property
    def _instruction(self) -> KeptBlock:
        """The instruction of a keepable layout, read once and kept as computed."""
        decoder, tokens = self.decoder, self.template.instruction("")
        if tokens:
            return read_documents(decoder, tokens, [], self.spec)[0]
        heads = int(getattr(decoder.config, "num_key_value_heads", None) or decoder.heads)
        slots = 2 * decoder.signal_layer + 1
        return KeptBlock((torch.empty(slots, 0, heads, decoder.head_dim, dtype=decoder.dtype, device=decoder.device),))

    def _stored(self, prompt: Prompt, stored: _States) -> dict[tuple[int, ...], KeptBlock]:
        """The blocks that an index keeps, by their tokens."""
        kept: dict[tuple[int, ...], KeptBlock] = {}
        for block, state in zip(prompt.documents, stored, strict=True):
            if state is None:
                continue
            assert isinstance(state, StoredBlock)
            if reason := self.reading.misfit(state.form.reading):
                raise InputError(f"{self.name} cannot use the decoder states that were given: {reason}")
            if state.tokens != (seen := len(strided(len(block.ids), self.spec.stride))):
                raise InputError(
                    f"a document of {seen} tokens came with decoder states of {state.tokens}; they belong to another "
                    "text"
                )
            kept[block.ids] = KeptBlock.of(state, self.reading.layer)
        return kept

    # -- one list ----------------------------------------------------------------------------------------------------

    def _score(self, lists: Sequence[Request]) -> list[Scored]:
        """Lists share forward passes as far as the token budget goes."""
        tokens = any(request.evidence for request in lists)
        given = [(request.query, list(request.documents), request.states) for request in lists]
        with idle_threads():  # what comes between the passes, too
            return [self._as_scored(part) for part in self._score_lists(given, tokens)]

    def _as_scored(self, result: ListScores) -> Scored:
        count, mass = len(result.blocks), None
        if result.shares is not None:
            mass = result.shares.mean(axis=0) if len(result.shares) else np.zeros(count)
        warnings = list(result.notes)
        if not self.spec.order_free and not self.template.spec.shuffles and count > 1:
            warnings.append(
                f"layout {self.layout!r} shows the model the order of the candidates, and scores depend on it; "
                "shuffles=8 ranks by the mean over eight orders"
            )

        def attention(place: int) -> tuple[np.ndarray, np.ndarray]:
            block = result.blocks[place]
            if block is None or result.tokens is None:
                return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
            weights = result.tokens[place].astype(np.float64)
            spans = block.spans[slice(*block.counted)]
            own = (spans[:, 0] >= 0) & (spans[:, 1] > spans[:, 0])
            # Of attention, the template's tokens are a part of the document's mass; else its own tokens share one.
            share, total = (1.0, weights[own].sum()) if mass is None else (mass[place], weights.sum())
            return spans[own], weights[own] * (share / total if total else 0.0)

        return Scored(
            result.scores,
            mass,
            result.shares,
            result.signal,
            [0 if block is None else block.truncated for block in result.blocks],
            attention=attention,
            dtype=str(self.decoder.dtype).removeprefix("torch."),
            backend=self.backend,
            warnings=tuple(warnings),
        )

    # -- scoring -----------------------------------------------------------------------------------------------------

    def _score_lists(self, lists: Sequence[tuple[str, list[Document], _States]], tokens: bool) -> list[ListScores]:
        """Score lists; those that fit share passes, the others are read alone."""
        scored: list[list[tuple[list[int], ListScores]]] = [[] for _ in lists]
        packed: list[tuple[_Pending, Prompt]] = []
        size = 0

        def flush() -> None:
            if not packed:
                return
            parts = self._readout.read([prompt for _, prompt in packed], tokens=tokens)
            for (pending, _), part in zip(packed, parts, strict=True):
                pending.parts.append(part)
                if len(pending.parts) == len(pending.prompts):
                    scores = self._readout.scores(pending.prompts, pending.parts)
                    scored[pending.number].append((pending.order, scores))
            packed.clear()

        for number, (query, blocks, states) in enumerate(lists):
            if not blocks:
                self.prompt(query, [], 0)
                nothing = None if self.spec.readout.hidden else np.zeros((0, 0))
                scored[number].append(([], ListScores(np.zeros(0), nothing, [] if tokens else None, [])))
                continue
            for order, seed in self.orders(blocks):
                stand = [blocks[i] for i in order]
                prompt = self.prompt(query, stand, seed)
                stored = [states[i] for i in order] if any(states) else None
                prompts = None if stored else self._passes(query, stand, prompt, seed)
                if prompts is None:
                    scored[number].append((order, self._score_long(query, stand, prompt, tokens, seed, stored)))
                    continue
                pending = _Pending(number, order, prompts, [])
                for part in prompts:
                    if size + part.size > self.token_budget:
                        flush()
                        size = 0
                    packed.append((pending, part))
                    size += part.size
        flush()
        return [_mean(parts) for parts in scored]

    def _passes(self, query: str, blocks: list[Document], prompt: Prompt, seed: int) -> list[Prompt] | None:
        """Prompts in which a list is read, each within one pass; None if it needs more than reading."""
        routed = self.route is not None and len(blocks) > self.route
        if self.cache is None and not routed and self.spec.stride == 1 and self._holds(prompt):
            return [prompt]
        if not self._readout.joins:
            return None
        room = self.token_budget - (prompt.size - sum(prompt.context.documents))
        if self.decoder.positions is not None and self.template.spec.positions == "sequential":
            room -= max(0, self.token_budget - self.decoder.positions)
        sizes = [len(block.ids) for block in prompt.documents]
        groups = [[blocks[i] for i in group] for group in _groups(sizes, room, self.template.spec.max_documents)]
        prompts = [self.prompt(query, group, seed) for group in groups]
        for group, part in zip(groups, prompts, strict=True):
            if not self._holds(part):
                raise InputError(
                    f"{group[0].id!r} and the query take {part.size} tokens, more than one pass or the model's "
                    f"positions hold ({self.token_budget}, {self.decoder.positions}); lower max_block_tokens"
                )
        return prompts

    def _holds(self, prompt: Prompt) -> bool:
        """Whether one pass can read it."""
        most = self.template.spec.max_documents
        few = most is None or len(prompt.documents) <= most
        return few and prompt.size <= self.token_budget and not self.misfit(prompt)

    def _score_alone(self, prompt: Prompt, tokens: bool, kept: list[KeptBlock] | None = None) -> ListScores:
        return self._readout.scores([prompt], self._readout.read([prompt], tokens=tokens, kept=kept))

    def _score_long(
        self,
        query: str,
        blocks: list[Document],
        prompt: Prompt,
        tokens: bool,
        seed: int,
        stored: _States | None,
    ) -> ListScores:
        """Score a list that is routed, kept, or too long for one pass."""
        if self.spec.readout.hidden:
            return self._score_tournament(query, blocks, prompt, tokens, seed)
        apart, misfit = self.template.spec.mask == "block", self.misfit(prompt)
        if apart and misfit and self.template.spec.positions == "restart":  # fewer documents would not help
            raise InputError(f"layout {self.layout!r} cannot rank this list: {misfit}")
        apart = apart and not misfit
        keeps = self.cache is not None or stored is not None or prompt.size > self.token_budget or self.spec.stride > 1
        kept = None
        if apart and keeps:
            prompt, kept = self._keep(prompt, stored)
        if self.route is not None and len(blocks) > self.route and (apart or self._holds(prompt)):
            return self._score_routed(query, blocks, prompt, kept, tokens, seed)
        if kept is not None or self._holds(prompt):
            return self._score_alone(prompt, tokens, kept)
        return self._score_tournament(query, blocks, prompt, tokens, seed)

    def _keep(self, prompt: Prompt, stored: _States | None = None) -> tuple[Prompt, list[KeptBlock]]:
        """Instruction and documents of a list: from an index, the cache, or read in groups within the token budget.

        With the prompt as the query sees it, of whose documents some tokens may have been read only to be forgotten.
        """
        decoder, device = self.decoder, self.decoder.device
        form = "exact" if self.cache is None else self.cache.form
        quantized = getattr(decoder.config, "quantization_config", None)  # in memory, of the weights of the revision
        name = f"{decoder.name}@{decoder.revision} {decoder.dtype} {quantized} {decoder.signal_layer} {form}" + (
            f" {self.spec.stride}" if self.spec.stride > 1 else ""
        )
        texts = [(), *(block.ids for block in prompt.documents)]
        keys = [cache_key(name, tuple(prompt.instruction), tuple(ids)) for ids in texts]
        kept: dict[str, KeptBlock] = {}
        if stored is not None:
            kept[keys[0]] = self._instruction
            given = self._stored(prompt, stored)
            kept |= {key: given[ids] for key, ids in zip(keys[1:], texts[1:], strict=True) if ids in given}
        if self.cache is not None:
            for key in dict.fromkeys(key for key in keys if key not in kept):
                if (tensors := self.cache.get(key, device)) is not None:
                    kept[key] = KeptBlock(tensors)
        # Equal texts are read once, longest first, so that groups are full.
        missing = {key: ids for key, ids in zip(keys, texts, strict=True) if key not in kept}
        missing.pop(keys[0], None)
        todo = sorted(missing, key=lambda key: -len(missing[key]))
        groups = list(_groups([len(missing[key]) for key in todo], self.token_budget - len(prompt.instruction)))
        if keys[0] not in kept and not groups:
            groups.append([])
        for group in groups:
            names = [todo[i] for i in group]
            blocks = read_documents(decoder, prompt.instruction, [missing[key] for key in names], self.spec, form)
            for key, block in zip((keys[0], *names), blocks, strict=True):
                if key not in kept:
                    kept[key] = block
                    if self.cache is not None:
                        self.cache.put(key, block.tensors)
        seen = dataclasses.replace(prompt, documents=tuple(b.every(self.spec.stride) for b in prompt.documents))
        return seen, [kept[key] for key in keys]

    def _score_routed(
        self,
        query: str,
        blocks: list[Document],
        prompt: Prompt,
        kept: list[KeptBlock] | None,
        tokens: bool,
        seed: int,
    ) -> ListScores:
        """The best by their largest logits at the routing layer are ranked, the others stand below them."""
        assert self.route is not None
        layer = self.route_layer
        first = self._attention.largest_logits(prompt, layer, kept)
        order = sorted(range(len(blocks)), key=lambda i: (-first[i], blocks[i].contents))
        best = sorted(order[: self.route])
        final = self._score_again(query, blocks, best, prompt, kept, tokens, seed)
        note = f"of {len(blocks)} documents the {len(best)} with the largest logits at layer {layer} were ranked"
        return _below(final, best, first, len(blocks), note)

    def _score_tournament(
        self, query: str, blocks: list[Document], prompt: Prompt, tokens: bool, seed: int
    ) -> ListScores:
        """Groups are ranked apart, and the better half of each goes on, until those left fit one pass."""
        if len(blocks) < 3:  # two can only be compared in one pass
            names = " and ".join(repr(block.id) for block in blocks)
            raise InputError(
                f"{names} and the query take {prompt.size} tokens and cannot be read in one pass: "
                + (self.misfit(prompt) or f"token_budget is {self.token_budget}; lower max_block_tokens")
            )
        limit = min(self.token_budget, self.decoder.positions or self.token_budget, self._reach or self.token_budget)
        parts = max(-(-prompt.size // limit), -(-len(blocks) // (self.template.spec.max_documents or len(blocks))))
        count = max(2, min(len(blocks) // 2, parts))
        # Every group gets documents from all over the list.
        groups = [list(range(start, len(blocks), count)) for start in range(count)]
        first, going = np.zeros(len(blocks)), []
        for group in groups:
            result = self._score_again(query, blocks, group, prompt, None, False, seed)
            first[group] = result.scores
            order = sorted(range(len(group)), key=lambda i: (-result.scores[i], blocks[group[i]].contents))
            going += [group[i] for i in order[: -(-len(group) // 2)]]
        going.sort()
        final = self._score_again(query, blocks, going, prompt, None, tokens, seed)
        note = (
            f"{len(blocks)} documents do not fit one pass of layout {self.layout!r}: {count} groups were ranked "
            f"apart, and {len(going)} documents met again; the scores of the others are of their group"
        )
        return _below(final, going, first, len(blocks), note)

    def _score_again(
        self,
        query: str,
        blocks: list[Document],
        places: list[int],
        prompt: Prompt,
        kept: list[KeptBlock] | None,
        tokens: bool,
        seed: int,
    ) -> ListScores:
        """Score some documents of a list."""
        if kept is not None:
            fewer = dataclasses.replace(prompt, documents=tuple(prompt.documents[i] for i in places))
            return self._score_alone(fewer, tokens, [kept[0], *(kept[1 + i] for i in places)])
        some = [blocks[i] for i in places]
        fewer = self.prompt(query, some, seed)
        if self._holds(fewer):
            return self._score_alone(fewer, tokens)
        return self._score_tournament(query, some, fewer, tokens, seed)


def within_positions(layout: Layout, positions: int | None, model: str) -> Layout:
    """Return the layout with its query inside the model's positions: at most a block's length before their end.

    Args:
        layout: a layout for decoders.
        positions: the number of positions that the model was made for; None if it does not say.
        model: the name of the model, for messages.

    Raises:
        ModelError: if there is no room for the query after a block.
    """
    asked, size = layout.require_prompt().query_position, layout.max_block_tokens
    if asked is None or positions is None or asked + size <= positions:
        return layout
    if positions < 3 * size:  # an instruction and a block stand before it
        raise ModelError(
            f"layout {layout.name!r} puts the query at position {asked}, but {model!r} has {positions}; give a smaller "
            "query_position and max_block_tokens"
        )
    logger.info("layout %r: the query stands at position %d, not %d", layout.name, positions - size, asked)
    return load_layout(layout, query_position=positions - size)


def with_heads(layout: Layout, heads: str | Path | Sequence[str] | None, model: str, revision: str) -> Layout:
    """Return the layout with the heads that are to be read, if it does not read all.

    Args:
        layout: a layout for decoders.
        heads: a file that ``sightline heads`` wrote, or a list of ``layer-head``. If None, what the layout says.
        model: the name of the model that has the heads.
        revision: the revision of the model's weights.

    Raises:
        InputError: if heads are given to a layout that reads all, or the file does not fit.
        ModelError: if the layout asks for heads that nobody has found.
    """
    if isinstance(heads, Sequence) and not isinstance(heads, str):
        return load_layout(layout, heads=list(heads))
    if isinstance(layout.readout.heads, str) and layout.readout.heads != "all":
        return load_layout(layout, heads=list(find_heads(heads, layout, model, revision)))
    if heads is not None:
        raise InputError(
            f"layout {layout.name!r} does not ask for heads of a file; take one that does, such as qrhead, or list them"
        )
    return layout


def _below(final: ListScores, places: list[int], first: np.ndarray, count: int, note: str) -> ListScores:
    """The final round's scores, and below them, in the order of the round before, those that did not come so far."""
    shares = None
    if final.shares is not None:
        shares = np.zeros((len(final.shares), count))
        shares[:, places] = final.shares
    blocks: list[Block | None] = [None] * count
    marks = None if final.tokens is None else [np.zeros(0)] * count
    for at, place in enumerate(places):
        blocks[place] = final.blocks[at]
        if marks is not None and final.tokens is not None:
            marks[place] = final.tokens[at]
    return ListScores(below(final.scores, places, first), shares, marks, blocks, final.signal, [note, *final.notes])


def _mean(parts: Sequence[tuple[list[int], ListScores]]) -> ListScores:
    """Back to the order in which documents were given, the mean over the orders in which they stood."""
    backs = [np.argsort(order).astype(int) for order, _ in parts]
    shares = [part.shares[:, back] for back, (_, part) in zip(backs, parts, strict=True) if part.shares is not None]
    back, (_, first) = backs[0], parts[0]
    return ListScores(
        np.mean([part.scores[back] for back, (_, part) in zip(backs, parts, strict=True)], axis=0),
        np.mean(shares, axis=0) if shares else None,
        None if first.tokens is None else [first.tokens[i] for i in back],
        [first.blocks[i] for i in back],
        first.signal,
        list(dict.fromkeys(note for _, part in parts for note in part.notes)),
    )


def _groups(sizes: Sequence[int], room: int, most: int | None = None) -> Iterator[list[int]]:
    """Places of neighbours, at most ``most``, that take no more than ``room`` tokens; one that takes more is alone."""
    group: list[int] = []
    used = 0
    for place, size in enumerate(sizes):
        if group and (used + size > room or len(group) == most):
            yield group
            group, used = [], 0
        group.append(place)
        used += size
    if group:
        yield group


def saved_layout(model: str) -> str:
    """Return the layout saved with a model, or that its published weights were trained with, or its default."""
    path = folder_of(model) / "layout.yaml"
    if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises at long names
        return str(path)
    return "blockrank" if model.startswith("quicktensor/blockrank-") else DECODERS.get(model, "icr")
