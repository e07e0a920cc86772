"""The words every floor shares: a document, a passage of it, and a scored hit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InputError

__all__ = ["Document", "Passage", "encodable"]


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an identity.

    Args:
        id: the user's own id, a non-empty string.
        text: the body, a non-empty string; character offsets of evidence count from its start.
        title: read before the text by every model, never part of the offsets.
        metadata: JSON-like values, kept as they are and usable as search filters.

    Raises:
        InputError: if ``id`` or ``text`` is not a string with something in it, ``title`` not a string, or any of them
            has a NUL or a lone surrogate, which neither SQLite nor tokenizers can hold.

    Example:
        >>> Document("d1", "Cats purr.", title="Cats").contents
        'Cats Cats purr.'
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "text", "title"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise InputError(f"document {self.id!r}: field {name!r} must be a string, not {type(value).__name__}")
            if name != "title" and not value.strip():
                raise InputError(f"document {self.id!r}: field {name!r} is empty")
            if "\x00" in value or not encodable(value):
                raise InputError(f"document {self.id!r}: field {name!r} has a NUL or a lone surrogate; clean the text")

    @property
    def contents(self) -> str:
        """Title and text as models read them, joined by one space (the BEIR convention)."""
        return f"{self.title} {self.text}" if self.title else self.text


def encodable(text: str) -> bool:
    """Whether the text has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
        return f"{self.document.title} {self.text}" if self.document.title else self.text
