from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import shape_checks  # noqa: F401 - before the packages whose signatures it checks
import torch
from hypothesis import settings
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoprune.core.policy import Widths
from autoprune.core.records import plain
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.signature import BARE, Signature
from autoprune.cost.latency.table import LatencyTable
from autoprune.engine.trust import STATE_FOLDER
from autoprune.profiling.backends.base import Backend
from autoprune.profiling.journal import Journal
from autoprune.profiling.profiler import profile
from autoprune.profiling.stopwatch import Run, Timing
from autoprune.profiling.subject import Subject
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import Inputs, run, sample
from autoprune.structure.surgery import apply_policy
from autoprune.structure.tracing.trace import trace
from autoprune.testing.small_networks import Net

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _usual_root_level() -> None:
    """Listen to warnings as a fresh process does: libraries raise the root logger's level."""
    logging.getLogger().setLevel(logging.WARNING)


# How long an example takes says nothing on a busy machine, nor with the first call's imports.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests already run side by side; threads of several processes would wait for each other.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


class RandomCut(Protocol):
    def __call__(
        self, model: nn.Module, structure: Structure, keep: float, seed: int = 0
    ) -> tuple[nn.Module, Widths]: ...


@contextmanager
def unfused_kernels() -> Iterator[None]:
    """Attention and recurrent networks run as matrix products, which PyTorch's counter sees."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")  # about the TF32 of other processors
            with torch.backends.mkldnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Toy tensors gain nothing from threads, which wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered for the user is not this user's; child processes see the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STATE_FOLDER, str(tmp_path_factory.mktemp("state")))
        yield


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


class StairBackend(Backend):
    """A device whose latency is known: it pays for channels by sixteens, and 0.02 ms a layer."""

    name = "stairs"

    def layer(self, signature: Signature) -> Run:
        return lambda: stair_ms(signature)

    def network(self, model: nn.Module, inputs: torch.Tensor) -> Run:
        structure = trace(model, inputs)
        layers = [Signature.of(layer, structure) for layer in structure.layers]
        return lambda: sum(map(stair_ms, layers)) + 0.5

    def measure(self, runs: Sequence[Run]) -> list[Timing]:
        return [Timing(float(run()), 0.0, 1) for run in runs]  # type: ignore[arg-type]

    def device_name(self) -> str:
        return "staircase"

    def versions(self) -> dict[str, str]:
        return {"stairs": "1"}


STAIRS = StairBackend(Conditions(backend="stairs"))


def stair_ms(signature: Signature) -> float:
    inputs, outputs = (16 * -(-n // 16) for n in (signature.inputs, signature.channels_out))
    return 0.02 + 1e-7 * inputs * outputs * math.prod((*signature.kernel, *signature.spatial))


class AlignedBackend(StairBackend):
    """The same, but slower where aligned channels are not a multiple of 4; and calls cost."""

    call_ms = 0.01

    def layer(self, signature: Signature) -> Run:
        return lambda: self.call_ms + aligned_ms(signature)

    def network(self, model: nn.Module, inputs: torch.Tensor) -> Run:
        structure = trace(model, inputs)
        layers = [Signature.of(layer, structure) for layer in structure.layers]
        return lambda: sum(map(aligned_ms, layers)) + 0.5


def aligned_ms(signature: Signature) -> float:
    if signature == BARE:
        return 0.0
    return stair_ms(signature) * (1.7 if signature.aligned_channels % 4 else 1.0)


@pytest.fixture(scope="session")
def aligned_backend() -> AlignedBackend:
    """A backend whose latencies are known, in steps, and slow at misaligned widths."""
    return AlignedBackend(Conditions(backend="aligned"))


@pytest.fixture(scope="session")
def stairs() -> type[StairBackend]:
    """A backend whose latencies are known, in steps."""
    return StairBackend


@pytest.fixture(scope="session")
def stair_table() -> Callable[[nn.Module, torch.Tensor], LatencyTable]:
    """Profile a network, on the device with steps if no other is named."""

    def table(
        model: nn.Module, inputs: torch.Tensor, backend: StairBackend = STAIRS
    ) -> LatencyTable:
        journal = Journal(None, plain(backend.conditions))
        return profile(Subject(model, trace(model, inputs), inputs), backend, journal)

    return table


@pytest.fixture(scope="session")
def net() -> type[Net]:
    """A network written as one expression over named modules and parameters."""
    return Net


@pytest.fixture(scope="session")
def count_macs() -> Callable[[nn.Module, Inputs], float]:
    """MACs of one sample as PyTorch's own counter sees them where nothing is fused."""

    def count(model: nn.Module, inputs: Inputs) -> float:
        with unfused_kernels(), torch.no_grad(), FlopCounterMode(display=False) as counter:
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
