"""What an index keeps of passages: read by its encoder and its reader, whatever store it is written to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..documents import Document, Passage
from ..errors import DataError
from ..models.encoder import Encoder
from ..models.reader import BlockReader
from .manifest import Manifest
from .token_states import encode_spans, states_form, states_reader

__all__ = ["Batch", "BatchReading", "PassagesRead", "ReadingPlan", "StoredBatch", "read_batch", "read_passages"]

Batch = Sequence[tuple[Document, Sequence[Passage]]]
"""Documents, each with its passages."""


@dataclass(frozen=True, slots=True)
class PassagesRead:
    """What was read of P passages.

    Args:
        vectors: float32 (P, D), the embeddings; None if the index keeps none.
        states: float32 (T, S), the token states of all passages; None if the index keeps none.
        spans: uint16 (T, 2), the characters that each token covers, as they are kept.
        offsets: int64 (P + 1,), the place where each passage's tokens begin.
        truncated: int64 (P,), the number of tokens at the end of each passage that were not read.
    """

    vectors: np.ndarray | None
    states: np.ndarray | None
    spans: np.ndarray
    offsets: np.ndarray
    truncated: np.ndarray


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """Documents with everything that an index keeps of them.

    Args:
        documents: the documents, each with its passages.
        vectors: float32 (P, D), the embeddings; see `PassagesRead`.
        rows: (T, ...), the token states in the form that the index keeps; None if it keeps none, and where ``states``
            are.
        spans: uint16 (T, 2), the characters that each token covers; None if they are not kept.
        offsets: int64 (P + 1,), the place where each passage's tokens begin.
        truncated: int64 (P,), the number of tokens at the end of each passage that were not read.
        states: float32 (T, S), the token states of the first batches of a form that has yet to learn its table; else
            None.
        table: what the form learnt, for ``rows`` that another index kept; None if it learns nothing.
    """

    documents: Batch
    vectors: np.ndarray | None
    rows: np.ndarray | None
    spans: np.ndarray | None
    offsets: np.ndarray
    truncated: np.ndarray
    states: np.ndarray | None = None
    table: np.ndarray | None = None


@dataclass(frozen=True)
class ReadingPlan:
    """What reads the batches of an index, in this process or in others.

    Args:
        manifest: the manifest, which says what the index keeps.
        index: the name of the index, for messages.
        load: a function that returns the encoder and can be pickled.
        table: a function that returns the table that the form of the token states has learned so far, or None.
        store: a store that several processes may write to, which can be pickled: a batch may then be written where it
            is read. None if only this process may write.
    """

    manifest: Manifest
    index: str
    load: Callable[[], Encoder]
    table: Callable[[], np.ndarray | None]
    store: Any = None


class BatchReading(Protocol):
    """How the batches of a build are read: see `sightline.scale.RayReading`."""

    def __call__(self, batches: Iterator[Batch], plan: ReadingPlan) -> Iterator[StoredBatch | None]:
        """Read batches, and give them in order; None for one that was written as well, to the store of the plan."""


def read_passages(encoder: Encoder, manifest: Manifest, contents: Sequence[str], index: object) -> PassagesRead:
    """Read what an index keeps of passages.

    Args:
        encoder: the encoder of the index.
        manifest: the manifest, which says what the index keeps.
        contents: the P texts, as `Passage.contents` gives them.
        index: the name of the index, for messages.

    Raises:
        DataError: if the encoder gives NaN or infinity.
    """
    offsets = np.zeros(len(contents) + 1, dtype=np.int64)
    truncated = np.zeros(len(contents), dtype=np.int64)
    spans = np.zeros((0, 2), dtype=np.uint16)
    states = vectors = None
    kept = manifest.token_states
    if contents and kept.dim is not None:
        reader = states_reader(encoder, kept.model, kept.revision)
        read = reader.read(contents)
        assert read.states is not None
        states, offsets, truncated = read.states, read.offsets, read.truncated
        spans = encode_spans(read.spans, read.offsets)
        vectors = read.pooled if isinstance(encoder, BlockReader) and reader is encoder else None
    if contents and manifest.encoder.dim:
        vectors = encoder.encode_documents(contents) if vectors is None else vectors
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            bad = contents[int(np.argmin(finite))]
            raise DataError(f"the encoder gave NaN or infinity for a passage that begins {bad[:60]!r}", path=index)
    return PassagesRead(vectors if manifest.encoder.dim else None, states, spans, offsets, truncated)


def read_batch(
    encoder: Encoder, manifest: Manifest, documents: Batch, index: object, table: np.ndarray | None
) -> StoredBatch:
    """Read all that an index keeps of documents beside words.

    Args:
        encoder: the encoder of the index.
        manifest: the manifest, which says what the index keeps.
        documents: the documents with their passages.
        index: the name of the index, for messages.
        table: the table that the form of the token states has learned; None if it learns none, and before it has.

    Raises:
        DataError: see `read_passages`.
    """
    contents = [passage.contents for _, passages in documents for passage in passages]
    read = read_passages(encoder, manifest, contents, index)
    rows, states, kept = None, None, manifest.token_states
    if kept.dim is not None:
        form = states_form(kept.kind, kept.dim)
        if read.states is None:
            rows = np.zeros((0, *form.dtype.shape), dtype=form.dtype.base)
        elif form.codes is None or table is not None:
            rows = form.encode(read.states, table)
        else:
            states = read.states
    return StoredBatch(documents, read.vectors, rows, read.spans, read.offsets, read.truncated, states)
