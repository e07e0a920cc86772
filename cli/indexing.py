"""``sightline index``, ``add``, ``delete``, ``info``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError
from .console import JsonOption, console, errors, progress_bar, visible, write_json

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


Corpus = Annotated[
    Path, typer.Argument(help="A BEIR folder, a .jsonl/.csv/.tsv/.parquet file, or a folder of text, Markdown or HTML.")
]
IndexPath = Annotated[Path, typer.Argument(help="Directory of the index.")]
Format = Annotated[str | None, typer.Option(help="beir, jsonl, csv, tsv, parquet or folder; guessed from the name.")]
IdField = Annotated[str | None, typer.Option(help="Field that holds the id.")]
TitleField = Annotated[str | None, typer.Option(help="Field that holds the title.")]
TextField = Annotated[str | None, typer.Option(help="Field that holds the text.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Pass over bad records, and list them at the end.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("index", epilog="Example: sightline index data/scifact --out scifact.index --token-states fp16")(index)
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
    ] = TokenStates.none,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens per passage; 0 keeps documents whole, cut where models stop reading.")
    ] = None,
    overlap: Annotated[int, typer.Option(help="Tokens that neighbouring passages share.")] = 0,
    format: Format = None,
    id_field: IdField = None,
    title_field: TitleField = None,
    text_field: TextField = None,
    skip_bad: SkipBad = False,
    json: JsonOption = False,
) -> None:
    """Index a collection: embeddings, FAISS, BM25, and, if asked, token states for the reranker."""
    from ..retrieval.index import Index

    bad: list[DataError] = []
    documents = _documents(corpus, format, id_field, title_field, text_field, bad if skip_bad else None)
    options = {"truncate_dim": truncate_dim} if truncate_dim else {}
    with progress_bar("indexing") as tell:
        built = Index.build(
            out,
            documents,
            progress=tell,
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
        _report(built, bad, json, {})


def add(
    index: IndexPath,
    corpus: Corpus,
    update: Annotated[bool, typer.Option("--update", help="Replace documents whose ids are there already.")] = False,
    format: Format = None,
    id_field: IdField = None,
    title_field: TitleField = None,
    text_field: TextField = None,
    skip_bad: SkipBad = False,
    json: JsonOption = False,
) -> None:
    """Add documents to an index, or update them."""
    from ..retrieval.index import Index

    bad: list[DataError] = []
    with Index.open(index) as opened, progress_bar("adding") as tell:
        documents = _documents(corpus, format, id_field, title_field, text_field, bad if skip_bad else None)
        count = (opened.update if update else opened.add)(documents, tell)
        _report(opened, bad, json, {"written": count})


def delete(
    index: IndexPath,
    ids: Annotated[list[str], typer.Argument(help="Ids of documents.")],
    json: JsonOption = False,
) -> None:
    """Delete documents by id, all or none."""
    from ..retrieval.index import Index

    with Index.open(index) as opened:
        count = opened.delete(ids)
        _report(opened, [], json, {"deleted": count})


def info(index: IndexPath, json: JsonOption = False) -> None:
    """Check every file of an index against its checksum, and tell what it holds."""
    from ..retrieval.index import Index

    with Index.open(index) as opened:
        _report(opened, [], json, {"settings": opened.manifest.settings(), "complete": opened.manifest.complete})


def _documents(
    corpus: Path, format: str | None, id: str | None, title: str | None, text: str | None, bad: list[DataError] | None
) -> Any:
    from ..retrieval.readers import read_documents

    return read_documents(
        corpus,
        format=format,
        id_field=id,
        title_field=title,
        text_field=text,
        on_bad=None if bad is None else bad.append,
    )


def _report(index: Any, bad: list[DataError], as_json: bool, more: dict[str, Any]) -> None:
    counts = index.counts()
    files = {file.name: file.stat().st_size for file in sorted(index.path.iterdir()) if file.is_file()}
    size = sum(files.values())
    if as_json:
        skipped = [str(error) for error in bad]
        write_json({"index": str(index.path), **counts, "bytes": size, "files": files, "skipped": skipped, **more})
        return
    for error in bad[:_SHOWN]:
        errors.print(f"skipped: {visible(str(error))}", markup=False, highlight=False, soft_wrap=True)
    if bad:
        errors.print(f"{len(bad)} bad records skipped, {max(0, len(bad) - _SHOWN)} of them not shown (--json has all)")
    lines = [f"{counts['documents']:,} documents, {counts['passages']:,} passages, {size / 1e6:,.1f} MB"]
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
