"""Planning and making an index: settings become a manifest, and a manifest becomes an empty directory of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import __version__
from ..errors import IndexMismatchError, IndexStoreError, InputError, ModelError
from ..models.encoder import Encoder, load_encoder
from ..models.loading import absolute_name
from ..models.reader import DecoderForm, DecoderReader
from ..models.sparse import load_sparse_encoder
from ..names import LexicalName
from ..settings import check_settings
from .faiss_index import new_structure
from .files import DATABASE, LOCKS, PATIENCE, WRITER_LOCK, locked, storage_errors
from .manifest import EncoderRecord, FaissRecord, LexicalRecord, Manifest, PassageRecord, TokenStatesRecord
from .passages import Splitter
from .store import DocumentStore
from .token_states import states_form, states_reader
from .words import FOLDERS, open_words

__all__ = [
    "OTHERWISE",
    "PROBE",
    "IndexSettings",
    "check_backend",
    "check_encoder",
    "default_max_tokens",
    "given_encoder",
    "joined",
    "load_built_encoder",
    "load_planned_encoder",
    "make",
    "plan",
    "reading_by",
]

OTHERWISE = "change it with add, update or delete, or build it again with overwrite"
"""What to do where an index is already, and another was to be built."""
PROBE = "Sightline checks with this sentence that an index meets the encoder it was built with."


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """The settings that an index is built with.

    Args:
        encoder: the name of an encoder for `load_encoder`, or an `Encoder`. ``none`` keeps neither embeddings nor token
            states, so that the index is searched by words alone. The path of a model is stored as an absolute path.
        encoder_options: options for `load_encoder`, stored in the manifest.
        dtype: the number format in which this build reads documents, such as ``bfloat16``, which is about twice as fast
            on processors that multiply it, and nearly the same. It is not stored in the index: queries, and documents
            that you add later, are read in the encoder's own format. If None, so are the documents of this build. It
            cannot be given with an `Encoder` object.
        backend: the library that reads the documents in this build: ``torch``, ``onnx`` or ``openvino``; None for
            torch. The manifest records it. States of another backend differ by less than .0001, so queries, and
            documents that you add later, may be read by any of them: see `Index.open`. It cannot be given with an
            `Encoder` object.
        faiss: a FAISS factory string. ``Flat`` is exact search, which torch does if FAISS is not installed.
        faiss_parameters: FAISS search parameters, such as ``"nprobe=64"``; "" for the defaults.
        lexical: the BM25 engine: ``fts5``, which commits with the documents; ``tantivy`` (extra ``tantivy``), whose
            time hardly grows with the collection; or ``pyserini`` (extra ``pyserini``), Anserini's Lucene. Or
            ``sparse:MODEL``, learned sparse vectors in the place of BM25, by a model that sentence-transformers'
            ``SparseEncoder`` loads; its path is stored as an absolute path. Or ``none``.
        token_states: the form in which the index keeps the block reader's token states, so that reranking reads no
            text: ``int8`` (392 bytes for a token of 384 dimensions, with its place in the text), ``fp16`` (772),
            ``int4`` (200), or ``pqM`` such as ``pq48``, product quantisation in M bytes (52), which is learned from the
            first passages. ``none`` keeps none.
        reader: the name of the block reader, for `load_reader`, whose token states are kept, such as
            ``late-interaction:MODEL``. If None, the encoder's are kept, or the embedded default's if the encoder has
            none.
        decoder_states: a reranker by a decoder whose layout reads documents independently of the query. The index keeps
            its keys and values of every passage, so that it reads no text. You need it again to add documents. If None,
            the index keeps none.
        decoder_form: the form of the decoder states: ``int8``, one byte per number and a scale per token and head, or
            ``fp16``.
        max_tokens: the largest number of tokens of a passage, title included. If None, what all models read whole (at
            most 254). If 0, every document is kept whole, and cut off where a model stops reading.
        overlap: the number of tokens that neighbouring passages share.

    Example:
        >>> IndexSettings(faiss="HNSW32", overlap=20).lexical
        'fts5'
    """

    encoder: str | Encoder = "minilm"
    encoder_options: Mapping[str, Any] | None = None
    dtype: str | None = None
    backend: str | None = None
    faiss: str = "Flat"
    faiss_parameters: str = ""
    lexical: str = "fts5"
    token_states: str = "int8"
    reader: str | None = None
    decoder_states: DecoderReader | None = None
    decoder_form: Literal["fp16", "int8"] = "int8"
    max_tokens: int | None = None
    overlap: int = 0

    def __post_init__(self) -> None:
        """Check the settings that need no model.

        Raises:
            InputError: if one has a wrong type.
        """
        check_settings(self)
        if self.encoder is None:
            raise InputError("encoder must be a name or an Encoder, not None; 'none' keeps no embeddings")


def plan(settings: IndexSettings, model: Encoder) -> Manifest:
    """Make the manifest of an empty index.

    Args:
        settings: the settings of the index.
        model: the encoder that the settings name.

    Raises:
        InputError: if a setting is out of range, two of them do not go together, or the decoder's layout reads
            documents together with the query or with one another.
        MissingExtraError: if the structure needs FAISS, which is not installed.
        ModelError: if the model whose token states or sparse vectors are kept cannot be loaded.
    """
    named = LexicalName.parse(settings.lexical)
    if not model.dim and (settings.faiss != "Flat" or settings.lexical == "none"):
        raise InputError("an index without embeddings has no FAISS structure, and needs a lexical engine")
    states = _states(model, settings)
    lexical = _lexical(named)
    max_tokens = settings.max_tokens
    if max_tokens is None:
        max_tokens = default_max_tokens(model.max_length, lexical)
    if max_tokens:
        Splitter(model.token_offsets, max_tokens, settings.overlap)
    if settings.faiss != "Flat":
        new_structure(model.dim, settings.faiss, settings.faiss_parameters)
    probe = [round(float(x), 5) for x in model.encode_queries([PROBE])[0]] if model.dim else []
    return Manifest(
        encoder=EncoderRecord(
            model.name,
            model.revision,
            model.dim,
            model.max_length,
            dict(settings.encoder_options or {}),
            probe,
            _other_backend(model) if model.dim else None,
        ),
        passages=PassageRecord(max_tokens, settings.overlap),
        faiss=FaissRecord(settings.faiss, settings.faiss_parameters),
        lexical=lexical,
        token_states=states,
        decoder_states=_decoder_form(settings),
        sightline=__version__,
    )


def load_planned_encoder(settings: IndexSettings) -> Encoder:
    """Load the encoder that settings name, or take the one that they hold. The path of a model becomes an absolute one.

    Args:
        settings: the settings of an index that is to be built.

    Raises:
        InputError: if ``backend`` or ``dtype`` is given for an encoder that has been loaded already.
        SightlineError: see `load_encoder`.
    """
    encoder, options = settings.encoder, dict(settings.encoder_options or {})
    check_backend(settings.backend, encoder)
    if not isinstance(encoder, str):
        if settings.dtype is not None:
            raise InputError("dtype is for an encoder given by name; set the number format of the Encoder itself")
        return encoder
    reading = reading_by(settings.backend) | ({} if settings.dtype is None else {"dtype": settings.dtype})
    return load_encoder(absolute_name(encoder), **options | reading)


def given_encoder(settings: IndexSettings) -> Encoder | None:
    """The encoder that was given as an object, which copies of the index must take along."""
    return None if isinstance(settings.encoder, str) else settings.encoder


def reading_by(backend: str | None) -> dict[str, Any]:
    """The option of `load_encoder` for a backend, where one was asked for."""
    return {} if backend is None else {"backend": backend}


def check_backend(backend: str | None, encoder: str | Encoder | None) -> None:
    """Refuse a backend for an encoder that has been loaded already.

    Raises:
        InputError: if it has.
    """
    if backend is not None and not isinstance(encoder, str | None):
        raise InputError("backend is for an encoder given by name; load the Encoder with that backend")


def load_built_encoder(built: EncoderRecord, index: str, backend: str | None = None) -> Encoder:
    """Load and check the encoder that an index was built with.

    Args:
        built: the manifest's record of the encoder.
        index: the name of the index, for messages.
        backend: the library that computes; None for torch.

    Raises:
        ModelError: if the encoder cannot be loaded.
        IndexMismatchError: see `check_encoder`.
    """
    try:
        model = load_encoder(built.name, **built.options | reading_by(backend))
    except ModelError as error:
        raise ModelError(
            f"{index}: its encoder {built.name!r} cannot be loaded ({error}); if the model was moved, "
            "open the index with encoder= and the new path"
        ) from error
    check_encoder(built, model, index)
    return model


def check_encoder(built: EncoderRecord, model: Encoder, index: str) -> None:
    """Refuse an encoder that gives other embeddings than those of an index.

    Args:
        built: the manifest's record of the encoder that the index was built with.
        model: the encoder to check.
        index: the name of the index, for messages.

    Raises:
        IndexMismatchError: if the embeddings differ.
    """
    same = model.dim == built.dim
    if same and model.dim and not (model.revision and model.revision == built.revision):
        probe, now = np.array(built.probe), model.encode_queries([PROBE])[0]
        same = float(probe @ now) >= 0.999 * float(np.linalg.norm(probe) * np.linalg.norm(now))
    if not same:
        raise IndexMismatchError(
            f"{index}: built with the encoder {built.name!r} (dimension {built.dim}), and {model.name!r} "
            f"(dimension {model.dim}) gives other embeddings; open it with its own, or build it again"
        )


def default_max_tokens(read: int, lexical: LexicalRecord) -> int:
    """Return the number of tokens of a passage if the settings do not give it.

    Args:
        read: the number of tokens that the encoder reads.
        lexical: the record of what the index keeps of words. A sparse encoder that reads less makes passages shorter.
    """
    return min(read, lexical.max_length or read, 256) - 2


def _lexical(name: LexicalName) -> LexicalRecord:
    if name.engine != "sparse":
        return LexicalRecord(name.engine)
    encoder = load_sparse_encoder(name.model)
    return LexicalRecord(name.engine, encoder.name, encoder.revision, encoder.dim, encoder.max_length)


def _states(model: Encoder, settings: IndexSettings) -> TokenStatesRecord:
    kind = settings.token_states if model.dim or settings.reader is not None else "none"
    if kind == "none":
        if settings.reader is not None:
            raise InputError(
                "reader says whose token states are kept, and token_states is 'none'; leave one of them out"
            )
        return TokenStatesRecord(kind)
    reader = states_reader(model, None if settings.reader is None else absolute_name(settings.reader))
    states_form(kind, reader.dim)
    return TokenStatesRecord(
        kind, reader.name, reader.revision, reader.dim, reader.max_length, True, _other_backend(reader)
    )


def _other_backend(model: Any) -> str | None:
    """What computes in the place of torch; None if nothing does."""
    backend: str = getattr(model, "backend", None) or "torch"
    return None if backend == "torch" else backend


def _decoder_form(settings: IndexSettings) -> DecoderForm | None:
    reader, kind = settings.decoder_states, settings.decoder_form
    if reader is None:
        return None
    if not isinstance(reader, DecoderReader) or reader.reading is None:
        raise InputError(
            f"decoder_states takes a reranker by a decoder, such as load_reranker('hf:MODEL#icr-block'), not {reader!r}"
        )
    return reader.form(kind)


def make(path: Path, planned: Manifest) -> Manifest:
    """Make an empty index, or leave the one that is there as it is, finished or not.

    Other processes may do the same at the same time.

    Returns:
        The manifest of the index.

    Raises:
        IndexStoreError: if the directory holds something else.
        IndexMismatchError: if there is an index with other settings.
        IndexLockedError: if another process is writing there.
    """
    if not (path / "manifest.json").exists():
        with storage_errors(path, "nothing was made"):
            _refuse_foreign(path)
            path.mkdir(parents=True, exist_ok=True)
        with locked(path / WRITER_LOCK, wait=PATIENCE), storage_errors(path, "nothing was made"):
            if not (path / "manifest.json").exists():
                _make(path, planned)
    return joined(path, planned)


def _refuse_foreign(path: Path) -> None:
    ours = {"manifest.json.new", DATABASE, f"{DATABASE}-journal", *LOCKS, *FOLDERS}
    there = path.exists()
    empty = there and path.is_dir() and {entry.name for entry in path.iterdir()} <= ours
    # Looked for last: who makes an index at this moment writes its manifest before the files of documents.
    if there and not empty and not (path / "manifest.json").exists():
        raise IndexStoreError(f"{path}: exists and is not a Sightline index; choose another place")


def _make(path: Path, planned: Manifest) -> None:
    for lock in LOCKS:
        (path / lock).touch()
    # The manifest comes last: where there is one, a file that is missing was lost.
    store = DocumentStore(path / DATABASE, create=True)
    try:
        open_words(planned.lexical, path, store).make()
    finally:
        store.close()
    planned.save(path)


def joined(path: Path, planned: Manifest) -> Manifest:
    """Load the manifest of an index that was planned with the same settings, finished or not.

    Raises:
        IndexStoreError: if there is no index.
        IndexMismatchError: if there is one with other settings.
    """
    there = Manifest.load(path)
    if there.settings() != planned.settings():
        difference = there.difference(planned)
        raise IndexMismatchError(
            f"{path}: there is an index with other settings ({difference}); {OTHERWISE}"
            if there.complete
            else f"{path}: an interrupted build with other settings is here ({difference}); repeat its settings to "
            "continue it, or remove it"
        )
    return there
