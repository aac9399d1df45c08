from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from autoprune.data import (
    DatasetSplit,
    Partition,
    Samples,
    Split,
    Splits,
    SplitSizes,
    check_samples,
    partition,
)
from autoprune.data.partitioning import MIXED, mixed_pairs
from autoprune.data.splits import PartOfSplit
from autoprune.errors import DataError, UsageError


def numbered(start: int, count: int) -> Split:
    """A split whose labels number its samples."""
    labels = torch.arange(start, start + count)
    return DatasetSplit(TensorDataset(labels.float()[:, None], labels))


def drawn(parts: Partition) -> list[list[int]]:
    samples = (parts.calibration, parts.search, parts.selection)
    return [part.targets.tolist() for part in samples]  # type: ignore[union-attr]


sizes = st.builds(SplitSizes, *[st.integers(1, 40)] * 3)


@given(st.integers(3, 60), st.none() | st.integers(2, 60), sizes, st.integers(0, 99))
def test_disjoint_clamped_and_reproducible(
    train: int, val: int | None, sizes: SplitSizes, seed: int
) -> None:
    splits = Splits(numbered(0, train), None if val is None else numbered(1000, val))
    parts = partition(splits, sizes, seed)
    calibration, search, selection = drawn(parts)
    everything = calibration + search + selection
    assert len(set(everything)) == len(everything)
    assert 1 <= len(calibration) <= sizes.calibration
    assert 1 <= len(search) <= sizes.search
    assert 1 <= len(selection) <= sizes.selection
    assert max(calibration) < 1000
    assert (min(search + selection) >= 1000) == (val is not None)
    assert parts.signal_split == ("train" if val is None else "val")
    assert drawn(partition(splits, sizes, seed)) == drawn(parts)
    rows = range(len(parts.unread))
    unread = parts.unread.take(rows).targets.tolist() if rows else []  # type: ignore[union-attr]
    assert sorted(unread) == sorted(set(range(train)) - set(everything))
    left = parts.recovery.take(range(len(parts.recovery))).targets.tolist()  # type: ignore[union-attr]
    assert sorted(left) == sorted(set(range(train)) - {*search, *selection})


def test_sizes_where_there_is_enough_and_halves_where_not() -> None:
    sizes = SplitSizes(calibration=20, search=10, selection=10)
    enough = partition(Splits(numbered(0, 50), numbered(100, 50)), sizes, seed=0)
    assert [len(part) for part in drawn(enough)] == [20, 10, 10]
    short = partition(Splits(numbered(0, 5), numbered(100, 8)), sizes, seed=0)
    assert [len(part) for part in drawn(short)] == [5, 4, 4]


class Detections(Split):
    """Images with boxes that say which image they are of; some have none."""

    def __init__(self, start: int, count: int, bare: int = -1) -> None:
        self.start, self.count, self.bare = start, count, bare

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Sequence[int]) -> Samples:
        inputs = self.start + torch.tensor(list(indices))[:, None].float()
        notes = tuple({"boxes": one} for one in inputs)
        return Samples(inputs, None, None if self.bare in indices else notes)


def test_annotations_are_of_their_images_and_not_kept_for_calibration() -> None:
    splits, sizes = Splits(Detections(0, 90), Detections(100, 200)), SplitSizes(80, 100, 100)
    parts = partition(splits, sizes, seed=0)
    assert parts.calibration.annotations is None
    for part in (parts.search, parts.selection):
        assert part.annotations is not None and len(part.annotations) == len(part) == 100
        boxes = torch.stack([one["boxes"] for one in part.annotations])
        assert torch.equal(boxes, part.inputs)  # type: ignore[arg-type]
    bare = partition(splits.without_annotations(), sizes, seed=0)
    assert bare.search.annotations is None and bare.selection.annotations is None
    assert torch.equal(bare.search.inputs, parts.search.inputs)  # type: ignore[arg-type]


def test_annotations_that_some_images_lack_are_kept_for_none() -> None:
    splits = Splits(Detections(0, 5), Detections(100, 200, bare=7))
    parts = partition(splits, SplitSizes(2, 100, 100), seed=0)
    found = [part.annotations for part in (parts.search, parts.selection)]
    assert sorted(0 if one is None else len(one) for one in found) == [0, 100]


def test_seeds_draw_different_images() -> None:
    splits = Splits(numbered(0, 500))
    sizes = SplitSizes(100, 100, 100)
    assert drawn(partition(splits, sizes, 0)) != drawn(partition(splits, sizes, 1))


def test_large_images_are_fewer() -> None:
    splits = Splits(numbered(0, 500), numbered(1000, 500))
    parts = partition(splits, SplitSizes(), seed=0, max_bytes=4 * 70)
    assert [len(part) for part in drawn(parts)] == [70, 70, 70]


def test_fewer_samples_than_asked_for_are_told() -> None:
    told: list[str] = []
    splits = Splits(numbered(0, 500), numbered(1000, 100))
    partition(splits, SplitSizes(100, 30, 30), seed=0, max_bytes=4 * 100, note=told.append)
    assert told == []
    partition(splits, SplitSizes(200, 90, 60), seed=0, max_bytes=4 * 100, note=told.append)
    assert told == [
        "fewer samples than asked for: 100 of 200 for calibration (they fill 0 MB), "
        "59 of 90 for search (there are no more), 40 of 60 for selection (there are no more)"
    ]


def test_reading_is_told() -> None:
    steps: list[tuple[int, int]] = []
    splits = Splits(numbered(0, 100), numbered(1000, 100))
    partition(splits, SplitSizes(100, 30, 30), seed=0, step=lambda *s: steps.append(s))
    assert steps == [(64, 160), (100, 160), (130, 160), (160, 160)]


def test_much_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(partition.__globals__, "REPORTED_BYTES", 4_000_000)
    told: list[str] = []
    images = TensorDataset(torch.zeros(1, 1000).expand(2000, 1000))
    for size in (300, 334):
        sizes = SplitSizes(size, size, size)
        partition(Splits(DatasetSplit(images)), sizes, seed=0, note=told.append)
    assert told == [
        "1002 samples of 0.004 MB are read into memory: 0.0 GB; smaller inputs, or fewer samples, "
        "take less"
    ]


def test_remarks_of_the_splits_are_told() -> None:
    told: list[str] = []
    splits = Splits(numbered(0, 9), notes=("drawn by weights",))
    partition(splits, SplitSizes(3, 3, 3), seed=0, note=told.append)
    assert told == ["drawn by weights"]


def test_one_hot_targets_are_labels_in_all_chunks() -> None:
    labels = torch.arange(300) % 7
    inputs = labels.float()[:, None]
    split = DatasetSplit(TensorDataset(inputs, torch.nn.functional.one_hot(labels).float()))
    parts = partition(Splits(split), SplitSizes(100, 80, 80), seed=0)
    for samples in (parts.calibration, parts.search, parts.selection):
        assert samples.labelled and samples.targets is not None
        assert samples.targets.tolist() == samples.inputs[:, 0].tolist()


def test_inputs_keep_their_targets() -> None:
    parts = partition(Splits(numbered(0, 300)), SplitSizes(150, 50, 50), seed=0)
    assert parts.calibration.inputs[:, 0].tolist() == drawn(parts)[0]


def corners(count: int, size: int = 40) -> Split:
    """Images that no two others' mixture can be taken for."""
    labels = torch.arange(count)
    return DatasetSplit(TensorDataset(torch.eye(size)[labels], labels))


def mixtures(split: Split, like: Samples, **options: Any) -> torch.Tensor:
    mixed = mixed_pairs(split, like, seed=0, **options)
    assert mixed is not None and isinstance(mixed.inputs, torch.Tensor)
    return mixed.inputs


def test_mixed_images_lie_between_two_images() -> None:
    like = Samples(torch.zeros(10, 40), None)
    mixed = mixtures(corners(40), like)
    assert mixed.shape == (MIXED * 10, 40)
    assert torch.allclose(mixed.sum(1), torch.ones(len(mixed))) and (mixed >= 0).all()
    assert ((mixed > 0).sum(1) <= 2).all()
    # Half of them are nearly one of the two, and the others are not.
    assert 0.3 < (mixed.amax(1) > 0.85).float().mean() < 0.8
    assert torch.equal(mixed, mixtures(corners(40), like))
    assert len(mixtures(corners(7), like)) == 7
    assert len(mixtures(corners(40), like, max_bytes=4 * 40 * 5)) == 5


def test_what_cannot_be_mixed_is_not() -> None:
    like = Samples(torch.zeros(10, 40), None)
    nothing = PartOfSplit(corners(40), np.arange(0))
    whole = Samples(torch.zeros(10, 40, dtype=torch.int64), None)
    other = Samples(torch.zeros(10, 41), None)
    assert mixed_pairs(nothing, like, 0) is None
    assert mixed_pairs(corners(40), whole, 0) is None
    assert mixed_pairs(corners(40), other, 0) is None


def test_mixtures_that_are_not_finite_are_left_out() -> None:
    inputs = torch.eye(40)
    inputs[:20] = torch.nan
    split = DatasetSplit(TensorDataset(inputs, torch.arange(40)))
    mixed = mixtures(split, Samples(torch.zeros(10, 40), None))
    assert 0 < len(mixed) < 25 and mixed.isfinite().all()


def test_inputs_are_mixed_together_unless_one_is_no_float() -> None:
    """Every mixture of (x, -x) is (z, -z): both parts have the same pair and the same share."""
    eye = torch.eye(40)
    split = DatasetSplit([((row, -row), 0) for row in eye])
    mixed = mixed_pairs(split, Samples((eye[:10], eye[:10]), None), seed=0)
    assert mixed is not None and len(mixed) == MIXED * 10
    assert torch.equal(mixed.inputs[0], -mixed.inputs[1])  # type: ignore[index]
    tokens = DatasetSplit([((row, row.long()), 0) for row in eye])
    assert mixed_pairs(tokens, Samples((eye[:10], eye[:10].long()), None), seed=0) is None


def test_inputs_of_any_form_are_drawn_together() -> None:
    rows = [({"a": torch.tensor([1.0 * i]), "b": torch.tensor(-i)}, i) for i in range(300)]
    parts = partition(Splits(DatasetSplit(rows)), SplitSizes(150, 50, 50), seed=0)
    drawn_a, drawn_b = parts.calibration.inputs["a"], parts.calibration.inputs["b"]  # type: ignore[call-overload]
    assert drawn_a[:, 0].tolist() == (-drawn_b).tolist() == drawn(parts)[0]
    assert drawn_b.dtype == torch.int64


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (Splits(numbered(0, 2)), "the train split has 2 samples but 3 disjoint sets"),
        (Splits(numbered(0, 9), numbered(9, 1)), "the val split has 1 sample but 2 disjoint sets"),
    ],
)
def test_too_few(splits: Splits, message: str) -> None:
    with pytest.raises(DataError, match=message):
        partition(splits, SplitSizes(), seed=0)


def test_size_below_one() -> None:
    with pytest.raises(UsageError, match="search needs at least 1 sample, but got 0"):
        SplitSizes(search=0)


def test_shapes_that_differ() -> None:
    split = DatasetSplit(
        [(torch.zeros(1 + (i >= 64)), 0) for i in range(128)],
        lambda items: torch.zeros(len(items), len(items[0][0])),
    )
    with pytest.raises(DataError, match=r"inputs must have one shape, but got \(.,\) and \(.,\)"):
        partition(Splits(split), SplitSizes(100, 10, 10), seed=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite(bad: float) -> None:
    inputs = torch.zeros(5, 2, 2)
    inputs[3, 1, 0] = bad
    with pytest.raises(DataError, match=r"1 of 5 search samples hold NaN .* sample 3"):
        check_samples(Samples(inputs, None), "search")
    with pytest.raises(DataError, match="calibration samples hold NaN"):
        partition(Splits(DatasetSplit(TensorDataset(inputs))), SplitSizes(5, 1, 1), seed=0)
