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
from ..parsing import load_yaml
from .figures import Number, load_figures
from .pages import Pages

__all__ = ["Point", "app", "draw", "points"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 800, 44, 356  # of the plot, in the SVG's units
_TIMES = (5.0, 40_000.0)  # milliseconds at the left and right edge
_QUALITY = (0.65, 0.76)  # nDCG@10 at the bottom and the top
_CROSS_ENCODER = "MiniLM cross-encoder (22M)"  # in tables.yaml
_TITLE = "nDCG@10 on SciFact against milliseconds a query on one CPU core"
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
    """The systems that the chart shows.

    Raises:
        DataError: if a figure is missing.
    """
    pages = Pages(*load_figures())

    def value(table: str, row: str, column: str) -> float:
        figures = pages.figures(table, row, column)
        if not figures:
            raise DataError(f"the table {table!r} has no figure at {row!r}, {column!r}")
        return figures[0].value

    def quality(system: str) -> float:
        return value("quality", system, "SciFact")

    def bench(row: str) -> float:
        return value("mini-bench", row, "ms a query, median of 50")

    cross_encoder = next(row for row in pages.rows("searching") if row.startswith("cross-encoder"))
    default, attention = quality("hybrid+minilm"), "dense+minilm-log-mass"
    return [
        Point(("BM25", ""), bench("bm25 alone"), quality("bm25"), "base", "right"),
        Point(("embeddings", ""), bench("dense alone"), quality("dense"), "base", "right"),
        Point(("attention alone", attention), bench(attention), quality(attention), "own", "right"),
        Point(
            ("the default", "hybrid+minilm, token states from the index"),
            value("searching", "search with kept token states", "ms"),
            default, "own", "above",
        ),
        Point(
            ("the default", "candidates read anew"),
            value("searching", "search that reads the candidates anew", "ms"),
            default, "own", "above",
        ),
        Point(
            ("MiniLM cross-encoder", "time for 100 texts; published quality, for 30"),
            value("searching", cross_encoder, "ms"),
            _published(), "other", "below",
        ),
    ]  # fmt: skip


def _published() -> float:
    """The nDCG@10 on SciFact that others published for the cross-encoder, on BM25's first 30 documents."""
    tables = load_yaml(Path(__file__).with_name("tables.yaml"))["tables"]
    rows = [row for table in tables for row in table["published"] if row["system"] == _CROSS_ENCODER]
    return float(rows[0]["values"]["SciFact"])


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
        f'<text class="small" x="{_RIGHT}" y="398" text-anchor="end">a query on one CPU core (logarithmic)</text>',
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
