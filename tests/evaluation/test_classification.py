"""Scores of classifiers in comparison with the dense network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autoprune.data import NO_LABEL, ArraySplit, DatasetSplit, Normalization, Samples
from autoprune.errors import DataError, ModelError
from autoprune.evaluation import classification
from autoprune.evaluation.classification import (
    ClassificationScorer,
    class_logits,
    compare,
    score_split,
)
from autoprune.evaluation.parallel_forward import CPU_BATCH, GPU_BATCH


def logits_of(seed: int, rows: int = 40, classes: int = 5) -> Tensor:
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def probabilities(logits: Tensor) -> Any:
    e = np.exp(logits.double().numpy())
    return e / e.sum(1, keepdims=True)


def test_scores_by_hand() -> None:
    dense, other = logits_of(0), logits_of(1)
    targets = torch.arange(40) % 5
    p, q = probabilities(dense), probabilities(other)
    found = compare(dense, other, targets)
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-5)
    truth = q[np.arange(40), targets.numpy()]
    assert found.loss == pytest.approx(-np.log(truth).mean(), rel=1e-5)
    assert found.top1 == pytest.approx((q.argmax(1) == targets.numpy()).mean())
    assert found.samples == 40 and found.metric == found.top1


def test_kl_to_itself_is_zero_and_large_logits_stay_finite() -> None:
    assert compare(logits_of(0), logits_of(0), None).kl == pytest.approx(0, abs=1e-7)
    extreme = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    kl = compare(extreme, -extreme, None).kl
    assert kl is not None and math.isfinite(kl) and kl == pytest.approx(2e4)


def test_without_labels_only_kl_is_known() -> None:
    found = compare(logits_of(0), logits_of(1), None)
    assert found.loss is found.top1 is found.custom is found.metric is None
    assert found.samples == 40


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 5)).eval()


@pytest.mark.parametrize("rows", [1, CPU_BATCH, CPU_BATCH + 1, 3 * CPU_BATCH])
def test_batches_do_not_show(rows: int, model: nn.Module) -> None:
    inputs = torch.randn(rows, 3, 2, 2)
    scorer = ClassificationScorer(model, Samples(inputs, torch.zeros(rows, dtype=torch.int64)))
    assert scorer.dense.kl == pytest.approx(0, abs=1e-6)
    other = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
    with torch.no_grad():
        expected = compare(model(inputs), other(inputs), torch.zeros(rows, dtype=torch.int64))
    found = scorer.score(other)
    assert found.samples == rows
    assert (found.kl, found.loss) == pytest.approx((expected.kl, expected.loss), rel=1e-5)


@pytest.mark.parametrize("labelled", [True, False])
def test_inputs_without_labels_count_for_kl_alone(labelled: bool, model: nn.Module) -> None:
    torch.manual_seed(1)
    inputs, more = torch.randn(30, 3, 2, 2), torch.randn(50, 3, 2, 2)
    targets = torch.arange(30) % 5 if labelled else None
    other = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
    unlabelled = Samples(more, None)
    found = ClassificationScorer(model, Samples(inputs, targets), unlabelled).score(other)
    alone = ClassificationScorer(model, Samples(inputs, targets)).score(other)
    both = ClassificationScorer(model, Samples(torch.cat([inputs, more]), None)).score(other)
    assert found.kl == pytest.approx(both.kl) and found.kl != pytest.approx(alone.kl)
    assert found.loss == pytest.approx(alone.loss) and found.top1 == pytest.approx(alone.top1)
    assert found.samples == 80


def test_a_network_that_gives_no_numbers_anywhere_has_no_kl(model: nn.Module) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x.flatten(1)[:, :1] > 1, torch.nan, torch.zeros(len(x), 5))

    inputs = torch.randn(60, 3, 2, 2)
    scorer = ClassificationScorer(model, Samples(inputs, torch.zeros(60, dtype=torch.int64)))
    assert math.isnan(scorer.score(Broken()).kl or 0.0)


class Odd(nn.Module):
    """A network with any output."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output(x)


@pytest.mark.parametrize(
    ("output", "seen"),
    [
        (lambda x: x, r"\(4, 3, 2, 2\)"),
        (lambda x: x.flatten(1)[:, 0], r"\(4,\)"),
        (lambda x: (x.flatten(1), x), "tuple"),
        (lambda x: {"a": x.flatten(1), "b": x}, "dict"),
        (lambda x: None, "NoneType"),
    ],
    ids=["an image", "one number", "a tuple", "a dict", "nothing"],
)
def test_outputs_that_are_no_class_scores(output: Any, seen: str) -> None:
    with pytest.raises(ModelError, match=f"but it is {seen}; .*evaluate='file.py:function'"):
        ClassificationScorer(Odd(output), Samples(torch.randn(4, 3, 2, 2), None))


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


@pytest.mark.parametrize(
    "output",
    [lambda x: {"scores": x}, lambda x: {"hidden": 2 * x, "logits": x}, lambda x: Output(x, -x)],
    ids=["the only one", "by its name", "in a dataclass"],
)
def test_class_scores_within_an_output(output: Any) -> None:
    torch.manual_seed(0)
    samples = Samples(torch.randn(4, 3, 2, 2), torch.arange(4))
    inside = ClassificationScorer(Odd(lambda x: output(x.flatten(1))), samples)
    plain = ClassificationScorer(Odd(lambda x: x.flatten(1)), samples)
    assert inside.dense == plain.dense
    other = Odd(lambda x: output(x.flatten(1) ** 2))
    assert inside.score(other) == plain.score(other)
    assert inside.score_near(other, lambda: inside_of) == plain.score(other)


inside_of = Odd(lambda x: {"scores": x.flatten(1)})


def test_rows_that_are_not_the_samples() -> None:
    with pytest.raises(ModelError, match="it has 2 rows for 4 samples"):
        class_logits(Odd(lambda x: x.reshape(2, -1)), Samples(torch.randn(4, 3, 2, 2), None))


@pytest.mark.parametrize("targets", [None, torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)])
def test_one_number_per_sample_has_no_kl(targets: Tensor | None) -> None:
    with pytest.raises(ModelError, match=r"one number per sample.*evaluate='file.py:function'"):
        ClassificationScorer(
            Odd(lambda x: x.flatten(1)[:, :1]), Samples(torch.randn(4, 3, 2, 2), targets)
        )


def test_outputs_that_hardly_depend_on_the_samples_do() -> None:
    scorer = ClassificationScorer(
        Odd(lambda x: 1e-6 * x.flatten(1)), Samples(torch.randn(4, 3, 2, 2), None)
    )
    assert scorer.dense.kl == pytest.approx(0, abs=1e-6)


def test_samples_without_a_label_count_for_kl_alone(model: nn.Module) -> None:
    inputs, labels = torch.randn(60, 3, 2, 2), torch.arange(60) % 5
    known = torch.arange(60) % 3 > 0
    other = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
    some = Samples(inputs, torch.where(known, labels, NO_LABEL))
    found = ClassificationScorer(model, some).score(other)
    whole = ClassificationScorer(model, Samples(inputs, labels)).score(other)
    with torch.no_grad():
        by_hand = compare(model(inputs[known]), other(inputs[known]), labels[known])
    assert found.kl == pytest.approx(whole.kl)
    assert (found.loss, found.top1) == pytest.approx((by_hand.loss, by_hand.top1))
    none = Samples(inputs, torch.full((60,), NO_LABEL))
    assert ClassificationScorer(model, none).score(other).top1 is None


def test_outputs_that_are_not_finite() -> None:
    with pytest.raises(ModelError, match="not finite"):
        class_logits(Odd(lambda x: x.flatten(1) / 0), Samples(torch.randn(4, 3, 2, 2), None))


def test_inputs_of_a_wrong_shape(model: nn.Module) -> None:
    with pytest.raises(DataError, match=r"samples of shape \(3, 4, 4\): RuntimeError"):
        ClassificationScorer(model, Samples(torch.randn(4, 3, 4, 4), None))


def test_labels_outside_the_classes(model: nn.Module) -> None:
    with pytest.raises(DataError, match="label 5 is outside the network's 5 classes"):
        ClassificationScorer(model, Samples(torch.randn(2, 3, 2, 2), torch.tensor([0, 5])))


def split_of(rows: int, labels: int = 5) -> ArraySplit:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, 2, 2, 3), dtype=np.uint8)
    return ArraySplit(images, rng.integers(0, labels, rows), Normalization((0.5,) * 3, (0.2,) * 3))


def test_a_whole_split_is_scored_batch_by_batch(model: nn.Module) -> None:
    rows = GPU_BATCH + 7
    split, other = split_of(rows), nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
    whole = split.take(range(rows))
    dense, pruned = score_split(model, [other], split)
    assert dense.kl == pytest.approx(0, abs=1e-6) and dense.samples == pruned.samples == rows
    with torch.no_grad():
        expected = compare(model(whole.inputs), other(whole.inputs), whole.targets)
        same = model(whole.inputs).argmax(1) == other(whole.inputs).argmax(1)
    assert pruned.top1 == expected.top1
    assert (dense.agreement, pruned.agreement) == (1.0, pytest.approx(float(same.float().mean())))
    assert (pruned.kl, pruned.loss) == pytest.approx((expected.kl, expected.loss), rel=1e-5)


def test_labels_of_the_split_are_checked(model: nn.Module) -> None:
    with pytest.raises(DataError, match="outside the network's 5 classes"):
        score_split(model, [], split_of(20, labels=9))


def test_one_hot_labels_of_a_split(model: nn.Module) -> None:
    whole = split_of(70).take(range(70))
    assert whole.targets is not None
    one_hot = nn.functional.one_hot(whole.targets, 5).float()
    (expected,) = score_split(model, [], split_of(70))
    (found,) = score_split(model, [], DatasetSplit(TensorDataset(whole.inputs, one_hot)))
    assert found == expected and found.top1 is not None


def test_classes_of_the_split_are_checked(model: nn.Module) -> None:
    split = split_of(20)
    split.classes = 4
    with pytest.raises(DataError, match="4 classes but the network has 5 outputs"):
        score_split(model, [], split)


def test_large_images_of_a_split_are_read_few_at_a_time(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classification, "MAX_BYTES", 4 * 12 * 8)
    taken: list[int] = []

    class Counted(ArraySplit):
        def take(self, indices: Sequence[int]) -> Samples:
            taken.append(len(indices))
            return super().take(indices)

    split = split_of(20)
    counted = Counted(split.images, split.labels, split.normalization)
    assert score_split(model, [], counted)[0].samples == 20
    assert taken == [1, 8, 8, 4]


def test_odd_accuracy_of_a_split_is_told(model: nn.Module) -> None:
    told: list[str] = []
    score_split(model, [], split_of(300), told.append)
    assert len(told) == 1 and "no more than by chance" in told[0]
