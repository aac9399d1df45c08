"""AutoPruner: small layers learn, from what channels answer, which of them are let through."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autoprune.agents.config import Amount, Count, Positive, Share
from autoprune.core.slices import Slice
from autoprune.methods.base import Scores
from autoprune.methods.gates import GatedMethod
from autoprune.methods.own_layers import OwnLayers
from autoprune.methods.units import Hooked, all_largest, channel_dim, favoured, ranked
from autoprune.structure.groups import ChannelGroup, LayerSpec, Structure
from autoprune.training.features import apart
from autoprune.training.hooks import Moment


@dataclass(frozen=True)
class AutoPrunerConfig:
    """How gates become binary.

    Attributes:
        strength: λ, the weight of the squared distance from the share of channels that stays.
        first: α of the first step.
        last: α at the end of the ramp.
        ramp: fraction of the run in which α rises, in even steps.
        cells: squares along one side of the pooled maps.
    """

    strength: Amount = 10.0
    first: Positive = 0.1
    last: Positive = 100.0
    ramp: Share = 0.8
    cells: Count = 7


class AutoPruner(GatedMethod):
    """AutoPruner: an end-to-end trainable filter pruning method (Luo and Wu 2018).

    The channels' activations, averaged over the batch and max-pooled, go through a fully connected
    layer to one value x for each channel. The gates v = sigmoid(α x) multiply the channels. Loss +
    λ (‖v‖₁ / C − r)², where r is the share of the C channels that stays. α grows, which makes the
    gates binary. Afterwards the channels with the largest gates stay, and gates are folded.

    λ = 10, α from 0.1 to 100 and the first weights of the fully connected layers (normal, with
    variance 2/n for n inputs) are the authors' for MobileNetV2 (their repository), where α rises
    over 5 epochs of ImageNet; here it follows the fraction of the run, and short ones need a
    smaller last α, or the first weights decide. For ResNet-50 they begin with α = 1 and weigh by
    100 |r_b − r|, r_b being the share that is open now. Their 2×2 pooling of maps of 14×14 is one
    onto 7×7 here, whatever the maps' size. They take one layer or block after the other, here all
    are shaped at once. Where fewer than nine tenths of the gates are outside (.1, .9) in the end,
    they let α rise on; here the ramp alone says how large it gets.

    A group of C channels has a layer of C² cells² weights, of which training holds five copies (the
    gradient, the momentum, and weights and momentum of the last validation) and a checkpoint four:
    257 and 206 MB for 512 channels, 4.1 and 3.3 GB for a stream of 2,048. Fewer cells take that
    down: cells=2 to a twelfth. Beside that, costs one product with these weights in a step. Groups
    that are read by anything but convolutions and linear layers are only ranked by norm.
    """

    name: ClassVar[str] = "autopruner"
    config = AutoPrunerConfig()

    def start(self, network: nn.Module) -> None:
        """Make the layers; until the first step all gates are one."""
        super().start(network)
        structure = self.goal.structure
        self._readers = {
            group.name: read
            for group in structure.groups
            if group.name in self.gates and (read := _readers(group, structure)) is not None
        }
        self.gates = {name: self.gates[name] for name in self._readers}
        like = next(network.parameters())
        generator = torch.Generator().manual_seed(self.goal.seed)
        cells = self.config.cells**2
        self._layers = OwnLayers(
            {
                name: _fully_connected(len(gate) * cells, len(gate), generator).to(like)
                for name, gate in self.gates.items()
            }
        )
        self._values = {name: gate.detach() for name, gate in self.gates.items()}
        self._sharpness = self.config.first
        self._open: dict[str, Tensor] = {}

    def called(self, network: nn.Module) -> nn.Module:
        """Return the network that multiplies channels by gates, in training by those it makes."""
        return Hooked(network, lambda: self._attached(network))

    def _attached(self, network: nn.Module) -> Iterator[RemovableHandle]:
        # Evaluated, the network has the gates of the last step.
        self._open = {} if network.training else dict(self.gates)
        for name, readers in self._readers.items():
            for layer, part in readers:
                hook = partial(self._gated, name, channel_dim(layer), part)
                module = network.get_submodule(layer.name)
                yield module.register_forward_pre_hook(hook, with_kwargs=True)

    def _gated(
        self, group: str, dim: int, part: Slice, module: nn.Module, args: Any, kwargs: Any
    ) -> tuple[Any, Any]:
        """Multiply the inputs of a layer; the first that is called for a group makes the gates."""
        given = args[0] if args else kwargs["input"]
        positions = torch.from_numpy(part.positions).to(given.device)
        lines = given.movedim(dim, 0)
        if group not in self._open:
            self._open[group] = self._made(group, lines[positions])
        spread = torch.ones(len(lines), dtype=given.dtype, device=given.device).index_put(
            (positions.reshape(-1),),
            self._open[group].to(given)[:, None].expand(positions.shape).reshape(-1),
        )
        gated = (lines * spread.view(-1, *[1] * (lines.dim() - 1))).movedim(0, dim)
        return ((gated, *args[1:]), kwargs) if args else (args, {**kwargs, "input": gated})

    @apart()
    def _made(self, group: str, channels: Float[Tensor, "units entries *rest"]) -> Tensor:
        values = self._layers[group](pooled(channels, self.config.cells).reshape(1, -1))[0]
        self._values[group] = values.detach()
        return torch.sigmoid(self._sharpness * values)

    def loss(self, network: nn.Module) -> Float[Tensor, ""] | None:
        """Return λ (‖v‖₁ / C − r)² of all groups, by the gates of the last call."""
        shares = {
            group.name: width / group.size
            for group, width in zip(self.goal.structure.groups, self.widths, strict=True)
        }
        parts = [(gate.mean() - shares[name]).square() for name, gate in self._open.items()]
        return self.config.strength * torch.stack(parts).sum() if parts else None

    def after_step(self, network: nn.Module, now: Moment) -> None:
        """Keep the gates, take a step of the layers, and sharpen."""
        self.gates |= {name: gate.detach() for name, gate in self._open.items()}
        self._layers.step(now.rate)
        ramp = min(now.completed / self.config.ramp, 1.0) if self.config.ramp else 1.0
        self._sharpness = self.config.first + ramp * (self.config.last - self.config.first)

    def scores(self, network: nn.Module) -> Scores:
        """Return what gates are made of, the largest of every group first; else norms."""
        learnt = {name: value.double().cpu().sigmoid() for name, value in self._values.items()}
        scores = ranked(learnt, self.goal.structure, network)
        return favoured(all_largest(scores, self.widths), scores)

    def state(self) -> dict[str, Any]:
        """Return gates and layers."""
        own = {"layers": self._layers.state(), "values": dict(self._values)}
        return {**super().state(), **own, "sharpness": self._sharpness}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        super().load_state(state)
        self._layers.load_state(state["layers"])
        self._values, self._sharpness = dict(state["values"]), float(state["sharpness"])


def pooled(
    channels: Float[Tensor, "units entries *rest"], cells: int
) -> Float[Tensor, "units values"]:
    """Return activations, averaged over the samples and max-pooled to cells × cells values.

    Args:
        channels: of every unit, for samples in the third dimension, and pixels or tokens.
        cells: along one side; what are no maps is pooled along its positions.
    """
    mean = channels.mean(2)  # (units, entries, …)
    if mean.dim() == 4:
        return F.adaptive_max_pool2d(mean.amax(1), cells).flatten(1)
    return F.adaptive_max_pool1d(mean.flatten(1), cells**2)


def _fully_connected(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.normal_(0, math.sqrt(2 / inputs), generator=generator)
        layer.bias.zero_()
    return layer


def _readers(group: ChannelGroup, structure: Structure) -> list[tuple[LayerSpec, Slice]] | None:
    """Return the layers that read a group, which must be modules that take channels one by one."""
    layers = structure.layer_of_weight
    found = [(layers.get(part.tensor), part) for part in group.consumers]
    fits = all(
        layer is not None
        and layer.is_module
        and layer.takes_bias
        and layer.groups == 1
        and part.dim == layer.in_dim
        for layer, part in found
    )
    return [(layer, part) for layer, part in found if layer is not None] if fits else None
