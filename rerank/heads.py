"""Attention heads that retrieve: files that hold them, those that ship, and those that a layout asks for."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from dataclasses import dataclass
from html import escape
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from ..errors import DataError, InputError, ModelError
from ..files import replacing
from ..names import layout_names
from ..parsing import as_type, load_yaml
from .layout import Layout

__all__ = ["Heads", "Method", "find_heads", "heads_path", "shipped_heads"]

Method = Literal["qr", "core", "ndcg"]

_FOLDER = resources.files(__package__.partition(".")[0]) / "data" / "heads"
# What follows a model's name in the name of a file with its quantised weights.
_QUANTISED = re.compile(r"([._-](i?q\d\w*|b?f16|f32))?(\.gguf)?$")


@dataclass(frozen=True, slots=True)
class Heads:
    """The result of a detection of heads, and how it was made; one YAML file.

    Args:
        model: the name of the model.
        revision: the revision of the model's weights; "" if the heads serve any.
        layout: the name of the layout that the lists were read with.
        fingerprint: the fingerprint of that layout, see `Layout.fingerprint`; "" for published heads, which serve the
            layout of that name.
        method: the criterion: ``qr``, ``ndcg`` or ``core``.
        data: the name of the data that the lists come from.
        queries: the number of lists that were read.
        candidates: the largest number of documents in a list; None if it was not published.
        seed: the seed of the shuffles.
        temperature: the temperature of ``core``; None for the other criteria.
        scores: the score of each head, layer by layer; higher retrieves better. Empty if only the best heads were
            published.
        best: the best heads as ``layer-head``, best first. They follow from the scores if there are any.
        also: other names of the model.
        attribution: who found the heads, and under which licence they are published.

    Raises:
        InputError: if the scores are not a table of finite numbers, or there are neither scores nor heads.
    """

    model: str
    revision: str
    layout: str
    fingerprint: str
    method: Method
    data: str
    queries: int
    candidates: int | None
    seed: int
    temperature: float | None
    scores: tuple[tuple[float, ...], ...] = ()
    best: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    attribution: str = ""

    def __post_init__(self) -> None:
        if not self.scores and self.best:
            if not all(re.fullmatch(r"\d+-\d+", head) for head in self.best):
                raise InputError("its heads must be written like 14-22, a layer and a head in it")
            return
        if not self.scores or not self.scores[0] or len(set(map(len, self.scores))) != 1:
            raise InputError("its scores are not a table with one row for each layer and one number for each head")
        if not np.isfinite(self.scores).all():
            raise InputError("its scores are not all finite numbers")
        object.__setattr__(self, "best", self.top(min(32, sum(map(len, self.scores)))))

    def top(self, count: int) -> tuple[str, ...]:
        """Return the best heads as ``layer-head``, best first; ties by layer and head.

        Raises:
            InputError: if the model has fewer heads, or fewer are known.
        """
        if not self.scores:
            if not 1 <= count <= len(self.best):
                raise InputError(f"of the heads of {self.model!r}, the best {len(self.best)} are known, not {count}")
            return self.best[:count]
        every = [(-score, layer, head) for layer, row in enumerate(self.scores) for head, score in enumerate(row)]
        if not 1 <= count <= len(every):
            raise InputError(f"{self.model!r} has {len(every)} heads, so it has no best {count}")
        return tuple(f"{layer}-{head}" for _, layer, head in sorted(every)[:count])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the YAML file, and beside it a heat map of the scores as SVG.

        Raises:
            InputError: if a file cannot be written.
        """
        path = Path(path)
        fields = dataclasses.asdict(self) | {"scores": [list(row) for row in self.scores]}
        fields |= {"best": list(self.best), "also": list(self.also)}
        files = {path: yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=10_000)}
        if self.scores:
            files[path.with_suffix(".svg")] = self.picture()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for file, text in files.items():
                with replacing(file) as beside:
                    beside.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str] | Traversable) -> Heads:
        """Load a file that `save` wrote.

        Raises:
            InputError: if this is not such a file.
        """
        try:
            return as_type(load_yaml(path), cls)
        except (DataError, InputError) as error:
            reason = error.reason if isinstance(error, DataError) else str(error)
            raise InputError(f"{path}: not a file of heads as 'sightline heads' writes it: {reason}") from error

    def is_of(self, model: str) -> bool:
        """Tell whether a model has this one's name, on the hub, as a folder, or as a file of quantised weights."""
        return _last_name(model) in map(_last_name, (self.model, *self.also))

    def serves(self, layout: Layout) -> bool:
        """Tell whether a layout reads in the way in which the heads were found."""
        return self.fingerprint == layout.fingerprint if self.fingerprint else self.layout == layout.name

    def picture(self) -> str:
        """Draw the heat map of layer by head, as SVG. The ten best heads are framed."""
        layers, heads = len(self.scores), len(self.scores[0])
        values = np.array(self.scores)
        low, high = float(values.min()), float(values.max())
        best = set(self.top(min(10, values.size)))
        cell, left, above = 18, 40, 44
        width, height = left + heads * cell + 20, above + layers * cell + 34
        title = f"{self.method}: {self.model}, layout {self.layout}, {self.data}, {self.queries} queries"
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(width, 420)}" height="{height}" '
            'font-family="sans-serif" font-size="10"><rect width="100%" height="100%" fill="#fff"/>'
            f'<text x="{left}" y="16" font-size="11">{escape(title)}</text>'
            f'<text x="{left}" y="34" fill="#555">heads, left to right; layers, top to bottom; '
            f"white {low:.3g}, dark {high:.3g}</text>"
        ]
        for layer, row in enumerate(self.scores):
            y = above + layer * cell
            parts.append(f'<text x="{left - 6}" y="{y + 13}" text-anchor="end" fill="#555">{layer}</text>')
            for head, score in enumerate(row):
                share = (score - low) / (high - low) if high > low else 0.0
                red, green, blue = (round(255 + (dark - 255) * share) for dark in (8, 48, 107))
                frame = ' stroke="#d62728" stroke-width="2"' if f"{layer}-{head}" in best else ' stroke="#eee"'
                parts.append(
                    f'<rect x="{left + head * cell}" y="{y}" width="{cell - 2}" height="{cell - 2}" '
                    f'fill="rgb({red},{green},{blue})"{frame}><title>{layer}-{head}: {score:.4g}</title></rect>'
                )
        step = max(1, heads // 16)
        y = above + layers * cell + 12
        for head in range(0, heads, step):
            x = left + head * cell + cell // 2
            parts.append(f'<text x="{x}" y="{y}" text-anchor="middle" fill="#555">{head}</text>')
        return "".join([*parts, "</svg>"])


def heads_path(model: str, revision: str, fingerprint: str, method: str) -> Path:
    """Return where heads are kept between runs: under ``SIGHTLINE_CACHE``, or in the user's cache folder."""
    home = os.environ.get("SIGHTLINE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sightline"
    name = re.sub(r"[^\w.-]+", "--", model.strip("/"))[-100:]
    return Path(home).expanduser() / "heads" / f"{name}_{revision[:12] or 'local'}_{fingerprint}_{method}.yaml"


@functools.cache
def shipped_heads() -> tuple[Heads, ...]:
    """Load the heads that ship with Sightline: those of ``smollm2``, and those that others published under a licence.

    Example:
        >>> any(heads.is_of("meta-llama/Llama-3.1-8B-Instruct") for heads in shipped_heads())
        True
    """
    files = sorted((file for file in _FOLDER.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return tuple(map(Heads.load, files))


def _last_name(model: str) -> str:
    """The last part of a model's name, without what says how its weights are stored."""
    return _QUANTISED.sub("", re.split(r"[/\\:]", model.rstrip("/\\").lower())[-1])


def find_heads(file: str | os.PathLike[str] | None, layout: Layout, model: str, revision: str) -> tuple[str, ...]:
    """Find the heads that a layout such as ``qr:16`` asks for.

    Args:
        file: a file of heads. If None, they are looked for where `sightline heads` keeps them, then among those that
            ship.
        layout: the layout that asks for them.
        model: the name of the model.
        revision: the revision of the model's weights.

    Raises:
        ModelError: if no heads were found for this model and layout yet. The message names the command that finds them.
        InputError: if the file is for another model or layout.
    """
    assert isinstance(layout.readout.heads, str), "a layout that lists its heads asks for none"
    method, _, count = layout.readout.heads.partition(":")
    path = Path(file) if file is not None else heads_path(model, revision, layout.fingerprint, method)
    if file is None and not path.is_file():
        for shipped in shipped_heads():
            if shipped.method == method and shipped.is_of(model) and shipped.serves(layout):
                return shipped.top(int(count))
        named = layout.name if layout.name in layout_names() else f"FILE.yaml (that of {layout.name!r})"
        raise ModelError(
            f"layout {layout.name!r} reads selected heads, and none have been found for {model!r} yet; find them with: "
            f"sightline heads {model} --layout {named} --method {method} --data FOLDER"
        )
    heads = Heads.load(path)
    for name, actual, expected, fits in (
        ("method", heads.method, method, heads.method == method),
        ("layout", heads.fingerprint or heads.layout, layout.fingerprint, heads.serves(layout)),
        ("revision", heads.revision, revision, heads.revision in ("", revision)),
    ):
        if not fits:
            raise InputError(
                f"{path}: its heads were found for {name} {actual!r}, not for {expected!r}; find them again"
            )
    return heads.top(int(count))
