"""Judged collections: corpus, queries, and judgements of one split."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from ..documents import Document
from ..errors import DataError, InputError
from ..retrieval.compression import SUFFIXES
from ..retrieval.sources import load_documents
from .trec import numbered_lines, plain_suffix

__all__ = ["Dataset", "candidate_texts", "collection_files"]

_COMPRESSED = ("", *SUFFIXES)
_CORPUS = ("corpus.jsonl", "corpus.tsv", "collection.tsv")
_QUERIES = ("queries.jsonl", "queries.tsv", "queries.{split}.jsonl", "queries.{split}.tsv")
_QRELS = (
    *("qrels/{split}.tsv", "qrels/{split}.txt", "qrels/{split}.qrels", "qrels/{split}.trec"),
    *("qrels.{split}.tsv", "qrels.{split}.txt", "qrels/qrels.{split}.tsv", "qrels/qrels.{split}.txt"),
)
_LAYOUT = (
    "a collection has corpus.jsonl (or collection.tsv), queries.jsonl (or queries.tsv) and qrels/SPLIT.tsv (or .txt)"
)
# By the usual name of a collection's folder, the name under which ir_datasets has it.
_KNOWN = {
    **{name: f"beir/{name}" for name in ("arguana", "climate-fever", "nq", "scidocs", "trec-covid")},
    **{
        name: f"beir/{name}/test"
        for name in ("dbpedia-entity", "fever", "fiqa", "hotpotqa", "msmarco", "nfcorpus", "quora", "scifact")
    },
    "webis-touche2020": "beir/webis-touche2020/v2",
    "trec_dl19": "msmarco-passage/trec-dl-2019/judged",
    "trec_dl20": "msmarco-passage/trec-dl-2020/judged",
}


@dataclass(frozen=True, slots=True)
class Dataset:
    """One split of a judged collection.

    Args:
        name: the name of the folder, or of the collection in the catalogue.
        split: the name of the split of the judgements.
        folder: the folder with the files of `collection_files`. For other collections, what messages name as the
            source.
        queries: the texts of the queries by id, only those with judgements.
        qrels: the grades by query id and document id.
        corpus: a function that returns all documents at each call. If None, those of the folder.
    """

    name: str
    split: str
    folder: Path
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    corpus: Callable[[], Iterable[Document]] | None = None

    @staticmethod
    def in_memory(
        documents: Iterable[Document],
        queries: Mapping[str, str],
        qrels: Mapping[str, Mapping[str, int]],
        *,
        name: str = "in memory",
        split: str = "test",
    ) -> Dataset:
        """Make a collection of data in memory.

        Args:
            documents: the documents of the corpus.
            queries: the texts of the queries by id. Those without judgements are left out.
            qrels: the grades by query id and document id.
            name: the name of the collection in results.
            split: the name of the split in results.

        Raises:
            DataError: if a judged query has no text.

        Example:
            >>> Dataset.in_memory([Document("d1", "The cat purrs.")], {"q1": "who purrs"}, {"q1": {"d1": 1}}).queries
            {'q1': 'who purrs'}
        """
        corpus = list(documents)
        if missing := [id for id in qrels if id not in queries]:
            raise DataError(f"judged query {missing[0]!r} has no text among the queries ({len(missing)} such)")
        return Dataset(
            name,
            split,
            Path(f"memory:{name}"),
            {id: queries[id] for id in qrels},
            {id: dict(grades) for id, grades in qrels.items()},
            lambda: corpus,
        )

    def documents(self, only: Set[str] | None = None) -> Iterator[Document]:
        """Iterate over the corpus.

        Args:
            only: the ids of the documents to return. If None, all of them.
        """
        corpus = _documents(_corpus_file(self.folder)) if self.corpus is None else self.corpus()
        for document in corpus:
            if only is None or document.id in only:
                yield document


def candidate_texts(
    dataset: Dataset, candidates: Mapping[str, Collection[str]], judged: bool = False
) -> dict[str, Document]:
    """Return the documents that are candidates, by id.

    Args:
        dataset: the collection that has the texts.
        candidates: the document ids by query id.
        judged: whether to return the judged documents of all queries too, as far as the corpus has them.

    Raises:
        DataError: if a candidate is not in the corpus.
    """
    ids = {document for documents in candidates.values() for document in documents}
    if judged:
        ids |= {document for query in dataset.queries for document in dataset.qrels[query]}
    texts = {document.id: document for document in dataset.documents(only=ids)}
    for query, documents in candidates.items():
        for document in documents:
            if document not in texts:
                raise DataError(f"query {query!r}: candidate {document!r} is not in the corpus", path=dataset.folder)
    return texts


def collection_files(folder: str | Path, split: str = "test") -> dict[str, Path]:
    """Return the files of one split of a collection, any of which may be compressed.

    Args:
        folder: a folder in the layout of BEIR (``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``; Thakur et
            al., 2021) or of MS MARCO (``collection.tsv``, ``queries.<split>.tsv``, ``qrels.<split>.tsv``).
        split: the name of the split of the judgements.

    Returns:
        The paths of ``corpus``, ``queries`` and ``qrels``.

    Raises:
        DataError: if there is no such folder, or it lacks one of the files. The message says which splits there are.
    """
    folder = Path(folder)
    files = {"corpus": _corpus_file(folder)}
    for part, names in (("qrels", _QRELS), ("queries", _QUERIES)):
        path = _first(folder, [name.format(split=split) for name in names])
        if path is None and part == "qrels":
            splits = ", ".join(_splits(folder)) or "none"
            path = folder / "qrels" / f"{split}.tsv"
            raise DataError(f"no judgements for the split {split!r}; splits there: {splits}", path=path)
        if path is None:
            raise DataError(f"this folder has no queries; {_LAYOUT}", path=folder)
        files[part] = path
    return files


def _corpus_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError("this is a file, not a folder" if folder.is_file() else _no_folder(folder), path=folder)
    path = _first(folder, _CORPUS)
    if path is None:
        raise DataError(f"this folder has no corpus; {_LAYOUT}", path=folder)
    return path


def _no_folder(folder: Path) -> str:
    catalogue, colon, _ = str(folder).partition(":")
    if colon and "/" not in catalogue:
        return f"there is no such folder, and no catalogue {catalogue!r}; there are ir:, mteb: and nano:"
    beside = [path.name for path in folder.parent.glob("*") if path.is_dir()] if folder.parent.is_dir() else []
    if near := difflib.get_close_matches(folder.name, beside, n=1):
        return f"no such folder; did you mean {folder.parent / near[0]}?"
    near = difflib.get_close_matches(folder.name.lower(), _KNOWN, n=1, cutoff=0.85)
    return f"no such folder; ir:{_KNOWN[near[0]]} fetches the collection {near[0]}" if near else "no such folder"


def _first(folder: Path, names: Iterable[str]) -> Path | None:
    paths = (folder / f"{name}{compressed}" for name in names for compressed in _COMPRESSED)
    return next((path for path in paths if path.is_file()), None)


def _splits(folder: Path) -> list[str]:
    """The splits that have judgements."""
    splits = set()
    for pattern in _QRELS:
        before, after = pattern.split("{split}")
        for compressed in _COMPRESSED:
            for path in folder.glob(f"{before}*{after}{compressed}"):
                splits.add(str(path.relative_to(folder).as_posix())[len(before) :].removesuffix(f"{after}{compressed}"))
    return sorted(name for name in splits if not name.startswith("qrels."))


def _documents(path: Path) -> Iterator[Document]:
    if plain_suffix(path) == ".jsonl":
        return load_documents(path, format="jsonl")
    _, first = next(numbered_lines(path), (1, ""))
    cells = first.rstrip("\r\n").split("\t")
    # A header names a column "text"; a collection of MS MARCO has no header.
    return load_documents(path, format="tsv") if "text" in cells else _collection(path)


def _collection(path: Path) -> Iterator[Document]:
    """MS MARCO: the columns are id and text, or id, title and text, or id, address, title and text; no header."""
    for line, text in numbered_lines(path):
        id, *cells = text.rstrip("\r\n").split("\t")
        if not 1 <= len(cells) <= 3:
            reason = f"a line must have 2 to 4 columns (id, perhaps address and title, text); it has {len(cells) + 1}"
            raise DataError(reason, path=path, line=line)
        try:
            yield Document(id, cells[-1], cells[-2] if len(cells) > 1 else "")
        except InputError as error:
            raise DataError(str(error), path=path, line=line) from None
