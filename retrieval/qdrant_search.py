"""Search an index in Qdrant, with the same results as an index in a folder."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ..documents import Document
from ..errors import IndexCorruptError, IndexMismatchError, InputError
from ..models.encoder import Encoder
from ..models.reader import DocumentStates
from .manifest import Manifest
from .planning import load_built_encoder
from .qdrant_contents import Contents
from .qdrant_engines import PAGE, Engine, Hit, Nearest, RefusedError
from .qdrant_filters import Where
from .qdrant_points import (
    FETCHED,
    PLACES,
    RECORD,
    TABLE,
    StoredPoint,
    content_of,
    document_of,
    head_row,
    number_of_document,
    passage_of,
    row_of,
    rows_of,
    spans_of,
    states_of,
    states_rows_of,
)
from .qdrant_words import learned_vectors, query_vector
from .reading import StoredBatch
from .store import Ranked, StoredPassage, Traffic, checked_id
from .token_states import decode_spans

if TYPE_CHECKING:
    from ..models.reader import StoredBlock

__all__ = ["QdrantSearch"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_TRIALS = 3
_SEARCHES = 64  # in one request, so that a long batch does not exceed its time
_WAITS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)  # seconds to wait for a document that is being written


class _Whole(NamedTuple):
    """A document with everything that the index keeps of its passages."""

    document: Document
    points: list[StoredPoint]
    vectors: list[list[float]]
    states: list[bytes]
    spans: list[np.ndarray]


class QdrantSearch:
    """The searches of an index in Qdrant. `sightline.retrieval.qdrant_store.QdrantStore` adds the changes.

    Another process may change a document after its passages were found and before they are fetched. A passage counts
    only while it has the digest of its document, and `read` repeats a search if a passage has changed in between.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._contents = Contents(engine)
        self._encoder: Encoder | None = None
        self._backend: str | None = None
        self._reading = threading.local()

    def close(self) -> None:
        """Release files and connections. Afterwards, every other call is refused."""
        self.engine.close()

    def __len__(self) -> int:
        """Count the documents."""
        return self._contents.now().documents

    @property
    def path(self) -> str:
        """The name of the store."""
        return self.engine.name

    @property
    def manifest(self) -> Manifest:
        """The manifest of the index."""
        return self._contents.manifest

    @property
    def encoder(self) -> Encoder:
        """The bi-encoder, which is loaded and checked when you first use it."""
        if self._encoder is None:
            self._encoder = load_built_encoder(self.manifest.encoder, self.path, self._backend)
        return self._encoder

    def counts(self) -> dict[str, int]:
        """Count the ``documents`` and ``passages``. ``deleted_documents`` is 0, since Qdrant removes them by itself."""
        now = self._contents.now()
        return {"documents": now.documents, "passages": now.passages, "deleted_documents": 0}

    def count_passages(self, limit: int) -> int:
        """Count the passages, up to a limit."""
        return min(limit, self._contents.now().passages)

    def size(self) -> dict[str, int]:
        """Return the size of each file of ``qdrant-edge`` in bytes; nothing for a server."""
        return self.engine.size()

    @property
    def traffic(self) -> Traffic | None:
        """The number of requests sent to a server and of bytes in its answers; None for an index on this machine."""
        return self.engine.traffic

    def verify(self) -> None:
        """Look for passages without their vectors.

        Raises:
            IndexCorruptError: if there are such passages.
        """
        self._contents.check_vectors(passages=True)

    # -- searching -----------------------------------------------------------------------------------------------------

    def read(self, work: Callable[[], T]) -> T:
        """Call ``work``, and call it again if a passage that it found has changed in the meantime.

        Args:
            work: a function that calls methods of this index. It may be called several times.

        Returns:
            The value that ``work`` returned. After the third call, passages that have changed are left out.
        """
        if getattr(self._reading, "found", None) is not None:
            return work()
        for trial in range(1, _TRIALS + 1):
            self._reading.found, self._reading.changed = {}, False
            writes = self.engine.writes
            try:
                done = work()
                # If other processes may write, the digests of what was found show whether it has changed.
                changed = self._reading.changed or (not self._watched and self.engine.writes != writes)
                if not changed or trial == _TRIALS:
                    return done
            finally:
                self._reading.found = None
        raise AssertionError

    def _changed(self) -> None:
        self._reading.changed = True

    @property
    def _watched(self) -> list[str]:
        """The fields that a search fetches to notice that another process has changed what it found."""
        return ["digest"] if self.engine.shared else []

    def _found(self, hits: Sequence[Hit]) -> None:
        """Remember in which version of its document each passage was found."""
        found = getattr(self._reading, "found", None)
        if found is None or not self._watched:
            return
        for hit in hits:
            digest = hit.payload.get("digest")
            if found.setdefault(hit.id, digest) != digest:
                self._changed()

    def search_dense(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the passages with the nearest embeddings; see `sightline.Index.search_dense`.

        Rows are Python integers.
        """
        if isinstance(queries, str):
            raise InputError("search_dense takes a list of queries; for one, a list of one")
        lists = self._search(self._by_embedding(queries), k, where)
        width = max((len(found) for found, _ in lists), default=0)
        rows = np.full((len(lists), width), -1, dtype=object)
        scores = np.full((len(lists), width), -np.inf, dtype=np.float32)
        for place, (found, values) in enumerate(lists):
            rows[place, : len(found)], scores[place, : len(found)] = found, values
        return rows, scores

    def search_both(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[list[Ranked], list[Ranked]]:
        """Search by embeddings and by words, in one request for many queries; see `sightline.Index.search_both`."""
        dense, words = self._by_embedding(queries), self._by_words(queries)
        lists = self._search([*dense, *words], k, where)
        return lists[: len(dense)], lists[len(dense) :]

    def _by_embedding(self, queries: Sequence[str]) -> list[Nearest]:
        if not self.manifest.encoder.dim:
            raise InputError(
                f"{self.path}: built without embeddings (encoder none), so it can only be searched with bm25; "
                "build it again with an encoder for dense and hybrid"
            )
        vectors = self.encoder.encode_queries(list(queries))
        if not np.isfinite(vectors).all():
            raise InputError("the encoder gave NaN or infinity for a query")
        exact = self.manifest.faiss.factory == "Flat"
        return [Nearest("dense", vector, exact) for vector in vectors.tolist()]

    def _by_words(self, queries: Sequence[str]) -> list[Nearest]:
        if not self._contents.keeps_words:
            raise InputError(
                f"{self.path}: built without a lexical index; build it again with one for bm25, sparse and hybrid"
            )
        if not self._contents.keeps_bm25:
            vectors = learned_vectors(self._contents.sparse_encoder.encode_queries(list(queries)))
            return [Nearest("words", vector) for vector in vectors]
        passages, frequency = self._contents.now().passages, self._contents.frequency
        return [Nearest("words", query_vector(query, passages, frequency)) for query in queries]

    def _search(self, searches: Sequence[Nearest], k: int, where: Where | Mapping[str, Any] | None) -> list[Ranked]:
        """Do searches, many in one request: the rows and scores of each, best first, ties by row."""
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        conditions = where if isinstance(where, Where) else self._contents.conditions(where)
        asked = [place for place, one in enumerate(searches) if one.vector]  # a query may have no words
        found: list[list[Hit]] = [[] for _ in searches]
        for start in range(0, len(asked), _SEARCHES):
            places = asked[start : start + _SEARCHES]
            try:
                lists = self.engine.search([searches[place] for place in places], k, conditions, self._watched)
            except RefusedError:
                self._contents.follow()  # another index may be why the vectors do not fit
                raise
            for place, hits in zip(places, lists, strict=True):
                found[place] = sorted(hits, key=lambda hit: (-hit.score, hit.id))
                self._found(hits)
        return [
            (np.array([hit.id for hit in hits], dtype=object), np.array([hit.score for hit in hits], dtype=np.float64))
            for hits in found
        ]

    def search_multivector(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Refuse to search token states, which a store in Qdrant keeps for reranking only.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.path}: the first stages multivector and hybrid-multivector need an index in a folder, because a "
            "store in Qdrant keeps token states for reranking only; use another first stage, or copy the index into a "
            "folder with sightline copy"
        )

    def search_lexical(
        self, query: str, k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find passages by BM25 or learned sparse vectors; see `sightline.Index.search_lexical`."""
        return self._search(self._by_words([query]), k, where)[0]

    def bm25(self, query: str, rows: Sequence[int]) -> np.ndarray:
        """Score given passages with BM25; see `sightline.Index.bm25`."""
        asked = [int(row) for row in rows]
        self.manifest.lexical.name.check("bm25", self.path)
        if not asked:
            return np.zeros(0)
        only = Where(ids=tuple(dict.fromkeys(asked)))
        [(found, scores)] = self._search(self._by_words([query]), len(asked), only)
        by_row = dict(zip(found.tolist(), scores.tolist(), strict=True))
        return np.array([by_row.get(row, 0.0) for row in asked])

    @property
    def whole_documents(self) -> bool:
        """Whether every document is one passage."""
        return self._contents.now().whole

    def document_numbers(self, rows: np.ndarray) -> np.ndarray:
        """Return a number of the document that each row belongs to; 0 for -1."""
        return np.array([number_of_document(row) if row >= 0 else 0 for row in rows.tolist()], dtype=object)

    def passages(self, rows: Sequence[int] | np.ndarray) -> list[StoredPassage]:
        """Return the passages of these rows, in order. Rows that were deleted meanwhile, and -1, are left out."""
        asked = [int(row) for row in rows if row >= 0]
        heads = {row: head_row(row) for row in asked}
        ids = list(dict.fromkeys([*asked, *heads.values()]))
        record = [RECORD] if self.engine.shared else []
        payloads = self.engine.retrieve("passages", [*ids, *record], (*FETCHED, "sum")) if ids else {}
        if ids and record and self._contents.is_replaced(payloads.get(RECORD, {}).get("sum")):
            self._changed()
        found = getattr(self._reading, "found", None) or {}
        documents: dict[int, Document] = {}
        stored: list[StoredPassage] = []
        for row in asked:
            own, head = payloads.get(row), payloads.get(heads[row])
            digest = None if own is None else own.get("digest")
            if own is None or head is None or digest != head.get("digest") or found.get(row, digest) != digest:
                self._changed()
                continue
            if (document := documents.get(heads[row])) is None:
                document = documents[heads[row]] = document_of(head, self.path)
            stored.append(passage_of(row, document, own, self.path))
        return stored

    def passages_of(self, ids: Iterable[str]) -> list[StoredPassage]:
        """Return all passages of the documents with these ids. Ids that the index does not have are ignored.

        Raises:
            InputError: if an id is not a string.
        """
        heads = self._contents.heads([checked_id(id) for id in ids], PLACES)
        return self.passages(rows_of(heads))

    def document(self, id: str) -> Document | None:
        """Return the document with this id, or None.

        Raises:
            InputError: if the id is not a string.
        """
        head = self._contents.heads([checked_id(id)]).get(id)
        return None if head is None else document_of(head, self.path)

    def documents(self) -> Iterator[Document]:
        """Iterate over all documents, in no particular order."""
        for _, head in self._contents.all_heads():
            yield document_of(head, self.path)

    def sample(self, count: int) -> list[Document]:
        """Return up to ``count`` documents, spread over the index: the same ones until it changes."""
        return list(itertools.islice(self.documents(), count))  # their order is that of digests of their ids

    def token_states(self, passages: Sequence[StoredPassage]) -> list[DocumentStates | None] | None:
        """Return the kept token states of passages; None in the place of a passage that is changing."""
        if self._contents.form is None:
            return None
        width = self._contents.form.dtype.itemsize
        rows_of_states = [one.states if isinstance(one, StoredPoint) else one.row for one in passages]
        learned = [TABLE] if self._contents.form.codes is not None else []
        kept = self.engine.retrieve("states", [*rows_of_states, *learned], ["states", "spans", "digest", "sum"])
        sum = kept.get(TABLE, {}).get("sum")
        table = self._contents.table(sum)
        if sum is not None and table is None:
            self._changed()  # another index has replaced this one meanwhile
            return [None] * len(passages)
        missing: list[StoredPassage] = []
        pieces: list[bytes | None] = []
        spans: list[np.ndarray | None] = []
        for one, row in zip(passages, rows_of_states, strict=True):
            payload = kept.get(row, {})
            data = states_of(payload, one, width)
            if data is None:
                missing.append(one)
            pieces.append(data)
            covered = None if data is None else spans_of(payload, one)
            spans.append(None if covered is None else decode_spans(covered, [one.tokens])[0])
        self._tell_missing(missing)
        whole = bytearray(b"".join(piece or b"" for piece in pieces))
        ends = [0, *itertools.accumulate(len(piece or b"") // width for piece in pieces)]
        rows = np.frombuffer(whole, dtype=self._contents.form.dtype).reshape(ends[-1], *self._contents.form.dtype.shape)
        keys = self._contents.form.decode(rows, list(itertools.pairwise(ends)), table)
        return [
            None if piece is None else DocumentStates(key, one.truncated, span)
            for one, piece, key, span in zip(passages, pieces, keys, spans, strict=True)
        ]

    def _tell_missing(self, passages: Sequence[StoredPassage]) -> None:
        """Warn of passages without token states, unless they have changed since they were fetched."""
        heads = [head_row(one.row) for one in passages]
        now = self.engine.retrieve("passages", heads, ["digest"]) if heads else {}
        for one, head in zip(passages, heads, strict=True):
            if now.get(head, {}).get("digest") != getattr(one, "digest", None):
                self._changed()
                continue
            logger.warning(
                "%s: a passage of document %r has no token states, so its text is read instead; update the document "
                "to write them",
                self.path,
                one.passage.document.id,
            )

    def digests(self) -> Iterator[dict[str, str]]:
        """Iterate over a digest of each document and its passages, by id, some hundred documents at a time."""
        waiting = self._contents.all_heads(["id", "digest"])
        while heads := list(itertools.islice(waiting, PAGE)):
            yield {str(head.get("id")): content_of(head.get("digest")) for _, head in heads}

    def stored(self, ids: Sequence[str]) -> StoredBatch:
        """Return the documents with these ids and what is kept of them, except words; absent ones are left out.

        Raises:
            IndexCorruptError: if a document stays incomplete, because the process that wrote it was killed.
        """
        found: dict[str, _Whole] = {}
        left = list(ids)
        sums: set[Any] = set()
        for wait in (*_WAITS, None):
            there, sum = self._fetched(left)
            sums.add(sum)
            found |= {id: whole for id, whole in there.items() if whole is not None}
            left = [id for id, whole in there.items() if whole is None]
            if not left:
                break
            if wait is None:
                raise IndexCorruptError(
                    f"{self.path}: document {left[0]!r} is incomplete, probably because the process that wrote it was "
                    "killed; write it again with sightline add --update"
                )
            time.sleep(wait)
        wholes = [found[id] for id in ids if id in found]
        points = [point for whole in wholes for point in whole.points]
        form, dim = self._contents.form, self.manifest.encoder.dim
        table = self._contents.table(sum)
        if len(sums) > 1 or (sum is not None and table is None):
            raise IndexMismatchError(f"{self.path}: another index has replaced this one meanwhile; read it again")
        data = b"".join(states for whole in wholes for states in whole.states)
        spans = [one for whole in wholes for one in whole.spans]
        return StoredBatch(
            [(whole.document, [point.passage for point in whole.points]) for whole in wholes],
            np.array([one for whole in wholes for one in whole.vectors], np.float32).reshape(-1, dim) if dim else None,
            None if form is None else np.frombuffer(data, form.dtype.base).reshape(-1, *form.dtype.shape),
            np.concatenate([np.empty((0, 2), np.uint16), *spans]) if self.manifest.token_states.spans else None,
            np.array([0, *itertools.accumulate(point.tokens[1] for point in points)], dtype=np.int64),
            np.array([point.truncated for point in points], dtype=np.int64),
            table=table,
        )

    def _fetched(self, ids: Sequence[str]) -> tuple[dict[str, _Whole | None], Any]:
        """Return the documents that exist, and the checksum of the table of their token states.

        A document is None if its points are not all of the same version.
        """
        heads = self._contents.heads(ids, PLACES)
        rows = list(dict.fromkeys([*map(row_of, heads), *rows_of(heads)]))
        asked, fields = [*rows, RECORD], (*FETCHED, "sum")
        payloads = self.engine.retrieve("passages", asked, fields, dense=self.manifest.encoder.dim > 0)
        self._contents.is_replaced(payloads.get(RECORD, {}).get("sum"))
        states = {}
        if self._contents.form is not None:
            states = self.engine.retrieve(
                "states", [*states_rows_of(heads), TABLE], ("states", "spans", "digest", "sum")
            )
        return {id: self._whole(id, payloads, states) for id in heads}, states.get(TABLE, {}).get("sum")

    def _whole(
        self, id: str, payloads: Mapping[int, Mapping[str, Any]], states: Mapping[int, Mapping[str, Any]]
    ) -> _Whole | None:
        head, kept = payloads.get(row_of(id), {}), self.manifest.token_states
        if head.get("id") != id:
            return None
        whole = _Whole(document_of(head, self.path), [], [], [], [])
        for row in rows_of({id: head}):
            own = payloads.get(row, {})
            if own.get("digest") != head.get("digest"):
                return None
            point = passage_of(row, whole.document, own, self.path)
            whole.points.append(point)
            if self.manifest.encoder.dim:
                if "dense" not in own:
                    return None
                whole.vectors.append(own["dense"])
            if self._contents.form is not None:
                of_tokens = states.get(point.states, {})
                data = states_of(of_tokens, point, self._contents.form.dtype.itemsize)
                spans = spans_of(of_tokens, point)
                if data is None or (kept.spans and spans is None):
                    return None
                whole.states.append(data)
                if spans is not None:
                    whole.spans.append(spans)
        return whole

    def decoder_states(self, passages: Sequence[StoredPassage]) -> list[StoredBlock | None] | None:
        """Return None: decoder states are not kept in Qdrant."""
        return None
