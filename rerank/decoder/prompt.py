"""From a layout's templates and texts to token ids, block by block."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...documents import Document
from ...errors import InputError, ModelError
from ...kernels import Context
from ...models.decoder import token_ids
from ..layout import Layout
from .tokens import Encoder, Text, Tokens

__all__ = ["NULL_QUERY", "Block", "Prompt", "QueryBlock", "Template", "candidate_id", "strided"]

_REMEMBERED = 64 << 20  # bytes of blocks and their texts
_USER, _ANSWER = "SightlineUserTurn", "SightlineAnswer"  # what no chat template has in it
NULL_QUERY = "N/A"


@dataclass(frozen=True, slots=True)
class Block:
    """One document as the model reads it.

    Args:
        ids: the token ids of the block.
        spans: int (T, 2), the characters of the document's ``contents`` that each token covers; (-1, -1) for tokens of
            the template.
        truncated: tokens of its text that are not read.
        counted: start and end of the tokens on which attention counts as attention on the document, see
            `PromptSpec.span`.
        places: where its tokens stood when it was read, if some were forgotten since then.
    """

    ids: tuple[int, ...]
    spans: np.ndarray
    truncated: int
    counted: tuple[int, int]
    places: tuple[int, ...] | None = None

    def every(self, stride: int) -> Block:
        """The block as the query sees it that sees the last of every ``stride`` tokens, and the last of all."""
        if stride == 1:
            return self
        places = strided(len(self.ids), stride)
        start, stop = np.searchsorted(places, self.counted).tolist()
        ids = tuple(self.ids[place] for place in places)
        return Block(ids, self.spans[places], self.truncated, (start, stop), tuple(places))


@dataclass(frozen=True, slots=True)
class QueryBlock:
    """What stands behind the documents.

    Args:
        ids: the token ids of the block.
        signal: places of the signal tokens in it.
    """

    ids: tuple[int, ...]
    signal: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One list, laid out.

    Args:
        instruction: tokens before the documents.
        documents: their blocks, in the order in which they stand.
        queries: the query's block and, where the layout calibrates, that of the null query; none if the layout has no
            query block.
        signal_tokens: texts of the first query block's signal tokens.
    """

    instruction: tuple[int, ...]
    documents: tuple[Block, ...]
    queries: tuple[QueryBlock, ...]
    signal_tokens: tuple[str, ...]

    @property
    def context(self) -> Context:
        """Its token counts."""
        return Context(
            [len(block.ids) for block in self.documents],
            [len(query.ids) for query in self.queries],
            len(self.instruction),
        )

    @property
    def size(self) -> int:
        """How many tokens it has in all."""
        documents, queries, instruction = self.context
        return instruction + sum(documents) + sum(queries)


@dataclass(frozen=True, slots=True)
class _Filled:
    """A document's block before it is tokenised.

    Args:
        text: the separator and the filled template.
        regions: where title and text stand in it.
        span: the characters that count as the document.
        document: the document as it is read, its text cut if need be.
        truncated: tokens that were cut.
    """

    text: Text
    regions: dict[str, tuple[int, int]]
    span: tuple[int, int]
    document: Document
    truncated: int = 0


class Template:
    """Fills a layout's templates for one tokenizer.

    Texts of users never become control tokens, see `Encoder`: no document can end its block, or the turn.

    Args:
        layout: a layout for decoders.
        tokenizer: a fast tokenizer of transformers.
        name: name of the model, for messages.

    Raises:
        ModelError: if the layout needs a chat template and the tokenizer has none, or one that it cannot be cut from.
    """

    def __init__(self, layout: Layout, tokenizer: Any, name: str) -> None:
        self.layout, self.spec, self.tokenizer, self.name = layout, layout.require_prompt(), tokenizer, name
        self.encoder = Encoder(tokenizer, name)
        # Those that are remembered, by name, title and text, and the bytes that they take.
        self._blocks: OrderedDict[tuple[str, str, str], Block] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()
        self._end = self._ids(self.encoder.template(self.spec.block_end))
        self._before, self._after = self._chat() if self.spec.chat else (self._start(), self.spec.answer)

    def prompt(self, query: str, documents: Sequence[Document], seed: int = 0, *, remember: bool = False) -> Prompt:
        """Lay a list out, its documents in the order in which they stand.

        Where documents see those before them, the whole prompt is tokenised at once, as a model is used to; a token
        that covers the end of one block and the beginning of the next belongs to the first. Else each block is
        tokenised by itself, so that a document has the same tokens in every list.

        Args:
            query: the text of the query.
            documents: the documents of the list.
            seed: the seed of random ids.
            remember: whether to remember the blocks; see `documents`.

        Raises:
            InputError: if the query is blank, or no signal token is left to attend with, or the template and a title
                leave no room for a text.
        """
        if not query.strip():
            raise InputError(f"the query {query!r} has no token to attend with; give a query with a word in it")
        count = len(documents)
        asked = [query] if self.spec.query else []
        if self.layout.readout.calibration == "null_query":
            asked.append(NULL_QUERY)
        if self.spec.mask == "causal":
            filled = [one for one, _ in self._fit(documents, self._names(count, seed))]
            instruction, blocks, queries = self._together(query, filled, asked)
        else:
            instruction = self.instruction(query, count)
            blocks = self.documents(documents, seed, remember=remember)
            queries = [self.query(text, count) for text in asked]
        signal = self.signal_texts(queries[0]) if queries else ()
        return Prompt(instruction, tuple(blocks), tuple(queries), signal)

    def instruction(self, query: str, count: int = 0) -> tuple[int, ...]:
        """Tokens of the instruction block, the beginning of the chat template included.

        Args:
            query: the text of the query.
            count: the number of documents that follow.
        """
        return self._ids(self._instruction(query, count))

    def query(self, query: str, count: int = 0) -> QueryBlock:
        """The query block of a query, the end of the chat template and the begun answer included.

        Args:
            query: the text of the query.
            count: the number of documents that stand before it.

        Raises:
            InputError: if no signal token is left to attend with.
        """
        text, places = self._query(query, count)
        [tokens] = self.encoder.encode([text])
        return self._query_block(query, tokens, places)

    def documents(self, documents: Sequence[Document], seed: int = 0, *, remember: bool = False) -> list[Block]:
        """Blocks of documents that stand in this order, each tokenised by itself.

        Args:
            documents: the documents.
            seed: the seed of random ids.
            remember: whether to remember the blocks, so that documents that come again are not tokenised again: the
                latest, up to 64 MiB.

        Raises:
            InputError: if the template and a title leave no room for the text.
        """
        names = self._names(len(documents), seed)
        keys = [(name, one.title, one.text) for name, one in zip(names, documents, strict=True)]
        with self._lock:
            blocks = {key: self._blocks[key] for key in keys if key in self._blocks}
            for key in blocks:
                self._blocks.move_to_end(key)
        new = {key: one for key, one in zip(keys, documents, strict=True) if key not in blocks}
        for key, (filled, tokens) in zip(new, self._fit(list(new.values()), [name for name, *_ in new]), strict=True):
            blocks[key] = _block(tokens, filled, self._end)
        if remember and new:
            with self._lock:
                for key in new:
                    if key not in self._blocks:  # by another thread
                        self._blocks[key] = blocks[key]
                        self._bytes += _bytes(key, blocks[key])
                while self._bytes > _REMEMBERED:
                    self._bytes -= _bytes(*self._blocks.popitem(last=False))
        return [blocks[key] for key in keys]

    def place(self, ids: Sequence[int], token: str) -> int:
        """The place of a token that is read in a block.

        Args:
            ids: the block's tokens.
            token: ``last:1``, or ``marker:TOKEN`` for the last of such tokens.

        Raises:
            ModelError: if there is none: the layout's template lacks it, or the tokenizer does not know it.
        """
        kind, _, marker = token.partition(":")
        if kind == "last":
            return len(ids) - 1
        [wanted] = token_ids([marker], self.tokenizer, self.name)
        places = [place for place, id in enumerate(ids) if id == wanted]
        if not places:
            raise ModelError(f"layout {self.layout.name!r} has no token {marker!r} in a block where it is to be read")
        return places[-1]

    def target(self, count: int, chosen: Sequence[int], seed: int = 0) -> tuple[int, ...]:
        """Tokens with which the answer goes on, if it names some of ``count`` documents.

        Args:
            count: the number of documents in the list.
            chosen: places of those that are named.
            seed: the seed of random ids; see `documents`.
        """
        names = self._names(count, seed)
        text, _ = self._filled(self.spec.target, {"ids": ", ".join(names[place] for place in sorted(chosen))})
        return self._ids(text)

    @property
    def room(self) -> int:
        """Tokens of a document's contents that are read at most: a block less its template."""
        text, _ = self._filled(self.spec.separator + self.spec.block, {"id": "9999", "title": "", "text": ""})
        return max(1, self.layout.max_block_tokens - len(self._end) - len(self._ids(text)) - 1)

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters that each token of a text covers."""
        [tokens] = self.encoder.encode([Text(text)])
        return [(start, stop) for start, stop in tokens.spans.tolist()]

    def signal_texts(self, block: QueryBlock) -> tuple[str, ...]:
        """Texts of the signal tokens, for people."""
        return tuple(self.tokenizer.decode([block.ids[i]]) for i in block.signal)

    # -- parts -------------------------------------------------------------------------------------------------------

    def _together(
        self, query: str, filled: Sequence[_Filled], asked: Sequence[str]
    ) -> tuple[tuple[int, ...], list[Block], list[QueryBlock]]:
        """The blocks of a prompt that is tokenised at once, by the characters at which each token begins."""
        parts = [self._instruction(query, len(filled)), *(one.text for one in filled)]
        starts = np.cumsum([len(part) for part in parts])
        shared = sum(parts, Text())
        ends = [self._query(text, len(filled)) for text in asked] or [(Text(), {})]
        blocks, queries = [], []
        for number, tokens in enumerate(self.encoder.encode([shared + text for text, _ in ends])):
            # Several tokens may share a character; none stands before the token before it.
            owner = np.maximum.accumulate(np.searchsorted(starts, tokens.spans[:, 0], side="right"))
            cuts = np.searchsorted(owner, np.arange(len(parts) + 1)).tolist()
            pieces = [Tokens(tokens.ids[a:b], tokens.spans[a:b]) for a, b in itertools.pairwise([*cuts, len(owner)])]
            if not number:  # the null query stands behind the same documents
                blocks = pieces[:-1]
            last = Tokens(pieces[-1].ids, pieces[-1].spans - int(starts[-1]))
            if asked:
                queries.append(self._query_block(asked[number], last, ends[number][1]))
        first, *rest = blocks
        moved = [Tokens(t.ids, t.spans - start) for t, start in zip(rest, starts.tolist(), strict=False)]
        return (
            tuple(first.ids.tolist()),
            [_block(tokens, one) for tokens, one in zip(moved, filled, strict=True)],
            queries,
        )

    def _instruction(self, query: str, count: int) -> Text:
        text, _ = self._filled(self.spec.instruction, {"query": query.strip(), "count": str(count)})
        return self.encoder.template(self._before) + text

    def _query(self, query: str, count: int) -> tuple[Text, dict[str, tuple[int, int]]]:
        """The text of a query block, and where the query and the whole stand in it."""
        query, separator = query.strip(), self.encoder.template(self.spec.separator)
        filled, regions = self._filled(self.spec.query, {"query": query, "count": str(count)})
        text = separator + filled + self.encoder.template(self._after)
        start, stop = (place + len(separator) for place in regions["query"])
        low = len(separator)
        return text, {"query": (start, stop), "prompt": (low, stop), "block": (low, len(text))}

    def _query_block(self, query: str, tokens: Tokens, places: dict[str, tuple[int, int]]) -> QueryBlock:
        ids = tuple(tokens.ids.tolist())
        kind, _, number = self.spec.signal_tokens.partition(":")
        completion = self._ids(self.encoder.template(self.spec.completion))
        ids += completion
        signal: Sequence[int]
        if kind == "last":
            signal = range(max(0, len(ids) - int(number)), len(ids))
        elif kind == "marker":
            signal = [self.place(ids, self.spec.signal_tokens)]
        else:
            start, stop = _within(tokens, places[kind])
            signal = range(start, len(ids) if kind == "block" else stop)
        if not query.strip() or not signal:
            raise InputError(f"the query {query!r} has no token to attend with; give a query with a word in it")
        return QueryBlock(ids, tuple(signal))

    def _names(self, count: int, seed: int) -> list[str]:
        kind = self.spec.ids
        if kind == "random":
            if count > 9000:
                raise InputError(f"layout {self.layout.name!r} has ids of four digits; {count} documents need more")
            return [str(number) for number in random.Random(seed).sample(range(1000, 10_000), count)]
        return [candidate_id(kind, i) for i in range(count)]

    def _filled(self, template: str, values: Mapping[str, str]) -> tuple[Text, dict[str, tuple[int, int]]]:
        """A template with its places filled, and where the values stand in it."""
        out, regions = Text(), {}
        for number, part in enumerate(re.split(r"\{(\w+)\}", template)):
            if number % 2:
                regions[part] = (len(out), len(out) + len(values[part]))
                out += Text(values[part])
            else:
                out += self.encoder.template(part)
        return out, regions

    def _fill(self, document: Document, name: str) -> _Filled:
        template = self.spec.block
        if not document.title:
            template = re.sub(r"\{title\}\s?", "", template)
        values = {"id": name, "title": document.title, "text": document.text}
        text, regions = self._filled(self.spec.separator + template, values)
        contents = [regions[field] for field in ("title", "text") if field in regions]
        spans = {
            "block": (len(self.spec.separator), len(text)),
            "contents": (min(start for start, _ in contents), max(stop for _, stop in contents)),
        }
        return _Filled(text, regions, spans[self.spec.span], document)

    @property
    def _limit(self) -> int:
        return self.layout.max_block_tokens - len(self._end)

    def _fit(self, documents: Sequence[Document], names: Sequence[str]) -> list[tuple[_Filled, Tokens]]:
        """Fill the template for each document, and cut what is longer than a block may be."""
        filled = [self._fill(document, name) for document, name in zip(documents, names, strict=True)]
        encoded = self.encoder.encode([one.text for one in filled])
        return [
            (one, tokens) if len(tokens.ids) <= self._limit else self._cut(one, name, tokens)
            for one, name, tokens in zip(filled, names, encoded, strict=True)
        ]

    def _cut(self, filled: _Filled, name: str, tokens: Tokens) -> tuple[_Filled, Tokens]:
        """Cut the text, and nothing else, until the block fits; of a document without text, its title."""
        document, limit = filled.document, self._limit
        field = "text" if document.text.strip() else "title"
        start, stop = filled.regions.get(field, (0, 0))
        ends = [min(b, stop) - start for a, b in tokens.spans.tolist() if a < stop and b > start]
        over = len(tokens.ids) - limit
        # What is cut in the middle of a word may take more tokens than it took; then one token more is cut.
        for kept in range(len(ends) - over, 0, -1):
            shorter: dict[str, Any] = {field: getattr(document, field)[: ends[kept - 1]]}
            cut = self._fill(dataclasses.replace(document, **shorter), name)
            [left] = self.encoder.encode([cut.text])
            if len(left.ids) <= limit:
                return dataclasses.replace(cut, document=document, truncated=len(ends) - kept), left
        raise InputError(
            f"document {document.id!r}: its title and the template alone take more than the "
            f"{self.layout.max_block_tokens} tokens that are read; shorten the title or raise max_block_tokens"
        )

    def _ids(self, text: Text) -> tuple[int, ...]:
        [tokens] = self.encoder.encode([text])
        return tuple(tokens.ids.tolist())

    def _start(self) -> str:
        """The token that the tokenizer itself puts at the beginning of a text, by name."""
        ids = self.tokenizer("a")["input_ids"]
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.bos_token if bos is not None and ids and ids[0] == bos else ""

    def _chat(self) -> tuple[str, str]:
        """What the chat template puts before the user's text, and after it up to the completion."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(
                f"layout {self.layout.name!r} speaks to the model as a user, but {self.name!r} has no chat template; "
                "take an instruction-tuned model, or hf:MODEL#FILE.yaml with a file of three lines: 'name: plain', "
                f"'base: {self.layout.name}' and 'prompt: {{chat: false}}' (in Python also: chat=False)"
            )
        turns = [{"role": "user", "content": _USER}]
        if self.spec.answer:
            turns.append({"role": "assistant", "content": _ANSWER})
        # Models that think before they answer are told not to; other templates pass over what they do not know.
        text = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=not self.spec.answer, enable_thinking=False
        )
        before, user_mark, after = text.partition(_USER)
        if self.spec.answer:
            after, answer_mark, _ = after.partition(_ANSWER)
            after, user_mark = after + self.spec.answer, user_mark and answer_mark
        if not user_mark or _USER in after:
            raise ModelError(f"the chat template of {self.name!r} does not hold the user's text once, as it is")
        return before, after


def strided(count: int, stride: int) -> list[int]:
    """Places of the last of every ``stride`` tokens, and of the last of all, among so many."""
    return sorted({*range(stride - 1, count, stride), *range(max(0, count - 1), count)})


def candidate_id(kind: Literal["none", "from_0", "from_1", "letters", "random"], place: int) -> str:
    """What ``{id}`` is of the document at a place of the list, from 0; letters go on as AA, AB behind Z.

    Random ids are not by place.
    """
    if kind == "letters":
        return (candidate_id(kind, place // 26 - 1) if place >= 26 else "") + chr(ord("A") + place % 26)
    return "" if kind == "none" else str(place + (kind == "from_1"))


def _bytes(key: tuple[str, ...], block: Block) -> int:
    """About what a block takes that is remembered: 60 bytes for each token, and its text, also the part that is cut."""
    return 60 * len(block.ids) + sum(map(sys.getsizeof, key))


def _within(tokens: Tokens, span: tuple[int, int]) -> tuple[int, int]:
    """First and last but one of the tokens that cover some of the characters; all between them belong to them."""
    start, stop = span
    # Tokens that cover no character, which byte-level tokenizers have, belong to the token before them.
    inside = np.flatnonzero((tokens.spans[:, 0] < stop) & (tokens.spans[:, 1] > start))
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)


def _block(tokens: Tokens, filled: _Filled, end: tuple[int, ...] = ()) -> Block:
    """Token offsets in the block as characters of the document's contents; with the tokens that end it."""
    places = tokens.spans
    spans = np.full_like(places, -1)
    title = filled.document.title
    shifts = {"title": 0, "text": len(title) + 1 if title else 0}
    for name, shift in shifts.items():
        if name in filled.regions:
            start, stop = filled.regions[name]
            inside = (places[:, 0] < stop) & (places[:, 1] > start)
            spans[inside] = places[inside].clip(start, stop) - start + shift
    spans = np.concatenate([spans, np.full((len(end), 2), -1)])
    return Block((*tokens.ids.tolist(), *end), spans, filled.truncated, _within(tokens, filled.span))
