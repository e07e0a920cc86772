"""Searching an index in Qdrant, with the results that an index in a folder gives."""

from __future__ import annotations

import base64
import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..documents import Document
from ..errors import InputError
from ..models.encoder import Encoder
from ..models.reader import DocumentStates
from .manifest import Manifest
from .planning import load_built_encoder
from .qdrant_contents import Contents
from .qdrant_engines import Engine, Hit
from .qdrant_filters import Where
from .qdrant_points import FETCHED, PASSAGES, document_of, passage_of, rows_of, spans_of
from .qdrant_words import query_vector
from .store import StoredPassage, Traffic, checked_id

if TYPE_CHECKING:
    from ..models.reader import StoredBlock

__all__ = ["QdrantSearch"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_TRIALS = 3


class QdrantSearch:
    """What you can ask of an index in Qdrant; `sightline.retrieval.qdrant_store.QdrantStore` can also change it.

    Another process may change a document while its passages are searched and fetched. A passage counts only while its
    digest is that of its document, and `read` does a search again whose passages changed meanwhile.
    """

    def __init__(self, engine: Engine, manifest: Manifest) -> None:
        self.engine = engine
        self._contents = Contents(engine, manifest)
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
        """Call ``work``, and again if a passage that it found was changed meanwhile.

        Args:
            work: a function that calls methods of this index. It may be called several times.

        Returns:
            The value that ``work`` returned. Passages that still change at the third time are left out.
        """
        if getattr(self._reading, "found", None) is not None:
            return work()
        for trial in range(1, _TRIALS + 1):
            self._reading.found, self._reading.changed = {}, False
            writes = self.engine.writes
            try:
                done = work()
                changed = self._reading.changed or self.engine.writes != writes
                if not changed or trial == _TRIALS:
                    return done
            finally:
                self._reading.found = None
        raise AssertionError

    def _changed(self) -> None:
        self._reading.changed = True

    @property
    def _watched(self) -> list[str]:
        """What a search fetches to see whether another process changes what it found."""
        return ["digest"] if self.engine.shared else []

    def _found(self, hits: Sequence[Hit]) -> None:
        """Remember of which state of its document each passage was found."""
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

        Rows are Python's integers.
        """
        if isinstance(queries, str):
            raise InputError("search_dense takes a list of queries; for one, a list of one")
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        if not self.manifest.encoder.dim:
            raise InputError(
                f"{self.path}: built without embeddings (encoder none), so it can only be searched with bm25; "
                "build it again with an encoder for dense and hybrid"
            )
        conditions = self._contents.conditions(where)
        vectors = self.encoder.encode_queries(list(queries))
        if not np.isfinite(vectors).all():
            raise InputError("the encoder gave NaN or infinity for a query")
        exact = self.manifest.faiss.factory == "Flat"
        lists = (
            self.engine.nearest("dense", vectors.tolist(), k, conditions, self._watched, exact=exact) if queries else []
        )
        width = max((len(hits) for hits in lists), default=0)
        rows = np.full((len(lists), width), -1, dtype=object)
        scores = np.full((len(lists), width), -np.inf, dtype=np.float32)
        for place, hits in enumerate(lists):
            self._found(hits)
            rows[place, : len(hits)], scores[place, : len(hits)] = _ordered(hits)
        return rows, scores

    def search_multivector(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Refuse: in Qdrant, token states are kept to be read, and cannot be searched.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.path}: token states in Qdrant are not searched; use the first stage dense, bm25 or hybrid, or an "
            "index in a folder for multivector and hybrid-multivector"
        )

    def search_lexical(
        self, query: str, k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find passages that share words with a query, by BM25; see `sightline.Index.search_lexical`."""
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        return self._by_words(query, k, self._contents.conditions(where))

    def _by_words(self, query: str, k: int, where: Where) -> tuple[np.ndarray, np.ndarray]:
        if self.manifest.lexical.engine == "none":
            raise InputError(
                f"{self.path}: built without a lexical index; build it again with one for bm25, sparse and hybrid"
            )
        vector = query_vector(query, self._contents.now().passages, self._contents.frequency)
        hits: list[Hit] = []
        if vector:
            [hits] = self.engine.nearest("words", [vector], k, where, self._watched)
        self._found(hits)
        rows, scores = _ordered(hits)
        return np.array(rows, dtype=object), np.array(scores, dtype=np.float64)

    def bm25(self, query: str, rows: Sequence[int]) -> np.ndarray:
        """Score given passages with BM25; see `sightline.Index.bm25`."""
        asked = [int(row) for row in rows]
        self.manifest.lexical.name.check("bm25", self.path)
        if not asked:
            return np.zeros(0)
        only = Where(ids=tuple(dict.fromkeys(asked)))
        found, scores = self._by_words(query, len(asked), only)
        by_row = dict(zip(found.tolist(), scores.tolist(), strict=True))
        return np.array([by_row.get(row, 0.0) for row in asked])

    @property
    def whole_documents(self) -> bool:
        """Whether every document is one passage."""
        return self._contents.now().whole

    def document_numbers(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the document that each row belongs to, which its id tells; 0 for -1."""
        return np.array([row // PASSAGES if row >= 0 else 0 for row in rows.tolist()], dtype=object)

    def passages(self, rows: Sequence[int] | np.ndarray) -> list[StoredPassage]:
        """Return the passages of these rows, in order. Those that are gone, and -1, are left out."""
        asked = [int(row) for row in rows if row >= 0]
        heads = {row: row - row % PASSAGES for row in asked}
        ids = list(dict.fromkeys([*asked, *heads.values()]))
        payloads = self.engine.retrieve("passages", ids, FETCHED) if ids else {}
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
        heads = self._contents.heads([checked_id(id) for id in ids], ("id", "passages"))
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

    def token_states(self, passages: Sequence[StoredPassage]) -> list[DocumentStates | None] | None:
        """Return the kept token states of passages; None in the place of a passage that is changing."""
        if self._contents.form is None:
            return None
        width = self._contents.form.dtype.itemsize
        kept = self.engine.retrieve("states", [one.row for one in passages], ["states", "spans", "digest"])
        pieces: list[bytes | None] = []
        spans: list[np.ndarray | None] = []
        for one in passages:
            payload = kept.get(one.row, {})
            data = None
            if payload.get("digest") == getattr(one, "digest", None) and isinstance(payload.get("states"), str):
                with contextlib.suppress(ValueError):
                    data = base64.b64decode(payload["states"], validate=True)
            if data is None or len(data) != width * (one.tokens[1] - one.tokens[0]):
                if payload.get("digest") != getattr(one, "digest", None) and payload:
                    self._changed()
                logger.warning(
                    "%s: the token states of a passage of document %r are missing or of another time, so it is read "
                    "anew; updating the document writes them",
                    self.path,
                    one.passage.document.id,
                )
                data = None
            pieces.append(data)
            spans.append(spans_of(payload.get("spans"), one) if data is not None else None)
        whole = bytearray(b"".join(piece or b"" for piece in pieces))
        ends = [0, *itertools.accumulate(len(piece or b"") // width for piece in pieces)]
        rows = np.frombuffer(whole, dtype=self._contents.form.dtype).reshape(ends[-1], *self._contents.form.dtype.shape)
        keys = self._contents.form.decode(rows, list(itertools.pairwise(ends)), self._contents.table())
        return [
            None if piece is None else DocumentStates(key, one.truncated, span)
            for one, piece, key, span in zip(passages, pieces, keys, spans, strict=True)
        ]

    def decoder_states(self, passages: Sequence[StoredPassage]) -> list[StoredBlock | None] | None:
        """Return None: decoder states are not kept in Qdrant."""
        return None


def _ordered(hits: Sequence[Hit]) -> tuple[list[int], list[float]]:
    """Rows and scores, best first, ties by row."""
    ordered = sorted(hits, key=lambda hit: (-hit.score, hit.id))
    return [hit.id for hit in ordered], [hit.score for hit in ordered]
