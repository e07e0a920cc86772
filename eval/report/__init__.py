"""Reports of results: CSV, LaTeX, and one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...files import replace_file
from ..output import make_folder
from ..results import Results
from .page import render_page
from .plots import pareto_front
from .tables import csv_table, latex_table

__all__ = ["csv_table", "latex_table", "pareto_front", "render_page", "write_report"]


def write_report(results: Sequence[Results], out: str | Path) -> list[Path]:
    """Write the report of results, each of one collection.

    Args:
        results: the results, as `sightline.eval.evaluate` or `sightline.eval.load_results` returned them.
        out: the folder for ``report.html``, and for ``results.csv`` and ``table.tex`` if a system was measured. It is
            made if it does not exist.

    Returns:
        The paths of the files that were written.

    Raises:
        InputError: if there are no results, or the folder cannot be written to.
    """
    pages = {"report.html": render_page(results)}
    if measured := [result for result in results if result.systems]:  # not only biases
        pages |= {"results.csv": csv_table(measured), "table.tex": latex_table(measured)}
    out = make_folder(out)
    for name, text in pages.items():
        replace_file(out / name, text.encode())
    return [out / name for name in pages]
