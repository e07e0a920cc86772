"""The state from which a run continues: one file, replaced as a whole, so that a kill leaves the former one."""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, InputError, TrainingError
from ..files import replace_file
from ..parsing import as_type
from .summary import Measurement

if TYPE_CHECKING:
    import torch

__all__ = ["STATE", "RunRecord", "TrainingState", "check_settings", "load_state", "save_state"]

STATE = "state.pt"


@dataclass
class RunRecord:
    """How far a run is, in numbers and strings.

    Args:
        settings: the settings that a continued run must have in common with the original one.
        step: the number of updates that are done.
        history: the measurements on dev, in order.
        per_query: nDCG@10 by collection and query id, at the ``start`` and at the ``best`` measurement.
        records: the means of losses, one for every few steps.
        window: the losses of the steps since then.
        seconds: the seconds of training and measuring.
    """

    settings: dict[str, Any]
    step: int
    history: list[Measurement]
    per_query: dict[str, dict[str, dict[str, float]]]
    records: list[dict[str, int | float]]
    window: list[dict[str, int | float]]
    seconds: float


@dataclass(frozen=True)
class TrainingState:
    """A run at the end of a step.

    Args:
        record: how far the run is.
        parameters: the parameters that are trained, by name.
        log_temperature: the logarithm of the temperature, ().
        optimizer: the state of the optimizer.
        scaler: the state of the gradients' scaler.
        start: the parameters at the start.
        best: the parameters that did best on dev; None before the first measurement.
    """

    record: RunRecord
    parameters: dict[str, torch.Tensor]
    log_temperature: torch.Tensor
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    start: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor] | None


def save_state(folder: Path, state: TrainingState) -> None:
    """Write a state.

    Raises:
        TrainingError: if the disk refuses; the former state is untouched.
    """
    import torch

    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    fields |= dataclasses.asdict(fields.pop("record"))
    buffer = io.BytesIO()
    torch.save(fields, buffer)
    try:
        replace_file(folder / STATE, buffer.getvalue())
    except OSError as error:
        raise TrainingError(f"{folder / STATE}: cannot be written: {error}; the state before it is kept") from error


def load_state(folder: Path) -> TrainingState | None:
    """Load a state, onto the CPU; None if there is none.

    Raises:
        TrainingError: if the file is damaged, or holds something else.
    """
    import torch

    if not (folder / STATE).exists():
        return None
    try:
        fields = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    # What torch raises depends on where a damage is: besides its own errors, whatever its unpickler meets.
    except (
        OSError,
        RuntimeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).split("\n")[0][:200]
        raise TrainingError(f"{folder / STATE}: cannot be read: {reason}; remove it to start again") from error
    try:
        return _as_state(fields)
    except DataError as error:
        raise TrainingError(
            f"{folder / STATE}: is not the state of a run: {error.reason}; move it away, or choose another folder"
        ) from error


def _as_state(fields: Any) -> TrainingState:
    if not isinstance(fields, dict):
        raise DataError(f"it holds a {type(fields).__name__}")
    tensors = [field.name for field in dataclasses.fields(TrainingState) if field.name != "record"]
    if missing := [name for name in tensors if name not in fields]:
        raise DataError(f"lacks the field {missing[0]}")
    for name in ("parameters", "optimizer", "scaler", "start"):
        if not isinstance(fields[name], dict):
            raise DataError(f"the field {name} must be a mapping, not a {type(fields[name]).__name__}")
    record = as_type({name: value for name, value in fields.items() if name not in tensors}, RunRecord)
    return TrainingState(record, **{name: fields[name] for name in tensors})


def check_settings(folder: Path, saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to continue a run with other settings than it began with.

    Args:
        folder: the folder of the run, for the message.
        saved: the settings that the run began with.
        current: the settings with which it is to continue. If both are mappings, their fields are compared.

    Raises:
        InputError: if a field differs. The error names the first one.
    """
    for name in dict.fromkeys((*current, *saved)):
        before, now = saved.get(name), current.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            check_settings(folder, before, now)
        elif before != now:
            raise InputError(
                f"{folder}: the run there was started with {name} = {before}, not {now}; use the same value, "
                "or choose another folder"
            )
