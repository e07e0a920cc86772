"""The types that all parts of Sightline share: documents, passages, and the units of results and evidence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import InputError

__all__ = ["Document", "Grain", "Passage", "Unit", "cleaned", "encodable"]

Unit = Literal["document", "passage"]
"""What a search returns: each document once, by its best passage, or every passage."""
Grain = Literal["sentence", "token"]
"""The size of the spans that evidence marks: sentences or tokens."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an id.

    A document may lack a text: it is then found and ranked by its title. You can store a document that has neither
    (`empty`) and fetch it by its id, but no search finds it, and every reranker ranks it last.

    Args:
        id: your own id, a string with at least one character that is not a blank.
        text: the body, which may be empty. Character offsets of evidence count from its start.
        title: the title, which every model reads before the text. Offsets do not count it.
        metadata: JSON-like values, which are stored as they are and can be used in search filters.

    Raises:
        InputError: if a field is not a string, ``id`` is empty, or a string has a NUL or a lone surrogate, which
            neither SQLite nor tokenizers can hold. `cleaned` replaces such characters.

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
        """The title and the text as models read them, joined by one space (the BEIR convention)."""
        return _joined(self.title, self.text)

    @property
    def empty(self) -> bool:
        """Whether the document has neither a title nor a text that is more than blanks."""
        return not (self.title.strip() or self.text.strip())


def _joined(title: str, text: str) -> str:
    return f"{title} {text}" if title and text else title or text


def encodable(text: str) -> bool:
    """Tell whether a text can be encoded as UTF-8, that is, has no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def cleaned(text: str) -> str:
    """Replace every NUL by a blank and every lone surrogate by U+FFFD, so that the text keeps its length.

    Example:
        >>> cleaned("Scan 1" + chr(0))
        'Scan 1 '
    """
    text = text.replace("\x00", " ")
    return text if encodable(text) else _SURROGATE.sub("\ufffd", text)


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document: ``document.text[start:end]``.

    Args:
        document: the document that it is a part of.
        start: the first character of the passage in the document's text, counted from 0.
        end: the character after its last one.
    """

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
        """Make a document of the passage, as rerankers read it: with the id and title of its document and its own text.

        If the passage covers the whole text, you get the document itself.

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
