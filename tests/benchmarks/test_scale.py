"""The benchmark of growth: passages like those of the collection, a reader that keeps to the protocol, whole rows."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from sightline.benchmarks import scale


@pytest.fixture
def folder(collection):
    texts = [" ".join(["cats", "purr", f"word{number}"] * (number % 5 + 2)) for number in range(60)]
    return collection(texts, "who purrs")


def test_passages_have_the_lengths_and_words_of_the_collection(folder):
    made = scale.MadeUp(folder)
    few, many = list(made.passages(70)), list(made.passages(1500))
    assert [document.text for document in many[:70]] == [document.text for document in few]
    assert len({document.id for document in many}) == 1500
    lengths = [len(document.text.split()) for document in many]
    assert set(lengths) == set(made.lengths) and abs(np.mean(lengths) - made.lengths.mean()) < 1
    words = [word for document in many for word in document.text.split()]
    assert abs(words.count("cats") / len(words) - 1 / 3) < 0.03
    assert all(set(query.split()) <= set(words) for query in made.queries(20, 1500))


def test_the_reader_reads_each_text_alone(folder):
    reader = scale.TableReader(["cats", "purr"], dim=8)
    texts = ["Cats purr loudly", "", "purr"]
    read = reader.read(texts)
    assert read.offsets.tolist() == [0, 3, 3, 4] and read.spans.tolist() == [[0, 4], [5, 9], [10, 16], [0, 4]]
    np.testing.assert_allclose(np.linalg.norm(read.pooled, axis=1), 1, rtol=1e-6)
    for place, text in enumerate(texts):
        alone = reader.read([text])
        np.testing.assert_allclose(alone.states, read.states[read.offsets[place] : read.offsets[place + 1]], rtol=1e-6)
        np.testing.assert_allclose(alone.pooled[0], read.pooled[place], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lexical", ["fts5", "tantivy"])
def test_every_size_has_a_row_for_every_structure_and_indexes_are_kept(folder, tmp_path, lexical):
    pytest.importorskip("faiss")
    command = [str(folder), "--passages", "300", "--queries", "4", "--factory", "Flat", "--factory", "HNSW8"]
    command += ["--scratch", str(tmp_path / "kept"), "--lexical", lexical]
    (tmp_path / "kept").mkdir()
    for built in (["all", "structure alone"], ["structure alone"] * 2):
        done = CliRunner().invoke(scale.app, command)
        assert done.exit_code == 0, done.output
        rows = json.loads(done.stdout)["rows"]
        assert [(row["passages"], row["faiss"]) for row in rows] == [(300, "Flat"), (300, "HNSW8")]
        assert [row["built"] for row in rows] == built
        assert all(0 < row["search p50, ms"] <= row["search p99, ms"] for row in rows)
        assert rows[1]["disk, MB"]["embeddings"] > rows[0]["disk, MB"]["embeddings"]
