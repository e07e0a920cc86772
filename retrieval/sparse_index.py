"""Learned sparse retrieval: the weights that a model gives the terms of a vocabulary, in an inverted index.

SPLADE (Formal et al., SIGIR 2021) and its successors are searched like words: a document scores the sum, over the terms
of the query, of the query's weight times the document's. `SparsePostings` holds the weights on disk; `SparseIndex` is
the lexical index that an encoder makes of it.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..errors import DataError, IndexCorruptError, InputError
from ..files import digest, replace_file
from ..models.sparse import SparseEncoder, SparseVectors
from ..parsing import as_type, parse_json
from .files import RESTORE, locked, storage_errors

__all__ = ["SparseIndex", "SparsePostings"]

_FORMAT = 1
_LIST, _LOCK = "segments.json", ".lock"
# The arrays of a segment, each in a file of its own, and their dtypes.
_ARRAYS = {"rows": np.int64, "terms": np.int32, "offsets": np.int64, "postings": np.int32, "weights": np.float32}
_DELETED = np.int32
_FACTOR = 8  # so many segments of like size become one
_SMALL = 4096  # rows; segments below this are of like size
_LARGEST = 32_768  # rows; segments of so many are merged no more: it would take much memory, for a little time


@dataclass(frozen=True)
class _Record:
    """A segment in the list.

    Args:
        name: a number, the beginning of its files' names.
        size: how many rows it has, deleted ones included.
        digests: digest of each file of arrays, in the order of `_ARRAYS`.
        deleted: the number in the name of the file of its deleted rows, and the digest of that file; None if none is
            deleted.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    name: int
    size: int
    digests: list[str]
    deleted: tuple[int, str] | None = None

    def files(self) -> dict[str, str]:
        """Digest by name of every file."""
        named = dict(zip((f"{self.name}.{array}.npy" for array in _ARRAYS), self.digests, strict=True))
        return (
            named if self.deleted is None else {**named, f"{self.name}.deleted-{self.deleted[0]}.npy": self.deleted[1]}
        )


@dataclass(frozen=True)
class _Listing:
    """What the file that is replaced holds.

    Args:
        dim: the number of terms.
        next: the number of the next segment or file of deleted rows.
        segments: the segments, oldest first.
        format: the version of the folder's format.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    dim: int
    next: int
    segments: list[_Record]
    format: int = _FORMAT

    def __post_init__(self) -> None:
        if self.format != _FORMAT:
            raise DataError(f"its format is {self.format}, and this version reads {_FORMAT}")
        if any(len(record.digests) != len(_ARRAYS) for record in self.segments):
            raise DataError("a segment lacks a file")

    def files(self) -> dict[str, str]:
        """Digest by name of every file that it names."""
        return {name: known for record in self.segments for name, known in record.files().items()}


@dataclass(frozen=True, eq=False)
class _Segment:
    """A segment, open: columns of weights, one for each term that it has.

    Args:
        record: its entry in the list.
        rows: int64 (R,), ascending.
        terms: int32 (T,), ascending.
        offsets: int64 (T + 1,), where the column of each term begins.
        postings: int32 (P,), the places in ``rows`` of the entries of the columns, ascending in each.
        weights: float32 (P,), their weights.
        deleted: int32 (D,), the places of deleted rows.
    """

    record: _Record
    rows: np.ndarray
    terms: np.ndarray
    offsets: np.ndarray
    postings: np.ndarray
    weights: np.ndarray
    deleted: np.ndarray

    def live(self) -> np.ndarray:
        """Bool (R,), which rows are not deleted."""
        live = np.ones(len(self.rows), dtype=bool)
        live[self.deleted] = False
        return live


class SparsePostings:
    """Sparse vectors by row, in a folder of append-only segments; a search maps only the columns of its terms.

    A segment is written once, in files of its own. ``segments.json`` names those that count and is replaced in one
    step, so that a change is there whole or not at all, whenever its writer ends. One process writes at a time; others
    may search meanwhile, and each search sees what was written before it.

    Args:
        directory: the folder of the vectors.
        dim: the number of terms, which is needed to make a new one.
        create: whether to make a new one if there is none.

    Raises:
        IndexCorruptError: if there is none in the folder, or its list is damaged.

    Example:
        >>> import tempfile
        >>> from sightline.models.sparse import SparseVectors
        >>> postings = SparsePostings(tempfile.mkdtemp(), dim=3, create=True)
        >>> postings.add([7, 4], SparseVectors.of(np.array([[1, 0, 2], [0, 0, 3]], dtype=np.float32)))
        >>> rows, scores = postings.search(SparseVectors.of(np.array([[1, 0, 1]], dtype=np.float32)), k=5)
        >>> rows.tolist(), scores.tolist()
        ([4, 7], [3.0, 3.0])
    """

    def __init__(self, directory: str | Path, *, dim: int = 0, create: bool = False) -> None:
        self._path = Path(directory)
        self._open: tuple[bytes, _Listing, list[_Segment]] | None = None
        if create and not (self._path / _LIST).exists():
            with storage_errors(self._path, "nothing was made"):
                self._path.mkdir(parents=True, exist_ok=True)
                (self._path / _LOCK).touch()
                self._save(_Listing(dim, 0, []))
        self._segments()

    def rows(self) -> list[int]:
        """All rows, ascending.

        Raises:
            IndexCorruptError: if a file cannot be read.
        """
        own = [segment.rows[segment.live()] for segment in self._segments()[1]]
        return [int(row) for row in np.sort(np.concatenate([np.empty(0, np.int64), *own]))]

    def add(self, rows: Sequence[int], vectors: SparseVectors) -> None:
        """Add a vector under each row. It is on disk when the call returns.

        Args:
            rows: N rows that are not there yet.
            vectors: the vectors of these rows.

        Raises:
            InputError: if there are not as many vectors as rows, a row is there already, or a term is beyond the last.
            IndexLockedError: if another process is writing.
        """
        if len(rows) != len(vectors):
            raise InputError(f"{len(rows)} rows but {len(vectors)} sparse vectors")
        with locked(self._path / _LOCK, wait=0):
            now, segments = self._segments()
            new = np.array(rows, dtype=np.int64)
            if len(vectors.terms) and not 0 <= vectors.terms.min() <= vectors.terms.max() < now.dim:
                raise InputError(f"a sparse vector has the term {vectors.terms.max()}, and terms end at {now.dim - 1}")
            held = [segment.rows[np.isin(segment.rows, new) & segment.live()] for segment in segments]
            if twice := [*np.concatenate(held).tolist()] if held else []:
                raise InputError(f"{self._path}: row {twice[0]} is in the index already")
            if len(np.unique(new)) < len(new):
                raise InputError(f"{self._path}: a row is given twice")
            if not len(new):
                return
            merged = _newest(segments)
            numbers = np.repeat(new, np.diff(vectors.offsets))
            parts = [_entries(segment) for segment in merged]
            arrays = _columns(
                np.sort(np.concatenate([new, *(own for own, _, _, _ in parts)])),
                np.concatenate([numbers, *(rows for _, rows, _, _ in parts)]),
                np.concatenate([vectors.terms, *(terms for _, _, terms, _ in parts)]),
                np.concatenate([vectors.weights, *(weights for _, _, _, weights in parts)]),
            )
            kept = [segment.record for segment in segments[: len(segments) - len(merged)]]
            self._commit(now, [*kept, self._written(now.next, arrays)], now.next + 1)

    def delete(self, rows: Sequence[int]) -> None:
        """Forget rows.

        Those that are not in the index are skipped. A segment that has lost half of its rows is written again.

        Raises:
            IndexLockedError: if another process is writing.
        """
        with locked(self._path / _LOCK, wait=0):
            now, segments = self._segments()
            gone, number, records = np.array(rows, dtype=np.int64), now.next, []
            for segment in segments:
                live = segment.live()
                left = live & ~np.isin(segment.rows, gone)
                if left.sum() == live.sum():
                    records.append(segment.record)
                elif 2 * left.sum() >= len(left):
                    written = self._written_deleted(segment, number, ~left)
                    records.append(dataclasses.replace(segment.record, deleted=(number, written)))
                elif left.any():
                    kept = dataclasses.replace(segment, deleted=np.flatnonzero(~left).astype(_DELETED))
                    records.append(self._written(number, _columns(*_entries(kept))))
                number += 1
            if records != now.segments:
                self._commit(now, records, number)

    def search(self, query: SparseVectors, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the best rows by inner product.

        Args:
            query: the vector of the query.
            k: the largest number of rows to find, at least 1.
            allowed: the rows that may be returned, int64. If None, all of them.

        Returns:
            (rows, scores): int64 and float64 arrays of one length <= k, best first, ties by row. Rows that share no
            term with the query are left out.

        Raises:
            InputError: if ``k`` is below 1.
            IndexCorruptError: if a file cannot be read, or does not hold what was written.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        found = [self._found(segment, query, k, allowed) for segment in self._segments()[1]]
        rows = np.concatenate([np.empty(0, np.int64), *(own for own, _ in found)])
        scores = np.concatenate([np.empty(0), *(own for _, own in found)])
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]

    def verify(self) -> None:
        """Check every file against its digest.

        Raises:
            IndexCorruptError: naming the first file that does not have the bytes it was written with.
        """
        now, _ = self._segments()
        for name, known in now.files().items():
            path = self._path / name
            try:
                intact = digest(path) == known
            except FileNotFoundError:
                if self._segments()[0] != now:  # a writer merged it away
                    return self.verify()
                intact = False
            if not intact:
                raise IndexCorruptError(f"{path}: checksum mismatch; {RESTORE}")

    # -- searching a segment -----------------------------------------------------------------------------------------

    def _found(
        self, segment: _Segment, query: SparseVectors, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best rows of one segment, in no order, with all that score as the last of them does."""
        places = np.searchsorted(segment.terms, query.terms)
        there = np.flatnonzero(places < len(segment.terms))
        there = there[segment.terms[places[there]] == query.terms[there]]
        if not len(there):
            return np.empty(0, np.int64), np.empty(0)
        columns = [slice(*segment.offsets[place : place + 2]) for place in places[there]]
        postings = np.concatenate([segment.postings[column] for column in columns])
        products = np.concatenate(
            [
                np.multiply(segment.weights[column], weight, dtype=np.float64)
                for column, weight in zip(columns, query.weights[there], strict=True)
            ]
        )
        if len(postings) and not 0 <= postings.min() <= postings.max() < len(segment.rows):
            raise self._corrupt(segment.record.name, "a column names a row that is not there")
        scores = np.bincount(postings, products, minlength=len(segment.rows))
        shown = np.zeros(len(segment.rows), dtype=bool)
        shown[postings] = True
        shown[segment.deleted] = False
        if allowed is not None:
            shown &= np.isin(segment.rows, allowed)
        best = np.flatnonzero(shown)
        if len(best) > k:
            last = np.partition(scores[best], len(best) - k)[len(best) - k]
            best = best[scores[best] >= last]
        return segment.rows[best], scores[best]

    # -- files -------------------------------------------------------------------------------------------------------

    def _segments(self) -> tuple[_Listing, list[_Segment]]:
        """What was written last, by whatever process."""
        while True:
            data = self._data()
            held = self._open
            if held is not None and held[0] == data:
                return held[1], held[2]
            try:
                now = as_type(parse_json(data), _Listing)
            except DataError as error:
                raise IndexCorruptError(f"{self._path / _LIST}: {error.reason}; {RESTORE}") from error
            open_already = {} if held is None else {tuple(segment.record.digests): segment for segment in held[2]}
            try:
                segments = [self._load(now, record, open_already.get(tuple(record.digests))) for record in now.segments]
            except FileNotFoundError as error:
                if self._data() != data:
                    continue  # a writer has merged it away
                raise IndexCorruptError(f"{error.filename}: is missing; {RESTORE}") from error
            self._open = data, now, segments
            return now, segments

    def _data(self) -> bytes:
        try:
            return (self._path / _LIST).read_bytes()
        except OSError as error:
            raise IndexCorruptError(f"{self._path / _LIST}: cannot be read ({error.strerror}); {RESTORE}") from error

    def _load(self, now: _Listing, record: _Record, held: _Segment | None) -> _Segment:
        arrays = {}
        if held is not None:
            arrays = {name: getattr(held, name) for name in _ARRAYS}
        else:
            for name, dtype in _ARRAYS.items():
                arrays[name] = self._array(f"{record.name}.{name}.npy", dtype)
            rows, terms, offsets = arrays["rows"], arrays["terms"], arrays["offsets"]
            whole = len(rows) == record.size and len(offsets) == len(terms) + 1 and offsets[0] == 0
            whole = whole and len(arrays["postings"]) == len(arrays["weights"]) == offsets[-1]
            whole = whole and (not len(terms) or 0 <= terms[0] <= terms[-1] < now.dim)
            if not (whole and all((np.diff(a) > 0).all() for a in (rows, terms)) and (np.diff(offsets) >= 0).all()):
                raise self._corrupt(record.name, "its files do not fit together")
        deleted = np.empty(0, _DELETED)
        if record.deleted is not None:
            deleted = self._array(f"{record.name}.deleted-{record.deleted[0]}.npy", _DELETED)
            if len(deleted) and not 0 <= deleted.min() <= deleted.max() < record.size:
                raise self._corrupt(record.name, "a row that is not there is deleted")
        return _Segment(record, deleted=deleted, **arrays)

    def _array(self, name: str, dtype: type) -> np.ndarray:
        path = self._path / name
        try:
            small = path.stat().st_size < mmap.PAGESIZE  # such as an empty array, which cannot be mapped
            array = np.load(path, mmap_mode=None if small else "r", allow_pickle=False)
        except FileNotFoundError:
            raise  # perhaps a writer has merged it away
        except (OSError, ValueError, EOFError) as error:
            raise IndexCorruptError(f"{path}: cannot be read ({error}); {RESTORE}") from error
        if array.dtype != dtype or array.ndim != 1:
            raise IndexCorruptError(f"{path}: holds {array.dtype} of {array.ndim} dimensions; {RESTORE}")
        return np.asarray(array)

    def _corrupt(self, name: int, reason: str) -> IndexCorruptError:
        return IndexCorruptError(f"{self._path}: segment {name}: {reason}; {RESTORE}")

    def _written(self, name: int, arrays: tuple[np.ndarray, ...]) -> _Record:
        """Write the files of a segment, which nothing names yet."""
        with storage_errors(self._path, "what was there before is kept"):
            digests = [
                _save_array(self._path / f"{name}.{array}.npy", values.astype(dtype, copy=False))
                for (array, dtype), values in zip(_ARRAYS.items(), arrays, strict=True)
            ]
        return _Record(name, len(arrays[0]), digests)

    def _written_deleted(self, segment: _Segment, number: int, deleted: np.ndarray) -> str:
        path = self._path / f"{segment.record.name}.deleted-{number}.npy"
        with storage_errors(self._path, "what was there before is kept"):
            return _save_array(path, np.flatnonzero(deleted).astype(_DELETED))

    def _commit(self, now: _Listing, records: list[_Record], number: int) -> None:
        """Let other segments count."""
        with storage_errors(self._path, "what was there before is kept"):
            self._save(_Listing(now.dim, number, records))

    def _save(self, new: _Listing) -> None:
        """Let these segments count, and remove what they don't name: what was merged, or a killed writer left."""
        replace_file(self._path / _LIST, json.dumps(dataclasses.asdict(new)).encode())
        named = new.files()
        for file in self._path.glob("*.npy"):
            if file.name not in named:
                file.unlink()


class SparseIndex:
    """A lexical index (see `sightline.retrieval.lexical_index.LexicalIndex`) of learned sparse vectors.

    Args:
        directory: the folder of the vectors; see `SparsePostings`.
        load: a function that loads the encoder when a text is first read. Searches and additions need it, deletions do
            not.

    Raises:
        IndexCorruptError: if there is no index of this kind in the folder, or files of it are missing or broken.

    Example:
        >>> from sightline.models.sparse import load_sparse_encoder
        >>> _ = SparsePostings("wiki.sparse", dim=30522, create=True)  # doctest: +SKIP
        >>> index = SparseIndex("wiki.sparse", lambda: load_sparse_encoder("naver/splade-v3"))  # doctest: +SKIP
        >>> index.add([0, 1], ["Cats purr.", "Dogs bark."])  # doctest: +SKIP
        >>> index.search("a noisy puppy", k=1)[0].tolist()  # doctest: +SKIP
        [1]
    """

    def __init__(self, directory: str | Path, load: Callable[[], SparseEncoder]) -> None:
        self._postings = SparsePostings(directory)
        self._load = load
        self._loaded: SparseEncoder | None = None

    @property
    def encoder(self) -> SparseEncoder:
        """The model that reads texts and queries."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def rows(self) -> list[int]:
        """List all rows in the index, ascending."""
        return self._postings.rows()

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Index one text under each row; see `LexicalIndex.add`. It is on disk when the call returns.

        Raises:
            InputError: see `SparsePostings.add`.
            IndexLockedError: if another process is writing.
            ModelError: if the encoder cannot be loaded, or gives weights that are not finite.
        """
        self._postings.add(rows, self.encoder.encode_documents(list(texts)))

    def delete(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Forget rows; see `LexicalIndex.delete`. This engine does not need ``texts``.

        Raises:
            IndexLockedError: if another process is writing.
        """
        self._postings.delete(rows)

    def search(self, query: str, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the best rows for a query; see `LexicalIndex.search`.

        Raises:
            InputError: if ``k`` is below 1.
            IndexCorruptError: see `SparsePostings.search`.
            ModelError: see `add`.
        """
        return self._postings.search(self.encoder.encode_queries([query]), k, allowed)

    def close(self) -> None:
        """Do nothing: the files are released with the last reference to the index."""


def _newest(segments: Sequence[_Segment]) -> list[_Segment]:
    """The newest segments, as many as a new one is to be merged with.

    Segments below a bound are merged when there are `_FACTOR` of them with the new one, bound by bound, so that each
    row is written about log(rows) / log(`_FACTOR`) times, and a collection has few segments.
    """
    merge, bound = 0, _SMALL
    while bound <= _LARGEST:
        tail = 0
        while tail < len(segments) and segments[-1 - tail].record.size < bound:
            tail += 1
        if tail + 1 >= _FACTOR:
            merge = tail
        bound *= _FACTOR
    return list(segments[len(segments) - merge :])


def _entries(segment: _Segment) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The live rows of a segment, and the row, term and weight of each of their entries."""
    live = segment.live()
    kept = live[segment.postings]
    terms = np.repeat(segment.terms, np.diff(segment.offsets))
    return segment.rows[live], segment.rows[segment.postings[kept]], terms[kept], segment.weights[kept]


def _columns(rows: np.ndarray, entries: np.ndarray, terms: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """The arrays of a segment, in the order of `_ARRAYS`.

    Args:
        rows: int64 (R,), all rows, ascending.
        entries: int64 (P,), the row of each entry.
        terms: int32 (P,), its term.
        weights: float32 (P,), its weight.
    """
    order = np.lexsort((entries, terms))
    own, starts = np.unique(terms[order], return_index=True)
    return rows, own, np.append(starts, len(terms)), np.searchsorted(rows, entries[order]), weights[order]


def _save_array(path: Path, array: np.ndarray) -> str:
    """Write an array to disk; returns the digest of the file."""
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())
    return digest(path)
