"""What the readers of all formats are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import DataError
from .summary import LoadSummary

__all__ = ["ID_FIELDS", "Fields", "Reading", "Records"]

ID_FIELDS = ("_id", "id", "docno", "docid")

Records = Iterator[tuple[object, int | None, Any]]  # where a record is from, path and line or number; and what is there


@dataclass(frozen=True, slots=True)
class Fields:
    """The names the caller gave, and how to find the others."""

    id: str | None = None
    title: str | None = None
    text: str | None = None

    def find(self, names: Iterable[str]) -> tuple[str, str | None, str]:
        """Names of the id, title (None: there is none) and text fields among those there are.

        Raises:
            DataError: if there is no field for the id or the text, or a field that was asked for is not there.
        """
        names = list(names)
        return (
            _find(names, "id", self.id, *ID_FIELDS),
            None if self.title is None and "title" not in names else _find(names, "title", self.title, "title"),
            _find(names, "text", self.text, "text", "contents", "body"),
        )

    def fit(self, names: Iterable[str]) -> bool:
        """Whether `find` finds what it needs."""
        try:
            self.find(names)
        except DataError:
            return False
        return True


def _find(names: list[str], of: str, asked: str | None, *defaults: str) -> str:
    candidates = defaults if asked is None else (asked,)
    for name in candidates:
        if name in names:
            return name
    reason = f"no field {' or '.join(map(repr, candidates))}; there are: {', '.join(map(repr, names)) or 'none'}"
    if names and asked is None:
        reason += f"; rename a field, or say which it is with {of}_field"
    raise DataError(reason)


@dataclass(frozen=True, slots=True)
class Reading:
    """One call of `load_documents`: its arguments, and where its errors and its progress go."""

    fields: Fields = Fields()
    encoding: str | None = None
    delimiter: str | None = None
    columns: Sequence[str] | None = None
    csv_types: str = "json"
    follow_links: bool = False
    strict: bool = False
    report: Callable[[DataError], None] = lambda error: None
    summary: LoadSummary = field(default_factory=LoadSummary)
