"""Entries of a network's tensors by the units that they belong to, and calls that change them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from autoprune.core.slices import Slice
from autoprune.structure.groups import ChannelGroup, LayerSpec, Structure

# Scores of groups of which nothing is learnt begin here, above all that is learnt.
LAST = 1e6
# By how much a score is larger, relative to itself, for norms of filters: among equal ones alone.
TIE = 1e-9
# Smallest norm that is divided by.
SMALLEST_NORM = 1e-12


def entries(tensor: Tensor, part: Slice) -> Float[Tensor, "units entries"]:
    """Return a copy of the entries of every unit, through which gradients flow."""
    positions = torch.from_numpy(part.positions).to(tensor.device)
    return tensor.movedim(part.dim, 0)[positions].flatten(1)


def along(
    values: Float[Tensor, " units"] | Bool[Tensor, " units"],
    part: Slice,
    tensor: Tensor,
    rest: float = 1.0,
) -> Tensor:
    """Return units' values along the dimension that a slice cuts, to be multiplied with a tensor.

    Args:
        values: by unit.
        part: the slice.
        tensor: of the slice.
        rest: of entries that belong to no unit.
    """
    size = tensor.shape[part.dim]
    positions = torch.from_numpy(part.positions).to(tensor.device)
    spread = values.to(tensor)[:, None].expand(positions.shape).reshape(-1)
    line = torch.full((size,), rest, dtype=tensor.dtype, device=tensor.device)
    line = line.index_put((positions.reshape(-1),), spread)
    return line.reshape([size if dim == part.dim else 1 for dim in range(tensor.dim())])


def producers(group: ChannelGroup, network: nn.Module) -> Iterator[tuple[Slice, nn.Parameter]]:
    """Yield the weights that make a group's channels and may change, with their slices."""
    for part in group.slices:
        if part.role == "producer":
            weight = network.get_parameter(part.tensor)
            if weight.requires_grad:
                yield part, weight


def readers(group: ChannelGroup, network: nn.Module) -> Iterator[tuple[Slice, nn.Parameter]]:
    """Yield the weights that read a group's channels and may change, with their slices."""
    for part in group.consumers:
        weight = network.get_parameter(part.tensor)
        if weight.requires_grad:
            yield part, weight


def scales(group: ChannelGroup, network: nn.Module) -> Iterator[tuple[Slice, nn.Parameter]]:
    """Yield the scales of the BNs that a group's channels pass and that may change."""
    for part in batchnorm_scales(group, network):
        scale = network.get_parameter(part.tensor)
        if scale.requires_grad:
            yield part, scale


def batchnorm_scales(group: ChannelGroup, network: nn.Module) -> Iterator[Slice]:
    """Yield the slices of the scales of the BNs that a group's channels pass."""
    for part in group.slices:
        path, _, leaf = part.tensor.rpartition(".")
        if leaf == "weight" and isinstance(network.get_submodule(path), _BatchNorm):
            yield part


def filter_norms(
    group: ChannelGroup, network: nn.Module, order: int = 2
) -> Float64[Tensor, " {group.size}"]:
    """Return the norm of all weights that make each unit.

    Args:
        group: the group.
        network: with the weights.
        order: 2 for the Euclidean norm, 1 for the sum of absolute values.
    """
    makers = (part for part in group.slices if part.role == "producer")
    weights = ((part, network.get_parameter(part.tensor).detach()) for part in makers)
    return unit_norms(weights, group.size, order)


def unit_norms(
    tensors: Iterable[tuple[Slice, Tensor]], size: int, order: int = 2
) -> Float64[Tensor, " {size}"]:
    """Return the norm of each unit's entries in some tensors, by their slices."""
    total = torch.zeros(size, dtype=torch.float64)
    for part, tensor in tensors:
        total += entries(tensor, part).double().abs().pow(order).sum(1).cpu()
    return total.pow(1 / order)


def all_norms(
    structure: Structure, network: nn.Module, order: int = 2
) -> list[Float64[Tensor, " _units"]]:
    """Return the norms of all groups (`filter_norms`)."""
    return [filter_norms(group, network, order) for group in structure.groups]


def ranked(
    learnt: Mapping[str, Float64[Tensor, " _units"]], structure: Structure, network: nn.Module
) -> list[Float64[Tensor, " _units"]]:
    """Return what was learnt of every unit; among equals the norms of filters decide.

    Where nothing was learnt all are equal. Norms count relative to the largest of a group, so that
    no layer dominates. Zeros stay zeros.

    Args:
        learnt: by group, 0 or more; groups that are not there are cut last, by norms of filters.
        structure: with the groups.
        network: with the filters.
    """
    return [
        learnt[group.name] * (1 + TIE * norms / norms.max().clamp_min(SMALLEST_NORM))
        if group.name in learnt
        else LAST + norms
        for group, norms in zip(structure.groups, all_norms(structure, network), strict=True)
    ]


def keep_units(group: ChannelGroup, network: nn.Module, kept: Bool[Tensor, " units"]) -> None:
    """Set the filters of the other units to zero, in place."""
    for part, weight in producers(group, network):
        weight.mul_(along(kept, part, weight))


def keep_largest(
    structure: Structure, network: nn.Module, widths: Sequence[int]
) -> list[Bool[Tensor, " _units"]]:
    """Set the filters of least Euclidean norm of every group to zero; return which units stay."""
    kept = all_largest(all_norms(structure, network), widths)
    for group, own in zip(structure.groups, kept, strict=True):
        keep_units(group, network, own)
    return kept


def largest(values: Float[Tensor, " units"], count: int) -> Bool[Tensor, " units"]:
    """Return which units have the largest values; of equal ones the first."""
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[values.cpu().argsort(descending=True, stable=True)[:count]] = True
    return chosen


def all_largest(
    values: Sequence[Float[Tensor, " _units"]], widths: Sequence[int]
) -> list[Bool[Tensor, " _units"]]:
    """Return which units of every group have the largest values, as many as its width."""
    return [largest(own, width) for own, width in zip(values, widths, strict=True)]


def favoured(
    kept: Sequence[Bool[Tensor, " _units"]], values: Sequence[Float64[Tensor, " _units"]]
) -> list[Float64[Tensor, " _units"]]:
    """Return scores from 0 to 2 by which the kept units stay first, and larger values among equals.

    Every kept unit of any group ranks before every other one.

    Args:
        kept: the units of every group that a method has chosen.
        values: 0 or more.
    """
    pairs = zip(kept, values, strict=True)
    return [own / (1 + own.max()) + units.double() for units, own in pairs]


class Reweighted(nn.Module):
    """A network that runs with other weights than its own, through which gradients flow."""

    def __init__(
        self, network: nn.Module, weights: Callable[[nn.Module], Mapping[str, Tensor]]
    ) -> None:
        """Take the network, and what returns the weights by name."""
        super().__init__()
        self.network, self._weights = network, weights

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        return functional_call(self.network, dict(self._weights(self.network)), args, kwargs)


class Hooked(nn.Module):
    """A network whose modules have hooks while it is called from here."""

    def __init__(self, network: nn.Module, attach: Callable[[], Iterable[RemovableHandle]]) -> None:
        """Take the network, and what attaches the hooks of one call."""
        super().__init__()
        self.network, self._attach = network, attach

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        handles: list[RemovableHandle] = []
        try:
            handles.extend(self._attach())
            return self.network(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()


def channel_dim(layer: LayerSpec) -> int:
    """Return the dimension of a layer's inputs and outputs that holds their channels."""
    return 1 if layer.kernel_size else -1


def output_module(layer: LayerSpec) -> str:
    """Return the path of the module that puts a layer's channels out: its BN, or itself."""
    return layer.name if layer.batchnorm is None else layer.batchnorm
