"""``manifest.json``: what an index is, in one small file that is only ever replaced whole."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from ..errors import IndexCorruptError, IndexStoreError
from .files import replace_file

__all__ = ["FORMAT", "Manifest"]

FORMAT = 1
_NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Args:
        encoder: ``name``, ``revision``, ``dim``, ``max_length``, ``options``, and ``probe``, the embedding of a fixed
            sentence by which another encoder is recognised.
        passages: ``max_tokens`` and ``overlap`` of the splitter.
        faiss: ``factory``, ``parameters``, and once built ``file``, ``rows``, ``digest``, ``version``, ``device``.
        lexical: ``engine`` and its settings.
        token_states: ``kind``, and unless that is ``none`` the ``model``, ``revision``, ``dim`` and ``max_length``.
        complete: whether the build went through; an incomplete index can be searched, and resumed.
        counts: as of the last completed write.
        store: ``counter`` and ``digest`` of the database at the last completed write.
        sightline: the version that wrote this.
        format: of the directory.
    """

    encoder: dict[str, Any]
    passages: dict[str, int]
    faiss: dict[str, Any]
    lexical: dict[str, Any]
    token_states: dict[str, Any]
    complete: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    store: dict[str, Any] = field(default_factory=dict)
    sightline: str = ""
    format: int = FORMAT

    def settings(self) -> dict[str, Any]:
        """What was asked for, without what came of it: two builds with equal settings can continue one another."""
        encoder = {key: value for key, value in self.encoder.items() if key != "probe"}
        faiss = {key: self.faiss[key] for key in ("factory", "parameters")}
        return {
            "encoder": encoder,
            "passages": self.passages,
            "faiss": faiss,
            "lexical": self.lexical,
            "token_states": self.token_states,
        }

    def difference(self, other: Manifest) -> str:
        """The settings in which another manifest differs, in words."""
        mine, theirs = self.settings(), other.settings()
        return "; ".join(f"{k}: {mine[k]} there, {theirs[k]} asked for" for k in mine if mine[k] != theirs[k])

    def save(self, folder: Path) -> None:
        """Write beside and rename into place."""
        body = dataclasses.asdict(self)
        replace_file(folder / _NAME, _serialised(body))

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read and check the manifest of an index.

        Raises:
            IndexStoreError: if the folder is no index, or one of a newer format.
            IndexCorruptError: if the file does not have the contents it was written with.
        """
        path = folder / _NAME
        if not path.is_file():
            raise IndexStoreError(f"{folder}: not a Sightline index (no {_NAME}); build one with: sightline index")
        try:
            data = path.read_bytes()
            body = json.loads(data)
            del body["digest"]
            damaged = _serialised(body) != data
        except (ValueError, KeyError, AttributeError, TypeError):
            damaged = True
        if damaged:
            raise IndexCorruptError(f"{path}: checksum mismatch; restore the index from a copy, or build it again")
        if body["format"] != FORMAT:
            raise IndexStoreError(
                f"{folder}: index format {body['format']}, this version reads {FORMAT}; build the index again"
            )
        return cls(**body)


def _serialised(body: dict[str, Any]) -> bytes:
    """The very bytes of the file: the body and, last, its checksum."""
    digest = xxhash.xxh3_128_hexdigest(json.dumps(body, sort_keys=True, ensure_ascii=False).encode())
    return json.dumps(body | {"digest": digest}, indent=2, ensure_ascii=False).encode()
