"""Evaluate several collections in one run, with every first stage alone and before every reranker, and one report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, Unpack

from ..errors import DataError, InputError
from ..parsing import as_type, load_yaml
from .dataset import collection_files
from .experiment import EvaluateOptions, evaluate_systems
from .loading import load_dataset
from .metrics import check_measures
from .output import make_folder
from .pool import search_pool
from .report import write_report
from .results import Results

__all__ = ["Collection", "evaluate_collections", "load_matrix"]


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection, and the systems that are run on it.

    Args:
        folder: the folder in BEIR's layout. Its name names the results.
        systems: the names of systems, as `sightline.names.SystemName.parse` takes them.
        split: the name of the split of the judgements.
        qrels: a file of judgements to use instead.
        runs: first stages of your own: the file of a TREC run by name.
        max_queries: the number of queries to take, the first ones. If None, all of them.
    """

    folder: Path
    systems: tuple[str, ...]
    split: str = "test"
    qrels: Path | None = None
    runs: Mapping[str, Path] = field(default_factory=dict)
    max_queries: int | None = None


def load_matrix(
    data: str | Path,
    plan: str | Path,
    *,
    only: Sequence[str] = (),
    rerankers: Sequence[str] = (),
    max_queries: int | None = None,
) -> list[Collection]:
    """Read a plan.

    Args:
        data: the folder that holds the collections.
        plan: a YAML file with ``first_stages``, ``rerankers``, and ``collections``, each with
            ``folder`` and perhaps ``split``, ``qrels``, and ``runs`` (which then are its only first stages).
        only: the names of the collections to take; empty for all.
        rerankers: the names of rerankers to add to those of the plan.
        max_queries: the number of queries to take of each collection, the first ones. If None, all of them.

    Raises:
        DataError: if there is no such folder, or the plan is malformed.
        InputError: if ``only`` names a collection that the plan does not have.
    """
    plan, data = Path(plan), Path(data)
    if not data.is_dir():
        raise DataError("no such folder; name the one that holds the plan's collections", path=data)
    body = load_yaml(plan)
    try:
        collections = dict(as_type(body, _Plan).laid_out(data, rerankers, max_queries))
    except DataError as error:
        raise DataError(error.reason, path=plan) from None
    if missing := [name for name in only if name not in collections]:
        raise InputError(f"the plan has no collection {missing[0]!r}; it has {', '.join(collections)}")
    return [collection for name, collection in collections.items() if not only or name in only]


@dataclass(frozen=True, slots=True)
class _PlannedCollection:
    __pydantic_config__: ClassVar = {"extra": "forbid"}

    folder: str
    split: str = "test"
    qrels: str | None = None
    runs: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    __pydantic_config__: ClassVar = {"extra": "forbid"}

    first_stages: list[str]
    rerankers: list[str]
    collections: list[_PlannedCollection]

    def __post_init__(self) -> None:
        names = [entry.folder for entry in self.collections]
        if not names:
            raise DataError("collections must be a list with something in it")
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{twice[0]} is listed twice")

    def laid_out(
        self, data: Path, rerankers: Sequence[str], max_queries: int | None
    ) -> Iterator[tuple[str, Collection]]:
        """Each collection by its name in the plan."""
        for entry in self.collections:
            folder, runs = data / entry.folder, entry.runs or {}
            stages = list(runs) or self.first_stages
            yield (
                entry.folder,
                Collection(
                    folder=folder,
                    systems=tuple(
                        f"{stage}+{reranker}" if reranker else stage
                        for reranker in dict.fromkeys(("", *self.rerankers, *rerankers))
                        for stage in stages
                    ),
                    split=entry.split,
                    qrels=folder / entry.qrels if entry.qrels else None,
                    runs={name: folder / file for name, file in runs.items()},
                    max_queries=max_queries,
                ),
            )


def evaluate_collections(
    collections: Sequence[Collection], out: str | Path, *, jobs: int = 1, **options: Unpack[EvaluateOptions]
) -> list[Results]:
    """Evaluate systems on several collections, and report them together.

    Indexes under ``out`` are kept and used again.

    Args:
        collections: the collections to evaluate and report, in this order.
        out: the folder for ``report.html``, ``results.csv``, ``table.tex``, and one folder of results for each
            collection.
        jobs: the number of processes that answer queries; see `sightline.eval.search_pool`.
        options: further options of `evaluate`.

    Returns:
        The results of each collection.

    Raises:
        InputError: if there is no collection, or two have the same name.
        SightlineError: see `evaluate_systems`.
    """
    names = [collection.folder.resolve().name for collection in collections]
    if not names:
        raise InputError("name at least one collection")
    if len(set(names)) < len(names):
        raise InputError(
            f"two collections have the same name, so their results would share a folder: {', '.join(names)}"
        )
    if "measures" in options:
        check_measures(options["measures"])
    for collection in collections:  # before the first takes its hours
        if collection.folder.exists() or ":" not in str(collection.folder):
            collection_files(collection.folder, collection.split)
    out, tell = make_folder(out), options.get("progress") or (lambda step, done: None)
    reported = []
    with search_pool(jobs) as pool:
        for collection, name in zip(collections, names, strict=True):
            dataset = load_dataset(
                collection.folder, collection.split, qrels=collection.qrels, max_queries=collection.max_queries
            )
            named_progress = partial(_tell, tell, name)
            chosen: EvaluateOptions = {**options, "runs": collection.runs, "pool": pool, "progress": named_progress}
            results = evaluate_systems(dataset, collection.systems, out / name, **chosen)
            reported.append(dataclasses.replace(results, runs={}))  # they are in their folder, and large together
    write_report(reported, out)
    return reported


def _tell(tell: Callable[[str, int], None], name: str, step: str, done: int) -> None:
    tell(f"{name}: {step}", done)
