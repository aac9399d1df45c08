"""Branches go under a bound on latency, on a device where every layer takes its time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NETWORK = """
from residuals import basic
from searches import dataset
"""
# A layer takes 1 ms, however wide it is, and hardly more for its weights.
DEVICE = """
from torch import nn

from autoprune.profiling.backends.base import Backend
from autoprune.profiling.stopwatch import Timing


class Device(Backend):
    name = "device"

    def layer(self, signature):
        return lambda: 1.0 + 1e-6 * signature.weight_count

    def network(self, model, inputs):
        layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        return lambda: sum(1.0 + 1e-6 * m.weight.numel() for m in layers)

    def measure(self, runs):
        return [Timing(float(run()), 0.0, 7) for run in runs]

    def device_name(self):
        return "a device"

    def versions(self):
        return {"device": "1"}
"""
SEARCH = (
    "search --model net.py:basic --data net.py:dataset --config small.toml --trials 3 "
    "--latency-table table.json --latency-backend device.py:Device"
).split()


@pytest.fixture
def table(cli) -> None:
    Path("net.py").write_text(NETWORK)
    Path("device.py").write_text(DEVICE)
    done = cli(
        "profile", "--model", "net.py:basic", "--input-shape", "3x8x8",
        "--backend", "device.py:Device", "--output", "table.json",
    )  # fmt: skip
    assert done.status == 0, done.err


@pytest.mark.parametrize("strategy", ["auto", "netadapt", "random"])
def test_branches_go_until_the_bound_on_latency_holds(cli, table, strategy: str) -> None:
    done = cli(
        *SEARCH, "--decide", "channels,depth", "--budget", "latency=0.6",
        "--strategy", strategy, "--output", "out",
    )  # fmt: skip
    assert done.status == 0, done.err
    result = json.loads(Path("out/result.json").read_text())
    policy = json.loads(Path("out/policy.json").read_text())
    latency = result["costs"]["latency"]
    # Nine layers take 9 ms; two branches of two layers have to go.
    assert len(policy["bypasses"]) == 2
    assert latency["predicted_ms"] == pytest.approx(latency["measured_ms"], rel=0.01)
    assert latency["measured_ms"] == pytest.approx(5.0, rel=0.01)


def test_channels_alone_cannot_keep_such_a_bound(cli, table) -> None:
    done = cli(*SEARCH, "--budget", "latency=0.6", "--output", "out")
    assert done.status == 2 and "latency" in done.err and "Traceback" not in done.err
