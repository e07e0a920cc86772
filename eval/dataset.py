"""A judged collection in BEIR layout: corpus, queries, judgements of one split."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from ..documents import Document
from ..errors import DataError, InputError
from ..retrieval.readers import read_documents
from .trec import read_qrels, read_queries

__all__ = ["Dataset", "load_dataset"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """One split of a judged collection.

    Args:
        name: of the folder.
        split: of the judgements.
        folder: with ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` (Thakur et al., 2021).
        queries: texts by id; only those with judgements.
        qrels: grades by query id and document id.
    """

    name: str
    split: str
    folder: Path
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]

    def documents(self, only: Set[str] | None = None) -> Iterator[Document]:
        """The corpus, as a stream.

        Args:
            only: ids wanted; None for all.
        """
        if only is None:
            yield from read_documents(self.folder, format="beir")
            return
        for document in read_documents(self.folder, format="beir"):
            if document.id in only:
                yield document


def load_dataset(
    folder: str | Path, split: str = "test", *, qrels: str | Path | None = None, max_queries: int | None = None
) -> Dataset:
    """Read the queries and judgements of one split.

    Args:
        folder: a BEIR folder.
        split: names ``qrels/<split>.tsv``.
        qrels: judgements to use instead, in BEIR or TREC format; all queries of ``qrels/<split>.tsv`` stay.
        max_queries: keep the first so many queries, in the order of the judgements.

    Raises:
        DataError: if a file is missing or malformed, a judged query has no text, or ``qrels`` judges no query.
        InputError: if ``max_queries`` is below 1.
    """
    folder = Path(folder)
    if max_queries is not None and max_queries < 1:
        raise InputError(f"max_queries must be at least 1, not {max_queries}")
    judged = folder / "qrels" / f"{split}.tsv"
    if not judged.is_file():
        splits = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
        raise DataError(f"no such judgements; splits there: {', '.join(splits) or 'none'}", path=judged)
    grades = read_qrels(judged)
    texts = read_queries(folder / "queries.jsonl")
    ids = list(grades)[:max_queries]
    missing = [id for id in ids if id not in texts]
    if missing:
        raise DataError(f"judged query {missing[0]!r} has no text in queries.jsonl ({len(missing)} such)", path=judged)
    if qrels is not None:
        grades = read_qrels(qrels)
        if not any(id in grades for id in ids):
            raise DataError(f"judges none of the {len(ids)} queries of {folder.name}, split {split}", path=qrels)
    return Dataset(
        folder.resolve().name, split, folder, {id: texts[id] for id in ids}, {id: grades.get(id, {}) for id in ids}
    )
