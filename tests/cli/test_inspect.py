from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_demo(cli) -> None:
    done = cli("inspect")
    assert done.status == 0 and done.err == "" and "\x1b" not in done.out
    for word in ("stem.0", "7.35M", "frozen (1): head: the network's output", "5 groups", "1x8x8"):
        assert word in done.out


def test_json(cli) -> None:
    report = json.loads(cli("inspect", "--json").out)
    assert sum(layer["flops"] for layer in report["layers"]) == report["dense"]["flops"] == 7352256
    assert sum(layer["params"] for layer in report["layers"]) == report["dense"]["params"]
    widen = next(group for group in report["groups"] if group["name"] == "widen.0")
    assert widen["units"] == 64 and widen["lowest"] == 7
    # Its layers, those that read it, and the depthwise one between: all but 1,346,496 MACs.
    assert widen["macs_share"] == pytest.approx(1 - 1_346_496 / 7_352_256)
    assert report["smallest"]["flops"] < 0.1 * report["dense"]["flops"]


def test_limits(cli) -> None:
    limits = ("--exclude", "stem*", "--exclude-outputs", "widen", "--min-keep", "0.5")
    report = json.loads(cli("inspect", "--json", *limits).out)
    assert not {"stem.0", "widen.0"} & {group["name"] for group in report["groups"]}
    reasons = {group["name"]: group["reason"] for group in report["frozen"]}
    assert reasons["stem.0"] == "excluded" and reasons["widen.0"] == "its outputs are excluded"
    assert all(group["lowest"] == group["units"] / 2 for group in report["groups"])


def test_inputs(cli) -> None:
    by_shape = json.loads(cli("inspect", "--json", "--input-shape", "1x16x16").out)
    by_data = json.loads(cli("inspect", "--json", "--data", "digits").out)
    assert by_shape["input_shape"] == [1, 16, 16] and by_data["input_shape"] == [1, 8, 8]
    assert by_shape["dense"]["flops"] > 3 * by_data["dense"]["flops"]
    done = cli("inspect", "--data", "digits", "--input-shape", "1x8x8")
    assert done.status == 2 and "give one of them" in done.err


def test_the_shape_that_is_assumed_is_said(cli) -> None:
    Path("net.py").write_text(
        "from torch import nn\n"
        "def small():\n"
        "    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), *pool, nn.Linear(4, 2))\n"
    )
    done = cli("inspect", "--model", "net.py:small", "--json")
    assert json.loads(done.out)["input_shape"] == [1, 224, 224]
    assert done.err.startswith("Warning: inputs are taken to be 1x224x224; give --input-shape")
    assert cli("inspect", "--model", "net.py:small", "--input-shape", "1x8x8").err == ""


def test_everything_frozen(cli) -> None:
    done = cli("inspect", "--exclude", "*")
    assert done.status == 0 and "0 groups can be pruned, 6 cannot" in done.out


def test_operators_that_are_not_counted_are_named(cli) -> None:
    Path("net.py").write_text(
        "import torch\n"
        "@torch.library.custom_op('inspected::times', mutates_args=())\n"
        "def times(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:\n"
        "    return x @ weight.t()\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = torch.nn.Conv2d(1, 8, 3), torch.nn.Conv2d(8, 4, 3)\n"
        "        self.head = torch.nn.Linear(64, 3)\n"
        "    def forward(self, x):\n"
        "        return times(self.b(self.a(x)).flatten(1), self.head.weight)\n"
    )
    options = ("--model", "net.py:Net", "--input-shape", "1x8x8")
    assert "MACs of inspected.times are not counted" in cli("inspect", *options).out
    assert json.loads(cli("inspect", "--json", *options).out)["not_counted"] == ["inspected.times"]


def test_layers_that_run_in_training_only_are_named(cli) -> None:
    Path("deep.py").write_text(
        "from torch import nn\n"
        "class Deep(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)\n"
        "        self.aux = nn.Linear(8, 3)\n"
        "    def forward(self, x):\n"
        "        x = self.one(x).relu()\n"
        "        return (self.two(x), self.aux(x)) if self.training else self.two(x)\n"
    )
    done = cli("inspect", "--json", "--model", "deep.py:Deep", "--input-shape", "4")
    assert done.status == 0 and json.loads(done.out)["groups"]
    assert "run in training mode only, cut along with what they read: aux" in done.err


def test_numbers_that_follow_and_units_of_several_channels_are_shown(cli) -> None:
    Path("normed.py").write_text(
        "from torch import nn\n"
        "def small():\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 3))\n"
    )
    options = ("--model", "normed.py:small", "--input-shape", "1x8x8")
    shown = cli("inspect", *options).out
    assert "channels" in shown and "follow the widths (1): 1.num_groups" in shown
    report = json.loads(cli("inspect", "--json", *options).out)
    [group], [edit] = report["groups"], report["edits"]
    assert (group["units"], group["channels"]) == (4, 8)
    assert (edit["name"], edit["value"], edit["per_unit"]) == ("1.num_groups", 4, {"0": [1]})
    assert "channels" not in cli("inspect").out
