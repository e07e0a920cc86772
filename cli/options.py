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
    typer.Argument(help="Directory of the index, or a store: qdrant-edge:PATH or qdrant://HOST:PORT/COLLECTION."),
]

# -- searching

RerankOption = Annotated[
    str,
    typer.Option(
        help="minilm, sightline-mini, hf:MODEL#LAYOUT, cross-encoder:MODEL, late-interaction:MODEL, encoder:MODEL, "
        "remote:SERVER/MODEL (a rerank API: texts are sent there), a folder of sightline train, a layout's .yaml, or "
        "none; sightline rerankers lists them.",
        rich_help_panel=SEARCHING,
    ),
]
BackendOption = Annotated[
    Backend | None,
    typer.Option(
        help="What computes the encoder and the rerankers that read token states: torch, or onnx or openvino (of the "
        "extras of these names), on the CPU in float32. States are compared with torch's when a model is loaded.",
        show_default="torch",
        rich_help_panel=SEARCHING,
    ),
]
FirstStageOption = Annotated[
    FirstStage | None,
    typer.Option(
        help="Where candidates come from. multivector searches the token states of the index.",
        show_default="hybrid where the index has embeddings and words, else what it has",
        rich_help_panel=SEARCHING,
    ),
]
CandidatesOption = Annotated[
    int, typer.Option(help="How many documents the first stage passes on.", min=1, rich_help_panel=SEARCHING)
]
MinScoreOption = Annotated[
    float | None,
    typer.Option(
        "--min-score",
        help="Leave out results whose relevance is below this, from 0 to 1. The reranker must have a relevance.",
        rich_help_panel=SEARCHING,
    ),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Metadata filter, such as lang=en, 'year>=2000', 'lang in \\[en, de]' or 'year is null'. You may give "
        "several; all must hold.",
        rich_help_panel=SEARCHING,
    ),
]

WorkOption = Annotated[
    Path | None,
    typer.Option(help="Folder that keeps the indexes for another time.", rich_help_panel=CANDIDATES),
]

# -- the index that a command makes

EncoderOption = Annotated[
    str, typer.Option(help="Bi-encoder: minilm, or any sentence-transformers name or path.", rich_help_panel=INDEX)
]
ReaderOption = Annotated[
    str | None,
    typer.Option(
        help="Whose token states the index keeps, such as late-interaction:MODEL.",
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
        "int4, pqM such as pq48 (product quantisation in M bytes a token), or none.",
        rich_help_panel=INDEX,
    ),
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option(
        help="Tokens per passage; 0 keeps documents whole, cut where models stop reading.", rich_help_panel=INDEX
    ),
]

# -- judged collections, and systems that search them

SystemsOption = Annotated[str, typer.Option("--systems", help=f"Comma-separated: {_SYSTEMS}.")]
SystemOption = Annotated[
    str, typer.Option("--system", help=f"{_SYSTEMS}; also given, for the folder's bm25.SPLIT.tsv.")
]
SplitOption = Annotated[str, typer.Option("--split", help="Which qrels/SPLIT.tsv to use.", rich_help_panel=COLLECTION)]
QrelsOption = Annotated[
    Path | None,
    typer.Option("--qrels", help="Judgements to use instead, BEIR or TREC format.", rich_help_panel=COLLECTION),
]
MaxQueriesOption = Annotated[
    int | None,
    typer.Option(
        "--max-queries", help="Use only this many queries, the first ones.", min=1, rich_help_panel=COLLECTION
    ),
]
RunsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--run",
        help="A first stage of your own: NAME=FILE, in any format that rerank --out writes. You may give several.",
        rich_help_panel=CANDIDATES,
    ),
]
IndexOption = Annotated[
    str | None,
    typer.Option("--index", help="Search this index, or store, instead of making one.", rich_help_panel=CANDIDATES),
]
PerQueryOption = Annotated[
    int, typer.Option("--candidates", help="Candidates per query.", min=1, rich_help_panel=CANDIDATES)
]
MeasuresOption = Annotated[
    str,
    typer.Option("--measures", help="Comma-separated, as ir_measures names them.", rich_help_panel=MEASURING),
]
JobsOption = Annotated[
    int,
    typer.Option(
        "--jobs", help="Processes that answer queries; they share the cores.", min=1, rich_help_panel=MEASURING
    ),
]


def reranker_or_none(rerank: str) -> str | None:
    """What ``--rerank`` names, for `load_reranker`; None for no reranker.

    Example:
        >>> reranker_or_none("hf:Qwen/Qwen3-0.6B#icr"), reranker_or_none("none")
        ('hf:Qwen/Qwen3-0.6B#icr', None)
    """
    return None if rerank == "none" else rerank
