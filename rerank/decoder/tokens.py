"""Text and its tokens: only a template makes control tokens, and whatever users write stays text."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...errors import ModelError

__all__ = ["Encoder", "Text", "Tokens"]

# Words and blanks that a tokenizer was given later on are text, as the rest of its vocabulary.
_ORDINARY = re.compile(r"[\w\s▁]*")


class Tokens(NamedTuple):
    """The tokens of a text.

    Args:
        ids: int64 (T,), the token ids.
        spans: int64 (T, 2), the characters of the text that each covers.
    """

    ids: np.ndarray
    spans: np.ndarray


@dataclass(frozen=True, slots=True)
class Text:
    """Text with the control tokens that its template has; all the rest is ordinary, whatever it looks like.

    Args:
        text: the characters of the text.
        controls: start, end and id of each control token, in order.
    """

    text: str = ""
    controls: tuple[tuple[int, int, int], ...] = ()

    def __add__(self, other: Text) -> Text:
        shift = len(self.text)
        moved = ((start + shift, stop + shift, token) for start, stop, token in other.controls)
        return Text(self.text + other.text, (*self.controls, *moved))

    def __len__(self) -> int:
        return len(self.text)


class Encoder:
    """Tokenises templates that are filled with the texts of users.

    A tokenizer turns markers such as ``<|im_end|>`` into control tokens wherever it finds them: in a document, or where
    a title ends with one half and the text begins with the other. Here only the markers of the template become control
    tokens, those that are special and those that look like it (``<tool_call>``). A marker in any other place is read
    letter by letter, as text.

    Args:
        tokenizer: a fast tokenizer of transformers.
        name: name of the model, for messages.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer, self.name = tokenizer, name
        added = tokenizer.added_tokens_decoder
        self._controls = np.array(sorted(filter(lambda i: _is_control(added[i]), added)), dtype=np.int64)
        # By id; the last entry, which is False, stands for all larger ids.
        self._is_control = np.zeros(self._controls.max(initial=-1) + 2, dtype=bool)
        self._is_control[self._controls] = True
        self._unknown = tokenizer.unk_token_id
        self._read = functools.cache(self._parse)

    @property
    def controls(self) -> frozenset[int]:
        """Ids of the control tokens."""
        return frozenset(self._controls.tolist())

    def template(self, text: str) -> Text:
        """A part of a template; the markers in it are control tokens."""
        return self._read(text)

    def encode(self, texts: Sequence[Text]) -> list[Tokens]:
        """The tokens of texts; no beginning or end is added to them.

        Raises:
            ModelError: if the tokenizer makes control tokens of letters.
        """
        natural = self._encode([text.text for text in texts])
        return [
            tokens if self._found(text.text, tokens) == list(text.controls) else self._by_runs(text)
            for text, tokens in zip(texts, natural, strict=True)
        ]

    # -- parts -------------------------------------------------------------------------------------------------------

    def _parse(self, text: str) -> Text:
        [tokens] = self._encode([text])
        return Text(text, tuple(self._found(text, tokens)))

    def _encode(self, texts: list[str]) -> list[Tokens]:
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [_tokens(*pair) for pair in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)]

    def _found(self, text: str, tokens: Tokens) -> list[tuple[int, int, int]]:
        """Start, end and id of each control token. The token of what is unknown is one only where it is written out."""
        out = []
        for at in np.flatnonzero(self._is_control.take(tokens.ids, mode="clip")):
            (start, stop), token = tokens.spans[at].tolist(), int(tokens.ids[at])
            if token != self._unknown or text[start:stop].strip() == self.tokenizer.unk_token:
                out.append((start, stop, token))
        return out

    def _by_runs(self, text: Text) -> Tokens:
        """Control tokens by their ids, and what stands between them as ordinary text."""
        ids, spans, at = [], [], 0
        for start, stop, token in (*text.controls, (len(text), len(text), None)):
            run = self._ordinary(text.text[at:start])
            ids.append(run.ids)
            spans.append(run.spans + at)
            if token is not None:
                ids.append(np.array([token]))
                spans.append(np.array([[start, stop]]))
            at = stop
        return Tokens(np.concatenate(ids), np.concatenate(spans))

    def _ordinary(self, text: str) -> Tokens:
        """A text in which nothing is a control token."""
        while True:
            encoding = self._bare.encode(text, add_special_tokens=False)
            tokens = _tokens(encoding.ids, encoding.offsets)
            found = self._found(text, tokens)
            if not found:
                return tokens
            # The vocabulary itself holds the marker as a piece: blanks take its place.
            letters = list(text)
            for start, stop, _ in found:
                letters[start:stop] = " " * (stop - start)
            if text == (text := "".join(letters)):
                raise ModelError(f"the tokenizer of {self.name!r} makes control tokens of ordinary text: {text[:80]!r}")

    @functools.cached_property
    def _bare(self) -> Any:
        """The tokenizer without its control tokens; made when a text has a marker in it, which is rare."""
        from tokenizers import Tokenizer

        fields = json.loads(self.tokenizer.backend_tokenizer.to_str())
        controls = self.controls
        fields["added_tokens"] = [added for added in fields["added_tokens"] if added["id"] not in controls]
        bare = Tokenizer.from_str(json.dumps(fields))
        bare.no_truncation()
        bare.no_padding()
        return bare


def _is_control(added: Any) -> bool:
    return bool(added.content) and (added.special or not _ORDINARY.fullmatch(added.content))


def _tokens(ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Tokens:
    return Tokens(np.array(ids, dtype=np.int64), np.array(spans, dtype=np.int64).reshape(-1, 2))
