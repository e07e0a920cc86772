"""Judged questions to draw lists from: of BEIR folders with first-stage runs, or of JSONL that others train on."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from ..documents import Document, encodable
from ..errors import DataError, InputError
from ..eval.catalogues import CATALOGUES, in_catalogue
from ..eval.dataset import Dataset
from ..eval.loading import load_dataset
from ..eval.runs import first_stage_run, load_run
from ..eval.trec import numbered_lines, trec_order
from ..files import replacing
from ..parsing import parse_json

__all__ = [
    "Example",
    "Source",
    "dataset_examples",
    "load_examples",
    "load_sources",
    "parse_examples",
    "text_key",
    "write_examples",
]

logger = logging.getLogger(__name__)

_Known = dict[tuple[str, str], tuple[Document, int]]  # by title and text: the document, and its text_key
_FIELDS = ("query", "pos", "neg")


@dataclass(frozen=True, slots=True)
class Example:
    """One question, with documents that do and do not answer it.

    Args:
        query: the text of the question.
        positives: the documents that answer it, at least one.
        pools: the presumed negatives, one pool for each first stage that found them, best first. A document may be in
            several.
        teacher: the scores of a stronger model, by `text_key`, for the documents that it scored.
        excluded: documents that are neither positive nor negative, such as those of a low grade. They are never put
            into a list of this question.
        source: the name of the collection.
    """

    query: str
    positives: tuple[Document, ...]
    pools: tuple[tuple[Document, ...], ...]
    teacher: Mapping[int, float] = field(default_factory=dict)
    excluded: tuple[Document, ...] = ()
    source: str = ""


def text_key(document: Document) -> int:
    """Hash a document's text without case and blanks (XXH3-64), so that equal texts share the result.

    Example:
        >>> text_key(Document("a", "Cats  purr.")) == text_key(Document("b", "cats purr.", title="Cats"))
        True
    """
    return xxhash.xxh3_64_intdigest(" ".join(document.text.casefold().split()).encode())


@dataclass(frozen=True, slots=True)
class Source:
    """A source of examples.

    Args:
        path: a BEIR folder, a name in a catalogue (see `load_dataset`), or a ``.jsonl`` file.
        split: the split of the judgements. Files have none.
        weight: the number of times that an epoch contains each example: 0.25 takes another quarter in each epoch, 2
            takes each example twice.

    Raises:
        InputError: if the weight is not above 0.
    """

    path: str
    split: str = "train"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise InputError(f"source {self.path!r}: the weight must be above 0, not {self.weight}")

    @classmethod
    def parse(cls, text: str, split: str = "train") -> Source:
        """Read ``PATH[:SPLIT][@WEIGHT]``.

        Args:
            text: the text to read. In a name of a catalogue, the split comes after the second colon.
            split: the split to take if the text names none.

        Raises:
            InputError: if the path is empty, or the weight is not a number above 0.

        Example:
            >>> Source.parse("data/nq_train:dev@0.5")
            Source(path='data/nq_train', split='dev', weight=0.5)
        """
        path, at, number = text.rpartition("@")
        weight = 1.0
        if at:
            try:
                weight = float(number)
            except ValueError:
                path = text  # an @ of the path's own
        else:
            path = text
        if not Path(path).exists():
            catalogue, _, rest = path.partition(":")
            prefix = f"{catalogue}:" if catalogue in CATALOGUES and rest else ""
            name, colon, named = path.removeprefix(prefix).rpartition(":")
            if colon:
                path, split = prefix + name, named
        if not path or not split:
            raise InputError(f"{text!r} is not PATH[:SPLIT][@WEIGHT]")
        return cls(path, split, weight)

    @property
    def name(self) -> str:
        """The name of the folder, of the file without its ending, or of the collection in the catalogue."""
        if self.is_file:
            return Path(self.path).stem
        return self.path if self.in_catalogue else Path(self.path).resolve().name

    @property
    def in_catalogue(self) -> bool:
        """Whether the path is a name in a catalogue, such as ``ir:beir/scifact``, rather than a folder."""
        return in_catalogue(self.path) is not None

    @property
    def is_file(self) -> bool:
        """Whether it is a file of lists rather than a judged collection."""
        return self.path.endswith((".jsonl", ".json"))


def load_sources(
    sources: Sequence[Source],
    runs: Iterable[tuple[str, str | Path]] = (),
    *,
    min_grade: int = 1,
    candidates: int = 100,
    needs_negatives: bool = False,
) -> list[Example]:
    """Load all examples of several sources.

    Args:
        sources: the sources, all with different names.
        runs: the name of a source and the file of a run, see `load_run`. A source may have several, one for each first
            stage.
        min_grade: the lowest grade of positives.
        candidates: the number of candidates of each first stage that are taken.
        needs_negatives: whether to refuse a collection in which no question has a negative.

    Raises:
        InputError: if two sources have the same name, or a run names none of them.
        DataError: see `load_examples` and `load_run`.
    """
    splits: dict[str, str] = {}
    for source in sources:
        if source.name in splits:
            raise InputError(f"two sources are called {source.name!r}; rename a folder or a file")
        splits[source.name] = source.split
    files: dict[str, list[str | Path]] = {name: [] for name in splits}
    for name, file in runs:
        if name not in files:
            raise InputError(f"a run is for {name!r}; the sources are {', '.join(splits) or 'none'}")
        files[name].append(file)
    return [
        example
        for source in sources
        for example in load_examples(
            source,
            [load_run(file, source.split) for file in files[source.name]],
            min_grade=min_grade,
            candidates=candidates,
            needs_negatives=needs_negatives,
        )
    ]


def load_examples(
    source: Source,
    runs: Sequence[Mapping[str, Mapping[str, float]]] = (),
    *,
    min_grade: int = 1,
    candidates: int = 100,
    needs_negatives: bool = False,
) -> list[Example]:
    """Load all examples of a source.

    Args:
        source: the source of the examples.
        runs: the candidates of first stages, in addition to the folder's own ``bm25.<split>.tsv`` if it exists.
        min_grade: the lowest grade of positives.
        candidates: the number of candidates of each first stage that are taken.
        needs_negatives: whether to refuse a collection in which no question has a negative, and name the command that
            mines some.

    Raises:
        InputError: if a file of lists is given runs, or negatives are needed and there are none.
        DataError: see `load_dataset`, `dataset_examples` and `parse_examples`.
    """
    if source.is_file:
        if runs:
            raise InputError(f"{source.path}: a file of lists has its negatives in it; it takes no run")
        return list(parse_examples(source.path))
    dataset = replace(load_dataset(source.path, source.split), name=source.name)
    own = [first_stage_run(dataset)] if (dataset.folder / f"bm25.{dataset.split}.tsv").is_file() else []
    examples = dataset_examples(dataset, [*own, *runs], min_grade=min_grade, candidates=candidates)
    if needs_negatives and not any(any(example.pools) for example in examples):
        hard = Path(source.path).with_name(f"{source.name}_hard.jsonl") if not source.in_catalogue else "mined.jsonl"
        raise InputError(
            f"{source.path}, split {source.split}: no question has negatives to learn from, since the folder has no "
            f"bm25.{source.split}.tsv; mine some, and train on the file that this writes: sightline mine {source.path} "
            f"--split {source.split} --system bm25 --out {hard}"
        )
    return examples


def dataset_examples(
    dataset: Dataset,
    runs: Sequence[Mapping[str, Mapping[str, float]]] = (),
    *,
    min_grade: int = 1,
    candidates: int = 100,
) -> list[Example]:
    """Make examples of a judged collection.

    Documents of a grade of ``min_grade`` or more are positives; those of a grade of 0 or less a pool of negatives of
    their own; those between are excluded. What a run names and nobody judged is presumed negative. A run that keeps to
    a scope (one story, one policy) keeps the negatives in it.

    Args:
        dataset: the texts and judgements.
        runs: the candidates by query id, one mapping for each first stage.
        min_grade: the lowest grade of positives, at least 1.
        candidates: the number of candidates of each first stage that are taken.

    Returns:
        One example for each query with a positive that has a text; others are passed over, and a warning counts them.

    Raises:
        InputError: if ``min_grade`` or ``candidates`` is below 1, or no query has a positive.
        DataError: if a candidate has no text.
    """
    if min_grade < 1 or candidates < 1:
        raise InputError(f"min_grade and candidates must be at least 1, not {min_grade} and {candidates}")
    candidate_ids = {id: [trec_order(run.get(id, {}))[:candidates] for run in runs] for id in dataset.queries}
    ids = {document for pools in candidate_ids.values() for pool in pools for document in pool}
    ids |= {document for id in dataset.queries for document in dataset.qrels[id]}
    texts = {document.id: document for document in dataset.documents(only=ids)}
    examples, without, lost = [], 0, 0
    for id, query in dataset.queries.items():
        grades = dataset.qrels[id]
        lost += sum(document not in texts for document in grades)
        grades = {document: grade for document, grade in grades.items() if document in texts}
        positives = tuple(texts[document] for document, grade in grades.items() if grade >= min_grade)
        if not positives:
            without += 1
            continue
        pools = []
        for pool in candidate_ids[id]:
            if missing := [document for document in pool if document not in texts]:
                raise DataError(f"query {id!r}: candidate {missing[0]!r} is not in the corpus", path=dataset.folder)
            # Unjudged, a document with the query's own id is the query itself, as in ArguAna.
            pools.append(tuple(texts[d] for d in pool if d != id and grades.get(d, 0) <= 0))
        if judged := tuple(texts[document] for document, grade in grades.items() if grade <= 0):
            pools.append(judged)
        excluded = tuple(texts[document] for document, grade in grades.items() if 0 < grade < min_grade)
        examples.append(Example(query, positives, tuple(pools), {}, excluded, dataset.name))
    if lost:
        logger.warning("%s: %d judged documents are not in the corpus; skipped", dataset.name, lost)
    if without:
        logger.warning("%s: %d queries have no positive; skipped", dataset.name, without)
    if not examples:
        raise InputError(f"{dataset.name}, split {dataset.split}: no query has a document of grade {min_grade} or more")
    return examples


def parse_examples(path: str | os.PathLike[str]) -> Iterator[Example]:
    r"""Read lists in the format of FlagEmbedding and others.

    A line is an object with ``query``, ``pos`` and ``neg``, and optionally ``pos_scores`` and ``neg_scores``. A text is
    a string, or an object with ``text`` and optionally ``title``. Scores are those of a stronger model, one for each
    text, and null where it gave none. Other fields are ignored.

    Args:
        path: the path of the JSONL file.

    Yields:
        The examples, in the order of the lines.

    Raises:
        DataError: if a line cannot be used, a text is both positive and negative, the file cannot be read, or it holds
            no list. The error names file and line.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "lists.jsonl")
        ...     _ = path.write_text('{"query": "who purrs", "pos": ["Cats purr."], "neg": ["Dogs bark."]}\n')
        ...     [example] = parse_examples(path)
        >>> example.positives[0].text, example.source
        ('Cats purr.', 'lists')
    """
    path = Path(path)
    known: _Known = {}  # the same passage stands in many lists, and is kept once
    empty = True
    for line, text in numbered_lines(path):
        try:
            yield _example(_record(text), path.stem, known)
        except (DataError, InputError) as error:
            raise DataError(getattr(error, "reason", str(error)), path=path, line=line) from None
        empty = False
    if empty:
        raise DataError("holds no list", path=path)


def _record(text: str) -> dict[str, Any]:
    record = parse_json(text)
    if not isinstance(record, dict):
        raise DataError(f"a list must be a JSON object, not a {type(record).__name__}")
    if missing := [name for name in _FIELDS if name not in record]:
        raise DataError(f"has no {missing[0]!r}; there are: {', '.join(map(repr, record)) or 'no fields'}")
    return record


def _example(record: Mapping[str, Any], source: str, known: _Known) -> Example:
    query = record["query"]
    if not isinstance(query, str) or not query.strip() or not encodable(query):
        raise DataError(f"'query' must be a text with something in it and no lone surrogate, not {query!r}")
    groups = {name: _texts(record[name], name, known) for name in ("pos", "neg")}
    if not groups["pos"]:
        raise DataError("'pos' is empty; a list needs a positive")
    teacher: dict[int, float] = {}
    for name, texts in groups.items():
        for (_, key), score in zip(texts, _scores(record, name, len(texts)), strict=True):
            if score is not None:
                teacher.setdefault(key, score)
    answers = {key for _, key in groups["pos"]}
    if both := [document for document, key in groups["neg"] if key in answers]:
        raise DataError(f"the text {both[0].text[:60]!r} is both in 'pos' and in 'neg'")
    positives, negatives = (tuple(document for document, _ in texts) for texts in groups.values())
    return Example(query, positives, (negatives,) if negatives else (), teacher, (), source)


def _texts(value: Any, name: str, known: _Known) -> list[tuple[Document, int]]:
    if not isinstance(value, list):
        raise DataError(f"{name!r} must be a list of texts, not a {type(value).__name__}")
    out = []
    for place, item in enumerate(value):
        fields = {"text": item} if isinstance(item, str) else item
        if not isinstance(fields, dict) or "text" not in fields:
            raise DataError(f"{name}[{place}] must be a string, or an object with 'text' and optionally 'title'")
        text, title = fields["text"], fields.get("title") or ""
        if not (isinstance(text, str) and isinstance(title, str)) or (title, text) not in known:
            try:
                document = Document(str(len(known)), text, title)
                if document.empty:
                    raise InputError("the text is empty, and there is no title; nothing can be learnt from it")
            except InputError as error:
                raise DataError(f"{name}[{place}]: {error}") from None
            known[title, text] = document, text_key(document)
        out.append(known[title, text])
    return out


def _scores(record: Mapping[str, Any], name: str, count: int) -> list[float | None]:
    scores = record.get(f"{name}_scores")
    if scores is None:
        return [None] * count
    if not isinstance(scores, list) or len(scores) != count:
        size = len(scores) if isinstance(scores, list) else f"a {type(scores).__name__}"
        raise DataError(f"'{name}_scores' must be a list of {count} numbers, one for each text; it is {size}")
    for place, score in enumerate(scores):
        number = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
        if score is not None and not number:
            raise DataError(f"{name}_scores[{place}] must be a finite number, or null, not {score!r}")
    return [None if score is None else float(score) for score in scores]


def write_examples(path: str | os.PathLike[str], examples: Iterable[Example]) -> int:
    """Write examples as `parse_examples` reads them. Pools become one list of negatives, with each text once.

    The file is written beside its place and then renamed.

    Args:
        path: the path of the JSONL file.
        examples: the examples. Their sources, ids and excluded documents are not written.

    Returns:
        The number of examples that were written.

    Raises:
        InputError: if there is no example.
        DataError: if the file cannot be written.
    """
    path, count = Path(path), 0
    try:
        with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="\n") as file:
            for count, example in enumerate(examples, 1):  # noqa: B007 - it is the number of them
                file.write(json.dumps(_as_record(example), ensure_ascii=False) + "\n")
            if not count:
                raise InputError("there is no list to write")
    except OSError as error:
        raise DataError(f"cannot be written: {error}", path=path) from error
    return count


def _as_record(example: Example) -> dict[str, Any]:
    negatives: dict[int, Document] = {}
    for document in (document for pool in example.pools for document in pool):
        negatives.setdefault(text_key(document), document)
    groups = {"pos": [(text_key(d), d) for d in example.positives], "neg": list(negatives.items())}
    record: dict[str, Any] = {"query": example.query}
    for name, documents in groups.items():
        record[name] = [{"title": d.title, "text": d.text} if d.title else d.text for _, d in documents]
    if example.teacher:
        for name, documents in groups.items():
            record[f"{name}_scores"] = [example.teacher.get(key) for key, _ in documents]
    return record
