"""Options that say which network and data are meant, and what may be pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from autoprune.data.sources import usages
from autoprune.options import kinds
from autoprune.options.option import Panel, choices, option

# What a run takes over from another one together (`Option.recalled_with`).
ORIGIN = "origin"

_restriction = partial(option, panel=Panel.RESTRICTIONS)
_network = partial(option, panel=Panel.NETWORK)


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network, and the data that it runs on."""

    model: str | None = _network(
        None,
        kinds.MODEL,
        "torchvision:NAME, timm:NAME, path/to/file.py:factory, package.module:factory, or demo "
        "(the default where no data is given either).",
        is_basic=True,
        recalled_with=ORIGIN,
    )
    weights: str | None = _network(
        None,
        kinds.FILE,
        "Safetensors or a PyTorch state dict; nothing in it is executed.",
        is_basic=True,
        recalled_with=ORIGIN,
    )
    data: str | None = _network(
        None,
        kinds.DATA,
        f"{choices(usages())} (FILES: with commas between), path/to/file.py:factory or "
        "package.module:factory.",
        is_basic=True,
        recalled_with=ORIGIN,
    )
    normalize: str | None = _network(
        None,
        kinds.SPEC,
        "imagenet (default for 3 channels), cifar10, none, or MEAN,…/STD,…",
        recalled_with=ORIGIN,
    )


@dataclass(frozen=True, kw_only=True)
class Photos:
    """How photos and their classes are read."""

    classes: str | None = _network(
        None,
        kinds.FILE,
        "Class names, one per line in the order of the network's outputs: which label a class "
        "folder of imagefolder:DIR has (default: its place among the sorted folders), or a class "
        "of hf:NAME.",
        recalled_with=ORIGIN,
    )
    image_size: int | None = _network(
        None,
        kinds.AMOUNT,
        "Side of the square that photos (imagefolder:DIR, hf:NAME) are cut to, pixels (default: "
        "what the network says of itself, else 224).",
        recalled_with=ORIGIN,
    )


@dataclass(frozen=True, kw_only=True)
class Origin(Photos, Network):
    """Where a network and its data come from, and where it runs."""

    device: str | None = _network(
        None, kinds.NAME, "cpu, cuda, cuda:1, … (default: cuda where there is one)."
    )


@dataclass(frozen=True, kw_only=True)
class InputShape:
    """The shape of random inputs, where there is no data."""

    input_shape: str | None = _network(
        None,
        kinds.SHAPE,
        "Shape of one input (default: 3x224x224, or what the network says itself).",
    )


@dataclass(frozen=True, kw_only=True)
class Restrictions:
    """What of a network stays as it is."""

    decide: tuple[str, ...] = _restriction(
        (kinds.CHANNELS,),
        kinds.DECISION,
        "What is decided: channels (the default); with depth, residual branches may also go as a "
        "whole, with all of their layers; with heads, attention loses heads and the channels of "
        "queries, keys and values.",
        recalled_with="decide",
    )
    exclude: tuple[str, ...] = _restriction(
        (),
        kinds.PATTERNS,
        "Modules that stay as they are, inputs and weights included, e.g. head or 'layer1.*'; "
        "repeatable.",
        recalled_with="excluded",
    )
    exclude_outputs: tuple[str, ...] = _restriction(
        (),
        kinds.PATTERNS,
        "Layers that keep all their outputs, while their inputs may be cut; repeatable.",
        recalled_with="excluded",
    )
    min_keep: Mapping[str, float] = _restriction(
        {},
        kinds.RATIOS,
        "Least share of its channels that a layer keeps (default: 0.1), e.g. 0.2 or "
        "'layer1.*=0.5'; repeatable.",
        recalled_with="min_keep",
    )
