"""``sightline index``, ``add``, ``delete``, ``info``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError
from .console import JsonOption, console, errors, names, progress_bar, visible, write_json

if TYPE_CHECKING:
    from ..documents import Document

__all__ = ["register"]

_SHOWN = 20


class Lexical(StrEnum):
    """BM25 engines."""

    fts5 = "fts5"
    pyserini = "pyserini"
    none = "none"


class TokenStates(StrEnum):
    """Forms in which token states are kept."""

    none = "none"
    fp16 = "fp16"
    int8 = "int8"


class CsvTypes(StrEnum):
    """What the cells of CSV and TSV become."""

    json = "json"
    text = "text"


Corpus = Annotated[
    Path,
    typer.Argument(
        help="A .jsonl, .json, .csv, .tsv or .parquet file; a BEIR folder; a folder of documents (text, Markdown, "
        "reST, notebooks, HTML, PDF, Word), or one of them. All but parquet may be compressed (.gz, .bz2, .xz, .zst)."
    ),
]
IndexPath = Annotated[Path, typer.Argument(help="Directory of the index.")]
Format = Annotated[
    str | None,
    typer.Option(help="beir, jsonl, json, csv, tsv, parquet, folder or text; by default the name says which."),
]
IdField = Annotated[str | None, typer.Option(help="Field that holds the id.")]
TitleField = Annotated[str | None, typer.Option(help="Field that holds the title.")]
TextField = Annotated[str | None, typer.Option(help="Field that holds the text.")]
Encoding = Annotated[
    str | None,
    typer.Option(help="Encoding of text files, such as cp1252; by default UTF-8, or what a byte order mark says."),
]
Delimiter = Annotated[
    str | None,
    typer.Option(help="Character between the cells of CSV and TSV, or 'tab'; by default the header shows it."),
]
Columns = Annotated[
    str | None, typer.Option(help="Names of the columns of a CSV or TSV file without a header, such as id,text,year.")
]
CsvTypesOption = Annotated[
    CsvTypes,
    typer.Option(help="json: columns of numbers, of true and false become such; text: cells stay strings."),
]
FollowLinks = Annotated[
    bool, typer.Option("--follow-links", help="Follow symbolic links that lead out of the folder, or to folders.")
]
Strict = Annotated[
    bool | None,
    typer.Option(
        "--strict/--skip-bad",
        help="Stop at the first bad record or file, or go on without it and list it at the end. By default, bad "
        "files of a folder are skipped and bad records stop.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("index", epilog="Example: sightline index data/scifact --out scifact.index")(index)
    app.command("add", epilog="Example: sightline add scifact.index more.jsonl --update")(add)
    app.command("delete", epilog="Example: sightline delete scifact.index 4983 5836")(delete)
    app.command("info", epilog="Example: sightline info scifact.index --json")(info)


def index(
    corpus: Corpus,
    out: Annotated[Path, typer.Option(help="Directory to make; an interrupted build in it is taken up again.")],
    encoder: Annotated[str, typer.Option(help="minilm, or any sentence-transformers name or path.")] = "minilm",
    truncate_dim: Annotated[
        int | None, typer.Option(help="Keep the first dimensions only (Matryoshka models).", min=1)
    ] = None,
    faiss: Annotated[str, typer.Option(help="FAISS factory string, such as Flat, HNSW32 or IVF256,SQ8.")] = "Flat",
    faiss_parameters: Annotated[str, typer.Option(help="FAISS search parameters, such as nprobe=64.")] = "",
    lexical: Annotated[Lexical, typer.Option(help="BM25 engine.")] = Lexical.fts5,
    token_states: Annotated[
        TokenStates, typer.Option(help="Keep what the reranker reads, so that reranking takes milliseconds.")
    ] = TokenStates.int8,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens per passage; 0 keeps documents whole, cut where models stop reading.")
    ] = None,
    overlap: Annotated[int, typer.Option(help="Tokens that neighbouring passages share.")] = 0,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an index that is there; the old one stays until the new is done."),
    ] = False,
    format: Format = None,
    id_field: IdField = None,
    title_field: TitleField = None,
    text_field: TextField = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    columns: Columns = None,
    csv_types: CsvTypesOption = CsvTypes.json,
    follow_links: FollowLinks = False,
    strict: Strict = None,
    json: JsonOption = False,
) -> None:
    """Index a collection: embeddings, FAISS, BM25, and token states for the reranker.

    What of a folder was left out, such as files of other kinds, is listed at the end, by kind and count. Hidden files
    and folders, __pycache__, node_modules and virtual environments are not read.
    """
    from ..retrieval.index import Index
    from ..retrieval.manifest import Manifest

    finished = not overwrite and (out / "manifest.json").exists() and Manifest.load(out).complete
    source = _Source(
        corpus,
        strict,
        format=format,
        id_field=id_field,
        title_field=title_field,
        text_field=text_field,
        encoding=encoding,
        delimiter=delimiter,
        columns=columns,
        csv_types=csv_types,
        follow_links=follow_links,
    )
    options = {"truncate_dim": truncate_dim} if truncate_dim else {}
    with progress_bar("indexing") as tell:
        built = Index.build(
            out,
            source.documents("indexing", tell),
            overwrite=overwrite,
            encoder=encoder,
            encoder_options=options,
            faiss=faiss,
            faiss_parameters=faiss_parameters,
            lexical=lexical.value,
            token_states=token_states.value,
            max_tokens=max_tokens,
            overlap=overlap,
        )
    with built:
        _report(built, source, json, {"finished_before": True} if finished and json else {})
        if finished and not json:
            console.print(
                "the index was finished already, of these documents and settings; nothing was changed", soft_wrap=True
            )


def add(
    index: IndexPath,
    corpus: Corpus,
    update: Annotated[bool, typer.Option("--update", help="Replace documents whose ids are there already.")] = False,
    format: Format = None,
    id_field: IdField = None,
    title_field: TitleField = None,
    text_field: TextField = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    columns: Columns = None,
    csv_types: CsvTypesOption = CsvTypes.json,
    follow_links: FollowLinks = False,
    strict: Strict = None,
    json: JsonOption = False,
) -> None:
    """Add documents to an index, or update them."""
    from ..retrieval.index import Index

    source = _Source(
        corpus,
        strict,
        format=format,
        id_field=id_field,
        title_field=title_field,
        text_field=text_field,
        encoding=encoding,
        delimiter=delimiter,
        columns=columns,
        csv_types=csv_types,
        follow_links=follow_links,
    )
    with Index.open(index) as opened, progress_bar("adding") as tell:
        count = (opened.update if update else opened.add)(source.documents("adding", tell))
        _report(opened, source, json, {"written": count})


def delete(
    index: IndexPath,
    ids: Annotated[list[str], typer.Argument(help="Ids of documents.")],
    json: JsonOption = False,
) -> None:
    """Delete documents by id, all or none."""
    from ..retrieval.index import Index

    with Index.open(index) as opened:
        count = opened.delete(ids)
        _report(opened, None, json, {"deleted": count})


def info(index: IndexPath, json: JsonOption = False) -> None:
    """Check every file of an index against its checksum, and tell what it holds."""
    from ..retrieval.index import Index

    with Index.open(index) as opened:
        _report(opened, None, json, {"settings": opened.manifest.settings(), "complete": opened.manifest.complete})


class _Source:
    """The documents of a command, what was skipped of them, and how far their reading has come."""

    def __init__(
        self,
        corpus: Path,
        strict: bool | None,
        *,
        format: str | None,
        delimiter: str | None,
        columns: str | None,
        csv_types: CsvTypes,
        **options: Any,
    ) -> None:
        from ..retrieval.sources import ReadSummary, guess_format, read_documents

        self.bad: list[DataError] = []
        self.summary = ReadSummary()
        options["format"] = format or guess_format(corpus)
        options["delimiter"] = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
        options["columns"] = names(columns) if columns else None
        options["csv_types"] = csv_types.value
        folder = options["format"] == "folder"
        skip = strict is False or (strict is None and folder)
        on_bad = self.bad.append if skip else None if folder else _stop
        self._documents = read_documents(
            corpus, on_bad=on_bad, strict=folder and not skip, summary=self.summary, **options
        )

    def documents(self, step: str, tell: Callable[..., None]) -> Iterator[Document]:
        """The documents; progress is told with each."""
        taken = 0
        for taken, document in enumerate(self._documents, 1):
            tell(step, taken, detail=self.summary.progress)
            yield document
        tell("finishing", taken)

    def told(self) -> Iterator[str]:
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
    raise DataError(f"{error.reason}; --skip-bad goes on without it", path=error.path, line=error.line)


def _report(index: Any, source: _Source | None, as_json: bool, more: dict[str, Any]) -> None:
    counts = index.counts()
    files = {file.name: file.stat().st_size for file in sorted(index.path.iterdir()) if file.is_file()}
    size = sum(files.values())
    if as_json:
        if source is not None:
            more = {"skipped": list(map(str, source.bad)), "left_out": dict(source.summary.left_out), **more}
        write_json({"index": str(index.path), **counts, "bytes": size, "files": files, **more})
        return
    for line in source.told() if source else ():
        errors.print(visible(line), markup=False, highlight=False, soft_wrap=True)
    held = [f"{counts[noun]:,} {noun if counts[noun] != 1 else noun[:-1]}" for noun in ("documents", "passages")]
    lines = [f"{', '.join(held)}, {size / 1e6:,.1f} MB"]
    for name, value in more.items():
        parts = value.items() if isinstance(value, dict) else [(name, value)]
        lines += [f"{part.replace('_', ' ')}: {_told(fields)}" for part, fields in parts]
    for line in [f"{index.path}: {lines[0]}", *lines[1:]]:
        console.print(visible(line), markup=False, highlight=False, soft_wrap=True)


def _told(value: Any) -> str:
    """A setting in words; what is empty is left out."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name.replace('_', ' ')} {field}" for name, field in value.items() if field not in ("", {}))
