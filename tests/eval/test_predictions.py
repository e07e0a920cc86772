"""Predictions of MTEB: read, written, and what is wrong with them told."""

import json

import pytest

from sightline.errors import DataError, InputError
from sightline.eval.predictions import parse_predictions, write_predictions

RUN = {"q1": {"d1": 0.25, "d2": 1.0}, "q2": {"d1": 3}}
SEVERAL = {
    "mteb_model_meta": {"model_name": "me/it", "revision": "1"},
    "de": {"test": {"q": {"d": 1.0}}, "dev": {"q": {"e": 1.0}}},
    "en": {"test": {"q": {"f": 1.0}}},
}


def write(path, record):
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return path


def test_what_is_written_reads_back_best_first(tmp_path):
    path = tmp_path / "Toy_predictions.json"
    write_predictions(path, RUN | {"q3": {}}, "minilm", "dev", "en")
    record = json.loads(path.read_text())
    assert record["mteb_model_meta"]["model_name"] == "minilm"
    assert record["en"]["dev"]["q1"] == RUN["q1"]
    assert parse_predictions(path) == parse_predictions(path, "dev", "en") == RUN
    assert list(parse_predictions(path)["q1"]) == ["d2", "d1"]


@pytest.mark.parametrize(
    ("split", "subset", "document"), [("test", "de", "d"), ("dev", "de", "e"), ("test", "en", "f"), (None, "en", "f")]
)
def test_one_of_several(tmp_path, split, subset, document):
    assert parse_predictions(write(tmp_path / "p.json", SEVERAL), split, subset) == {"q": {document: 1.0}}


@pytest.mark.parametrize(
    ("record", "options", "said"),
    [
        (SEVERAL, {}, "several subsets; name one of 'de', 'en'"),
        (SEVERAL, {"subset": "de"}, "several splits; name one of 'test', 'dev'"),
        (SEVERAL, {"subset": "fr"}, "no subset 'fr'; there are: 'de', 'en'"),
        (SEVERAL, {"subset": "en", "split": "dev"}, "no split 'dev'; there are: 'test'"),
        ("no json", {}, "not JSON"),
        ("[]", {}, "not predictions of MTEB"),
        ({"mteb_model_meta": {}}, {}, "there is no subset"),
        ({"default": {}}, {}, "there is no split"),
        ({"default": []}, {}, "no subset None"),
        ({"default": {"test": {}}}, {}, "holds no result"),
        ({"default": {"test": {"q": {}}}}, {}, "holds no result"),
        ({"default": {"test": {"q": ["d"]}}}, {}, "'q' has no scores"),
        ({"default": {"test": {"q": {"d": "1"}}}}, {}, "'d': the score '1' is not a finite number"),
        ({"default": {"test": {"q": {"d": True}}}}, {}, "not a finite number"),
        ('{"default": {"test": {"q": {"d": NaN}}}}', {}, "not a finite number"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_named(tmp_path, record, options, said):
    path = write(tmp_path / "p.json", record)
    with pytest.raises(DataError, match=said) as caught:
        parse_predictions(path, **options)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        parse_predictions(tmp_path / "none.json")


def test_what_cannot_be_written(tmp_path):
    for bad in ({}, {"q": {}}, {"q": {"d": float("inf")}}):
        with pytest.raises(InputError):
            write_predictions(tmp_path / "p.json", bad, "minilm")
    with pytest.raises(DataError, match="cannot be written"):
        write_predictions(tmp_path / "none" / "p.json", RUN, "minilm")
    assert list(tmp_path.iterdir()) == []
