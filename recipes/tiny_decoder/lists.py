"""Lists of made-up facts, of which one answers: what the tiny decoder is trained and tried on.

    python -m sightline.recipes.tiny_decoder.lists OUT

writes a collection in BEIR layout, with the lists as a TREC run, their documents in no order; or, if OUT ends in
``.jsonl``, lists for `sightline train`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from ...documents import Document
from ...training.examples import Example, write_examples

__all__ = ["draw_lists", "make_list", "words", "write_lists"]

_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def words() -> tuple[list[str], list[str], list[str]]:
    """Keys, codes and fillers: made-up words, the same ones every time."""
    made_up = random.Random(0).sample([a + b for a in _SYLLABLES for b in _SYLLABLES], 480)
    return made_up[:200], made_up[200:400], made_up[400:]


def make_list(count: int, draw: random.Random, filler: int = 2) -> tuple[list[Document], list[str], list[str]]:
    """Documents, the query that each answers, and the answers.

    Example:
        >>> documents, queries, answers = make_list(2, random.Random(0))
        >>> documents[0].text.endswith(f"{answers[0]} is the code of {queries[0].split()[-1]}")
        True
    """
    keys, codes, fillers = words()
    chosen = draw.sample(keys, count)
    answers = draw.sample(codes, count)
    texts = [
        " ".join([*draw.choices(fillers, k=filler), code, "is", "the", "code", "of", key])
        for key, code in zip(chosen, answers, strict=True)
    ]
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    return documents, [f"what is the code of {key}" for key in chosen], answers


def draw_lists(queries: int, count: int, seed: int) -> Iterator[tuple[str, list[Document], int]]:
    """Lists in which one document answers: query, documents, place of the answer."""
    draw = random.Random(seed)
    for _ in range(queries):
        documents, texts, _ = make_list(count, draw)
        gold = draw.randrange(count)
        yield texts[gold], documents, gold


def write_lists(out: str | Path, queries: int = 100, count: int = 16, seed: int = 0) -> None:
    """Write a collection, ``corpus.jsonl``, ``queries.jsonl``, ``qrels/test.tsv`` and ``run.trec``; or lists to learn.

    Args:
        out: a folder, made if missing; or a file ``.jsonl`` of lists as `sightline train` reads them.
        queries: how many, each with a list of its own.
        count: documents in a list.
        seed: seed that decides what is drawn.
    """
    folder = Path(out)
    if folder.suffix == ".jsonl":
        folder.parent.mkdir(parents=True, exist_ok=True)
        drawn = draw_lists(queries, count, seed)
        write_examples(
            folder,
            (Example(query, (docs[gold],), ((*docs[:gold], *docs[gold + 1 :]),)) for query, docs, gold in drawn),
        )
        return
    corpus, questions, qrels, run = [], [], ["query-id\tcorpus-id\tscore"], []
    for number, (query, documents, gold) in enumerate(draw_lists(queries, count, seed)):
        questions.append({"_id": f"q{number}", "text": query})
        qrels.append(f"q{number}\td{number}-{gold}\t1")
        for document in documents:
            corpus.append({"_id": f"d{number}-{document.id}", "title": "", "text": document.text})
            run.append(f"q{number} Q0 d{number}-{document.id} {document.id} {count - int(document.id)} made-up")
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, lines in (
        ("corpus.jsonl", map(json.dumps, corpus)),
        ("queries.jsonl", map(json.dumps, questions)),
        ("qrels/test.tsv", qrels),
        ("run.trec", run),
    ):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Write the collection."""
    parser = argparse.ArgumentParser(description="Write lists of made-up facts, to try on or to learn from.")
    parser.add_argument("out", type=Path, help="a folder, or a file .jsonl of lists to learn from")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_lists(args.out, args.queries, args.count, args.seed)
    sys.stdout.write(json.dumps({"queries": args.queries, "documents": args.queries * args.count}) + "\n")


if __name__ == "__main__":
    main()
