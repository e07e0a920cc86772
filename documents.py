"""The words every floor shares: a document, a passage of it, and what results and evidence are counted in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import InputError

__all__ = ["Document", "Grain", "Passage", "Unit", "cleaned", "encodable"]

Unit = Literal["document", "passage"]
"""What a result is: a whole document, by its best passage, or a passage."""
Grain = Literal["sentence", "token"]
"""How fine evidence is."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an identity.

    A document may lack a text: it is then found and ranked by its title. One that lacks both (``empty``) can be
    kept and fetched by its id, but no search finds it, and every reranker ranks it last.

    Args:
        id: your own id, a string with at least one character that is not a blank.
        text: the body, which may be empty; character offsets of evidence count from its start.
        title: read before the text by every model, never part of the offsets.
        metadata: JSON-like values, kept as they are and usable as search filters.

    Raises:
        InputError: if a field is not a string, ``id`` is empty, or a string has a NUL or a lone surrogate, which
            neither SQLite nor tokenizers can hold; `cleaned` replaces them.

    Example:
        >>> Document("d1", "Cats purr.", title="Cats").contents
        'Cats Cats purr.'
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("id", self.id), ("text", self.text), ("title", self.title)):
            if not isinstance(value, str):
                hint = f"; use '{value}'" if name == "id" and isinstance(value, int) else ""
                raise InputError(
                    f"document {self.id!r}: field {name!r} must be a string, not {type(value).__name__}{hint}"
                )
            if "\x00" in value or not encodable(value):
                raise InputError(f"document {self.id!r}: field {name!r} has a NUL or a lone surrogate; clean the text")
        if not self.id.strip():
            raise InputError(f"document {self.id!r}: field 'id' is empty")

    @property
    def contents(self) -> str:
        """Title and text as models read them, joined by one space (the BEIR convention)."""
        return _joined(self.title, self.text)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to read, neither a title nor a text; blanks do not count."""
        return not (self.title.strip() or self.text.strip())


def _joined(title: str, text: str) -> str:
    return f"{title} {text}" if title and text else title or text


def encodable(text: str) -> bool:
    """Whether the text has no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def cleaned(text: str) -> str:
    """The text with every NUL as a blank and every lone surrogate as U+FFFD, so that it is as long as it was.

    Example:
        >>> cleaned("Scan 1" + chr(0))
        'Scan 1 '
    """
    text = text.replace("\x00", " ")
    return text if encodable(text) else _SURROGATE.sub("\ufffd", text)


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk of a document: ``document.text[start:end]``, characters."""

    document: Document
    start: int
    end: int

    @property
    def text(self) -> str:
        """The passage's own text, without the title."""
        return self.document.text[self.start : self.end]

    @property
    def contents(self) -> str:
        """The document's title and the passage's text, as models read them."""
        return _joined(self.document.title, self.text)

    def as_document(self) -> Document:
        """The passage as a document of its own, as rerankers read it: the id and title of its document, its own text.

        A passage over the whole text is the document itself.

        Example:
            >>> Passage(Document("d1", "Cats purr. Dogs bark.", title="Pets"), 11, 21).as_document().contents
            'Pets Dogs bark.'
        """
        if self.end - self.start == len(self.document.text):
            return self.document
        # Parts of what was checked are not checked again: a search makes a hundred of these.
        part = object.__new__(Document)
        for name, value in (("id", self.document.id), ("text", self.text), ("title", self.document.title)):
            object.__setattr__(part, name, value)
        object.__setattr__(part, "metadata", {})
        return part
