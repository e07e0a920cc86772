"""Benchmarks: ratios measured side by side in one run, with the physical limit beside them.

python -m sightline.benchmarks.pipeline indexing BEIR_FOLDER
python -m sightline.benchmarks.pipeline searching BEIR_FOLDER --index INDEX_WITH_TOKEN_STATES
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..cli.running import Command
from ..eval.cost import index_bytes, transformer_flops
from ..eval.loading import load_dataset
from ..eval.timing import copy_rate, matmul_rate
from ..models.minilm import find_minilm, load_minilm
from ..retrieval.index import Index
from ..search import Searcher
from .timing import print_report

__all__ = ["indexing", "searching"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command)
def indexing(
    folder: Path, documents: Annotated[int, typer.Option(help="How many documents of the corpus at most.")] = 5000
) -> None:
    """Index a corpus, and encode the same texts with sentence-transformers' defaults: seconds, and their ratio.

    Ours includes reading, splitting off, embedding, BM25, FAISS and making everything durable; theirs is ``encode``
    alone, on texts in memory. Documents stay whole in both, cut at the model's 256 tokens. The two take turns on
    quarters of the corpus, so that a machine whose speed drifts favours neither.
    """
    from sentence_transformers import SentenceTransformer

    corpus = list(itertools.islice(load_dataset(folder).documents(), documents))
    plain = SentenceTransformer(str(find_minilm()), device="cpu")
    model = load_minilm(device="cpu")
    plain.encode([corpus[0].contents])
    ours = theirs = worst = 0.0
    parts = [corpus[i::4] for i in range(4)]
    with tempfile.TemporaryDirectory() as scratch:
        for number, part in enumerate(parts):
            started = time.perf_counter()
            Index.build(Path(scratch) / str(number), part, encoder=model, max_tokens=0).close()
            ours += time.perf_counter() - started
            texts = [document.contents for document in part]
            started = time.perf_counter()
            expected = plain.encode(texts)
            theirs += time.perf_counter() - started
            with Index.open(Path(scratch) / str(number)) as index:
                worst = max(worst, float(np.abs(index.vectors() - expected).max()))
    lengths = [len(spans) + 2 for spans in model.spans([document.contents for document in corpus])]
    flops = transformer_flops(model.config, lengths)
    rate = matmul_rate()
    print_report(
        {
            "documents": len(corpus),
            "tokens": sum(lengths),
            "sightline index, s": ours,
            "sentence-transformers encode, s": theirs,
            "times faster": theirs / ours,
            "largest difference of an embedding": worst,
            "limit: model FLOPs at the measured matmul rate, s": flops / rate.flops,
            f"measured matmul rate ({rate.by}), GFLOP/s": rate.flops / 1e9,
        }
    )


@app.command(cls=Command)
def searching(
    folder: Path,
    index: Annotated[Path, typer.Option(help="Index of the corpus that keeps token states.")],
    queries: Annotated[int, typer.Option(help="Distinct queries to time.")] = 50,
) -> None:
    """Time a warm search with kept token states, with states computed on the fly, and a cross-encoder's ranking.

    A search is: encode the query, FAISS over all passages, rerank 100 candidates, sentence evidence of the top 10. The
    cross-encoder has the same architecture with random weights, and scores the same candidates' texts.
    """
    texts = iter(load_dataset(folder).queries.values())  # each text once: recent queries are remembered
    kept_times, fresh_times, cross_times, sizes, stages = [], [], [], [], []
    with Index.open(index) as opened:
        kept, fresh = Searcher(opened), Searcher(opened, kept_states=False)
        cross = _cross_encoder()
        for searcher in (kept, fresh, kept):
            searcher.search(next(texts), 10, evidence="sentence")
        for number in range(queries):
            started = time.perf_counter()
            result = kept.search(next(texts), 10, evidence="sentence")
            kept_times.append(time.perf_counter() - started)
            stages.append(dict(result.milliseconds))
            sizes.append(result.passages)
            if number % 10:
                continue
            text = next(texts)
            started = time.perf_counter()
            fresh.search(text, 10, evidence="sentence")
            fresh_times.append(time.perf_counter() - started)
            rows = opened.search_dense([text], 100)[0][0]
            pairs = [(text, stored.passage.contents) for stored in opened.passages(rows)]
            started = time.perf_counter()
            cross.predict(pairs, show_progress_bar=False)
            cross_times.append(time.perf_counter() - started)
        counts = opened.counts()
        state_bytes = index_bytes(opened.path)["token states"]
        touched = state_bytes / counts["passages"] * statistics.median(sizes)
    bandwidth = copy_rate()
    medians = {name: statistics.median(stage[name] for stage in stages) for name in stages[0]}
    print_report(
        {
            "passages": counts["passages"],
            "candidate passages, median": statistics.median(sizes),
            "kept states, ms": statistics.median(kept_times) * 1e3,
            "kept states, 90th percentile, ms": float(np.percentile(kept_times, 90)) * 1e3,
            **{f"  of it {name}, ms": value for name, value in medians.items()},
            "states on the fly, ms": statistics.median(fresh_times) * 1e3,
            "cross-encoder alone, same 100 texts, ms": statistics.median(cross_times) * 1e3,
            "kept states: times faster than on the fly": statistics.median(fresh_times) / statistics.median(kept_times),
            "kept states: times faster than the cross-encoder": statistics.median(cross_times)
            / statistics.median(kept_times),
            "limit: state bytes at the measured copy bandwidth, ms": touched / bandwidth * 1e3,
        }
    )


def _cross_encoder() -> Any:
    """A sentence-transformers CrossEncoder of the default model's architecture, with random weights."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    folder = tempfile.mkdtemp()
    config = BertConfig.from_pretrained(find_minilm(), num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_minilm()).save_pretrained(folder)
    return CrossEncoder(folder, device="cpu", max_length=512)


if __name__ == "__main__":
    app()
