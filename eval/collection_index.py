"""The index of a collection that evaluations search: opened, built, or built again if it does not fit."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from ..errors import DataError, InputError
from ..files import digest, replace_file
from ..models.loading import absolute_name
from ..names import MULTIVECTOR_STAGES, WORD_STAGES, LexicalName
from ..retrieval.index import Index
from ..retrieval.planning import IndexSettings, default_max_tokens
from ..retrieval.stores import Store, open_store
from .dataset import Dataset, collection_files
from .summary import IndexFacts

__all__ = ["index_facts", "open_index"]

logger = logging.getLogger(__name__)


def index_facts(index: Store) -> IndexFacts:
    """What results say about the index that was searched."""
    manifest = index.manifest
    if isinstance(index.path, Path):
        known = digest(index.path / "manifest.json")
    else:
        known = xxhash.xxh3_128_hexdigest(json.dumps(manifest.as_dict(), sort_keys=True).encode())
    return IndexFacts(counts=index.counts(), settings=manifest.settings(), manifest=known)


def open_index(
    dataset: Dataset,
    index: str | Path | None,
    path: Path,
    settings: Mapping[str, Any],
    systems: Iterable[tuple[str, str | None]],
    progress: Callable[[int], None],
    backend: str | None = None,
) -> Store:
    """The index of a collection.

    Args:
        dataset: the collection to search.
        index: an existing index of it, or a name for `sightline.open_store`; None for the one at ``path``. That one is
            built if it is not there, and built anew, with a warning, if it is of another state of the collection or
            does not serve the systems.
        path: the place of that index; ``NAME.source.json`` beside it says of which files it was made.
        settings: the settings of the index at ``path``: fields of `IndexSettings`.
        systems: the first stage and the reranker of each system that will search it. Where all of them search words
            alone, without a reranker, nothing is embedded; where one has a reranker, or searches token states, they are
            kept.
            ``settings`` may say otherwise of the token states.
        progress: a function that is called with the number of documents that are indexed.
        backend: the library that reads queries, and documents if an index is built; see `Index.open`.

    Returns:
        The index, open.

    Raises:
        InputError: if the index is of another collection, there is no such setting, a system's first stage searches
            other words than the index keeps, or the index at ``path`` does not serve and was not made by this function.
        SightlineError: see `Index.open` and `Index.build`.
    """
    if index is not None:
        opened = open_store(index, backend=backend)
        _check_collection(opened, dataset)
        for first, _ in systems:
            opened.manifest.lexical.name.check(first, str(index))
        return opened
    needed = _settings_for(settings if backend is None else {**settings, "backend": backend}, list(systems))
    source = path.with_name(f"{path.name}.source.json")
    files = json.dumps(_corpus_hash(dataset)).encode()
    if not (path / "manifest.json").exists():
        replace_file(source, files)
        return Index.build(path, dataset.documents(), progress=progress, **needed)
    opened = Index.open(path, backend=backend)
    reason = _misfit(opened, needed)
    if reason is None and source.exists() and source.read_bytes() != files:
        reason = "the collection has changed since"
    if reason is None:
        return _completed(opened, dataset, source, files, needed, progress)
    opened.close()
    if not source.exists():
        raise InputError(
            f"{path}: there is an index with other settings ({reason}), not made by an evaluation; remove it, or "
            "choose another --out"
        )
    logger.warning("the index at %s cannot be used (%s) and is built again", path, reason)
    built = Index.build(path, dataset.documents(), progress=progress, overwrite=True, **needed)
    replace_file(source, files)
    return built


def _completed(
    index: Index,
    dataset: Dataset,
    source: Path,
    files: bytes,
    settings: Mapping[str, Any],
    progress: Callable[[int], None],
) -> Index:
    """An index that serves; if its building was interrupted, built to its end."""
    _check_collection(index, dataset)
    if index.manifest.complete:
        logger.info("using the index at %s", index.path)
        return index
    index.close()
    replace_file(source, files)
    return Index.build(index.path, dataset.documents(), progress=progress, **settings)


def _corpus_hash(dataset: Dataset) -> dict[str, str]:
    """Name and hash of the corpus; empty for what is not a folder: a catalogue's collections do not change."""
    try:
        path = collection_files(dataset.folder, dataset.split)["corpus"]
    except DataError:
        return {}
    return {path.name: digest(path)}


def _settings_for(settings: Mapping[str, Any], systems: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    """All settings of an index for these systems."""
    defaults = {field.name: field.default for field in dataclasses.fields(IndexSettings)}
    unknown = sorted(set(settings) - set(defaults))
    if unknown:
        raise InputError(f"an index has no setting {unknown[0]!r}; there are {', '.join(defaults)}")
    reads = any(second or first in MULTIVECTOR_STAGES for first, second in systems)
    all_settings = {**defaults, "token_states": "fp16" if reads else "none", **settings}
    words = LexicalName.parse(all_settings["lexical"])
    for first, _ in systems:
        words.check(first, "the index")
    if not reads and all(first in WORD_STAGES for first, _ in systems):
        all_settings |= {
            "encoder": "none",
            "encoder_options": None,
            "faiss": "Flat",
            "faiss_parameters": "",
            "token_states": "none",
        }
    return all_settings


def _check_collection(index: Store, dataset: Dataset) -> None:
    """Refuse, and close, an index of another collection; what comes first in its own is in it, if anything is."""
    first = next(iter(dataset.documents()))
    indexed = index.document(first.id)
    if len(index) and (indexed is None or indexed.contents != first.contents):
        index.close()
        raise InputError(
            f"{index.path}: the index is of another collection: it lacks document {first.id!r} of {dataset.folder}, or "
            "has another text for it"
        )


def _misfit(index: Index, needed: Mapping[str, Any]) -> str | None:
    """The first setting of an index that keeps it from serving, with its value; None if it serves.

    An index that has more than is needed, embeddings or token states, serves just as well.
    """
    manifest = index.manifest
    needed = {**needed, "encoder_options": needed["encoder_options"] or {}}
    if not isinstance(needed["encoder"], str):
        needed["encoder"] = needed["encoder"].name
    else:
        needed["encoder"] = absolute_name(needed["encoder"])
    if needed["max_tokens"] is None:
        needed["max_tokens"] = default_max_tokens(manifest.encoder.max_length, manifest.lexical)
    engine, model = LexicalName.parse(needed["lexical"])
    needed["lexical"] = str(LexicalName(engine, absolute_name(model)))
    built: dict[str, Any] = {
        "lexical": str(manifest.lexical.name),
        "max_tokens": manifest.passages.max_tokens,
        "overlap": manifest.passages.overlap,
    }
    if needed["encoder"] != "none":
        built |= {
            "encoder": manifest.encoder.name,
            "encoder_options": manifest.encoder.options,
            "faiss": manifest.faiss.factory,
            "faiss_parameters": manifest.faiss.parameters,
        }
    if needed["token_states"] != "none":
        built["token_states"] = manifest.token_states.kind
        if needed["reader"] is not None:
            needed["reader"] = absolute_name(needed["reader"])
            built["reader"] = manifest.token_states.model
    if (decoder := needed["decoder_states"]) is not None:
        kept = manifest.decoder_states
        needed["decoder_states"], built["decoder_states"] = decoder.reading.name, "none"
        if kept is not None:
            reason = decoder.reading.misfit(kept.reading)
            built["decoder_states"] = f"{kept.reading.name} ({reason})" if reason else decoder.reading.name
            built["decoder_form"] = kept.kind
    return next(
        (f"{name} is {value!r}, needed is {needed[name]!r}" for name, value in built.items() if needed[name] != value),
        None,
    )
