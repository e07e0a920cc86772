import json

import pytest


@pytest.fixture
def collection(tmp_path):
    """Writes texts and questions as a collection in BEIR's layout, and gives its folder."""

    def write(texts, *questions):
        lines = [json.dumps({"_id": str(number), "title": "", "text": text}) for number, text in enumerate(texts)]
        (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
        asked = [json.dumps({"_id": f"q{number}", "text": text}) for number, text in enumerate(questions)]
        (tmp_path / "queries.jsonl").write_text("\n".join(asked))
        (tmp_path / "qrels").mkdir()
        judged = [f"q{number}\t1\t1\n" for number in range(len(questions))]
        (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
        return tmp_path

    return write
