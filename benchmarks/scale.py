"""How an index grows, from thousands of passages to a million: seconds to build, milliseconds to search, bytes.

    python -m sightline.benchmarks.scale BEIR_FOLDER --passages 10000 --passages 100000 --passages 1000000

The passages are made up: as long as those of the folder, of its words, each as often as there. Their token states are
small (64 numbers in int8) and come from a table instead of a network, so the figures are those of everything but the
network: storing, FAISS, BM25, reading states, attention, evidence. What encoding takes, `pipeline encoding` measures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from ..cli.running import Command
from ..documents import Document
from ..eval.cost import index_bytes
from ..eval.loading import load_dataset
from ..models.reader import BlockReader, TokenStates
from ..rerank.late_interaction import LateInteractionReranker
from ..retrieval.index import Index
from ..retrieval.manifest import FaissRecord, Manifest
from ..search import Searcher
from .timing import own_kilobytes, print_report

__all__ = ["MadeUp", "TableReader", "scale"]

FACTORIES = ("Flat", "IVF1024,PQ16x8", "HNSW32")
_DIM = 64
_WORD = re.compile(r"\w+")
_QUERY_WORDS = 8
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class MadeUp:
    """Passages that are as long as those of a collection, of its words at random.

    Args:
        folder: the collection, in BEIR's layout.
        sample: how many of its documents are looked at.
        seed: decides what is drawn.
    """

    def __init__(self, folder: Path, sample: int = 5000, seed: int = 0) -> None:
        documents = itertools.islice(load_dataset(folder).documents(), sample)
        words = [_WORD.findall(document.contents.lower()) for document in documents]
        self.lengths = np.array([len(own) for own in words if own])
        self.words, counts = np.unique([word for own in words for word in own], return_counts=True)
        self.shares = counts / counts.sum()
        self.seed = seed

    def passages(self, count: int) -> Iterator[Document]:
        """So many passages; the first are the same, however many there are."""
        for start in range(0, count, 1000):
            random = np.random.default_rng([self.seed, start])
            lengths = random.choice(self.lengths, 1000)
            words = self.words[random.choice(len(self.words), lengths.sum(), p=self.shares)].tolist()
            ends = np.cumsum(lengths).tolist()
            for place, (end, length) in enumerate(zip(ends, lengths.tolist(), strict=True)):
                if start + place < count:
                    yield Document(str(start + place), " ".join(words[end - length : end]))

    def queries(self, count: int, passages: int) -> list[str]:
        """Words of passages, at random."""
        random = np.random.default_rng([self.seed, 1 << 32])
        wanted = set(random.choice(passages, min(count, passages), replace=False).tolist())
        found = [document.text.split() for document in self.passages(passages) if int(document.id) in wanted]
        return [" ".join(random.choice(words, min(_QUERY_WORDS, len(words)), replace=False)) for words in found]


class TableReader(BlockReader):
    """Reads words by a table: a word's state is its random vector and a part of its left neighbour's.

    Args:
        words: the words that have a vector; others share one.
        dim: the length of a state.
    """

    name, revision, max_length = "table", "1", 256

    def __init__(self, words: Sequence[str], dim: int = _DIM) -> None:
        self.dim = dim
        self._row = {word: row for row, word in enumerate(words)}
        table = np.random.default_rng(0).normal(size=(len(words) + 1, dim)).astype(np.float32)
        self._table = table / np.linalg.norm(table, axis=1, keepdims=True)

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """See `BlockReader.token_offsets`."""
        return [match.span() for match in _WORD.finditer(text)]

    def read(
        self,
        texts: Sequence[str],
        *,
        kind: Literal["query", "document"] = "document",
        states: bool = True,
        behind: str = "",
    ) -> TokenStates:
        """See `BlockReader.read`."""
        found = [list(_WORD.finditer(text)) for text in texts]
        kept = [own[: self.room] for own in found]
        counts = np.array([len(own) for own in kept])
        offsets = np.concatenate([[0], np.cumsum(counts)])
        unknown = len(self._row)
        rows = np.array([self._row.get(match[0].lower(), unknown) for own in kept for match in own], dtype=np.int64)
        packed = self._table[rows]
        inner = np.setdiff1d(np.arange(len(rows)), offsets)  # all but the first word of each text
        packed[inner] += 0.3 * self._table[rows[inner - 1]]
        packed /= np.linalg.norm(packed, axis=1, keepdims=True)
        sums = np.add.reduceat(np.concatenate([packed, np.zeros((1, self.dim), np.float32)]), offsets[:-1], axis=0)
        sums[counts == 0] = self._table[-1]
        pooled = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        spans = np.array([match.span() for own in kept for match in own], dtype=np.int32).reshape(-1, 2)
        cut = np.array([len(own) for own in found]) - counts
        return TokenStates(packed if states else None, offsets, spans, pooled, cut)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder.encode_queries`."""
        return self.read(texts, states=False).pooled

    encode_documents = encode_queries


@app.command(cls=Command)
def scale(
    folder: Path,
    passages: Annotated[list[int] | None, typer.Option(help="Sizes; by default 10000, 100000 and 1000000.")] = None,
    factory: Annotated[list[str] | None, typer.Option(help=f"By default {', '.join(FACTORIES)}.")] = None,
    lexical: Annotated[Literal["fts5", "tantivy"], typer.Option(help="BM25 engine.")] = "tantivy",
    queries: Annotated[int, typer.Option(help="Different queries to time.")] = 200,
    candidates: Annotated[int, typer.Option(help="Candidates per query.")] = 100,
    scratch: Annotated[Path | None, typer.Option(help="Folder for the indexes, which are kept there.")] = None,
) -> None:
    """Build an index of each size, search it with each FAISS structure in turn, and print what that took."""
    made = MadeUp(folder)
    reader = TableReader(made.words.tolist())
    reranker = LateInteractionReranker("minilm", reader)
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        where = scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for size in passages or [10_000, 100_000, 1_000_000]:
            asked = made.queries(queries, size)
            path = where / f"{size}-{lexical}"
            for name in factory or FACTORIES:
                what = "structure alone" if _with_factory(path, name) else "all"
                started = time.perf_counter()
                Index.build(
                    path, made.passages(size), encoder=reader, faiss=name, lexical=lexical, max_tokens=0
                ).close()
                spent = time.perf_counter() - started
                row: dict[str, Any] = {"passages": size, "faiss": name, "lexical": lexical, "built": what}
                rows.append(row | {"build, s": spent} | _search(path, reader, reranker, asked, candidates))
                typer.echo(json.dumps(rows[-1]), err=True)  # hours lie between the rows of large collections
    print_report(
        {"words of a passage, median": float(np.median(made.lengths)), "state": f"{_DIM} x int8", "rows": rows}
    )


def _with_factory(path: Path, factory: str) -> bool:
    """Whether there is a whole index; it is left as one of this FAISS structure, which is yet to be built."""
    if not (path / "manifest.json").exists() or not (manifest := Manifest.load(path)).complete:
        return False
    if manifest.faiss.file is not None:
        (path / manifest.faiss.file).unlink()
    dataclasses.replace(manifest, faiss=FaissRecord(factory, ""), complete=False).save(path)
    return True


def _search(
    path: Path, reader: TableReader, reranker: LateInteractionReranker, queries: Sequence[str], candidates: int
) -> dict[str, Any]:
    before = own_kilobytes(os.getpid())
    started = time.perf_counter()
    with Index.open(path, encoder=reader, verify=False) as index:
        opened, own = time.perf_counter() - started, own_kilobytes(os.getpid())
        searcher = Searcher(index, reranker, candidates=candidates)
        spent, stages = [], []
        for query in queries:
            started = time.perf_counter()
            result = searcher.search(query, 10, evidence="sentence")
            spent.append(time.perf_counter() - started)
            stages.append(result.milliseconds)
        after = own_kilobytes(os.getpid())
        sizes = index_bytes(index.path)
    p50, p90, p99 = np.percentile(spent, [50, 90, 99]) * 1e3
    medians = {f"  of it {name}, ms": float(np.median([stage[name] for stage in stages])) for name in stages[0]}
    return {
        "open, ms": opened * 1e3,
        "search p50, ms": p50,
        **medians,
        "search p90, ms": p90,
        "search p99, ms": p99,
        "memory of its own after opening, MB": (own - before) * 1024 / 1e6,
        "memory of its own after searching, MB": (after - before) * 1024 / 1e6,
        "disk, MB": {part: size / 1e6 for part, size in (sizes | {"total": sum(sizes.values())}).items()},
    }


if __name__ == "__main__":
    app()
