"""CSV and LaTeX: what is written can be read back, whatever systems and collections are called."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import InputError
from sightline.eval.report.tables import csv_table, latex_table, latex_text, significantly_better
from sightline.eval.report.text import showable

from .made import HOSTILE, results

_BACK = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
    r"\textgreater{}": ">", r"\textbar{}": "|", r"\textquotedbl{}": '"', **{f"\\{c}": c for c in "&%$#_{}"},
}  # fmt: skip


def unescaped(text):
    return re.sub("|".join(map(re.escape, sorted(_BACK, key=len, reverse=True))), lambda m: _BACK[m[0]], text)


@given(st.text())
def test_latex_text_comes_back_and_leaves_nothing_active(text):
    written = latex_text(text)
    assert unescaped(written) == " ".join(showable(text).split())
    bare = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]", "", written)
    assert not set(bare) & set('\\&%$#_{}~^<>|"\n')


def test_latex_of_one_collection():
    table = latex_table([results({"bm25": [0.2, 0.4], "bm25+x_y": [0.6, 0.8]})])
    assert r"system & nDCG@10 & RR@10 \\" in table
    assert r"bm25 & 0.3000 & 0.3000 \\" in table
    assert r"bm25+x\_y & \textbf{0.7000} & \textbf{0.7000} \\" in table


def test_the_best_of_each_column_is_bold_and_ties_all_are():
    table = latex_table([results({"a": [0.5], "b": [0.5], "c": [0.1]}, dataset="one"), results({"b": [0.2]}, "two")])
    rows = {line.split(" & ")[0]: line for line in table.splitlines() if " & " in line}
    assert rows["system"] == r"system & one & two \\"
    assert rows["a"] == r"a & \textbf{0.5000} &  \\"
    assert rows["b"] == r"b & \textbf{0.5000} & \textbf{0.2000} \\"
    assert rows["c"] == r"c & 0.1000 &  \\"


def test_a_dagger_needs_significance():
    rising = [0.1 + 0.001 * i for i in range(40)]
    better = results({"bm25": rising, "bm25+m": [v + 0.2 for v in rising], "bm25+n": [v - 0.05 for v in rising]})
    assert significantly_better(better) == {"bm25+m"}
    assert latex_table([better]).count(r"$^{\dagger}$") == 1
    assert significantly_better(results({"bm25": [0.1], "bm25+m": [0.9]})) == set()


def test_hostile_names_stay_in_their_latex_cell():
    table = latex_table([results({name: [0.5] for name in HOSTILE}, dataset=r"\end{tabular}%&")])
    body = table.split("\\midrule\n")[1].split("\\bottomrule")[0]
    assert len(body.splitlines()) == len(HOSTILE)
    assert all(len(re.findall(r"(?<!\\)&", line)) == 2 for line in body.splitlines())
    assert table.count(r"\end{tabular}") == 2 and table.startswith(r"% \end{tabular}%&")  # once in a comment


def test_csv_reads_back():
    hostile = [results({name: [0.25, 0.75] for name in HOSTILE}, dataset='a,"b"\n=c'), results({"x": [1.0]}, "=two")]
    rows = list(csv.DictReader(io.StringIO(csv_table(hostile))))
    assert [row["system"].removeprefix("'") for row in rows[: 2 * len(HOSTILE) : 2]] == HOSTILE
    assert {row["dataset"] for row in rows} == {'a,"b"\n=c', "'=two"}
    first = rows[0]
    assert (float(first["mean"]), first["measure"], first["queries"]) == (0.5, "nDCG@10", "2")
    assert float(first["low"]) <= 0.5 <= float(first["high"]) and rows[1]["low"] == ""


@given(st.text(min_size=1))
def test_no_csv_text_is_a_formula(name):
    [row, _] = csv.DictReader(io.StringIO(csv_table([results({name: [0.5]})]), newline=""))
    assert not row["system"].startswith(("=", "+", "-", "@", "\t"))
    assert row["system"] in (showable(name), f"'{showable(name)}")


def test_no_results_are_refused():
    for table in (csv_table, latex_table):
        with pytest.raises(InputError, match="no results"):
            table([])
