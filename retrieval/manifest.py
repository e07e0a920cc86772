"""``manifest.json``: what an index is, in one small file that is only ever replaced whole."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from ..errors import IndexCorruptError, IndexStoreError
from ..files import replace_file

__all__ = ["FORMAT", "Manifest"]

FORMAT = 2
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
            raise IndexCorruptError(f"{path}: checksum mismatch; restore the index from a copy, or build it again")
        if body.get("format") != FORMAT:
            raise IndexStoreError(
                f"{folder}: index format {body.get('format')!r}, this version reads {FORMAT}; build the index again"
            )
        if wrong := _misfits(body):
            raise IndexCorruptError(f"{path}: {wrong}; restore the index from a copy, or build it again")
        return cls(**body)


_SHAPE: dict[str, Any] = {
    "encoder": {"name": str, "revision": str, "dim": int, "max_length": int, "options": dict, "probe": list},
    "passages": {"max_tokens": int, "overlap": int},
    "faiss": {"factory": str, "parameters": str},
    "lexical": {"engine": str},
    "token_states": {"kind": str},
    "complete": bool,
    "counts": dict,
    "store": dict,
    "sightline": str,
    "format": int,
}
_OPTIONAL: dict[str, Any] = {
    "faiss": {"file": str, "rows": int, "digest": str, "version": str, "device": str, "trained": int},
    "token_states": {"model": str, "revision": str, "dim": int, "max_length": int},
    "store": {"counter": int, "digest": str},
}


def _misfits(body: dict[str, Any]) -> str:
    """What is wrong with the names and types of a manifest's fields, in words; "" if nothing is."""
    if strange := sorted(body.keys() ^ _SHAPE.keys()):
        return f"field {strange[0]!r} is {'missing' if strange[0] in _SHAPE else 'not known'}"
    for name, shape in _SHAPE.items():
        if not isinstance(body[name], dict if isinstance(shape, dict) else shape):
            return f"field {name!r} has a {type(body[name]).__name__}"
        if isinstance(shape, dict):
            for key, kind in shape.items():
                if not isinstance(body[name].get(key), kind):
                    return f"field {name}.{key} is not a {kind.__name__}"
        for key, kind in _OPTIONAL.get(name, {}).items():
            if key in body[name] and not isinstance(body[name][key], kind):
                return f"field {name}.{key} is not a {kind.__name__}"
    file = body["faiss"].get("file", "")
    if "/" in file or "\0" in file or not all(isinstance(x, int | float) for x in body["encoder"]["probe"]):
        return "field 'faiss' names a file elsewhere" if file else "field encoder.probe is not a list of numbers"
    return ""


def _serialised(body: dict[str, Any]) -> bytes:
    """The very bytes of the file: the body and, last, its checksum."""
    digest = xxhash.xxh3_128_hexdigest(json.dumps(body, sort_keys=True, ensure_ascii=False).encode())
    return json.dumps(body | {"digest": digest}, indent=2, ensure_ascii=False).encode()
