"""Weights that are zero stay zero while the others train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from autoprune.training.hooks import Hooks, Moment

ZeroMasks: TypeAlias = dict[str, Bool[Tensor, " ..."]]
"""By parameter: true where a weight is not zero."""


def zero_masks(network: nn.Module, names: Iterable[str]) -> ZeroMasks:
    """Return the masks of some parameters."""
    return {name: network.get_parameter(name).detach() != 0 for name in names}


def keep_zeros(network: nn.Module, masks: Mapping[str, Bool[Tensor, " ..."]]) -> None:
    """Set to zero again what was."""
    for name, mask in masks.items():
        network.get_parameter(name).mul_(mask.to(network.get_parameter(name).device))


class KeptZeros(Hooks):
    """Keeps the zeros that some weights of a network have."""

    def __init__(self, network: nn.Module, names: Iterable[str]) -> None:
        """Take the zeros of a network's parameters with these names."""
        self._masks = zero_masks(network, names)

    def start(self, network: nn.Module) -> None:
        """New weights get the zeros, too."""
        with torch.no_grad():
            keep_zeros(network, self._masks)

    def after_step(self, network: nn.Module, now: Moment) -> None:
        """Undo what the optimizer made of zeros."""
        keep_zeros(network, self._masks)
