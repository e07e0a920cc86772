"""The embedded default learns: what is trained is what ranks, and what ranks is what is saved."""

import random

import numpy as np
import pytest
import torch

from sightline import LateInteractionReranker, load_reranker
from sightline.documents import Document
from sightline.errors import InputError
from sightline.models.minilm import MiniLM, load_minilm
from sightline.training import load_learner
from sightline.training.config import Objective, Sampling, TrainingConfig
from sightline.training.examples import Example
from sightline.training.late_interaction import LateInteractionLearner, RememberingReader
from sightline.training.learner import TrainingList
from sightline.training.trainer import train

TEXTS = [
    "Dogs bark loudly at night.",
    "Cats purr when happy.",
    "Iron rusts in wet air.",
    "A cat sleeps " + "much " * 60,
]
LIST = TrainingList(
    "what sound do cats make",
    tuple(Document(str(i), text, "Facts" if i % 2 else "") for i, text in enumerate(TEXTS)),
    (False, True, False, False),
)
KINDS = {
    "heads": {"parts": ["weights", "heads"]},
    "every part": {"parts": ["weights", "projection", "heads", "read"]},
    "full": {"parts": [], "encoder": "full", "max_tokens": 254},
    "lora": {"parts": ["heads"], "encoder": "lora", "rank": 2, "max_tokens": 254},
    "prefix": {"parts": [], "encoder": "lora", "rank": 2, "prefix": True, "max_tokens": 254},
}


def learner(kind):
    if kind in ("lora", "prefix"):
        pytest.importorskip("peft")
    return LateInteractionLearner(**KINDS[kind], name="mine")


def ranked(reranker):
    return [
        score for _, score in sorted((item.index, item.score) for item in reranker.rank(LIST.query, LIST.documents))
    ]


def step(learner, rate=1e-3):
    optimizer = torch.optim.SGD(learner.parameters().values(), rate)
    (-torch.log_softmax(learner([LIST]).scores[0], 0)[1]).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in learner.parameters().values())
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("kind", KINDS)
def test_it_ranks_by_what_it_learns_and_saves_it(kind, tmp_path):
    trained = learner(kind)
    [start] = trained([LIST]).scores
    if kind != "prefix":  # there documents are read otherwise from the start
        np.testing.assert_allclose(
            start.detach().numpy(), ranked(LateInteractionReranker("minilm-log-mass")), atol=2e-3
        )
    for _ in range(2):  # of LoRA, and of a gate, the first moves one factor alone
        step(trained, 1e-2)
    [learnt] = trained([LIST]).scores
    assert (learnt - start).abs().max() > 1e-4
    np.testing.assert_allclose(learnt.detach().numpy(), ranked(trained.reranker()), atol=1e-4)
    trained.save(tmp_path)
    loaded = load_reranker(str(tmp_path))
    assert loaded.layout == "mine"
    # Nothing says yet how likely its scores are; and the words of an index have no part in them.
    assert (loaded.relevance(0.0), loaded.uses_bm25) == (None, False)
    assert loaded.list_free == ("heads" not in KINDS[kind]["parts"])
    with pytest.raises(InputError, match="not calibrated" if loaded.list_free else "relative to their list"):
        loaded.rank(LIST.query, LIST.documents, min_score=0.5)
    scale = (learnt - start).abs().max().item()
    np.testing.assert_allclose(ranked(loaded), ranked(trained.reranker()), atol=max(2e-3, 0.1 * scale))
    frozen = trained.encoder == "frozen"
    assert (loaded.reader.revision == load_minilm().revision) == frozen  # so an index's kept states serve it, or not
    assert (tmp_path / "model.safetensors").stat().st_size < (200_000 if frozen else 50_000_000)


def test_a_readout_of_any_reader_is_learnt_saved_and_loaded(scorer_folders, tmp_path):
    name = f"late-interaction:{scorer_folders['late-interaction']}"
    trained = load_learner(name, parts=["weights", "projection"], name="mine")
    [start] = trained([LIST]).scores
    plain = load_reranker(f"{name}#minilm-log-mass")
    np.testing.assert_allclose(start.detach().numpy(), ranked(plain), atol=2e-3)
    for _ in range(2):
        step(trained, 1e-2)
    [learnt] = trained([LIST]).scores
    trained.save(tmp_path)
    loaded = load_reranker(str(tmp_path))
    assert loaded.spec.reader == name and loaded.reader is plain.reader
    assert (learnt - start).abs().max() > 1e-4
    np.testing.assert_allclose(ranked(loaded), learnt.detach().numpy(), atol=1e-2 * float((learnt - start).abs().max()))
    with pytest.raises(InputError, match="learnt from states of 128 numbers, and those of minilm have 384"):
        load_reranker(str(tmp_path), reader="minilm", max_block_tokens=256)
    with pytest.raises(InputError, match="train the model itself with sentence-transformers or PyLate"):
        load_learner(name, encoder="full")
    with pytest.raises(InputError, match="leave #minilm out"):
        load_learner(f"{name}#minilm")


def test_a_trained_folder_is_calibrated_by_two_numbers_in_its_layout(tmp_path):
    trained = learner("full")
    trained.save(tmp_path)
    loaded = load_reranker(str(tmp_path), relevance={"slope": 1.0, "offset": -20.0})
    ranking = loaded.rank(LIST.query, LIST.documents)
    assert [item.relevance for item in ranking] == [1 / (1 + np.exp(20.0 - item.score)) for item in ranking]
    loaded.save(tmp_path)
    assert load_reranker(str(tmp_path)).relevance(20.0) == 0.5


def test_no_list_influences_another():
    trained = learner("every part")
    step(trained)
    other = TrainingList("why does iron rust", LIST.documents[::-1], LIST.positive[::-1])
    together, alone = trained([LIST, other]).scores, [trained([LIST]).scores[0], trained([other]).scores[0]]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_the_embedded_default_itself_stays_as_it_is(tmp_path):
    before, attention = ranked(LateInteractionReranker()), ranked(LateInteractionReranker("minilm-log-mass"))
    trained = learner("full")
    step(trained, 1.0)
    assert ranked(trained.reranker()) != attention
    assert ranked(LateInteractionReranker()) == before


def test_what_is_remembered_is_what_would_be_read():
    draw = random.Random(0)
    texts = [" ".join(draw.choices(["cats", "purr", "iron", "rusts", "x" * 40], k=n)) for n in (3, 40, 1, 300, 7)]
    plain = MiniLM()
    for tokens in (0, 50, 10_000):  # nothing is kept; it is full again and again; all is kept
        model = RememberingReader(MiniLM(), tokens=tokens)
        for _ in range(2):
            order = draw.sample([*texts, texts[0]], 6)
            got, expected = model.read(order), plain.read(order)
            np.testing.assert_allclose(got.states, expected.states, atol=2e-3)
            for name in ("offsets", "spans", "truncated"):
                assert np.array_equal(getattr(got, name), getattr(expected, name)), name
            np.testing.assert_allclose(got.pooled, expected.pooled, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": []}, "nothing to learn"),
        ({"parts": ["ears"]}, "what can be learnt"),
        ({"encoder": "half"}, "frozen"),
        ({"precision": "int4"}, "precision"),
        ({"encoder": "lora", "rank": 0}, "rank"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        LateInteractionLearner(**options)


def test_a_run_of_the_loop_learns_what_the_lists_teach(tmp_path):
    # Whoever asks for a sound wants the animal that is named with a colour: nothing that MiniLM would guess.
    draw = random.Random(0)
    animals = ["cat", "dog", "cow", "owl", "frog", "horse", "duck", "sheep"]
    examples = []
    for _ in range(24):
        names = draw.sample(animals, 6)
        right = draw.choice(["red", "blue", "green"])
        positive = Document("p", f"The {names[0]} is {right} today.")
        negatives = tuple(Document(str(i), f"The {name} makes a sound, loudly.") for i, name in enumerate(names[1:]))
        examples.append(Example("which animal makes a sound", (positive,), (negatives,)))
    config = TrainingConfig(steps=60, lists=6, learning_rate=1e-2, evaluate_every=0)
    summary = train(
        LateInteractionLearner(parts=["projection"]),
        examples,
        tmp_path / "out",
        config=config,
        sampling=Sampling(documents=(6, 6)),
        objective=Objective(temperature=1.0),
    )
    losses = [record["loss"] for record in summary.losses]
    assert losses[0] > 1.5 and losses[-1] < 0.4
    trained = load_reranker(str(tmp_path / "out"))
    new = ["The goat makes a sound, loudly.", "The goat is red today.", "The crow makes a sound, loudly."]
    assert LateInteractionReranker("minilm-log-mass").rank("which animal makes a sound", new)[0].index != 1
    assert trained.rank("which animal makes a sound", new)[0].index == 1
