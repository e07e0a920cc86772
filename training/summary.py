"""What a run of training leaves behind as ``training.json``: settings, losses, and figures on dev."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..eval.provenance import DatasetHashes
from ..eval.significance import Interval
from ..files import replace_file
from ..parsing import as_type, load_json

__all__ = ["DataRow", "Gain", "Measurement", "OriginRecord", "TrainingSummary"]

_NAME = "training.json"


@dataclass(frozen=True, slots=True)
class DataRow:
    """A source of examples.

    Args:
        name: the name of the collection or file.
        split: the split of the collection; "" for a file.
        examples: how many examples it gave.
        weight: the weight with which it is drawn from.
        licence: the licence of the data; ``not stated`` where nobody named one.
    """

    name: str
    split: str
    examples: int
    weight: float
    licence: str


@dataclass(frozen=True, slots=True)
class OriginRecord:
    """Where a model came from.

    Args:
        base: the model that training started from.
        data: a row for each source.
        command: what was typed; None if that is not known.
    """

    base: str
    data: list[DataRow]
    command: str | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measurement on dev while training.

    Args:
        step: how many updates were done.
        mean: the mean over collections.
        dev: the nDCG@10 by collection.
    """

    step: int
    mean: float
    dev: dict[str, float]


@dataclass(frozen=True, slots=True)
class Gain:
    """NDCG@10 of a collection before and after training.

    Args:
        queries: how many were measured.
        before: the mean before training, and its interval.
        after: the mean after training, and its interval.
        difference: the mean difference over the queries, and its interval.
        p: the p-value of the paired randomisation test.
    """

    queries: int
    before: Interval
    after: Interval
    difference: Interval
    p: float


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """The contents of ``training.json``.

    Args:
        learner: what was trained.
        settings: the settings of the run: ``learner``, its ``options``, the fields of `TrainingConfig`, `Sampling` and
            `Objective`, and what identifies ``parameters``, ``examples`` and ``dev``.
        steps: how many updates were done.
        kept_step: the update whose weights were kept.
        seconds: the seconds of training and measuring.
        temperature: the temperature at the end.
        dev: the gains by collection.
        history: the measurements, in order.
        losses: the means of the losses over the last steps, by name; ``step`` is the last of them.
        origin: where the model came from.
        hashes: the hashes of the collections measured on; see `sightline.eval.provenance.dataset_hashes`.
        hardware: see `sightline.eval.provenance.hardware`.
        versions: the versions of Python, Sightline and the libraries it computes with.
        git: the commit, where that is known.
    """

    learner: str
    settings: dict[str, Any]
    steps: int
    kept_step: int
    seconds: float
    temperature: float
    dev: dict[str, Gain]
    history: list[Measurement]
    losses: list[dict[str, int | float]]
    origin: OriginRecord
    hashes: dict[str, DatasetHashes]
    hardware: dict[str, Any]
    versions: dict[str, str]
    git: str | None

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON has it."""
        return dataclasses.asdict(self)

    def save(self, folder: Path) -> None:
        """Write ``training.json``.

        Raises:
            OSError: if it cannot be written.
        """
        replace_file(folder / _NAME, json.dumps(self.as_dict(), indent=1, ensure_ascii=False).encode())

    @classmethod
    def load(cls, folder: str | Path) -> TrainingSummary:
        """Load the summary of a trained model.

        Args:
            folder: the folder of the model.

        Raises:
            DataError: if there is none, or the file holds something else.
        """
        path = Path(folder) / _NAME
        try:
            return as_type(load_json(path), cls)
        except DataError as error:
            raise DataError(error.reason, path=path) from error
