"""Mine hard negatives: what a system ranks high and nobody judged relevant, without what is probably relevant."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..documents import Document
from ..errors import InputError
from ..eval.dataset import Dataset, candidate_texts
from ..eval.experiment import evaluate_systems
from ..eval.reranking import rerank_run, with_positives
from ..eval.runs import first_stage_run
from ..eval.trec import trec_order, write_run
from ..names import SystemName
from ..rerank.base import Reranker
from ..rerank.loading import load_reranker
from ..retrieval.stores import Store, open_store
from .config import Mining
from .examples import Example, text_key

__all__ = ["GIVEN", "MinedCounts", "mine_run", "run_system"]

GIVEN = "given"
"""The first stage whose candidates are those of ``bm25.<split>.tsv`` in the collection's folder."""


@dataclass(slots=True)
class MinedCounts:
    """What became of a collection's questions and candidates.

    Args:
        lists: the number of questions with at least one negative.
        without_positive: the number of questions that were skipped because none of their documents is a positive with a
            text.
        without_score: the number of questions that were skipped because the system found no positive, so that a margin
            has nothing to start from.
        without_negative: the number of questions that were skipped because no candidate was left.
        negatives: the number of negatives that were kept.
        too_high: the number of candidates that the margin left out.
        same_text: the number of candidates left out because a positive or excluded document has the same text.
    """

    lists: int = 0
    without_positive: int = 0
    without_score: int = 0
    without_negative: int = 0
    negatives: int = 0
    too_high: int = 0
    same_text: int = 0


def mine_run(
    dataset: Dataset, run: Mapping[str, Mapping[str, float]], mining: Mining | None = None
) -> tuple[list[Example], MinedCounts]:
    """Mine hard negatives from a run, and use its scores as a teacher's.

    Args:
        dataset: the texts and judgements.
        run: the scores of any system by query id and document id. The positives' own scores should be among them.
        mining: the settings that decide which candidates are taken.

    Returns:
        One example for each question with a negative, positives first by grade as they are judged, negatives hardest
        first; and the counts.

    Raises:
        DataError: if a candidate has no text.
        InputError: if no question is left.
    """
    mining, counts = mining or Mining(), MinedCounts()
    ranked = {id: trec_order(run.get(id, {})) for id in dataset.queries}
    texts = candidate_texts(dataset, ranked, judged=True)
    keys = {id: text_key(document) for id, document in texts.items()}
    examples = []
    for id, query in dataset.queries.items():
        grades = {d: grade for d, grade in dataset.qrels[id].items() if d in texts}
        positives = sorted((d for d, grade in grades.items() if grade >= mining.min_grade), key=lambda d: -grades[d])
        scored = [run[id][document] for document in positives if document in run.get(id, {})]
        if not positives:
            counts.without_positive += 1
            continue
        if not scored and mining.margin is not None:
            counts.without_score += 1
            continue
        ceiling = mining.ceiling(min(scored, default=math.inf))
        known = {keys[document] for document, grade in grades.items() if grade > 0}
        negatives: dict[int, Document] = {}
        for document in ranked[id][mining.skip :]:
            if grades.get(document, 0) > 0 or document == id:
                continue
            if keys[document] in known:
                counts.same_text += 1
            elif run[id][document] >= ceiling:
                counts.too_high += 1
            elif len(negatives) < mining.negatives:
                negatives.setdefault(keys[document], texts[document])
        if not negatives:
            counts.without_negative += 1
            continue
        taken = [*(texts[document] for document in positives), *negatives.values()]
        teacher = {keys[d.id]: run[id][d.id] for d in taken if d.id in run.get(id, {})}
        answers = tuple(texts[document] for document in positives)
        examples.append(Example(query, answers, (tuple(negatives.values()),), teacher, (), dataset.name))
        counts.lists, counts.negatives = counts.lists + 1, counts.negatives + len(negatives)
    if not examples:
        raise InputError(
            f"{dataset.name}, split {dataset.split}: no question is left with a positive and a negative ({counts}); "
            "take more candidates, or a smaller margin"
        )
    return examples, counts


def run_system(
    dataset: Dataset,
    system: str,
    work: str | Path,
    *,
    candidates: int = 100,
    runs: Mapping[str, str | Path] | None = None,
    index: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    command: Sequence[str] | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Find candidates with a system for every judged query, positives included.

    A reranker also reads the positives that its first stage missed, from the texts, so that it scores them. If its
    scores depend on the list, the whole list is ranked again with them. A first stage alone has no score for what it
    missed.

    Args:
        dataset: the collection to search.
        system: the name of a system as `evaluate_systems` takes it, such as ``dense+minilm``. Its first stage may also
            be ``given``, the candidates of ``bm25.<split>.tsv`` in the collection's folder, which keep to its scopes.
        work: the folder for the index and for what `evaluate_systems` writes. An existing index is used again.
        candidates: the number of candidates of each query.
        runs: more first stages: the file of a run by name.
        index: an existing index of the collection. If None, one is built under ``work``.
        settings: the settings of the index under ``work``.
        command: the command line, which is stored with the results.
        progress: a function that is called with the current step and how much of it is done.

    Returns:
        The scores by query id and document id, best first.

    Raises:
        SightlineError: see `evaluate_systems`.
    """
    work, runs = Path(work), dict(runs or {})
    if system.partition("+")[0] == GIVEN and GIVEN not in runs:
        work.mkdir(parents=True, exist_ok=True)
        runs[GIVEN] = work / f"{GIVEN}.trec"
        write_run(runs[GIVEN], first_stage_run(dataset), GIVEN)
    _, reranker = SystemName.parse(system, runs)
    outcome = evaluate_systems(
        dataset,
        [system],
        work,
        candidates=candidates,
        measures=["nDCG@10", f"R@{candidates}"],
        runs=runs,
        index=index,
        settings=settings,
        command=command,
        progress=progress,
    )
    run = next(iter(outcome.runs.values()))
    if reranker is not None:
        searched = work / "index" if index is None else index
        there = index is not None or (work / "index").is_dir()
        with open_store(searched) if there else contextlib.nullcontext() as opened:
            _add_positives(dataset, run, load_reranker(reranker), candidates, opened, progress)
    return run


def _add_positives(
    dataset: Dataset,
    run: dict[str, dict[str, float]],
    reranker: Reranker,
    candidates: int,
    index: Store | None,
    progress: Callable[[str, int], None] | None,
) -> None:
    """Score the positives that a run lacks."""
    # Not by evaluate_systems: it would read all lists anew, for which an index keeps the states.
    lacking = [id for id, grades in dataset.qrels.items() if _positives(id, grades) - run.get(id, {}).keys()]
    queries = {id: dataset.queries[id] for id in lacking}
    some = dataclasses.replace(dataset, queries=queries, qrels={id: dataset.qrels[id] for id in lacking})
    lists = with_positives(some, run, candidates)
    if reranker.list_free:  # what is scored already has the score that it would have beside the positives
        lists = {
            id: {document: score for document, score in scores.items() if document not in run.get(id, {})}
            for id, scores in lists.items()
        }
    lists = {id: scores for id, scores in lists.items() if scores}
    if not lists:
        return
    tell = None if progress is None else partial(progress, "positives")
    again = rerank_run(some, lists, reranker, max(map(len, lists.values())), tell, index)
    for id, scores in again.items():
        together = run.get(id, {}) | scores if reranker.list_free else scores
        run[id] = {document: together[document] for document in trec_order(together)}


def _positives(query: str, grades: Mapping[str, int]) -> set[str]:
    return {document for document, grade in grades.items() if grade > 0 and document != query}
