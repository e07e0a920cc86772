"""The state that a run goes on from: one file, replaced as a whole, so that a kill leaves the former one."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, TrainingError
from ..files import replace_file

__all__ = ["STATE", "check_settings", "load_state", "save_state"]

STATE = "state.pt"

_FIELDS = {"settings": dict, "step": int, "parameters": dict, "optimizer": dict, "start": dict, "history": list}


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors, numbers, strings, lists and dictionaries.

    Raises:
        TrainingError: if the disk refuses; the former state is untouched.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    try:
        replace_file(folder / STATE, buffer.getvalue())
    except OSError as error:
        raise TrainingError(f"{folder / STATE}: cannot be written: {error}; the state before it is kept") from error


def load_state(folder: Path) -> dict[str, Any] | None:
    """Read it, onto the CPU; None if there is none.

    Raises:
        TrainingError: if the file is damaged, or holds something else.
    """
    import torch

    if not (folder / STATE).exists():
        return None
    try:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    # What torch raises depends on where a damage is: besides its own errors, whatever its unpickler meets.
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).split("\n")[0][:200]
        raise TrainingError(f"{folder / STATE}: cannot be read: {reason}; remove it to begin anew") from error
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise TrainingError(f"{folder / STATE}: cannot be read: {reason}; remove it to begin anew") from error
    if not isinstance(state, dict):
        raise TrainingError(
            f"{folder / STATE}: holds a {type(state).__name__}, not the state of a run; move it away, or "
            "choose another folder"
        )
    for name, kind in _FIELDS.items():
        if not isinstance(state.get(name), kind):
            wrong = f"{name!r} is a {type(state[name]).__name__}" if name in state else f"it has no {name!r}"
            raise TrainingError(
                f"{folder / STATE}: is not the state of a run: {wrong}; move it away, or choose another folder"
            )
    return state


def check_settings(folder: Path, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than a run began with.

    Args:
        folder: of the run, for the message.
        saved: the settings that it was begun with.
        asked: those that it is to go on with. Where both have a mapping, its fields are compared.

    Raises:
        InputError: naming the first field that differs.
    """
    for name in dict.fromkeys((*asked, *saved)):
        before, now = saved.get(name), asked.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            check_settings(folder, before, now)
        elif before != now:
            raise InputError(
                f"{folder}: the run there was begun with {name} = {before}, not {now}; give what it was begun with, "
                "or choose another folder"
            )
