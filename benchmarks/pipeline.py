"""Benchmarks: ratios measured side by side in one run, with the physical limit beside them.

python -m sightline.benchmarks.pipeline encoding BEIR_FOLDER
python -m sightline.benchmarks.pipeline backends BEIR_FOLDER --reader encoder:MODEL
python -m sightline.benchmarks.pipeline indexing BEIR_FOLDER
python -m sightline.benchmarks.pipeline searching BEIR_FOLDER --index INDEX_WITH_TOKEN_STATES
python -m sightline.benchmarks.pipeline readout
python -m sightline.benchmarks.pipeline cross-encoders BEIR_FOLDER
python -m sightline.benchmarks.pipeline systems BEIR_FOLDER --index INDEX_WITH_TOKEN_STATES
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args
from unittest import mock

import numpy as np
import typer

from ..cli.running import Command
from ..errors import BackendError, MissingExtraError
from ..eval.cost import index_bytes, transformer_flops
from ..eval.loading import load_dataset
from ..eval.timing import copy_rate, matmul_rate
from ..models.cache import DocumentCache
from ..models.devices import Backend
from ..models.loading import load_reader
from ..models.minilm import MiniLM, find_minilm, load_minilm
from ..names import FirstStage
from ..rerank import LateInteractionReranker
from ..retrieval.index import Index
from ..search import Searcher
from .timing import print_report, seconds_in_turns

if TYPE_CHECKING:
    import torch

    from ..kernels import Keys
    from ..models.network_reader import NetworkReader

__all__ = ["backends", "cross_encoders", "encoding", "indexing", "readout", "searching", "systems"]

# Of sentence-transformers, with the package that each needs.
_BACKENDS = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
_LAYERS = (6, 12)  # of the published MiniLM cross-encoders
_FRESH = "minilm, texts read anew"
_STAGES: tuple[FirstStage, ...] = ("bm25", "dense", "hybrid")
_ANEW, _CROSS = "hybrid+minilm, candidates read anew", "bm25+cross-encoder of 6 layers"
_SLOW = (_ANEW, _CROSS)
_RERANKED: tuple[tuple[str, FirstStage, str, bool], ...] = (  # name, first stage, reranker, whether by kept states
    ("dense+minilm-log-mass", "dense", "minilm-log-mass", True),
    ("hybrid+minilm", "hybrid", "minilm", True),
    (_ANEW, "hybrid", "minilm", False),
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class _Padded(MiniLM):
    """The default model over transformers' own network, with padding: what `PackedBert` takes the place of."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._unpackable = True


@app.command(cls=Command)
def encoding(
    folder: Path,
    documents: Annotated[int, typer.Option(help="How many documents of the corpus at most.")] = 64,
    threads: Annotated[int | None, typer.Option(help="Threads of torch; by default as many as it takes.")] = None,
) -> None:
    """Read documents and queries by the default model, packed and padded, in float32 and bfloat16: the ratios.

    They take turns. The limit is what the FLOPs of the documents would take at the rate of the fastest matrix product.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    dataset = load_dataset(folder)
    texts = [document.contents for document in itertools.islice(dataset.documents(), documents)]
    queries = list(dataset.queries.values())[:8]
    models = {
        f"{name} {dtype}": kind(device="cpu", dtype=dtype)
        for dtype in ("float32", "bfloat16")
        for name, kind in (("padded", _Padded), ("packed", MiniLM))
    }
    first = models["padded float32"]
    spent = seconds_in_turns({name: partial(model.read, texts) for name, model in models.items()}, "cpu")

    def ask(model: MiniLM) -> None:
        for query in queries:
            model.read([query])

    asked = seconds_in_turns({name: partial(ask, model) for name, model in models.items()}, "cpu")
    expected = first.read(texts).states
    lengths = [len(spans) + 2 for spans in first.spans(texts)]
    rate = matmul_rate()
    figures: dict[str, Any] = {"documents": len(texts), "tokens": sum(lengths)}
    for name, model in models.items():
        states = model.read(texts).states
        assert states is not None and expected is not None
        figures[name] = {
            "documents, tokens/s": sum(lengths) / spent[name],
            "documents, times faster": spent["padded float32"] / spent[name],
            "query, ms": asked[name] / len(queries) * 1e3,
            "query, times faster": asked["padded float32"] / asked[name],
            "lowest cosine of a token": float((states * expected).sum(axis=1).min()),
        }
    flops = transformer_flops(first.config, lengths)
    figures["limit: documents, tokens/s"] = sum(lengths) / (flops / rate.flops)
    figures[f"measured matmul rate ({rate.by}), GFLOP/s"] = rate.flops / 1e9
    print_report(figures)


@app.command(cls=Command)
def backends(
    folder: Path,
    reader: Annotated[str, typer.Option(help="A name for load_reader.")] = "minilm",
    documents: Annotated[int, typer.Option(help="How many documents of the corpus at most.")] = 200,
    rounds: Annotated[int, typer.Option(help="How often each reads them; medians count.")] = 3,
) -> None:
    """Read documents and a query by each backend that is installed, on the CPU in float32: times, and ratios to torch.

    They take turns. Milliseconds of CPU count the threads of all backends; on a busy machine, compare these.
    """
    dataset = load_dataset(folder)
    texts = [document.contents for document in itertools.islice(dataset.documents(), documents)]
    query = next(iter(dataset.queries.values()))
    figures: dict[str, Any] = {"documents": len(texts)}
    models: dict[str, NetworkReader] = {}
    for backend in get_args(Backend):
        started = time.process_time()
        try:
            models[backend] = load_reader(reader, device="cpu", backend=backend)
        except (MissingExtraError, BackendError) as error:
            figures[backend] = f"left out: {error}"
        else:
            figures[backend] = {"loading, CPU ms": (time.process_time() - started) * 1e3}
    expected, seconds = models["torch"].read(texts[:8]).states, {}
    for what, asked in (("documents", texts), ("query", [query])):
        spent: dict[str, list[tuple[float, float]]] = {backend: [] for backend in models}
        for _, (backend, model) in itertools.product(range(rounds + 1), models.items()):  # the first is the warm-up
            started, processor = time.perf_counter(), time.process_time()
            model.read(asked)
            spent[backend].append((time.perf_counter() - started, time.process_time() - processor))
        seconds[what] = {
            backend: [statistics.median(kind) for kind in zip(*taken[1:], strict=True)]
            for backend, taken in spent.items()
        }
    for backend, model in models.items():
        states = model.read(texts[:8]).states
        assert states is not None and expected is not None
        figures[backend]["largest difference of a state"] = float(np.abs(states - expected).max())
        for what, medians in seconds.items():
            wall, processor = medians[backend]
            figures[backend] |= {f"{what}, ms": wall * 1e3, f"{what}, CPU ms": processor * 1e3}
            figures[backend][f"{what}, times torch's CPU ms"] = processor / medians["torch"][1]
    print_report(figures)


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


@app.command(cls=Command)
def readout(
    documents: Annotated[int, typer.Option(help="Documents in the list.")] = 100,
    tokens: Annotated[int, typer.Option(help="Tokens of each document.")] = 200,
    rows: Annotated[int, typer.Option(help="Tokens of the query.")] = 20,
) -> None:
    """Time the readout of kept token states: their products with the query, log-sum-exps and means, on one thread.

    States are random unit vectors of 384 dimensions. int8 is read by one integer product, where the processor has an
    exact one, and by small products in float32, as on all others. Errors are against float64.
    """
    import torch

    from ..kernels import QuantizedKeys
    from ..kernels.states import cpu, integer, reference
    from ..retrieval.token_states import states_form

    draw = np.random.default_rng(0)
    states = draw.standard_normal((documents * tokens + rows, 384), dtype=np.float32)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    q, kept = torch.from_numpy(states[:rows]), states[rows:]
    ranges = [(start, start + tokens) for start in range(0, len(kept), tokens)]
    forms = {}
    for kind in ("int8", "fp16"):
        form = states_form(kind, kept.shape[1])
        forms[kind] = form.decode(form.encode(kept), ranges)

    def read(keys: Sequence[Keys], integers: bool) -> torch.Tensor:
        with mock.patch.object(cpu, "exact_products", lambda: integers):
            products = cpu.products(q, keys)
            return torch.cat([products.lse(20.0), products.mean()])

    methods = {
        "int8 in float32": partial(read, forms["int8"], False),
        "fp16": partial(read, forms["fp16"], False),
    }
    if integer.exact_products():
        methods["int8 by integers"] = partial(read, forms["int8"], True)
    exact = {kind: reference.products(q, keys).lse(20.0) for kind, keys in forms.items()}
    errors = {name: float((op()[:rows] - exact[name[:4]]).abs().max()) for name, op in methods.items()}
    seconds = seconds_in_turns(methods, "cpu")
    flops = 2 * rows * kept.size
    read_bytes = sum(
        key.values.numel() + 4 * len(key.scales) for key in forms["int8"] if isinstance(key, QuantizedKeys)
    )
    rate = matmul_rate()
    print_report(
        {
            **{f"{name}, ms": 1e3 * value for name, value in seconds.items()},
            **{f"{name}, GFLOP/s of its products": flops / value / 1e9 for name, value in seconds.items()},
            **{f"{name}, largest error of a log-sum-exp": error for name, error in errors.items()},
            "limit: int8 bytes at the measured copy bandwidth, ms": read_bytes / copy_rate() * 1e3,
            f"measured matmul rate ({rate.by}), GFLOP/s": rate.flops / 1e9,
        }
    )


@app.command(cls=Command, name="cross-encoders")
def cross_encoders(
    folder: Path,
    documents: Annotated[int, typer.Option(help="Documents in the list.")] = 100,
    rounds: Annotated[int, typer.Option(help="How often each ranks the list; medians count.")] = 3,
) -> None:
    """What it costs to rank one list: the default reranker, and cross-encoders of 6 and 12 layers by each backend.

    The cross-encoders are as wide as the default model, and have random weights. They read the query with every
    document; the default reads documents alone, or has read them before. All take turns on each query. Limits are what
    the FLOPs would take at the rate of the machine's fastest matrix product.
    """
    dataset = load_dataset(folder)
    texts = [document.contents for document in itertools.islice(dataset.documents(), documents)]
    queries = list(dataset.queries.values())[: rounds + 1]  # the first is the warm-up
    reader = load_minilm(device="cpu")
    sizes = [len(reader.token_offsets(text)) for text in texts]

    def rank(reranker: LateInteractionReranker, query: str) -> None:
        reader.forget_queries()
        reranker.rank(query, texts)

    def predict(model: Any, query: str) -> None:
        model.predict([(query, text) for text in texts], show_progress_bar=False)

    cache = DocumentCache(host_bytes=1 << 30, form="int8")
    methods: dict[str, Callable[[str], None]] = {
        _FRESH: partial(rank, LateInteractionReranker(reader=reader)),
        "minilm, texts read before": partial(rank, LateInteractionReranker(reader=reader, cache=cache)),
    }
    models: dict[str, Any] = {}
    figures: dict[str, Any] = {"documents": len(texts), "tokens": sum(sizes)}
    for layers, backend in itertools.product(_LAYERS, _BACKENDS):
        name = f"cross-encoder, {layers} layers, {backend}"
        try:
            models[name] = _cross_encoder(layers, backend)
        except _Unable as reason:
            figures[name] = str(reason)
        else:
            methods[name] = partial(predict, models[name])
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for query, (name, method) in itertools.product(queries, methods.items()):
        started, processor = time.perf_counter(), time.process_time()
        method(query)
        spent[name].append((time.perf_counter() - started, time.process_time() - processor))
    medians = {
        name: [statistics.median(kind) for kind in zip(*taken[1:], strict=True)] for name, taken in spent.items()
    }
    question = statistics.median(len(reader.token_offsets(query)) for query in queries[1:])
    flops = {_FRESH: transformer_flops(reader.config, [min(size, reader.room) + 2 for size in sizes])}
    for name, model in models.items():
        pairs = [min(size + int(question) + 3, model.max_seq_length) for size in sizes]
        flops[name] = transformer_flops(model.config, pairs)
    rate = matmul_rate()
    for name, (seconds, processor) in medians.items():
        figures[name] = {
            "ms": seconds * 1e3,
            "CPU ms": processor * 1e3,
            f"times the CPU ms of {_FRESH}": processor / medians[_FRESH][1],
        }
        if name in flops:
            figures[name]["limit, ms"] = flops[name] / rate.flops * 1e3
    figures[f"limit: measured matmul rate ({rate.by}), GFLOP/s"] = rate.flops / 1e9
    print_report(figures)


@app.command(cls=Command)
def systems(
    folder: Path,
    index: Annotated[Path, typer.Option(help="Index of the corpus that keeps the token states of the default model.")],
    queries: Annotated[int, typer.Option(help="How many queries are timed; the first ones.")] = 20,
    slow: Annotated[int, typer.Option(help="How many of them the slow systems answer, too.")] = 5,
) -> None:
    """Time whole searches by systems from BM25 to a cross-encoder: median milliseconds of a query.

    All take turns on each query, and read it anew. The slow systems read 100 candidates: one with the default model,
    the other with a cross-encoder as wide, of 6 layers with random weights, which reads whole documents. Milliseconds
    of CPU depend less on what else the machine does.
    """
    dataset = load_dataset(folder)
    contents = {document.id: document.contents for document in dataset.documents()}
    texts = list(dataset.queries.values())[: queries + 1]  # the first is the warm-up
    with Index.open(index) as opened:
        model = cast("MiniLM", opened.encoder)
        stages: dict[str, Searcher] = {name: Searcher(opened, None, first_stage=name) for name in _STAGES}
        methods: dict[str, Callable[[str], Any]] = {name: stage.search for name, stage in stages.items()}
        for name, first, reranker, kept in _RERANKED:
            methods[name] = Searcher(opened, reranker, first_stage=first, kept_states=kept).search
        cross = _cross_encoder()

        def rerank(query: str) -> None:
            found = stages["bm25"].search(query, 100).hits
            cross.predict([(query, contents[hit.id]) for hit in found], show_progress_bar=False)

        methods[_CROSS] = rerank
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
        for number, (query, (name, method)) in enumerate(itertools.product(texts, methods.items())):
            if name in _SLOW and number // len(methods) > slow:
                continue
            model.forget_queries()
            started, processor = time.perf_counter(), time.process_time()
            method(query)
            spent[name].append((time.perf_counter() - started, time.process_time() - processor))
        figures: dict[str, Any] = {"passages": opened.counts()["passages"]}
    for name, taken in spent.items():
        wall, processor = (statistics.median(kind) for kind in zip(*taken[1:], strict=True))
        figures[name] = {"queries": len(taken) - 1, "ms": wall * 1e3, "CPU ms": processor * 1e3}
    print_report(figures)


class _Unable(Exception):  # noqa: N818 - not an error of ours
    """A backend that cannot run here; the text says why."""


def _cross_encoder(layers: int = 6, backend: str = "torch") -> Any:
    """A sentence-transformers CrossEncoder of the default model's width, with random weights.

    Args:
        layers: how many layers.
        backend: one of `_BACKENDS`.

    Raises:
        _Unable: if the backend is not installed, or does not load the model.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    if importlib.util.find_spec(_BACKENDS[backend]) is None:
        raise _Unable(f"left out: {_BACKENDS[backend]} is not installed")
    torch.manual_seed(0)
    folder = tempfile.mkdtemp()
    config = BertConfig.from_pretrained(find_minilm(), num_labels=1, num_hidden_layers=layers)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_minilm()).save_pretrained(folder)
    try:
        options = _as_many_threads(backend, torch.get_num_threads())
        return CrossEncoder(folder, device="cpu", max_length=512, backend=backend, model_kwargs=options)
    except Exception as error:  # whatever the backend says
        said = str(error).splitlines()[0][:200]
        raise _Unable(f"left out: sentence-transformers cannot load it ({type(error).__name__}: {said})") from error


def _as_many_threads(backend: str, threads: int) -> dict[str, Any]:
    """What lets a backend take as many threads as torch does."""
    if backend == "onnx":
        settings: Any = importlib.import_module("onnxruntime").SessionOptions()
        settings.intra_op_num_threads = threads
        return {"session_options": settings}
    return {"ov_config": {"INFERENCE_NUM_THREADS": str(threads)}} if backend == "openvino" else {}


if __name__ == "__main__":
    app()
