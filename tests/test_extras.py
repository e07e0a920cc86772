"""An optional dependency that is not installed, and one that is and cannot be imported."""

import pickle
import sys
from importlib import import_module

import numpy as np
import pytest

from sightline.errors import BrokenExtraError, MissingExtraError
from sightline.extras import importing
from sightline.retrieval.engines import flat_engine, open_vector_index
from sightline.retrieval.faiss_index import import_faiss
from sightline.retrieval.sources import LoadSummary, load_documents
from sightline.serve import create_app


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package that consists of one file."""

    def install(module, text):
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / "site" / module).mkdir(parents=True)
        (tmp_path / "site" / module / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path / "site")

    return install


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("raise ImportError('numpy failed\\n\\n  to import')", "ImportError: numpy failed to import"),
        ("import numpy_of_old", "ModuleNotFoundError: No module named 'numpy_of_old'"),
        ("import faiss.part", "ModuleNotFoundError: No module named 'faiss.part'"),
        (
            "raise TypeError('Descriptors cannot be created directly.')",
            "TypeError: Descriptors cannot be created directly.",
        ),
    ],
)
def test_a_faiss_that_cannot_be_imported_says_why(text, cause, installed):
    installed("faiss", text)
    for call in (import_faiss, flat_engine, lambda: open_vector_index(np.eye(3, dtype=np.float32), "Flat", "")):
        with pytest.raises(BrokenExtraError) as caught:
            call()
        for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
            assert str(error).startswith(f"'faiss' cannot be imported, although it is installed ({cause}); 'pip check'")
            assert "pip install --upgrade 'sightline-search[cpu]'" in str(error)


@pytest.mark.parametrize(("modules", "asked"), [(("json", "absent"), "absent"), (("absent.part",), "absent.part")])
def test_a_module_that_is_not_there_is_named(modules, asked):
    with pytest.raises(MissingExtraError, match=f"'{asked}' is not installed"), importing(*modules, extra="cpu"):
        import_module("absent")


def test_an_old_version_without_what_is_imported_is_installed(installed):
    installed("old", "")
    said = "'old' cannot be .*cannot import name 'new' from 'old'"
    with pytest.raises(BrokenExtraError, match=said), importing("old", extra="cpu"):
        exec("from old import new")


def test_an_extra_that_is_missing_further_down_is_the_one_that_is_named():
    with pytest.raises(MissingExtraError, match="'inner'.*readers"), importing("outer", extra="cpu"):
        raise MissingExtraError("inner", "readers")


def test_a_folder_is_read_without_the_files_of_a_broken_library(installed, tmp_path):
    installed("lxml", "raise ImportError('no libxml2')")
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("text")
    (folder / "b.html").write_text("<p>text")
    summary = LoadSummary()
    assert [document.id for document in load_documents(folder, summary=summary)] == ["a.txt"]
    assert "1 .html ('lxml' cannot be imported, although it is installed (ImportError: no libxml2)" in str(summary)
    with pytest.raises(BrokenExtraError):
        list(load_documents(folder, strict=True))


def test_an_application_says_what_keeps_it_from_being_made(installed, monkeypatch):
    monkeypatch.delitem(sys.modules, "sightline.serve.app", raising=False)
    installed("fastapi", "import starlette_of_nobody")
    with pytest.raises(BrokenExtraError, match=r"'fastapi' .*No module named 'starlette_of_nobody'.*\[serve\]"):
        create_app()
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(MissingExtraError, match=r"'fastapi' is not installed.*\[serve\]"):
        create_app()
