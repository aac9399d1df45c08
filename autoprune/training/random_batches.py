"""Random batches of training samples, each a function of its number alone."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autoprune.core.randomness import kept_random_states
from autoprune.data import NO_LABEL, Samples, Split, check_labels, with_class_labels
from autoprune.errors import UsageError

Mix = Callable[[Samples], Samples]
"""Mixes the samples of a batch with each other; targets become class probabilities."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one training step.

    Attributes:
        step: number of the step, from 0.
        samples: inputs and targets.
        indices: places of the samples in the split.
    """

    step: int
    samples: Samples
    indices: list[int]


class RandomBatches(Dataset[Batch]):
    """Batches by the number of the step: every pass over the samples has an order of its own.

    The order follows from the seed and the pass, what augmentation draws from the seed and the
    step. A run that is resumed therefore sees what it would have seen, whatever the number of
    workers. Samples that fill no whole batch are left out of a pass.

    Attributes:
        size: samples of a batch.
        steps_per_epoch: batches of a pass.
    """

    def __init__(self, split: Split, size: int, seed: int, mix: Mix | None = None) -> None:
        """Hold a split.

        Args:
            split: the samples.
            size: samples of a batch; fewer if there are fewer.
            seed: equal seeds give equal batches.
            mix: applied to every batch.
        """
        self._split, self._seed, self._mix = split, seed, mix
        self._rank, self._ranks = 0, 1
        self.size = min(size, len(split))
        self.steps_per_epoch = len(split) // self.size

    def shared(self, rank: int, ranks: int) -> RandomBatches:
        """Return the part of every batch that one of several processes takes."""
        if ranks > self.size:
            raise UsageError(f"batch {self.size} is too small for {ranks} processes.")
        part = copy.copy(self)
        part._rank, part._ranks = rank, ranks
        return part

    def __getitem__(self, step: int) -> Batch:
        """Read the batch of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._split))
        whole = order[place * self.size : (place + 1) * self.size]
        indices = whole[self._rank :: self._ranks].tolist()
        with kept_random_states():
            torch.manual_seed(seed_of(self._seed, step * self._ranks + self._rank))
            samples = with_class_labels(self._split.take(indices))
            if self._mix is not None:
                samples = self._mix(samples)
        return Batch(step, samples, indices)

    def since(self, step: int, workers: int = 0) -> Iterator[Batch]:
        """Yield batches from a step on, without end.

        Args:
            step: number of the first.
            workers: processes that read ahead; 0 reads in this one.
        """
        steps: Iterable[int] = itertools.count(step)
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            generator=torch.Generator(),  # or the global one would be drawn from
        )
        return iter(loader)


def seed_of(seed: int, step: int) -> int:
    """Return the seed of PyTorch's generator in a step."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def mixing(mixup: float, cutmix: float, classes: int | None) -> Mix | None:
    """Return what mixes the images of a batch; None where nothing does.

    Args:
        mixup: alpha of mixup (Zhang et al. 2018, section 2); 0 for none.
        cutmix: alpha of CutMix (Yun et al. 2019, section 3.1); 0 for none. Where both are given,
            each batch gets one of them.
        classes: number of classes; None where samples have no labels.

    Raises:
        UsageError: torchvision is not installed.
    """
    if not (mixup or cutmix):
        return None
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise UsageError(
            "mixup and cutmix need torchvision: pip install 'autoprune[vision]'."
        ) from error
    known = classes or 0
    # Samples without a label are of a class of their own, which is left out of the targets then.
    kinds: list[Any] = [v2.MixUp(alpha=mixup, num_classes=known + 1)] if mixup else []
    kinds += [v2.CutMix(alpha=cutmix, num_classes=known + 1)] if cutmix else []
    choose = v2.RandomChoice(kinds)

    def mix(samples: Samples) -> Samples:
        if not isinstance(samples.inputs, Tensor):
            raise UsageError("mixup and cutmix need inputs that are one tensor.")
        labels = torch.full((len(samples),), NO_LABEL)
        if classes and samples.targets is not None:
            check_labels(samples, classes)
            labels = samples.targets
        inputs, targets = choose(samples.inputs, labels.where(labels != NO_LABEL, known))
        return Samples(inputs, targets[:, :known] if classes else None)

    return mix
