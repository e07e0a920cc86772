"""The points of an index in Qdrant: their ids, and how documents and passages become payloads.

Each passage is a point. Its id follows from the id of the document and the number of the passage, so repeating a write
changes nothing, and several processes may write at once. Its vectors are ``dense``, the embedding, and ``words`` (see
`sightline.retrieval.qdrant_words`). Its payload has its place in the document, the values that filters compare (see
`sightline.retrieval.qdrant_filters`), and a digest of the whole document. The payload of passage 0, the head, also has
the document itself. Token states are bytes in a collection of their own, fetched for the candidates only. Points with
fixed ids hold the manifest and what the index has learned.

A new version of a document is written beside the old one: the ids of its other passages and of its token states
contain the number of the version, and so does its digest. Only passages with the digest of the head count. So the
document changes with a single write, that of its head. Then the old version is removed.
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
    "load_record",
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
"""A document must have fewer passages than this."""
VERSIONS = 1 << 16
"""Version numbers are below this."""
_IDS = VERSIONS * PASSAGES  # that are reserved for a document
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://sightline/passages")
RECORD, MEAN, TABLE, SHARDS = (
    uuid.uuid5(_NAMESPACE, f"\x00{name}").int for name in ("manifest", "mean length", "table", "shards")
)
FETCHED = ("id", "title", "text", "metadata", "start", "end", "truncated", "tokens", "digest", "passages")
"""The fields of the payload from which documents and passages are made."""
HEADS = Where(must=(Among("passage", [0]),))
"""The points that hold documents."""
PLACES = ("id", "passages", "digest")
"""The fields of a head's payload that tell where the points of its document are."""
WHOLE = Where(must=(Between("passage", {"gte": 0}),))
"""The points of all passages, and of documents without passages."""


@dataclass(frozen=True, slots=True)
class StoredPoint(StoredPassage):
    """A passage as it is stored, with the digest of its document and the id of its token states."""

    digest: str = ""
    states: int = 0


# -- the manifest ------------------------------------------------------------------------------------------------------


def record_of(manifest: Manifest) -> Point:
    """Return the point that holds a manifest."""
    body = json.dumps(manifest.as_dict(), ensure_ascii=False)
    return Point(RECORD, {}, {"layout": _LAYOUT, "manifest": body, "sum": xxhash.xxh3_128_hexdigest(body.encode())})


def has_manifest(engine: Engine) -> bool:
    """Tell whether there is an index, finished or not."""
    return engine.exists() and bool(engine.retrieve("passages", [RECORD], ["layout"]))


def load_manifest(engine: Engine) -> Manifest:
    """Load the manifest of an index.

    Raises:
        IndexStoreError: if there is none, or one of another layout.
        IndexCorruptError: if it is damaged.
    """
    return load_record(engine)[0]


def load_record(engine: Engine) -> tuple[Manifest, str]:
    """Load the manifest of an index and its checksum, which tells whether another index has replaced it.

    Raises:
        IndexStoreError: see `load_manifest`.
    """
    payload = engine.retrieve("passages", [RECORD], ["layout", "manifest", "sum"]).get(RECORD)
    if payload is None:
        raise IndexStoreError(
            f"{engine.name}: there is no manifest, so this is not a Sightline index, or its build was interrupted "
            f"before the first write; build it with: sightline index --store {engine.name}"
        )
    if payload.get("layout") != _LAYOUT:
        raise IndexStoreError(
            f"{engine.name}: the index has layout {payload.get('layout')!r}, and this version of Sightline reads "
            f"layout {_LAYOUT}; build the index again"
        )
    body = payload.get("manifest")
    if not isinstance(body, str) or xxhash.xxh3_128_hexdigest(body.encode()) != payload.get("sum"):
        raise IndexCorruptError(
            f"{engine.name}: the manifest is damaged, as its checksum shows; restore a snapshot, or build the index "
            "again"
        )
    return Manifest.from_dict(json.loads(body), engine.name, f"{engine.name}: manifest"), str(payload["sum"])


# -- ids ---------------------------------------------------------------------------------------------------------------


def row_of(id: str) -> int:
    """Return the id of a document's head."""
    return head_row(uuid.uuid5(_NAMESPACE, id).int)


def head_row(row: int) -> int:
    """Return the id of the head of the document that a passage belongs to."""
    return row - row % _IDS


def number_of_document(row: int) -> int:
    """Return a number that all passages of a document share."""
    return row // _IDS


def hex_of(row: int) -> str:
    """Return that number as the payloads of all passages of a document have it."""
    return f"{number_of_document(row):022x}"


def rows_of(heads: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Return the ids of all passages of documents.

    Args:
        heads: the payload of each document's head, with the fields `PLACES`, by the document's id.
    """
    return [head_row(row) if row % PASSAGES == 0 else row for row in states_rows_of(heads)]


def states_rows_of(heads: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Return the ids of the token states of all passages of documents; see `rows_of`."""
    return [
        version_row(row_of(id), head.get("digest")) + place
        for id, head in heads.items()
        for place in range(_passages(head))
    ]


def version_row(head: int, digest: Any) -> int:
    """Return the id of the token states of a document's first passage. Those of the others follow.

    Args:
        head: the id of the document's head.
        digest: the digest in its payload.
    """
    return head + version_of(digest) * PASSAGES


def _passages(head: Mapping[str, Any]) -> int:
    count = head.get("passages")
    return count if isinstance(count, int) and 0 <= count < PASSAGES else 0


def versioned(digest: str, version: int) -> str:
    """Return the digest of a version of a document, as its points have it."""
    return f"{digest}+{version:x}" if version else digest


def version_of(digest: Any) -> int:
    """Return the number of the version, from the digest in a payload."""
    try:
        return int(str(digest).partition("+")[2] or "0", 16) % VERSIONS
    except ValueError:
        return 0


def content_of(digest: Any) -> str:
    """Return the digest of a document without its version; see `sightline.retrieval.store.digest_of`."""
    return str(digest).partition("+")[0]


def done_row(shard: Shard) -> int:
    """Return the id of the point that marks a shard as finished."""
    return uuid.uuid5(_NAMESPACE, f"\x00{shard}").int


# -- payloads ----------------------------------------------------------------------------------------------------------


def document_of(head: Mapping[str, Any], index: str) -> Document:
    """Make a document from the payload of its head.

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
    """Make a passage of a document from its payload.

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
    """Encode the bytes of an array as text."""
    return base64.b64encode(np.ascontiguousarray(rows).tobytes()).decode()


def states_of(payload: Mapping[str, Any], one: StoredPassage, width: int) -> bytes | None:
    """Return the token states of a passage from their payload; None if they are damaged or of another version.

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
    """Return the characters that the tokens of a passage cover, from the same payload; None if it has none."""
    data = _decoded(payload.get("spans"))
    whole = data is not None and len(data) == 4 * one.tokens[1]
    return np.frombuffer(data, dtype=np.uint16).reshape(-1, 2) if data is not None and whole else None


def _decoded(text: Any) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        return None
