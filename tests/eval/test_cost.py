"""Costs: FLOPs against torch's own counter, bytes against the files, times against a sleeping system."""

import json
import mmap
import time

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sightline.documents import Document
from sightline.errors import InputError
from sightline.eval import cost
from sightline.eval.cost import bench_systems, index_bytes, measure_cost, peak_memory, transformer_flops
from sightline.eval.loading import load_dataset
from sightline.models.minilm import load_minilm
from sightline.rerank import LateInteractionReranker, Reranker, Scored, load_layout
from sightline.retrieval.index import Index


def counted(model, ids):
    """Torch does not count its fused attention on CPUs: the plain one does the same products."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        model(input_ids=ids)
    return counter.get_total_flops()


@pytest.mark.parametrize("words", [1, 9, 120])
def test_flops_of_the_default_model_are_what_torch_counts(words):
    model = load_minilm()
    [tokens] = model.spans(["cat " * words])
    ids = torch.randint(1000, 2000, (1, len(tokens) + 2))
    assert transformer_flops(model.config, [len(tokens) + 2]) == counted(model.network, ids)


@pytest.mark.parametrize("kv", [1, 2, 8])
def test_flops_of_a_decoder_with_grouped_keys(kv):
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=kv,
        head_dim=16, vocab_size=50, attn_implementation="sdpa",
    )  # fmt: skip
    model = Qwen3Model(config).eval()
    expected = sum(counted(model, torch.randint(0, 50, (1, length))) for length in (5, 17))
    assert transformer_flops(config, [5, 17]) == expected


@pytest.fixture
def index(tmp_path):
    documents = [Document(f"d{i}", f"The cat number {i} sleeps. " * (1 + i % 3)) for i in range(12)]
    with Index.build(tmp_path / "index", documents, token_states="fp16") as opened:
        yield opened


def test_work_is_counted(index):
    cost = measure_cost(index, ["bm25", "dense", "dense+minilm"], ["cat number 3", "who sleeps"], candidates=5)
    bm25, dense, reranked = (cost.systems[name] for name in ("bm25", "dense", "dense+minilm"))
    assert (bm25.flops_per_query, bm25.bytes_per_query, bm25.tokens_per_second) == (0, 0, None)
    config, rows = index.encoder.config, len(index.vectors())
    lengths = [len(index.encoder.token_offsets(query)) for query in ("cat number 3", "who sleeps")]
    encoder = np.mean([transformer_flops(config, [length + 2]) for length in lengths])
    assert dense.flops_per_query == encoder + 2 * rows * 384 and dense.bytes_per_query == rows * 384 * 4
    tokens = reranked.tokens
    assert reranked.candidates == 5 and 5 * 6 <= tokens <= 5 * 24
    assert reranked.bytes_per_query == dense.bytes_per_query + tokens * 384 * 2
    assert reranked.flops_per_query > dense.flops_per_query
    for system in cost.systems.values():
        latency = system.latency_ms
        assert 0 < latency.p50 <= latency.p90 <= latency.p99
    assert cost.index_bytes == index_bytes(index.path)


def test_states_read_anew_cost_a_pass_over_the_candidates(tmp_path):
    texts = ["Cats purr.", "Dogs bark at strangers in the night."]
    with Index.build(
        tmp_path / "bare", [Document(f"d{i}", text) for i, text in enumerate(texts)], token_states="none"
    ) as bare:
        dense, fresh = (
            measure_cost(bare, [system], ["who barks"]).systems[system] for system in ("dense", "dense+minilm")
        )
        lengths = [len(bare.encoder.token_offsets(text)) for text in texts]
        query = len(bare.encoder.token_offsets("who barks"))
    reading = transformer_flops(load_minilm().config, [length + 2 for length in lengths])
    attention = 2 * query * sum(lengths) * 384
    assert fresh.flops_per_query - dense.flops_per_query == reading + attention
    assert fresh.bytes_per_query == dense.bytes_per_query


def test_a_slow_system_is_slow_and_the_others_are_not(index, monkeypatch):
    class Sleeper(LateInteractionReranker):
        def _score(self, lists):
            time.sleep(0.05)
            return super()._score(lists)

    monkeypatch.setattr(cost, "load_reranker", lambda name: Sleeper(load_layout("minilm")))
    queries = [f"cat {i}" for i in range(5)]
    costs = measure_cost(index, ["bm25", "bm25+slow"], queries, candidates=3).systems
    slow, quick = costs["bm25+slow"].latency_ms, costs["bm25"].latency_ms
    assert slow.p50 >= 50 and slow.p50 > quick.p50 + 45
    assert costs["bm25+slow"].passages_per_second == pytest.approx(3 / (slow.mean / 1e3))


def test_bytes_are_those_of_the_files(index):
    parts = index_bytes(index.path)
    assert sum(parts.values()) == sum(file.stat().st_size for file in index.path.iterdir())
    assert parts["embeddings"] == 12 * 384 * 4
    states = [index.path / "states.fp16", index.path / "states.spans"]
    assert parts["token states"] == sum(file.stat().st_size for file in states)


def test_memory_that_is_used_and_freed_is_seen():
    def work():
        with mmap.mmap(-1, 64 << 20) as block:  # new pages; malloc may have old ones
            block.write(b"1" * (64 << 20))

    memory = peak_memory(work)
    assert memory.rise_bytes >= 60 << 20 and memory.peak_bytes > memory.rise_bytes
    again = peak_memory(lambda: None)
    assert again.rise_bytes < 16 << 20


def make(folder):
    (folder / "qrels").mkdir(parents=True)
    texts = {"cat": "The cat purrs.", "dog": "The dog barks.", "cow": "The cow gives milk."}
    queries = {"q1": "who purrs", "q2": "who barks"}
    for name, rows in (("corpus", texts), ("queries", queries)):
        lines = (json.dumps({"_id": id, "text": text}) for id, text in rows.items())
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tcat\t1\nq2\tdog\t1\n")
    return load_dataset(folder)


def test_cost_stands_beside_quality(tmp_path):
    dataset = make(tmp_path / "zoo")
    outcome = bench_systems(dataset, ["bm25", "dense+minilm"], tmp_path / "out")
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written == outcome.as_json() and list(written["cost"]["systems"]) == ["bm25", "dense+minilm"]
    assert written["cost"]["queries"] == 2 and set(written["cost"]["pareto"]) <= {"bm25", "dense+minilm"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Quality and cost" in page and "answered alone" in page


def test_an_index_on_another_machine_says_what_came_over_the_network(tmp_path):
    pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")
    from sightline.retrieval.stores import build_store, open_store
    from sightline.tests.qdrant_api import QdrantApi

    dataset, api = make(tmp_path / "zoo"), QdrantApi()
    try:
        name = f"qdrant://{api.address}/zoo"
        build_store(name, dataset.documents()).close()
        systems = bench_systems(dataset, ["bm25", "bm25+minilm"], tmp_path / "out", index=name).summary.cost.systems
        with open_store(name) as store:
            store.search_lexical("who barks", 100)  # counts what is counted once
            api.seen.clear()
            before = store.traffic.bytes
            store.passages(store.search_lexical("who barks", 100)[0])
            sent, received = len(api.seen), store.traffic.bytes - before
    finally:
        api.close()
    words, reranked = systems["bm25"], systems["bm25+minilm"]
    assert words.network_requests == pytest.approx(sent, abs=1) and words.network_bytes == pytest.approx(received, 0.5)
    assert reranked.network_requests == words.network_requests + 1  # the token states
    states = 4 / 3 * reranked.bytes_per_query  # as text, and with the characters of each token
    assert states < reranked.network_bytes - words.network_bytes < 2 * states
    assert words.flops_per_query == words.bytes_per_query == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "requests to it, and the bytes of their answers" in page and "Index:" not in page


def test_an_index_in_qdrants_engine_here_is_measured_by_its_files(tmp_path):
    pytest.importorskip("qdrant_edge", reason="the extra qdrant is not installed")
    from sightline.retrieval.stores import build_store

    with build_store(f"qdrant-edge:{tmp_path / 'q'}", [Document("a", "The cat purrs.")]) as store:
        cost = measure_cost(store, ["bm25", "dense"], ["who purrs"])
        assert sum(cost.index_bytes.values()) == sum(store.size().values())
        assert set(cost.index_bytes) == {"documents, words, embeddings", "token states"}
        assert cost.systems["dense"].bytes_per_query == 384 * 4 and cost.systems["dense"].network_bytes is None


def test_what_cannot_be_measured_is_refused(tmp_path, index):
    dataset = make(tmp_path / "zoo")
    with pytest.raises(InputError, match="given run"):
        bench_systems(dataset, ["given"], tmp_path / "out", runs={"given": "x.trec"})
    with pytest.raises(InputError, match="at least 1"):
        bench_systems(dataset, ["bm25"], tmp_path / "out", cost_queries=0)
    with pytest.raises(InputError, match="no query"):
        measure_cost(index, ["bm25"], [])


def test_what_is_not_known_is_not_made_up(index, monkeypatch):
    class Foreign(Reranker):
        """Tells nothing of what it reads with."""

        name = layout = model = "foreign"

        def _score(self, lists):
            return [Scored(np.arange(len(candidates.documents), dtype=float)) for candidates in lists]

    monkeypatch.setattr(cost, "load_reranker", lambda name: Foreign())
    systems = measure_cost(index, ["bm25+foreign", "multivector"], ["who sleeps"], candidates=3).systems
    for unknown in systems.values():
        assert unknown.flops_per_query is None and unknown.limit_ms.flops is None
        assert unknown.latency_ms.p50 > 0
    assert systems["bm25+foreign"].tokens > 0
