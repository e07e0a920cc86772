"""The recipe of a late-interaction checkpoint with small token states: a linear head over those of the default model.

    python -m sightline.recipes.late_interaction_mini OUT --data path/to/collections --work results/states

The encoder stays as it is. Each collection is indexed with half-precision token states (an index of
`sightline.recipes.states` in the same folder is used again), so that training is a few products of matrices per list.
A head of 64 x 384 numbers starts from the principal components of the states, and learns to rank the best passages of
``hybrid`` for questions of train splits: by the contrastive loss over a list (van den Oord et al., 2018), and by the
divergence from the default's own scores (Hinton et al., 2015). The score that learns is that of the layout ``minilm``
on projected states.

OUT is a checkpoint that ``late-interaction:OUT`` and sentence-transformers' ``MultiVectorEncoder`` load. The table that
is printed compares forms of its states with forms of the default's, with principal components and with random
directions, on the dev collections of `sightline.recipes.states`.

The default's states in ``pq48`` rank better in fewer bytes (docs/results/history.md), so no such checkpoint ships.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table
from torch import nn

from ..benchmarks.timing import command_line
from ..cli.console import console, print_table
from ..eval.dataset import Dataset
from ..eval.loading import load_dataset
from ..eval.metrics import measure_rankings
from ..eval.output import make_folder
from ..eval.tuning import document_order
from ..kernels import Keys
from ..models.loading import load_reader
from ..models.minilm import find_minilm
from ..models.reader import BlockReader
from ..rerank.layout import FusionWeights, load_layout
from ..rerank.signals import fused_scores, read_signals
from ..retrieval.index import Index
from ..retrieval.token_states import SPANS, states_form
from ..search import CandidateList, Searcher
from ..training.loss import contrastive_loss, distillation_loss
from .states import first_states, open_states

__all__ = [
    "DEV",
    "LICENCES",
    "Head",
    "Row",
    "TrainedList",
    "document_scores",
    "measure_rows",
    "rows_of",
    "save_checkpoint",
    "study",
    "train_head",
    "training_lists",
]

LICENCES = {
    "nq_train": "CC BY-SA 3.0",
    "squad_train_sub": "CC BY-SA 4.0",
    "pubmedqa": "MIT",
    "stackexchange_small": "CC BY-SA 3.0",
}
"""The collections whose train splits are learnt from."""
DEV = {
    "cacm": "test",
    "cisi": "test",
    "med": "test",
    "time": "test",
    "checkthat2020": "dev",
    "mlquestions": "dev",
    "nq_train": "dev",
}
"""The collections that are measured on, and their splits."""
_MEASURE = "nDCG@10"
_EVERY_SIGNAL = FusionWeights(log_mass=1.0, maxsim=1.0, cosine=1.0, bm25=1.0)


class Head(nn.Module):
    """A linear map of token states to fewer dimensions, and to unit length again.

    Args:
        weight: float32 (dim, D), where it starts.

    Example:
        >>> Head(torch.eye(3)[:2])(torch.tensor([[3.0, 4.0, 5.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Project states (T, D) to unit rows (T, dim)."""
        return nn.functional.normalize(states @ self.weight.T, dim=-1)

    @classmethod
    def of_components(cls, states: np.ndarray, dim: int) -> Head:
        """The principal components of states (T, D), not centred."""
        _, axes = np.linalg.eigh(states.T @ states)
        return cls(torch.from_numpy(axes[:, -dim:].T.astype(np.float32)))

    @classmethod
    def of_chance(cls, size: int, dim: int, seed: int = 0) -> Head:
        """Random orthogonal directions."""
        draw = torch.Generator().manual_seed(seed)
        return cls(torch.linalg.qr(torch.randn(size, dim, generator=draw))[0].T)


@dataclass(frozen=True, slots=True)
class TrainedList:
    """The candidates of a question, N documents in P passages.

    Args:
        query: float32 (S, D), the question's token states.
        keys: the token states of each passage, float16 (T, D).
        bm25: BM25 score of each passage.
        owners: int64 (P,), the document of each passage.
        positive: bool (N,), which documents answer.
        teacher: float64 (N,), what the default scores them.
    """

    query: torch.Tensor
    keys: tuple[torch.Tensor, ...]
    bm25: tuple[float, ...]
    owners: torch.Tensor
    positive: torch.Tensor
    teacher: torch.Tensor


def training_lists(
    dataset: Dataset, index: Index, *, candidates: int = 16, weights: FusionWeights, scale: float
) -> Iterator[TrainedList]:
    """The candidates of ``hybrid`` for each question that has both an answer and something else among them.

    Args:
        dataset: a train split.
        index: its index, with token states of the default model.
        candidates: candidates per question.
        weights: of the default's readout, which teaches.
        scale: of the default's readout.
    """
    searcher = Searcher(index, "minilm", candidates=candidates)
    for (id, text), found in zip(dataset.queries.items(), _candidates(searcher, dataset), strict=True):
        grades = dataset.qrels[id]
        positive = torch.tensor([grades.get(document, 0) > 0 for document in found.ids])
        if not positive.any() or positive.all():
            continue
        [read] = _reader(searcher).read_queries([text])
        assert read.states is not None and found.bm25 is not None
        query, keys = torch.from_numpy(read.states), tuple(_floats(found))
        places = {document: place for place, document in enumerate(found.ids)}
        owners = torch.tensor([places[passage.document.id] for passage in found.passages])
        with torch.no_grad():
            _, signals = read_signals(query, [key.float() for key in keys], found.bm25, weights, scale=scale)
            teacher = _of_documents(fused_scores(signals, weights), owners, len(places))
        yield TrainedList(query, keys, found.bm25, owners, positive, teacher)


def _candidates(searcher: Searcher, dataset: Dataset, at_once: int = 64) -> Iterator[CandidateList]:
    texts = list(dataset.queries.values())
    for start in range(0, len(texts), at_once):
        yield from searcher.candidates(texts[start : start + at_once])


def _reader(searcher: Searcher) -> BlockReader:
    assert searcher.reranker is not None and searcher.reranker.reader is not None
    return searcher.reranker.reader


def _floats(found: CandidateList) -> Iterator[torch.Tensor]:
    """The kept states of each passage, as they are: a view of the index's file."""
    for states in found.states or ():
        assert states is not None and isinstance(states.keys, torch.Tensor)
        yield states.keys


def _of_documents(scores: torch.Tensor, owners: torch.Tensor, count: int) -> torch.Tensor:
    """The best passage of each document."""
    return scores.new_full((count,), -math.inf).scatter_reduce(0, owners, scores, "amax")


def train_head(
    head: Head,
    lists: Sequence[TrainedList],
    *,
    weights: FusionWeights,
    scale: float,
    epochs: float = 1.0,
    batch: int = 8,
    learning_rate: float = 1e-3,
    distillation: float = 1.0,
    seed: int = 0,
) -> list[float]:
    """Train a head in place, by AdamW (Loshchilov and Hutter, 2019) along half a cosine.

    Args:
        head: what learns.
        lists: what it learns from.
        weights: of the signals, in the score that learns.
        scale: the factor on cosines.
        epochs: how often each list is seen.
        batch: lists per step.
        learning_rate: the first one.
        distillation: the weight of the divergence from the teacher, beside the contrastive loss's 1.
        seed: of the order of lists.

    Returns:
        The loss of each step.
    """
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(lists)) for _ in range(math.ceil(epochs))])
    order = order[: max(batch, round(epochs * len(lists)))]
    steps = math.ceil(len(order) / batch)
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for step in range(steps):
        chosen = [lists[place] for place in order[step * batch : (step + 1) * batch]]
        total = 0.0
        for one in chosen:
            loss = _loss(head, one, weights, scale, distillation) / len(chosen)
            loss.backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def document_scores(head: Head, one: TrainedList, weights: FusionWeights, scale: float) -> torch.Tensor:
    """The fused scores of a list's documents by projected states: float64 (N,)."""
    keys = head(torch.cat(one.keys).float()).split([len(key) for key in one.keys])
    _, signals = read_signals(head(one.query), keys, one.bm25, weights, scale=scale)
    return _of_documents(fused_scores(signals, weights), one.owners, len(one.positive))


def _loss(head: Head, one: TrainedList, weights: FusionWeights, scale: float, distillation: float) -> torch.Tensor:
    scores = document_scores(head, one, weights, scale)
    loss = contrastive_loss(scores, one.positive, 1.0)
    return loss + distillation * distillation_loss(scores, one.teacher, 1.0)


def save_checkpoint(head: Head, folder: Path) -> None:
    """Write the default model with a head as a late-interaction model, as sentence-transformers saves one.

    Special tokens have no vector, on neither side, as with ``minilm``.

    Args:
        head: of 384 columns.
        folder: where to; it is made.
    """
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Transformer

    dim, size = head.weight.shape
    tokens: dict[str, Any] = {"module_input_name": "token_embeddings"}
    transformer = Transformer(str(find_minilm()), max_seq_length=load_reader().max_length)
    dense = Dense(
        size, dim, bias=False, activation_function=nn.Identity(), init_weight=head.weight.detach().clone(), **tokens
    )
    mask = MultiVectorMask(skiplist_words=["[CLS]", "[SEP]"], skiplist_tasks=["query", "document"])
    modules: list[nn.Module] = [transformer, dense, mask, Normalize(**tokens)]
    MultiVectorEncoder(modules=modules, device="cpu").save_pretrained(str(folder))


# -- on dev ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a head, or None for the default's own states, and the form in which states are kept."""

    name: str
    head: Head | None
    form: str

    @property
    def dim(self) -> int:
        """The dimensions of its states."""
        return 384 if self.head is None else len(self.head.weight)

    def project(self, states: torch.Tensor) -> torch.Tensor:
        """States (T, D) as they are before they are kept."""
        with torch.no_grad():
            return states if self.head is None else self.head(states)


def measure_rows(
    dataset: Dataset, index: Index, rows: Sequence[Row], *, candidates: int = 60
) -> dict[str, dict[str, float]]:
    """nDCG@10 of each row by the readout of ``minilm`` (``fused``) and by MaxSim, and its bytes per passage.

    Args:
        dataset: a dev split.
        index: its index, with token states of the default model.
        rows: what to measure.
        candidates: candidates of ``hybrid`` per query.
    """
    spec = load_layout("minilm").readout
    assert spec.weights is not None
    searcher = Searcher(index, "minilm", candidates=candidates)
    keepers = [_Keeper(row, index) for row in rows]
    rankings: dict[tuple[str, str], dict[str, list[str]]] = {}
    for (id, text), found in zip(dataset.queries.items(), _candidates(searcher, dataset), strict=True):
        [read] = _reader(searcher).read_queries([text])
        assert read.states is not None and found.bm25 is not None
        query, states = torch.from_numpy(read.states), [key.float() for key in _floats(found)]
        for row, keeper in zip(rows, keepers, strict=True):
            keys = keeper.keep(states)
            with torch.inference_mode():
                _, signals = read_signals(row.project(query), keys, found.bm25, _EVERY_SIGNAL, scale=spec.scale)
            for readout, scores in (("fused", fused_scores(signals, spec.weights)), ("MaxSim", signals.maxsim)):
                ranked = document_order(found, scores.numpy())
                rankings.setdefault((row.name, readout), {})[id] = ranked
    whole = states_form("fp16", _reader(searcher).dim).dtype.itemsize
    tokens = (index.path / "states.fp16").stat().st_size / whole / index.counts()["passages"]
    measured = {key: measure_rankings(dataset.qrels, ranked, [_MEASURE])[0] for key, ranked in rankings.items()}
    return {
        row.name: {readout: measured[row.name, readout][_MEASURE] for readout in ("fused", "MaxSim")}
        | {"bytes": keeper.size * tokens}
        for row, keeper in zip(rows, keepers, strict=True)
    }


class _Keeper:
    """Keeps the states of a row in its form, as an index of this form would."""

    def __init__(self, row: Row, index: Index) -> None:
        self._row, self._form = row, states_form(row.form, row.dim)
        self._table: np.ndarray | None = None
        if self._form.codes is not None:
            self._table = self._form.learn(row.project(torch.from_numpy(first_states(index))).numpy())
        self.size = self._form.dtype.itemsize + SPANS.itemsize

    def keep(self, states: Sequence[torch.Tensor]) -> list[Keys]:
        ends = np.cumsum([len(state) for state in states])
        rows = self._form.encode(self._row.project(torch.cat(list(states))).numpy(), self._table)
        return self._form.decode(rows, zip([0, *ends[:-1]], ends, strict=True), self._table)


def rows_of(heads: Mapping[str, Head]) -> list[Row]:
    """The rows of the table: the default's states, then forms of each head's, more of the trained one."""
    rows = [Row("384 dimensions, fp16", None, "fp16")]
    for name, head in heads.items():
        dim = len(head.weight)
        forms = ["int8"]
        if name == "trained":
            forms += ["int4", f"pq{dim // 4}"]
        rows += [Row(f"{dim} dimensions, {name}, {form}", head, form) for form in forms]
    return rows


def study(
    out: Annotated[Path, typer.Argument(help="Folder for the checkpoint.")],
    data: Annotated[Path, typer.Option(help="Folder of the collections.")],
    work: Annotated[Path, typer.Option(help="Folder for the indexes, one folder each, which are used again.")],
    dim: Annotated[int, typer.Option(help="Dimensions of the trained token states.")] = 64,
    questions: Annotated[int, typer.Option(help="Questions of each train split, the first ones.")] = 500,
    epochs: Annotated[float, typer.Option(help="How often each question is learnt from.")] = 1.0,
    distillation: Annotated[float, typer.Option(help="Weight of the divergence from the default's scores.")] = 1.0,
    queries: Annotated[int, typer.Option(help="Queries per dev collection, the first ones.")] = 40,
    candidates: Annotated[int, typer.Option(help="Candidates of hybrid per dev query.")] = 60,
    figures: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Train a head, save the checkpoint, and print what it and other ways to small states are worth on dev."""
    console.print(command_line(), markup=False, highlight=False, soft_wrap=True)
    spec, started = load_layout("minilm").readout, time.process_time()
    assert spec.weights is not None
    lists: list[TrainedList] = []
    first = []
    indexes = [open_states(_train(data, name, questions), work / name) for name in LICENCES]
    for name, index in zip(LICENCES, indexes, strict=True):
        lists += training_lists(_train(data, name, questions), index, weights=spec.weights, scale=spec.scale)
        first.append(first_states(index))
    sample = np.concatenate(first)
    heads = {
        "principal components": Head.of_components(sample, dim),
        "random directions": Head.of_chance(sample.shape[1], dim),
        "trained": Head.of_components(sample, dim),
    }
    losses = train_head(
        heads["trained"], lists, weights=spec.weights, scale=spec.scale, epochs=epochs, distillation=distillation
    )
    for index in indexes:
        index.close()
    save_checkpoint(heads["trained"], make_folder(out))
    tenth = max(1, len(losses) // 10)
    console.print(
        f"{len(lists):,} lists, {len(losses)} steps, {time.process_time() - started:.0f} s of CPU time; loss "
        f"{np.mean(losses[:tenth]):.3f} in the first tenth, {np.mean(losses[-tenth:]):.3f} in the last"
    )
    rows, measured = rows_of(heads), {}
    for name, split in DEV.items():
        dataset = load_dataset(data / name, split, max_queries=queries)
        with open_states(dataset, work / name) as index:
            measured[name] = measure_rows(dataset, index, rows, candidates=candidates)
    table = Table("token states", "readout", "bytes per passage", *measured, "mean", "worst loss")
    summary = {}
    for row in rows:
        for readout in ("fused", "MaxSim"):
            values = [of_rows[row.name][readout] for of_rows in measured.values()]
            whole = [of_rows[rows[0].name]["fused"] for of_rows in measured.values()]
            size = float(np.mean([of_rows[row.name]["bytes"] for of_rows in measured.values()]))
            mean, loss = float(np.mean(values)), float(np.max(np.subtract(whole, values)))
            summary[f"{row.name}, {readout}"] = {"bytes per passage": size, "mean": mean, "largest loss": loss}
            cells = (*(f"{value:.3f}" for value in values), f"{mean:.4f}", f"{loss:.4f}")
            table.add_row(row.name, readout, f"{size:,.0f}", *cells)
    if figures is not None:
        figures.write_text(json.dumps(summary, indent=2))
    print_table(table)


def _train(data: Path, name: str, questions: int) -> Dataset:
    return load_dataset(data / name, "train", max_queries=questions)


if __name__ == "__main__":
    typer.run(study)
