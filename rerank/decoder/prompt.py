"""From a layout's templates and texts to token ids, block by block."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...documents import Document
from ...errors import InputError, ModelError
from ...kernels import Context
from ...models.decoder import token_ids
from ..layout import Layout

__all__ = ["NULL_QUERY", "Block", "Prompt", "QueryBlock", "Template", "candidate_id"]

_USER, _ANSWER = "SightlineUserTurn", "SightlineAnswer"  # what no chat template has in it
NULL_QUERY = "N/A"


@dataclass(frozen=True, slots=True)
class Block:
    """One document as the model reads it.

    Args:
        ids: its tokens.
        spans: int (T, 2), the characters of the document's ``contents`` that each token covers; (-1, -1) for tokens of
            the template.
        truncated: tokens of its text that are not read.
    """

    ids: tuple[int, ...]
    spans: np.ndarray
    truncated: int


@dataclass(frozen=True, slots=True)
class QueryBlock:
    """What stands behind the documents.

    Args:
        ids: its tokens.
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


class Template:
    """Fills a layout's templates for one tokenizer.

    Texts of users never become special tokens: such strings are blanked before they are tokenised, so that no document
    can end its block, or the turn.

    Args:
        layout: a layout for decoders.
        tokenizer: a fast tokenizer.
        name: name of the model, for messages.

    Raises:
        ModelError: if the layout needs a chat template and the tokenizer has none, or one that it cannot be cut from.
    """

    def __init__(self, layout: Layout, tokenizer: Any, name: str) -> None:
        self.layout, self.spec, self.tokenizer, self.name = layout, layout.require_prompt(), tokenizer, name
        special = sorted(filter(None, tokenizer.all_special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None
        self._before, self._after = self._chat() if self.spec.chat else (self._start(), self.spec.answer)

    def instruction(self, query: str, count: int = 0) -> tuple[int, ...]:
        """Tokens of the instruction block, the beginning of the chat template included.

        Args:
            query: the query.
            count: how many documents follow.

        Raises:
            InputError: if the query is blank.
        """
        self._check(query)
        filled = self.spec.instruction.replace("{count}", str(count)).replace("{query}", self.plain(query))
        return tuple(self._encode([self._before + filled])[0][0])

    def query(self, query: str, count: int = 0) -> QueryBlock:
        """The query block of a query, the end of the chat template and the begun answer included.

        Args:
            query: the query.
            count: how many documents stand before it.

        Raises:
            InputError: if the query is blank, or no signal token is left to attend with.
        """
        self._check(query)
        head, tail = self.spec.query.replace("{count}", str(count)).split("{query}")
        start = len(head)
        stop = start + len(self.plain(query))
        [(ids, offsets)] = self._encode([head + self.plain(query) + tail + self._after])
        ids = list(ids)
        kind, _, number = self.spec.signal_tokens.partition(":")
        if self.spec.completion:
            ids += self._encode([self.spec.completion])[0][0]
        signal: Sequence[int]
        if kind == "last":
            signal = range(max(0, len(ids) - int(number)), len(ids))
        elif kind == "marker":
            signal = [self.place(ids, self.spec.signal_tokens)]
        else:
            low = start if kind == "query" else 0
            high = len(head + tail + self._after) + stop if kind == "block" else stop
            # Tokens that cover no character, which byte-level tokenizers have, belong to the token before them.
            places = [i for i, (a, b) in enumerate(offsets) if a < high and b > low]
            signal = range(len(ids)) if kind == "block" else range(places[0], places[-1] + 1) if places else range(0)
        if not signal:
            raise InputError(f"the query {query!r} has no token to attend with; ask something")
        return QueryBlock(tuple(ids), tuple(signal))

    def documents(self, documents: Sequence[Document], seed: int = 0) -> list[Block]:
        """Blocks of documents that stand in this order.

        Raises:
            InputError: if the template and a title leave no room for the text.
        """
        names = self._ids(len(documents), seed)
        filled = [self._fill(document, name) for document, name in zip(documents, names, strict=True)]
        encoded = self._encode([text for text, _ in filled])
        limit = self.layout.max_block_tokens
        return [
            _block(ids, offsets, regions, document, 0)
            if len(ids) <= limit
            else self._cut(document, name, text, regions, len(ids), offsets)
            for document, name, (text, regions), (ids, offsets) in zip(documents, names, filled, encoded, strict=True)
        ]

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
            count: how many documents the list has.
            chosen: places of those that are named.
            seed: as for `documents`.
        """
        names = self._ids(count, seed)
        text = self.spec.target.replace("{ids}", ", ".join(names[place] for place in sorted(chosen)))
        return tuple(self._encode([text])[0][0])

    def plain(self, text: str) -> str:
        """The text with special tokens' names blanked, as long as it was."""
        return self._special.sub(lambda match: " " * len(match[0]), text) if self._special else text

    @property
    def room(self) -> int:
        """Tokens of a document's contents that are read at most: a block less its template."""
        names = {"id": "9999", "title": "", "text": ""}
        bare = re.sub(r"\{(\w+)\}", lambda match: names[match[1]], self.spec.block)
        return max(1, self.layout.max_block_tokens - len(self._encode([bare])[0][0]) - 1)

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters that each token of a text covers."""
        return [(int(a), int(b)) for a, b in self._encode([self.plain(text)])[0][1]]

    def signal_texts(self, block: QueryBlock) -> tuple[str, ...]:
        """Texts of the signal tokens, for people."""
        return tuple(self.tokenizer.decode([block.ids[i]]) for i in block.signal)

    def _check(self, query: str) -> None:
        if not self.plain(query).strip():
            raise InputError(f"the query {query!r} has no token to attend with; ask something")

    # -- parts -------------------------------------------------------------------------------------------------------

    def _ids(self, count: int, seed: int) -> list[str]:
        kind = self.spec.ids
        if kind == "random":
            if count > 9000:
                raise InputError(f"layout {self.layout.name!r} has ids of four digits; {count} documents need more")
            return [str(number) for number in random.Random(seed).sample(range(1000, 10_000), count)]
        return [candidate_id(kind, i) for i in range(count)]

    def _fill(self, document: Document, name: str) -> tuple[str, dict[str, tuple[int, int]]]:
        """The block's text, and where title and text stand in it."""
        template = self.spec.block
        if not document.title:
            template = re.sub(r"\{title\}\s?", "", template)
        values = {
            "id": name,
            "title": self.plain(document.title),
            "text": self.plain(document.text),
        }
        out, regions = "", {}
        for part in re.split(r"(\{(?:id|title|text)\})", template):
            if part[1:-1] in values and part.startswith("{"):
                regions[part[1:-1]] = (len(out), len(out) + len(values[part[1:-1]]))
                out += values[part[1:-1]]
            else:
                out += part
        return out, regions

    def _cut(
        self,
        document: Document,
        name: str,
        text: str,
        regions: dict[str, tuple[int, int]],
        tokens: int,
        offsets: Sequence[tuple[int, int]],
    ) -> Block:
        """Cut the text, and nothing else, until the block fits; of a document without text, its title."""
        field = "text" if document.text.strip() else "title"
        start, stop = regions.get(field, (0, 0))
        ends = [min(b, stop) - start for a, b in offsets if a < stop and b > start]
        over = tokens - self.layout.max_block_tokens
        # What is cut in the middle of a word may take more tokens than it took; then one token more is cut.
        for kept in range(len(ends) - over, 0, -1):
            shorter: dict[str, Any] = {field: getattr(document, field)[: ends[kept - 1]]}
            filled, places = self._fill(dataclasses.replace(document, **shorter), name)
            [(ids, spans)] = self._encode([filled])
            if len(ids) <= self.layout.max_block_tokens:
                return _block(ids, spans, places, document, len(ends) - kept)
        raise InputError(
            f"document {document.id!r}: its title and the template alone take more than the "
            f"{self.layout.max_block_tokens} tokens that are read; shorten the title or raise max_block_tokens"
        )

    def _encode(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))

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
                "take an instruction-tuned model, or the layout with chat=False"
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


def candidate_id(kind: Literal["none", "from_0", "from_1", "letters", "random"], place: int) -> str:
    """What ``{id}`` is of the document at a place of the list, from 0; letters go on as AA, AB behind Z.

    Random ids are not by place.
    """
    if kind == "letters":
        return (candidate_id(kind, place // 26 - 1) if place >= 26 else "") + chr(ord("A") + place % 26)
    return "" if kind == "none" else str(place + (kind == "from_1"))


def _block(
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    regions: dict[str, tuple[int, int]],
    document: Document,
    truncated: int,
) -> Block:
    """Token offsets in the block as characters of the document's contents."""
    places = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    spans = np.full_like(places, -1)
    shifts = {"title": 0, "text": len(document.title) + 1 if document.title else 0}
    for name, shift in shifts.items():
        if name in regions:
            start, stop = regions[name]
            inside = (places[:, 0] < stop) & (places[:, 1] > start)
            spans[inside] = places[inside].clip(start, stop) - start + shift
    return Block(tuple(ids), spans, truncated)
