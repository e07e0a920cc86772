"""The notebooks run as they stand, and are committed without outputs."""

import re
from pathlib import Path

import pytest

import sightline

nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
pytest.importorskip("ipykernel", reason="needs ipykernel")

_ROOT = Path(sightline.__file__).parent
_NOTEBOOKS = _ROOT / "examples" / "notebooks"
_PRINTED = {  # by the notebook, in this order
    "search-your-files": [
        "'documents': 4",
        r"1\. bicycle\.txt  relevance 0\.\d+  'The chain squeaks when it is dry\.'",
        r'rgba\(255, 190, 0, 1\.00\)">The chain squeaks',
        r"how do I keep iron from rusting -> \['iron\.txt'\]\ncapital of Mongolia -> \[\]",
        r"\['tea'\]",
    ],
    "evaluate-your-reranker": [
        r"bm25 +nDCG@10 0\.\d+  RR@10 0\.\d+  Success@1 0\.\d+\n",
        r"hybrid\+minilm +nDCG@10 0\.9",
        r"hybrid\+minilm against hybrid: [+-]0\.\d+ \[.*\], p = [01]\.\d+; better on \d+, equal on \d+, worse on \d+",
        "answer at rank  8 by mine,  1 by minilm:  why does metal corrode",
    ],
}


def read(name):
    return nbformat.read(_NOTEBOOKS / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_run():
    assert {path.stem for path in _NOTEBOOKS.iterdir()} == set(_PRINTED)


@pytest.mark.parametrize("name", _PRINTED)
def test_it_is_committed_without_outputs(name):
    cells = read(name).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ") and len(code) < 10
    assert not [cell for cell in code if cell.outputs or cell.execution_count is not None]


@pytest.mark.parametrize("name", _PRINTED)
def test_it_runs(name, tmp_path, monkeypatch):
    for variable, value in {"PYTHONPATH": _ROOT.parent, "TMPDIR": tmp_path, "IPYTHONDIR": tmp_path / "ipython"}.items():
        monkeypatch.setenv(variable, str(value))
    notebook = read(name)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        output.text if output.output_type == "stream" else output.data.get("text/html", output.data["text/plain"])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") != "stderr"
    ]
    assert re.search("(?s)" + ".*".join(_PRINTED[name]), "".join(shown)), shown
