"""What small changes of weights do to the network's output, by its derivatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
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
# Of one layer's gradients, sample by sample, at a time.
GRADIENT_BYTES = 200_000_000


@dataclass(frozen=True, eq=False)
class Change:
    """Changes that are looked at of one layer, one by one.

    Attributes:
        weight: added to its weight, (changes, weight.numel()).
        shift: added to its output everywhere, (changes, out).
    """

    weight: Tensor
    shift: Tensor


def output_changes(
    model: nn.Module,
    structure: Structure,
    changes: Mapping[str, Mapping[str, Change]],
    samples: Samples,
    temperature: float,
    seed: int,
) -> dict[str, Tensor]:
    """Return what changes of weights do to the output, to second order.

    Of class scores z that is the KL of softmax(z / T), times T²: half the mean over samples of the
    squared change of T log p(y), y drawn from the network's own answer, since the KL's curvature is
    the Fisher information (Martens 2020, "New Insights and Perspectives on the Natural Gradient
    Method", section 9.2). Of any other output, half its squared change by its own variance. What
    several layers, and a layer at several positions, do to a sample's output adds up before it is
    squared.

    Args:
        model: the dense network in evaluation mode.
        structure: of it.
        changes: by a name that those belong together under, by the layer's weight.
        samples: to look at.
        temperature: T.
        seed: of what is drawn.

    Returns:
        (changes,) by name, float64; nothing of names of which a layer is not laid out by samples.

    Raises:
        ModelError: the network has no derivatives.
    """
    draw = _Draw(temperature, torch.Generator().manual_seed(seed))
    size = batch_within(structure, BATCH, ACTIVATION_BYTES)
    # Nearly equal batches: a single sample left over would say nothing about the output's spread.
    size = -(-len(samples) // -(-len(samples) // size))
    taps = [_ChangeTap(model, structure, changes, len(batch)) for batch in samples.batches(size)]
    with fixed_parameters(model), torch.enable_grad(), plain_arithmetic():
        for tap, batch in zip(taps, samples.batches(size), strict=True):
            with user_code(_stuck):
                with tap:
                    output = run(model, batch.inputs)
                draw.function(output).backward()
    return {
        name: torch.cat([tap.effects[name] for tap in taps], 1).square().mean(1) / 2
        for name, own in changes.items()
        if all(own.keys() <= tap.seen for tap in taps)
    }


def _stuck(reason: str) -> ModelError:
    return ModelError(f"the network's derivatives cannot be taken: {reason}")


class _Draw:
    """Random functions of outputs whose squared changes are what the output loses."""

    def __init__(self, temperature: float, generator: torch.Generator) -> None:
        self._temperature = temperature
        self._generator = generator
        self._spreads: dict[str, Tensor] = {}  # those of the first batch hold for all

    def function(self, output: Any) -> Tensor:
        """Return the sum over samples of a function drawn for each."""
        scores = class_scores(output)
        if isinstance(scores, Tensor) and scores.dim() == 2 and scores.shape[1] > 1:
            return self._surprise(at_least_single(scores) / self._temperature)
        total = torch.zeros(())
        for place, value in outputs_of(output).items():
            if value.requires_grad:
                wide = at_least_single(value)
                spread = self._spreads.setdefault(place, wide.detach().std(correction=0))
                noise = torch.randn(wide.shape, generator=self._generator).to(wide)
                if spread > 0:
                    total = total.to(wide.device) + (wide * noise).sum() / spread
        return total

    def _surprise(self, scores: Tensor) -> Tensor:
        shares = scores.detach().softmax(1).cpu()
        drawn = torch.multinomial(shares, 1, generator=self._generator)[:, 0]
        return self._temperature * F.cross_entropy(scores, drawn.to(scores.device), reduction="sum")


class _ChangeTap(LayerMode):
    """Adds up what every change does to every sample, in the backward pass.

    Attributes:
        effects: (changes, samples) by name.
        seen: weights of layers whose inputs are laid out by samples.
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
        """Let gradients begin here if nothing before it has any."""
        return source if source.requires_grad else source.detach().requires_grad_()

    def passed(self, layer: LayerSpec, source: Tensor, out: Tensor, apply: Apply) -> Tensor:
        """Look at the gradient of the layer's output when it comes."""
        known = self._by_layer.get(layer.weight)
        told_apart = is_laid_out(layer, source) and not len(source) % self._samples
        if known is None or not told_apart or not out.requires_grad:
            return out
        self.seen.add(layer.weight)
        # Copies: what the layer has read may be worked on in place; so may what it gives, and a
        # view that is changed forgets its hooks.
        out = out.clone() if out._is_view() else out
        read = source.detach().clone()

        def record(gradient: Tensor) -> None:
            for chosen, weights in self._weight_gradients(layer, read, gradient, apply):
                for name, change in known.items():
                    self.effects[name][:, chosen] += change.weight.to(weights) @ weights.T
            shifts = by_channel(layer, at_least_single(gradient), self._samples)
            assert shifts is not None
            for name, change in known.items():
                self.effects[name] += change.shift.to(shifts) @ shifts.sum(1).T

        out.register_hook(record)
        return out

    def _weight_gradients(
        self, layer: LayerSpec, source: Tensor, gradient: Tensor, apply: Apply
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield the gradients of the weight of some samples, (some, weight.numel()), and which."""
        weight = self._model.get_parameter(layer.weight).detach()

        def of_sample(x: Tensor, change: Tensor) -> Tensor:
            pull_back = torch.func.vjp(lambda w: apply(x, w), weight)[1]
            found: Tensor = pull_back(change)[0]
            return found

        # Under autocast the layer has read another precision than that of its weight.
        sources, gradients = (
            value.to(weight.dtype).unflatten(0, (self._samples, -1)) for value in (source, gradient)
        )
        at_once = max(1, GRADIENT_BYTES // weight.nbytes)
        for start in range(0, self._samples, at_once):
            chosen = slice(start, start + at_once)
            every = torch.func.vmap(of_sample)(sources[chosen], gradients[chosen])
            yield chosen, at_least_single(every.flatten(1))
