"""Which attention heads retrieve: the file that holds them, and the heads that a layout asks for."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from ..errors import DataError, InputError, ModelError
from ..files import replacing
from ..parsing import as_type, load_yaml
from .layout import Layout

__all__ = ["Heads", "Method", "find_heads", "heads_path"]

Method = Literal["qr", "core", "ndcg"]


@dataclass(frozen=True, slots=True)
class Heads:
    """What a detection found, and by what; one YAML file.

    Args:
        model: name of the model.
        revision: revision of the model's weights.
        layout: name of the layout that the lists were read by.
        fingerprint: fingerprint of that layout, see `Layout.fingerprint`.
        method: the criterion.
        data: what the lists are of.
        queries: how many lists were read.
        candidates: documents in a list, at most.
        seed: the seed of the shuffles.
        temperature: the temperature of ``core``; None for the other criteria.
        scores: the score of each head, layer by layer; higher retrieves better.

    Raises:
        InputError: if the scores are not a table of finite numbers.
    """

    model: str
    revision: str
    layout: str
    fingerprint: str
    method: Method
    data: str
    queries: int
    candidates: int
    seed: int
    temperature: float | None
    scores: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.scores or not self.scores[0] or len(set(map(len, self.scores))) != 1:
            raise InputError("its scores are no table: one row for each layer, one number for each head")
        if not np.isfinite(self.scores).all():
            raise InputError("its scores are not all finite numbers")

    def top(self, count: int) -> tuple[str, ...]:
        """The best heads as ``layer-head``, best first; ties by layer and head.

        Raises:
            InputError: if the model has fewer.
        """
        every = [(-score, layer, head) for layer, row in enumerate(self.scores) for head, score in enumerate(row)]
        if not 1 <= count <= len(every):
            raise InputError(f"{self.model!r} has {len(every)} heads, so not the best {count}")
        return tuple(f"{layer}-{head}" for _, layer, head in sorted(every)[:count])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the YAML, and beside it the heat map as SVG.

        Raises:
            InputError: if a file cannot be written.
        """
        path = Path(path)
        best = list(self.top(min(32, sum(map(len, self.scores)))))
        fields = dataclasses.asdict(self) | {"best": best, "scores": [list(row) for row in self.scores]}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for file, text in (
                (path, yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=10_000)),
                (path.with_suffix(".svg"), self.picture()),
            ):
                with replacing(file) as beside:
                    beside.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Heads:
        """Load what `save` wrote.

        Raises:
            InputError: if it is not such a file.
        """
        try:
            return as_type(load_yaml(path), cls)
        except (DataError, InputError) as error:
            reason = error.reason if isinstance(error, DataError) else str(error)
            raise InputError(f"{path}: not a file of heads as 'sightline heads' writes it: {reason}") from error

    def picture(self) -> str:
        """The heat map of layer by head, as SVG; the ten best are framed."""
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
    """Where heads are kept between runs: under ``SIGHTLINE_CACHE``, or the user's cache folder."""
    home = os.environ.get("SIGHTLINE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sightline"
    name = re.sub(r"[^\w.-]+", "--", model.strip("/"))[-100:]
    return Path(home).expanduser() / "heads" / f"{name}_{revision[:12] or 'local'}_{fingerprint}_{method}.yaml"


def find_heads(file: str | os.PathLike[str] | None, layout: Layout, model: str, revision: str) -> tuple[str, ...]:
    """The heads that a layout such as ``qr:16`` asks for.

    Args:
        file: a file of heads, or None to look where `sightline heads` keeps them.
        layout: the layout.
        model: name of the model.
        revision: revision of the model's weights.

    Raises:
        ModelError: if none were found for this model and layout yet; the message names the command.
        InputError: if the file is of another model or layout.
    """
    assert isinstance(layout.readout.heads, str), "a layout that lists its heads asks for none"
    method, _, count = layout.readout.heads.partition(":")
    path = Path(file) if file is not None else heads_path(model, revision, layout.fingerprint, method)
    if file is None and not path.is_file():
        raise ModelError(
            f"layout {layout.name!r} reads selected heads, and none were found for {model!r} yet; find them with: "
            f"sightline heads {model} --layout {layout.name} --method {method} --data FOLDER"
        )
    heads = Heads.load(path)
    for name, actual, expected in (
        ("method", heads.method, method),
        ("layout", heads.fingerprint, layout.fingerprint),
        ("revision", heads.revision, revision),
    ):
        if actual != expected:
            raise InputError(
                f"{path}: its heads were found for {name} {actual!r}, not for {expected!r}; find them anew"
            )
    return heads.top(int(count))
