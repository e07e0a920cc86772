"""Keys and values that are kept: what rounding may change, and what it may not."""

import dataclasses
import itertools
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sightline import Document, load_layout
from sightline.errors import InputError
from sightline.kernels import Paged
from sightline.models.cache import cache_key
from sightline.models.reader import StoredBlock
from sightline.rerank.decoder import DecoderReranker, DocumentCache, load_decoder
from sightline.rerank.decoder import prompt as prompt_module
from sightline.rerank.decoder.forward import read, read_documents
from sightline.rerank.decoder.kept import KeptBlock, compressed, joined

from ..conftest import save_model
from .test_engine import DOCUMENTS, QUERY, by_place

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NUMBERS = arrays(np.float32, (3, 2, 5), elements=st.floats(-1000, 1000, width=32))


@pytest.fixture(scope="module")
def decoder(model_of):
    return load_decoder(model_of("qwen3"))


def stored(ranker, documents, kind):
    """The documents' decoder states as an index gives them."""
    form = ranker.form(kind)
    data = [part for group in ranker.read_stored(documents, form) for part in group]
    assert all(len(part) % form.token_bytes == 0 for part in data)
    return [StoredBlock(part, len(part) // form.token_bytes, form) for part in data]


@SLOW
@given(NUMBERS)
def test_int8_rounds_by_half_a_step_of_the_largest_number_of_its_token_and_head(x):
    x = torch.from_numpy(x)
    small = compressed(x, "int8")
    assert (small.dtype, small.shape) == (torch.int8, (3, 2, 7))
    back = joined([small], x[:0])
    largest = x.abs().amax(dim=2, keepdim=True)
    # A scale below the smallest float16 is zero, or rounds coarsely.
    assert ((back - x).abs() <= largest / 254 * 1.001 + 127 * 2**-24).all()


@SLOW
@given(st.lists(st.sampled_from(["exact", "fp16", "int8"]), max_size=6), NUMBERS)
def test_blocks_of_any_forms_are_joined_in_their_order(forms, x):
    x = torch.from_numpy(x)
    blocks = [compressed(x * (n + 1), form) for n, form in enumerate(forms)]
    whole = joined(blocks, x)
    apart = torch.cat([*(joined([block], x[:0]) for block in blocks), x])
    assert torch.equal(whole, apart)


@pytest.mark.parametrize("layout", ["icr-block", "blockrank-cached"])
@pytest.mark.parametrize(("kind", "close"), [("fp16", 1e-3), ("int8", 2e-2)])
def test_stored_documents_give_nearly_the_scores_of_documents_read_anew(decoder, layout, kind, close):
    ranker = DecoderReranker(decoder, load_layout(layout))
    documents = [Document(row["id"], row["text"], row.get("title", "")) for row in DOCUMENTS]
    fresh = ranker.rank(QUERY, documents, evidence="token")
    kept = ranker.rank(QUERY, documents, evidence="token", states=stored(ranker, documents, kind))
    scale = max(abs(by_place(fresh)))
    np.testing.assert_allclose(by_place(kept), by_place(fresh), atol=close * scale)
    assert (by_place(kept) != by_place(fresh)).any()  # else they were read anew
    assert [item.truncated for item in kept] == [item.truncated for item in fresh]


def test_of_stored_documents_no_token_is_read_again(decoder):
    ranker = DecoderReranker(decoder, load_layout("icr-block"))
    documents = [Document(row["id"], row["text"]) for row in DOCUMENTS]
    states, passes = stored(ranker, documents, "int8"), []
    ranker.rank(QUERY, documents, states=states)  # reads the instruction
    run = ranker.decoder.run
    ranker.decoder.run = lambda ids, positions, call: (passes.append(len(ids)), run(ids, positions, call))[1]
    try:
        ranker.rank(QUERY, documents, states=states)
        ranker.rank(QUERY, documents, states=[None, *states[1:]])
    finally:
        ranker.decoder.run = run
    prompt = ranker.prompt(QUERY, documents, 0)
    queries, instruction = sum(prompt.context.queries), len(prompt.instruction)
    assert passes[0] == queries
    read = next(block for block in ranker.template.documents(documents[:1]))
    assert passes[1:] == [instruction + len(read.ids), queries]


def test_a_lower_signal_layer_reads_the_states_of_a_higher_one(decoder):
    whole = DecoderReranker(decoder, load_layout("icr-block"))
    lower = DecoderReranker(decoder, load_layout("icr-block", heads=["1-0", "2-3"], length="mean"))
    documents = [Document(row["id"], row["text"]) for row in DOCUMENTS]
    states = stored(whole, documents, "fp16")
    kept, fresh = (by_place(lower.rank(QUERY, documents, states=s)) for s in (states, None))
    np.testing.assert_allclose(kept, fresh, atol=2e-3 * max(abs(fresh)))
    fewer = stored(lower, documents, "fp16")
    assert len(fewer[0].data) < len(states[0].data)
    assert np.array_equal(fewer[0].data, states[0].data[: len(fewer[0].data)])
    with pytest.raises(InputError, match="they end at layer 2, and it reads layer 3"):
        whole.rank(QUERY, documents, states=fewer)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"max_block_tokens": 99}, "another instruction, block template or max_block_tokens"),
        ({"block": "\n{title} {text}"}, "another instruction"),
        ({"instruction": "Look:"}, "another instruction"),
        ({"chat": False}, "another instruction"),
        ({"mask": "causal"}, "takes no token states"),
    ],
)
def test_states_of_another_reading_are_refused(decoder, change, reason):
    ranker = DecoderReranker(decoder, load_layout("icr-block"))
    documents = [Document(row["id"], row["text"]) for row in DOCUMENTS]
    other = DecoderReranker(decoder, load_layout("icr-block", **change))
    with pytest.raises(InputError, match=reason):
        other.rank(QUERY, documents, states=stored(ranker, documents, "int8"))


def test_a_query_template_or_readout_of_its_own_uses_the_same_states(decoder):
    ranker = DecoderReranker(decoder, load_layout("icr-block"))
    changes = {"query": "\n\n{query}?", "signal_tokens": "query", "calibration": "none", "outliers": None}
    other = DecoderReranker(decoder, load_layout("icr-block", **changes))
    assert other.reading.misfit(ranker.reading) == ""
    assert other.reading.fingerprint == ranker.reading.fingerprint


def test_states_of_another_text_are_refused(decoder):
    ranker = DecoderReranker(decoder, load_layout("icr-block"))
    documents = [Document(row["id"], row["text"]) for row in DOCUMENTS]
    states = stored(ranker, documents, "int8")
    longer = dataclasses.replace(documents[0], text=documents[0].text + " And more.")
    with pytest.raises(InputError, match="belong to another text"):
        ranker.rank(QUERY, [longer, *documents[1:]], states=states)


def test_a_layout_that_reads_documents_with_the_query_has_nothing_to_store(decoder):
    with pytest.raises(InputError, match="take a layout such as"):
        DecoderReranker(decoder, load_layout("icr")).form("int8")


@pytest.mark.parametrize("form", ["fp16", "int8"])
@pytest.mark.parametrize("where", ["host_bytes", "disk_bytes"])
def test_a_cache_of_rounded_documents_gives_the_same_scores_at_each_hit(decoder, tmp_path, form, where):
    exact = DocumentCache(host_bytes=1 << 30)
    cache = DocumentCache(**{where: 1 << 30}, folder=tmp_path, form=form)
    plain, ranker = (DecoderReranker(decoder, load_layout("icr-block"), cache=c) for c in (exact, cache))
    expected, first, again = (by_place(r.rank(QUERY, DOCUMENTS)) for r in (plain, ranker, ranker))
    assert first.tolist() == again.tolist() != expected.tolist()
    np.testing.assert_allclose(first, expected, atol=2e-2 * max(abs(expected)))
    if where == "host_bytes":
        # The instruction is kept as computed.
        assert cache.bytes()["host"] < exact.bytes()["host"] * 0.75
    with pytest.raises(InputError, match="form must be one of"):
        DocumentCache(form="int4")


def test_a_block_is_stored_without_loss(decoder):
    x = torch.randn(4, 2, 6)
    block = KeptBlock(tuple(compressed(x * n, "int8") for n in (1, 2, 3, -1, -2)))
    ranker = DecoderReranker(decoder, load_layout("icr-block"))
    form = dataclasses.replace(
        ranker.form("int8"), reading=dataclasses.replace(ranker.reading, layer=2), heads=2, key_dim=6, value_dim=6
    )
    for layer in (2, 1, 0):
        back = KeptBlock.of(StoredBlock(block.stored(2), 4, form), layer)
        assert len(back.slots) == 2 * layer + 1
        assert all(torch.equal(back.read("keys", i), block.read("keys", i)) for i in range(layer + 1))
        assert all(torch.equal(back.read("values", i), block.read("values", i)) for i in range(layer))


@pytest.mark.parametrize("form", ["exact", "fp16", "int8"])
@pytest.mark.parametrize("stride", [1, 3])
def test_an_instruction_is_read_without_documents(tmp_path, form, stride):
    """As when it has left the cache before they have; with a single key head, whose empty tensors have odd strides."""
    decoder = load_decoder(save_model(tmp_path, num_key_value_heads=1))
    layout = load_layout("icr-block", visible_tokens="all" if stride == 1 else f"stride:{stride}")
    [alone] = read_documents(decoder, [5, 6], [], layout, form)
    first, empty, _ = read_documents(decoder, [5, 6], [[], [7, 8, 9, 10]], layout, form)
    assert torch.equal(alone.whole, first.whole) and alone.tokens == 2 and empty.tokens == 0
    assert DecoderReranker(decoder, layout).form("int8").heads == 1


def read_to_be_kept(ranker, documents):
    """The prompt of a list, and its blocks as they are kept."""
    prompt = ranker.prompt(QUERY, documents, 0)
    ids = [block.ids for block in prompt.documents]
    return prompt, read_documents(ranker.decoder, prompt.instruction, ids, ranker.spec)


def check_kept(ranker, prompt, kept):
    """Blocks are read where they lie, in one tensor each, to the bit as when they are joined, layer by layer."""
    assert all(block.whole is not None for block in kept)
    apart = [KeptBlock(block.slots) for block in kept]
    assert all(block.whole is None for block in apart)
    wanted = dataclasses.replace(ranker.wanted, tokens=True)
    [one], [other] = (read(ranker.decoder, [prompt], wanted, blocks) for blocks in (kept, apart))
    for name in ("lse", "normaliser", "tokens"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py does it on the GPU")
@pytest.mark.parametrize("backend", ["triton", "cpu"])
def test_documents_are_read_where_they_lie_as_they_are_when_joined(decoder, backend, monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed")
    ranker = DecoderReranker(decoder, load_layout("blockrank-cached", instruction="Look:"))
    prompt, kept = read_to_be_kept(ranker, [Document("a", "Cats purr."), Document("b", "Iron rusts in the rain.")])
    gather, gathered = Paged.gathered, []
    monkeypatch.setattr(Paged, "gathered", lambda self: (gathered.append(self), gather(self))[1])
    monkeypatch.setenv("SIGHTLINE_BACKEND", backend)
    check_kept(ranker, prompt, kept)
    assert bool(gathered) == (backend == "cpu")


def test_a_decoder_that_was_quantized_on_loading_shares_no_documents_with_one_that_was_not(model_of):
    cache = DocumentCache(host_bytes=1 << 26)
    plain, other = (DecoderReranker(load_decoder(model_of()), load_layout("icr-block"), cache=cache) for _ in range(2))
    other.decoder.config.quantization_config = {"quant_method": "torchao"}
    plain.rank(QUERY, DOCUMENTS)
    other.rank(QUERY, DOCUMENTS)
    assert cache.hits == 0
    plain.rank(QUERY, DOCUMENTS)
    assert cache.hits == len(DOCUMENTS) + 1


def test_entries_of_another_shape_have_other_keys(decoder):
    """Processes of several versions may share a folder: whoever changes what an entry is changes `cache._FORMAT`."""
    [_, block] = read_documents(decoder, [5, 6], [[7, 8, 9]], load_layout("icr-block"))
    shapes = [tuple(x.shape) for x in block.tensors]
    assert (cache_key("x")[:8], shapes) == ("fae957b2", [(7, 3, 2, 16)])


def test_threads_read_kept_documents_while_others_are_evicted(decoder):
    """A pass holds what it reads: its blocks may leave the cache, and others take their memory once it has ended."""
    layout = load_layout("icr-block")
    documents = [Document(str(i), f"cats purr {i} " * (1 + i % 7)) for i in range(16)]
    lists = [[documents[(start + 3 * i) % 16] for i in range(5)] for start in range(8)]
    expected = [by_place(DecoderReranker(decoder, layout).rank(QUERY, some)) for some in lists]
    size = sum(x.nbytes for x in read_documents(decoder, [5, 6], [list(range(30))], layout)[1].tensors)
    cache = DocumentCache(device_bytes=4 * size, host_bytes=2 * size)
    ranker = DecoderReranker(decoder, layout, cache=cache)

    def rank(number):
        chance = random.Random(number)
        return [(i, by_place(ranker.rank(QUERY, lists[i]))) for i in (chance.randrange(8) for _ in range(6))]

    with ThreadPoolExecutor(3) as pool:
        for i, scores in itertools.chain.from_iterable(pool.map(rank, range(3))):
            np.testing.assert_allclose(scores, expected[i], atol=1e-5)
    assert 0 < cache.bytes()["device"] <= 4 * size and cache.hits and cache.misses > 16


def counting(ranker, monkeypatch):
    """The texts that are tokenised from now on."""
    encode, seen = ranker.template.encoder.encode, []
    monkeypatch.setattr(
        ranker.template.encoder, "encode", lambda texts: (seen.extend(text.text for text in texts), encode(texts))[1]
    )
    return seen


def test_documents_are_tokenised_once_and_not_again_while_they_are_kept(decoder, monkeypatch):
    plain = DecoderReranker(decoder, load_layout("icr-block", max_block_tokens=24))
    ranker = DecoderReranker(plain.decoder, plain.spec, cache=DocumentCache(host_bytes=1 << 26))
    documents = [Document("a", "Cats purr. " * 30), Document("b", "Cats purr. " * 30, "Cats"), Document("c", "Iron.")]
    for one, remembers in ((plain, False), (ranker, True)):
        seen = counting(one, monkeypatch)
        one.rank(QUERY, documents)
        assert sum("Iron" in text for text in seen) == 1
        seen.clear()
        again = one.rank(QUERY, [*documents, Document("d", "Dogs bark.")], evidence="token")
        assert sum("Iron" in text for text in seen) == (not remembers)
        assert sum("Dogs" in text for text in seen) == 1
        assert [item.truncated > 0 for item in again] == [len(item.document.text) > 300 for item in again]
    fresh = plain.prompt(QUERY, documents, 0)
    assert all(
        one.ids == other.ids and np.array_equal(one.spans, other.spans) and one.counted == other.counted
        for one, other in zip(ranker.prompt(QUERY, documents, 0).documents, fresh.documents, strict=True)
    )


def test_only_the_latest_blocks_are_remembered(decoder, monkeypatch):
    ranker = DecoderReranker(decoder, load_layout("icr-block"), cache=DocumentCache(host_bytes=1 << 26))
    documents = [Document(str(n), f"Cats purr {n}.") for n in range(9)]
    sizes = [prompt_module._bytes(("", "", d.text), ranker.template.documents([d])[0]) for d in documents]
    monkeypatch.setattr(prompt_module, "_REMEMBERED", sum(sizes[:3]) + max(sizes) // 2)
    for document in (*documents[:3], documents[0], documents[4]):  # the second is the oldest then
        ranker.prompt(QUERY, [document], 0)
    seen = counting(ranker, monkeypatch)
    for document in (documents[0], documents[2], documents[4], documents[1]):
        ranker.prompt(QUERY, [document], 0)
    assert [document.id for document in documents if any(document.text in text for text in seen)] == ["1"]
