"""The learnt readout: untrained it is `minilm-log-mass`; trained it keeps the invariants, whatever its weights are."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sightline import LateInteractionReranker, load_layout, load_reranker
from sightline.errors import InputError, ModelError
from sightline.kernels import QuantizedKeys
from sightline.models.reader import DocumentStates
from sightline.rerank.learnt import PARTS, LearntReadout
from sightline.rerank.readout import document_scores, read_states, row_shares
from sightline.rerank.results import NOTHING

LAYOUT = load_layout("minilm-log-mass")


def unit(*shape, seed=0):
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def trained(parts, seed=0):
    readout = LearntReadout(parts, dim=24)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in readout.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=draw)
    return readout


def naive(readout, q, keys):
    """The formulas of the docstring in float64 numpy, token by token."""
    w = {name: value.detach().double().numpy() for name, value in readout.named_parameters()}
    q = q.double().numpy()
    keys = [key.double().numpy() for key in keys]
    rows = q
    if "read" in readout.parts:
        packed = np.concatenate(keys)
        logits = 20 * np.exp(w["sharpness"]) * rows @ packed.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        rows = rows + w["gate"] * (p / p.sum(1, keepdims=True)) @ packed
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if "projection" in readout.parts:
        rows = np.exp(w["gain"]) * (rows + rows @ w["down"].T @ w["up"].T + w["bias"])
    weight = np.full(len(q), 1 / len(q))
    if "weights" in readout.parts:
        e = np.exp(q @ w["weigh"])
        weight = e / e.sum()

    def heads(token):
        cosines = [key @ rows[token] for key in keys]
        lse = [[np.log(np.exp(scale * c).sum()) / scale for c in cosines] for scale in (20, 40)]
        return np.array([*lse, [c.max() for c in cosines]])  # (3, N)

    scores = np.zeros(len(keys))
    for token in range(len(q)):
        read = heads(token)
        value = 20 * read[0]
        if "heads" in readout.parts:
            features = np.stack([f for row in read for f in (row, 5 * (row - row.mean()))])
            hidden = np.maximum(w["inner"] @ features + w["inner_bias"][:, None], 0)
            value = value + 5 * w["outer"] @ hidden
        scores += weight[token] * value
    return scores


@pytest.mark.parametrize("parts", [*([part] for part in PARTS), ["weights", "heads"], list(PARTS)], ids="-".join)
def test_it_is_the_formulas_of_its_docstring(parts):
    q, keys = unit(5, 24), [unit(n, 24, seed=n) for n in (1, 7, 3, 12)]
    readout = trained(parts)
    scores = readout(q, keys).detach()
    np.testing.assert_allclose(scores.numpy(), naive(readout, q, keys), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", PARTS)
def test_untrained_it_scores_as_the_attention_alone(part):
    q, keys = unit(5, 24), [unit(n, 24, seed=n) for n in (1, 7, 3, 12)]
    untrained = LearntReadout([part], dim=24)
    start, base = untrained.read(untrained.ask(q, keys), keys), read_states(q, keys, scale=LAYOUT.readout.scale)
    torch.testing.assert_close(untrained(q, keys), document_scores(base, LAYOUT.readout), rtol=0, atol=1e-5)
    torch.testing.assert_close(row_shares(start, LAYOUT.readout), row_shares(base, LAYOUT.readout), rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=2, max_size=40).filter(any),
    st.integers(1, 9),
    st.integers(0, 99),
    st.randoms(),
)
def test_order_leaves_no_trace_and_duplicates_are_equal(lengths, rows, seed, draw):
    q, keys = unit(rows, 24, seed=seed), [unit(n, 24, seed=n) for n in lengths]
    readout = trained(["weights", "projection", "heads"], seed)
    scores = readout(q, keys)
    order = list(range(len(keys)))
    draw.shuffle(order)
    assert torch.equal(readout(q, [keys[i] for i in order]), scores[order])
    by_length = dict(zip(lengths, scores.tolist(), strict=True))  # equal lengths are equal documents here
    assert [by_length[n] for n in lengths] == scores.tolist()
    assert all((score == NOTHING) == (n == 0) for n, score in zip(lengths, scores.tolist(), strict=True))
    assert all(score > NOTHING for n, score in zip(lengths, scores.tolist(), strict=True) if n)


def test_kept_states_are_read_in_any_form():
    q, keys = unit(4, 24), [unit(n, 24, seed=n) for n in (6, 9)]
    readout = trained(list(PARTS))
    quantised = []
    for key in keys:
        scales = key.abs().amax(1) / 127
        quantised.append(QuantizedKeys((key / scales[:, None]).round().to(torch.int8), scales))
    exact = readout(q, keys)
    torch.testing.assert_close(readout(q, [key.half() for key in keys]), exact, rtol=0, atol=0.05)
    torch.testing.assert_close(readout(q, quantised), exact, rtol=0, atol=0.5)


def test_gradients_are_those_of_finite_differences():
    q, keys = unit(3, 24), [unit(n, 24, seed=n) for n in (4, 2, 6)]
    readout = trained(list(PARTS))
    names = list(dict(readout.named_parameters()))
    weights = [value.detach().clone() for value in readout.parameters()]
    torch.softmax(readout(q, keys), 0)[1].backward()
    draw = torch.Generator().manual_seed(1)
    for name, value, parameter in zip(names, weights, readout.parameters(), strict=True):
        direction = torch.randn(value.shape, generator=draw)
        direction /= direction.norm()
        ends = []
        for step in (1e-3, -1e-3):
            moved = dict(zip(names, weights, strict=True)) | {name: value + step * direction}
            scores = torch.func.functional_call(readout, moved, (q, keys))
            ends.append(torch.softmax(scores, 0)[1].item())
        expected = (ends[0] - ends[1]) / 2e-3
        assert (parameter.grad * direction).sum().item() == pytest.approx(expected, rel=0.03, abs=2e-4), name


def test_it_loads_by_the_path_of_its_folder(tmp_path):
    readout = LearntReadout(["heads", "weights"])
    with torch.no_grad():
        readout.outer += 0.1
    reranker = LateInteractionReranker(load_layout("minilm-log-mass", name="mine", readout="learnt"), readout=readout)
    reranker.save_pretrained(tmp_path)
    documents = ["Dogs bark.", "Cats purr.", "Iron rusts."]
    loaded = load_reranker(str(tmp_path))
    again, first = loaded.rank("what purrs", documents, evidence="token"), reranker.rank("what purrs", documents)
    assert (loaded.name, loaded.layout) == (str(tmp_path), "mine")
    assert (again.reranker, again.layout) == (str(tmp_path), "mine")
    assert [(item.index, item.score) for item in again] == [(item.index, item.score) for item in first]
    assert all(sum(mark.mass for mark in item.evidence) == pytest.approx(item.mass, abs=1e-4) for item in again)
    assert load_reranker(str(tmp_path), scale=10.0).spec.readout.scale == 10.0


@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "strange", "shape", "nan"])
def test_damaged_weights_are_refused(tmp_path, damage):
    layout = load_layout("minilm-log-mass", name="mine", readout="learnt")
    LateInteractionReranker(layout, readout=LearntReadout(["heads"])).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        name = "readout.outer"
        changed = {
            "empty": {},
            "strange": {**weights, "lm_head.weight": torch.zeros(2)},
            "shape": {**weights, name: torch.zeros(3)},
            "nan": {**weights, name: weights[name] * torch.nan},
        }[damage]
        save_file(changed, path)
    with pytest.raises(ModelError, match="model.safetensors"):
        load_reranker(str(tmp_path))


def test_readout_and_layout_go_together():
    with pytest.raises(InputError, match="needs learnt weights"):
        load_reranker("minilm-log-mass", readout="learnt")
    with pytest.raises(InputError, match="no learnt weights"):
        LateInteractionReranker("minilm", readout=LearntReadout(["heads"]))
    with pytest.raises(InputError, match="read apart"):
        load_layout("blockrank", readout="learnt")
    with pytest.raises(InputError, match="what can be learnt"):
        LearntReadout(["everything"])


@pytest.mark.parametrize("parts", [["weights"], ["projection"], ["heads"], ["read"], list(PARTS)], ids="-".join)
def test_it_is_list_free_unless_a_part_looks_around(parts):
    q, keys = unit(5, 24), [unit(n, 24, seed=n) for n in (1, 7, 3, 12)]
    readout = trained(parts)
    with torch.inference_mode():
        together, alone = readout(q, keys), torch.cat([readout(q, [key]) for key in keys])
    assert torch.allclose(together, alone, rtol=0, atol=1e-5) == readout.list_free
    assert readout.list_free == (not {"heads", "read"} & set(parts))


def test_relevance_is_for_learnt_readouts_that_are_list_free():
    calibrated = {"name": "mine", "readout": "learnt", "relevance": {"slope": 1.0, "offset": -2.0}}
    layout = load_layout("minilm-log-mass", **calibrated)
    reranker = LateInteractionReranker(layout, readout=LearntReadout(["weights"]))
    assert reranker.list_free and reranker.rank("cats", ["Cats purr."])[0].relevance > 0
    with pytest.raises(InputError, match="'mine' has relevance, but .* relative to their list"):
        LateInteractionReranker(layout, readout=LearntReadout(["heads"]))


def test_documents_that_see_the_query_change_with_it(tmp_path):
    reranker = LateInteractionReranker(load_layout("minilm-log-mass", documents_see_query=True))
    documents = ["Dogs bark. " * 200, "Cats purr."]
    assert not reranker.spec.keepable
    alone = LateInteractionReranker("minilm-log-mass").rank("what purrs", documents, evidence="token")
    seen = reranker.rank("what purrs", documents, evidence="token")
    assert seen.truncated == 1 and seen.items != alone.items
    assert [item.score for item in reranker.rank_batch([("what purrs", documents)])[0]] == [i.score for i in seen]
    kept = reranker.reader.read(documents)
    states = [DocumentStates(torch.from_numpy(kept.states[a:b]), 0) for a, b in itertools.pairwise(kept.offsets)]
    assert reranker.rank("what purrs", documents, states=states, evidence="token").items == seen.items
    longest = next(item for item in seen if item.truncated)
    assert longest.truncated > next(item for item in alone if item.truncated).truncated  # the query took of the room
    assert all(mark.text in longest.document.text for mark in longest.evidence)
    json.dumps([mark.mass for mark in longest.evidence])
