"""The model card of a training run (Mitchell et al., 2019): what the model is, how it was trained, how good it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..eval.provenance import portable_command, portable_name
from ..eval.significance import Interval
from .dev import MEASURE
from .examples import Example, Source
from .summary import DataRow, TrainingSummary

__all__ = ["Origin", "describe_data", "model_card"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a model card says that the training loop cannot know.

    Args:
        base: the model that training starts from.
        options: the options of the learner. To continue a run, they must be the same.
        data: a row for each source; see `describe_data`.
        command: the command line. Absolute paths are kept by their last part only.
    """

    base: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Sequence[DataRow] = ()
    command: Sequence[str] = ()


def describe_data(
    sources: Sequence[Source], examples: Sequence[Example], licences: Mapping[str, str] | None = None
) -> list[DataRow]:
    """Make a row for each source, for `Origin.data`. A licence that is not given is ``not stated``.

    Example:
        >>> describe_data([Source("data/nq", weight=0.5)], [], {"nq": "CC BY-SA 3.0"})
        [DataRow(name='nq', split='train', examples=0, weight=0.5, licence='CC BY-SA 3.0')]
    """
    known = licences or {}
    return [
        DataRow(
            name=source.name,
            split="" if source.is_file else source.split,
            examples=sum(example.source == source.name for example in examples),
            weight=source.weight,
            licence=known.get(source.name, "not stated"),
        )
        for source in sources
    ]


def model_card(summary: TrainingSummary, origin: Origin) -> str:
    """The card as Markdown, with the header that model hubs read.

    Args:
        summary: the summary of the run, as in ``training.json``.
        origin: where the data and the base model come from.
    """
    settings = summary.settings
    header: dict[str, Any] = {"library_name": "sightline", "pipeline_tag": "text-ranking"}
    if origin.base:
        header["base_model"] = portable_name(origin.base)
    size = sum(math.prod(shape) for shape in settings["parameters"].values())
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {summary.learner}",
        f"A reranker of Sightline: {size:,} trained numbers"
        f"{f' on {portable_name(origin.base)}' if origin.base else ''}. Load it by this folder's path.",
        "## Data",
        _table(
            ("collection", "split", "questions", "weight", "licence"),
            [(row.name, row.split, row.examples, f"{row.weight:g}", row.licence) for row in origin.data],
        )
        or "Not stated.",
        "## Training",
        f"{summary.steps} steps of {settings['lists'] * settings['accumulation']} lists, seed {settings['seed']}, "
        f"{summary.seconds:.0f} s; weights of step {summary.kept_step}, alpha {settings['alpha']:g}, "
        f"temperature {summary.temperature:.4g}. All settings, losses and hashes are in `training.json`.",
        f"```sh\n{portable_command(origin.command)}\n```" if origin.command else "",
        f"## {MEASURE} on dev",
        _table(
            ("collection", "queries", "before", "after", "difference", "p"),
            [
                (
                    name,
                    gain.queries,
                    *(_between(interval) for interval in (gain.before, gain.after, gain.difference)),
                    f"{gain.p:.4f}",
                )
                for name, gain in summary.dev.items()
            ],
        )
        or "Nothing was measured.",
        "95 % bootstrap intervals; p of a paired randomisation test. The weights were chosen on these collections."
        if summary.dev
        else "",
        "## Limits",
        "To be filled in: what it is bad at, and what it was not measured on.",
        "## Versions",
        ", ".join(f"{name} {version}" for name, version in summary.versions.items())
        + (f"; commit {summary.git}" if summary.git else ""),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _between(interval: Interval) -> str:
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"
