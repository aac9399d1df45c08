"""Layers of a method's own, which learn beside the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autoprune.training.optimizers import MOMENTUM, set_rate


class OwnLayers:
    """Layers by name that are no part of the network, trained by SGD with momentum.

    They take gradients in the network's backward pass, and no weight decay.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        """Take the layers, on their device."""
        self._layers = dict(layers)
        parameters = [one for layer in self._layers.values() for one in layer.parameters()]
        self._optimizer = torch.optim.SGD([{"params": parameters}], lr=0.0, momentum=MOMENTUM)

    def __getitem__(self, name: str) -> nn.Module:
        return self._layers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._layers

    def step(self, rate: float) -> None:
        """Change the layers by their gradients, which are used up."""
        set_rate(self._optimizer, rate)
        self._optimizer.step()
        self.forget()

    def forget(self) -> None:
        """Drop the gradients."""
        self._optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values from which training goes on exactly."""
        layers = {name: layer.state_dict() for name, layer in self._layers.items()}
        return {"layers": layers, "optimizer": self._optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        for name, layer in self._layers.items():
            layer.load_state_dict(state["layers"][name])
        self._optimizer.load_state_dict(state["optimizer"])
