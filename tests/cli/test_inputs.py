"""Networks of several inputs, and how much memory repair takes, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CODE = """
import torch
from torch import nn
from torch.utils.data import Dataset


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.line = nn.Conv2d(1, 12, 3), nn.Linear(5, 12)
        self.head = nn.Linear(24, 4)

    def forward(self, image, vector):
        seen = torch.cat([self.conv(image).relu().mean((2, 3)), self.line(vector).relu()], 1)
        return {"logits": self.head(seen)}


class Rows(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, i):
        image = torch.full((1, 6, 6), i / 60)
        return {"image": image, "vector": torch.arange(5) / (i + 1), "labels": i % 4}
"""


@pytest.fixture
def network(cli) -> tuple[str, ...]:
    Path("net.py").write_text(CODE)
    return "--model", "net.py:Fused", "--data", "net.py:Rows"


def test_several_inputs(cli, network: tuple[str, ...]) -> None:
    done = cli("inspect", *network)
    assert done.status == 0 and "for one input of image 1x6x6, vector 5" in done.out
    report = json.loads(cli("inspect", *network, "--json").out)
    assert report["input_shape"] == {"image": [1, 6, 6], "vector": [5]}
    search = ["search", *network, "--config", "small.toml", "--budget", "flops=0.6"]
    assert cli(*search, "--trials", "2", "--output", "run").status == 0
    scores = json.loads(cli("evaluate", "run", "--json", "--split", "train").out)
    assert scores["samples"] == 60 and scores["pruned"]["latency_ms"] > 0
    done = cli("evaluate", "run", "--kit", "kit")
    assert done.status == 2 and "a kit measures networks of one tensor" in done.err
    assert not Path("kit").exists()


@pytest.mark.parametrize("given", ["400kB", "much"])
def test_memory_for_repair(given: str, cli) -> None:
    options = ["--config", "small.toml", "--budget", "flops=0.5", "--trials", "1", "--output", "a"]
    done = cli("search", *options, "--repair-memory", given)
    if given == "much":
        assert done.status == 2 and len(done.err.splitlines()) == 1
        assert "--repair-memory must be a text such as '8GB'" in done.err
        return
    assert done.status == 0
    # Of 64 channels of 8x8 pixels, 16 kB, four are alive at once: 65 kB a sample.
    stored = Path("a", "config.toml").read_text()
    assert "repair_memory = 400000" in stored and "repair_samples = 6" in stored
