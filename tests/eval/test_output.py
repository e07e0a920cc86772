"""Where results go is checked before the work."""

import pytest

from sightline.errors import InputError
from sightline.eval.output import make_folder, writable_file


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []
    make_folder(tmp_path / "a" / "b")


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper" / "still"):
        with pytest.raises(InputError, match="file is a file"):
            make_folder(path)
    for path in (tmp_path / ("x" * 300), "/proc/none", "a\0b"):
        with pytest.raises(InputError, match="cannot be written to") as error:
            make_folder(path)
        assert len(str(error.value)) < 400
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    assert writable_file(tmp_path / "run.trec") == tmp_path / "run.trec"
    assert list(tmp_path.iterdir()) == []
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "run.trec", "its folder does not exist"),
        (tmp_path / ("x" * 300), "cannot be written"),
        ("/proc/run.trec", "cannot be written"),
    ):
        with pytest.raises(InputError, match=said):
            writable_file(path)
