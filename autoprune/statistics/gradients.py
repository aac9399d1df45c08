"""Gradients of a scalar, such as a loss, with respect to the consumers' inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from autoprune.core.precision import at_least_single
from autoprune.data import Samples, check_labels
from autoprune.errors import ModelError
from autoprune.statistics.consumers import LayerMode, batch_within, by_input, unit_sums
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import class_scores, run
from autoprune.structure.tracing.operators import plain_arithmetic

# Number of labelled samples that gradients are computed for.
SAMPLES = 500
# Memory for the activations that are kept for the backward pass.
ACTIVATION_BYTES = 1_000_000_000

Reduce: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(values, gradients), each (samples, positions, channels) → (samples, channels)."""


class GradientTap(LayerMode):
    """Reduces the gradient at each layer's input to one value per sample and channel.

    Each layer reads a view of its own, so that the gradient is that through this layer alone, even
    if other layers read the same activation.

    Attributes:
        found: reduced values of shape (samples, channels), by weight name; filled by the backward
            pass and summed over a layer's calls.
        inputs: the layer called last and its input.
    """

    def __init__(
        self, model: nn.Module, structure: Structure, samples: int, reduce: Reduce
    ) -> None:
        super().__init__(model, structure)
        self._samples = samples
        self._reduce = reduce
        self.found: dict[str, Tensor] = {}
        self.inputs: tuple[LayerSpec, Tensor] | None = None

    def visit(self, layer: LayerSpec, source: Tensor) -> Tensor:
        """Return a view of the input whose gradient is recorded."""
        start = source if source.requires_grad else source.detach().requires_grad_()
        read = start.view_as(start)
        read.register_hook(partial(self._record, layer, read.detach()))
        self.inputs = (layer, read)
        return read

    def _record(self, layer: LayerSpec, source: Tensor, gradient: Tensor) -> None:
        """Add the reduced gradient at a layer's input."""
        value = by_input(layer, source, self._samples)
        change = by_input(layer, gradient, self._samples)
        if value is not None and change is not None:
            new = self._reduce(value, change)
            before = self.found.get(layer.weight)
            self.found[layer.weight] = new if before is None else before + new


def taylor_terms(
    model: nn.Module, structure: Structure, samples: Samples, count: int = SAMPLES
) -> tuple[Float64[Tensor, " _units"], ...]:
    """Return the first-order change of the loss if a unit is zeroed, for every group.

    This is the mean over samples of |Σ a ∂L/∂a|, with L the cross-entropy of one sample and the sum
    over all entries of the unit at all its consumers.

    Args:
        model: the dense network in evaluation mode.
        structure: structure of the network.
        samples: labelled samples.
        count: number of samples to use.

    Raises:
        ModelError: the output is not a matrix of class scores.
        DataError: a label is outside the classes.
    """
    samples = samples.first(count)
    batch_size = batch_within(structure, 100, ACTIVATION_BYTES)
    totals = [torch.zeros(group.size, dtype=torch.float64) for group in structure.groups]
    with fixed_parameters(model), torch.enable_grad(), plain_arithmetic():
        for batch in samples.batches(batch_size):
            tap = GradientTap(model, structure, len(batch), _changes)
            with tap:
                logits = class_scores(run(model, batch.inputs))
            class_loss(logits, batch).backward()
            for total, group in zip(totals, structure.groups, strict=True):
                if parts := unit_sums(group, tap.found.get):
                    total += torch.stack(parts).sum(0).abs().sum(0).cpu()
    return tuple(total / len(samples) for total in totals)


def _changes(
    values: Float[Tensor, "samples positions channels"],
    gradients: Float[Tensor, "samples positions channels"],
) -> Float64[Tensor, "samples channels"]:
    return (at_least_single(values) * at_least_single(gradients)).sum(1).double()


def class_loss(logits: Any, batch: Samples) -> Float[Tensor, ""]:
    """Return the cross-entropy of labelled samples, summed over them.

    Raises:
        ModelError: the output is not a matrix of class scores.
        DataError: a label is outside the classes.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ModelError(
            "gradients need the cross-entropy of class scores (samples, classes), but the model "
            "returns something else; choose a way without gradients."
        )
    check_labels(batch, logits.shape[1])
    assert batch.targets is not None
    return F.cross_entropy(at_least_single(logits), batch.targets, reduction="sum")


@contextmanager
def fixed_parameters(model: nn.Module) -> Iterator[None]:
    """Turn off the gradients of all parameters inside the context."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
