"""Results as tables: CSV for programs, LaTeX for papers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from ...errors import InputError
from ..results import Results
from ..significance import Interval, own_first_stage
from ..summary import Summary
from .text import showable

__all__ = ["best_systems", "csv_table", "latex_table", "latex_text", "significantly_better"]

_COLUMNS = ("dataset", "split", "queries", "candidates", "system", "measure", "mean", "low", "high", "milliseconds")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_LEVEL = 0.05


def csv_table(results: Sequence[Results]) -> str:
    """One line for each collection, system and measure.

    ``low`` and ``high`` (95 % bootstrap interval) are there for the first measure and for those of the relevance, which
    follow where there is one; ``milliseconds`` are per query. A text that a spreadsheet would take for a formula gets
    an apostrophe before it (OWASP, CSV injection).

    Raises:
        InputError: if there are no results.
    """
    _check(results)
    out = io.StringIO()
    table = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
    table.writeheader()
    for result in results:
        summary = result.summary
        for system, means in summary.systems.items():
            for measure, mean in means.items():
                between = summary.intervals[system] if measure == result.measure else None
                table.writerow(_csv_row(summary, system, measure, mean, between))
            for measure, value in _relevance_measures(summary, system):
                table.writerow(_csv_row(summary, system, measure, value.mean, value))
    return out.getvalue()


def _csv_row(summary: Summary, system: str, measure: str, mean: float, between: Interval | None) -> dict[str, object]:
    texts = {"dataset": summary.dataset, "split": summary.split, "system": system, "measure": measure}
    return {
        **{name: _csv_text(text) for name, text in texts.items()},
        "queries": summary.queries,
        "candidates": summary.candidates,
        "mean": mean,
        "low": between.low if between else "",
        "high": between.high if between else "",
        "milliseconds": summary.milliseconds_per_query.get(system, ""),
    }


def _relevance_measures(summary: Summary, system: str) -> list[tuple[str, Interval]]:
    """What was measured of a system's relevance; nothing if it has none."""
    quality = summary.relevance.get(system)
    if quality is None:
        return []
    measured = {
        "AUROC(lists)": quality.auroc_lists,
        "FalseAccepts(recall=0.9)": quality.false_accepts,
        "AUROC(documents)": quality.auroc_documents,
        "ECE(bins=15)": quality.calibration_error,
    }
    return [(name, value) for name, value in measured.items() if value is not None]


def _csv_text(text: str) -> str:
    text = showable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def latex_table(results: Sequence[Results]) -> str:
    """A ``booktabs`` table: systems by measures, or for several collections systems by collections.

    The best of a column is bold (ties all are). A dagger: better than the system's own first stage, p < .05 by
    randomisation test with Holm's correction over all pairs of systems.

    Raises:
        InputError: if there are no results.
    """
    _check(results)
    systems = list(dict.fromkeys(system for result in results for system in result.systems))
    if len(results) == 1:
        [result] = results
        columns = [
            (measure, {system: means[measure] for system, means in result.systems.items()}, result)
            for measure in next(iter(result.systems.values()))
        ]
        about = f"{result.summary.dataset}, {result.summary.split}: {result.summary.queries} queries"
    else:
        columns = [
            (r.summary.dataset, {system: means[r.measure] for system, means in r.systems.items()}, r) for r in results
        ]
        about = ", ".join(dict.fromkeys(result.measure for result in results))
    bodies = {system: [latex_text(system)] for system in systems}
    for number, (_, values, result) in enumerate(columns):
        marked = significantly_better(result) if len(results) > 1 or number == 0 else set()
        best = f"{max(values.values()):.4f}"
        for system, cells in bodies.items():
            text = "" if system not in values else _figure(values[system], best)
            cells.append(text + (r"$^{\dagger}$" if text and system in marked else ""))
    lines = [
        f"% {' '.join(showable(about).split())}",
        r"% \usepackage{booktabs}; a dagger: better than its own first stage, p < .05 (randomisation test, Holm)",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["system", *(latex_text(name) for name, _, _ in columns)]) + r" \\",
        r"\midrule",
        *(" & ".join(cells) + r" \\" for cells in bodies.values()),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _figure(value: float, best: str) -> str:
    text = f"{value:.4f}"
    return rf"\textbf{{{text}}}" if text == best else text


def latex_text(text: str) -> str:
    r"""Text for LaTeX's text mode, on one line.

    Example:
        >>> print(latex_text(r"100% of {a_b} \input{x}"))
        100\% of \{a\_b\} \textbackslash{}input\{x\}
    """
    return re.sub(r"""[\\~^<>|"&%$#_{}]""", lambda match: _LATEX[match[0]], " ".join(showable(text).split()))


def significantly_better(result: Results, level: float = _LEVEL) -> set[str]:
    """Reranked systems that are better than their own first stage: first measure, Holm-corrected p < ``level``."""
    return {
        pair.a
        for pair in result.pairs
        if own_first_stage(pair.a) == pair.b and pair.difference.mean > 0 and pair.p_holm < level
    }


def best_systems(result: Results, level: float = _LEVEL) -> set[str]:
    """The system of the highest mean, and those that are not significantly worse: Holm-corrected p >= ``level``."""
    means = {name: values[result.measure] for name, values in result.systems.items()}
    highest = max(means, key=means.__getitem__)
    level_with = {
        other
        for pair in result.summary.comparisons
        for one, other in ((pair.a, pair.b), (pair.b, pair.a))
        if one == highest and (pair.p_holm >= level or means[other] == means[highest])
    }
    return {highest, *level_with}


def _check(results: Sequence[Results]) -> None:
    if not results:
        raise InputError("there are no results to report")
