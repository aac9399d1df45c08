"""The networks of the coverage table, read from `networks.txt`: built with random weights.

A line is a library and a name, the shape of one sample, and arguments of the network:

    timm:deit_tiny_patch16_224  3x64x64  img_size=64
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

LIST = Path(__file__).parent / "networks.txt"
# Standard deviation of what is added to all parameters: many networks begin with a head of zeros or
# with branches that are scaled by 1e-6, and what is always zero is always equal.
NOISE = 0.02


@dataclass(frozen=True)
class Network:
    """One line of the list.

    Attributes:
        library: "torchvision", "timm" or "transformers".
        name: of the network in that library.
        shape: of one sample.
        arguments: to build it with.
    """

    library: str
    name: str
    shape: tuple[int, ...]
    arguments: Mapping[str, int]

    @property
    def title(self) -> str:
        """What rows call it."""
        return f"{self.library}:{self.name}"

    def build(self, seed: int = 0) -> nn.Module:
        """Return it in evaluation mode, with random weights."""
        torch.manual_seed(seed)
        model = BUILDERS[self.library](self.name, dict(self.arguments)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=NOISE)
        if hasattr(model, "backbone") and hasattr(model, "transform"):
            _measure_statistics(model, self.inputs(2))
        return model

    def inputs(self, batch: int) -> Any:
        """Return random inputs as the network takes them; the same samples at any batch size."""
        images = torch.randn(4, *self.shape, generator=torch.Generator().manual_seed(0))[:batch]
        return {"pixel_values": images} if self.library == "transformers" else images


def _measure_statistics(model: nn.Module, inputs: Any) -> None:
    """Give BN of a detector the statistics of some inputs.

    Without any, the activations of a random network grow to thousands: no box that is found has an
    area, or all have the same score.
    """
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        model(inputs)
    for norm in norms:
        norm.eval()


def _torchvision(name: str, arguments: dict[str, int]) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    builder = models.get_model_builder(name)
    untrained = {"weights", "weights_backbone"} & signature(builder).parameters.keys()
    model: nn.Module = builder(**dict.fromkeys(untrained), **arguments)
    return model


def _timm(name: str, arguments: dict[str, int]) -> nn.Module:
    model: nn.Module = importlib.import_module("timm").create_model(name, **arguments)
    return model


def _transformers(name: str, arguments: dict[str, int]) -> nn.Module:
    kind = getattr(importlib.import_module("transformers"), name)
    model: nn.Module = kind(kind.config_class(**arguments))
    return model


BUILDERS: Mapping[str, Callable[[str, dict[str, int]], nn.Module]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}


def read_list(path: Path = LIST) -> list[Network]:
    """Return the networks of the list, in its order."""
    lines = (line.partition("#")[0].split() for line in path.read_text().splitlines())
    return [_parsed(*words) for words in lines if words]


def _parsed(title: str, shape: str, *arguments: str) -> Network:
    library, _, name = title.partition(":")
    pairs = (argument.split("=") for argument in arguments)
    return Network(
        library, name, tuple(map(int, shape.split("x"))), {key: int(value) for key, value in pairs}
    )
