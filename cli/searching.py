"""``sightline search``."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from rich.text import Text

from .console import JsonOption, WhereOption, conditions, console, write_json

__all__ = ["register"]

_EXCERPT = 240  # characters of a passage shown without evidence
_SENTENCES = 3  # shown with evidence


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
    rerank: Annotated[
        str, typer.Option(help="minilm, minilm-mass, minilm-maxsim, a layout's .yaml, or none.")
    ] = "minilm",
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
        None if rerank == "none" else rerank,
        first_stage=cast(Any, first_stage.value),
        candidates=candidates,
    )
    level: Literal["sentence", "token"] | None = cast(Any, evidence_level.value) if evidence else None
    with searcher.index:
        if explain:
            explanation = searcher.explain(query, k, where=conditions(where))
            result, stages = explanation.result, {"dense": explanation.dense, "bm25": explanation.bm25}
        else:
            result = searcher.search(
                query, k, where=conditions(where), evidence=level, level="passage" if passages else "document"
            )
            stages = {}
    if json:
        hits = [_plain(hit, {name: places.get(hit.id) for name, places in stages.items()}) for hit in result.hits]
        fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "hits"}
        write_json({**fields, "hits": hits})
        return
    for hit in result.hits:
        head = Text.assemble((f"{hit.rank:>3}  ", "bold"), (hit.document.title or hit.id, "bold cyan"))
        head.append(f"  {hit.id}" if hit.document.title else "", "dim")
        notes = [f"score {hit.score:.3f}", f"first stage #{hit.first_rank}"]
        notes += [] if hit.mass is None else [f"attention {hit.mass:.1%}"]
        for name, places in stages.items():
            notes.append(f"{name} #{places[hit.id][0]}" if hit.id in places else f"{name} -")
        if explain and hit.token_mass is not None:
            pairs = sorted(zip(result.query_tokens, hit.token_mass, strict=True), key=lambda pair: -pair[1])
            notes.append("by token: " + " ".join(f"{token} {mass:.1%}" for token, mass in pairs[:5]))
        console.print(head)
        console.print("     " + ", ".join(notes), style="dim", highlight=False, markup=False)
        console.print(_excerpt(hit) if hit.evidence is None else _marked(hit))
        console.print()
    if not result.hits:
        console.print("nothing found")
    times = ", ".join(f"{name} {value:.1f}" for name, value in result.milliseconds.items())
    console.print(f"{result.candidates} candidates; milliseconds: {times}", style="dim", highlight=False)
    for warning in result.warnings:
        console.print(f"note: {warning}", style="yellow", highlight=False, markup=False)


def _excerpt(hit: Any) -> Text:
    text = " ".join(hit.passage.text.split())
    return Text("     " + (text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"))


def _marked(hit: Any) -> Text:
    """The passage's best sentences in the order of the text, the stronger the brighter; or its tokens."""
    spans = [span for span in hit.evidence if span.field == "text"]
    total = sum(span.mass for span in hit.evidence) or 1.0
    out = Text("     ")
    if spans and spans == sorted(spans, key=lambda span: span.start) and len(spans) > 2 * _SENTENCES:
        top = max(span.mass for span in spans)
        at = hit.passage.start
        for span in spans:
            out.append(hit.document.text[at : span.start].replace("\n", " "))
            out.append(
                span.text, "bold black on yellow" if span.mass > top / 2 else "yellow" if span.mass > top / 8 else ""
            )
            at = span.end
        return out
    best = sorted(sorted(spans, key=lambda span: -span.mass)[:_SENTENCES], key=lambda span: span.start)
    top = max((span.mass for span in best), default=0.0)
    for place, span in enumerate(best):
        out.append(" … " if place else "")
        out.append(" ".join(span.text.split()), "bold yellow" if span.mass == top else "yellow")
        out.append(f" [{span.mass / total:.0%}]", "dim")
    return out


def _plain(hit: Any, stages: dict[str, Any]) -> dict[str, Any]:
    found = {
        "rank": hit.rank,
        "id": hit.id,
        "score": hit.score,
        "title": hit.document.title,
        "text": hit.passage.text,
        "start": hit.passage.start,
        "end": hit.passage.end,
        "metadata": dict(hit.document.metadata),
        "first_rank": hit.first_rank,
        "first_score": hit.first_score,
        "mass": hit.mass,
        "token_mass": hit.token_mass,
    }
    if hit.evidence is not None:
        found["evidence"] = [dataclasses.asdict(span) for span in hit.evidence]
    return found | ({"stages": stages} if stages else {})
