"""Judged collections that tell where in its document each answer stands, in their published formats."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...documents import Document
from ...errors import DataError, InputError
from ...extras import importing
from ...parsing import parse_json
from ..dataset import Dataset
from ..loading import load_dataset
from .position import Span

__all__ = ["PositionDataset", "load_posir", "load_positions", "load_spans", "load_squad"]

_SPANS = ("query-id", "corpus-id", "answer_start", "answer_len", "passage_len", "occurrences")


@dataclass(frozen=True, slots=True)
class PositionDataset(Dataset):
    """A judged collection with the place of each answer.

    Args:
        spans: the place of the answer by query id. Empty if the places are not known. Queries without one are not
            measured by position.
    """

    spans: dict[str, Span] = dataclasses.field(default_factory=dict)

    def sampled(self, queries: int, seed: int = 0) -> PositionDataset:
        """Return the collection with some of its queries, drawn at random and left in their order.

        The corpus stays whole.

        The first ones would not do: collections made from articles have the questions of an article together.
        """
        if queries < 1:
            raise InputError(f"the sample must have at least 1 query, not {queries}")
        if queries >= len(self.queries):
            return self
        return self.only(set(random.Random(seed).sample(sorted(self.queries), queries)))

    def only(self, ids: Set[str]) -> PositionDataset:
        """Return the collection with only these of its queries."""
        return dataclasses.replace(
            self,
            queries={id: text for id, text in self.queries.items() if id in ids},
            qrels={id: grades for id, grades in self.qrels.items() if id in ids},
            spans={id: span for id, span in self.spans.items() if id in ids},
        )


def load_positions(path: str | Path, split: str = "test", *, qrels: str | Path | None = None) -> PositionDataset:
    """Read a collection, with the places of answers if it has them.

    Args:
        path: a BEIR folder, with ``spans.tsv`` if places are known (see `load_spans`); a PosIR folder (`load_posir`); a
            file of SQuAD, or a folder of such files (`load_squad`).
        split: the split of BEIR's and PosIR's judgements.
        qrels: a file of judgements to use instead, for a BEIR folder.

    Raises:
        DataError: if a file is missing or malformed.
        InputError: if ``qrels`` is given for another layout.
        MissingExtraError: if pyarrow is not installed, which Parquet files need.
    """
    path = Path(path)
    if not path.exists() or any(path.glob("corpus.jsonl*")) or any(path.glob("collection.tsv*")):
        dataset = load_dataset(path, split, qrels=qrels)
        spans = load_spans(path / "spans.tsv", dataset) if (path / "spans.tsv").is_file() else {}
        fields = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(Dataset)}
        return PositionDataset(**fields, spans=spans)
    if qrels is not None:
        raise InputError(f"judgements of your own are for BEIR folders; {path} has no corpus.jsonl")
    if (path / "corpus.parquet").is_file():
        return load_posir(path, split)
    files = [path] if path.is_file() else sorted(f for f in path.glob("*") if f.suffix in (".json", ".parquet"))
    if not files:
        raise DataError("neither a BEIR folder (corpus.jsonl), nor PosIR's (corpus.parquet), nor SQuAD", path=path)
    return load_squad(files)


def load_spans(path: str | Path, dataset: Dataset | None = None) -> dict[str, Span]:
    r"""Read ``spans.tsv``: query-id, corpus-id, answer_start, answer_len, passage_len, occurrences, with a header.

    Rows whose answer occurs more than once in its document are left out, since it is not known which place is meant.

    Args:
        path: the path of the file. Further columns are ignored.
        dataset: the collection whose queries and relevant documents the rows must belong to. Rows of queries that it
            does not have are left out. If None, nothing is checked.

    Raises:
        DataError: if a line is malformed, is the second one for its query, or names a document that is not relevant.
            The error names the line.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "spans.tsv")
        ...     header = "query-id corpus-id answer_start answer_len passage_len occurrences".split()
        ...     rows = [header, "q1 d1 20 10 100 1".split(), "q2 d1 0 3 100 2".split()]
        ...     _ = path.write_text("".join("\t".join(row) + "\n" for row in rows))
        ...     load_spans(path)
        {'q1': Span(start=20, end=30, length=100, tokens=None)}
    """
    spans: dict[str, Span] = {}
    seen: set[str] = set()
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path=path) from error
    if tuple(lines[0].rstrip("\r").split("\t")[: len(_SPANS)]) != _SPANS:
        raise DataError(f"the header must begin with {', '.join(_SPANS)}, with tabs between", path=path, line=1)
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        try:
            query, document = cells[:2]
            start, length, whole, occurrences = map(int, cells[2 : len(_SPANS)])
            span = Span(start, start + length, whole)
        except (ValueError, InputError) as error:
            raise DataError(f"not a row of {', '.join(_SPANS)}: {error}", path=path, line=number) from None
        if query in seen:
            raise DataError(f"query {query!r} occurs twice", path=path, line=number)
        seen.add(query)
        if dataset is not None and query not in dataset.queries:
            continue
        if dataset is not None and dataset.qrels[query].get(document, 0) <= 0:
            raise DataError(f"document {document!r} is not relevant to query {query!r}", path=path, line=number)
        if occurrences == 1:
            spans[query] = span
    return spans


def load_squad(paths: Sequence[str | Path]) -> PositionDataset:
    """Read SQuAD 1.1 or 2.0 as SQuAD-PosQ uses it (Zeng et al. 2025, https://arxiv.org/abs/2505.13950).

    Every distinct paragraph is a document, also those of questions without an answer, which are left out themselves.
    Titles are not read. The place of an answer is that of its first annotation. Unlike in the authors' code, two
    questions with the same words keep their own paragraphs.

    Args:
        paths: the published JSON files, or Parquet or JSONL files with the columns ``id``, ``context``, ``question``
            and ``answers`` (``text`` and ``answer_start``, lists). For SQuAD-PosQ, those of train and validation.

    Raises:
        DataError: naming file and record, if one is malformed, an id is there twice, or an answer's place is outside
            its paragraph; or if there is no question with an answer.
        MissingExtraError: if pyarrow is not installed, which Parquet files need.
    """
    corpus: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    spans: dict[str, Span] = {}
    for path in map(Path, paths):
        for number, record in enumerate(_squad_records(path), start=1):
            try:
                id, question, context = record["id"], record["question"], record["context"]
                starts, texts = record["answers"]["answer_start"], record["answers"]["text"]
                if not all(isinstance(value, str) and value.strip() for value in (id, question, context)):
                    raise DataError("id, question and context must be strings with something in them")
                document = corpus.setdefault(context, f"c{len(corpus)}")
                if not len(starts):
                    continue
                if id in queries:
                    raise DataError(f"the question id {id!r} occurs twice")
                span = Span(int(starts[0]), int(starts[0]) + len(texts[0]), len(context))
                if span.end > span.length:
                    raise DataError(f"the answer of {id!r} ends beyond its paragraph")
            except (KeyError, TypeError, IndexError, ValueError) as error:
                reason = error.reason if isinstance(error, DataError) else f"not a question of SQuAD: {error!r}"
                raise DataError(reason, path=path, line=number) from None
            queries[id], qrels[id], spans[id] = question, {document: 1}, span
    if not queries:
        raise DataError("there is no question with an answer", path=paths[0] if paths else None)
    documents = tuple(Document(id, text) for text, id in corpus.items())
    first = Path(paths[0])
    name = first.stem if len(paths) == 1 else first.resolve().parent.name
    return PositionDataset(name, "all", first.parent, queries, qrels, lambda: documents, spans)


def _squad_records(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".jsonl", ".ndjson"):
            yield from (parse_json(line) for line in text.split("\n") if line.strip())
            return
        for article in parse_json(text)["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = question["answers"]
                    yield {
                        "id": question["id"],
                        "question": question["question"],
                        "context": paragraph["context"],
                        "answers": {
                            "text": [answer["text"] for answer in answers],
                            "answer_start": [answer["answer_start"] for answer in answers],
                        },
                    }
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = error.reason if isinstance(error, DataError) else repr(error)
        raise DataError(f"not a file of SQuAD: {why}", path=path) from error


def load_posir(folder: str | Path, split: str = "test") -> PositionDataset:
    """Read one language and domain of PosIR (``LANGUAGE/DOMAIN`` of infgrad/PosIR-Benchmark-v1).

    Args:
        folder: the folder with ``corpus.parquet`` (``_id``, ``text``, maybe ``title``), ``queries.parquet`` (``_id``,
            ``text``, ``pos_char_span``, ``pos_char_length``, ``pos_token_length``) and ``qrels/SPLIT.parquet``
            (``query-id``, ``corpus-id``, ``score``).
        split: the split of the judgements.

    Raises:
        DataError: if a file is missing or malformed, a judged query has no text, or no query is judged. The error names
            file and record.
        MissingExtraError: if pyarrow is not installed.
    """
    folder = Path(folder)
    judged = folder / "qrels" / f"{split}.parquet"
    qrels: dict[str, dict[str, int]] = {}
    for number, row in enumerate(_parquet(judged), start=1):
        try:
            qrels.setdefault(str(row["query-id"]), {})[str(row["corpus-id"])] = int(row["score"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a judgement: {error!r}", path=judged, line=number) from None
    path = folder / "queries.parquet"
    queries: dict[str, str] = {}
    spans: dict[str, Span] = {}
    for number, row in enumerate(_parquet(path), start=1):
        try:
            id, (start, end), length = str(row["_id"]), row["pos_char_span"], int(row["pos_char_length"])
            if id in queries:
                raise DataError(f"the query id {id!r} occurs twice")
            if id not in qrels:
                continue
            queries[id] = row["text"]
            if length > 0 and start >= 0:  # as PosIR's own analysis has it
                spans[id] = Span(int(start), int(end), length, int(row["pos_token_length"]))
        except (KeyError, TypeError, ValueError) as error:
            reason = error.reason if isinstance(error, DataError) else f"not a query of PosIR: {error!r}"
            raise DataError(reason, path=path, line=number) from None
    if missing := [id for id in qrels if id not in queries]:
        raise DataError(f"judged query {missing[0]!r} has no text in queries.parquet", path=judged)
    if not queries:
        raise DataError("judges no query", path=judged)
    path = folder / "corpus.parquet"
    documents = []
    for number, row in enumerate(_parquet(path), start=1):
        try:
            documents.append(Document(str(row["_id"]), row["text"] or "", row.get("title") or ""))
        except (KeyError, InputError) as error:
            raise DataError(f"not a document: {error}", path=path, line=number) from None
    if not documents:
        raise DataError("holds no document", path=path)
    name = "-".join(folder.resolve().parts[-2:])
    return PositionDataset(name, split, folder, queries, {id: qrels[id] for id in queries}, lambda: documents, spans)


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    with importing("pyarrow", extra="readers"):
        import pyarrow
        from pyarrow import parquet
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"not a parquet file that can be read: {error}", path=path) from error
