"""Learning decoders: loss and gradients against eager attention with a written-out mask, and what is saved."""

import functools
import json
import sys

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from sightline import Document, load_layout, load_reranker
from sightline.errors import InputError, MissingExtraError, ModelError
from sightline.kernels import Context, Packing, block_lse, mass
from sightline.training.decoder import DecoderLearner
from sightline.training.learner import TrainingList

from ..rerank.conftest import save_model
from ..rerank.decoder.test_engine import written_out

QUERY = "What do cats do?"
DOCUMENTS = (
    Document("a", "Cats purr when they are content, and sleep a lot.", "Cats"),
    Document("b", "Iron rusts in the rain."),
    Document("c", "Dogs bark at strangers; they like long walks. They are loud.", "Dogs"),
    Document("d", "x"),
)
LISTS = [
    TrainingList(QUERY, DOCUMENTS, (True, False, False, True)),
    TrainingList("Why does iron rust?", DOCUMENTS[2:0:-1], (False, True)),
]
TAU = 0.05


load = functools.partial(load_reranker, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def make(family="qwen3"):
        if family not in made:
            made[family] = save_model(
                tmp_path_factory.mktemp(family), family, num_hidden_layers=3, initializer_range=0.15
            )
        return made[family]

    return make


def contrast(scores, positive):
    """Multi-positive InfoNCE, written as a ratio of sums (BlockRank, 2025, equation 6)."""
    weights = (scores / TAU).exp()
    return -(weights[torch.tensor(positive)].sum() / weights.sum()).log()


def loss_of(output, lists=LISTS, weight=0.1):
    loss = torch.stack(
        [contrast(s, training_list.positive) for s, training_list in zip(output.scores, lists, strict=True)]
    ).mean()
    return loss if output.next_token is None else output.next_token + weight * loss


class Dense:
    """BlockRank by transformers' eager attention: a mask of tokens by tokens, one list at a time."""

    def __init__(self, folder, layer, dtype=torch.float64):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=dtype)
        self.layer = layer

    def __call__(self, training_list, answer=None):
        documents = [{"title": d.title, "text": d.text} for d in training_list.documents]
        first, blocks, [(last, rows)] = written_out("blockrank", self.tokenizer, training_list.query, documents)
        target = [] if answer is None else self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        ids = first + [i for block in blocks for i in block] + last + target
        owner = [-1] * len(first) + [i for i, block in enumerate(blocks) for _ in block]
        before = len(owner)
        owner += [len(blocks)] * (len(ids) - before)
        positions = [*range(len(first))]
        for block in blocks:
            positions += range(len(first), len(first) + len(block))
        positions += range(16_384, 16_384 + len(ids) - before)
        group, place = torch.tensor(owner), torch.arange(len(ids))
        document = (group >= 0) & (group < len(blocks))
        seen = place[None] <= place[:, None]
        seen &= ~(document[:, None] & document[None] & (group[:, None] != group[None]))
        dtype = self.model.dtype
        output = self.model(
            input_ids=torch.tensor([ids]),
            position_ids=torch.tensor([positions]),
            attention_mask=torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[None, None],
            output_attentions=True,
            use_cache=False,
        )
        attention = output.attentions[self.layer][0][:, [before + row for row in rows], len(first) : before]
        attention = attention / attention.sum(-1, keepdim=True)
        scores = torch.stack([part.sum(-1).mean() for part in attention.split([*map(len, blocks)], dim=-1)])
        end = before + len(last)
        return scores, output.logits[0, end - 1 : end - 1 + len(target)], torch.tensor(target)

    def loss(self, lists, answers=None, weight=0.1):
        contrasts, logits, targets = [], [], []
        for training_list, answer in zip(lists, answers or [None] * len(lists), strict=True):
            scores, said, target = self(training_list, answer)
            contrasts.append(contrast(scores, training_list.positive))
            logits.append(said)
            targets.append(target)
        loss = torch.stack(contrasts).mean()
        if answers is None:
            return loss
        return functional.cross_entropy(torch.cat(logits), torch.cat(targets)) + weight * loss

    def gradients(self):
        return {name.removeprefix("model."): parameter.grad for name, parameter in self.model.named_parameters()}


def assert_same_gradients(learner, expected, rtol):
    largest = max(float(grad.abs().max()) for grad in expected.values() if grad is not None)
    assert largest > 1e-3  # there is something to compare
    for name, parameter in learner.parameters().items():
        exact = expected.pop(name)
        assert exact is not None, name
        torch.testing.assert_close(parameter.grad.double(), exact.double(), rtol=rtol, atol=rtol * largest, msg=name)
    return {name for name, grad in expected.items() if grad is not None and float(grad.abs().max()) > rtol * largest}


@pytest.mark.parametrize(
    ("family", "backend", "dtype", "rtol"),
    [
        ("qwen3", "reference", "float64", 1e-5),
        ("qwen3", "cpu", "float64", 1e-5),
        ("llama", "cpu", "float64", 1e-5),
        ("llama", "cpu", "float32", 1e-3),
    ],
)
def test_loss_and_gradients_are_those_of_dense_attention(folder, monkeypatch, family, backend, dtype, rtol):
    monkeypatch.setenv("SIGHTLINE_BACKEND", backend)
    learner = DecoderLearner(folder(family), "blockrank", dtype=dtype, device="cpu")
    assert learner.ranker.backend == backend
    dense = Dense(folder(family), layer=1)
    loss, expected = loss_of(learner(LISTS)), dense.loss(LISTS)
    torch.testing.assert_close(loss.double(), expected, rtol=rtol, atol=0)
    loss.backward()
    expected.backward()
    left = assert_same_gradients(learner, dense.gradients(), rtol)
    assert left == set()  # nothing that the loss depends on is missing from what is trained


def test_triton_kernels_give_the_same_loss_and_gradients(folder, monkeypatch):
    """On a list short enough for Triton's interpreter."""
    layout = load_layout("blockrank", instruction="{query}", block="{id} {text} {id}", query="{query}", answer=":")
    short = [TrainingList("cats", (Document("a", "Cats purr"), Document("b", "Iron")), (True, False))]
    outcomes = []
    for backend in ("cpu", "triton"):
        monkeypatch.setenv("SIGHTLINE_BACKEND", backend)
        on = "cpu" if backend == "cpu" else None
        learner = DecoderLearner(folder(), layout, lora=2, dtype="float32", device=on)
        assert learner.ranker.backend == backend
        loss = loss_of(disturbed(learner)(short), short)
        loss.backward()
        outcomes.append((loss, {name: parameter.grad.cpu() for name, parameter in learner.parameters().items()}))
    torch.testing.assert_close(outcomes[1][0].cpu(), outcomes[0][0].cpu(), rtol=1e-4, atol=0)
    largest = max(float(grad.abs().max()) for grad in outcomes[0][1].values())
    for name, grad in outcomes[0][1].items():
        torch.testing.assert_close(outcomes[1][1][name], grad, rtol=1e-3, atol=1e-4 * largest, msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_next_token_loss_and_its_gradients_are_those_of_dense_attention(folder, checkpointing):
    learner = DecoderLearner(
        folder(), "blockrank", next_token=True, dtype="float64", device="cpu", gradient_checkpointing=checkpointing
    )
    assert learner.ranker.decoder.signal_layer == 1 and len(learner.base.layers) == 3
    dense = Dense(folder(), layer=1)
    output = learner(LISTS)
    expected = dense.loss(LISTS, ["0, 3]", "1]"])
    torch.testing.assert_close(loss_of(output), expected, rtol=1e-6, atol=0)
    loss_of(output).backward()
    expected.backward()
    left = assert_same_gradients(learner, dense.gradients(), 1e-5)
    # What lies above the signal layer is looked through, and stays as it is.
    assert left and all(name.startswith(("layers.2.", "norm.", "lm_head.")) for name in left)


def test_the_same_losses_step_by_step_as_with_dense_attention(folder):
    learner = DecoderLearner(folder(), "blockrank", dtype="float64", device="cpu")
    dense = Dense(folder(), layer=1)
    named = {name.removeprefix("model."): parameter for name, parameter in dense.model.named_parameters()}
    ours = torch.optim.AdamW(learner.parameters().values(), lr=3e-3)
    theirs = torch.optim.AdamW([named[name] for name in learner.parameters()], lr=3e-3)
    curves = []
    for _ in range(10):
        pair = []
        for optimiser, loss in ((ours, loss_of(learner(LISTS))), (theirs, dense.loss(LISTS))):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            pair.append(loss.item())
        curves.append(pair)
    curves = np.array(curves)
    assert curves[-1, 0] < 0.5 * curves[0, 0]
    np.testing.assert_allclose(curves[:, 0], curves[:, 1], rtol=1e-3)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_loss_through_block_lse_passes_gradcheck(backend):
    torch.manual_seed(0)
    layout = Packing([Context([2, 3, 1], [2], 1), Context([1, 2], [1], 2)])
    q = torch.randn(len(layout.signal), 4, 3, dtype=torch.float64, requires_grad=True)
    k = torch.randn(layout.tokens, 2, 3, dtype=torch.float64, requires_grad=True)

    def loss(q, k):
        shares = mass(block_lse(q, k, layout, scale=0.7, backend=backend))
        return contrast(shares[:2].mean((0, 1)), (False, True, True)) + contrast(
            shares[2, :, :2].mean(0), (True, False)
        )

    assert torch.autograd.gradcheck(loss, (q, k))


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("layout", ["blockrank", "blockrank-cached", "icr-block", "icr"])
def test_scores_are_those_that_the_reranker_ranks_by(folder, layout, family):
    plain = load(folder(family), layout=layout)
    whole = {"lora": 2, "gradient_checkpointing": True, "next_token": layout == "blockrank"}
    for given in ({}, whole):
        learner = DecoderLearner(folder(family), layout, device="cpu", **given)
        output = learner(LISTS)
        assert all(scores.dtype == torch.float32 and scores.requires_grad for scores in output.scores)
        for reranker in (plain, learner.reranker()):
            for training_list, scores in zip(LISTS, output.scores, strict=True):
                ranking = reranker.rank(training_list.query, training_list.documents)
                ranked = [item.score for item in sorted(ranking, key=lambda item: item.index)]
                np.testing.assert_allclose(scores.detach().numpy(), ranked, rtol=1e-4, atol=1e-6)
        alone = learner(LISTS[1:]).scores[0]
        torch.testing.assert_close(alone, output.scores[1], rtol=1e-5, atol=1e-7)
        if layout.startswith("blockrank"):
            torch.testing.assert_close(torch.stack([s.sum() for s in output.scores]), torch.ones(2))


@pytest.mark.parametrize("layout", ["blockrank", "icr-block", "icr"])
@pytest.mark.parametrize("lora", [None, 2])
def test_gradient_checkpointing_changes_no_gradient(folder, layout, lora):
    gradients = []
    for checkpointing in (False, True):
        learner = DecoderLearner(folder(), layout, lora=lora, gradient_checkpointing=checkpointing, device="cpu")
        runs = []
        learner.base.layers[0].mlp.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        output = learner(LISTS)
        spread = sum((scores * torch.arange(len(scores))).sum() for scores in output.scores)
        spread.backward()
        assert len(runs) == 1 + checkpointing
        gradients.append({name: parameter.grad for name, parameter in learner.parameters().items()})
    assert max(float(grad.abs().max()) for grad in gradients[0].values()) > 1e-6
    for name, grad in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], grad, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ("icr-block", {}),
        ("icr", {"outliers": None, "length": "mean"}),
        ("blockrank", {"readout": "maxsim"}),
        ("blockrank", {"readout": "log_mass", "ssmax": 0.4, "length": "mean"}),
        ("icr", {"heads": ("1-2", "0-1"), "calibration": "none", "outliers": None}),
    ],
    ids=["calibrated", "by-length", "maxsim", "log-mass", "heads"],
)
def test_readouts_have_the_slope_that_finite_differences_show(folder, layout, changes):
    learner = DecoderLearner(folder(), load_layout(layout, **changes), dtype="float64", device="cpu")

    def loss():
        return sum((s * torch.arange(1, 1 + len(s))).sum() for s in learner(LISTS).scores)

    loss().backward()
    torch.manual_seed(0)
    parameters = learner.parameters().values()
    directions = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum(float((parameter.grad * way).sum()) for parameter, way in zip(parameters, directions, strict=True))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, way in zip(parameters, directions, strict=True):
                parameter += sign * 1e-4 * way
            values.append(float(loss()))
            for parameter, way in zip(parameters, directions, strict=True):
                parameter -= sign * 1e-4 * way
    assert abs(slope) > 1e-4
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(slope, rel=1e-2)


def disturbed(learner, seed=1):
    """Adapters begin at zero: give them something to say."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in learner.parameters().items():
            parameter += (
                0.1 * torch.randn(parameter.shape).to(parameter) * (1 if "lora" in name else parameter.abs().mean())
            )
    return learner


def ranked(reranker, training_list=LISTS[0]):
    return [
        item.score
        for item in sorted(reranker.rank(training_list.query, training_list.documents), key=lambda item: item.index)
    ]


@pytest.mark.parametrize("options", [{}, {"lora": 2}, {"lora": 2, "next_token": True}], ids=["full", "lora", "write"])
def test_what_is_saved_ranks_by_its_path_as_the_learner_does(folder, tmp_path, options):
    learner = disturbed(DecoderLearner(folder(), "blockrank", device="cpu", **options))
    before = ranked(load(folder(), layout="blockrank"))
    learner.save(tmp_path)
    saved = load(f"hf:{tmp_path}")
    # The library of linear layers that was loaded may be another than the one that was trained with.
    np.testing.assert_allclose(ranked(saved), ranked(learner.reranker()), rtol=1e-6)
    np.testing.assert_allclose(ranked(saved), learner(LISTS).scores[0].detach().numpy(), rtol=1e-4)
    assert max(abs(np.array(ranked(saved)) - before)) > 1e-3
    assert yaml.safe_load((tmp_path / "layout.yaml").read_text()) == load_layout("blockrank", layers=1).as_dict()
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 2
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == (["adapter"] if "lora" in options else [])
    # The same again, from what was saved.
    again = DecoderLearner(str(tmp_path), device="cpu")
    assert again.layout == learner.layout
    np.testing.assert_allclose(ranked(again.reranker()), ranked(saved), rtol=1e-6)


def test_adapters_alone_do_in_the_whole_model_what_merged_weights_do(folder, tmp_path):
    from peft import PeftModel

    learner = disturbed(
        DecoderLearner(folder(), "blockrank", lora=3, alpha=5.0, targets=["q_proj", "up_proj"], device="cpu")
    )
    learner.save(tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (folder(), 3, 5.0)
    dense = Dense(folder(), layer=1, dtype=torch.float32)
    dense.model = PeftModel.from_pretrained(dense.model, str(tmp_path / "adapter"))
    with torch.no_grad():
        scores = dense(LISTS[0])[0]
    np.testing.assert_allclose(scores.numpy(), ranked(load(f"hf:{tmp_path}")), rtol=1e-4)


def test_adapters_gradients_follow_from_those_of_the_merged_weights(folder, tmp_path):
    learner = disturbed(DecoderLearner(folder(), "blockrank", lora=2, dtype="float64", device="cpu"))
    names = set(learner.parameters())
    assert all(".lora_" in name for name in names)
    # Of the signal layer only what its queries and keys come from.
    assert {name.split(".")[3] for name in names if name.startswith("layers.1.")} == {"q_proj", "k_proj"}
    learner.save(tmp_path)
    whole = DecoderLearner(str(tmp_path), dtype="float64", device="cpu")
    loss_of(learner(LISTS)).backward()
    loss_of(whole(LISTS)).backward()
    for name, one in learner.parameters().items():
        if ".lora_A." in name:
            other = learner.parameters()[name.replace(".lora_A.", ".lora_B.")]
            by_weight = whole.parameters()[name.replace(".lora_A.default", "")].grad
            for gradient, expected in ((one.grad, 2 * other.T @ by_weight), (other.grad, 2 * by_weight @ one.T)):
                torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


def test_a_step_moves_adapters_and_nothing_else(folder):
    learner = DecoderLearner(folder(), "blockrank", lora=2, next_token=True, device="cpu")
    trained = learner.parameters()
    assert all(learner.parameters()[name] is parameter for name, parameter in trained.items())
    ids = {id(parameter) for parameter in trained.values()}
    frozen = {
        name: parameter.clone() for name, parameter in learner.model.named_parameters() if id(parameter) not in ids
    }
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = loss_of(learner(LISTS), weight=1.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    now = dict(learner.model.named_parameters())
    assert all(torch.equal(now[name], parameter) for name, parameter in frozen.items())
    assert "lm_head.weight" in now and any(name.startswith("model.layers.2.") for name in frozen)


def test_seeds_say_where_adapters_begin(folder):
    def begin(seed):
        torch.manual_seed(99)
        learner = DecoderLearner(folder(), "blockrank", lora=2, seed=seed, device="cpu")
        return torch.cat([parameter.flatten() for parameter in learner.parameters().values()]), torch.rand(1)

    (first, drawn), (again, _), (other, also) = begin(0), begin(0), begin(1)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(drawn, also)  # the global generator is left alone


def test_random_ids_are_drawn_anew_and_written_as_they_stand(folder):
    layout = load_layout("blockrank", ids="random")
    learner = DecoderLearner(folder(), layout, next_token=True, device="cpu")
    seen = []
    for _ in range(3):
        prompt, _, target = learner._lay_out(LISTS[0])
        texts = [learner.tokenizer.decode(block.ids) for block in prompt.documents]
        ids = [text.rsplit(" ", 1)[1] for text in texts]
        assert learner.tokenizer.decode(target) == f"{ids[0]}, {ids[3]}]"
        seen.append(tuple(ids))
    assert len(set(seen)) == 3


def test_gradients_under_autocast_point_where_those_of_float32_do(folder):
    learner = DecoderLearner(folder(), "blockrank", device="cpu")
    loss_of(learner(LISTS)).backward()
    exact = torch.cat([parameter.grad.flatten() for parameter in learner.parameters().values()])
    for parameter in learner.parameters().values():
        parameter.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = learner(LISTS)
    assert output.scores[0].dtype == torch.float32
    loss_of(output).backward()
    rounded = torch.cat([parameter.grad.flatten() for parameter in learner.parameters().values()])
    assert 0.9 < functional.cosine_similarity(rounded, exact, dim=0) < 1 - 1e-7  # and it did compute in less


def test_half_precision_models_have_adapters_of_float32(folder):
    learner = DecoderLearner(folder(), "blockrank", lora=2, dtype="bfloat16", device="cpu")
    assert {parameter.dtype for parameter in learner.parameters().values()} == {torch.float32}
    output = learner(LISTS)
    loss_of(output).backward()
    np.testing.assert_allclose(output.scores[0].detach(), ranked(learner.reranker()), rtol=1e-2, atol=1e-3)
    assert all(bool(parameter.grad.isfinite().all()) for parameter in learner.parameters().values())


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("minilm", {}, "not for decoders"),
        ("blockrank", {"alpha": 2.0}, "give the rank of those too"),
        ("blockrank", {"lora": 0}, "above 0"),
        ("blockrank", {"lora": 2, "targets": ["q_proj", "nose"]}, "'nose'.*k_proj"),
        ("blockrank", {"quantization_config": 1}, "'quantization_config'"),
        ("blockrank-cached", {"next_token": True}, "no target"),
        (load_layout("blockrank", ids="none", block="{text}"), {"next_token": True}, "no ids"),
    ],
)
def test_what_cannot_be_is_refused(folder, layout, options, message):
    with pytest.raises(InputError, match=message):
        DecoderLearner(folder(), layout, **options)


def test_a_layer_that_is_not_there_and_a_list_without_room_are_refused(folder, tmp_path):
    with pytest.raises(ModelError, match="layer 7"):
        DecoderLearner(folder(), load_layout("blockrank", layers=7))
    short = save_model(tmp_path, max_position_embeddings=300, num_hidden_layers=2)
    learner = DecoderLearner(short, load_layout("icr", max_block_tokens=250), device="cpu")
    long = TrainingList(QUERY, (Document("a", "Cats purr. " * 80), *DOCUMENTS), (True, *[False] * 4))
    with pytest.raises(InputError, match="What do cats do.*300 positions"):
        learner([long])


def test_without_peft_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"sightline-search\[training\]"):
        DecoderLearner(folder(), "blockrank", lora=2)
    DecoderLearner(folder(), "blockrank")  # full fine-tuning needs none


def test_targets_have_a_place_for_ids():
    with pytest.raises(InputError, match="target lacks the place {ids}"):
        load_layout("blockrank", target="none")
    assert load_layout("blockrank", target="").prompt.target == ""
