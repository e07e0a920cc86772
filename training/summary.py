"""The types of ``training.json``: settings, losses, and figures on dev."""

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
        examples: the number of examples that it gave.
        weight: the weight with which it is drawn from.
        licence: the licence of the data; ``not stated`` if it was not given.
    """

    name: str
    split: str
    examples: int
    weight: float
    licence: str


@dataclass(frozen=True, slots=True)
class OriginRecord:
    """The origin of a model.

    Args:
        base: the model that training started from.
        data: a row for each source.
        command: the command line; None if it is not known.
    """

    base: str
    data: list[DataRow]
    command: str | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measurement on dev during training.

    Args:
        step: the number of updates that were done.
        mean: the mean nDCG@10 over collections.
        dev: the nDCG@10 by collection.
    """

    step: int
    mean: float
    dev: dict[str, float]


@dataclass(frozen=True, slots=True)
class Gain:
    """The nDCG@10 of a collection before and after training.

    Args:
        queries: the number of queries that were measured.
        before: the mean before training, with its interval.
        after: the mean after training, with its interval.
        difference: the mean difference over the queries, with its interval.
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
        learner: the name of what was trained.
        settings: the settings of the run: ``learner``, its ``options``, the fields of `TrainingConfig`, `Sampling` and
            `Objective`, and what identifies ``parameters``, ``examples`` and ``dev``.
        steps: the number of updates that were done.
        kept_step: the update whose weights were kept.
        seconds: the seconds of training and measuring.
        temperature: the temperature at the end.
        dev: the gain on each collection.
        history: the measurements, in order.
        losses: the means of the losses over the last few steps, by name. ``step`` is the last of these steps.
        origin: the base model and the data.
        hashes: the hashes of the collections that were measured; see `sightline.eval.provenance.dataset_hashes`.
        hardware: the machine; see `sightline.eval.provenance.hardware`.
        versions: the versions of Python, Sightline and the libraries that it computes with.
        git: the commit of the code; None if it is not known.
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
        """Return the summary as JSON-like values."""
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
            DataError: if there is no such file, or it holds something else.
        """
        path = Path(folder) / _NAME
        try:
            return as_type(load_json(path), cls)
        except DataError as error:
            raise DataError(error.reason, path=path) from error
