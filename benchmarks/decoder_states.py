"""What it costs to keep a decoder's keys and values of a collection, and what it saves; one run, side by side.

python -m sightline.benchmarks.decoder_states BEIR_FOLDER --reranker smollm2
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from scipy import stats

from ..cli.console import console
from ..cli.running import Command
from ..errors import InputError
from ..eval.cost import index_bytes
from ..eval.loading import load_dataset
from ..rerank.base import Reranker
from ..rerank.decoder import DecoderReranker, DocumentCache
from ..rerank.loading import load_reranker
from ..retrieval.index import Index
from ..search import CandidateList, Searcher
from .timing import print_report

__all__ = ["main"]

_ANEW, _EXACT = "read anew", "kept in memory as computed"
_FORMS: tuple[Literal["fp16", "int8"], ...] = ("fp16", "int8")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command)
def main(
    folder: Path,
    reranker: Annotated[str, typer.Option(help="A decoder whose layout reads documents apart.")] = "smollm2",
    heads: Annotated[str, typer.Option(help="Comma-separated layer-head; by default those of the layout.")] = "",
    length: Annotated[str, typer.Option(help="sum or mean; by default what the layout says.")] = "",
    documents: Annotated[int, typer.Option(help="How many documents of the corpus are indexed.")] = 300,
    queries: Annotated[int, typer.Option(help="Queries, each with 20 passages.")] = 30,
    long_queries: Annotated[int, typer.Option(help="How many also get 100 passages, or are read anew.")] = 5,
) -> None:
    """Rank by decoder states of an index, and by passages that are read anew: bytes, CPU time, and scores.

    Times are CPU time on one thread, so that other work on the machine hardly counts. Scores are compared within each
    list of 20 with those of passages that a `DocumentCache` keeps as computed: their differences in standard deviations
    of the list's scores, their orders by Kendall's tau.
    """
    torch.set_num_threads(1)
    changes: dict[str, Any] = {"heads": heads.split(",")} if heads else {}
    ranker = load_reranker(reranker, **changes, **({"length": length} if length else {}))
    if not isinstance(ranker, DecoderReranker):
        raise InputError(f"{reranker!r} is no reranker by a decoder; name one such as smollm2 or hf:MODEL#icr-block")
    minilm = load_reranker("minilm")
    dataset = load_dataset(folder)
    texts = list(itertools.islice(dataset.queries.values(), queries))
    rows: dict[str, dict[str, Any]] = {name: {} for name in ("minilm, token states, int8", _ANEW, _EXACT)}
    scores: dict[str, list[np.ndarray]] = {}

    def measure(name: str, ranker: Reranker, searcher: Searcher, queries: int | None = None) -> None:
        row = rows[name]
        for count, asked in ((20, texts[:queries]), (100, texts[:long_queries])):
            lists = [_first(found, count) for found in searcher.candidates(asked)]
            _ranked(ranker, _first(lists[0], 2))  # loads what is loaded once
            times, given = zip(*(_ranked(ranker, found) for found in lists), strict=True)
            scores.setdefault(name, list(given))
            row[f"ms, {count} passages"] = statistics.median(times) * 1e3
        _tell(name, row)

    with tempfile.TemporaryDirectory() as scratch:
        for form in _FORMS:
            path = Path(scratch) / form
            corpus, started = itertools.islice(dataset.documents(), documents), time.process_time()
            with Index.build(path, corpus, decoder_states=ranker, decoder_form=form) as index:
                passages, sizes = index.counts()["passages"], index_bytes(path)
                name = f"decoder states, {form}"
                rows[name] = {
                    "bytes per passage": sizes["decoder states"] / passages,
                    "ms to index a passage": (time.process_time() - started) / passages * 1e3,
                }
                measure(name, ranker, Searcher(index, ranker))
                if form == _FORMS[-1]:
                    rows["minilm, token states, int8"]["bytes per passage"] = sizes["token states"] / passages
                    measure("minilm, token states, int8", minilm, Searcher(index, minilm))
                    measure(_ANEW, ranker, Searcher(index, ranker, kept_states=False), long_queries)
                    ranker.cache = DocumentCache(host_bytes=1 << 40)
                    measure(_EXACT, ranker, Searcher(index, ranker, kept_states=False))
                    rows[_EXACT]["bytes per passage"] = ranker.cache.bytes()["host"] / passages
    for form in _FORMS:
        rows[f"decoder states, {form}"] |= _compared(scores[f"decoder states, {form}"], scores[_EXACT])
    print_report({"passages": passages, "queries": len(texts), "reranker": ranker.name, "ways": rows})


def _first(found: CandidateList, count: int) -> CandidateList:
    """The list's first passages."""
    fields = ("passages", "scores", "states", "decoder_states", "bm25")
    cut = {name: values[:count] for name in fields if (values := getattr(found, name)) is not None}
    return dataclasses.replace(found, **cut)


def _ranked(ranker: Reranker, found: CandidateList) -> tuple[float, np.ndarray]:
    """Seconds of CPU time to rank a list, and the scores in its order."""
    started = time.process_time()
    ranking = ranker.rank(found.query, found.blocks, states=found.states_for(ranker), bm25=found.bm25)
    seconds = time.process_time() - started
    return seconds, np.array([item.score for item in sorted(ranking, key=lambda item: item.index)])


def _compared(kept: Sequence[np.ndarray], anew: Sequence[np.ndarray]) -> dict[str, float]:
    """How far the scores of kept passages are from those of passages read anew."""
    differences = np.concatenate([np.abs(a - b) / b.std() for a, b in zip(kept, anew, strict=True)])
    taus = [float(stats.kendalltau(a, b).statistic) for a, b in zip(kept, anew, strict=True)]
    return {
        "largest difference, standard deviations": float(differences.max()),
        "mean difference, standard deviations": float(differences.mean()),
        "Kendall's tau, mean": statistics.fmean(taus),
        "Kendall's tau, least": min(taus),
        "same best passage": statistics.fmean(float(a.argmax() == b.argmax()) for a, b in zip(kept, anew, strict=True)),
    }


def _tell(name: str, row: dict[str, Any]) -> None:
    """One line as soon as it is measured: the whole takes a while."""
    console.print(f"{name}: {json.dumps(row)}", style="dim", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
