"""``sightline heads``."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from .console import console, print_line, progress_bar, visible, write_json
from .options import JsonOption

__all__ = ["register"]

_MODEL, _LISTS = "Model", "Lists"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "heads",
        rich_help_panel="Train",
        epilog="Example: sightline heads Qwen/Qwen3-0.6B --data data/nq_train --method qr",
    )(heads)


def heads(
    model: Annotated[str, typer.Argument(help="The decoder: smollm2, a name on the hub, a folder or a GGUF file.")],
    data: Annotated[
        list[Path],
        typer.Option(
            help="A BEIR folder with judgements. If you give several, each contributes the same number of lists."
        ),
    ],
    method: Annotated[Literal["qr", "core", "ndcg"], typer.Option(help="Criterion by which heads are scored.")] = "qr",
    layout: Annotated[
        str | None,
        typer.Option(
            help="Layout that the heads are for. By default qrhead, or core with --method core.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split whose queries are read.", rich_help_panel=_LISTS)] = "train",
    run: Annotated[
        Path | None,
        typer.Option(
            help="A TREC run with the candidates of all folders. By default bm25.SPLIT.tsv in each.",
            rich_help_panel=_LISTS,
        ),
    ] = None,
    queries: Annotated[
        int, typer.Option(help="Number of lists that are read, one for each query.", min=1, rich_help_panel=_LISTS)
    ] = 128,
    candidates: Annotated[
        int, typer.Option(help="Number of documents in each list.", min=2, rich_help_panel=_LISTS)
    ] = 40,
    words: Annotated[
        int | None,
        typer.Option(help="Number of words of a text that are read. By default all.", min=1, rich_help_panel=_LISTS),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Seed that decides which queries are drawn and how lists are shuffled.", rich_help_panel=_LISTS
        ),
    ] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(help="Temperature of --method core. By default the one that was published for the model."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the model.", rich_help_panel=_MODEL)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Number format to compute in, such as bfloat16. On CPUs the default is float32.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="YAML file to write. By default it goes where rerankers look for it.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find the attention heads that retrieve, and write every head's score to a YAML file with a heat map beside it."""
    from ..eval.heads import detection_lists
    from ..eval.loading import load_dataset
    from ..eval.runs import first_stage_run
    from ..rerank.decoder import DecoderReranker
    from ..rerank.detection import detect_heads
    from ..rerank.heads import heads_path
    from ..rerank.layout import load_layout

    spec = load_layout(layout or ("core" if method == "core" else "qrhead"), heads="all", layers="all")
    datasets = [load_dataset(folder, split) for folder in data]
    reranker = DecoderReranker(model, spec, revision=revision, dtype=dtype)
    lists = itertools.chain.from_iterable(
        detection_lists(
            dataset,
            first_stage_run(dataset, run),
            queries=-(-(queries - part) // len(datasets)),
            candidates=candidates,
            words=words,
            seed=seed,
        )
        for part, dataset in enumerate(datasets)
    )
    read = ", ".join(f"{dataset.name}/{split}" for dataset in datasets)
    with progress_bar("reading lists") as tell:
        scored = detect_heads(
            reranker,
            lists,
            method,
            data=read if words is None else f"{read}, {words} words of each text",
            seed=seed,
            temperature=temperature,
            progress=tell,
        )
    path = out or heads_path(scored.model, scored.revision, scored.fingerprint, method)
    scored.save(path)
    best = scored.top(min(16, sum(map(len, scored.scores))))
    if json:
        summary: dict[str, Any] = {"file": str(path), "picture": str(path.with_suffix(".svg")), "best": list(best)}
        write_json(summary | {"method": method, "queries": scored.queries, "layout": scored.layout})
        return
    table = Table(
        title=Text(visible(f"{scored.model}: best heads by {method} on {scored.data}, {scored.queries} lists"))
    )
    for name in ("layer-head", "score"):
        table.add_column(name, justify="right")
    for head in best:
        layer, number = map(int, head.split("-"))
        table.add_row(head, f"{scored.scores[layer][number]:.5g}")
    console.print(table)
    print_line(f"written to {path} and .svg")
