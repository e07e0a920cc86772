"""Systems on a judged collection: what they are, and what they find."""

from __future__ import annotations

import functools
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from ..errors import InputError
from ..names import SystemName
from ..rerank.base import Reranker
from ..rerank.loading import load_reranker, reader_options
from ..retrieval.stores import Store, open_store
from ..search import CandidateList, FirstStage, Searcher, SearchResult
from .candidates import known_queries
from .dataset import Dataset
from .provenance import portable_name
from .reranking import rerank_run_each, with_positives
from .results import Run, file_label
from .runs import load_run
from .trec import trec_order

__all__ = ["Answers", "GivenRun", "Plan", "System", "answer_systems", "plan_systems"]

logger = logging.getLogger(__name__)

GivenRun = Mapping[str, Mapping[str, float]]
"""Score by query id and document id."""

System = str | Searcher | GivenRun | Callable[[str], Mapping[str, float]]
"""A name for `sightline.names.SystemName.parse`, a searcher with an index of its own, a run, or a function that gives
scores by document id for the text of a query."""

_Answer = tuple[dict[str, float], float]  # scores by document id, and milliseconds
_QUERIES_AT_ONCE = 32  # searched together


class Answers(NamedTuple):
    """What a system found, and the milliseconds that all of it took."""

    run: Run
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Which systems are run.

    Args:
        systems: the systems by their names in the results: a first stage and maybe a reranker, a searcher or a
            function.
        given: the given runs by name, which can take the place of a first stage.
        rerankers: the rerankers by name.
        backend: the library that computes the encoder and the rerankers that read token states; None for torch.
    """

    systems: dict[str, SystemName | Searcher | Callable[[str], Mapping[str, float]]]
    given: dict[str, GivenRun]
    rerankers: dict[str, Reranker]
    backend: str | None = None

    @property
    def named(self) -> dict[str, SystemName]:
        """The systems that are a first stage and perhaps a reranker."""
        return {name: system for name, system in self.systems.items() if isinstance(system, SystemName)}

    @property
    def searching(self) -> dict[str, SystemName]:
        """The named systems whose first stage searches the index of the collection."""
        return {name: system for name, system in self.named.items() if system.first not in self.given}


def plan_systems(
    systems: Sequence[str] | Mapping[str, System],
    runs: Mapping[str, str | Path | GivenRun],
    split: str,
    backend: str | None = None,
) -> Plan:
    """Check systems, and load their rerankers and given runs.

    Args:
        systems: names, or systems by the name that they get in the results.
        runs: given first stages: name to a run or to its file.
        split: the split of the judgements, which names the part to read of a file with several runs.
        backend: the library that computes the rerankers that read token states; None for torch.

    Raises:
        InputError: if there is none, one cannot be used, or two would have one name in the results.
        SightlineError: see `load_reranker` and `load_run`.
    """
    entries = systems if isinstance(systems, Mapping) else {name: name for name in systems}
    if not entries:
        raise InputError("name at least one system")
    given = {**runs, **{name: system for name, system in entries.items() if isinstance(system, Mapping)}}
    planned: dict[str, SystemName | Searcher | Callable[[str], Mapping[str, float]]] = {}
    for name, system in entries.items():
        shown = portable_name(name)
        if file_label(shown) in map(file_label, planned):
            raise InputError(
                f"two systems would both be called {file_label(shown)!r} in the results; rename a layout's file"
            )
        planned[shown] = _planned(name, system, given)
    seconds = {system.reranker for system in planned.values() if isinstance(system, SystemName) and system.reranker}
    rerankers = {name: load_reranker(name, **reader_options(name, backend)) for name in sorted(seconds)}
    loaded = {name: run if isinstance(run, Mapping) else load_run(run, split) for name, run in given.items()}
    return Plan(planned, loaded, rerankers, backend)


def _planned(
    name: str, system: System, given: Mapping[str, object]
) -> SystemName | Searcher | Callable[[str], Mapping[str, float]]:
    if isinstance(system, Mapping):
        return SystemName(name)
    if isinstance(system, Searcher) or callable(system):
        return system
    return SystemName.parse(system, given)


def answer_systems(
    plan: Plan,
    dataset: Dataset,
    index: Store | None,
    *,
    candidates: int,
    add_positives: bool,
    pool: Executor | None,
    progress: Callable[[str, int], None],
) -> dict[str, Answers]:
    """Run every system over all judged queries.

    Systems that share a first stage share its candidates, and what is read of them.

    Args:
        plan: the systems to run.
        dataset: the queries and texts.
        index: the index of the collection, by whose word statistics given runs are reranked, too; None if no system
            searches it.
        candidates: the number of candidates that a first stage hands on.
        add_positives: let rerankers also read the relevant documents that the first stage did not find.
        pool: the processes among which queries are shared out; None to answer all here.
        progress: a function that is called with the current step and the number of its queries that are done.

    Returns:
        The answers by the system's name.
    """
    answers: dict[str, Answers] = {}
    searching = plan.searching
    if index is not None and searching:
        direct = {name: SystemName(s.first, None if add_positives else s.reranker) for name, s in searching.items()}
        answers |= _from_index(dataset, index, direct, plan.rerankers, candidates, progress, pool, plan.backend)
    first_runs = {system.first: answers[name].run for name, system in searching.items()} if add_positives else {}
    for first, run in (plan.given | first_runs).items():
        chosen = {
            name: plan.rerankers[system.reranker] if system.reranker else None
            for name, system in plan.named.items()
            if system.first == first and (system.reranker or first in plan.given)
        }
        answers |= _from_run(dataset, run, chosen, candidates, add_positives, partial(progress, first), index)
    for name, system in plan.systems.items():
        if not isinstance(system, SystemName):
            answers[name] = _from_callable(dataset, system, candidates, partial(progress, name))
    return answers


def _from_run(
    dataset: Dataset,
    run: GivenRun,
    systems: Mapping[str, Reranker | None],
    candidates: int,
    add_positives: bool,
    progress: Callable[[int], None],
    index: Store | None,
) -> dict[str, Answers]:
    chosen = {name: reranker for name, reranker in systems.items() if reranker is not None}
    answers: dict[str, Answers] = {}
    if len(chosen) < len(systems):
        best = {id: trec_order(run[id])[:candidates] for id in known_queries(dataset, run)}
        if missing := len(dataset.queries) - len(best):
            logger.warning("a given run lacks %d of %d judged queries; they count as 0", missing, len(dataset.queries))
        cut = {id: {document: run[id][document] for document in documents} for id, documents in best.items()}
        answers = dict.fromkeys(systems.keys() - chosen.keys(), Answers(cut, 0.0))
    if chosen:
        if add_positives:
            run = with_positives(dataset, run, candidates)
            candidates = max(map(len, run.values()), default=candidates)
        reranked = rerank_run_each(dataset, run, list(chosen.values()), candidates, progress, index)
        answers |= zip(chosen, (Answers(*answer) for answer in reranked), strict=True)
    return answers


def _from_index(
    dataset: Dataset,
    index: Store,
    systems: Mapping[str, SystemName],
    rerankers: Mapping[str, Reranker],
    candidates: int,
    progress: Callable[[str, int], None],
    pool: Executor | None,
    backend: str | None,
) -> dict[str, Answers]:
    parts = list(_parts(dataset))
    texts = [[dataset.queries[id] for id in part] for part in parts]
    plans = tuple(systems.values())
    if pool is None:
        answer = partial(_answer, Searcher(index, None, candidates=candidates), _ready(plans, rerankers))
        answered: Iterable[list[list[_Answer]]] = map(answer, texts)
    else:
        answered = pool.map(partial(_answer_elsewhere, str(index.path), plans, candidates, backend), texts)
    runs: dict[str, Run] = {name: {} for name in systems}
    spent: dict[str, float] = defaultdict(float)
    done = 0
    for part, answered_part in zip(parts, answered, strict=True):
        for id, answers in zip(part, answered_part, strict=True):
            for name, (scores, milliseconds) in zip(systems, answers, strict=True):
                runs[name][id] = scores
                spent[name] += milliseconds
        done += len(part)
        progress("searching", done)
    return {name: Answers(run, spent[name]) for name, run in runs.items()}


def _from_callable(
    dataset: Dataset,
    system: Searcher | Callable[[str], Mapping[str, float]],
    candidates: int,
    progress: Callable[[int], None],
) -> Answers:
    run: Run = {}
    spent = 0.0
    for part in _parts(dataset):
        texts = [dataset.queries[id] for id in part]
        if isinstance(system, Searcher):
            answered = list(map(_scored, system.search_batch(texts, k=candidates)))
        else:
            answered = [_called(system, text, candidates) for text in texts]
        for id, (scores, milliseconds) in zip(part, answered, strict=True):
            run[id] = scores
            spent += milliseconds
        progress(len(run))
    return Answers(run, spent)


def _called(system: Callable[[str], Mapping[str, float]], text: str, candidates: int) -> _Answer:
    started = time.perf_counter()
    scores = system(text)
    milliseconds = (time.perf_counter() - started) * 1e3
    return dict(sorted(scores.items(), key=lambda item: -item[1])[:candidates]), milliseconds


def _parts(dataset: Dataset) -> Iterator[list[str]]:
    """The ids of the queries, some at once."""
    ids = list(dataset.queries)
    for start in range(0, len(ids), _QUERIES_AT_ONCE):
        yield ids[start : start + _QUERIES_AT_ONCE]


def _ready(plans: Sequence[SystemName], rerankers: Mapping[str, Reranker]) -> list[tuple[FirstStage, Reranker | None]]:
    return [(cast(FirstStage, first), rerankers[second] if second else None) for first, second in plans]


def _answer(
    searcher: Searcher, systems: Sequence[tuple[FirstStage, Reranker | None]], texts: Sequence[str]
) -> list[list[_Answer]]:
    """Each system's answer to each text."""
    stages = dict.fromkeys(stage for stage, _ in systems)
    candidate_lists = searcher.candidates_each(texts, stages, [reranker for _, reranker in systems])
    return [[_ranked(searcher, lists[stage], reranker) for stage, reranker in systems] for lists in candidate_lists]


def _ranked(searcher: Searcher, candidates: CandidateList, reranker: Reranker | None) -> _Answer:
    return _scored(searcher.rank(candidates, reranker, max(1, len(candidates.first))))


def _scored(result: SearchResult) -> _Answer:
    return {hit.id: hit.score for hit in result.hits}, sum(result.milliseconds.values())


def _answer_elsewhere(
    path: str, plans: tuple[SystemName, ...], candidates: int, backend: str | None, texts: Sequence[str]
) -> list[list[_Answer]]:
    """`_answer` in a process of the pool."""
    return _answer(*_opened(path, plans, candidates, backend), texts)


@functools.lru_cache(maxsize=1)
def _opened(
    path: str, plans: tuple[SystemName, ...], candidates: int, backend: str | None
) -> tuple[Searcher, list[tuple[FirstStage, Reranker | None]]]:
    # The process that shares out the queries has checked the index.
    rerankers = {second: load_reranker(second, **reader_options(second, backend)) for _, second in plans if second}
    opened = open_store(path, backend=backend, verify=False)
    return Searcher(opened, None, candidates=candidates), _ready(plans, rerankers)
