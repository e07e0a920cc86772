"""Does a decoder's score add to the default's? The weight is chosen on dev results, the gain measured on others.

    sightline matrix DATA --plan recipes/decoders-dev.yaml --candidates 20 --max-queries 30 --out results/dev
    sightline matrix DATA --plan recipes/decoders.yaml --candidates 20 --max-queries 100 --out results/decoders
    python -m sightline.recipes.decoder_feature hybrid+sightline-135m --dev results/dev --eval results/decoders

Both systems must have reranked the same candidates. The sum is ``score + weight * feature``, where the feature is the
decoder's score, standardised within each list, since a decoder's score is relative to its list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from ..benchmarks.timing import command_line
from ..cli.console import console
from ..errors import InputError
from ..eval.loading import load_dataset
from ..eval.metrics import measure_rankings
from ..eval.results import load_results
from ..eval.significance import compare
from ..eval.trec import trec_order
from ..files import replace_file
from ..rerank.ranking import standardised

__all__ = ["WEIGHTS", "Lists", "chosen_weight", "feature", "load_lists", "qualities", "study"]

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
_MEASURE = "nDCG@10"

Run = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Lists:
    """One collection, as two systems reranked it.

    Args:
        name: the collection.
        qrels: grade by query id and document id.
        default: the default's scores by query id and document id.
        decoder: the decoder's scores of the same documents.
    """

    name: str
    qrels: Mapping[str, Mapping[str, int]]
    default: Run
    decoder: Run


def feature(scores: Mapping[str, float]) -> dict[str, float]:
    """A list's scores with mean 0 and standard deviation 1; all 0 if they are equal.

    Example:
        >>> feature({"a": 3.0, "b": 1.0})
        {'a': 1.0, 'b': -1.0}
    """
    return dict(zip(scores, standardised(np.array(list(scores.values()))).tolist(), strict=True))


def qualities(lists: Lists, weight: float) -> dict[str, float]:
    """nDCG@10 by query id of the sum with this weight.

    Raises:
        InputError: if the two systems ranked different documents.
    """
    rankings = {}
    for query, scores in lists.default.items():
        other = lists.decoder.get(query, {})
        if scores.keys() != other.keys():
            raise InputError(
                f"{lists.name}, query {query!r}: the two systems ranked different documents; evaluate them in one run"
            )
        added = feature(other)
        rankings[query] = trec_order({id: score + weight * added[id] for id, score in scores.items()})
    _, values = measure_rankings(lists.qrels, rankings, [_MEASURE])
    return {query: value[_MEASURE] for query, value in values.items()}


def chosen_weight(dev: list[Lists]) -> tuple[float, dict[float, list[float]]]:
    """The weight with the best mean over collections, and each weight's mean by collection."""
    means = {weight: [float(np.mean(list(qualities(lists, weight).values()))) for lists in dev] for weight in WEIGHTS}
    return max(WEIGHTS, key=lambda weight: (float(np.mean(means[weight])), -weight)), means


def load_lists(folder: Path, data: Path, default: str, decoder: str) -> list[Lists]:
    """The collections of a matrix that both systems reranked.

    Args:
        folder: what ``sightline matrix`` wrote.
        data: the folder that holds the collections.
        default: the name of the default's system, such as ``hybrid+minilm``.
        decoder: the name of the decoder's.

    Raises:
        InputError: if no collection has both systems.
    """
    found = []
    for path in sorted(folder.glob("*/results.json")):
        results = load_results(path.parent)
        if default in results.runs and decoder in results.runs:
            dataset = load_dataset(data / path.parent.name, results.summary.split)
            judged = {query: dataset.qrels[query] for query in results.runs[default]}
            found.append(Lists(path.parent.name, judged, results.runs[default], results.runs[decoder]))
    if not found:
        raise InputError(f"{folder}: no collection there has results of both {default!r} and {decoder!r}")
    return found


def study(
    decoder: Annotated[str, typer.Argument(help="The decoder's system, such as hybrid+sightline-135m.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the collections.")],
    dev: Annotated[Path, typer.Option(help="Results of a matrix on dev collections: the weight is chosen on them.")],
    evaluation: Annotated[Path, typer.Option("--eval", help="Results of a matrix on other collections.")],
    default: Annotated[str, typer.Option(help="The system that the feature is added to.")] = "hybrid+minilm",
    out: Annotated[Path | None, typer.Option(help="A JSON file to write the figures to.")] = None,
) -> None:
    """Print nDCG@10 by weight on dev, and the gain of the chosen weight on each other collection."""
    console.print(command_line(), markup=False, highlight=False, soft_wrap=True)
    chosen, means = chosen_weight(load_lists(dev, data, default, decoder))
    figures: dict[str, Any] = {"weight": chosen, "dev": {}, "gains": {}}
    table = Table("weight", "mean on dev", "worst difference")
    for weight, values in means.items():
        worst = min(value - base for value, base in zip(values, means[0.0], strict=True))
        figures["dev"][f"{weight:g}"] = {"mean": float(np.mean(values)), "worst_difference": worst}
        table.add_row(f"{weight:g}{' *' if weight == chosen else ''}", f"{np.mean(values):.4f}", f"{worst:+.4f}")
    console.print(table)
    gains = Table("collection", default, f"+ {chosen:g} * {decoder}", "difference", "p")
    for lists in load_lists(evaluation, data, default, decoder):
        before, after = qualities(lists, 0.0), qualities(lists, chosen)
        pair = {
            name: {query: {_MEASURE: value} for query, value in values.items()}
            for name, values in (("before", before), ("after", after))
        }
        [difference] = compare(pair, _MEASURE)
        gain = difference.difference
        found = figures["gains"][lists.name] = {
            "before": float(np.mean(list(before.values()))),
            "after": float(np.mean(list(after.values()))),
            "difference": {"mean": gain.mean, "low": gain.low, "high": gain.high},
            "p": difference.p_randomisation,
        }
        gains.add_row(
            lists.name,
            f"{found['before']:.4f}",
            f"{found['after']:.4f}",
            f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})",
            f"{difference.p_randomisation:.4f}",
        )
    console.print(gains)
    if out is not None:
        replace_file(out, json.dumps(figures, indent=1).encode())


if __name__ == "__main__":
    typer.run(study)
