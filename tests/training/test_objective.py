from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.data import NO_LABEL, Samples
from autoprune.errors import DataError, UsageError
from autoprune.training.objective import (
    Distillation,
    Objective,
    Teacher,
    find_loss,
    soft_divergence,
)
from autoprune.training.random_batches import Batch

SCORES = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0]])
ANSWERS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])


class Fixed(nn.Module):
    """Answers the same, and counts how often it is asked."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers, self.calls = answers, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return self.answers[inputs.long().flatten()]


def batch(targets: Tensor | None, indices: tuple[int, ...] = (0, 1)) -> Batch:
    inputs = torch.tensor(indices).float()[:, None]
    return Batch(0, Samples(inputs, targets), list(indices))


def test_labels_alone_are_learnt_by_cross_entropy() -> None:
    labels = torch.tensor([0, 2])
    loss = Objective(3, True, label_smoothing=0.1)(Fixed(SCORES), batch(labels))
    assert float(loss) == pytest.approx(float(F.cross_entropy(SCORES, labels, label_smoothing=0.1)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_what_has_no_label_in_a_mixture_does_not_count(smoothing: float) -> None:
    """Neither in the sum nor in what the sum is divided by."""
    objective = Objective(3, True, label_smoothing=smoothing)
    whole = F.one_hot(torch.arange(len(SCORES)) % 3, 3).float()
    loss = F.cross_entropy(SCORES, whole.argmax(1), label_smoothing=smoothing)
    assert float(objective(Fixed(SCORES), batch(whole))) == pytest.approx(float(loss))
    half = torch.cat([whole, torch.zeros_like(whole)])
    again = objective(Fixed(torch.cat([SCORES, SCORES.flip(0)])), batch(half, (0, 1, 2, 3)))
    assert float(again) == pytest.approx(float(loss))
    assert float(objective(Fixed(SCORES), batch(torch.zeros_like(whole)))) == 0


def test_the_users_distance_takes_the_place_of_the_divergence() -> None:
    def apart(outputs: Tensor, dense: Tensor) -> Tensor:
        return (outputs - dense).abs().sum()

    teacher = Teacher(Fixed(ANSWERS))
    for classes in (3, None):
        objective = Objective(classes, False, teacher=teacher, distance=apart)
        assert float(objective(Fixed(SCORES), batch(None))) == pytest.approx(4.0)


def test_missing_labels_do_not_count() -> None:
    objective = Objective(3, True)
    partly = objective(Fixed(SCORES), batch(torch.tensor([NO_LABEL, 2])))
    assert float(partly) == pytest.approx(float(F.cross_entropy(SCORES[1:], torch.tensor([2]))))
    assert float(objective(Fixed(SCORES), batch(torch.tensor([NO_LABEL, NO_LABEL])))) == 0.0


def test_distillation_is_the_softened_divergence() -> None:
    p, q = (F.softmax(one / 2.0, 1) for one in (ANSWERS, SCORES))
    by_hand = 4.0 * (p * (p / q).log()).sum(1).mean()
    assert float(soft_divergence(SCORES, ANSWERS, 2.0)) == pytest.approx(float(by_hand), rel=1e-5)
    assert float(soft_divergence(ANSWERS, ANSWERS, 2.0)) == pytest.approx(0.0, abs=1e-7)


def test_both_parts_are_weighted() -> None:
    labels = torch.tensor([0, 2])
    objective = Objective(
        3, True, teacher=Teacher(Fixed(ANSWERS)), distillation=Distillation(0.75, 2.0)
    )
    expected = 0.25 * F.cross_entropy(SCORES, labels) + 0.75 * soft_divergence(SCORES, ANSWERS, 2.0)
    assert float(objective(Fixed(SCORES), batch(labels))) == pytest.approx(float(expected))
    unlabelled = replace(objective, has_labels=False)
    alone = soft_divergence(SCORES, ANSWERS, 2.0)
    assert float(unlabelled(Fixed(SCORES), batch(None))) == pytest.approx(float(alone))


def test_mixtures_have_probabilities_for_targets() -> None:
    shares = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    by_hand = -(shares * SCORES.log_softmax(1)).sum(1).mean()
    assert float(Objective(3, True)(Fixed(SCORES), batch(shares))) == pytest.approx(float(by_hand))


def test_labels_outside_the_classes_are_refused() -> None:
    with pytest.raises(DataError, match="label 3 is outside"):
        Objective(3, True)(Fixed(SCORES), batch(torch.tensor([0, 3])))


def test_answers_are_remembered_only_where_samples_come_again() -> None:
    network = Fixed(ANSWERS)
    teacher = Teacher(network, remembered=2)
    first, second = teacher.answer(batch(None, (1, 0))), teacher.answer(batch(None, (0, 1)))
    assert network.calls == 1
    assert torch.equal(first, ANSWERS.flip(0)) and torch.equal(second, ANSWERS)
    for _ in range(2):
        Teacher(network).answer(batch(None))
    assert network.calls == 3


def test_a_loss_of_the_users_own() -> None:
    def squared(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean()

    objective = Objective(None, True, loss=find_loss(squared))
    assert float(objective(Fixed(SCORES), batch(ANSWERS))) == pytest.approx(
        float((SCORES - ANSWERS).square().mean())
    )


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs, targets: 1 / 0, "raised ZeroDivisionError"),
        (lambda outputs, targets: 3.0, "a scalar tensor, but got a float"),
        (lambda outputs, targets: outputs, r"a scalar tensor, but got shape \(2, 3\)"),
    ],
)
def test_a_bad_loss_is_told_in_one_line(loss, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Objective(None, True, loss=loss)(Fixed(SCORES), batch(ANSWERS))
    assert "\n" not in str(caught.value)


def test_losses_are_found_by_name(tmp_path) -> None:
    file = tmp_path / "losses.py"
    file.write_text("def half(outputs, targets):\n    return outputs.sum() / 2\nword = 'x'\n")
    assert find_loss(None) is None
    assert float(find_loss(f"{file}:half")(torch.ones(4), None)) == 2.0
    with pytest.raises(UsageError, match="loss must be a function"):
        find_loss(f"{file}:word")


@pytest.mark.parametrize(("classes", "why"), [(3, "no labels"), (None, "no classifier")])
def test_there_must_be_something_to_learn_from(classes: int | None, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Objective(classes, has_labels=False)
