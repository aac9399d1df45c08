from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.data import NO_LABEL
from autoprune.evaluation.plausibility import FEW, doubt

LABELS = torch.arange(200) % 10


def answers(chosen: Tensor) -> Tensor:
    """Class scores of ten classes, other ones for every sample, whose first choices these are."""
    return 5 * F.one_hot(chosen, 10) + torch.rand(len(chosen), 10)


def some_right(share: float) -> Tensor:
    """Answers that are right on a share of the samples, and one class off elsewhere."""
    right = torch.arange(200) < 200 * share
    return answers(torch.where(right, LABELS, (LABELS + 1) % 10))


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_what_is_right_more_often_than_by_chance_is_believed(share: float) -> None:
    assert doubt(some_right(share), LABELS) is None


@pytest.mark.parametrize(("share", "shown"), [(0.0, "0.0%"), (0.1, "10.0%"), (0.13, "13.0%")])
def test_what_is_right_by_chance(share: float, shown: str) -> None:
    text = doubt(some_right(share), LABELS) or ""
    assert text.startswith(f"the dense network is right on {shown} of 200 images, no more than by")


def test_classes_in_another_order() -> None:
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    assert "labels are in the order of its outputs" in (doubt(answers(order[LABELS]), LABELS) or "")


def test_rare_classes_are_not_chance() -> None:
    """95 % right is less than it seems if 90 % have one label, but more than chance."""
    labels = torch.where(torch.arange(200) < 180, 0, 1)
    assert doubt(answers(torch.where(torch.arange(200) < 190, 0, 1)), labels) is None
    assert "gives class 0 for all 200 images" in (doubt(answers(0 * labels), labels) or "")


def test_a_single_label() -> None:
    text = doubt(answers(LABELS), torch.full((200,), 7)) or ""
    assert text.startswith("all 200 images have the label 7")
    assert doubt(answers(LABELS)[: FEW - 1], torch.zeros(FEW - 1, dtype=torch.int64)) is None


def test_without_labels_only_a_single_answer_is_odd() -> None:
    none = torch.full((200,), NO_LABEL)
    for labels in (None, none):
        assert doubt(answers(LABELS), labels) is None
        assert "gives class 4 for all 200" in (doubt(answers(torch.full((200,), 4)), labels) or "")


def test_samples_without_a_label_do_not_count() -> None:
    labels = torch.where(torch.arange(200) % 2 == 0, LABELS, NO_LABEL)
    assert doubt(answers(LABELS), labels) is None
    assert "right on 0.0% of 100 images" in (doubt(answers((LABELS + 1) % 10), labels) or "")


def test_few_samples_say_nothing() -> None:
    labels = torch.arange(FEW - 1)
    assert doubt(answers((labels + 1) % 10), labels) is None


@pytest.mark.parametrize(
    "logits",
    [
        torch.arange(5.0).expand(20, 5),
        torch.randn(20, 1).expand(-1, 5),  # probabilities are equal all the same
        1000 + 1e-5 * torch.randn(20, 5),
        torch.ones(20, 5, dtype=torch.float16),
    ],
)
@pytest.mark.parametrize("labels", [None, torch.arange(20) % 5])
def test_probabilities_that_do_not_depend_on_the_samples(
    logits: Tensor, labels: Tensor | None
) -> None:
    text = doubt(logits, labels) or ""
    assert text.startswith("the dense network gives the same class probabilities for all 20 images")
    assert "the same" not in (doubt(1e-3 * torch.randn(20, 5), labels) or "")
