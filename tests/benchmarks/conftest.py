import json

import pytest


@pytest.fixture
def collection(tmp_path):
    """Writes texts and one question as a collection in BEIR's layout, and gives its folder."""

    def write(texts, question):
        lines = [json.dumps({"_id": str(number), "title": "", "text": text}) for number, text in enumerate(texts)]
        (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
        (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": question}))
        (tmp_path / "qrels").mkdir()
        (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
        return tmp_path

    return write
