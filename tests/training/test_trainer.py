"""The loop, on a learner of 52 numbers: what it learns, equivalences, and what survives a kill."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sightline
from sightline.errors import DataError, InputError, TrainingError
from sightline.names import SHIPPED
from sightline.training import trainer as module
from sightline.training.card import Origin
from sightline.training.checkpoint import STATE
from sightline.training.config import Objective, Sampling, TrainingConfig
from sightline.training.learner import Output
from sightline.training.summary import DataRow, TrainingSummary
from sightline.training.trainer import train

from . import toy
from .toy import TOPICS, WORDS, ToyLearner, world

SAMPLING = Sampling(documents=(4, 12), in_batch=0.2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world"))


def config(**changes):
    return TrainingConfig(**{"steps": 30, "lists": 4, "learning_rate": 0.05, "evaluate_every": 10, **changes})


def trained(made, out, learner=None, objective=None, dev=True, **changes):
    """The weights that a run leaves, and its summary."""
    learner = learner or ToyLearner()
    summary = train(
        learner,
        made[0],
        out,
        config=config(**changes),
        sampling=SAMPLING,
        objective=objective or Objective(temperature=1.0),
        dev=made[1] if dev else (),
    )
    saved = load_file(out / "model.safetensors")["weights"]
    assert torch.equal(saved, learner.weights)
    return saved, summary


def test_it_learns_what_there_is_to_learn(made, tmp_path):
    weights, summary = trained(made, tmp_path / "out", steps=60)
    topics = [WORDS[word] for word in TOPICS]
    fillers = [place for word, place in WORDS.items() if word not in TOPICS]
    assert weights[topics].mean() > 2 * weights[fillers].mean()
    gain = summary.dev["dev/dev"]
    assert gain.after.mean > gain.before.mean
    assert summary.losses[-1]["loss"] < summary.losses[0]["loss"]
    assert [past.step for past in summary.history] == [0, 10, 20, 30, 40, 50, 60]
    best = max(past.mean for past in summary.history)
    assert gain.after.mean == pytest.approx(best)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "layout.yaml", "model.safetensors", "training.json"
    ]  # fmt: skip
    assert TrainingSummary.load(tmp_path / "out") == summary


def test_two_batches_of_four_are_one_of_eight(made, tmp_path):
    for next_token in (False, True):
        objective = Objective(temperature=1.0, anchor_weight=0.5, auxiliary_weight=0.7)
        runs = []
        for lists in (8, 4, 1):
            learner, out = ToyLearner(dtype=torch.float64, next_token=next_token), tmp_path / f"{next_token}{lists}"
            runs.append(trained(made, out, learner, objective, False, lists=lists, accumulation=8 // lists))
        (whole, whole_summary), *others = runs
        for weights, summary in others:
            assert torch.allclose(weights, whole, rtol=0, atol=1e-9)
            for mine, theirs in zip(summary.losses, whole_summary.losses, strict=True):
                assert mine == pytest.approx(theirs, abs=1e-8)


def test_the_first_step_is_adams_own(made, tmp_path):
    """Against torch's optimiser, driven by hand on the same lists."""
    learner, reference = ToyLearner(), ToyLearner()
    trained(made, tmp_path / "out", learner, dev=False, steps=3, warmup=0.4, weight_decay=0.1, clip=0.01)
    optimizer = torch.optim.AdamW(reference.parameters().values(), lr=0.05, weight_decay=0.1)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = [0.05, 0.05, 0.05 * (1 + math.cos(math.pi / 2)) / 2][step]
        optimizer.zero_grad()
        lists = learner.calls[step]
        loss = 0
        for training_list, scores in zip(lists, reference(lists).scores, strict=True):
            right = torch.tensor(training_list.positive)
            loss = loss - (scores[right].exp().sum() / scores.exp().sum()).log() / len(lists)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.weights, 0.01)
        optimizer.step()
    assert torch.allclose(learner.weights, reference.weights, atol=1e-6)


def test_alpha_goes_part_of_the_way(made, tmp_path):
    whole, _ = trained(made, tmp_path / "whole", dev=False)
    part, _ = trained(made, tmp_path / "part", dev=False, alpha=0.25)
    none, _ = trained(made, tmp_path / "none", dev=False, alpha=0.0)
    start = ToyLearner().weights
    assert torch.allclose(part, start + 0.25 * (whole - start), atol=1e-7)
    assert torch.equal(none, start)


def test_what_is_measured_is_what_would_be_kept(made, tmp_path, monkeypatch):
    seen = []

    def measured(rerankers, dev):
        seen.append(rerankers[0].scorer.weights.detach().clone())
        return [{"dev/dev": {"q0": 0.1 * len(seen)}}]

    monkeypatch.setattr(module, "measure", measured)
    whole, _ = trained(made, tmp_path / "whole")
    at = len(seen)
    part, _ = trained(made, tmp_path / "part", alpha=0.25)
    for learnt, mixed in zip(seen[:at], seen[at:], strict=True):
        assert torch.allclose(mixed, seen[0] + 0.25 * (learnt - seen[0]), atol=1e-7)
    assert torch.equal(part, seen[-1]) and torch.equal(whole, seen[at - 1])


def test_an_anchor_holds(made, tmp_path):
    free, _ = trained(made, tmp_path / "free", dev=False)
    held, summary = trained(
        made, tmp_path / "held", objective=Objective(temperature=1.0, anchor_weight=100.0), dev=False
    )
    start = ToyLearner().weights
    assert (held - start).norm() < 0.5 * (free - start).norm()
    assert summary.losses[-1]["anchor"] == pytest.approx((held - start).square().mean().item(), rel=0.5)


def test_a_teacher_is_followed(made, tmp_path):
    from sightline.training.examples import Example, text_key

    taught = torch.linspace(-1, 1, len(WORDS))
    examples = []
    for example in made[0]:
        documents = (*example.positives, *example.pools[0])
        scores = {text_key(d): float((toy.bag(example.query) * toy.bag(d.contents)) @ taught) for d in documents}
        examples.append(Example(example.query, example.positives, example.pools, scores, (), example.source))
    objective = Objective(temperature=1.0, contrastive_weight=0.0, distillation_weight=1.0)
    weights, summary = trained((examples, ()), tmp_path / "out", objective=objective, dev=False, steps=150)
    assert summary.losses[-1]["distillation"] < 0.1 * summary.losses[0]["distillation"]
    assert float(torch.corrcoef(torch.stack([weights, taught]))[0, 1]) > 0.9
    with pytest.raises(InputError, match="no example has a teacher's scores"):
        trained(made, tmp_path / "none", objective=objective, dev=False)


def test_a_temperature_is_learnt(made, tmp_path):
    _, summary = trained(made, tmp_path / "out", objective=Objective(temperature=1.0, learn_temperature=True))
    assert summary.temperature < 0.95
    assert summary.losses[-1]["temperature"] < summary.losses[0]["temperature"] < 1
    _, cold = trained(
        made, tmp_path / "cold", objective=Objective(temperature=0.0101, learn_temperature=True),
        learning_rate=5.0, dev=False,
    )  # fmt: skip
    assert cold.temperature >= 0.01 - 1e-6


def test_it_stops_when_dev_gains_no_more_and_keeps_the_best(made, tmp_path, monkeypatch):
    values = iter([0.1, 0.5, 0.4, 0.4, 0.9])
    seen = []

    def measured(rerankers, dev):
        seen.append(rerankers[0].scorer.weights.detach().clone())
        value = next(values)
        return [{"dev/dev": {"q0": value, "q1": value**2}}]

    monkeypatch.setattr(module, "measure", measured)
    weights, summary = trained(made, tmp_path / "out", steps=100, patience=2)
    assert (summary.steps, summary.kept_step, len(seen)) == (30, 10, 4)
    assert torch.equal(weights, seen[1])


def test_the_start_is_kept_where_nothing_was_better(made, tmp_path, monkeypatch, caplog):
    values = iter([0.9, 0.5, 0.4, 0.4])
    monkeypatch.setattr(module, "measure", lambda *_: [{"dev/dev": {"q0": next(values)}}])
    weights, summary = trained(made, tmp_path / "out")
    assert summary.kept_step == 0 and torch.equal(weights, ToyLearner().weights)
    assert "no step was better on dev than the start" in caplog.text


def test_epochs_are_steps_enough(made, tmp_path):
    _, summary = trained(made, tmp_path / "out", steps=None, epochs=1.5, dev=False)
    assert summary.steps == math.ceil(1.5 * 40 / 4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision(made, tmp_path, precision):
    seen = []

    class Seeing(ToyLearner):
        def __call__(self, lists):
            output = super().__call__(lists)
            seen.append(output.scores[0].dtype)
            return output

    learner = Seeing()
    weights, _ = trained(made, tmp_path / "out", learner, dev=False, precision=precision)
    full, _ = trained(made, tmp_path / "full", dev=False)
    assert set(seen) == {getattr(torch, precision)} and weights.dtype == torch.float32
    assert not torch.equal(weights, full)
    assert float(torch.corrcoef(torch.stack([weights, full]))[0, 1]) > 0.99


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_dev_is_measured_in_the_precision_of_the_run(made, tmp_path, monkeypatch, precision):
    seen = []

    def measured(rerankers, dev):
        seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return [{"dev/dev": {"q0": 0.5}}]

    monkeypatch.setattr(module, "measure", measured)
    trained(made, tmp_path / "out", steps=2, precision=precision)
    assert set(seen) == {getattr(torch, precision)}


def test_an_overflow_of_float16_is_passed_over(made, tmp_path):
    class Overflowing(ToyLearner):
        def __call__(self, lists):
            if len(self.calls) == 3:  # a finite loss whose gradient is not
                self.calls.append(lists)
                root = (self.weights - self.weights.detach()).abs().sqrt().sum()
                return Output([torch.zeros(len(training_list.documents)) + 0 * root for training_list in lists])
            return super().__call__(lists)

    weights, _ = trained(made, tmp_path / "out", Overflowing(), dev=False, precision="float16")
    assert torch.isfinite(weights).all()
    text = (tmp_path / "out" / "training.json").read_text()
    assert "Infinity" not in text and "NaN" not in text
    with pytest.raises(TrainingError, match="step 4: the gradient is nan"):
        trained(made, tmp_path / "full", Overflowing(), dev=False)


def test_a_loss_that_is_no_number_is_an_error_with_its_step(made, tmp_path):
    class Breaking(ToyLearner):
        def __call__(self, lists):
            output = super().__call__(lists)
            if len(self.calls) == 6:
                output.scores[1][0] = math.nan
            return output

    with pytest.raises(TrainingError, match="step 6: the loss is nan"):
        trained(made, tmp_path / "out", Breaking(), dev=False)


def test_progress_tells_steps_losses_and_dev(made, tmp_path, caplog):
    reports = []
    with caplog.at_level(logging.INFO, logger="sightline.training"):
        train(
            ToyLearner(), made[0], tmp_path / "out", config=config(steps=20), sampling=SAMPLING, dev=made[1],
            progress=reports.append,
        )  # fmt: skip
    assert [now.step for now in reports if not now.dev] == list(range(1, 21))
    assert [now.step for now in reports if now.dev] == [0, 10, 20]
    assert all(now.steps == 20 for now in reports)
    assert all(set(now.dev) == {"mean", "dev/dev"} for now in reports if now.dev)
    assert "step 10 of 20: loss " in caplog.text and "step 20 of 20: nDCG@10 " in caplog.text


def test_torchs_generator_is_left_as_it_was(made, tmp_path):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    trained(made, tmp_path / "out", ToyLearner(dropout=0.5), dev=False, steps=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_decide(made, tmp_path):
    runs = [trained(made, tmp_path / str(i), ToyLearner(dropout=0.3), seed=seed)[0] for i, seed in enumerate((1, 1, 2))]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


# -- stopping and going on ---------------------------------------------------------------------------------------------


class Stopping(ToyLearner):
    def __init__(self, at, **options):
        super().__init__(**options)
        self.at = at

    def __call__(self, lists):
        if len(self.calls) == self.at:
            raise KeyboardInterrupt
        return super().__call__(lists)


@pytest.mark.parametrize(("at", "precision"), [(1, "float32"), (10, "float32"), (23, "float32"), (9, "float16")])
def test_an_interrupt_leaves_the_last_step_to_go_on_from(made, tmp_path, at, precision):
    objective = Objective(temperature=1.0, learn_temperature=True)
    options = {"objective": objective, "precision": precision}
    whole, uninterrupted = trained(made, tmp_path / "whole", ToyLearner(dropout=0.2), **options)
    with pytest.raises(KeyboardInterrupt):
        trained(made, tmp_path / "out", Stopping(at, dropout=0.2), **options)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    learner = ToyLearner(dropout=0.2)
    with torch.no_grad():
        learner.weights += 0.3  # as where a start is drawn at random: the state has the one that counts
    weights, summary = trained(made, tmp_path / "out", learner, **options)
    assert len(learner.calls) == 30 - at
    assert torch.equal(weights, whole)
    for name in ("losses", "history", "dev", "temperature", "kept_step"):
        assert getattr(summary, name) == getattr(uninterrupted, name)


def test_an_interrupt_while_measuring(made, tmp_path, monkeypatch):
    whole, uninterrupted = trained(made, tmp_path / "whole", alpha=0.5)
    measure, calls = module.measure, []

    def interrupted(rerankers, dev):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(rerankers, dev)

    monkeypatch.setattr(module, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(made, tmp_path / "out", alpha=0.5)
    assert torch.load(tmp_path / "out" / STATE, weights_only=True)["step"] == 10
    weights, summary = trained(made, tmp_path / "out", alpha=0.5)
    assert torch.equal(weights, whole) and summary.history == uninterrupted.history


@pytest.mark.parametrize("dev", [True, False])
def test_an_interrupt_while_the_result_is_written(made, tmp_path, monkeypatch, dev):
    whole, uninterrupted = trained(made, tmp_path / "whole", dev=dev, save_every=7)
    with monkeypatch.context() as patch:

        def interrupted(*_):
            raise KeyboardInterrupt

        patch.setattr(module, "model_card", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(made, tmp_path / "out", dev=dev, save_every=7)
    assert (tmp_path / "out" / "model.safetensors").exists() and (tmp_path / "out" / STATE).exists()
    weights, summary = trained(made, tmp_path / "out", dev=dev, save_every=7)
    assert torch.equal(weights, whole)
    assert (summary.losses, summary.dev) == (uninterrupted.losses, uninterrupted.dev)
    assert not (tmp_path / "out" / STATE).exists()


def kill(out, after):
    """Run the toy in a process, and kill it when its state has been written ``after`` times."""
    environment = os.environ | {"PYTHONPATH": str(Path(sightline.__file__).parents[1])}
    command = [sys.executable, "-m", "sightline.tests.training.toy", str(out), "0.05"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        seen, last = 0, None
        while seen < after:
            assert process.poll() is None, process.stderr.read()
            written = (out / STATE).stat().st_mtime_ns if (out / STATE).exists() else None
            seen, last = seen + (written != last), written
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert (out / STATE).exists() and not (out / "training.json").exists()


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    world(tmp_path)
    toy.main(tmp_path / "whole")
    kill(tmp_path / "out", 2)  # the first measurement, and step 7
    state = torch.load(tmp_path / "out" / STATE, weights_only=True)
    assert 7 <= state["step"] < 40
    (tmp_path / "out" / f"{STATE}.new").write_bytes(b"half a sta")  # as a kill while writing leaves it
    toy.main(tmp_path / "out")
    whole, out = (load_file(tmp_path / name / "model.safetensors")["weights"] for name in ("whole", "out"))
    assert torch.equal(whole, out)
    first, second = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "out"))
    assert first["losses"] == second["losses"] and first["history"] == second["history"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"learning_rate": 0.06}, "learning_rate"),
        ({"lists": 5}, "lists"),
        ({"objective": Objective(temperature=0.9)}, "temperature"),
        ({"learner": ToyLearner("other")}, "learner"),
        ({"learner": ToyLearner(dtype=torch.float64)}, None),
    ],
)
def test_other_settings_are_refused_by_name(made, tmp_path, change, field):
    with pytest.raises(KeyboardInterrupt):
        trained(made, tmp_path / "out", Stopping(5), dev=False)
    if field is None:
        trained(made, tmp_path / "out", dev=False, **change)
        return
    with pytest.raises(InputError, match=f"started with {field} = .*, not "):
        trained(made, tmp_path / "out", dev=False, **change)


def test_other_options_of_the_learner_are_refused(made, tmp_path):
    def run(learner, lora):
        train(learner, made[0], tmp_path / "out", config=config(), origin=Origin(options={"lora": lora}))

    with pytest.raises(KeyboardInterrupt):
        run(Stopping(5), 4)
    with pytest.raises(InputError, match="started with lora = 4, not 8"):
        run(ToyLearner(), 8)


def test_other_data_are_refused(made, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(made, tmp_path / "out", Stopping(5), dev=False)
    with pytest.raises(InputError, match="started with examples = "):
        trained((made[0][1:], ()), tmp_path / "out", dev=False)
    with pytest.raises(InputError, match="started with dev = "):
        trained(made, tmp_path / "out")


def test_a_damaged_state_is_named(made, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(made, tmp_path / "out", Stopping(5), dev=False)
    whole = (tmp_path / "out" / STATE).read_bytes()
    for broken in (whole[:-200], b"", b"nothing"):
        (tmp_path / "out" / STATE).write_bytes(broken)
        with pytest.raises(TrainingError, match=r"state\.pt: cannot be read.*remove it to start again"):
            trained(made, tmp_path / "out", dev=False)


def test_a_folder_with_something_else_in_it_is_left_alone(made, tmp_path):
    trained(made, tmp_path / "out", dev=False, steps=1)
    with pytest.raises(InputError, match="holds no run to continue"):
        trained(made, tmp_path / "out", dev=False, steps=1)


def test_a_full_disk_keeps_the_state_before(made, tmp_path, monkeypatch):
    from sightline.training import checkpoint

    write, calls = checkpoint.replace_file, []

    def full(path, data):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoint, "replace_file", full)
    with pytest.raises(TrainingError, match=r"No space left.*the state before it is kept"):
        trained(made, tmp_path / "out", dev=False, save_every=5)
    assert torch.load(tmp_path / "out" / STATE, weights_only=True)["step"] == 5


# -- settings and the card ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"steps": None}, "either steps or epochs"),
        ({"epochs": 1.0}, "either steps or epochs"),
        ({"steps": 0}, "steps must be"),
        ({"accumulation": 0}, "accumulation"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"warmup": 1.5}, "warmup"),
        ({"alpha": -0.1}, "alpha"),
        ({"schedule": "linear"}, "schedule must be one of cosine, constant"),
        ({"precision": "int8"}, "precision"),
        ({"seed": -1}, "seed"),
        ({"weight_decay": math.nan}, "weight_decay"),
    ],
)
def test_settings_that_make_no_sense(wrong, match):
    with pytest.raises(InputError, match=match):
        config(**wrong)


def test_the_rate_rises_and_falls():
    settings = config(warmup=0.2, learning_rate=1.0)
    rates = [settings.rate(step, 100) for step in range(100)]
    assert rates[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert rates[20] == 1 and rates[60] == pytest.approx(0.5) and rates[99] < 0.001
    assert sorted(rates[20:], reverse=True) == rates[20:]
    assert config(schedule="constant", warmup=0.0).rate(29, 30) == 0.05


def test_nothing_to_train_and_two_names(made, tmp_path):
    class Empty(ToyLearner):
        def parameters(self):
            return {}

    with pytest.raises(InputError, match="nothing to train"):
        trained(made, tmp_path / "out", Empty())
    with pytest.raises(InputError, match="draw more than 1"):
        trained(made, tmp_path / "out", lists=1)
    with pytest.raises(InputError, match="patience is for measurements on dev"):
        trained(made, tmp_path / "out", dev=False, patience=1)
    with pytest.raises(InputError, match="twice"):
        train(ToyLearner(), made[0], tmp_path / "out", config=config(), dev=[*made[1], *made[1]])


def test_the_card_says_what_it_is_made_of(made, tmp_path):
    origin = Origin(
        base="/models/secret/base",
        options={"layout": "/models/secret/x.yaml"},
        data=[DataRow("tr|ain", "train", 40, 0.5, "CC BY 4.0")],
        command=["/opt/bin/sightline", "train", "minilm", "/data/secret/train", "--out", "o"],
    )
    learner = ToyLearner("/models/secret/base")
    train(learner, made[0], tmp_path / "out", config=config(steps=1), sampling=SAMPLING, dev=made[1], origin=origin)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith(
        "---\nlibrary_name: sightline\npipeline_tag: text-ranking\nbase_model: base\n---\n\n# base\n"
    )
    assert "| tr\\|ain | train | 40 | 0.5 | CC BY 4.0 |" in card
    assert "sightline train minilm train --out o" in card
    assert "52 trained numbers" in card and "torch " in card and "## Limits" in card
    assert " to " in next(line for line in card.splitlines() if line.startswith("| dev/dev | 12 |"))
    assert "secret" not in card + (tmp_path / "out" / "training.json").read_text()


def test_summary_of_the_shipped_model_loads():
    summary = TrainingSummary.load(SHIPPED["sightline-mini"])
    assert summary.kept_step <= summary.steps and summary.origin.data[0].licence
    assert summary.history[-1].dev.keys() == summary.dev.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "60"}, "the field steps must be a valid integer, not '60'"),
        ({"history": [{"step": 1}]}, r"lacks the field history\[0\].mean"),
        ({"dev": {"a": 1}}, r"the field dev.a"),
    ],
)
def test_summary_of_another_shape_is_refused_by_field(change, message, tmp_path):
    fields = json.loads((SHIPPED["sightline-mini"] / "training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps(fields | change))
    with pytest.raises(DataError, match=message):
        TrainingSummary.load(tmp_path)
