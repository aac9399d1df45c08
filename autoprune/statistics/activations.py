"""Activity of every consumer's inputs, collected in one pass over the calibration samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from autoprune.core.precision import at_least_single
from autoprune.data import NO_LABEL, Samples
from autoprune.statistics.collect import BATCH
from autoprune.statistics.consumers import LayerMode, by_input
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import run
from autoprune.structure.tracing.operators import plain_arithmetic

# Only the most frequent classes are distinguished: memory grows with their number.
MOST_CLASSES = 32


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Mean and variance, within each class, of every channel's mean over positions.

    Classes with fewer than two samples are left out.
    """

    mean: Float64[Tensor, "classes channels"]
    variance: Float64[Tensor, "classes channels"]


@dataclass(frozen=True, eq=False)
class Activations:
    """Statistics of one consumer's input channels, over samples and positions.

    Attributes:
        magnitude: mean absolute activation, E|a|.
        active: fraction of values that are not zero.
        deviation: standard deviation.
        classes: moments by class; None without labels.
    """

    magnitude: Float64[Tensor, " channels"]
    active: Float64[Tensor, " channels"]
    deviation: Float64[Tensor, " channels"]
    classes: ClassMoments | None


def collect_activations(
    model: nn.Module, structure: Structure, samples: Samples
) -> dict[str, Activations]:
    """Return the activity of every consumer's inputs, by weight name.

    Args:
        model: the dense network in evaluation mode.
        structure: structure of the network.
        samples: calibration data; labels are used where they are integers.
    """
    mode = _Collecting(model, structure, _frequent_classes(samples))
    with torch.no_grad(), plain_arithmetic(), mode:
        for batch in samples.batches_within(BATCH):
            mode.begin(batch)
            run(model, batch.inputs)
    return {weight: total.result() for weight, total in mode.sums.items()}


def _frequent_classes(samples: Samples) -> Int[Tensor, " classes"] | None:
    """Return the labels to distinguish, most frequent first; None without labels."""
    if samples.targets is None or not samples.labelled:
        return None
    known = samples.targets[samples.targets != NO_LABEL]
    labels, counts = known.unique(return_counts=True)
    frequent: Tensor = labels[counts.argsort(descending=True, stable=True)[:MOST_CLASSES]]
    return frequent


class _Collecting(LayerMode):
    def __init__(
        self, model: nn.Module, structure: Structure, classes: Int[Tensor, " classes"] | None
    ) -> None:
        super().__init__(model, structure)
        self._wanted = structure.feeds
        self._classes = classes
        self._samples = 0
        self._members: Tensor | None = None
        self.sums: dict[str, _Sums] = {}

    def begin(self, batch: Samples) -> None:
        """Set the samples that the next forward pass runs."""
        self._samples = len(batch)
        if self._classes is not None and batch.targets is not None:
            self._members = (batch.targets == self._classes[:, None]).double()

    def visit(self, layer: LayerSpec, source: Tensor) -> Tensor:
        if layer.weight in self._wanted:
            values = by_input(layer, source, self._samples)
            if values is not None:
                sums = self.sums.setdefault(layer.weight, _Sums())
                sums.add(values, self._members)
        return source


class _Sums:
    """Sums over one consumer's inputs so far, in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._totals: Tensor = torch.zeros(())
        self._by_class: Tensor = torch.zeros(())
        self._class_sizes: Tensor | None = None

    def add(
        self,
        values: Float[Tensor, "samples positions channels"],
        members: Float64[Tensor, "classes samples"] | None,
    ) -> None:
        """Add a batch of activations.

        Args:
            values: activations.
            members: 1 where a sample belongs to a class, else 0; None without labels.
        """
        self._count += values.shape[0] * values.shape[1]
        values = at_least_single(values)
        # Single precision within a sample, where it is exact enough; double over samples.
        mean = values.mean(1).double()
        by_sample = [
            torch.linalg.vector_norm(values, 1, dim=1).double(),
            values.count_nonzero(1).double(),
            mean * values.shape[1],
            torch.linalg.vector_norm(values, 2, dim=1).double().square(),
        ]
        sums = torch.stack([one.sum(0) for one in by_sample])
        self._totals = self._totals.to(mean.device) + sums
        if members is not None:
            both = torch.stack([members @ mean, members @ mean.square()])
            self._by_class = self._by_class.to(mean.device) + both
            sizes = members.sum(1)
            self._class_sizes = sizes if self._class_sizes is None else self._class_sizes + sizes

    def result(self) -> Activations:
        magnitude, active, mean, square = self._totals / self._count
        deviation = (square - mean.square()).clamp_min(0.0).sqrt()
        return Activations(magnitude, active, deviation, self._class_moments())

    def _class_moments(self) -> ClassMoments | None:
        if self._class_sizes is None:
            return None
        enough = self._class_sizes >= 2
        mean, square = self._by_class[:, enough] / self._class_sizes[enough, None]
        return ClassMoments(mean, (square - mean.square()).clamp_min(0.0))
