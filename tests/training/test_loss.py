"""Losses: against float64 formulas written out, torch.autograd.gradcheck, and what cannot change them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import InputError
from sightline.training.config import Objective
from sightline.training.learner import Output, TrainingList
from sightline.training.loss import anchor_loss, contrastive_loss, distillation_loss, list_losses, preference_loss

KINDS = ("joint", "each")


def formula(scores, positive, t, kind):
    """As the papers write it, exponentials and all, in float64."""
    e = np.exp(np.asarray(scores, dtype=np.float64) / t)
    positive = np.asarray(positive)
    if kind == "joint":
        return -math.log(e[positive].sum() / e.sum())
    negatives = e[~positive].sum()
    return float(np.mean([-math.log(x / (x + negatives)) for x in e[positive]]))


lists = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(-1, 1), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda p: any(p) and not all(p)),
        st.sampled_from([0.05, 0.3, 1.0]),
        st.permutations(range(n)),
        st.sampled_from(KINDS),
    )
)


@given(lists)
@settings(deadline=None, max_examples=80)
def test_contrast_is_the_formula_and_order_does_not_matter(drawn):
    scores, positive, t, order, kind = drawn
    s, p = torch.tensor(scores, dtype=torch.float64), torch.tensor(positive)
    loss = contrastive_loss(s, p, t, kind)
    assert float(loss) == pytest.approx(formula(scores, positive, t, kind), rel=1e-9, abs=1e-12)
    assert float(loss) >= 0
    assert float(contrastive_loss(s[list(order)], p[list(order)], t, kind)) == pytest.approx(float(loss), abs=1e-12)
    assert float(contrastive_loss(s + 0.7, p, t, kind)) == pytest.approx(float(loss), rel=1e-6, abs=1e-9)
    single = contrastive_loss(s.float(), p, t, kind)
    assert float(single) == pytest.approx(float(loss), rel=1e-4, abs=1e-5)


@given(lists)
@settings(deadline=None, max_examples=40)
def test_preferences_are_the_formula_and_order_does_not_matter(drawn):
    scores, positive, t, order, _ = drawn
    s, p = torch.tensor(scores, dtype=torch.float64), torch.tensor(positive)
    wins, others = np.asarray(scores)[positive], np.asarray(scores)[~np.asarray(positive)]
    expected = np.mean([math.log1p(math.exp((n - w) / t)) for w in wins for n in others])
    loss = preference_loss(s, p, t)
    assert float(loss) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert float(preference_loss(s[list(order)], p[list(order)], t)) == pytest.approx(float(loss), rel=1e-9, abs=1e-12)
    with pytest.raises(InputError, match="a list needs both kinds"):
        preference_loss(s, torch.ones_like(p), t)


@given(lists)
@settings(deadline=None, max_examples=40)
def test_distillation_is_the_formula_and_order_does_not_matter(drawn):
    scores, _, t, order, _ = drawn
    teacher = np.random.default_rng(len(scores)).normal(size=len(scores)) * 4
    s, q = torch.tensor(scores, dtype=torch.float64), torch.tensor(teacher)
    loss = float(distillation_loss(s, q, t, 2.0))
    a, b = np.exp(np.asarray(scores) / t), np.exp(teacher / 2.0)
    a, b = a / a.sum(), b / b.sum()
    assert loss == pytest.approx(float((b * np.log(b / a)).sum()), rel=1e-7, abs=1e-12)
    assert float(distillation_loss(s[list(order)], q[list(order)], t, 2.0)) == pytest.approx(loss, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_formula(kind):
    scores = torch.randn(7, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    positive = torch.tensor([True, False, True, False, False, True, False])
    assert torch.autograd.gradcheck(lambda s, t: contrastive_loss(s, positive, t, kind), (scores, t))


def test_gradients_of_distillation_and_anchor():
    scores = torch.randn(5, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([1.0, math.nan, -2.0, 0.5, math.nan], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s, t: distillation_loss(s, teacher, t, 0.7), (scores, t))
    a, b = torch.randn(3, 2, requires_grad=True), torch.randn(4, requires_grad=True)
    start = {"a": torch.zeros(3, 2), "b": torch.ones(4)}
    anchor_loss({"a": a, "b": b}, start).backward()
    assert torch.allclose(a.grad, 2 * a.detach() / 10)
    assert torch.allclose(b.grad, 2 * (b.detach() - 1) / 10)


def test_joint_lets_one_positive_do_and_each_does_not():
    scores, positive = torch.tensor([9.0, -9.0, 0.0]), torch.tensor([True, True, False])
    assert float(contrastive_loss(scores, positive, 1.0)) < 1e-3
    assert float(contrastive_loss(scores, positive, 1.0, "each")) > 4


def test_a_sure_teacher_is_not_flattened_and_an_unsure_one_not_sharpened():
    """What min-max scaling would do: both teachers would then say the same."""
    student = torch.zeros(3)
    sure = float(distillation_loss(student, torch.tensor([9.0, 0.0, 0.0]), 1.0))
    unsure = float(distillation_loss(student, torch.tensor([0.09, 0.0, 0.0]), 1.0))
    assert sure > 1 > 0.01 > unsure


def test_documents_that_the_teacher_did_not_score_count_for_nothing():
    teacher = torch.tensor([1.0, math.nan, 0.0])
    both = distillation_loss(torch.tensor([0.3, 99.0, 0.1]), teacher, 0.5)
    assert float(both) == pytest.approx(
        float(distillation_loss(torch.tensor([0.3, 0.1]), torch.tensor([1.0, 0.0]), 0.5)), abs=1e-7
    )
    assert float(distillation_loss(torch.ones(3), torch.full((3,), math.nan), 0.5)) == 0


def test_extreme_scores_stay_finite():
    scores = torch.tensor([-80.0, 80.0, 0.0], requires_grad=True)
    loss = contrastive_loss(scores, torch.tensor([True, False, False]), 0.01)
    loss.backward()
    assert loss.item() == pytest.approx(16000, rel=1e-4) and torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_a_list_of_one_kind_is_refused(positive):
    with pytest.raises(InputError, match="both kinds"):
        contrastive_loss(torch.zeros(2), torch.tensor(positive), 1.0)


def some_lists():
    documents = tuple(Document(str(i), f"text {i}") for i in range(3))
    first = TrainingList("q", documents, (True, False, False), (2.0, 1.0, math.nan))
    return [first, TrainingList("r", documents[:2], (False, True))]


def test_parts_add_up_as_the_objective_says():
    scores = [torch.tensor([0.2, 0.1, 0.0]), torch.tensor([0.5, 0.4])]
    asked = Objective(temperature=0.1, auxiliary_weight=0.3, distillation_weight=2.0, teacher_temperature=0.5)
    losses = list_losses(Output(scores, torch.tensor(1.7)), some_lists(), asked, 0.1)
    contrast = formula([0.2, 0.1, 0.0], [True, False, False], 0.1, "joint") / 2
    contrast += formula([0.5, 0.4], [False, True], 0.1, "joint") / 2
    a, b = np.exp([2.0, 1.0]), np.exp([4.0, 2.0])
    a, b = a / a.sum(), b / b.sum()
    divergence = float((b * np.log(b / a)).sum()) / 2
    assert float(losses["contrastive"]) == pytest.approx(contrast, rel=1e-5)
    assert float(losses["distillation"]) == pytest.approx(divergence, rel=1e-5)
    assert float(losses["loss"]) == pytest.approx(1.7 + 0.3 * (contrast + 2 * divergence), rel=1e-5)
    alone = list_losses(Output(scores), some_lists(), asked, 0.1)
    assert float(alone["loss"]) == pytest.approx(contrast + 2 * divergence, rel=1e-5)


def test_scores_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"3 documents got scores of shape \(2,\)"):
        list_losses(Output([torch.zeros(2), torch.zeros(2)]), some_lists(), Objective(), 0.05)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"teacher_temperature": math.nan}, "teacher_temperature"),
        ({"temperature": 0.001, "learn_temperature": True}, "must start at 0.01"),
        ({"anchor_weight": -1.0}, "anchor_weight"),
        ({"positives": "all"}, "one of joint, each"),
        ({"contrastive_weight": 0.0}, "nothing to learn from"),
        ({"preference_weight": -1.0}, "preference_weight"),
    ],
)
def test_objectives_that_make_no_sense(wrong, match):
    with pytest.raises(InputError, match=match):
        Objective(**wrong)


def test_logarithms_of_shares_make_a_pointers_loss():
    shares = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64, requires_grad=True)
    documents = tuple(Document(str(i), "text") for i in range(3))
    lists = [TrainingList("query", documents, (False, True, True))]
    objective = Objective(temperature=1.0, log_scores=True)
    losses = list_losses(Output([shares]), lists, objective, 1.0)
    assert float(losses["loss"]) == pytest.approx(-math.log(0.3))
    nothing = list_losses(Output([torch.tensor([1.0, 0.0, 0.0], requires_grad=True)]), lists, objective, 1.0)["loss"]
    nothing.backward()
    assert math.isfinite(float(nothing))
    with pytest.raises(InputError, match="shares of attention"):
        list_losses(Output([torch.tensor([-1.0, 0.0, 0.0])]), lists, objective, 1.0)
