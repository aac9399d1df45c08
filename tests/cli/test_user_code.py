"""Code of the user's that a command runs: it neither ends the command nor is changed by it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

MINE = """
import sys
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from autoprune.importance import Importance

torch.manual_seed(0)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x):
        torch.rand(1)
        self.cache = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.last(self.cache)


NETWORK = Noisy().train()
NETWORK(torch.zeros(2, 1, 8, 8)).sum().backward()


def network():
    return NETWORK


def images():
    return TensorDataset(torch.linspace(-1, 1, 60 * 64).view(60, 1, 8, 8), torch.arange(60) % 3)


def leaves():
    sys.exit(0)


class Lazy(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        sys.exit(0)


class Leaving(Importance):
    def rank(self, group, evidence):
        sys.exit(0)


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))
"""


@pytest.fixture
def mine() -> str:
    path = Path("mine.py").absolute()
    path.write_text(MINE)
    return str(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "leaves"}, "making it fails: SystemExit: 0"),
        ({"data": "leaves"}, "making it fails: SystemExit: 0"),
        ({"data": "Lazy"}, "SystemExit: 0"),
        ({"importance": "Leaving"}, "fails on group 'conv': SystemExit: 0"),
        ({"model": "lazy"}, "layer '0', a LazyConv2d, has no weights yet"),
    ],
    ids=str,
)
def test_what_leaves_is_a_failure(options: dict[str, str], said: str, cli, mine: str) -> None:
    given = {"model": "network", "data": "images", **options}
    words = [word for name, own in given.items() for word in (f"--{name}", f"{mine}:{own}")]
    done = cli("search", *words, "--budget", "flops=0.5", "--trials", "2", "--output", "out")
    last = done.err.splitlines()[-1]
    assert done.status == 2 and last.startswith("Error: ") and said in last
    assert done.out == "" and "Traceback" not in done.err and not Path("out/result.json").exists()


def test_commands_leave_the_network_and_the_random_states(cli, mine: str) -> None:
    from autoprune.core.plugins import load_object

    network = load_object(f"{mine}:NETWORK", "model")
    tensors = {name: value.clone() for name, value in network.state_dict().items()}
    cache, gradient = network.cache, network.conv.weight.grad.clone()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    options = ["--model", f"{mine}:network", "--data", f"{mine}:images"]
    for command in (
        ["inspect", *options],
        ["search", *options, *"--config small.toml --budget flops=0.5 --output out".split()],
        ["evaluate", "out"],
    ):
        assert cli(*command).status == 0
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == states
    assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())
    assert network.training and network.norm.training and network.cache is cache
    assert torch.equal(network.conv.weight.grad, gradient) and cache.grad_fn is not None
