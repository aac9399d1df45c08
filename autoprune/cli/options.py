"""Options that several commands share, as Typer reads them; none has a default of its own."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def parse_count(text: str) -> int:
    """Read a whole number; Typer's own message would not show what was given."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no whole number.") from None


def parse_step(text: str) -> int | str:
    """Read a whole number or "auto"."""
    return text if text == "auto" else parse_count(text)


NETWORK = "Network and data"
LIMITS = "What may be pruned"

Model = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="torchvision:NAME, timm:NAME, path/to/file.py:factory, package.module:factory, "
        "or demo (also used if neither model nor data is given, but for --from).",
        rich_help_panel=NETWORK,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Safetensors or a PyTorch state dict; nothing in it is executed.",
        rich_help_panel=NETWORK,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="digits, cifar10:DIR, imagefolder:DIR, npz:FILE[,FILE…][;val=FILE][;test=FILE], "
        "path/to/file.py:factory or package.module:factory.",
        rich_help_panel=NETWORK,
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="imagenet (default for 3 channels), cifar10, none, or MEAN,…/STD,…",
        rich_help_panel=NETWORK,
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Class names, one per line in the order of the network's outputs: which label a class "
        "folder of imagefolder:DIR has (default: its place among the sorted folders).",
        rich_help_panel=NETWORK,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="cpu, cuda, cuda:1, … (default: cuda where there is one).",
        rich_help_panel=NETWORK,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Modules that stay as they are, inputs and weights included, e.g. head or "
        "'layer1.*'; repeatable.",
        rich_help_panel=LIMITS,
    ),
]
ExcludeOutputs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Layers that keep all their outputs, while their inputs may be cut; repeatable.",
        rich_help_panel=LIMITS,
    ),
]
MinKeep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[PATTERN=]RATIO",
        help="Least share of its channels that a layer keeps (default 0.1), e.g. 0.2 or "
        "'layer1.*=0.5'; repeatable.",
        rich_help_panel=LIMITS,
    ),
]
RoundTo = Annotated[
    Any,
    typer.Option(
        metavar="N|auto",
        parser=parse_step,
        help="Widths are multiples of N (default 1), or of what the latency table's device "
        "favours.",
        rich_help_panel=LIMITS,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run the code (model, data, reward, …) that the run directory or config file names, "
        "also if it was not made here; it is asked for again when the code changes.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
InputShape = Annotated[
    str | None,
    typer.Option(
        metavar="CxHxW",
        help="Shape of one input (default 3x224x224, or what the network says itself).",
        rich_help_panel=NETWORK,
    ),
]
