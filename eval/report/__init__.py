"""Reports of results: CSV, LaTeX, and one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...files import replace_file
from ..output import make_folder
from .page import render_page
from .plots import pareto_front
from .results import Results, load_bias, load_results
from .tables import csv_table, latex_table

__all__ = [
    "Results",
    "csv_table",
    "latex_table",
    "load_bias",
    "load_results",
    "pareto_front",
    "render_page",
    "write_bias_report",
    "write_report",
]


def write_bias_report(folder: str | Path, *, with_quality: bool) -> Path:
    """Render the ``bias.json`` of a folder as its ``report.html``.

    Args:
        folder: as `sightline.eval.bias.measure_bias` filled it.
        with_quality: show the ``results.json`` beside it, too.

    Returns:
        The page.

    Raises:
        DataError: if there are no results, or they are malformed.
    """
    page = Path(folder) / "report.html"
    replace_file(page, render_page([load_results(folder) if with_quality else load_bias(folder)]).encode())
    return page


def write_report(folders: Sequence[str | Path], out: str | Path) -> list[Path]:
    """Render folders of results, one collection each.

    Args:
        folders: as `sightline.eval.evaluate.evaluate_systems` filled them, or `sightline.eval.bias.measure_bias`.
        out: a folder for ``report.html``, and for ``results.csv`` and ``table.tex`` if a system was measured; made if
            it is not there.

    Returns:
        The files that were written.

    Raises:
        DataError: if a folder has no results, or they are malformed.
        InputError: if there is no folder.
    """
    found = [load_results(folder) for folder in folders]
    pages = {"report.html": render_page(found)}
    if measured := [one for one in found if one.summary["systems"]]:  # not only biases
        pages |= {"results.csv": csv_table(measured), "table.tex": latex_table(measured)}
    out = make_folder(out)
    for name, text in pages.items():
        replace_file(out / name, text.encode())
    return [out / name for name in pages]
