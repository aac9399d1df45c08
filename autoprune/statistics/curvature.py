"""Second-order effect of small weight changes on the network's output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from autoprune.core.precision import at_least_single
from autoprune.data import Samples
from autoprune.errors import ModelError, user_code
from autoprune.statistics.consumers import Apply, LayerMode, batch_within, by_channel
from autoprune.statistics.gradients import ACTIVATION_BYTES, fixed_parameters
from autoprune.statistics.moments import is_laid_out
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import class_scores, outputs_of, run
from autoprune.structure.tracing.operators import plain_arithmetic

BATCH = 50
# Memory for the per-sample gradients of one layer's weight.
GRADIENT_BYTES = 200_000_000


@dataclass(frozen=True, eq=False)
class Change:
    """Alternative changes of one layer.

    Attributes:
        weight: added to the flattened weight.
        shift: added to the output at every position.
    """

    weight: Float[Tensor, "changes numel"]
    shift: Float[Tensor, "changes outputs"]


def output_changes(
    model: nn.Module,
    structure: Structure,
    changes: Mapping[str, Mapping[str, Change]],
    samples: Samples,
    temperature: float,
    seed: int,
) -> dict[str, Float64[Tensor, " changes"]]:
    """Return the effect of weight changes on the network's output, to second order.

    For class scores z this is the KL divergence of softmax(z / T), times T²: half the mean over
    samples of the squared change of T log p(y), with y drawn from the network's own prediction,
    since the curvature of the KL is the Fisher information (Martens 2020, "New Insights and
    Perspectives on the Natural Gradient Method", section 9.2). For any other output it is half the
    squared change, divided by the output's variance. Changes of several layers, and of one layer at
    several positions, add up per sample before they are squared.

    Args:
        model: the dense network in evaluation mode.
        structure: structure of the network.
        changes: alternative changes, by a name for those made together and by the layer's weight.
        samples: calibration data.
        temperature: T.
        seed: seed for sampling labels and noise.

    Returns:
        The effect of every change, by name. A name is missing where the layout of one of its layers
        cannot be split by samples.

    Raises:
        ModelError: the network cannot be differentiated.
    """
    draw = _Draw(temperature, torch.Generator().manual_seed(seed))
    size = batch_within(structure, BATCH, ACTIVATION_BYTES)
    # Nearly equal batches: the spread of the output cannot be estimated from one leftover sample.
    size = -(-len(samples) // -(-len(samples) // size))
    taps = [_ChangeTap(model, structure, changes, len(batch)) for batch in samples.batches(size)]
    with fixed_parameters(model), torch.enable_grad(), plain_arithmetic():
        for tap, batch in zip(taps, samples.batches(size), strict=True):
            with user_code(_not_differentiable):
                with tap:
                    output = run(model, batch.inputs)
                draw.function(output).backward()
    return {
        name: torch.cat([tap.effects[name] for tap in taps], 1).square().mean(1) / 2
        for name, own in changes.items()
        if all(own.keys() <= tap.seen for tap in taps)
    }


def _not_differentiable(reason: str) -> ModelError:
    return ModelError(f"the network's derivatives cannot be taken: {reason}")


class _Draw:
    """Random functions of the output; their mean squared change measures that of the output."""

    def __init__(self, temperature: float, generator: torch.Generator) -> None:
        self._temperature = temperature
        self._generator = generator
        self._spreads: dict[str, Tensor] = {}  # of the first batch, and used for all

    def function(self, output: Any) -> Float[Tensor, ""]:
        """Return the sum over samples of a function drawn for each of them."""
        scores = class_scores(output)
        if isinstance(scores, Tensor) and scores.dim() == 2 and scores.shape[1] > 1:
            return self._cross_entropy(at_least_single(scores) / self._temperature)
        total = torch.zeros(())
        for place, value in outputs_of(output).items():
            if value.requires_grad:
                wide = at_least_single(value)
                spread = self._spreads.setdefault(place, wide.detach().std(correction=0))
                noise = torch.randn(wide.shape, generator=self._generator).to(wide)
                if spread > 0:
                    total = total.to(wide.device) + (wide * noise).sum() / spread
        return total

    def _cross_entropy(self, scores: Float[Tensor, "samples classes"]) -> Float[Tensor, ""]:
        """Return the summed loss of labels drawn from the predicted probabilities."""
        probabilities = scores.detach().softmax(1).cpu()
        drawn = torch.multinomial(probabilities, 1, generator=self._generator)[:, 0]
        return self._temperature * F.cross_entropy(scores, drawn.to(scores.device), reduction="sum")


class _ChangeTap(LayerMode):
    """Sums up the effect of every change on every sample in the backward pass.

    Attributes:
        effects: change of the drawn function, of shape (changes, samples), by name.
        seen: weights of layers whose layout can be split by samples.
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        changes: Mapping[str, Mapping[str, Change]],
        samples: int,
    ) -> None:
        super().__init__(model, structure)
        self._model = model
        self._samples = samples
        self._by_layer: dict[str, dict[str, Change]] = {}
        self.effects: dict[str, Tensor] = {}
        self.seen: set[str] = set()
        for name, own in changes.items():
            for weight, change in own.items():
                self._by_layer.setdefault(weight, {})[name] = change
                self.effects[name] = change.shift.new_zeros(len(change.shift), samples).double()

    def visit(self, layer: LayerSpec, source: Tensor) -> Tensor:
        """Start gradients here if no earlier tensor requires any."""
        return source if source.requires_grad else source.detach().requires_grad_()

    def passed(self, layer: LayerSpec, source: Tensor, out: Tensor, apply: Apply) -> Tensor:
        """Record the gradient of the layer's output in the backward pass."""
        known = self._by_layer.get(layer.weight)
        is_by_sample = is_laid_out(layer, source) and not len(source) % self._samples
        if known is None or not is_by_sample or not out.requires_grad:
            return out
        self.seen.add(layer.weight)
        # Copies: the input and the output may be modified in place, and a modified view loses its
        # hooks.
        out = out.clone() if out._is_view() else out
        out.register_hook(partial(self._record, layer, source.detach().clone(), apply))
        return out

    def _record(self, layer: LayerSpec, source: Tensor, apply: Apply, gradient: Tensor) -> None:
        """Add the effects of a layer's changes, given the gradient of its output."""
        known = self._by_layer[layer.weight]
        for chosen, weights in self._weight_gradients(layer, source, gradient, apply):
            for name, change in known.items():
                self.effects[name][:, chosen] += change.weight.to(weights) @ weights.T
        shifts = by_channel(layer, at_least_single(gradient), self._samples)
        assert shifts is not None
        for name, change in known.items():
            self.effects[name] += change.shift.to(shifts) @ shifts.sum(1).T

    def _weight_gradients(
        self, layer: LayerSpec, source: Tensor, gradient: Tensor, apply: Apply
    ) -> Iterator[tuple[slice, Float[Tensor, "chosen numel"]]]:
        """Yield the weight's gradients for a slice of the samples, and the slice."""
        weight = self._model.get_parameter(layer.weight).detach()
        of_samples = torch.func.vmap(partial(_weight_gradient, apply, weight))
        # Under autocast the input has another precision than the weight.
        sources, gradients = (
            value.to(weight.dtype).unflatten(0, (self._samples, -1)) for value in (source, gradient)
        )
        at_once = max(1, GRADIENT_BYTES // weight.nbytes)
        for start in range(0, self._samples, at_once):
            chosen = slice(start, start + at_once)
            every = of_samples(sources[chosen], gradients[chosen])
            yield chosen, at_least_single(every.flatten(1))


def _weight_gradient(apply: Apply, weight: Tensor, source: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of a layer's weight, given that of its output for one sample."""
    pull_back = torch.func.vjp(lambda w: apply(source, w), weight)[1]
    found: Tensor = pull_back(gradient)[0]
    return found
