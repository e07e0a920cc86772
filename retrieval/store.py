"""The document store: documents, their passages, and what was appended to the other files, in one SQLite database.

Its commit is the index's commit: a batch exists when, and only when, its transaction here is durable.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ..documents import Document, Passage, encodable
from ..errors import IndexCorruptError, IndexStoreError, InputError
from .files import RESTORE
from .filters import Filter

__all__ = ["DocumentStore", "Ranked", "Segment", "StoredPassage", "Traffic"]
__all__ += ["as_json", "checked_id", "checked_ids", "digest_of"]

Ranked = tuple[np.ndarray, np.ndarray]
"""The rows that a search found, and their scores, best first."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents(
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, metadata TEXT NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0, digest BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS live_ids ON documents(id) WHERE deleted = 0;
CREATE TABLE IF NOT EXISTS passages(
    row INTEGER PRIMARY KEY, document INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    first_token INTEGER NOT NULL, tokens INTEGER NOT NULL, truncated INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS passages_of ON passages(document);
CREATE TABLE IF NOT EXISTS decoder_passages(
    row INTEGER PRIMARY KEY, first_token INTEGER NOT NULL, tokens INTEGER NOT NULL, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS segments(file TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    digest TEXT NOT NULL, PRIMARY KEY (file, start));
"""


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes ``[start, stop)`` that one batch appended to ``file``."""

    file: str
    start: int
    stop: int
    digest: str


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """A passage as an index stores it.

    Args:
        row: the number of the passage in the vector and lexical files.
        passage: the passage with its document.
        tokens: the place of its token states in their file: ``[first, stop)``.
        truncated: the number of tokens at its end that the encoder did not read.
        decoder_tokens: the place of its decoder states in their file: ``[first, stop)``; empty if there are none.
    """

    row: int
    passage: Passage
    tokens: tuple[int, int]
    truncated: int
    decoder_tokens: tuple[int, int]


@dataclass(slots=True)
class Traffic:
    """What came over the network: requests, and bytes of their answers."""

    requests: int = 0
    bytes: int = 0


class DocumentStore:
    """Documents and passages in SQLite, one connection shared by the threads of a process.

    Args:
        path: the path of the database file.
        create: whether to make the file and its tables if they are missing.

    Raises:
        IndexCorruptError: if the file is not there, or is not a readable database.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._commits = 0
        # Manual transactions; the rollback journal leaves a single file at rest, which can be checksummed.
        name = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
        try:
            self.connection = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False, timeout=60)
        except sqlite3.OperationalError as error:
            if not create and not path.exists():
                raise IndexCorruptError(f"{path}: the file is missing; {RESTORE}") from error
            raise self._translated(error) from error
        try:
            self.connection.execute("PRAGMA synchronous = FULL")
            self.connection.execute("PRAGMA temp_store = MEMORY")
            if not self.connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'segments'").fetchone():
                if not create:
                    raise sqlite3.DatabaseError("the tables are missing")
                self.connection.executescript(_SCHEMA)
            # An index of an early version has no such table.
            table = self.connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'decoder_passages'")
            self._has_decoder_passages = table.fetchone() is not None
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self.connection.close()
            raise self._translated(error) from error
        self.file = self._inode()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _translated(self, error: sqlite3.Error | UnicodeDecodeError) -> IndexStoreError:
        text = str(error)
        if isinstance(error, sqlite3.ProgrammingError):
            return IndexStoreError(f"{self.path}: {text.rstrip('.')}; open the index again")
        damaged = ("malformed", "not a database", "decode", "no such")
        if isinstance(error, sqlite3.OperationalError) and not any(word in text for word in damaged):
            why = "no space left on the device" if "full" in text else text
            return IndexStoreError(f"{self.path}: {why}; what was committed before is kept")
        return IndexCorruptError(f"{self.path}: {text}; {RESTORE}")

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn SQLite's errors into `IndexStoreError`."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._translated(error) from error
        except UnicodeDecodeError as error:  # the sqlite3 module's own, of a damaged text in a message
            raise IndexCorruptError(f"{self.path}: {error}; {RESTORE}") from error

    def _fetch(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.translated(), self.lock:
            return self.connection.execute(sql, values).fetchall()

    def _document(self, id: Any, title: Any, text: Any, metadata: Any) -> Document:
        """A document out of its columns.

        Raises:
            IndexCorruptError: if they are damaged, as they can be where an index was opened without verification.
        """
        try:
            return Document(id, text, title, json.loads(metadata))
        except (ValueError, TypeError, RecursionError) as error:
            raise IndexCorruptError(f"{self.path}: document {id!r} is damaged; {RESTORE}") from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, durable at the end of the block.

        Raises:
            IndexStoreError: if SQLite cannot write (disk full, read-only, ...); nothing of the block is kept.
        """
        with self.lock:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self.connection.execute("COMMIT")
                    self._commits += 1
                except BaseException:
                    if self.connection.in_transaction:
                        self.connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._translated(error) from error

    def _inode(self) -> int:
        """The number of the file that has this path now; 0 if there is none."""
        try:
            return self.path.stat().st_ino
        except OSError:
            return 0

    @property
    def replaced(self) -> bool:
        """Whether another file was put in the place of the one that is open."""
        return self._inode() not in (0, self.file)

    def version(self) -> tuple[int, int, int]:
        """A value that changes when any process commits to the file or puts another in its place.

        Raises:
            IndexStoreError: if the database cannot be read.
        """
        file = self._inode()
        if file not in (0, self.file):
            # SQLite must not be asked: it would take the journal of a writer of the other file, which has the same
            # name, for that of a killed writer of this one, and remove it.
            return file, 0, 0
        return file, self._fetch("PRAGMA data_version")[0][0], self._commits

    def change_counter(self) -> int:
        """SQLite's file change counter (file format, section 1.3.6): grows with every committed write.

        Raises:
            IndexCorruptError: if its two copies in the file differ.
        """
        with self.path.open("rb") as file:
            header = file.read(100)
        # SQLite writes the counter twice, the second time as "version-valid-for".
        if header[24:28] != header[92:96]:
            raise IndexCorruptError(f"{self.path}: damaged header; {RESTORE}")
        return int.from_bytes(header[24:28], "big")

    def check(self) -> None:
        """Check the structure of the whole file, and every document and its passages against their digest.

        For a file that has no checksum as a whole, because its writer was killed before it could write one.

        Raises:
            IndexCorruptError: if anything is wrong.
        """
        verdict = self._fetch("PRAGMA integrity_check(1)")[0][0]
        if verdict != "ok":
            raise IndexCorruptError(f"{self.path}: {verdict}; {RESTORE}")
        first = 0
        while page := self._fetch(
            "SELECT number, id, title, text, metadata, deleted, digest FROM documents WHERE number > ? "
            "ORDER BY number LIMIT 500",
            [first],
        ):
            last = page[-1][0]
            passages: dict[int, list[tuple[Any, ...]]] = {}
            for document, *place in self._fetch(
                "SELECT document, row, start, stop, first_token, tokens, truncated FROM passages "
                "WHERE document > ? AND document <= ? ORDER BY row",
                [first, last],
            ):
                passages.setdefault(document, []).append(tuple(place))
            for *fields, digest in page:
                if _seal(fields, passages.get(fields[0], [])) != digest:
                    raise IndexCorruptError(f"{self.path}: document {fields[1]!r} is not what was written; {RESTORE}")
            first = last
        if not self._has_decoder_passages:
            return
        for *place, digest in self._fetch("SELECT row, first_token, tokens, digest FROM decoder_passages"):
            if _seal(place, []) != digest:
                raise IndexCorruptError(
                    f"{self.path}: where the decoder states of row {place[0]} are is not what was written; {RESTORE}"
                )

    def rows(self) -> int:
        """How many passage rows were ever committed, deleted ones included: the next free row."""
        return int(self._fetch("SELECT COALESCE(MAX(row) + 1, 0) FROM passages")[0][0])

    def token_rows(self) -> int:
        """How many token states were ever committed."""
        last = self._fetch("SELECT first_token + tokens FROM passages ORDER BY row DESC LIMIT 1")
        return int(last[0][0]) if last else 0

    def decoder_tokens(self) -> int:
        """Of how many tokens decoder states were ever committed."""
        last = self._fetch("SELECT first_token + tokens FROM decoder_passages ORDER BY row DESC LIMIT 1")
        return int(last[0][0]) if last else 0

    def counts(self) -> dict[str, int]:
        """Live documents, live passages, and documents deleted since the index was built."""
        live, dead = self._fetch("SELECT SUM(deleted = 0), SUM(deleted) FROM documents")[0]
        passages = self._fetch(
            "SELECT COUNT(*) FROM passages p JOIN documents d ON d.number = p.document AND NOT d.deleted"
        )
        return {"documents": live or 0, "passages": passages[0][0], "deleted_documents": dead or 0}

    def count_passages(self, limit: int) -> int:
        """Live passages, counted up to a limit."""
        some = "SELECT 1 FROM passages p JOIN documents d ON d.number = p.document AND NOT d.deleted LIMIT ?"
        return int(self._fetch(f"SELECT COUNT(*) FROM ({some})", (limit,))[0][0])

    def last_number(self) -> int:
        """The number of the document that came last; numbers grow, from 1, and are never given twice."""
        return int(self._fetch("SELECT COALESCE(MAX(number), 0) FROM documents")[0][0])

    def existing(self, ids: Iterable[str]) -> dict[str, int]:
        """Which of these ids are live, with their documents' numbers."""
        sql = "SELECT id, number FROM documents WHERE deleted = 0 AND id IN (SELECT value FROM json_each(?))"
        return dict(self._fetch(sql, [json.dumps(list(ids))]))

    def insert(
        self,
        documents: Sequence[Document],
        passages: Sequence[Sequence[Passage]],
        tokens: np.ndarray,
        truncated: np.ndarray,
        decoder_tokens: Sequence[int] = (),
    ) -> range:
        """Insert documents with their passages, within a transaction; returns the passages' rows.

        Args:
            documents: N documents whose ids are not in the index.
            passages: the passages of each document.
            tokens: int64 (P,), the number of token states kept of each passage, in order.
            truncated: int64 (P,), the number of tokens of each passage that were not read.
            decoder_tokens: the number of tokens of each passage whose decoder states are kept; empty if the index keeps
                none.
        """
        first, token = self.rows(), self.token_rows()
        if decoder_tokens:
            starts = itertools.accumulate(decoder_tokens, initial=self.decoder_tokens())
            states = [[first + i, *place] for i, place in enumerate(zip(starts, decoder_tokens, strict=False))]
            self.connection.executemany(
                "INSERT INTO decoder_passages VALUES (?, ?, ?, ?)", [[*place, _seal(place, [])] for place in states]
            )
        row, number = first, self.last_number() + 1
        for document, chunks in zip(documents, passages, strict=True):
            fields = [number, document.id, document.title, document.text, as_json(document.metadata), 0]
            places = []
            for chunk in chunks:
                count, cut = int(tokens[row - first]), int(truncated[row - first])
                places.append((row, chunk.start, chunk.end, token, count, cut))
                row, token = row + 1, token + count
            self.connection.execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?)", [*fields, _seal(fields, places)]
            )
            self.connection.executemany(
                "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?)", [(row, number, *rest) for row, *rest in places]
            )
            number += 1
        return range(first, row)

    def delete(self, ids: Iterable[str]) -> list[StoredPassage]:
        """Mark documents as deleted and drop their text, within a transaction; returns the passages they had."""
        ids = list(ids)
        gone = self.passages_of(ids)
        for id, number in self.existing(ids).items():
            fields = [number, id, "", "", "{}", 1]
            places = self._fetch(
                "SELECT row, start, stop, first_token, tokens, truncated FROM passages WHERE document = ? ORDER BY row",
                [number],
            )
            self.connection.execute(
                "UPDATE documents SET title = ?, text = ?, metadata = ?, deleted = ?, digest = ? WHERE number = ?",
                [*fields[2:], _seal(fields, places), number],
            )
        return gone

    def record(self, segments: Iterable[Segment]) -> None:
        """Remember what a batch appended, within its transaction."""
        self.connection.executemany(
            "INSERT INTO segments VALUES (?, ?, ?, ?)",
            # texts without a token have no states: an empty segment would only collide with the next one
            [(s.file, s.start, s.stop, s.digest) for s in segments if s.stop > s.start],
        )

    def segments(self) -> list[Segment]:
        """All that was ever appended, in order."""
        return [Segment(*row) for row in self._fetch("SELECT * FROM segments ORDER BY file, start")]

    def document_numbers(self, rows: int) -> np.ndarray:
        """Number of the live document that each of the first ``rows`` passages is of, 0 for a deleted one: int64."""
        numbers = np.zeros(rows, dtype=np.int64)
        sql = "SELECT row, document FROM passages WHERE document IN (SELECT number FROM documents WHERE deleted = 0)"
        pairs = np.array(self._fetch(sql), dtype=np.int64).reshape(-1, 2)
        pairs = pairs[(pairs[:, 0] >= 0) & (pairs[:, 0] < rows)]
        numbers[pairs[:, 0]] = pairs[:, 1]
        return numbers

    def live(self, rows: int, filter: Filter | None = None) -> np.ndarray:
        """Which of the first ``rows`` passages belong to live documents that match a filter: bool (rows,).

        Args:
            rows: the length of the mask.
            filter: a filter on metadata. If None, all documents match.

        Raises:
            InputError: if the filter names a field that no document has, or compares a field with a value of another
                type than it holds.
        """
        if filter is None:
            return self.document_numbers(rows) > 0
        sql = (
            "SELECT row FROM passages "
            "WHERE document IN (SELECT number FROM documents WHERE deleted = 0 AND meets(metadata))"
        )
        with self.lock:
            self.connection.create_function("meets", 1, lambda text: filter.meets(json.loads(text)))
            matches = self._fetch(sql)
        if filter.may_mislead or not matches:
            texts = self._fetch("SELECT DISTINCT metadata FROM documents WHERE deleted = 0")
            filter.check(json.loads(text) for (text,) in texts)
        mask = np.zeros(rows, dtype=bool)
        matched = np.array([row[0] for row in matches], dtype=np.int64)
        mask[matched[(matched >= 0) & (matched < rows)]] = True
        return mask

    def passages(self, rows: Sequence[int]) -> dict[int, StoredPassage]:
        """The live passages among these rows, with their documents and places in the other files, keyed by row."""
        decoder = ("NULL, NULL", "")
        if self._has_decoder_passages:
            decoder = ("s.first_token, s.tokens", "LEFT JOIN decoder_passages s ON s.row = p.row")
        # A cross join keeps its order: SQLite's planner would make a table of the asked rows first.
        places = self._fetch(
            f"SELECT p.row, p.document, p.start, p.stop, p.first_token, p.tokens, p.truncated, {decoder[0]} "
            f"FROM json_each(?) CROSS JOIN passages p ON p.row = value {decoder[1]}",
            [json.dumps([int(row) for row in rows])],
        )
        # A document is read once, and not with each of its passages: a long text may have thousands of them.
        found = self._fetch(
            "SELECT d.number, d.id, d.title, d.text, d.metadata FROM json_each(?) "
            "CROSS JOIN documents d ON d.number = value AND NOT d.deleted",
            [json.dumps(list(dict.fromkeys(number for _, number, *_ in places)))],
        )
        documents = {number: self._document(*fields) for number, *fields in found}
        stored = {}
        for row, number, start, stop, first, tokens, truncated, decoder_first, decoder_tokens in places:
            if number in documents:
                states = (0, 0) if decoder_first is None else (decoder_first, decoder_first + decoder_tokens)
                passage = Passage(documents[number], start, stop)
                stored[row] = StoredPassage(row, passage, (first, first + tokens), truncated, states)
        return stored

    def token_ranges(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Where the token states of these rows are in their file: ``[first, stop)`` of each, in order.

        Raises:
            IndexCorruptError: if a row was never committed.
        """
        sql = "SELECT row, first_token, first_token + tokens FROM json_each(?) CROSS JOIN passages ON row = value"
        places = {row: (first, stop) for row, first, stop in self._fetch(sql, [json.dumps(list(rows))])}
        try:
            return [places[row] for row in rows]
        except KeyError as error:
            raise IndexCorruptError(f"{self.path}: passage {error} is missing; {RESTORE}") from error

    def passages_of(self, ids: Sequence[str]) -> list[StoredPassage]:
        """All passages of the live documents among these ids, by row."""
        sql = (
            "SELECT p.row FROM passages p JOIN documents d ON d.number = p.document "
            "WHERE d.deleted = 0 AND d.id IN (SELECT value FROM json_each(?)) ORDER BY p.row"
        )
        rows = [row for (row,) in self._fetch(sql, [json.dumps(list(ids))])]
        stored = self.passages(rows)
        return [stored[row] for row in rows if row in stored]  # others were deleted between the two questions

    def document_ids(self, rows: Sequence[int]) -> dict[int, str]:
        """Document id of each live passage among these rows."""
        sql = (
            "SELECT p.row, d.id FROM passages p JOIN documents d ON d.number = p.document AND NOT d.deleted "
            "WHERE p.row IN (SELECT value FROM json_each(?))"
        )
        return dict(self._fetch(sql, [json.dumps([int(row) for row in rows])]))

    def document(self, id: str) -> Document | None:
        """A live document by the user's id."""
        if not encodable(id):
            return None  # SQLite can neither hold such an id nor be asked for it
        return self.find([id]).get(id)

    def find(self, ids: Iterable[str]) -> dict[str, Document]:
        """The live documents among these ids."""
        sql = (
            "SELECT id, title, text, metadata FROM documents "
            "WHERE deleted = 0 AND id IN (SELECT value FROM json_each(?))"
        )
        return {
            id: self._document(id, title, text, metadata)
            for id, title, text, metadata in self._fetch(sql, [json.dumps(list(ids))])
        }

    def ids(self) -> dict[int, str]:
        """The ids of all live documents, by number."""
        return dict(self._fetch("SELECT number, id FROM documents WHERE deleted = 0"))

    def sample(self, count: int) -> list[Document]:
        """Up to ``count`` live documents, spread evenly over the order in which they came."""
        sql = (
            "SELECT number, id, title, text, metadata FROM documents WHERE deleted = 0 AND number > ? "
            "ORDER BY number LIMIT 1"
        )
        documents: list[Document] = []
        last, before = self.last_number(), 0
        for place in range(count):
            before = max(before, place * last // count)
            found = self._fetch(sql, [before])
            if not found:
                break
            before, *fields = found[0]
            documents.append(self._document(*fields))
        return documents

    def documents(self) -> Iterator[Document]:
        """All live documents, in the order they came, a page at a time."""
        last = -1
        while page := self._fetch(
            "SELECT number, id, title, text, metadata FROM documents WHERE deleted = 0 AND number > ? "
            "ORDER BY number LIMIT 500",
            [last],
        ):
            for _, id, title, text, metadata in page:
                yield self._document(id, title, text, metadata)
            last = page[-1][0]


def as_json(metadata: Mapping[str, Any]) -> str:
    """Metadata in the form in which it is stored."""
    return json.dumps(dict(metadata), ensure_ascii=False)


def digest_of(document: Document, passages: Sequence[Passage]) -> str:
    """Return a digest of a document and its passages, which is the same in every store."""
    fields = [document.id, document.title, document.text, as_json(document.metadata)]
    places = [[passage.start, passage.end] for passage in passages]
    return xxhash.xxh3_128_hexdigest(json.dumps([fields, places]).encode())


def checked_id(id: Any) -> str:
    """Return an id that a caller gave.

    Raises:
        InputError: if it is not a string.
    """
    if not isinstance(id, str):
        raise InputError(f"ids are strings; use '{id}', not {id!r} ({type(id).__name__})")
    return id


def checked_ids(ids: Iterable[Any], index: object) -> list[str]:
    """The ids that a caller gave to have them deleted, each once.

    Raises:
        InputError: if one is no text, or there is a single text in the place of a list.
    """
    if isinstance(ids, str | bytes):
        raise InputError(f"{index}: delete takes a list of ids; for one document, [{ids!r}]")
    return list(dict.fromkeys(map(checked_id, ids)))


def _seal(fields: Sequence[Any], passages: Sequence[Sequence[Any]]) -> bytes:
    """The digest of a document's columns and of its passages', in the order of the tables."""
    return xxhash.xxh3_128_digest(
        json.dumps([list(fields), [list(place) for place in passages]], default=repr).encode()
    )
