"""Judged collections that other libraries know by name, and fetch where there is a network.

| name | library | extra |
|---|---|---|
| ``ir:beir/scifact/test`` | ir_datasets (MacAvaney et al., SIGIR 2021): BEIR, TREC, MS MARCO, ... | ``datasets`` |
| ``nano:SciFact`` | Hugging Face datasets: NanoBEIR, 50 queries of each collection | ``datasets`` |
| ``mteb:SciFact``, ``mteb:TASK/SUBSET`` | mteb: its retrieval and reranking tasks | ``mteb`` |

A document without a text has its title for one; without both it is left out, since nothing can be found in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..documents import Document, cleaned
from ..errors import DataError, InputError, SightlineError
from ..extras import importing
from .dataset import Dataset

__all__ = [
    "CATALOGUES",
    "corpus_of",
    "from_ir_datasets",
    "from_mteb",
    "from_nano_beir",
    "in_catalogue",
    "mteb_queries",
    "plain_documents",
]

_NANO_BEIR = "sentence-transformers/NanoBEIR-en"


def in_catalogue(name: str | Path) -> tuple[str, str] | None:
    """A name in a catalogue, taken apart.

    Args:
        name: a text that may be such a name, such as ``ir:beir/scifact``. An existing path is not one.

    Returns:
        The catalogue and the name in it, or None.

    Example:
        >>> in_catalogue("nano:SciFact"), in_catalogue("data/scifact")
        (('nano', 'SciFact'), None)
    """
    catalogue, _, rest = str(name).partition(":")
    return (catalogue, rest) if rest and catalogue in CATALOGUES and not Path(name).exists() else None


def corpus_of(catalogue: str, name: str) -> Iterable[Document]:
    """The documents of a collection, which needs no queries or judgements.

    Args:
        catalogue: the name of the catalogue, one of `CATALOGUES`.
        name: the collection's name in it. Of an MTEB task with several splits, the documents are those of ``test``, or
            else of the first.

    Raises:
        InputError: if the catalogue does not have the name, or the name has no documents.
        DataError: if the data cannot be fetched or read; also while the documents are taken.
        MissingExtraError: if the catalogue's library is not installed.
    """
    return _CORPORA[catalogue](name)


def from_ir_datasets(id: str) -> Dataset:
    """A collection of ir_datasets.

    Args:
        id: the id of a part with queries and judgements, such as ``beir/scifact/test``.

    Returns:
        The queries and judgements; the documents are read when they are asked for. The last part of the id is taken
        for the split's name.

    Raises:
        InputError: if there is no such id, or it has no documents, queries or judgements.
        DataError: if the data cannot be fetched or read.
        MissingExtraError: if ir_datasets is not installed.
    """
    collection, source = _ir_part(id, ("docs", "queries", "qrels")), f"ir:{id}"
    queries = {row.query_id: row.default_text() for row in _rows(collection.queries_iter, source)}
    qrels: dict[str, dict[str, int]] = {}
    for row in _rows(collection.qrels_iter, source):
        qrels.setdefault(row.query_id, {})[row.doc_id] = int(row.relevance)
    name, _, split = id.rpartition("/")
    return Dataset(name or id, split, Path(source), queries, qrels, lambda: _ir_documents(collection, source))


def _ir_part(id: str, needed: Collection[str]) -> Any:
    with importing("ir_datasets", extra="datasets"):
        import ir_datasets

    try:
        collection = ir_datasets.load(id)
    except KeyError:
        raise InputError(f"ir_datasets has no {id!r}; see https://ir-datasets.com for what there is") from None
    lacks = [part for part in needed if not getattr(collection, f"has_{part}")()]
    if lacks:
        raise InputError(f"{id!r} of ir_datasets has no {', no '.join(lacks)}; name a part of it that has")
    return collection


def _ir_documents(collection: Any, source: str) -> Iterator[Document]:
    for row in _rows(collection.docs_iter, source):
        has_text = isinstance(getattr(row, "text", None), str)
        yield from plain_documents(
            [{"id": row.doc_id, "title": getattr(row, "title", ""), "text": row.text}]
            if has_text
            else [{"id": row.doc_id, "text": row.default_text()}]
        )


def from_nano_beir(name: str, repository: str = _NANO_BEIR) -> Dataset:
    """A collection of NanoBEIR.

    Args:
        name: the collection's name, such as ``SciFact``, in any capitals.
        repository: a repository of Hugging Face, or a folder; with the configurations ``corpus``, ``queries`` and
            ``qrels``, in each of which ``NanoSciFact`` is a split.

    Raises:
        InputError: if there is no such collection.
        DataError: if the data cannot be fetched or read.
        MissingExtraError: if datasets is not installed.
    """
    split, rows = _nano_parts(name, repository)
    qrels: dict[str, dict[str, int]] = {}
    for row in rows("qrels"):
        relevant = row["corpus-id"]
        for document in [relevant] if isinstance(relevant, str) else relevant:
            qrels.setdefault(row["query-id"], {})[document] = int(row.get("score", 1))
    queries = {row["_id"]: row["text"] for row in rows("queries")}
    return Dataset(split, "test", Path(f"nano:{name}"), queries, qrels, lambda: plain_documents(rows("corpus")))


def _nano_parts(name: str, repository: str) -> tuple[str, Callable[[str], Iterable[Mapping[str, Any]]]]:
    """The split that is the collection, and what gives its rows by configuration."""
    with importing("datasets", extra="datasets"):
        import datasets

    source = f"nano:{name}"
    splits = {
        split.lower(): split
        for split in _fetched(lambda: datasets.get_dataset_split_names(repository, "corpus"), source)
    }
    split = splits.get(f"nano{name.lower()}")
    if split is None:
        raise InputError(f"NanoBEIR has no {name!r}; there are {', '.join(s[4:] for s in splits.values())}")
    return split, lambda part: _fetched(lambda: datasets.load_dataset(repository, part, split=split), source)


def from_mteb(name: str | Any, split: str = "test") -> Dataset:
    """A retrieval or reranking task of MTEB (Muennighoff et al., EACL 2023).

    Args:
        name: the name of the task, with ``/SUBSET`` where it has several; or a task.
        split: the name of one of its evaluation splits.

    Raises:
        InputError: if there is no such task, subset or split, or it is no retrieval of texts.
        DataError: if the data cannot be fetched or read.
        MissingExtraError: if mteb is not installed.
    """
    known, subset, splits = _mteb_splits(name)
    if split not in splits:
        raise InputError(f"{known} of mteb has no split {split!r}; there are {', '.join(splits)}")
    data = splits[split]
    qrels = {id: {d: int(grade) for d, grade in grades.items()} for id, grades in data["relevant_docs"].items()}
    return Dataset(
        f"{known}/{subset}" if subset else known,
        split,
        Path(f"mteb:{known}"),
        mteb_queries(data["queries"]),
        qrels,
        lambda: plain_documents(data["corpus"]),
    )


def _mteb_splits(name: str | Any) -> tuple[str, str, Mapping[str, Any]]:
    """The task's name, the subset that was asked for or "", and its data by split."""
    with importing("mteb", extra="mteb"):
        import mteb
        from mteb.abstasks.retrieval import AbsTaskRetrieval

    subset = ""
    if isinstance(name, str):
        name, _, subset = name.partition("/")
        try:
            task = mteb.get_task(name)
        except (KeyError, ValueError) as error:
            raise InputError(f"mteb has no task {name!r}: {error}") from None
    else:
        task = name
    known = task.metadata.name
    if not isinstance(task, AbsTaskRetrieval) or "text" not in task.metadata.modalities:
        raise InputError(f"{known} of mteb is a {task.metadata.type}; a retrieval or reranking of texts is needed")

    def load() -> None:
        task.load_data()
        task.convert_v1_dataset_format_to_v2(num_proc=None)

    _fetched(load, f"mteb:{known}")
    if not subset and len(task.dataset) > 1:
        raise InputError(
            f"{known} of mteb has several subsets; name one, as in mteb:{known}/{next(iter(task.dataset))}"
        )
    splits = task.dataset.get(subset or next(iter(task.dataset)))
    if splits is None:
        raise InputError(f"{known} of mteb has no subset {subset!r}; there are {', '.join(task.dataset)}")
    return known, subset, splits


def _mteb_corpus(name: str) -> Iterable[Document]:
    _, _, splits = _mteb_splits(name)
    return plain_documents(splits["test" if "test" in splits else next(iter(splits))]["corpus"])


def mteb_queries(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Texts by query id, each followed by its instruction where there is one, as MTEB joins them.

    Raises:
        InputError: if a query is no text.

    Example:
        >>> mteb_queries([{"id": "1", "text": "cats"}, {"id": "2", "text": "dogs", "instruction": "Find breeds."}])
        {'1': 'cats', '2': 'dogs Find breeds.'}
    """
    queries = {}
    for row in rows:
        if not isinstance(row.get("text"), str):
            raise InputError(f"query {row.get('id')!r} is not a text; only texts can be searched for")
        queries[row["id"]] = f"{row['text']} {row['instruction']}" if row.get("instruction") else row["text"]
    return queries


def plain_documents(rows: Iterable[Mapping[str, Any]]) -> Iterator[Document]:
    """Documents out of rows with ``id`` or ``_id``, ``text``, and perhaps ``title``.

    A text or title that is None counts as empty. A document without text is kept: lists may name it. A NUL becomes a
    blank, a lone surrogate U+FFFD: catalogues are not the user's to clean.

    Raises:
        DataError: if a row has no id or no text, or one that no document can have.

    Example:
        >>> rows = [{"id": "1", "title": "Cats", "text": ""}, {"_id": "2", "text": "Dogs.", "title": None}]
        >>> [(document.id, document.title, document.text) for document in plain_documents(rows)]
        [('1', 'Cats', ''), ('2', '', 'Dogs.')]
    """
    for row in rows:
        id, title, text = row.get("id", row.get("_id")), row.get("title") or "", row.get("text", row)
        text = "" if text is None else text
        if not isinstance(text, str):
            raise DataError(f"document {id!r} has no text; there are: {', '.join(map(repr, row))}")
        try:
            yield Document(id, cleaned(text), cleaned(title))
        except InputError as error:
            raise DataError(str(error)) from None


def _fetched(call: Callable[[], Any], source: str) -> Any:
    """What a library fetches; each fails in its own way where there is no network."""
    try:
        return call()
    except SightlineError:
        raise
    except Exception as error:
        raise DataError(
            f"cannot be loaded ({type(error).__name__}: {error}); fetching it for the first time needs a network",
            path=source,
        ) from error


def _rows(call: Callable[[], Iterable[Any]], source: str) -> Iterator[Any]:
    """What a library fetches row by row."""
    rows = _fetched(lambda: iter(call()), source)
    while (row := _fetched(lambda: next(rows, None), source)) is not None:
        yield row


CATALOGUES: dict[str, Callable[[str, str], Dataset]] = {
    "ir": lambda name, split: from_ir_datasets(name),
    "mteb": from_mteb,
    "nano": lambda name, split: from_nano_beir(name),
}

_CORPORA: dict[str, Callable[[str], Iterable[Document]]] = {
    "ir": lambda name: _ir_documents(_ir_part(name, ("docs",)), f"ir:{name}"),
    "mteb": _mteb_corpus,
    "nano": lambda name: plain_documents(_nano_parts(name, _NANO_BEIR)[1]("corpus")),
}
