"""Block readers side by side: nDCG, bytes per passage and milliseconds of each, on the same candidates.

    python -m sightline.recipes.readers data/scifact:test data/nq_litm:test --work results/readers --system minilm@int8
        --system encoder:sentence-transformers/all-mpnet-base-v2#minilm@int8

A system is a reranker that reads token states, and the form in which an index keeps them. Candidates are those of
``hybrid``, cut into passages for ``minilm``, so that every reader reads the same texts; those that the index has no
states of are read once, whatever the number of systems with that reader.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table

from ..benchmarks.timing import command_line
from ..cli.console import console, print_table
from ..errors import InputError
from ..eval.dataset import Dataset
from ..eval.loading import load_dataset
from ..eval.metrics import measure_rankings
from ..eval.significance import interval
from ..kernels import Keys
from ..kernels.states.keys import to_float
from ..models.network_reader import NetworkReader
from ..models.reader import DocumentStates, document_states
from ..names import READERS, RerankerName
from ..rerank.late_interaction import LateInteractionReranker
from ..rerank.loading import load_reranker
from ..retrieval.token_states import SPANS, states_form
from ..retrieval.writing import BATCH_PASSAGES
from ..search import CandidateList, Searcher
from ..search.candidates import identity
from .states import open_states

__all__ = ["ReaderSystem", "compare_readers", "study"]

_MEASURE = "nDCG@10"
_AT_ONCE = 128  # texts; bounds the float32 states in memory


@dataclass(frozen=True, slots=True)
class ReaderSystem:
    """A reranker by token states, and the form in which they are kept.

    Args:
        reranker: a name for `load_reranker`.
        form: a name for `sightline.retrieval.token_states.states_form`.

    Example:
        >>> ReaderSystem.parse("late-interaction:models/mine#minilm@pq16")
        ReaderSystem(reranker='late-interaction:models/mine#minilm', form='pq16')
    """

    reranker: str
    form: str

    @classmethod
    def parse(cls, text: str) -> ReaderSystem:
        """``RERANKER@FORM``.

        Raises:
            InputError: if either is missing.
        """
        reranker, _, form = text.rpartition("@")
        if not reranker or not form:
            raise InputError(f"a system is RERANKER@FORM, such as minilm@int8, not {text!r}")
        return cls(reranker, form)

    def __str__(self) -> str:
        return f"{self.reranker}@{self.form}"


def compare_readers(
    dataset: Dataset, work: Path, systems: Sequence[ReaderSystem], *, candidates: int = 100, dtype: str = "float32"
) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure each system on one collection; those that share a reader share what it reads.

    Args:
        dataset: the collection.
        work: a folder for its index, which is used again.
        systems: what to measure.
        candidates: candidates of ``hybrid`` per query.
        dtype: the number format in which texts are read.

    Yields:
        ``hybrid`` and each system by name, with ``mean``, ``low`` and ``high`` of nDCG@10 (95 % bootstrap interval);
        systems also with ``bytes``, of the token states of a mean candidate with their places in the text, and ``ms``,
        the median milliseconds of CPU time to read a query and rank its candidates, whose states are kept.

    Raises:
        InputError: if a reranker reads no token states.
    """
    rerankers = {system: _load(system, dtype) for system in systems}
    readers = {system: _reader(reranker) for system, reranker in rerankers.items()}
    sharing: dict[tuple[str, int] | None, list[ReaderSystem]] = {}
    for system, reader in readers.items():
        sharing.setdefault(identity(reader), []).append(system)
    with open_states(dataset, work) as index:
        searcher = Searcher(index, "minilm", candidates=candidates)
        found = dict(zip(dataset.queries, searcher.candidates(list(dataset.queries.values())), strict=True))
        yield "hybrid", _quality(dataset, {id: one.ids for id, one in found.items()})
        for group in sharing.values():
            reader = readers[group[0]]
            states = _read(reader, list(found.values()))
            tokens = statistics.fmean(len(kept) for kept, _ in states.values())
            for system in group:
                keys, size = _kept(system.form, states)
                rankings, seconds = {}, []
                for id, one in found.items():
                    ready = one.with_states(reader, [keys[block.contents] for block in one.blocks])
                    readers[system].forget_queries()
                    started = time.thread_time()
                    ranked = searcher.rank(ready, rerankers[system], 10)
                    seconds.append(time.thread_time() - started)
                    rankings[id] = [hit.document.id for hit in ranked.hits]
                costs = {"bytes": tokens * size, "ms": statistics.median(seconds) * 1e3}
                yield str(system), _quality(dataset, rankings) | costs


def _load(system: ReaderSystem, dtype: str) -> LateInteractionReranker:
    if RerankerName.parse(system.reranker).kind not in ("layout", "folder", *READERS):
        raise InputError(f"{system.reranker!r} reads no token states; name a block reader, as minilm or encoder:MODEL")
    reranker = load_reranker(system.reranker, dtype=dtype)
    assert isinstance(reranker, LateInteractionReranker)
    return reranker


def _reader(reranker: LateInteractionReranker) -> NetworkReader:
    assert isinstance(reranker.reader, NetworkReader)
    return reranker.reader


def _quality(dataset: Dataset, rankings: Mapping[str, Sequence[str]]) -> dict[str, float]:
    values = measure_rankings(dataset.qrels, {id: list(ids) for id, ids in rankings.items()}, [_MEASURE])[1]
    return asdict(interval([value[_MEASURE] for value in values.values()]))


def _read(reader: NetworkReader, lists: Sequence[CandidateList]) -> dict[str, tuple[np.ndarray, int]]:
    """The float16 token states of every distinct text, and how many of its tokens were not read."""
    known: dict[str, tuple[np.ndarray, int]] = {}
    new: dict[str, None] = {}
    for one in lists:
        kept = one.states if one.reader == identity(reader) else None
        for block, states in zip(one.blocks, kept or [None] * len(one.passages), strict=True):
            if states is None:
                new[block.contents] = None
            elif block.contents not in known:
                known[block.contents] = to_float(states.keys).numpy().astype(np.float16), states.truncated
    texts = [text for text in new if text not in known]
    for start in range(0, len(texts), _AT_ONCE):
        some = texts[start : start + _AT_ONCE]
        for text, read in zip(some, document_states(reader, some), strict=True):
            known[text] = to_float(read.keys).numpy().astype(np.float16), read.truncated
    return known


def _kept(kind: str, states: Mapping[str, tuple[np.ndarray, int]]) -> tuple[dict[str, DocumentStates], int]:
    """The states as an index of this form would give them back, and bytes per token."""
    values = [kept for kept, _ in states.values()]
    form = states_form(kind, values[0].shape[1])
    first = np.concatenate(values[:BATCH_PASSAGES]).astype(np.float32)
    table = None if form.codes is None else form.learn(first)

    def again(kept: np.ndarray) -> Keys:
        return form.decode(form.encode(kept.astype(np.float32), table), [(0, len(kept))], table)[0]

    decoded = {text: DocumentStates(again(kept), cut) for text, (kept, cut) in states.items()}
    return decoded, form.dtype.itemsize + SPANS.itemsize


def study(
    collections: Annotated[list[str], typer.Argument(help="FOLDER:SPLIT.")],
    work: Annotated[Path, typer.Option(help="Folder for the indexes, one folder each, which are used again.")],
    system: Annotated[list[str], typer.Option(help="RERANKER@FORM, such as minilm@int8. You may give several.")],
    queries: Annotated[int, typer.Option(help="Queries per collection, the first ones.")] = 100,
    candidates: Annotated[int, typer.Option(help="Candidates of hybrid per query.")] = 100,
    dtype: Annotated[str, typer.Option(help="Number format in which texts are read.")] = "float32",
    out: Annotated[
        Path | None, typer.Option(help="JSON file for the figures; systems that it has already are left out.")
    ] = None,
) -> None:
    """Print nDCG@10 with its 95 % interval, bytes per passage and milliseconds per query of each system."""
    console.print(command_line(), markup=False, highlight=False, soft_wrap=True)
    torch.set_num_threads(1)
    settings = {"queries": queries, "candidates": candidates, "dtype": dtype}
    figures: dict[str, Any] = {"settings": settings, "collections": {}}
    if out is not None and out.exists():
        figures = json.loads(out.read_text())
        if figures["settings"] != settings:
            raise InputError(f"{out} has figures of other settings, {figures['settings']}; name another file")
    for collection in collections:
        folder, _, split = collection.rpartition(":")
        dataset = load_dataset(folder, split, max_queries=queries)
        rows = figures["collections"].setdefault(dataset.name, {})
        missing = [parsed for parsed in map(ReaderSystem.parse, system) if str(parsed) not in rows]
        for name, row in compare_readers(dataset, work / dataset.name, missing, candidates=candidates, dtype=dtype):
            rows[name] = row
            if out is not None:
                out.write_text(json.dumps(figures, indent=2))
    names = list(figures["collections"])
    table = Table("system", *(f"{name}, {what}" for name in names for what in (_MEASURE, "bytes", "ms")))
    for name in dict.fromkeys(name for rows in figures["collections"].values() for name in rows):
        table.add_row(name, *(cell for rows in figures["collections"].values() for cell in _cells(rows.get(name))))
    print_table(table)


def _cells(row: Mapping[str, float] | None) -> list[str]:
    if row is None:
        return [""] * 3
    quality = f"{row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    return [quality, *((f"{row['bytes']:,.0f}", f"{row['ms']:.1f}") if "bytes" in row else ("", ""))]


if __name__ == "__main__":
    typer.run(study)
