"""A layout: how texts become blocks, what may attend to what, and how attention becomes a score. Data, not code."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from ..errors import InputError

__all__ = ["Layout", "load_layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """A validated layout.

    Args:
        name: how it is asked for.
        model: the model it is for.
        block: the text of a document's block, with ``{title}`` and ``{text}``.
        mask: ``block``: a document's tokens see their own block only.
        positions: ``restart``: every block's positions count from 0.
        signal_tokens: whose attention is read; ``query``: all tokens of the query.
        max_block_tokens: tokens read of a block, special ones included; the rest of its text is cut, and counted.
        normalisation: over which keys a signal token's attention sums to one; ``documents``: all tokens of all
            candidates, and nothing else (BlockRank, 2025, section 3.3).
        readout: ``mass``, the mean over signal tokens of the attention on the block; ``log_mass``, the mean of its
            logarithm, so that every query token must find something; ``maxsim``, the mean of the largest cosine.
        scale: the factor on cosines before the softmax, an inverse temperature.

    Raises:
        InputError: if a field has a value it cannot have.

    Example:
        >>> load_layout("minilm").readout
        'log_mass'
    """

    name: str
    model: Literal["minilm"]
    block: Literal["{title} {text}"]
    mask: Literal["block"]
    positions: Literal["restart"]
    signal_tokens: Literal["query"]
    max_block_tokens: int
    normalisation: Literal["documents"]
    readout: Literal["mass", "log_mass", "maxsim"]
    scale: float

    def __post_init__(self) -> None:
        for field, kind in get_type_hints(Layout).items():
            value, allowed = getattr(self, field), get_args(kind)
            if allowed and value not in allowed:
                raise InputError(
                    f"layout {self.name!r}: {field} must be {' or '.join(map(repr, allowed))}, not {value!r}"
                )
        # The name becomes the tag of TREC runs, which blanks would break.
        if not isinstance(self.name, str) or self.name.split() != [self.name]:
            raise InputError(f"layout {self.name!r}: name must be a word without blanks")
        # bool is an int to Python, and YAML reads a bare "yes" as one.
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float) or not 0 < self.scale < 1000:
            raise InputError(f"layout {self.name!r}: scale must be a number above 0 and below 1000, not {self.scale!r}")
        if not isinstance(self.max_block_tokens, int) or not 3 <= self.max_block_tokens <= 512:
            raise InputError(
                f"layout {self.name!r}: max_block_tokens must be from 3 to 512, not {self.max_block_tokens!r}"
            )


def load_layout(name: str | Path, /, **changes: Any) -> Layout:
    """Load a layout that ships with Sightline, or a YAML file.

    Args:
        name: ``minilm``, ``minilm-mass``, ``minilm-maxsim``, or the path of a ``.yaml`` file.
        changes: fields to replace.

    Raises:
        InputError: if there is no such layout, or it is not a valid one.
    """
    shipped = resources.files(__package__) / "layouts"
    source = Path(name) if str(name).endswith((".yaml", ".yml")) else shipped / f"{name}.yaml"
    if not source.is_file():
        names = sorted(file.name.removesuffix(".yaml") for file in shipped.iterdir())
        raise InputError(f"no layout {str(name)!r}; there are {', '.join(names)}, or name a .yaml file")
    try:
        fields = yaml.safe_load(source.read_text(encoding="utf-8"))
    # Besides its own errors, YAML lets through what is no UTF-8, no date, or nested beyond reason.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    known = {field.name for field in dataclasses.fields(Layout)}
    if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
        raise InputError(f"{source}: a layout is a mapping with a name")
    fields |= changes
    if set(fields) != known:
        wrong = sorted(map(str, set(fields) ^ known))
        raise InputError(f"{source}: missing or unknown fields: {', '.join(wrong)}")
    return Layout(**fields)
