"""The chart of quality against time, drawn from the figures of ``recipes/expected.yaml``.

python -m sightline.recipes.chart docs/images/quality.svg
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Annotated

import typer

from ..cli.running import Command
from ..errors import DataError
from .figures import Number, load_figures
from .pages import Pages

__all__ = ["Point", "app", "draw", "points"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 800, 44, 356  # of the plot, in the SVG's units
_TIMES = (2.0, 40_000.0)  # milliseconds at the left and right edge
_QUALITY = (0.65, 0.76)  # nDCG@10 at the bottom and the top
_TITLE = "nDCG@10 on SciFact against CPU milliseconds a query"
_SYSTEMS = (  # row of the table, label, kind and side
    ("bm25", ("BM25", ""), "base", "right"),
    ("dense", ("embeddings", ""), "base", "right"),
    ("hybrid", ("BM25 and embeddings", ""), "base", "right"),
    ("dense+minilm-log-mass", ("attention alone", "dense+minilm-log-mass"), "own", "right"),
    ("hybrid+minilm", ("the default", "hybrid+minilm, token states from the index"), "own", "above"),
    ("hybrid+minilm, candidates read anew", ("the default", "candidates read anew"), "own", "above"),
    ("bm25+cross-encoder of 6 layers", ("BM25, MiniLM cross-encoder", "its quality as published"), "other", "below"),
)
_STYLE = """
.ground { fill: #ffffff; } text { fill: #22252a; } .small { fill: #55595f; font-size: 12px; }
.grid { stroke: #e4e2dc; } .link { stroke: #b97c05; stroke-dasharray: 4 4; }
.own { fill: #b97c05; } .base { fill: #55595f; } .other { fill: none; stroke: #3d5a9b; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
.ground { fill: #1b1e22; } text { fill: #e3e1db; } .small { fill: #a9aeb6; }
.grid { stroke: #34393f; } .link { stroke: #e2a02c; }
.own { fill: #e2a02c; } .base { fill: #a9aeb6; } .other { stroke: #8fabec; }
}
"""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Point:
    """A system in the chart.

    Args:
        label: its name, and a second line that explains it.
        milliseconds: the time of a query.
        quality: its nDCG@10 on SciFact.
        kind: ``own``, ``base`` (a first stage alone) or ``other`` (its quality was published by others).
        side: where its label stands: ``right`` of the point, ``above`` or ``below`` it.
    """

    label: tuple[str, str]
    milliseconds: float
    quality: float
    kind: str
    side: str


def points() -> list[Point]:
    """The systems that the chart shows, from the table ``systems``: their times come from one run.

    Raises:
        DataError: if a figure is missing.
    """
    pages = Pages(*load_figures())

    def value(row: str, column: str) -> float:
        figures = pages.figures("systems", row, column)
        if not figures:
            raise DataError(f"the table 'systems' has no figure at {row!r}, {column!r}")
        return figures[0].value

    return [
        Point(label, value(row, "CPU ms a query"), value(row, "nDCG@10, SciFact"), kind, side)
        for row, label, kind, side in _SYSTEMS
    ]


def draw(shown: list[Point]) -> str:
    """The chart as SVG, which follows the reader's light or dark mode.

    Args:
        shown: its points.
    """
    said = [
        f"{', '.join(filter(None, point.label))}: {Number(point.quality):.3f} in {Number(point.milliseconds)} ms"
        for point in shown
    ]
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 410" role="img" aria-labelledby="t d" '
        'font-family="system-ui, sans-serif" font-size="14">',
        f'<title id="t">{escape(_TITLE)}</title>',
        f'<desc id="d">{escape("; ".join(said))}.</desc>',
        f"<style>{_STYLE}</style>",
        '<rect class="ground" width="840" height="410" rx="8"/>',
        f'<text class="small" x="{_LEFT}" y="24">nDCG@10 on SciFact</text>',
        f'<text class="small" x="{_RIGHT}" y="398" text-anchor="end">CPU time of a query (logarithmic)</text>',
    ]
    for tick in (0.66, 0.68, 0.70, 0.72, 0.74):
        y = _y(tick)
        lines.append(f'<path class="grid" d="M{_LEFT} {y}H{_RIGHT}"/>')
        lines.append(f'<text class="small" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{Number(tick):.2f}</text>')
    for tick, name in ((10, "10 ms"), (100, "100 ms"), (1000, "1 s"), (10_000, "10 s")):
        x = _x(tick)
        lines.append(f'<path class="grid" d="M{x} {_TOP}V{_BOTTOM}"/>')
        lines.append(f'<text class="small" x="{x}" y="{_BOTTOM + 20}" text-anchor="middle">{name}</text>')
    kept, anew = (point for point in shown if point.label[0] == "the default")
    lines.append(
        f'<path class="link" d="M{_x(kept.milliseconds)} {_y(kept.quality)}H{_x(anew.milliseconds)}" fill="none"/>'
    )
    for point in shown:
        lines += _mark(point)
    return "\n".join([*lines, "</svg>\n"])


def _mark(point: Point) -> list[str]:
    x, y = _x(point.milliseconds), _y(point.quality)
    first = y + {"above": -28, "below": 24, "right": -3 if point.label[1] else 5}[point.side]
    anchor, at = ("start", x + 12) if point.side == "right" else ("middle", x)
    if at > _RIGHT - 100:
        anchor, at = "end", _RIGHT + 24.0
    texts = [
        f'<text class="{name}" x="{at:.1f}" y="{first + 16 * line:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
        for line, (name, text) in enumerate(zip(("name", "small"), point.label, strict=True))
        if text
    ]
    return [f'<circle class="{point.kind}" cx="{x}" cy="{y}" r="6"/>', *texts]


def _x(milliseconds: float) -> float:
    low, high = map(math.log, _TIMES)
    return round(_LEFT + (_RIGHT - _LEFT) * (math.log(milliseconds) - low) / (high - low), 1)


def _y(quality: float) -> float:
    low, high = _QUALITY
    return round(_BOTTOM - (_BOTTOM - _TOP) * (quality - low) / (high - low), 1)


@app.command(cls=Command, epilog="Example: python -m sightline.recipes.chart docs/images/quality.svg")
def main(out: Annotated[Path, typer.Argument(help="SVG file to write.")]) -> None:
    """Draw quality against time from the figures of the documentation."""
    out.write_text(draw(points()), encoding="utf-8")


if __name__ == "__main__":
    app()
