"""The interface of stores: what a search, the server and the commands need of an index, wherever it is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np

from ..documents import Document
from ..names import StoreName
from .manifest import Manifest
from .reading import StoredBatch
from .store import Ranked, StoredPassage, Traffic

if TYPE_CHECKING:
    from ..models.encoder import Encoder
    from ..models.reader import DocumentStates, StoredBlock

__all__ = ["Store", "build_store", "copy_store", "decoder_of", "is_finished", "open_store"]

T = TypeVar("T")


class Store(Protocol):
    """The interface of a store of documents, passages and their vectors.

    `sightline.Index` keeps them in a folder, `sightline.retrieval.qdrant_store.QdrantStore` in Qdrant. Rows are the
    integers by which a store knows its passages; callers only hand them back. `Index` describes the methods.
    """

    @property
    def path(self) -> Path | str:
        """The folder of the store, or its name."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the index."""

    @property
    def encoder(self) -> Encoder:
        """The bi-encoder, which is loaded and checked when you first use it."""

    @property
    def whole_documents(self) -> bool:
        """Whether every document is one passage."""

    @property
    def traffic(self) -> Traffic | None:
        """Requests that were sent to another machine, and bytes of its answers; None of an index on this one."""

    # -- searching

    def read(self, work: Callable[[], T]) -> T:
        """Call ``work``, whose calls see one state of each document. It may be called several times."""

    def search_dense(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the passages with the nearest embeddings: rows and scores (Q, K), padded with -1 and -inf."""

    def search_both(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[list[Ranked], list[Ranked]]:
        """Search by embeddings and by words, on a server in one request: for each query, rows and scores of both."""

    def search_multivector(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the passages with the largest MaxSim of their token states; as `search_dense`."""

    def search_lexical(
        self, query: str, k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find passages that share words with a query: rows and scores, best first."""

    def bm25(self, query: str, rows: Sequence[int]) -> np.ndarray:
        """Score given passages with BM25: float64 (N,)."""

    def document_numbers(self, rows: np.ndarray) -> np.ndarray:
        """Return a number of the document that each row belongs to; 0 for -1."""

    def passages(self, rows: Sequence[int]) -> list[StoredPassage]:
        """Return the passages of these rows, in order. Those that are gone are left out."""

    def token_states(self, passages: Sequence[StoredPassage]) -> list[DocumentStates | None] | None:
        """Return the kept token states of passages; None if there are none."""

    def decoder_states(self, passages: Sequence[StoredPassage]) -> list[StoredBlock | None] | None:
        """Return the kept decoder states of passages; None if there are none."""

    # -- documents

    def __len__(self) -> int:
        """Count the documents."""

    def counts(self) -> dict[str, int]:
        """Count the ``documents`` and ``passages``, and the ``deleted_documents`` that still take room."""

    def size(self) -> dict[str, int]:
        """Return the size in bytes of each file that is on this machine."""

    def document(self, id: str) -> Document | None:
        """Return the document with this id, or None."""

    def documents(self) -> Iterator[Document]:
        """Iterate over all documents."""

    def sample(self, count: int) -> list[Document]:
        """Return up to ``count`` documents, spread over the index: the same ones until it changes."""

    def count_passages(self, limit: int) -> int:
        """Count the passages, up to a limit."""

    def passages_of(self, ids: Iterable[str]) -> list[StoredPassage]:
        """Return all passages of the documents with these ids."""

    # -- copying

    def digests(self) -> Iterator[dict[str, str]]:
        """Iterate over a digest of each document and its passages, by id, some hundred documents at a time."""

    def stored(self, ids: Sequence[str]) -> StoredBatch:
        """Return the documents with these ids and what is kept of them, except words; absent ones are left out."""

    # -- changing

    def add(self, documents: Iterable[Document | Mapping[str, Any] | str], progress: Any = None) -> int:
        """Add documents, and return how many."""

    def update(self, documents: Iterable[Document | Mapping[str, Any] | str], progress: Any = None) -> int:
        """Replace documents by id, add those whose ids are new, and return how many were written."""

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id, all or none, and return how many."""

    def close(self) -> None:
        """Release files and connections."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_store(name: str | os.PathLike[str], **options: Any) -> Store:
    """Open an index, wherever it is kept.

    Args:
        name: the path of an `Index`; ``qdrant-edge:PATH``, Qdrant's engine in this process, on disk; or
            ``qdrant://HOST:PORT/COLLECTION``, a Qdrant server (``qdrants://`` over TLS).
        options: the options of `Index.open` or of `sightline.retrieval.qdrant_store.QdrantStore.open`: ``encoder``,
            ``timeout``, ...

    Raises:
        InputError: if this is not the name of a store.
        MissingExtraError: if the store needs a package that is not installed.
        IndexStoreError: if there is no index, or the server cannot be reached.

    Example:
        >>> import tempfile
        >>> from sightline import Index
        >>> path = tempfile.mkdtemp() + "/index"
        >>> Index.build(path, ["Cats purr.", "Dogs bark."]).close()
        >>> with open_store(path) as store:
        ...     store.counts()["documents"]
        2
    """
    opened: Store = _kind(name).open(os.fspath(name), **options)
    return opened


def build_store(
    name: str | os.PathLike[str], documents: Iterable[Document | Mapping[str, Any] | str], **settings: Any
) -> Store:
    """Make an index of documents, or finish making it, wherever it is to be kept.

    Args:
        name: the name of the store; see `open_store`.
        documents: the documents; see `Index.build`.
        settings: the options of `Index.build`: ``progress``, ``overwrite`` and the fields of `IndexSettings`.

    Raises:
        SightlineError: see `Index.build`, and `sightline.retrieval.qdrant_store.QdrantStore.build`.
    """
    built: Store = _kind(name).build(os.fspath(name), documents, **settings)
    return built


def copy_store(source: Store, name: str | os.PathLike[str], **options: Any) -> Store:
    """Copy an index into a folder or another store, with its embeddings and token states.

    No text is read again. A copy in a folder is a snapshot of the index: copy it back to restore it.

    Args:
        source: the open index to copy.
        name: the name of the copy; see `open_store`.
        options: the options of `Index.copy` or `sightline.retrieval.qdrant_store.QdrantStore.copy`, such as
            ``overwrite`` and ``progress``.

    Raises:
        SightlineError: see `Index.copy`.

    Example:
        >>> import tempfile
        >>> from sightline import Index
        >>> folder = tempfile.mkdtemp()
        >>> with Index.build(folder + "/index", ["Cats purr.", "Dogs bark."]) as index:
        ...     with copy_store(index, folder + "/snapshot") as snapshot:
        ...         snapshot.counts()["documents"]
        2
    """
    copied: Store = _kind(name).copy(source, os.fspath(name), **options)
    return copied


def is_finished(name: str | os.PathLike[str]) -> bool:
    """Tell whether there is an index whose build is complete.

    Args:
        name: the name of the store; see `open_store`.

    Raises:
        IndexStoreError: if a store cannot be reached or is damaged.
    """
    if StoreName.parse(name).kind == "folder":
        path = Path(name)
        return (path / "manifest.json").exists() and Manifest.load(path).complete
    from .qdrant_store import QdrantStore

    return QdrantStore.is_finished(os.fspath(name))


def decoder_of(name: str | os.PathLike[str]) -> str | None:
    """Return the name of the reranker whose decoder states an index keeps; None if it keeps none.

    Args:
        name: the name of the store; see `open_store`.

    Raises:
        IndexStoreError: if there is no index.
    """
    if StoreName.parse(name).kind != "folder":
        return None  # only an index in a folder keeps them
    kept = Manifest.load(Path(name)).decoder_states
    return None if kept is None else kept.reading.name


def _kind(name: str | os.PathLike[str]) -> Any:
    """The class that a name is of."""
    if StoreName.parse(name).kind == "folder":
        from .index import Index

        return Index
    from .qdrant_store import QdrantStore

    return QdrantStore
