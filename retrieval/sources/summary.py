"""What a reading has done so far, and what it left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["LoadSummary"]

_NAMED = 3


@dataclass
class LoadSummary:
    """The progress of a call of `load_documents`, and what it left out of a folder. It grows as you take documents.

    Args:
        unit: the unit of ``done`` and ``total``: ``"bytes"`` of the file on disk, ``"rows"`` or ``"files"``.
        done: the number of units that were read.
        total: the number of all units; None if it is not known.
        left_out: the number of files and folders that were left out, for each reason.
        folders: the number of those that are folders.
        names: the first few files for each reason that is not their suffix.

    Example:
        >>> summary = LoadSummary()
        >>> summary.leave_out(".png (not a format that is read)")
        >>> summary.leave_out("empty", "a.txt")
        >>> str(summary)
        'left out 2 files: 1 .png (not a format that is read), 1 empty (a.txt)'
    """

    unit: str = "records"
    done: int = 0
    total: int | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    folders: int = 0
    names: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str = "") -> None:
        """Count a file that is left out, or a folder, whose name ends in a slash."""
        self.left_out[reason] += 1
        self.folders += name.endswith("/")
        names = self.names.setdefault(reason, [])
        if name and len(names) < _NAMED:
            names.append(name)

    @property
    def progress(self) -> str:
        """Say how far the reading has come; "" if that is not known."""
        if not self.total:
            return ""
        share = f"{100 * min(1.0, self.done / self.total):.0f}% of "
        return share + (f"{self.total / 1e6:,.1f} MB" if self.unit == "bytes" else f"{self.total:,} {self.unit}")

    def __str__(self) -> str:
        """Say in one sentence what was left out; "" if nothing was."""
        if not self.left_out:
            return ""
        parts = []
        for reason, count in self.left_out.most_common():
            names = list(self.names.get(reason, []))
            if names and count > len(names):
                names.append("...")
            parts.append(f"{count} {reason}" + (f" ({', '.join(names)})" if names else ""))
        files, folders = self.left_out.total() - self.folders, self.folders
        counts = [_counted(files, "file")] if files else []
        counts += [_counted(folders, "folder")] if folders else []
        return f"left out {' and '.join(counts)}: {', '.join(parts)}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
