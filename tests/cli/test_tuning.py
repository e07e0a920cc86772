"""``sightline tune`` on a collection of a handful of texts."""

import json

from sightline.rerank.loading import load_reranker

TEXTS = {"cats": "Cats purr when content.", "dogs": "Dogs bark at strangers.", "iron": "Iron rusts in damp air."}
QUERIES = {"q1": ("why do cats purr", "cats"), "q2": ("what makes iron rust", "iron")}


def test_the_command_writes_a_layout_that_rerank_takes(run, tmp_path, scorer_folders):
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    rows = {
        "corpus.jsonl": [{"_id": id, "text": text} for id, text in TEXTS.items()],
        "queries.jsonl": [{"_id": id, "text": text} for id, (text, _) in QUERIES.items()],
    }
    for name, lines in rows.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    qrels = "".join(f"{id}\t{answer}\t1\n" for id, (_, answer) in QUERIES.items())
    (folder / "qrels" / "dev.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}")
    reader, out = f"late-interaction:{scorer_folders['late-interaction']}", tmp_path / "mine.yaml"
    arguments = ["tune", reader, "--dev", f"{folder}:dev", "--out", str(out)]
    code, said, err = run(*arguments, "--json")
    assert code == 0, err
    said = json.loads(said)
    assert (said["reader"], said["file"], said["better"]) == (reader, str(out), False)
    reranker = load_reranker(out)
    assert (reranker.layout, reranker.model) == ("mine", reader)
    assert reranker.spec.as_dict() == said["layout"]
    code, said, _ = run(*arguments)
    assert code == 0
    said = " ".join(said.split())
    assert "no: reading the token states gives" in said and "--rerank none" in said
    code, _, err = run("tune", reader, "--dev", f"{folder}:dev", "--out", tmp_path / "mine.json")
    assert code == 2 and "ends in .yaml" in err
