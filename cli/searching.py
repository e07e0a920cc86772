"""``sightline search``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from rich.text import Text

from ..retrieval.filters import parse_where
from .console import (
    JsonOption,
    LayoutOption,
    RerankOption,
    WhereOption,
    console,
    reranker_name,
    visible,
    write_json,
)

__all__ = ["register"]

_EXCERPT = 240  # characters of a passage shown without evidence
_SENTENCES = 3  # shown with evidence
_INDENT = " " * 5  # of what stands below a hit's title


class FirstStage(StrEnum):
    """Where candidates come from."""

    dense = "dense"
    bm25 = "bm25"
    hybrid = "hybrid"


class Level(StrEnum):
    """What evidence is made of."""

    sentence = "sentence"
    token = "token"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("search", epilog='Example: sightline search scifact.index "do statins lower risk" -k 5 --evidence')(
        search
    )


def search(
    index: Annotated[Path, typer.Argument(help="Directory of the index.")],
    query: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", help="How many results.", min=1)] = 10,
    candidates: Annotated[int, typer.Option(help="Documents that the first stage hands on.", min=1)] = 100,
    first_stage: Annotated[FirstStage, typer.Option(help="Where candidates come from.")] = FirstStage.dense,
    rerank: RerankOption = "minilm",
    layout: LayoutOption = None,
    evidence: Annotated[bool, typer.Option("--evidence", help="Show what the reranker looked at.")] = False,
    evidence_level: Annotated[Level, typer.Option(help="With --evidence: by sentence or by token.")] = Level.sentence,
    passages: Annotated[bool, typer.Option("--passages", help="Show passages instead of documents.")] = False,
    where: WhereOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show where each stage put each result.")] = False,
    json: JsonOption = False,
) -> None:
    """Search an index, rerank by attention, show the evidence."""
    from ..search import Searcher

    searcher = Searcher(
        index,
        reranker_name(rerank, layout),
        first_stage=cast(Any, first_stage.value),
        candidates=candidates,
    )
    level: Literal["sentence", "token"] | None = cast(Any, evidence_level.value) if evidence else None
    unit: Literal["document", "passage"] = "passage" if passages else "document"
    with searcher.index:
        if explain:
            explanation = searcher.explain(query, k, where=parse_where(where), level=unit)
            result, stages = explanation.result, {"dense": explanation.dense, "bm25": explanation.bm25}
            level = "token"
        else:
            result = searcher.search(query, k, where=parse_where(where), evidence=level, level=unit)
            stages = {}
    if json:
        found = result.as_dict()
        for hit in found["hits"] if stages else ():
            hit["stages"] = {name: places.get(hit["id"]) for name, places in stages.items()}
        write_json(found)
        return
    for hit in result.hits:
        head = Text.assemble((f"{hit.rank:>3}  ", "bold"), (visible(hit.document.title or hit.id), "bold cyan"))
        in_title = sum(span.mass for span in hit.evidence or () if span.field == "title")
        if level == "sentence" and in_title:
            head.append(f" [{in_title / (hit.mass or 1.0):.0%}]", "dim")
        head.append(f"  {visible(hit.id)}" if hit.document.title else "", "dim")
        notes = [f"score {hit.score:.3f}", f"first stage #{hit.first_rank}"]
        notes += [] if hit.mass is None else [f"attention {hit.mass:.1%}"]
        for name, places in stages.items():
            notes.append(f"{name} #{places[hit.id][0]}" if hit.id in places else f"{name} -")
        if explain and hit.token_mass is not None:
            pairs = sorted(zip(result.query_tokens, hit.token_mass, strict=True), key=lambda pair: -pair[1])
            tokens = ", ".join(f"{visible(token)} {mass:.1%}" for token, mass in pairs[:5])
            notes[-1] += f"; of what each query token pays: {tokens}"
        console.print(head, soft_wrap=True)
        _print_below(Text(", ".join(notes), "dim"))
        _print_below(_excerpt(hit) if hit.evidence is None else _marked(hit, level))
        console.print()
    if not result.hits:
        console.print("nothing found with this filter" if where else "nothing found")
    times = ", ".join(f"{name} {value:.1f}" for name, value in result.milliseconds.items())
    console.print(f"{result.candidates} candidates; milliseconds: {times}", style="dim", highlight=False)
    for warning in result.warnings:
        console.print(Text(f"note: {visible(warning)}", "yellow"))


def _print_below(text: Text) -> None:
    """Print indented: wrapped to a terminal, one line for whatever reads a pipe."""
    for line in text.wrap(console, max(20, console.width - len(_INDENT))) if console.is_terminal else [text]:
        console.print(Text(_INDENT).append_text(line), soft_wrap=True)


def _excerpt(hit: Any) -> Text:
    text = " ".join(hit.passage.text.split())
    return Text(visible(text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"))


def _marked(hit: Any, level: Literal["sentence", "token"] | None) -> Text:
    """The passage's best sentences in the order of the text, with their share; or all it read, by token."""
    spans = [span for span in hit.evidence if span.field == "text"]
    top = max((span.mass for span in spans), default=0.0)
    out = Text()
    if level == "token":
        at = hit.passage.start
        for span in spans:
            out.append(visible(hit.document.text[at : span.start]))
            strong, weak = span.mass > top / 2, span.mass > top / 8
            out.append(visible(span.text), "bold black on yellow" if strong else "yellow" if weak else "")
            at = span.end
        return out
    best = sorted(sorted(spans, key=lambda span: -span.mass)[:_SENTENCES], key=lambda span: span.start)
    for place, span in enumerate(best):
        out.append(" … " if place else "")
        out.append(visible(" ".join(span.text.split())), "bold yellow" if span.mass == top else "yellow")
        out.append(f" [{span.mass / (hit.mass or 1.0):.0%}]", "dim")
    return out
