"""The contents of an index in Qdrant: its documents, counts of them, and metadata filters."""

from __future__ import annotations

import base64
import copy
import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..documents import encodable
from ..errors import IndexCorruptError, IndexMismatchError
from ..models.sparse import SparseEncoder
from .filters import Filter
from .qdrant_engines import Engine
from .qdrant_filters import MARKS, Among, Between, HasVector, Where, check_filter, translated
from .qdrant_points import FETCHED, HEADS, TABLE, WHOLE, head_row, load_record, record_of, row_of
from .token_states import states_form
from .words import built_sparse_encoder

__all__ = ["Contents", "Statistics"]

_EVERYTHING = 1_000_000  # more different values than a field has
_SECONDS = 2.0  # for which counts are used if other processes may write
_KEPT = 64  # translated filters that are remembered, and thousands of frequencies


@dataclass(slots=True)
class Statistics:
    """Counts of an index, which are used for a while.

    Args:
        writes: the engine's number of writes at the time of counting.
        until: the time until which the counts are used, in seconds of the monotonic clock.
        passages: the number of passages, without those of empty documents.
        mean: the mean number of terms of these passages.
        whole: whether every document is one passage.
        documents: the number of documents.
        frequencies: the number of passages that have a term, for the terms of recent queries.
        filters: the translations of recent filters.
    """

    writes: int
    until: float
    passages: int
    mean: float
    whole: bool
    documents: int
    frequencies: dict[str, int] = field(default_factory=dict)
    filters: dict[str, Where] = field(default_factory=dict)


class Contents:
    """The documents of an index and counts of them, for searching and for writing.

    Args:
        engine: the engine of the index.

    Attributes:
        manifest: the manifest of the index.
        form: the form of the token states; None if the index keeps none.

    Raises:
        IndexStoreError: if there is no manifest, or one of another layout.
        IndexCorruptError: if the manifest is damaged.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.manifest, self._record = load_record(engine)
        states = self.manifest.token_states
        self.form = None if states.dim is None else states_form(states.kind, states.dim)
        self._counted: Statistics | None = None
        self._table: tuple[np.ndarray, Any] | None = None  # with its checksum
        self._sparse_encoder: SparseEncoder | None = None

    def fixed(self) -> Contents:
        """Return the contents of the index that has the name now, to change them; see `Engine.fixed`.

        Raises:
            IndexMismatchError: see `follow`.
        """
        fixed = copy.copy(self)
        fixed.engine, fixed._counted, fixed._table = self.engine.fixed(), None, None
        fixed.follow()
        return fixed

    def adopt(self, fixed: Contents) -> None:
        """Take over what a change has loaded, and count again.

        Args:
            fixed: the contents that were changed; see `fixed`.
        """
        self.manifest, self._record, self._counted = fixed.manifest, fixed._record, None
        self._sparse_encoder = fixed._sparse_encoder

    @property
    def path(self) -> str:
        """The name of the store, for messages."""
        return self.engine.name

    @property
    def keeps_words(self) -> bool:
        """Whether the index keeps sparse vectors of words."""
        return self.manifest.lexical.engine != "none"

    @property
    def keeps_bm25(self) -> bool:
        """Whether the index keeps sparse vectors for BM25."""
        return self.manifest.lexical.name.stage == "bm25"

    @property
    def sparse_encoder(self) -> SparseEncoder:
        """The encoder of learned sparse vectors, which is loaded and checked when it is first needed."""
        if self._sparse_encoder is None:
            self._sparse_encoder = built_sparse_encoder(self.manifest.lexical, self.path)
        return self._sparse_encoder

    def take_sparse_encoder(self, encoder: str | SparseEncoder) -> SparseEncoder:
        """Use an encoder in the place of the index's own.

        Raises:
            IndexMismatchError: if it gives other weights.
        """
        self._sparse_encoder = built_sparse_encoder(self.manifest.lexical, self.path, encoder)
        return self._sparse_encoder

    # -- points ------------------------------------------------------------------------------------------------------

    def heads(self, ids: Sequence[str], fields: Sequence[str] = FETCHED) -> dict[str, dict[str, Any]]:
        """Return the head's payload of each of these documents that the index has, by id."""
        rows = {id: row_of(id) for id in ids if encodable(id)}
        payloads = self.engine.retrieve("passages", list(rows.values()), fields) if rows else {}
        return {id: payloads[row] for id, row in rows.items() if row in payloads and payloads[row].get("id") == id}

    def all_heads(self, fields: Sequence[str] = FETCHED) -> Iterator[tuple[int, dict[str, Any]]]:
        """Iterate over the heads of all documents: the id of the point and its payload."""
        return self.engine.scroll("passages", HEADS, fields)

    def table(self, sum: Any = None) -> np.ndarray | None:
        """Return the table that the form of the token states has learned; None if it has none.

        Args:
            sum: the checksum of the table, fetched together with token states. If the index has another table now,
                None is returned.
        """
        if self.form is None or self.form.codes is None:
            return None
        known = self._table
        if (known is None or sum not in (None, known[1])) and (
            kept := self.engine.retrieve("states", [TABLE], ["table", "sum"])
        ):
            data = base64.b64decode(kept[TABLE]["table"])
            known = np.frombuffer(data, dtype=np.float32).reshape(self.form.codes), kept[TABLE].get("sum")
            self._table = known
        return None if known is None or sum not in (None, known[1]) else known[0]

    def is_replaced(self, sum: Any) -> bool:
        """Tell whether another index has replaced this one. If so, its manifest is loaded.

        Args:
            sum: the checksum of the manifest, fetched together with passages.

        Raises:
            IndexMismatchError: see `follow`.
        """
        if sum == self._record:
            return False
        self.follow()
        return True

    def check_vectors(self, *, passages: bool) -> None:
        """Compare the collection's vectors with the manifest.

        Args:
            passages: whether to look for passages without vectors too.

        Raises:
            IndexCorruptError: if the collection has other vectors than the manifest says, or passages lack vectors.
        """
        there, dim = self.engine.vectors(), self.manifest.encoder.dim
        if there.get("dense", 0) != dim or "words" not in there:
            raise IndexCorruptError(
                f"{self.path}: according to its manifest, the collection has the vectors dense ({dim}) and words (0), "
                f"but it has {', '.join(f'{name} ({size})' for name, size in there.items()) or 'none'}; build the "
                "index again"
            )
        if not passages:
            return
        for name, needed in (("dense", dim > 0), ("words", self.keeps_words)):
            has = (Between("length", {"gte": 1}),) if name == "words" else WHOLE.must
            lacking = Where(must=has, must_not=(HasVector(name), Among("empty", [1])))
            if needed and (count := self.engine.count(lacking)):
                first = itertools.islice(self.engine.scroll("passages", lacking, ["document"]), 1)
                heads = self.engine.retrieve("passages", [head_row(row) for row, _ in first], ["id"])
                id = next((head.get("id") for head in heads.values()), "?")
                raise IndexCorruptError(
                    f"{self.path}: passages without the vector {name!r} would never be found ({count}, one of them of "
                    f"document {id!r}); write their documents again with sightline add --update, or build the index "
                    "again"
                )

    # -- what is counted ---------------------------------------------------------------------------------------------

    def now(self) -> Statistics:
        """Return counts of the index, at most two seconds old if other processes may write."""
        counted, writes = self._counted, self.engine.writes
        if counted is not None and counted.writes == writes and time.monotonic() < counted.until:
            return counted
        until = float("inf")
        if self.engine.shared:
            until = time.monotonic() + _SECONDS
            self.follow()
        if self.keeps_words:
            lengths = self.engine.facet("length", _EVERYTHING)
            passages = sum(lengths.values())
            mean = sum(length * count for length, count in lengths.items()) / max(1, passages)
        else:
            passages, mean = self.engine.count(Where(must=WHOLE.must, must_not=(Among("empty", [1]),))), 0.0
        documents = self.engine.count(HEADS)
        whole = not self.engine.count(Where(must=(Between("passage", {"gte": 1}),)))
        counted = self._counted = Statistics(writes, until, passages, mean, whole, documents)
        return counted

    def follow(self) -> None:
        """Load the manifest again, since another index may have replaced this one, or a build may be complete.

        Raises:
            IndexMismatchError: if it is of an index with other settings.
        """
        manifest, record = load_record(self.engine)
        if manifest.settings() != self.manifest.settings():
            raise IndexMismatchError(
                f"{self.path}: another index with other settings has replaced this one "
                f"({self.manifest.difference(manifest)}); open it again, or restart the server"
            )
        if record != self._record:
            self.manifest, self._record, self._counted = manifest, record, None

    def complete(self, counts: dict[str, int]) -> None:
        """Mark the index as complete.

        Args:
            counts: the numbers of documents and passages.
        """
        self.manifest = dataclasses.replace(self.manifest, complete=True, counts=counts)
        record = record_of(self.manifest)
        self.engine.upsert("passages", [record])
        self._record = record.payload["sum"]

    def forget(self) -> None:
        """Drop the counts, because another process may have written."""
        self._counted = None

    def frequency(self, term: str) -> int:
        """Return the number of passages that have a term."""
        known = self.now().frequencies
        if term not in known:
            if len(known) >= _KEPT * 1000:
                known.clear()
            known[term] = self.engine.count(Where(must=(Among("words", [term]),)))
        return known[term]

    # -- filters -----------------------------------------------------------------------------------------------------

    def has(self, mark: str) -> bool:
        """See `sightline.retrieval.qdrant_filters.FieldsOfStore`."""
        return self.engine.count(Where(must=(Among(MARKS, [mark]),))) > 0

    def distinct(self, key: str, limit: int) -> list[str]:
        """See `sightline.retrieval.qdrant_filters.FieldsOfStore`."""
        return list(self.engine.facet(key, limit))

    def conditions(self, where: Mapping[str, Any] | None) -> Where:
        """Translate a filter into conditions on the payload.

        Raises:
            InputError: see `Filter.check`, and `translated`.
        """
        if where is None:
            return Where()
        filter, now = Filter(where), self.now()
        # A condition that orders texts becomes a list of texts that exist, and other processes may add more.
        ordered = any(isinstance(c.value, str) and c.operator not in ("=", "!=") for c in filter.conditions)
        known = None if ordered and self.engine.shared else now.filters.get(filter.key)
        if known is None:
            known = translated(filter, self)
            if now.documents and (filter.may_mislead or not self.engine.count(known)):
                check_filter(filter, list(self.engine.facet(MARKS, _EVERYTHING)))
            if len(now.filters) >= _KEPT:
                now.filters.clear()
            now.filters[filter.key] = known
        return known
