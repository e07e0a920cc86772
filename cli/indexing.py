"""``sightline index``, ``copy``, ``add``, ``delete``, ``info``."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import DataError, InputError
from .console import console, errors, names, print_line, progress_bar, write_json
from .options import (
    INDEX,
    BackendOption,
    EncoderOption,
    FaissOption,
    IndexArgument,
    JsonOption,
    LexicalOption,
    MaxTokensOption,
    ReaderOption,
    TokenStatesOption,
)
from .settings import SettingsOptions, takes_settings

if TYPE_CHECKING:
    from ..documents import Document

__all__ = ["register"]

_SHOWN = 20
_SCALE = "Several processes"

CorpusArgument = Annotated[
    Path,
    typer.Argument(
        help="A .jsonl, .json, .csv, .tsv or .parquet file; a BEIR folder; a folder of documents (text, Markdown, "
        "reST, notebooks, HTML, PDF, Word), or one of them; or ir:ID, mteb:TASK, nano:NAME. All files but parquet may "
        "be compressed (.gz, .bz2, .xz, .zst)."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """How files become documents.

    Args:
        format: Format of the files: beir, jsonl, json, csv, tsv, parquet, folder or text; by default the name tells
            it.
        id_field: Name of the field that holds the id.
        title_field: Name of the field that holds the title.
        text_field: Name of the field that holds the text.
        encoding: Encoding of text files, such as cp1252; by default UTF-8, or what a byte order mark says.
        delimiter: Character between the cells of CSV and TSV, or 'tab'; by default the header shows it.
        columns: Names of the columns of a CSV or TSV file without a header, such as id,text,year.
        csv_types: Types of the cells of CSV and TSV: with json, columns of numbers and columns of true and false become
            numbers and booleans; with text, cells stay strings.
        follow_links: Follow symbolic links that lead out of the folder, or to folders.
        strict: Stop at the first bad record or file, or go on without it and list it at the end; by default, bad files
            of a folder are skipped and bad records stop.
    """

    format: str | None = None
    id_field: str | None = None
    title_field: str | None = None
    text_field: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    columns: str | None = None
    csv_types: Literal["json", "text"] = "json"
    follow_links: bool = False
    strict: bool | None = None


_FILES = SettingsOptions(kind=FileOptions, panel="Reading files", names={"strict": ("--strict/--skip-bad",)})


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, command, example in (
        ("index", index, "sightline index data/scifact --out scifact.index"),
        ("copy", copy, "sightline copy scifact.index qdrant://localhost:6333/scifact"),
        ("add", add, "sightline add scifact.index more.jsonl --update"),
        ("delete", delete, "sightline delete scifact.index 4983 5836"),
        ("info", info, "sightline info scifact.index --json"),
    ):
        app.command(name, rich_help_panel="Search", epilog=f"Example: {example}")(command)


@takes_settings(_FILES)
def index(
    corpus: CorpusArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the new index. An interrupted build in it continues.", show_default=False),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Keep the index in Qdrant instead: qdrant-edge:PATH, its engine in this process, or "
            "qdrant://HOST:PORT/COLLECTION, a server; qdrants:// over TLS. Set a server's key as QDRANT_API_KEY.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an existing index. The old one stays until the new one is done."),
    ] = False,
    encoder: EncoderOption = "minilm",
    truncate_dim: Annotated[
        int | None,
        typer.Option(
            help="Number of dimensions of embeddings to keep, for Matryoshka models.", min=1, rich_help_panel=INDEX
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Number format to read the documents in, such as bfloat16, which some processors multiply twice as "
            "fast. Queries are read in the encoder's own.",
            rich_help_panel=INDEX,
        ),
    ] = None,
    backend: BackendOption = None,
    faiss: FaissOption = "Flat",
    faiss_parameters: Annotated[
        str, typer.Option(help="FAISS search parameters, such as nprobe=64.", rich_help_panel=INDEX)
    ] = "",
    lexical: LexicalOption = "fts5",
    reader: ReaderOption = None,
    token_states: TokenStatesOption = "int8",
    decoder_states: Annotated[
        str | None,
        typer.Option(
            help="Keep what this reranker reads of each passage, such as hf:MODEL#icr-block: keys and values of a "
            "decoder whose layout reads documents independently of the query.",
            rich_help_panel=INDEX,
        ),
    ] = None,
    decoder_form: Annotated[
        Literal["fp16", "int8"],
        typer.Option(help="Form of the decoder states. int8 takes half as many bytes.", rich_help_panel=INDEX),
    ] = "int8",
    max_tokens: MaxTokensOption = None,
    overlap: Annotated[
        int, typer.Option(help="Number of tokens that neighbouring passages share.", rich_help_panel=INDEX)
    ] = 0,
    driver: Annotated[
        Literal["ray"] | None,
        typer.Option(
            help="Read passages in Ray's workers (extra ray), on this machine or, where RAY_ADDRESS is set, on the "
            "cluster there. On a Qdrant server the workers also write.",
            rich_help_panel=_SCALE,
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of workers, with --driver ray. By default one for each processor.",
            min=1,
            rich_help_panel=_SCALE,
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float,
        typer.Option(
            help="Number of GPUs that each worker takes, such as 1 or 0.5, with --driver ray.",
            min=0,
            rich_help_panel=_SCALE,
        ),
    ] = 0.0,
    shard_id: Annotated[
        int | None,
        typer.Option(
            help="Number of the part, from 0, that this process indexes of --num-shards parts of the collection.",
            min=0,
            rich_help_panel=_SCALE,
        ),
    ] = None,
    num_shards: Annotated[
        int | None,
        typer.Option(
            help="Number of processes that index the collection together, into one Qdrant server. The last to end "
            "finishes the index.",
            min=1,
            rich_help_panel=_SCALE,
        ),
    ] = None,
    json: JsonOption = False,
    **settings: Any,
) -> None:
    """Index a collection: embeddings, FAISS, BM25 or learned sparse vectors, and what the reranker reads of passages.

    If files of a folder are left out, such as those of other kinds, they are listed at the end, by kind and count.
    Hidden files and folders, __pycache__, node_modules and virtual environments are not read.
    """
    from ..retrieval.qdrant_store import QdrantStore
    from ..retrieval.stores import build_store, is_finished

    if (out is None) == (store is None):
        raise InputError("name the place of the index by --out DIRECTORY, or by --store qdrant-edge:PATH or similar")
    name = str(out) if store is None else store
    more = _shard(name, shard_id, num_shards)
    if driver is None and (workers is not None or gpus_per_worker):
        raise InputError("--workers and --gpus-per-worker are for --driver ray")
    finished = not overwrite and is_finished(name)
    source = _Source(corpus, _FILES.build(settings))
    options = {"truncate_dim": truncate_dim} if truncate_dim else {}
    with contextlib.ExitStack() as stack:
        if driver is not None:
            from ..scale import RayReading

            stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # where Ray says that a worker died
            more["reading"] = stack.enter_context(RayReading(workers=workers, gpus=gpus_per_worker))
        tell = stack.enter_context(progress_bar("indexing"))
        built = build_store(
            name,
            source.documents("indexing", tell),
            overwrite=overwrite,
            encoder=encoder,
            encoder_options=options,
            dtype=dtype,
            backend=backend,
            faiss=faiss,
            faiss_parameters=faiss_parameters,
            lexical=lexical,
            reader=reader,
            token_states=token_states,
            decoder_states=None if decoder_states is None else _decoder(decoder_states),
            decoder_form=decoder_form,
            max_tokens=max_tokens,
            overlap=overlap,
            **more,
        )
    with built:
        about: dict[str, Any] = {"finished_before": True} if finished and json else {}
        if num_shards is not None and isinstance(built, QdrantStore) and built.shards is not None:
            about["shards"] = {"done": built.shards[0], "of": num_shards, "complete": built.manifest.complete}
        _report(built, source, json, about)
        if (kept := built.manifest.token_states.model) not in (None, "minilm") and not json:
            name = kept if kept.startswith("late-interaction:") else f"encoder:{kept}"
            console.print(f"it keeps the token states of {name}; rank by them with --rerank {name}", soft_wrap=True)
        if finished and not json:
            console.print(
                "the index was finished already, of these documents and settings; nothing was changed", soft_wrap=True
            )


def _shard(name: str, number: int | None, of: int | None) -> dict[str, Any]:
    """The setting of a build that is one of several."""
    from ..names import StoreName
    from ..retrieval.shards import Shard

    if (number is None) != (of is None):
        raise InputError("--shard-id and --num-shards go together, such as --shard-id 3 --num-shards 16")
    if number is None or of is None:
        return {}
    if StoreName.parse(name).kind == "folder":
        raise InputError(
            "shards are written by several processes into one store, as --store qdrant://HOST:PORT/COLLECTION; for an "
            "index in a folder, read with several by --driver ray"
        )
    return {"shard": Shard(number, of)}


@takes_settings(_FILES)
def add(
    index: IndexArgument,
    corpus: CorpusArgument,
    update: Annotated[
        bool, typer.Option("--update", help="Replace documents that are in the index already and have changed.")
    ] = False,
    backend: BackendOption = None,
    json: JsonOption = False,
    **settings: Any,
) -> None:
    """Add documents to an index, or update them.

    With --update, documents that did not change are not read again; a Qdrant store writes all that it is given.
    """
    from ..retrieval.stores import decoder_of, open_store

    source = _Source(corpus, _FILES.build(settings))
    kept = decoder_of(index)
    options = {} if kept is None else {"decoder_states": _decoder(kept)}
    with open_store(index, backend=backend, **options) as opened, progress_bar("adding") as tell:
        count = (opened.update if update else opened.add)(source.documents("adding", tell))
        left = {"left_unchanged": source.taken - count} if update else {}
        _report(opened, source, json, {"written": count, **left})


def copy(
    index: Annotated[str, typer.Argument(help="Directory of the index, or a store.")],
    to: Annotated[
        str, typer.Argument(help="A directory, or a store: qdrant-edge:PATH or qdrant://HOST:PORT/COLLECTION.")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an index that is there already, once the copy is done.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Copy an index into a directory or a store, with its embeddings and token states. No text is read again.

    A copy in a directory is a snapshot: the index as it was at one moment, even if others write to it meanwhile. To
    restore it, copy it back. The copy takes its name when it is done, and an interrupted copy continues.
    """
    from ..retrieval.stores import copy_store, open_store

    with (
        open_store(index) as opened,
        progress_bar("copying") as tell,
        copy_store(opened, to, overwrite=overwrite, progress=lambda done: tell("copying", done)) as copied,
    ):
        _report(copied, None, json, {"copied": len(copied)})


def delete(
    index: IndexArgument,
    ids: Annotated[list[str], typer.Argument(help="Ids of the documents to delete.")],
    json: JsonOption = False,
) -> None:
    """Delete documents by id, all or none."""
    from ..retrieval.stores import open_store

    with open_store(index) as opened:
        count = opened.delete(ids)
        _report(opened, None, json, {"deleted": count})


def info(index: IndexArgument, json: JsonOption = False) -> None:
    """Say what an index holds, and check every file of it, or whether all passages of a store have vectors."""
    from ..retrieval.stores import open_store

    with open_store(index) as opened:
        _report(opened, None, json, {"settings": opened.manifest.settings(), "complete": opened.manifest.complete})


def _decoder(name: str) -> Any:
    """The reranker whose decoder states an index keeps, under a name that holds in every working directory."""
    from ..names import RerankerName
    from ..rerank.loading import load_reranker

    parsed = RerankerName.parse(name)
    parts = parsed.model, parsed.layout
    model, layout = (str(Path(part).resolve()) if part and Path(part).exists() else part for part in parts)
    prefix = "hf:" if name.startswith("hf:") else ""
    return load_reranker(f"{prefix}{model}#{layout}" if layout else f"{prefix}{model}")


class _Source:
    """The documents of a command, and what was skipped of them."""

    def __init__(self, corpus: Path, options: FileOptions) -> None:
        from ..eval.catalogues import corpus_of, in_catalogue
        from ..retrieval.sources import LoadSummary

        self.bad: list[DataError] = []
        self.taken = 0
        self.summary = LoadSummary()
        if (named := in_catalogue(corpus)) is None:
            self._documents = self._read(corpus, options)
            return
        for field in dataclasses.fields(options):
            if getattr(options, field.name) != field.default:
                raise InputError(f"{field.name} is for files, and {corpus} is a collection of a catalogue")
        self._documents = iter(corpus_of(*named))

    def _read(self, corpus: Path, options: FileOptions) -> Iterator[Document]:
        from ..retrieval.sources import guess_format, load_documents

        format = options.format or guess_format(corpus)
        folder = format == "folder"
        skip = options.strict is False or (options.strict is None and folder)
        return load_documents(
            corpus,
            format=format,
            id_field=options.id_field,
            title_field=options.title_field,
            text_field=options.text_field,
            encoding=options.encoding,
            delimiter={"tab": "\t", "\\t": "\t"}.get(options.delimiter or "", options.delimiter),
            columns=names(options.columns) if options.columns else None,
            csv_types=options.csv_types,
            follow_links=options.follow_links,
            strict=folder and not skip,
            on_bad=self.bad.append if skip else None if folder else _stop,
            summary=self.summary,
        )

    def documents(self, step: str, tell: Callable[..., None]) -> Iterator[Document]:
        """The documents; progress is shown with each."""
        for document in self._documents:
            self.taken += 1
            tell(step, self.taken, detail=self.summary.progress)
            yield document
        tell("finishing", self.taken)

    def skipped_lines(self) -> Iterator[str]:
        """What was skipped, in lines."""
        for error in self.bad[:_SHOWN]:
            yield f"skipped: {error}"
        if len(self.bad) > _SHOWN:
            yield f"skipped: {len(self.bad) - _SHOWN:,} more (--json lists them all)"
        if self.summary.left_out:
            yield str(self.summary)
        elif self.bad:
            yield f"{len(self.bad):,} bad record{'s' if len(self.bad) > 1 else ''} skipped"


def _stop(error: DataError) -> None:
    raise DataError(f"{error.reason}; --skip-bad continues without it", path=error.path, line=error.line)


def _report(index: Any, source: _Source | None, as_json: bool, more: dict[str, Any]) -> None:
    counts = index.counts()
    files = index.size()
    size = sum(files.values())
    if as_json:
        if source is not None:
            more = {"skipped": list(map(str, source.bad)), "left_out": dict(source.summary.left_out), **more}
        write_json({"index": str(index.path), **counts, "bytes": size, "files": files, **more})
        return
    for line in source.skipped_lines() if source else ():
        print_line(line, to=errors)
    held = [f"{counts[noun]:,} {noun if counts[noun] != 1 else noun[:-1]}" for noun in ("documents", "passages")]
    lines = [", ".join([*held, *([f"{size / 1e6:,.1f} MB"] if files else [])])]
    for name, value in more.items():
        parts = value.items() if isinstance(value, dict) else [(name, value)]
        lines += [f"{part.replace('_', ' ')}: {_in_words(fields)}" for part, fields in parts]
    for line in [f"{index.path}: {lines[0]}", *lines[1:]]:
        print_line(line)


def _in_words(value: Any) -> str:
    """A setting in words, without its empty fields."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name.replace('_', ' ')} {field}" for name, field in value.items() if field not in ("", {}))
