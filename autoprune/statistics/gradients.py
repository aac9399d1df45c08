"""Gradients at the consumers' inputs, of a loss or of anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.precision import at_least_single
from autoprune.data import Samples, check_labels
from autoprune.errors import ModelError
from autoprune.statistics.consumers import LayerMode, batch_within, by_channel, unit_sums
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import class_scores, run
from autoprune.structure.tracing.operators import plain_arithmetic

# Labelled samples that gradients are taken of.
SAMPLES = 500
# Of activations that are kept for the backward pass.
ACTIVATION_BYTES = 1_000_000_000

Reduce: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(values, gradients), each (samples, positions, channels) → (samples, channels)."""


class GradientTap(LayerMode):
    """Splits off what each layer reads, and keeps what its gradient says of every channel.

    Each layer gets a stand-in of its own, so that the gradient is that through this layer alone,
    although others may read the same activation.

    Attributes:
        found: by weight name, (samples, channels); filled by the backward pass, summed over a
            layer's calls.
        inputs: what the layer called last has read.
    """

    def __init__(self, model: nn.Module, structure: Structure, samples: int, of: Reduce) -> None:
        super().__init__(model, structure)
        self._samples = samples
        self._reduce = of
        self.found: dict[str, Tensor] = {}
        self.inputs: tuple[LayerSpec, Tensor] | None = None

    def visit(self, layer: LayerSpec, source: Tensor) -> Tensor:
        """Give the layer a stand-in whose gradient is looked at."""
        start = source if source.requires_grad else source.detach().requires_grad_()
        read = start.view_as(start)

        def record(gradient: Tensor) -> None:
            value = by_channel(layer, read.detach(), self._samples)
            change = by_channel(layer, gradient, self._samples)
            if value is not None and change is not None:
                new = self._reduce(value, change)
                before = self.found.get(layer.weight)
                self.found[layer.weight] = new if before is None else before + new

        read.register_hook(record)
        self.inputs = (layer, read)
        return read


def taylor_terms(
    model: nn.Module, structure: Structure, samples: Samples, count: int = SAMPLES
) -> tuple[Tensor, ...]:
    """Return how much the loss changes to first order if a unit is zeroed, for every group.

    The mean over samples of |Σ a ∂L/∂a|, L the cross-entropy of one sample and the sum over all
    entries of the unit at all its consumers, (units,), float64.

    Args:
        model: the dense network in evaluation mode.
        structure: its groups.
        samples: with labels.
        count: how many of them are used.

    Raises:
        ModelError: the output is no class scores.
        DataError: a label is outside them.
    """
    samples = samples.first(count)
    batch_size = batch_within(structure, 100, ACTIVATION_BYTES)
    totals = [torch.zeros(group.size, dtype=torch.float64) for group in structure.groups]
    with fixed_parameters(model), torch.enable_grad(), plain_arithmetic():
        for batch in samples.batches(batch_size):
            tap = GradientTap(model, structure, len(batch), _changes)
            with tap:
                logits = class_scores(run(model, batch.inputs))
            _loss(logits, batch).backward()
            for total, group in zip(totals, structure.groups, strict=True):
                if parts := unit_sums(group, tap.found.get):
                    total += torch.stack(parts).sum(0).abs().sum(0).cpu()
    return tuple(total / len(samples) for total in totals)


def _changes(values: Tensor, gradients: Tensor) -> Tensor:
    return (at_least_single(values) * at_least_single(gradients)).sum(1).double()


def _loss(logits: Tensor, batch: Samples) -> Tensor:
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ModelError(
            "gradients need the cross-entropy of class scores (samples, classes), but the model "
            "returns something else; choose an importance without gradients."
        )
    check_labels(batch, logits.shape[1])
    assert batch.targets is not None
    return F.cross_entropy(at_least_single(logits), batch.targets, reduction="sum")


@contextmanager
def fixed_parameters(model: nn.Module) -> Iterator[None]:
    """No gradients of weights: nobody asks for them."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
