"""Several collections in one run: every first stage, alone and before every reranker, and one report of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DataError, InputError
from ..parsing import read_yaml
from .dataset import collection_files, load_dataset
from .evaluate import evaluate_systems, search_pool
from .metrics import check_measures
from .output import make_folder
from .report import write_report

__all__ = ["Collection", "evaluate_collections", "load_matrix"]


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection and what is run on it.

    Args:
        folder: in BEIR layout; its name names the results.
        systems: names for `sightline.names.SystemName.parse`.
        split: of the judgements.
        qrels: judgements to use instead.
        runs: given first stages: name to file of a TREC run.
        max_queries: only the first so many.
    """

    folder: Path
    systems: tuple[str, ...]
    split: str = "test"
    qrels: Path | None = None
    runs: Mapping[str, Path] = field(default_factory=dict)
    max_queries: int | None = None


def load_matrix(
    data: str | Path, plan: str | Path, *, only: Sequence[str] = (), max_queries: int | None = None
) -> list[Collection]:
    """Read a plan.

    Args:
        data: the folder that holds the collections.
        plan: a YAML file with ``first_stages``, ``rerankers``, and ``collections``, each with
            ``folder`` and perhaps ``split``, ``qrels``, and ``runs`` (which then are its only first stages).
        only: names of the collections wanted; empty for all.
        max_queries: only the first so many of each.

    Raises:
        DataError: if there is no such folder, or the plan is malformed.
        InputError: if a collection is wanted that the plan does not have.
    """
    plan, data = Path(plan), Path(data)
    if not data.is_dir():
        raise DataError("no such folder; name the one that holds the plan's collections", path=data)
    body = read_yaml(plan)
    if not isinstance(body, dict) or body.keys() != {"first_stages", "rerankers", "collections"}:
        raise DataError("a plan has the fields first_stages, rerankers and collections, no other", path=plan)
    for name in ("first_stages", "rerankers"):
        if not isinstance(body[name], list) or not all(isinstance(item, str) for item in body[name]):
            raise DataError(f"{name} must be a list of names", path=plan)
    if not isinstance(body["collections"], list) or not body["collections"]:
        raise DataError("collections must be a list with something in it", path=plan)
    found: dict[str, Collection] = {}
    for entry in body["collections"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("folder"), str):
            raise DataError(f"a collection needs a folder; this has none: {entry!r}", path=plan)
        if unknown := entry.keys() - {"folder", "split", "qrels", "runs"}:
            raise DataError(f"{entry['folder']}: unknown field {sorted(unknown)[0]!r}", path=plan)
        if entry["folder"] in found:
            raise DataError(f"{entry['folder']} is there twice", path=plan)
        folder, runs = data / entry["folder"], entry.get("runs") or {}
        stages = list(runs) or body["first_stages"]
        found[entry["folder"]] = Collection(
            folder=folder,
            systems=tuple(
                f"{stage}+{reranker}" if reranker else stage
                for reranker in ("", *body["rerankers"])
                for stage in stages
            ),
            split=entry.get("split", "test"),
            qrels=folder / entry["qrels"] if entry.get("qrels") else None,
            runs={name: folder / file for name, file in runs.items()},
            max_queries=max_queries,
        )
    if missing := [name for name in only if name not in found]:
        raise InputError(f"the plan has no collection {missing[0]!r}; it has {', '.join(found)}")
    return [collection for name, collection in found.items() if not only or name in only]


def evaluate_collections(
    collections: Sequence[Collection],
    out: str | Path,
    *,
    jobs: int = 1,
    progress: Callable[[str, int], None] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Evaluate systems on several collections, and report them together.

    Indexes under ``out`` are kept, and used again.

    Args:
        collections: begun in this order, reported in it.
        out: a folder for ``report.html``, ``results.csv``, ``table.tex``, and one folder of results each, by name.
        jobs: processes that answer queries, see `sightline.eval.evaluate.search_pool`.
        progress: called with the current step and how many documents or queries of it are done.
        options: of `evaluate_systems`.

    Returns:
        What their ``results.json`` hold.

    Raises:
        InputError: if there is none, or two have one name.
        SightlineError: see `evaluate_systems`.
    """
    names = [collection.folder.resolve().name for collection in collections]
    if not names:
        raise InputError("name at least one collection")
    if len(set(names)) < len(names):
        raise InputError(f"two collections have one name; their results would share a folder: {', '.join(names)}")
    if "measures" in options:
        check_measures(options["measures"])
    for collection in collections:  # before the first takes its hours
        if collection.folder.exists() or ":" not in str(collection.folder):
            collection_files(collection.folder, collection.split)
    out, tell = make_folder(out), progress or (lambda step, done: None)
    folders, found = [out / name for name in names], []
    with search_pool(jobs) as pool:
        for collection, folder in zip(collections, folders, strict=True):
            dataset = load_dataset(
                collection.folder, collection.split, qrels=collection.qrels, max_queries=collection.max_queries
            )
            told = partial(_tell, tell, folder.name)
            outcome = evaluate_systems(
                dataset, collection.systems, folder, runs=collection.runs, pool=pool, progress=told, **options
            )
            found.append(outcome.summary)
    write_report(folders, out)
    return found


def _tell(tell: Callable[[str, int], None], name: str, step: str, done: int) -> None:
    tell(f"{name}: {step}", done)
