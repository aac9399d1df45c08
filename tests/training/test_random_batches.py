from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from autoprune.data import NO_LABEL, Normalization, Samples
from autoprune.data.splits import ArraySplit, SamplesSplit
from autoprune.errors import DataError, UsageError
from autoprune.training.augmentation import augmented
from autoprune.training.random_batches import Batch, RandomBatches, mixing

PLAIN = Normalization((0.0,) * 3, (1.0,) * 3)


def numbers(count: int) -> SamplesSplit:
    values = torch.arange(count)
    return SamplesSplit(Samples(values.float()[:, None], values % 3))


def take(batches: RandomBatches, count: int, start: int = 0, workers: int = 0) -> list[Batch]:
    return list(itertools.islice(batches.since(start, workers), count))


def values(batches: list[Batch]) -> list[float]:
    return torch.cat([batch.samples.inputs for batch in batches]).flatten().tolist()


def test_every_pass_has_each_sample_once_in_an_order_of_its_own() -> None:
    batches = RandomBatches(numbers(12), 4, seed=0)
    assert batches.steps_per_epoch == 3
    passes = [values(take(batches, 3, start)) for start in (0, 3)]
    assert all(sorted(one) == list(range(12)) for one in passes)
    assert passes[0] != passes[1]


def test_a_batch_is_no_larger_than_the_split_and_the_rest_is_left_out() -> None:
    assert RandomBatches(numbers(3), 8, seed=0).steps_per_epoch == 1
    batches = RandomBatches(numbers(11), 4, seed=0)
    assert batches.steps_per_epoch == 2 and len(set(values(take(batches, 2)))) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_follow_from_seed_and_step_alone(workers: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    split = augmented(ArraySplit(images, np.arange(20), PLAIN), "standard")
    whole = take(RandomBatches(split, 4, seed=3), 7)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    later = take(RandomBatches(split, 4, seed=3), 3, start=4, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(whole[4:], later, strict=True):
        assert (one.step, one.indices) == (other.step, other.indices)
        assert torch.equal(one.samples.inputs, other.samples.inputs)
    other_seed = take(RandomBatches(split, 4, seed=4), 1)[0]
    assert other_seed.indices != whole[0].indices


def test_processes_share_a_batch() -> None:
    batches = RandomBatches(numbers(12), 6, seed=0)
    parts = [take(batches.shared(rank, 2), 1)[0].indices for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(take(batches, 1)[0].indices)
    assert len(parts[0]) == len(parts[1]) == 3
    with pytest.raises(UsageError, match="batch 6 is too small for 7"):
        batches.shared(0, 7)


def test_one_hot_targets_become_labels() -> None:
    split = SamplesSplit(Samples(torch.zeros(4, 1), torch.eye(4)))
    batch = take(RandomBatches(split, 4, seed=0), 1)[0]
    assert batch.samples.targets.tolist() == batch.indices


def images(count: int, labels: torch.Tensor | None) -> SamplesSplit:
    return SamplesSplit(Samples(torch.rand(count, 3, 4, 4), labels))


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_mixtures_have_class_probabilities(mixup: float, cutmix: float) -> None:
    mix = mixing(mixup, cutmix, classes=5)
    batch = take(RandomBatches(images(6, torch.arange(6) % 5), 6, 0, mix), 1)[0]
    assert batch.samples.targets.shape == (6, 5)
    assert batch.samples.targets.sum(1).tolist() == pytest.approx([1.0] * 6)
    assert batch.samples.inputs.shape == (6, 3, 4, 4)


def test_images_without_labels_are_mixed_all_the_same() -> None:
    batch = take(RandomBatches(images(6, None), 6, 0, mixing(1.0, 0.0, None)), 1)[0]
    assert batch.samples.targets is None


def test_images_without_a_label_add_none_to_a_mixture() -> None:
    partly = torch.tensor([0, 1, NO_LABEL, NO_LABEL])
    targets = take(RandomBatches(images(4, partly), 4, 0, mixing(1.0, 0.0, 5)), 1)[
        0
    ].samples.targets
    assert targets.shape == (4, 5)
    assert targets.sum() == pytest.approx(2.0)  # every image counts once in all mixtures
    assert targets.sum(0)[:2].tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("label", [-1, 5])
def test_labels_that_do_not_fit_are_named(label: int) -> None:
    """Class 5 of 5 is not taken for a missing label."""
    wrong = torch.tensor([0, 1, label, 2])
    with pytest.raises(DataError, match=f"label {label} is outside"):
        take(RandomBatches(images(4, wrong), 4, 0, mixing(1.0, 0.0, 5)), 1)


def test_mixing_is_off_at_zero_and_refused_where_it_cannot_be() -> None:
    assert mixing(0.0, 0.0, 5) is None
    pairs = SamplesSplit(Samples((torch.zeros(4, 1), torch.zeros(4, 1)), torch.zeros(4).long()))
    with pytest.raises(UsageError, match="inputs that are one tensor"):
        take(RandomBatches(pairs, 4, 0, mixing(1.0, 0.0, 5)), 1)
