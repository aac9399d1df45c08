from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from autoprune.errors import UsageError
from autoprune.training.processes import autocast_dtype, find_processes


def test_one_process_is_on_its_own() -> None:
    alone = find_processes()
    assert (alone.rank, alone.count, alone.agree("x")) == (0, 1, "x")


def test_several_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UsageError, match="needs Accelerate"):
        find_processes()


def test_precision_by_name() -> None:
    network = nn.Linear(2, 2)
    assert autocast_dtype("float32", network) is None
    assert autocast_dtype("bfloat16", network) is torch.bfloat16
    assert autocast_dtype("auto", nn.Linear(2, 2, device="meta")) is None
    assert autocast_dtype("auto", network.half()) is None
