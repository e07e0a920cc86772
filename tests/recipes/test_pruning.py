"""The study of pruning, on a collection of three documents whose answers are known."""

import json

import pytest

from sightline.documents import Document, Passage
from sightline.recipes.pruning import SHARES, WAYS, choices, study
from sightline.rerank import Evidence
from sightline.search import Hit

TEXT = "Dogs bark at strangers. Cats purr when content. Iron rusts in the rain."


def test_every_way_keeps_as_many_sentences():
    passage = Passage(Document("d", "Before. " + TEXT), 8, 8 + len(TEXT))
    spans = [Evidence(32, 55, 0.8, "Cats purr when content."), Evidence(8, 31, 0.2, "Dogs bark at strangers.")]
    hit = Hit(
        rank=1, id="d", score=0, document=passage.document, passage=passage, first_rank=1, first_score=0, evidence=spans
    )
    kept = choices("where does iron rust", hit, 0.7)
    read = {way: [passage.document.text[start:end] for start, end in sentences] for way, sentences in kept.items()}
    assert read == {
        "attention": ["Cats purr when content."],
        "first sentences": ["Dogs bark at strangers."],
        "words of the question": ["Iron rusts in the rain."],
    }


def test_the_study_counts_tokens_and_answers(tmp_path):
    data = tmp_path / "animals"
    (data / "qrels").mkdir(parents=True)
    texts = {"a": TEXT, "b": "Glass is made of sand. It is clear.", "c": "Ships sail on the sea. They carry goods."}
    (data / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": id, "text": text}) + "\n" for id, text in texts.items())
    )
    (data / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "what do happy cats do"}) + "\n")
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    place = f"q\ta\t{TEXT.index('purr')}\t4\t{len(TEXT)}\t1\n"
    header = "query-id\tcorpus-id\tanswer_start\tanswer_len\tpassage_len\toccurrences\n"
    (data / "spans.tsv").write_text(header + place)
    study([data], tmp_path / "work", out=tmp_path / "pruning.json")
    figures = json.loads((tmp_path / "pruning.json").read_text())["figures"]["animals"]
    assert list(figures) == [str(share) for share in SHARES]
    assert all(list(row) == ["tokens", *WAYS] for row in figures.values())
    assert all(row["attention"] == 1 for row in figures.values())
    assert figures["0.3"]["first sentences"] == 0
    tokens = [row["tokens"] for row in figures.values()]
    assert tokens == sorted(tokens) and 0 < tokens[0] < tokens[-1] <= 1
    # At .3, the best sentence of each passage is kept.
    assert tokens[0] == pytest.approx(13 / 28, abs=0.15)
