"""A judged collection: corpus, queries, judgements of one split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, replace
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
        name: of the folder, or in the catalogue.
        split: of the judgements.
        folder: with ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` (Thakur et al., 2021); or else what
            messages say where the data is from.
        queries: texts by id; only those with judgements.
        qrels: grades by query id and document id.
        corpus: gives the documents, anew at each call; None for those of the folder.
    """

    name: str
    split: str
    folder: Path
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    corpus: Callable[[], Iterable[Document]] | None = None

    def documents(self, only: Set[str] | None = None) -> Iterator[Document]:
        """The corpus, as a stream.

        Args:
            only: ids wanted; None for all.
        """
        corpus = read_documents(self.folder, format="beir") if self.corpus is None else self.corpus()
        for document in corpus:
            if only is None or document.id in only:
                yield document


def load_dataset(
    folder: str | Path, split: str = "test", *, qrels: str | Path | None = None, max_queries: int | None = None
) -> Dataset:
    """Read the queries and judgements of one split.

    Args:
        folder: a BEIR folder, or a name in a catalogue: ``ir:ID`` of ir_datasets, ``mteb:TASK`` (or
            ``mteb:TASK/SUBSET``), ``nano:NAME`` of NanoBEIR; see `sightline.eval.catalogues`.
        split: names ``qrels/<split>.tsv``, or a split of the task; an ir_datasets id has its own in it.
        qrels: judgements to use instead, in BEIR or TREC format; all queries of the split stay.
        max_queries: keep the first so many queries, in the order of the judgements.

    Raises:
        DataError: if a file is missing or malformed, a judged query has no text, or ``qrels`` judges no query.
        InputError: if ``max_queries`` is below 1, or a catalogue does not have the name.
        MissingExtraError: if the catalogue's library is not installed.
    """
    from .catalogues import CATALOGUES

    if max_queries is not None and max_queries < 1:
        raise InputError(f"max_queries must be at least 1, not {max_queries}")
    catalogue, _, name = str(folder).partition(":")
    if name and catalogue in CATALOGUES and not Path(folder).exists():
        whole, judged = CATALOGUES[catalogue](name, split), Path(folder)
    else:
        whole, judged = _read_folder(Path(folder), split), Path(folder) / "qrels" / f"{split}.tsv"
    ids = list(whole.qrels)[:max_queries]
    missing = [id for id in ids if id not in whole.queries]
    if missing:
        raise DataError(f"judged query {missing[0]!r} has no text among the queries ({len(missing)} such)", path=judged)
    grades = whole.qrels
    if qrels is not None:
        grades = read_qrels(qrels)
        if not any(id in grades for id in ids):
            raise DataError(f"judges none of the {len(ids)} queries of {whole.name}, split {whole.split}", path=qrels)
    return replace(whole, queries={id: whole.queries[id] for id in ids}, qrels={id: grades.get(id, {}) for id in ids})


def _read_folder(folder: Path, split: str) -> Dataset:
    """All there is of a split."""
    judged = folder / "qrels" / f"{split}.tsv"
    if not judged.is_file():
        splits = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
        raise DataError(f"no such judgements; splits there: {', '.join(splits) or 'none'}", path=judged)
    grades = read_qrels(judged)
    return Dataset(folder.resolve().name, split, folder, read_queries(folder / "queries.jsonl"), grades)
