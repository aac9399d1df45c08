"""ResRep: learns to forget in identity layers behind the original ones, and merges them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autoprune.agents.config import Amount, Count, Share
from autoprune.errors import UsageError
from autoprune.methods.base import Goal, Scores, TrainingMethod
from autoprune.methods.units import (
    SMALLEST_NORM,
    Hooked,
    all_largest,
    channel_dim,
    output_module,
    ranked,
)
from autoprune.structure.groups import ChannelGroup, LayerSpec, Structure
from autoprune.training.hooks import Moment


@dataclass(frozen=True)
class ResRepConfig:
    """How rows are forgotten.

    Attributes:
        sparsity: λ, the weight of the group lasso on rows.
        momentum: of the compactors.
        begin: fraction of the run before the first row is chosen.
        full: fraction of the run at which as many are chosen as the budget asks for.
        picks: how often rows are chosen between the two.
    """

    sparsity: Amount = 1e-4
    momentum: Share = 0.99
    begin: Share = 0.01
    full: Share = 0.5
    picks: Count = 50


class ResRep(TrainingMethod):
    """ResRep: lossless CNN pruning via decoupling remembering and forgetting (Ding et al. 2021).

    Behind every layer that makes a group's channels (and its BN) stands a compactor, a square
    matrix Q that begins as the identity; the layers of one group share it. The network itself takes
    the gradients of the task alone. Rows of Q take m ∂L/∂Q + λ Q/‖Q‖ (equation 8), where m is 0 for
    the rows that are chosen to be forgotten: those of least norm of all groups, more and more of
    them up to what the budget asks for. In the end Q is merged into the layers. Rows of zero go
    without loss, but in front of a depthwise layer with a BN, whose shift of these channels stays:
    the cut moves what it adds into the next biases.

    λ = 1e-4, momentum .99 and the first choice after 5 of 480 epochs are the authors' on CIFAR-10;
    there 4 more rows are chosen every 200 steps, where here the choice follows the fraction of the
    run. A row takes about 10,000 steps at a learning rate of .01 to vanish: short runs need a
    larger λ. Costs a 1×1 convolution behind every layer. Groups whose layers cannot have one
    (grouped convolutions, weights that are frozen), or whose channels are combined otherwise than
    by layers (LayerNorm, attention), are cut last.
    """

    name: ClassVar[str] = "resrep"
    config = ResRepConfig()

    def check(self, goal: Goal) -> None:
        """Refuse a schedule that ends before it begins."""
        if self.config.full < self.config.begin:
            raise UsageError(
                f"the method 'resrep' chooses rows from begin={self.config.begin:g} to "
                f"full={self.config.full:g} of the run: full must not be smaller."
            )

    def start(self, network: nn.Module) -> None:
        """Set all compactors to the identity."""
        like = next(network.parameters())
        self._compactors: dict[str, Float[Tensor, "_units _units"]] = {}
        self._forgotten: dict[str, Bool[Tensor, " _units"]] = {}
        for group in self.goal.structure.groups:
            if compactable(group, self.goal.structure, network):
                eye = torch.eye(group.size, device=like.device, dtype=like.dtype)
                self._compactors[group.name] = eye.requires_grad_()
                self._forgotten[group.name] = torch.zeros(group.size, dtype=torch.bool)
        self._velocity = {name: torch.zeros_like(one) for name, one in self._compactors.items()}
        self._picked = 0

    def called(self, network: nn.Module) -> nn.Module:
        """Return the network with compactors."""
        return Hooked(network, lambda: self._attached(network))

    def _attached(self, network: nn.Module) -> Iterator[RemovableHandle]:
        for group in self.goal.structure.groups:
            for layer in _layers(group, self.goal.structure):
                if group.name in self._compactors:
                    hook = partial(_compact, channel_dim(layer), self._compactors[group.name])
                    module = network.get_submodule(output_module(layer))
                    yield module.register_forward_hook(hook)

    def after_step(self, network: nn.Module, now: Moment) -> None:
        """Choose rows if it is time, and take a step of the compactors."""
        begin, span = self.config.begin, self.config.full - self.config.begin
        share = min((now.completed - begin) / span, 1.0) if span else float(now.completed >= begin)
        if (pick := int(share * self.config.picks)) > self._picked:
            self._picked = pick
            self._choose(network, pick / self.config.picks)
        for name, compactor in self._compactors.items():
            if compactor.grad is not None:
                remembered = (~self._forgotten[name]).to(compactor)[:, None]
                gradient = row_gradient(compactor, remembered, self.config.sparsity)
                self._velocity[name].mul_(self.config.momentum).add_(gradient)
                compactor.sub_(self._velocity[name], alpha=now.rate)
                compactor.grad = None

    def _choose(self, network: nn.Module, share: float) -> None:
        """Choose a share of the rows that the budget removes, those of least norm."""
        assert self.goal.below_threshold is not None  # the method needs a budget
        norms = self.scores(network)
        widths = self.goal.below_threshold(norms)
        gone = [~kept for kept in all_largest(norms, widths)]
        chosen = torch.cat([own[out] for own, out in zip(norms, gone, strict=True)])
        if not len(chosen):
            return
        limit = chosen.sort().values[max(0, round(share * len(chosen)) - 1)]
        for group, own, out in zip(self.goal.structure.groups, norms, gone, strict=True):
            if group.name in self._forgotten:
                self._forgotten[group.name] = out & (own <= limit)

    def finish(self, network: nn.Module) -> nn.Module:
        """Merge the compactors into the layers and their BNs."""
        with torch.no_grad():
            for group in self.goal.structure.groups:
                for layer in _layers(group, self.goal.structure):
                    if group.name in self._compactors:
                        merge_compactor(network, layer, self._compactors[group.name].detach())
        return network

    def scores(self, network: nn.Module) -> Scores:
        """Return the norms of rows; groups without a compactor go last, by norms of filters."""
        learnt = {
            name: one.detach().double().norm(dim=1).cpu() for name, one in self._compactors.items()
        }
        return ranked(learnt, self.goal.structure, network)

    def state(self) -> dict[str, Any]:
        """Return compactors, their velocities, and which rows are forgotten."""
        own = {name: one.detach().clone() for name, one in self._compactors.items()}
        return {
            "compactors": own,
            "velocity": self._velocity,
            "forgotten": self._forgotten,
            "picked": self._picked,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        with torch.no_grad():
            for name, one in self._compactors.items():
                one.copy_(state["compactors"][name])
                self._velocity[name].copy_(state["velocity"][name])
        self._forgotten, self._picked = dict(state["forgotten"]), int(state["picked"])


def _compact(dim: int, matrix: Tensor, module: nn.Module, given: Any, output: Tensor) -> Tensor:
    mixed = output.movedim(dim, -1) @ matrix.to(output).T
    return mixed.movedim(-1, dim)


def row_gradient(
    compactor: Float[Tensor, "rows columns"],
    remembered: Float[Tensor, "rows 1"],
    sparsity: float,
) -> Float[Tensor, "rows columns"]:
    """Return m ∂L/∂Q + λ Q/‖Q‖ of every row (equation 8)."""
    assert compactor.grad is not None
    norms = compactor.norm(dim=1, keepdim=True).clamp_min(SMALLEST_NORM)
    gradient: Tensor = remembered * compactor.grad + sparsity * compactor / norms
    return gradient


def merge_compactor(
    network: nn.Module, layer: LayerSpec, matrix: Float[Tensor, "rows columns"]
) -> None:
    """Multiply a layer's outputs by a matrix, in place; with its BN, as that evaluates.

    The BN gets the running mean of the new outputs, and their variance as if channels were
    uncorrelated, whose square root is its scale: evaluated, the variance cancels out.
    """
    before = matrix
    if layer.batchnorm is not None:
        norm: Any = network.get_submodule(layer.batchnorm)
        ratio = norm.weight / (norm.running_var + norm.eps).sqrt()
        before = matrix * ratio
        variance = before.square() @ norm.running_var
        norm.running_mean.copy_(before @ norm.running_mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(matrix @ norm.bias)
    weight = network.get_parameter(layer.weight)
    lines = weight.movedim(layer.out_dim, 0)
    weight.copy_((before @ lines.flatten(1)).view(lines.shape).movedim(0, layer.out_dim))
    if layer.bias is not None:
        bias = network.get_parameter(layer.bias)
        bias.copy_(before @ bias)


def compactable(group: ChannelGroup, structure: Structure, network: nn.Module) -> bool:
    """Say whether every layer that makes a group's channels can be followed by a compactor.

    It must be a module that makes these channels and no others, one for each unit, from all of its
    inputs, and whatever the merged matrix changes must be free to change. No operator without
    weights may combine the channels: it would not see a row of zero as a channel that is not there.
    """
    layers = structure.layer_of_weight
    parts = [part for part in group.slices if part.role == "producer"]
    return (
        bool(parts)
        and not group.mixed
        and all(
            part.tensor in layers
            and _is_free(layers[part.tensor], network)
            and part.dim == layers[part.tensor].out_dim
            and part.positions.shape == (structure.shapes[part.tensor][part.dim], 1)
            and (part.positions[:, 0] == range(group.size)).all()
            for part in parts
        )
    )


def _is_free(layer: LayerSpec, network: nn.Module) -> bool:
    names = [layer.weight, *([layer.bias] if layer.bias else [])]
    if layer.batchnorm is not None:
        norm: Any = network.get_submodule(layer.batchnorm)
        if norm.weight is None or norm.running_var is None or not norm.training:
            return False
        names += [f"{layer.batchnorm}.weight", f"{layer.batchnorm}.bias"]
    is_dense = layer.is_module and layer.takes_bias and layer.groups == 1
    return is_dense and all(network.get_parameter(name).requires_grad for name in names)


def _layers(group: ChannelGroup, structure: Structure) -> Iterator[LayerSpec]:
    for name in group.producers:
        if name in structure.layer_of_weight:
            yield structure.layer_of_weight[name]
