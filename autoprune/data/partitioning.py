"""Partition of the data for one search: calibration, search and selection are disjoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from autoprune.data.class_labels import with_class_labels
from autoprune.data.forms import map_tensors, sample_shapes, tensors
from autoprune.data.samples import Samples
from autoprune.data.splits import PartOfSplit, Split, Splits
from autoprune.errors import DataError, UsageError, counted

MAX_BYTES = 600_000_000
# From this many bytes of inputs in memory, their size is reported.
REPORTED_BYTES = 1_000_000_000
PURPOSES = ("calibration", "search", "selection")
# Mixed images per selection image. In the softened KL, three were no more informative than one.
MIXED = 1
CHUNK = 64
"""Samples fetched at a time, so that images are not in memory twice while they are gathered."""


Step: TypeAlias = Callable[[int, int], None]
"""(samples read so far, total): reports progress."""


@dataclass(frozen=True)
class SplitSizes:
    """Number of samples for each purpose; fewer are taken if there are fewer.

    Raises:
        UsageError: a size is below 1.
    """

    calibration: int = 2000
    search: int = 1000
    selection: int = 1000

    def __post_init__(self) -> None:
        for field in fields(self):
            size = getattr(self, field.name)
            if size < 1:
                raise UsageError(f"{field.name} needs at least 1 sample, but got {size}.")


@dataclass(frozen=True, eq=False)
class Partition:
    """The samples of one search; calibration, search and selection are disjoint.

    Attributes:
        calibration: training samples for statistics and reconstruction, without annotations.
        recovery: all training samples except those in search and selection; labels are not read.
        search: samples on which candidates are scored.
        selection: samples on which finalists are scored.
        unread: training samples that are in none of the three.
        test: samples for the final score only.
        signal_split: split of search and selection: "val", or "train" if there is no val.
        classes: number of classes in the labels of search and selection; None if not known.
    """

    calibration: Samples
    recovery: Split
    search: Samples
    selection: Samples
    unread: Split
    test: Split | None
    signal_split: str
    classes: int | None = None

    def to(self, device: torch.device | str) -> Partition:
        """Return the partition with its samples in memory on a device."""
        return replace(
            self,
            calibration=self.calibration.to(device),
            search=self.search.to(device),
            selection=self.selection.to(device),
        )


def partition(
    splits: Splits,
    sizes: SplitSizes,
    seed: int,
    max_bytes: int = MAX_BYTES,
    note: Callable[[str], None] = lambda text: None,
    step: Step = lambda done, total: None,
) -> Partition:
    """Draw the samples of a search at random.

    If a split has fewer samples than requested, they are shared in proportion.

    Args:
        splits: the splits of the data source.
        sizes: number of samples for each purpose.
        seed: equal seeds draw equal samples.
        max_bytes: limit on the inputs of each purpose, in bytes.
        note: receives the notes of the splits, and notes on sizes that were reduced and on inputs
            that take much memory.
        step: reports progress.

    Raises:
        DataError: a split has too few samples for every purpose, or its inputs are not finite.
    """
    for remark in splits.notes:
        note(remark)
    each = splits.train.take([0]).sample_bytes
    limit = max(1, max_bytes // each)
    asked = (sizes.calibration, sizes.search, sizes.selection)
    rng = np.random.default_rng(seed)
    chosen = _choose(splits, [min(size, limit) for size in asked], rng)
    counts = [len(part.indices) for part in chosen]
    _note_sizes(counts, asked, each, max_bytes, note)
    calibration, search, selection = (
        _gather(part.split, part.indices, _offset(step, sum(counts[:i]), sum(counts)), i > 0)
        for i, part in enumerate(chosen)
    )
    for samples, name in zip((calibration, search, selection), PURPOSES, strict=True):
        check_samples(samples, name)
    read = [part.indices for part in chosen if part.split is splits.train]
    return Partition(
        calibration=calibration,
        recovery=_without(splits.train, read[1:]) if len(read) > 1 else splits.train,
        search=search,
        selection=selection,
        unread=_without(splits.train, read),
        test=splits.test,
        signal_split="train" if splits.val is None else "val",
        classes=chosen[-1].classes,
    )


def _choose(
    splits: Splits, wanted: Sequence[int], rng: np.random.Generator
) -> tuple[PartOfSplit, ...]:
    """Choose samples for calibration, search and selection at random."""
    if splits.val is None:
        return tuple(
            PartOfSplit(splits.train, one) for one in _draw(splits.train, "train", wanted, rng)
        )
    (first,) = _draw(splits.train, "train", wanted[:1], rng)
    others = _draw(splits.val, "val", wanted[1:], rng)
    return PartOfSplit(splits.train, first), *(PartOfSplit(splits.val, one) for one in others)


def _offset(step: Step, before: int, total: int) -> Callable[[int], None]:
    """Return a function that reports the progress of one part as progress of the whole."""
    return lambda done: step(before + done, total)


def _note_sizes(
    counts: Sequence[int],
    asked: Sequence[int],
    each: int,
    max_bytes: int,
    note: Callable[[str], None],
) -> None:
    """Note where there are fewer samples than requested, and whether they take much memory."""
    trimmed = []
    for count, size, name in zip(counts, asked, PURPOSES, strict=True):
        if count < size:
            full = count == max(1, max_bytes // each)
            why = f"they fill {max_bytes / 1e6:.0f} MB" if full else "there are no more"
            trimmed.append(f"{count} of {size} for {name} ({why})")
    if trimmed:
        note(f"fewer samples than asked for: {', '.join(trimmed)}")
    if (total := sum(counts) * each) >= REPORTED_BYTES:
        note(
            f"{sum(counts)} samples of {each / 1e6:.3g} MB are read into memory: {total / 1e9:.1f} "
            "GB; smaller inputs, or fewer samples, take less"
        )


def mixed_pairs(
    split: Split, like: Samples, seed: int, max_bytes: int = MAX_BYTES
) -> Samples | None:
    """Mix pairs of images, `MIXED` mixtures for every sample.

    Mixing follows mixup (Zhang et al. 2018, section 2) with alpha 0.5: half of the mixtures are
    almost one of their two images. The dense network is not overfitted to mixtures, so the distance
    of another network from it is more informative there than on the images themselves.

    Args:
        split: the images; the number of mixtures is at most theirs.
        like: samples to which the mixtures will be added.
        seed: seed of the pairs and their mixing weights.
        max_bytes: limit on the mixtures, in bytes.

    Returns:
        The mixtures, without targets, on the samples' device; None if there is nothing to mix, or
        if inputs are not floating or have other shapes than the samples.
    """
    count = min(MIXED * len(like), len(split), max_bytes // like.sample_bytes)
    if not count or not all(one.is_floating_point() for one in tensors(like.inputs)):
        return None
    rng = np.random.default_rng([seed, count])
    first, second = (_gather(split, rng.integers(0, len(split), count)) for _ in range(2))
    if sample_shapes(first.inputs) != sample_shapes(like.inputs):
        return None
    shares = torch.from_numpy(rng.beta(0.5, 0.5, count))

    def mix(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return one.lerp_(other, shares.to(one).reshape(-1, *[1] * (one.dim() - 1)))

    mixed = Samples(map_tensors(mix, first.inputs, second.inputs), None)
    finite = mixed.finite().nonzero()[:, 0].tolist()
    return mixed[finite].to(like.device) if finite else None


def check_samples(samples: Samples, name: str) -> None:
    """Check that inputs are finite.

    Raises:
        DataError: a sample holds NaN or infinity.
    """
    finite = samples.finite()
    if not finite.all():
        bad = int((~finite).sum())
        raise DataError(
            f"{bad} of {len(samples)} {name} samples hold NaN or infinity (the first: sample "
            f"{int((~finite).nonzero()[0])}): check the files and the normalization."
        )


def _draw(
    split: Split, name: str, wanted: Sequence[int], rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Return disjoint random indices, one array per wanted size."""
    if len(split) < len(wanted):
        raise DataError(
            f"the {name} split has {counted(len(split), 'sample')} but {len(wanted)} disjoint "
            f"sets are drawn from it: it needs at least {len(wanted)}."
        )
    counts = _shares(len(split), wanted)
    chosen = rng.choice(len(split), size=sum(counts), replace=False)
    return np.split(chosen, np.cumsum(counts)[:-1])


def _without(split: Split, drawn: Sequence[npt.NDArray[np.int64]]) -> Split:
    """Return the samples of a split that were not drawn."""
    return PartOfSplit(split, np.setdiff1d(np.arange(len(split)), np.concatenate(drawn)))


def _shares(available: int, wanted: Sequence[int]) -> list[int]:
    """Return the wanted sizes if they fit, else sizes in proportion, each at least 1."""
    if sum(wanted) <= available:
        return list(wanted)
    spare, excess = available - len(wanted), sum(wanted) - len(wanted)
    return [1 + (size - 1) * spare // excess for size in wanted]


def _gather(
    split: Split,
    chosen: npt.NDArray[np.int64],
    step: Callable[[int], None] = lambda done: None,
    annotated: bool = False,
) -> Samples:
    """Fetch the chosen samples.

    Args:
        split: where they are.
        chosen: their indices.
        step: receives the number of samples so far.
        annotated: whether annotations are kept, if all samples have them.
    """
    indices = chosen.tolist()
    whole: Samples | None = None
    targets: list[torch.Tensor] = []
    annotations: list[Mapping[str, Any]] = []
    for start in range(0, len(indices), CHUNK):
        chunk = split.take(indices[start : start + CHUNK])
        if whole is None:
            whole = _room_for(len(indices), chunk)
        if sample_shapes(chunk.inputs) != sample_shapes(whole.inputs):
            raise DataError(
                f"inputs must have one shape, but got {whole.shape} and {chunk.shape}: resize or "
                "pad them in the dataset's transform."
            )
        place = whole[start : start + len(chunk)]
        map_tensors(lambda into, own: into.copy_(own), place.inputs, chunk.inputs)
        targets.extend([] if chunk.targets is None else [chunk.targets])
        annotations.extend((chunk.annotations or ()) if annotated else ())
        step(start + len(chunk))
    assert whole is not None  # there is at least one index
    labels = torch.cat(targets) if targets else None
    found = tuple(annotations) if len(annotations) == len(whole) else None
    return with_class_labels(Samples(whole.inputs, labels, found))


def _room_for(count: int, like: Samples) -> Samples:
    """Allocate `count` samples with the structure and shapes of others."""
    return Samples(map_tensors(lambda one: one.new_empty(count, *one.shape[1:]), like.inputs), None)
