"""Options that say which network and data are meant, and what may be pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoprune.options.kinds import DATA, MODEL, PATH, PATTERNS, RATIOS, TEXT
from autoprune.options.option import Panel, option

# What a run takes over from another one together (`Option.recalled_with`).
ORIGIN = "origin"


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network, and the data that it runs on."""

    model: str | None = option(
        None,
        MODEL,
        "torchvision:NAME, timm:NAME, path/to/file.py:factory, package.module:factory, or demo "
        "(the default where no data is given either).",
        "SPEC",
        panel=Panel.NETWORK,
        is_basic=True,
        recalled_with=ORIGIN,
    )
    weights: str | None = option(
        None,
        PATH,
        "Safetensors or a PyTorch state dict; nothing in it is executed.",
        "FILE",
        panel=Panel.NETWORK,
        is_basic=True,
        recalled_with=ORIGIN,
    )
    data: str | None = option(
        None,
        DATA,
        "digits, cifar10:DIR, imagefolder:DIR, npz:FILE[,FILE…][;val=FILE][;test=FILE], "
        "path/to/file.py:factory or package.module:factory.",
        "SPEC",
        panel=Panel.NETWORK,
        is_basic=True,
        recalled_with=ORIGIN,
    )
    normalize: str | None = option(
        None,
        TEXT,
        "imagenet (default for 3 channels), cifar10, none, or MEAN,…/STD,…",
        "SPEC",
        panel=Panel.NETWORK,
        recalled_with=ORIGIN,
    )


@dataclass(frozen=True, kw_only=True)
class Origin(Network):
    """Where a network and its data come from, and where it runs."""

    classes: str | None = option(
        None,
        PATH,
        "Class names, one per line in the order of the network's outputs: which label a class "
        "folder of imagefolder:DIR has (default: its place among the sorted folders).",
        "FILE",
        panel=Panel.NETWORK,
        recalled_with=ORIGIN,
    )
    device: str | None = option(
        None,
        TEXT,
        "cpu, cuda, cuda:1, … (default: cuda where there is one).",
        "NAME",
        panel=Panel.NETWORK,
    )


@dataclass(frozen=True, kw_only=True)
class InputShape:
    """The shape of random inputs, where there is no data."""

    input_shape: str | None = option(
        None,
        TEXT,
        "Shape of one input (default: 3x224x224, or what the network says itself).",
        "CxHxW",
        panel=Panel.NETWORK,
    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What of a network stays as it is."""

    exclude: tuple[str, ...] = option(
        (),
        PATTERNS,
        "Modules that stay as they are, inputs and weights included, e.g. head or 'layer1.*'; "
        "repeatable.",
        "PATTERN",
        panel=Panel.LIMITS,
        recalled_with="excluded",
    )
    exclude_outputs: tuple[str, ...] = option(
        (),
        PATTERNS,
        "Layers that keep all their outputs, while their inputs may be cut; repeatable.",
        "PATTERN",
        panel=Panel.LIMITS,
        recalled_with="excluded",
    )
    min_keep: Mapping[str, float] = option(
        {},
        RATIOS,
        "Least share of its channels that a layer keeps (default: 0.1), e.g. 0.2 or "
        "'layer1.*=0.5'; repeatable.",
        "[PATTERN=]RATIO",
        panel=Panel.LIMITS,
        recalled_with="min_keep",
    )
