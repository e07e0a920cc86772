"""Reports of results: CSV, LaTeX, and one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...retrieval.files import replace_file
from ..output import make_folder
from .page import render_page
from .plots import pareto_front
from .results import Results, load_results
from .tables import csv_table, latex_table

__all__ = ["Results", "csv_table", "latex_table", "load_results", "pareto_front", "render_page", "write_report"]


def write_report(folders: Sequence[str | Path], out: str | Path) -> list[Path]:
    """Render folders of results, one collection each.

    Args:
        folders: as `sightline.eval.evaluate.evaluate_systems` filled them; ``bias.json`` is read where there is one.
        out: a folder for ``report.html``, ``results.csv`` and ``table.tex``; made if it is not there.

    Returns:
        The files that were written.

    Raises:
        DataError: if a folder has no results, or they are malformed.
        InputError: if there is no folder.
    """
    found = [load_results(folder) for folder in folders]
    pages = {"report.html": render_page(found), "results.csv": csv_table(found), "table.tex": latex_table(found)}
    out = make_folder(out)
    for name, text in pages.items():
        replace_file(out / name, text.encode())
    return [out / name for name in pages]
