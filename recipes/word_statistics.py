"""Count the word statistics that ship with Sightline, for `sightline.retrieval.bm25`.

    python -m sightline.recipes.word_statistics COLLECTION... --out data/word_statistics.tsv

The shipped file is of nq_train, squad_train_sub, medquad, fairytaleqa, pubmedqa and stackexchange_small: collections
under open licences, each with the same weight. It has stems and counts only, no text.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
from collections import defaultdict
from pathlib import Path

from ..retrieval.analysis import document_terms
from ..retrieval.fts5 import Fts5Index
from ..retrieval.sources import load_documents

_DOCUMENTS = 4000  # of each collection
_CHARACTERS = 1500  # of each document, about as long as a passage of an index
_LEAST = 12  # stems in fewer documents count as rare
_RARE = 4


def count(collections: list[Path], out: Path) -> None:
    """Write the statistics of some collections, in BEIR layout, to a file."""
    frequencies: dict[str, float] = defaultdict(float)
    documents, terms = 0, 0
    for collection in collections:
        texts = [document.contents[:_CHARACTERS] for document in load_documents(collection / "corpus.jsonl")]
        random.Random(0).shuffle(texts)
        texts = texts[:_DOCUMENTS]
        table = Fts5Index(connection := sqlite3.connect(":memory:"))
        table.add(range(len(texts)), texts)
        connection.execute("CREATE VIRTUAL TABLE terms USING fts5vocab('lexical', 'row')")
        weight = _DOCUMENTS / len(texts)
        for stem, number in connection.execute("SELECT term, doc FROM terms"):
            frequencies[stem] += number * weight
        documents += _DOCUMENTS
        terms += round(weight * sum(len(document_terms(text)) for text in texts))
    kept = sorted((stem, round(number)) for stem, number in frequencies.items() if number >= _LEAST)
    lines = [f"{documents}\t{terms / documents:.1f}\t{_RARE}", *(f"{stem}\t{number}" for stem, number in kept)]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("collections", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    count(arguments.collections, arguments.out)
