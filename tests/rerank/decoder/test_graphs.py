"""Recorded passes read every list of their bucket as it is read without a record."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sightline import Document, load_layout
from sightline.errors import InputError, ModelError
from sightline.kernels.attention import tiles
from sightline.rerank.decoder import DecoderReranker, graphs, load_decoder
from sightline.rerank.decoder.forward import read, read_documents
from sightline.rerank.decoder.graphs import Graphs
from sightline.rerank.decoder.kept import KeptBlock

from ..conftest import save_model

pytest.importorskip("triton", reason="triton is not installed")
if torch.cuda.is_available():
    pytest.skip("test_gpu.py does it on the GPU", allow_module_level=True)

from .tape import record

WORDS = "cats purr and sleep iron rusts in the rain bread rises owls hoot".split()
SHORT = {"chat": False, "instruction": "Look:", "query": "Q: {query}", "block": "\nT: {text}", "max_block_tokens": 16}
ALONE = {"calibration": "none", "outliers": None}
MAXSIM = {"readout": "maxsim", "normalisation": "documents", "length": "sum"}
POINTED = {"answer": "", "completion": "", "query_position": 64}
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(autouse=True)
def _small_buckets_read_by_triton(monkeypatch):
    monkeypatch.setenv("SIGHTLINE_BACKEND", "triton")
    monkeypatch.setattr(graphs, "_STEP", 4)
    monkeypatch.setattr(tiles, "_LEAST_FAR", 16)  # so that tiles of short lists are split, too
    monkeypatch.setattr(tiles, "_PROGRAMS", 3)


@pytest.fixture(scope="module")
def decoder_of(tmp_path_factory):
    """A random decoder of two layers, made once for each family."""
    made = {}

    def make(family="qwen3", **shape):
        if family not in made:
            made[family] = load_decoder(save_model(tmp_path_factory.mktemp(family), family, **SMALL, **shape))
        return made[family]

    return make


def some_list(ranker, draw, documents, words=2):
    """A prompt and what is kept of its documents: of all lengths, 32 to 62 tokens together."""
    query = " ".join(draw.choices(WORDS, k=words))
    while True:
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(0, 4))) for _ in range(documents)]
        prompt = ranker.prompt(query, [Document(str(n), text) for n, text in enumerate(texts)], 0)
        if 32 <= prompt.size - sum(prompt.context.queries) < 63:
            break
    return prompt, read_documents(ranker.decoder, prompt.instruction, [b.ids for b in prompt.documents], ranker.spec)


def check(one, other):
    """A replay reads what a pass reads, to the rounding of sums that are longer by zeros."""
    assert one.lengths == other.lengths
    for name in ("lse", "normaliser", "largest", "tokens", "null_tokens"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "layout", "changes"),
    [
        ("qwen3", "blockrank-cached", POINTED | {"ssmax": 0.4}),
        ("qwen3", "icr-block", {"query": "{query}"}),
        ("mistral-window", "icr-block", ALONE | {"length": "sum"}),
        ("qwen3", "icr-block", ALONE | MAXSIM | {"span": "contents"}),
        ("qwen3", "icr-block", ALONE | {"span": "contents", "instruction": ""}),
    ],
    ids=["by documents", "calibrated", "window", "maxsim, gaps", "gaps, no instruction"],
)
def test_a_graph_reads_every_list_of_its_bucket(decoder_of, family, layout, changes):
    draw = random.Random(1)
    decoder = decoder_of(family, **{"sliding_window": 12} if "window" in family else {})
    ranker = DecoderReranker(decoder, load_layout(layout, **SHORT | changes))
    recorded = Graphs(decoder, record)
    for documents, words in ((6, 2), (4, 1), (7, 2)):
        prompt, kept = some_list(ranker, draw, documents, words)
        [expected] = read(decoder, [prompt], ranker.wanted, kept)
        check(recorded.read(prompt, ranker.wanted, kept), expected)
    assert len(recorded) < 3, "no graph was shared"


def test_lists_of_several_threads_share_graphs(decoder_of):
    draw = random.Random(2)
    ranker = DecoderReranker(decoder_of(), load_layout("blockrank-cached", **SHORT | POINTED))
    recorded = Graphs(ranker.decoder, record)
    lists = [some_list(ranker, draw, documents) for documents in (4, 5, 6, 7, 2)]
    expected = [read(ranker.decoder, [prompt], ranker.wanted, kept)[0] for prompt, kept in lists]
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda pair: recorded.read(pair[0], ranker.wanted, pair[1]), lists))
    for one, other in zip(got, expected, strict=True):
        check(one, other)
    assert len(recorded) < len(lists)


def test_only_so_many_graphs_are_held(decoder_of, monkeypatch):
    monkeypatch.setattr(graphs, "_GRAPHS", 1)
    made = []
    ranker = DecoderReranker(decoder_of(), load_layout("blockrank-cached", **SHORT | POINTED))
    recorded = Graphs(ranker.decoder, lambda run: (made.append(run), record(run))[1])
    lists = [some_list(ranker, random.Random(3), documents) for documents in (4, 2)]
    for prompt, kept in (lists[0], lists[1], lists[1], lists[0]):
        recorded.read(prompt, ranker.wanted, kept)
    assert len(recorded) == 1 and len(made) == 3


def test_documents_that_are_decoded_in_every_pass_are_read_without_a_graph(decoder_of):
    ranker = DecoderReranker(decoder_of(), load_layout("icr-block", **SHORT, **ALONE))
    ranker._readout.graphs = recorded = Graphs(ranker.decoder, record)
    prompt, kept = some_list(ranker, random.Random(4), 4)
    half = [KeptBlock(tuple(x.half() for x in block.tensors)) for block in kept]
    assert recorded.read(prompt, ranker.wanted, half) is None
    assert recorded.read(prompt, ranker.wanted, [KeptBlock(block.slots) for block in kept]) is None
    [one], [other] = ranker._readout.read([prompt], kept=half), read(ranker.decoder, [prompt], ranker.wanted, half)
    assert torch.equal(one.lse, other.lse) and not len(recorded)


def test_a_pass_that_cannot_be_recorded_says_why(decoder_of):
    ranker = DecoderReranker(decoder_of(), load_layout("icr-block", **SHORT, **ALONE))

    def refuse(run):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\n" + "trace " * 1000)

    recorded = Graphs(ranker.decoder, refuse)
    prompt, kept = some_list(ranker, random.Random(5), 4)
    with pytest.raises(ModelError, match="cannot be recorded: CUDA error.*without cuda_graphs=True") as caught:
        recorded.read(prompt, ranker.wanted, kept)
    assert len(str(caught.value)) < 600 and not len(recorded)


def hooked(decoder, hook):
    """Have a decoder compute something over all tokens of a pass, as with one scale for all of its numbers."""
    return decoder.model.layers[0].register_forward_hook(lambda module, args, out: hook(out))


def test_nothing_is_left_of_the_list_before(decoder_of):
    """A list is read alike, to the last bit, whatever was read before; also by a model that looks at all tokens."""
    ranker = DecoderReranker(decoder_of(), load_layout("blockrank-cached", **SHORT | POINTED))
    recorded = Graphs(ranker.decoder, record)
    short, long = (some_list(ranker, random.Random(1), 4, words) for words in (5, 6))
    handle = hooked(ranker.decoder, lambda x: x + x.mean())
    try:
        one, _, again = (recorded.read(prompt, ranker.wanted, kept) for prompt, kept in (short, long, short))
    finally:
        handle.remove()
    assert len(recorded) == 1 and short[0].size < long[0].size
    assert one.lse.isfinite().all() and torch.equal(one.lse, again.lse)


def test_a_pass_that_waits_for_numbers_is_not_recorded(decoder_of):
    ranker = DecoderReranker(decoder_of(), load_layout("icr-block", **SHORT, **ALONE))
    recorded = Graphs(ranker.decoder, lambda run: pytest.fail("it was recorded"))
    prompt, kept = some_list(ranker, random.Random(5), 4)
    for hook in (lambda x: x * x.amax().item(), lambda x: x + x[x > 0].sum()):
        handle = hooked(ranker.decoder, hook)
        with pytest.raises(ModelError, match="waits for numbers on the host; load it without cuda_graphs=True"):
            recorded.read(prompt, ranker.wanted, kept)
        handle.remove()
    assert recorded._lock.acquire(blocking=False) and not len(recorded)


def test_graphs_need_the_kernels_that_look_at_no_layout_on_the_host(decoder_of, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_BACKEND", "reference")
    with pytest.raises(ModelError, match="need the backend 'triton', and .* is read by 'reference'"):
        Graphs(decoder_of(), record)


def test_graphs_need_a_gpu_and_documents_that_are_kept(decoder_of):
    with pytest.raises(ModelError, match="one CUDA device, and .* is on cpu"):
        DecoderReranker(decoder_of(), load_layout("icr-block"), cuda_graphs=True)
    with pytest.raises(InputError, match="'icr' reads documents together"):
        DecoderReranker(decoder_of(), load_layout("icr"), cuda_graphs=True)
