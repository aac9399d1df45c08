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
    "search --model net.py:basic --data net.py:dataset --config small.toml --trials 2 "
    "--budget latency=0.6 --latency-table table.json --latency-backend device.py:Device"
).split()


def test_branches_go_until_a_bound_on_latency_holds(cli) -> None:
    Path("net.py").write_text(NETWORK)
    Path("device.py").write_text(DEVICE)
    done = cli(
        "profile", "--model", "net.py:basic", "--input-shape", "3x8x8",
        "--backend", "device.py:Device", "--output", "table.json",
    )  # fmt: skip
    assert done.status == 0, done.err
    # Channels alone save next to nothing.
    done = cli(*SEARCH, "--output", "channels")
    assert done.status == 2 and "latency" in done.err and "Traceback" not in done.err
    done = cli(*SEARCH, "--decide", "channels,depth", "--output", "out")
    assert done.status == 0, done.err
    latency = json.loads(Path("out/result.json").read_text())["costs"]["latency"]
    gone = json.loads(Path("out/policy.json").read_text())["bypasses"]
    # Nine layers take 9 ms, and a branch has two of them.
    assert latency["measured_dense_ms"] == pytest.approx(9.0, rel=0.01)
    assert latency["measured_ms"] == pytest.approx(9.0 - 2 * len(gone), rel=0.01)
    assert latency["measured_ms"] <= 0.6 * latency["measured_dense_ms"]
    assert latency["predicted_ms"] == pytest.approx(latency["measured_ms"], rel=0.06)
