"""The study of a decoder's score as one more signal, on runs whose best sum is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from sightline.errors import InputError
from sightline.eval import evaluate
from sightline.eval.loading import load_dataset
from sightline.recipes import decoder_feature as module
from sightline.recipes.decoder_feature import Lists, chosen_weight, feature, qualities

DEFAULT, DECODER = "hybrid+minilm", "hybrid+hf:tiny#icr"


def some_lists(rng, name="toy", good=True):
    """The default sees half of what makes a document relevant, the decoder the other half, or nothing."""
    qrels, default, decoder = {}, {}, {}
    for number in range(40):
        seen, other = rng.normal(size=(2, 12))
        best = np.argsort(-(seen + other))[:2]
        query = f"q{number}"
        qrels[query] = {f"d{i}": 1 for i in best.tolist()}
        default[query] = {f"d{i}": float(value) for i, value in enumerate(seen)}
        scores = 1e-4 * (other if good else rng.normal(size=12)) + 0.01
        decoder[query] = {f"d{i}": float(value) for i, value in enumerate(scores)}
    return Lists(name, qrels, default, decoder)


def test_a_feature_is_standardised_whatever_its_scale():
    scores = {"a": 0.1, "b": 0.4, "c": 0.2}
    values = feature(scores)
    assert np.mean(list(values.values())) == pytest.approx(0) and np.std(list(values.values())) == pytest.approx(1)
    assert feature({id: 1e-6 * score - 3 for id, score in scores.items()}) == pytest.approx(values)
    assert feature({"a": 2.0, "b": 2.0}) == {"a": 0.0, "b": 0.0}


def test_a_weight_is_found_where_the_decoder_knows_more_and_none_where_it_does_not():
    rng = np.random.default_rng(0)
    helpful = [some_lists(rng), some_lists(rng)]
    weight, means = chosen_weight(helpful)
    assert 0.5 <= weight <= 1.5
    assert np.mean(means[weight]) > np.mean(means[0.0]) + 0.1
    useless = some_lists(rng, good=False)
    assert chosen_weight([useless])[0] <= 0.2
    assert means[0.0][0] == pytest.approx(np.mean(list(qualities(helpful[0], 0.0).values())))


def test_other_candidates_are_refused():
    lists = some_lists(np.random.default_rng(0))
    lists.decoder["q3"].pop("d0")
    with pytest.raises(InputError, match="query 'q3': the two systems ranked different documents"):
        qualities(lists, 0.0)


def test_the_command_reads_what_a_matrix_wrote(tmp_path):
    rng = np.random.default_rng(1)
    for role, name in (("dev", "one"), ("eval", "two")):
        lists, folder = some_lists(rng), tmp_path / "data" / name
        (folder / "qrels").mkdir(parents=True)
        rows = {"corpus": [f"d{i}" for i in range(12)], "queries": list(lists.qrels)}
        for file, ids in rows.items():
            text = "".join(json.dumps({"_id": id, "text": id}) + "\n" for id in ids)
            (folder / f"{file}.jsonl").write_text(text)
        judged = "".join(f"{q}\t{d}\t1\n" for q, grades in lists.qrels.items() for d in grades)
        (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
        runs = {DEFAULT: lists.default, DECODER: lists.decoder}
        evaluate(runs, load_dataset(folder, "test")).save(tmp_path / role / name)
    app = typer.Typer()
    app.command()(module.study)
    options = ["--data", tmp_path / "data", "--dev", tmp_path / "dev", "--eval", tmp_path / "eval"]
    out = tmp_path / "figures.json"
    done = CliRunner().invoke(app, [DECODER, *map(str, options), "--out", str(out)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    figures = json.loads(out.read_text())
    gain = figures["gains"]["two"]
    assert gain["difference"]["mean"] == pytest.approx(gain["after"] - gain["before"], abs=1e-12)
    assert figures["dev"]["0"]["worst_difference"] == 0 and f"{figures['weight']:g}" in figures["dev"]
    assert "two" in done.output and "one" not in done.output.splitlines()[-3]
    lost = CliRunner().invoke(app, ["hybrid+other", *map(str, options)])
    assert isinstance(lost.exception, InputError)
