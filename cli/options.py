"""Options that several commands share, each with the panel of the help that it stands in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..models.devices import Backend
from ..names import FirstStage

__all__ = [
    "CANDIDATES",
    "COLLECTION",
    "INDEX",
    "MEASURING",
    "SEARCHING",
    "SERVER",
    "BackendOption",
    "CandidatesOption",
    "EncoderOption",
    "FaissOption",
    "FirstStageOption",
    "IndexArgument",
    "IndexOption",
    "JobsOption",
    "JsonOption",
    "LexicalOption",
    "MaxQueriesOption",
    "MaxTokensOption",
    "MeasuresOption",
    "MinScoreOption",
    "PerQueryOption",
    "QrelsOption",
    "ReaderOption",
    "RerankOption",
    "RunsOption",
    "SplitOption",
    "SystemOption",
    "SystemsOption",
    "TokenStatesOption",
    "WhereOption",
    "WorkOption",
    "reranker_or_none",
]

SEARCHING, INDEX, SERVER = "Searching", "Index", "Server"
COLLECTION, CANDIDATES, MEASURING = "Collection", "Candidates", "Measuring"
_SYSTEMS = (
    "bm25 (or sparse), dense, multivector, hybrid, hybrid-multivector or a --run's name, alone or with +RERANKER (see "
    "sightline rerankers)"
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
IndexArgument = Annotated[
    str,
    typer.Argument(help="Directory of an index, or a store: qdrant-edge:PATH or qdrant://HOST:PORT/COLLECTION."),
]

# -- searching

RerankOption = Annotated[
    str,
    typer.Option(
        help="Reranker: minilm, sightline-mini, hf:MODEL#LAYOUT, cross-encoder:MODEL, late-interaction:MODEL, "
        "encoder:MODEL, remote:SERVER/MODEL (a rerank API: texts are sent there), a folder of sightline train, a "
        "layout's .yaml, or none. sightline rerankers lists them.",
        rich_help_panel=SEARCHING,
    ),
]
BackendOption = Annotated[
    Backend | None,
    typer.Option(
        help="Library that computes the encoder and the rerankers that read token states: torch, or onnx or openvino "
        "(from the extras of these names), which compute on the CPU in float32. States are compared with torch's when "
        "a model is loaded.",
        show_default="torch",
        rich_help_panel=SEARCHING,
    ),
]
FirstStageOption = Annotated[
    FirstStage | None,
    typer.Option(
        help="First stage that finds the candidates. multivector searches the token states of the index.",
        show_default="hybrid if the index has embeddings and words, else what it has",
        rich_help_panel=SEARCHING,
    ),
]
CandidatesOption = Annotated[
    int, typer.Option(help="Number of documents that the first stage passes on.", min=1, rich_help_panel=SEARCHING)
]
MinScoreOption = Annotated[
    float | None,
    typer.Option(
        "--min-score",
        help="Lowest relevance of results, from 0 to 1. Others are left out. The reranker must have a relevance.",
        rich_help_panel=SEARCHING,
    ),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Metadata filter, such as lang=en, 'year>=2000', 'lang in \\[en, de]' or 'year is null'. You can give "
        "several, which must all hold.",
        rich_help_panel=SEARCHING,
    ),
]

WorkOption = Annotated[
    Path | None,
    typer.Option(help="Folder that keeps the indexes for the next time.", rich_help_panel=CANDIDATES),
]

# -- the index that a command makes

EncoderOption = Annotated[
    str,
    typer.Option(
        help="Bi-encoder: minilm, or the name or path of a sentence-transformers model.", rich_help_panel=INDEX
    ),
]
ReaderOption = Annotated[
    str | None,
    typer.Option(
        help="Block reader whose token states the index keeps, such as late-interaction:MODEL.",
        show_default="the encoder's, or minilm's if it has none",
        rich_help_panel=INDEX,
    ),
]
FaissOption = Annotated[
    str, typer.Option(help="FAISS factory string, such as Flat, HNSW32 or IVF256,SQ8.", rich_help_panel=INDEX)
]
LexicalOption = Annotated[
    str,
    typer.Option(
        help="BM25 engine: fts5, tantivy (for 100,000 passages and more) or pyserini. Or sparse:MODEL, learned sparse "
        "vectors in the place of BM25 (SPLADE). Or none.",
        rich_help_panel=INDEX,
    ),
]
TokenStatesOption = Annotated[
    str,
    typer.Option(
        help="Form in which the index keeps what the reranker reads, so that reranking takes milliseconds: fp16, int8, "
        "int4, pqM such as pq48 (product quantisation in M bytes per token), or none.",
        rich_help_panel=INDEX,
    ),
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option(
        help="Largest number of tokens of a passage; 0 keeps documents whole, cut off where models stop reading.",
        rich_help_panel=INDEX,
    ),
]

# -- judged collections, and systems that search them

SystemsOption = Annotated[str, typer.Option("--systems", help=f"Systems, comma-separated: {_SYSTEMS}.")]
SystemOption = Annotated[
    str, typer.Option("--system", help=f"System: {_SYSTEMS}; or given, for the folder's bm25.SPLIT.tsv.")
]
SplitOption = Annotated[
    str, typer.Option("--split", help="Split of the judgements, as in qrels/SPLIT.tsv.", rich_help_panel=COLLECTION)
]
QrelsOption = Annotated[
    Path | None,
    typer.Option(
        "--qrels", help="File of judgements to use instead, in BEIR or TREC format.", rich_help_panel=COLLECTION
    ),
]
MaxQueriesOption = Annotated[
    int | None,
    typer.Option(
        "--max-queries",
        help="Number of queries to use, the first ones. By default all.",
        min=1,
        rich_help_panel=COLLECTION,
    ),
]
RunsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--run",
        help="A first stage of your own: NAME=FILE, in any format that rerank --out writes. You can give several.",
        rich_help_panel=CANDIDATES,
    ),
]
IndexOption = Annotated[
    str | None,
    typer.Option("--index", help="Index or store to search, instead of making an index.", rich_help_panel=CANDIDATES),
]
PerQueryOption = Annotated[
    int, typer.Option("--candidates", help="Number of candidates of each query.", min=1, rich_help_panel=CANDIDATES)
]
MeasuresOption = Annotated[
    str,
    typer.Option("--measures", help="Measures, comma-separated, as ir_measures names them.", rich_help_panel=MEASURING),
]
JobsOption = Annotated[
    int,
    typer.Option(
        "--jobs",
        help="Number of processes that answer queries. They share the cores.",
        min=1,
        rich_help_panel=MEASURING,
    ),
]


def reranker_or_none(rerank: str) -> str | None:
    """What ``--rerank`` names, for `load_reranker`; None for no reranker.

    Example:
        >>> reranker_or_none("hf:Qwen/Qwen3-0.6B#icr"), reranker_or_none("none")
        ('hf:Qwen/Qwen3-0.6B#icr', None)
    """
    return None if rerank == "none" else rerank
