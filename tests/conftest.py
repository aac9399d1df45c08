from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.policy import Widths
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import Inputs, run, sample
from autoprune.structure.surgery import apply_policy

ROOT = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests already run side by side; threads of several processes would wait for each other.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


class Net(nn.Module):
    """A network written as one expression over named modules and parameters."""

    def __init__(self, expression: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.expression = expression
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.expression(self, *args, **kwargs)


class RandomCut(Protocol):
    def __call__(
        self, model: nn.Module, structure: Structure, keep: float, seed: int = 0
    ) -> tuple[nn.Module, Widths]: ...


@contextmanager
def unfused_attention() -> Iterator[None]:
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Toy tensors gain nothing from threads, which wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real checkpoints and images that may stand beside the project."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the checkpoints and images of {folder}, which is not there")
    return folder


@pytest.fixture(scope="session")
def net() -> type[Net]:
    """A network written as one expression over named modules and parameters."""
    return Net


@pytest.fixture(scope="session")
def count_macs() -> Callable[[nn.Module, Inputs], float]:
    """MACs of one sample as PyTorch's own counter sees them."""

    def count(model: nn.Module, inputs: Inputs) -> float:
        with unfused_attention(), torch.no_grad(), FlopCounterMode(display=False) as counter:
            run(model, sample(inputs, 1))
        return float(counter.get_total_flops()) / 2

    return count


@pytest.fixture(scope="session")
def random_cut() -> RandomCut:
    """Cut random units away, about (1 - keep) of every group."""

    def cut(
        model: nn.Module, structure: Structure, keep: float, seed: int = 0
    ) -> tuple[nn.Module, Widths]:
        rng = np.random.default_rng(seed)
        widths = tuple(max(1, round(size * keep)) for size in structure.dense_widths)
        kept = [
            rng.choice(size, width, replace=False).tolist()
            for size, width in zip(structure.dense_widths, widths, strict=True)
        ]
        return apply_policy(model, structure.policy(kept)), widths

    return cut
