"""What small changes of weights do to the network's output, by its derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.errors import ModelError, user_code
from autoprune.precision import at_least_single
from autoprune.statistics.consumers import Apply, LayerMode, batch_within, by_channel
from autoprune.statistics.gradients import ACTIVATION_BYTES, fixed_parameters
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import class_scores, outputs_of, run
from autoprune.structure.operators import plain_arithmetic

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
        (changes,) by name, float64.

    Raises:
        ModelError: the network has no derivatives.
    """
    generator = torch.Generator().manual_seed(seed)
    batch_size = batch_within(structure, BATCH, ACTIVATION_BYTES)
    parts: list[dict[str, Tensor]] = []
    with fixed_parameters(model), torch.enable_grad(), plain_arithmetic(), user_code(_stuck):
        for batch in samples.batches(batch_size):
            tap = _ChangeTap(model, structure, changes, len(batch))
            with tap:
                output = run(model, batch.inputs)
            _drawn(output, temperature, generator).backward()
            parts.append(tap.effects)
    return {
        name: torch.cat([part[name] for part in parts], 1).square().mean(1) / 2
        for name in (parts[0] if parts else {})
    }


def _stuck(reason: str) -> ModelError:
    return ModelError(f"the network has no derivatives: {reason}")


def _drawn(output: Any, temperature: float, generator: torch.Generator) -> Tensor:
    """Return a random function of the output whose squared change is what it loses."""
    scores = class_scores(output)
    if isinstance(scores, Tensor) and scores.dim() == 2 and scores.shape[1] > 1:
        scaled = at_least_single(scores) / temperature
        shares = scaled.detach().softmax(1).cpu()
        drawn = torch.multinomial(shares, 1, generator=generator)[:, 0].to(scaled.device)
        return temperature * F.cross_entropy(scaled, drawn, reduction="sum")
    values = [at_least_single(v) for v in outputs_of(output).values() if v.requires_grad]
    noises = [torch.randn(v.shape, generator=generator).to(v) for v in values]
    spreads = [v.detach().std(correction=0).clamp_min(1e-12) for v in values]
    pairs = zip(values, noises, spreads, strict=True)
    return torch.stack([(v * noise).sum() / spread for v, noise, spread in pairs]).sum()


class _ChangeTap(LayerMode):
    """Adds up what every change does to every sample, in the backward pass.

    Attributes:
        effects: (changes, samples) by name.
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
        if known is None or len(source) % self._samples or not out.requires_grad:
            return out
        # Copies: what the layer has read may be worked on in place; so may what it gives, and a
        # view that is changed forgets its hooks.
        out = out.clone() if out._is_view() else out
        read = source.detach().clone()

        def record(gradient: Tensor) -> None:
            weights = self._weight_gradients(layer, read, gradient, apply)
            shifts = by_channel(layer, gradient, self._samples)
            assert shifts is not None
            for name, change in known.items():
                found = change.weight @ weights.T + change.shift @ shifts.sum(1).to(weights).T
                self.effects[name] += found

        out.register_hook(record)
        return out

    def _weight_gradients(
        self, layer: LayerSpec, source: Tensor, gradient: Tensor, apply: Apply
    ) -> Tensor:
        """Return the gradient of the weight sample by sample, (samples, weight.numel())."""
        weight = self._model.get_parameter(layer.weight).detach()

        def of_sample(x: Tensor, change: Tensor) -> Tensor:
            pull_back = torch.func.vjp(lambda w: apply(x, w), weight)[1]
            found: Tensor = pull_back(change)[0]
            return found

        at_once = max(1, GRADIENT_BYTES // (4 * weight.numel()))
        every = torch.func.vmap(of_sample, chunk_size=at_once)
        parts = (value.unflatten(0, (self._samples, -1)) for value in (source, gradient))
        return at_least_single(every(*parts).flatten(1))
