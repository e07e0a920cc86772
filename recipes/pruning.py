"""How much of a context pruning takes away, and how many answers: tokens kept against answers kept.

    python -m sightline.recipes.pruning data/squad_dev data/nq_litm --work results/pruning --queries 500

Each question is searched with the default (10 passages, evidence by sentence), and each passage is pruned to a share of
the attention on it (`sightline.rerank.prune`). An answer counts as kept if every character of it is. For comparison, as
many sentences of each passage are chosen without attention: the first ones, and those with most words of the question.

The collections need ``spans.tsv``, see `sightline.eval.bias.positions.load_spans`. Tokens are words of BM25.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..benchmarks.timing import command_line
from ..cli.console import print_table
from ..eval.bias.position import Span
from ..eval.bias.positions import PositionDataset, load_positions
from ..eval.collection_index import open_index
from ..eval.output import make_folder
from ..rerank.evidence import prune
from ..retrieval.analysis import document_terms, query_terms
from ..search import Hit, Searcher
from ..sentences import sentence_spans

__all__ = ["Kept", "choices", "study"]

SHARES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
WAYS = ("attention", "first sentences", "words of the question")
_Sentence = tuple[int, int]


@dataclass
class Kept:
    """What is left of the contexts of many questions.

    Args:
        tokens: how many tokens are left.
        of_tokens: of how many.
        answers: how many answers are left.
        of_answers: of how many.
    """

    tokens: int = 0
    of_tokens: int = 0
    answers: int = 0
    of_answers: int = 0


def choices(query: str, hit: Hit, share: float) -> Mapping[str, list[_Sentence]]:
    """The sentences of a hit's passage that each way of choosing keeps, as characters of the document.

    Args:
        query: the question.
        hit: a hit with evidence by sentence.
        share: the share of the attention. The other ways keep as many sentences.
    """
    text, start = hit.passage.text, hit.passage.start
    sentences = [(first + start, end + start) for first, end in sentence_spans(text)]
    count = len(prune(text, hit.evidence, share, start=start).evidence)
    masses = {(span.start, span.end): span.mass for span in hit.evidence or () if span.field == "text"}
    asked = {term for term, _ in query_terms(query)}
    shared = {one: len(asked.intersection(document_terms(hit.document.text[slice(*one)]))) for one in sentences}
    by_attention = sorted(sentences, key=lambda one: -masses.get(one, 0.0))
    by_words = sorted(sentences, key=lambda one: -shared[one])
    return dict(zip(WAYS, (by_attention[:count], sentences[:count], by_words[:count]), strict=True))


def _count(kept: Kept, hit: Hit, sentences: Sequence[_Sentence], answer: Span | None) -> None:
    kept.of_tokens += len(document_terms(hit.passage.text))
    kept.tokens += sum(len(document_terms(hit.document.text[start:end])) for start, end in sentences)
    if answer is not None and hit.passage.start <= answer.start and answer.end <= hit.passage.end:
        kept.of_answers += 1
        kept.answers += all(
            any(start <= place < end for start, end in sentences)
            for place in range(answer.start, answer.end)
            if not hit.document.text[place].isspace()
        )


def _kept(searcher: Searcher, dataset: PositionDataset) -> dict[tuple[str, float], Kept]:
    kept = {(way, share): Kept() for way in WAYS for share in SHARES}
    for id, query in dataset.queries.items():
        for hit in searcher.search(query, 10, evidence="sentence", unit="passage").hits:
            answer = dataset.spans.get(id) if dataset.qrels[id].get(hit.id) else None
            for share in SHARES:
                for way, sentences in choices(query, hit, share).items():
                    _count(kept[way, share], hit, sentences, answer)
    return kept


def study(
    folders: Annotated[list[Path], typer.Argument(help="BEIR folders with spans.tsv.")],
    work: Annotated[Path, typer.Option(help="A folder for the indexes, which are kept.")],
    split: Annotated[str, typer.Option(help="The split of the judgements.")] = "test",
    queries: Annotated[int, typer.Option(help="How many questions of each collection.")] = 500,
    out: Annotated[Path | None, typer.Option(help="Write the figures to this JSON file.")] = None,
) -> None:
    """Print and write tokens kept against answers kept."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    table = Table("collection", "share of the attention", "tokens kept", *WAYS)
    for folder in folders:
        dataset = load_positions(folder, split).sampled(queries)
        place = make_folder(work / dataset.name) / "index"
        with open_index(dataset, None, place, {}, [("hybrid", "minilm")], lambda _: None) as index:
            kept = _kept(Searcher(index, "minilm"), dataset)
        for share in SHARES:
            row = {way: kept[way, share].answers / kept[way, share].of_answers for way in WAYS}
            tokens = kept["attention", share].tokens / kept["attention", share].of_tokens
            figures.setdefault(dataset.name, {})[str(share)] = {"tokens": tokens, **row}
            table.add_row(dataset.name, f"{share:.2f}", f"{tokens:.3f}", *(f"{value:.3f}" for value in row.values()))
    print_table(table)
    if out is not None:
        out.write_text(json.dumps({"command": command_line(), "figures": figures}, indent=2))


if __name__ == "__main__":
    typer.run(study)
