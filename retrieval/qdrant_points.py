"""The points of an index in Qdrant: which there are, their ids, and how documents and passages become payloads.

A passage is a point whose id follows from the document's id and the passage's number, so a write that is repeated
changes nothing, and several processes may write at once. Its vectors are ``dense``, the embedding, and ``words``, BM25
(see `sightline.retrieval.qdrant_words`). Its payload has its place in the document, what filters need (see
`sightline.retrieval.qdrant_filters`), and a digest of the whole document; the payload of passage 0, the head, has the
document itself. Token states are bytes in a collection of their own, fetched for the candidates only. Points with fixed
ids hold the manifest, and what the index has learned.

A new version of a document is written beside the old one: the ids of its other passages and its token states have the
number of the version, and so has its digest. Only passages with the digest of the head count, so the document changes
when its head does, which is a single write; then the old version is removed.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from ..documents import Document, Passage
from ..errors import IndexCorruptError, IndexStoreError
from .manifest import Manifest
from .qdrant_engines import Engine, Point
from .qdrant_filters import Among, Between, Where
from .shards import Shard
from .store import StoredPassage

__all__ = [
    "FETCHED",
    "HEADS",
    "MEAN",
    "PASSAGES",
    "PLACES",
    "RECORD",
    "SHARDS",
    "TABLE",
    "VERSIONS",
    "WHOLE",
    "StoredPoint",
    "content_of",
    "document_of",
    "done_row",
    "encoded",
    "has_manifest",
    "head_row",
    "hex_of",
    "load_manifest",
    "number_of_document",
    "passage_of",
    "record_of",
    "row_of",
    "rows_of",
    "spans_of",
    "states_of",
    "states_rows_of",
    "version_of",
    "version_row",
    "versioned",
]

_LAYOUT = 2
PASSAGES = 1 << 24
"""The number of passages that a document must not reach."""
VERSIONS = 1 << 16
"""The number of numbers for versions."""
_IDS = VERSIONS * PASSAGES  # of a document
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://sightline/passages")
RECORD, MEAN, TABLE, SHARDS = (
    uuid.uuid5(_NAMESPACE, f"\x00{name}").int for name in ("manifest", "mean length", "table", "shards")
)
FETCHED = ("id", "title", "text", "metadata", "start", "end", "truncated", "tokens", "digest", "passages")
"""Fields of the payload that documents and passages are made of."""
HEADS = Where(must=(Among("passage", [0]),))
"""The points that hold documents."""
PLACES = ("id", "passages", "digest")
"""The fields of a head's payload that tell where the points of its document are."""
WHOLE = Where(must=(Between("passage", {"gte": 0}),))
"""The points of all passages, and of documents without one."""


@dataclass(frozen=True, slots=True)
class StoredPoint(StoredPassage):
    """A passage as it is stored, with the digest of its document and the id of its token states."""

    digest: str = ""
    states: int = 0


# -- the manifest ------------------------------------------------------------------------------------------------------


def record_of(manifest: Manifest) -> Point:
    """The point that holds a manifest."""
    body = json.dumps(manifest.as_dict(), ensure_ascii=False)
    return Point(RECORD, {}, {"layout": _LAYOUT, "manifest": body, "sum": xxhash.xxh3_128_hexdigest(body.encode())})


def has_manifest(engine: Engine) -> bool:
    """Whether there is an index, finished or not."""
    return engine.exists() and bool(engine.retrieve("passages", [RECORD], ["layout"]))


def load_manifest(engine: Engine) -> Manifest:
    """The manifest of an index.

    Raises:
        IndexStoreError: if there is none, or one of a newer layout.
        IndexCorruptError: if it is damaged.
    """
    payload = engine.retrieve("passages", [RECORD], ["layout", "manifest", "sum"]).get(RECORD)
    if payload is None:
        raise IndexStoreError(
            f"{engine.name}: there is no manifest, so it is no index of Sightline, or making it broke off; "
            f"build it with: sightline index --store {engine.name}"
        )
    if payload.get("layout") != _LAYOUT:
        raise IndexStoreError(
            f"{engine.name}: layout {payload.get('layout')!r}, this version reads {_LAYOUT}; build the index again"
        )
    body = payload.get("manifest")
    if not isinstance(body, str) or xxhash.xxh3_128_hexdigest(body.encode()) != payload.get("sum"):
        raise IndexCorruptError(
            f"{engine.name}: the manifest is not what was written; restore a snapshot, or build the index again"
        )
    return Manifest.from_dict(json.loads(body), engine.name, f"{engine.name}: manifest")


# -- ids ---------------------------------------------------------------------------------------------------------------


def row_of(id: str) -> int:
    """The id of a document's head."""
    return head_row(uuid.uuid5(_NAMESPACE, id).int)


def head_row(row: int) -> int:
    """The id of the head of the document that a passage is of."""
    return row - row % _IDS


def number_of_document(row: int) -> int:
    """A number that all passages of a document have in common."""
    return row // _IDS


def hex_of(row: int) -> str:
    """What all passages of a document have in common in their payload."""
    return f"{number_of_document(row):022x}"


def rows_of(heads: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """The ids of all passages of documents.

    Args:
        heads: the payload of each document's head, with the fields `PLACES`, by the document's id.
    """
    return [head_row(row) if row % PASSAGES == 0 else row for row in states_rows_of(heads)]


def states_rows_of(heads: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """The ids of the token states of all passages of documents; see `rows_of`."""
    return [
        version_row(row_of(id), head.get("digest")) + place
        for id, head in heads.items()
        for place in range(_passages(head))
    ]


def version_row(head: int, digest: Any) -> int:
    """The id of the token states of a document's first passage; those of the others follow.

    Args:
        head: the id of the document's head.
        digest: the digest in its payload.
    """
    return head + version_of(digest) * PASSAGES


def _passages(head: Mapping[str, Any]) -> int:
    count = head.get("passages")
    return count if isinstance(count, int) and 0 <= count < PASSAGES else 0


def versioned(digest: str, version: int) -> str:
    """The digest of a version of a document, as its points have it."""
    return f"{digest}+{version:x}" if version else digest


def version_of(digest: Any) -> int:
    """The number of the version, from the digest in a payload."""
    try:
        return int(str(digest).partition("+")[2] or "0", 16) % VERSIONS
    except ValueError:
        return 0


def content_of(digest: Any) -> str:
    """The digest of a document without its version; see `sightline.retrieval.store.digest_of`."""
    return str(digest).partition("+")[0]


def done_row(shard: Shard) -> int:
    """The id of the point that says that a shard is done."""
    return uuid.uuid5(_NAMESPACE, f"\x00{shard}").int


# -- payloads ----------------------------------------------------------------------------------------------------------


def document_of(head: Mapping[str, Any], index: str) -> Document:
    """A document from the payload of its head.

    Raises:
        IndexCorruptError: if the payload is damaged.
    """
    try:
        return Document(head["id"], head["text"], head["title"], json.loads(head["metadata"]))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise IndexCorruptError(
            f"{index}: document {head.get('id')!r} is damaged ({error}); update the document, or build the index again"
        ) from error


def passage_of(row: int, document: Document, payload: Mapping[str, Any], index: str) -> StoredPoint:
    """A passage of a document from its payload.

    Raises:
        IndexCorruptError: if the payload is damaged.
    """
    try:
        passage = Passage(document, int(payload["start"]), int(payload["end"]))
        tokens = (0, int(payload["tokens"]))
        digest = str(payload["digest"])
        states = version_row(head_row(row), digest) + row % PASSAGES
        return StoredPoint(row, passage, tokens, int(payload["truncated"]), (0, 0), digest, states)
    except (KeyError, ValueError, TypeError) as error:
        raise IndexCorruptError(
            f"{index}: a passage of document {document.id!r} is damaged ({error}); update the document, or build the "
            "index again"
        ) from error


def encoded(rows: np.ndarray) -> str:
    """An array's bytes as text."""
    return base64.b64encode(np.ascontiguousarray(rows).tobytes()).decode()


def states_of(payload: Mapping[str, Any], one: StoredPassage, width: int) -> bytes | None:
    """Return the token states of a passage, from their payload; None if they are missing, damaged or of another time.

    Args:
        payload: the payload of the point that holds the states.
        one: the passage.
        width: the number of bytes of a token.
    """
    if payload.get("digest") != getattr(one, "digest", None):
        return None
    data = _decoded(payload.get("states"))
    return data if data is not None and len(data) == width * one.tokens[1] else None


def spans_of(payload: Mapping[str, Any], one: StoredPassage) -> np.ndarray | None:
    """Return the characters that a passage's tokens cover, as they are kept, from the same payload; or None."""
    data = _decoded(payload.get("spans"))
    whole = data is not None and len(data) == 4 * one.tokens[1]
    return np.frombuffer(data, dtype=np.uint16).reshape(-1, 2) if data is not None and whole else None


def _decoded(text: Any) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        return None
