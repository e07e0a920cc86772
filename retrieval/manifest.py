"""``manifest.json``: a small file that says what an index is, and that is only ever replaced as a whole."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import xxhash

from ..errors import DataError, IndexCorruptError, IndexStoreError
from ..files import replace_file
from ..models.reader import DecoderForm
from ..names import LexicalName
from ..parsing import as_type
from .files import RESTORE

__all__ = [
    "FORMAT",
    "EncoderRecord",
    "FaissRecord",
    "LexicalRecord",
    "Manifest",
    "PassageRecord",
    "StoreRecord",
    "TokenStatesRecord",
]

FORMAT = 2
_NAME = "manifest.json"
_STRICT = {"extra": "forbid"}


@dataclass(frozen=True)
class EncoderRecord:
    """The bi-encoder of an index.

    Args:
        name: the name of the encoder, as `load_encoder` takes it.
        revision: the revision of the encoder's weights.
        dim: the length of an embedding; 0 if there are none.
        max_length: the number of tokens that the encoder reads of a text.
        options: the options that `load_encoder` is called with.
        probe: the embedding of a fixed sentence, by which another encoder is recognised.
        backend: the library that computed the embeddings when the index was built; None for torch.
    """

    __pydantic_config__: ClassVar = _STRICT
    name: str
    revision: str
    dim: int
    max_length: int
    options: dict[str, Any]
    probe: list[float]
    backend: str | None = None


@dataclass(frozen=True)
class PassageRecord:
    """How documents are split: see `sightline.retrieval.planning.IndexSettings`."""

    __pydantic_config__: ClassVar = _STRICT
    max_tokens: int
    overlap: int


@dataclass(frozen=True)
class FaissRecord:
    """The vector index of an index.

    Args:
        factory: the FAISS factory string.
        parameters: the FAISS search parameters; "" for the defaults.
        version: the version of the library that built the structure, once it is built.
        device: the device on which it was built, ``cpu`` or ``cuda``.
        file: the structure's file, in the folder of the index. None for ``Flat`` and until the structure is built, like
            the following fields.
        rows: the number of vectors in the structure.
        digest: the digest of the file.
        trained: the number of vectors on which the structure was trained.
    """

    __pydantic_config__: ClassVar = _STRICT
    factory: str
    parameters: str
    version: str | None = None
    device: str | None = None
    file: str | None = None
    rows: int | None = None
    digest: str | None = None
    trained: int | None = None

    def __post_init__(self) -> None:
        if self.file is not None and ("/" in self.file or "\0" in self.file):
            raise DataError("the field faiss.file names a file elsewhere")


@dataclass(frozen=True)
class LexicalRecord:
    """What an index keeps of words.

    Args:
        engine: ``fts5``, ``tantivy``, ``pyserini``, ``sparse`` or ``none``.
        model: the learned sparse encoder of ``sparse``. None for other engines, like the following fields.
        revision: the revision of the encoder's weights.
        dim: the number of the encoder's terms.
        max_length: the number of tokens that the encoder reads of a text.
    """

    __pydantic_config__: ClassVar = _STRICT
    engine: str
    model: str | None = None
    revision: str | None = None
    dim: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.engine == "sparse" and None in (self.model, self.revision, self.dim, self.max_length):
            raise DataError("the field lexical lacks the model, its revision, dim or max_length")

    @property
    def name(self) -> LexicalName:
        """The name of the lexical engine, as you ask for it."""
        return LexicalName(self.engine, self.model or "")


@dataclass(frozen=True)
class TokenStatesRecord:
    """The token states that an index keeps.

    Args:
        kind: the form of the states: ``fp16``, ``int8``, ``int4``, ``pqM`` or ``none``.
        model: the name of the block reader. None if ``kind`` is ``none``, like the following fields.
        revision: the revision of the reader's weights.
        dim: the length of a state.
        max_length: the number of tokens that the reader reads of a text.
        spans: whether the characters that each token covers are kept beside the states, so that evidence needs no
            tokeniser; None if not, as in indexes of earlier versions.
        backend: the library that computed the states when the index was built; None for torch.
    """

    __pydantic_config__: ClassVar = _STRICT
    kind: str
    model: str | None = None
    revision: str | None = None
    dim: int | None = None
    max_length: int | None = None
    spans: bool | None = None
    backend: str | None = None

    def __post_init__(self) -> None:
        if self.kind != "none" and None in (self.model, self.revision, self.dim, self.max_length):
            raise DataError("the field token_states lacks the model, its revision, dim or max_length")


@dataclass(frozen=True)
class StoreRecord:
    """SQLite's change counter and the digest of the database at the last completed write; None before the first."""

    __pydantic_config__: ClassVar = _STRICT
    counter: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Args:
        encoder: the bi-encoder of the index.
        passages: the way that documents are split into passages.
        faiss: the record of the vector index.
        lexical: the record of what the index keeps of words.
        token_states: the token states that the index keeps.
        decoder_states: the decoder states that the index keeps; None if there are none.
        complete: whether the build went through. An incomplete index can be searched and resumed.
        counts: the number of documents and passages after the last completed write.
        store: the state of the database after the last completed write.
        sightline: the version of Sightline that wrote the manifest.
        format: the version of the directory's format.
    """

    __pydantic_config__: ClassVar = _STRICT
    encoder: EncoderRecord
    passages: PassageRecord
    faiss: FaissRecord
    lexical: LexicalRecord
    token_states: TokenStatesRecord
    decoder_states: DecoderForm | None = None
    complete: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    store: StoreRecord = StoreRecord()
    sightline: str = ""
    format: int = FORMAT

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON-like values, without fields that are None."""
        return dataclasses.asdict(self, dict_factory=lambda items: {k: v for k, v in items if v is not None})

    @classmethod
    def from_dict(cls, body: Mapping[str, Any], index: str, file: str) -> Manifest:
        """Check what `as_dict` returned, and make a manifest of it.

        Args:
            body: the JSON-like values of a manifest.
            index: the name of the index, for messages.
            file: the name of the file that the values came from, for messages.

        Raises:
            IndexStoreError: if the format is newer than this version.
            IndexCorruptError: if a field is missing, unknown or of another type.
        """
        if body.get("format") != FORMAT:
            raise IndexStoreError(
                f"{index}: index format {body.get('format')!r}, this version reads {FORMAT}; build the index again"
            )
        try:
            return as_type(body, cls)
        except DataError as error:
            raise IndexCorruptError(f"{file}: {error.reason}; {RESTORE}") from error

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the settings of the build, without its results.

        Two builds with equal settings can continue one another.
        """
        body = self.as_dict()
        del body["encoder"]["probe"]
        body["token_states"].pop("spans", None)  # an earlier version's build goes on without
        faiss = {"factory": self.faiss.factory, "parameters": self.faiss.parameters}
        parts = ("encoder", "passages", "faiss", "lexical", "token_states", "decoder_states")
        return {part: body[part] for part in parts if part in body} | {"faiss": faiss}

    def difference(self, other: Manifest) -> str:
        """Return the settings in which another manifest differs, in words."""
        mine, theirs = self.settings(), other.settings()
        return "; ".join(
            f"{part}: {mine.get(part, 'none')} there, {theirs.get(part, 'none')} asked for"
            for part in {**mine, **theirs}
            if mine.get(part) != theirs.get(part)
        )

    def save(self, folder: Path) -> None:
        """Write the manifest under a temporary name and move it into place."""
        replace_file(folder / _NAME, _serialised(self.as_dict()))

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Load and check the manifest of an index.

        Raises:
            IndexStoreError: if the folder is not an index, or one of a newer format.
            IndexCorruptError: if the file does not hold the contents that were written to it.
        """
        path = folder / _NAME
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise IndexStoreError(
                f"{folder}: not a Sightline index (no {_NAME}); build one with: sightline index"
            ) from error
        except (OSError, ValueError) as error:  # a path may hold a NUL
            raise IndexStoreError(f"{path}: cannot be read ({error})") from error
        try:
            body = json.loads(data)
            del body["digest"]
            damaged = _serialised(body) != data
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            damaged = True
        if damaged:
            raise IndexCorruptError(f"{path}: checksum mismatch; {RESTORE}")
        return cls.from_dict(body, str(folder), str(path))


def _serialised(body: dict[str, Any]) -> bytes:
    """The very bytes of the file: the body and, last, its checksum."""
    digest = xxhash.xxh3_128_hexdigest(json.dumps(body, sort_keys=True, ensure_ascii=False).encode())
    return json.dumps(body | {"digest": digest}, indent=2, ensure_ascii=False).encode()
