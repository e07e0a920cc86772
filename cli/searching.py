"""``sightline search``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from ..documents import Grain
from ..names import MULTIVECTOR_STAGES
from .console import console, print_table, visible, working, write_json
from .options import (
    SEARCHING,
    BackendOption,
    CandidatesOption,
    FirstStageOption,
    IndexArgument,
    JsonOption,
    MinScoreOption,
    RerankOption,
    WhereOption,
    reranker_or_none,
)

__all__ = ["register"]

_EXCERPT = 240  # characters of a passage shown without evidence
_SENTENCES = 3  # shown with evidence
_LEGEND = {
    True: "score: higher is better; relevance: estimated probability that the hit is relevant; attention: the "
    "passage's share among all candidates; [%]: the share of the passage's attention that a sentence got",
    False: "score: of the first stage, higher is better",
}
_SHOWING = "Showing"
_INDENT = " " * 5  # of what stands below a hit's title


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "search",
        rich_help_panel="Search",
        epilog='Example: sightline search scifact.index "do statins lower risk" -k 5 --evidence',
    )(search)
    app.command("rerankers", rich_help_panel="Search", epilog="Example: sightline rerankers --json")(rerankers)


def search(
    index: IndexArgument,
    query: Annotated[str, typer.Argument(help="Text to search for.")],
    k: Annotated[int, typer.Option("-k", help="Number of results.", min=1)] = 10,
    rerank: RerankOption = "minilm",
    backend: BackendOption = None,
    first_stage: FirstStageOption = None,
    candidates: CandidatesOption = 100,
    min_score: MinScoreOption = None,
    where: WhereOption = None,
    passages: Annotated[
        bool,
        typer.Option("--passages", help="Return passages instead of documents.", rich_help_panel=SEARCHING),
    ] = False,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Mark the sentences that got the attention.", rich_help_panel=_SHOWING)
    ] = False,
    evidence_grain: Annotated[
        Grain | None,
        typer.Option(
            help="Size of the marks, whole sentences or single tokens. Implies --evidence.",
            show_default="sentence, with --evidence",
            rich_help_panel=_SHOWING,
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show the rank of each result in each stage.", rich_help_panel=_SHOWING),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Search an index, rerank by attention, and show the evidence.

    Each field of a hit in --json: score is the score of the last stage, higher is better. relevance is the estimated
    probability that the hit is relevant, from 0 to 1; it is null if the reranker is not calibrated. mass is the share
    of the query's attention that the passage got among all candidates, from 0 to 1. token_mass is that share for each
    token of the query, in the order of query_tokens. first_rank and first_score are the document's place and score in
    the first stage. start and end are character offsets of the passage in the document's text; an entry of evidence has
    offsets of its own in the field that it names, text or title. milliseconds gives the time of each step; loading is
    the time to open the index and load the models.
    """
    from ..rerank.loading import load_reranker, reader_options
    from ..retrieval.filters import parse_where
    from ..retrieval.stores import open_store
    from ..search import Searcher

    started = time.perf_counter()
    where_filter, name = parse_where(where), reranker_or_none(rerank)
    reranker = None if name is None else load_reranker(name, **reader_options(name, backend))
    opened = open_store(index, backend=backend)
    searcher = Searcher(opened, reranker, first_stage=first_stage, candidates=candidates)
    grain = evidence_grain or ("sentence" if evidence else None)
    unit: Literal["document", "passage"] = "passage" if passages else "document"
    with searcher.index, working("loading the models") as tell:
        _load_models(searcher)
        loading = (time.perf_counter() - started) * 1e3
        if anew := searcher.reranker is not None and not searcher.uses_kept_states:
            tell("reading the candidates' texts")
        if explain:
            explanation = searcher.explain(query, k, where=where_filter, unit=unit, min_score=min_score)
            words = searcher.index.manifest.lexical.name.stage or "bm25"
            result, stages = explanation.result, {"dense": explanation.dense, words: getattr(explanation, words)}
            if searcher.first_stage in MULTIVECTOR_STAGES:
                stages["multivector"] = explanation.multivector
            grain = "token"
        else:
            result = searcher.search(query, k, where=where_filter, evidence=grain, unit=unit, min_score=min_score)
            stages = {}
    times = {"loading": loading, **result.milliseconds}
    traffic = searcher.index.traffic
    if json:
        answer = result.as_dict() | {"milliseconds": times}
        for hit in answer["hits"] if stages else ():
            hit["stages"] = {name: places.get(hit["id"]) for name, places in stages.items()}
        if traffic is not None:
            answer |= {"traffic": dataclasses.asdict(traffic)}
        write_json(answer)
        return
    for hit in result.hits:
        _print_hit(hit, grain, stages, result.query_tokens if explain else ())
    if not result.passages:
        console.print("nothing found with this filter" if where_filter else "nothing found")
    spent = ", ".join(f"{name} {value:.1f}" for name, value in times.items())
    console.print(f"{result.passages} passages; milliseconds: {spent}", style="dim", highlight=False)
    if traffic is not None and traffic.requests:
        fetched = f"{traffic.requests} requests to the store, {traffic.bytes / 1e6:,.1f} MB of answers"
        console.print(fetched, style="dim", highlight=False)
    if anew and result.hits:
        _advise(searcher, result.passages)
    if console.is_terminal and result.hits:
        _print_below(Text(_LEGEND[searcher.reranker is not None], "dim"))
    for warning in result.warnings:
        console.print(Text(f"note: {visible(warning)}", "yellow"))


def rerankers(json: JsonOption = False) -> None:
    """List the rerankers that --rerank takes, here and in all other commands.

    Words in capitals are placeholders: MODEL is a name on the hub, a folder or, for decoders, a GGUF file. Rerankers
    that can mark what got the attention have evidence.
    """
    from ..rerank.loading import list_rerankers

    infos = list_rerankers()
    if json:
        write_json([dataclasses.asdict(info) for info in infos])
        return
    table = Table()
    for column in ("name", "layout", "evidence", "description"):
        table.add_column(column, no_wrap=column != "description")
    for info in infos:
        table.add_row(info.name, info.layout, "yes" if info.evidence else "no", info.description)
    print_table(table)


def _print_hit(
    hit: Any,
    grain: Grain | None,
    stages: Mapping[str, Mapping[str, tuple[int, float]]],
    query_tokens: Sequence[str],
) -> None:
    """Print one hit; with ``query_tokens``, also what each of them pays."""
    head = Text.assemble((visible(hit.document.title or hit.id), "bold cyan"))
    in_title = sum(span.mass for span in hit.evidence or () if span.field == "title")
    if grain == "sentence" and in_title:
        head.append(f" [{in_title / (hit.mass or 1.0):.0%}]", "dim")
    head.append(f"  {visible(hit.id)}" if hit.document.title else "", "dim")
    notes = [f"score {hit.score:.3f}"]
    notes += [] if hit.relevance is None else [f"relevance {hit.relevance:.3f}"]
    notes += [f"first stage #{hit.first_rank}"]
    notes += [] if hit.mass is None else [f"attention {hit.mass:.1%}"]
    for name, places in stages.items():
        notes.append(f"{name} #{places[hit.id][0]}" if hit.id in places else f"{name} -")
    if query_tokens and hit.token_mass is not None:
        pairs = sorted(zip(query_tokens, hit.token_mass, strict=True), key=lambda pair: -pair[1])
        tokens = ", ".join(f"{visible(token)} {mass:.1%}" for token, mass in pairs[:5])
        notes[-1] += f"; of what each query token pays: {tokens}"
    _print_below(head, Text.assemble((f"{hit.rank:>3}  ", "bold")))
    _print_below(Text(", ".join(notes), "dim"))
    _print_below(_excerpt(hit) if hit.evidence is None else _marked(hit, grain))
    console.print()


def _load_models(searcher: Any) -> None:
    """Load what the search needs, so that the time of its first step is its own."""
    from ..search.first_stage import retrieve

    retrieve(searcher.index, ["loading"], [searcher.first_stage], 1)


def _advise(searcher: Any, passages: int) -> None:
    advice = f"this search read {passages} passages anew"
    if searcher.reranker.reader is not None:
        reader = searcher.reranker.reader.name
        advice += f"; an index that keeps what {reader} reads takes milliseconds (--reader and --token-states of index)"
    elif searcher.reranker.reading is not None and searcher.reranker.reading.fingerprint:
        advice += (
            f"; an index made with sightline index --decoder-states {searcher.reranker.name} keeps what was read, "
            "which takes a fraction of the time"
        )
    else:
        advice += ", since the index keeps no states of this model; fewer --candidates are faster"
    console.print(Text(f"note: {advice}", "yellow"))


def _print_below(text: Text, first: Text | None = None) -> None:
    """Print indented, the first line behind ``first``: wrapped to a terminal, one line for whatever reads a pipe."""
    for line in text.wrap(console, max(20, console.width - len(_INDENT))) if console.is_terminal else [text]:
        console.print((first or Text(_INDENT)).append_text(line), soft_wrap=True)
        first = None


def _excerpt(hit: Any) -> Text:
    text = " ".join(hit.passage.text.split())
    return Text(visible(text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"))


def _marked(hit: Any, grain: Grain | None) -> Text:
    """The passage's best sentences in the order of the text, with their share; or all it read, by token."""
    spans = [span for span in hit.evidence if span.field == "text"]
    top = max((span.mass for span in spans), default=0.0)
    out = Text()
    if grain == "token":
        at = hit.passage.start
        for span in spans:
            out.append(visible(hit.document.text[at : span.start]))
            strong, weak = span.mass > top / 2, span.mass > top / 8
            # Where styles are not seen, brackets mark what is strong.
            marked = f"[{span.text}]" if strong and not console.is_terminal else span.text
            out.append(visible(marked), "bold black on yellow" if strong else "yellow" if weak else "")
            at = span.end
        return out
    best = sorted(sorted(spans, key=lambda span: -span.mass)[:_SENTENCES], key=lambda span: span.start)
    for place, span in enumerate(best):
        out.append(" … " if place else "")
        out.append(visible(" ".join(span.text.split())), "bold yellow" if span.mass == top else "yellow")
        out.append(f" [{span.mass / (hit.mass or 1.0):.0%}]", "dim")
    return out
