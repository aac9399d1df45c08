"""A recovery that was killed goes on to the weights of one that was not, and any is repeatable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.data import Samples, Split
from autoprune.recovery import distillation, student
from autoprune.recovery.distillation import DistillationTask, Recovery, recover
from autoprune.recovery.length import Length
from autoprune.recovery.recovery_file import RecoveryFile
from autoprune.structure.surgery import cut, kept_positions
from autoprune.structure.verify import analyze

STEPS = Length(16, "steps")


class Killed(Exception):
    """What ends a run in mid-step, as a killed process would."""


class Images(Split):
    """Any images; taking a batch fails after so many."""

    def __init__(self) -> None:
        self._inputs = torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        self.left = 10**9

    def __len__(self) -> int:
        return len(self._inputs)

    def take(self, indices: Sequence[int]) -> Samples:
        if self.left == 0:
            raise Killed
        self.left -= 1
        return Samples(self._inputs[list(indices)], None)


@pytest.fixture
def images() -> Images:
    return Images()


@pytest.fixture
def task(images: Images, monkeypatch: pytest.MonkeyPatch) -> DistillationTask:
    monkeypatch.setattr(student, "CPU_BATCH", 8)
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 4),
    ).eval()  # fmt: skip
    check = Samples(torch.randn(40, 1, 6, 6), None)
    structure = analyze(dense, check.inputs[:2])
    keep = kept_positions(dense, structure.policy([range(3) for _ in structure.groups]))
    return DistillationTask(dense, structure, keep, images, check, 0)


@pytest.fixture
def small(task: DistillationTask) -> nn.Module:
    return cut(task.dense, task.keep)


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


def goes_on(
    images: Images, after: Sequence[int], run: Callable[[], Recovery], file: RecoveryFile
) -> Recovery:
    """Return what a run ends with that is killed after so many batches, again and again."""
    for number in after:
        images.left = number
        with pytest.raises(Killed):
            run()
        assert file.path.exists()
    images.left = 10**9
    return run()


@pytest.mark.parametrize("after", [[1], [5], [16], [2, 3, 5]])
def test_a_killed_run_ends_with_the_same_weights(
    after: list[int],
    small: nn.Module,
    task: DistillationTask,
    images: Images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distillation, "SAVE_SECONDS", -1.0)  # at every step
    whole, file = recover(small, task, STEPS), RecoveryFile(tmp_path / "a" / "recovery.pt", "")
    ended = goes_on(images, after, lambda: recover(small, task, STEPS, file=file), file)
    assert same(ended.network, whole.network) and not same(whole.network, small)
    assert (ended.before, ended.after, ended.steps) == (whole.before, whole.after, whole.steps)


def test_states_of_checks_alone_are_enough(
    small: nn.Module, task: DistillationTask, images: Images, tmp_path: Path
) -> None:
    whole, file = recover(small, task, STEPS), RecoveryFile(tmp_path / "recovery.pt", "")
    ended = goes_on(images, [4, 7], lambda: recover(small, task, STEPS, file=file), file)
    assert same(ended.network, whole.network)


def test_a_run_that_went_astray_goes_on_alike(
    small: nn.Module,
    task: DistillationTask,
    images: Images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It falls back to its best network more than once; the rates are a quarter each time."""
    monkeypatch.setattr("autoprune.recovery.student.RATE", 0.5)
    monkeypatch.setattr(distillation, "SAVE_SECONDS", -1.0)
    whole, file = recover(small, task, STEPS), RecoveryFile(tmp_path / "recovery.pt", "")
    ended = goes_on(images, [5, 5, 5], lambda: recover(small, task, STEPS, file=file), file)
    assert same(ended.network, whole.network)


def test_a_state_of_another_network_or_length_is_not_taken(
    small: nn.Module, task: DistillationTask, tmp_path: Path
) -> None:
    path, other = tmp_path / "recovery.pt", cut(task.dense, task.keep)
    recover(small, task, Length(4, "steps"), file=RecoveryFile(path, "4steps"))
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    assert RecoveryFile(path, "4steps").load(small) is not None
    assert RecoveryFile(path, "5steps").load(small) is None
    assert RecoveryFile(path, "4steps").load(other) is None


def test_a_damaged_state_is_named_and_costs_nothing_else(
    small: nn.Module, task: DistillationTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = RecoveryFile(tmp_path / "recovery.pt", "")
    file.path.write_bytes(b"hello")
    with caplog.at_level(logging.WARNING, "autoprune"):
        found = recover(small, task, STEPS, file=file)
    assert found.steps == 16
    assert "recovery.pt" in caplog.text and "begins again" in caplog.text


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second pass whenever somebody looks at the clock."""
    now = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))


@pytest.mark.usefixtures("ticks")
def test_the_number_of_steps_repeats_a_run_by_the_clock(
    small: nn.Module, task: DistillationTask
) -> None:
    by_clock = recover(small, task, Length(40.0))
    # Nine tenths, without the beginning (2), four timed steps and eight checks, a second each.
    assert str(by_clock.repeated_by) == "21steps" and by_clock.steps == 21
    assert by_clock.repeated_by is not None
    again = recover(small, task, by_clock.repeated_by)
    assert same(again.network, by_clock.network) and not same(again.network, small)


@pytest.mark.usefixtures("ticks")
def test_a_number_repeats_a_run_that_was_cut_short(
    small: nn.Module, task: DistillationTask
) -> None:
    late = recover(small, task, STEPS, deadline=13.0)
    assert str(late.repeated_by) == f"{late.steps}/16steps" and 4 < late.steps < 16
    assert late.repeated_by is not None
    again = recover(small, task, late.repeated_by)
    assert same(again.network, late.network) and again.steps == late.steps


def test_a_number_repeats_a_run_that_was_interrupted(
    small: nn.Module, task: DistillationTask
) -> None:
    def interrupt(share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    stopped = recover(small, task, STEPS, progress=interrupt)
    assert stopped.interrupted and str(stopped.repeated_by) == "10/16steps"  # the last check
    assert stopped.repeated_by is not None
    assert same(recover(small, task, stopped.repeated_by).network, stopped.network)


def test_epochs_are_passes_over_the_images(small: nn.Module, task: DistillationTask) -> None:
    found = recover(small, task, Length(1.5, "epochs"))
    assert found.steps == 8  # 60 images, 8 at a time


def test_steps_are_not_limited_by_epochs(
    small: nn.Module, task: DistillationTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "EPOCHS", 1)
    assert recover(small, task, STEPS).steps == 16
    by_clock: Any = recover(small, task, Length(600.0))
    assert by_clock.steps == 5


@pytest.mark.usefixtures("ticks")
def test_a_run_that_goes_on_after_its_deadline_is_repeatable(
    small: nn.Module, task: DistillationTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed after the last check, which its repetition does not make.

    At this rate that check makes the network fall back.
    """
    monkeypatch.setattr("autoprune.recovery.student.RATE", 0.5)
    file = RecoveryFile(tmp_path / "recovery.pt", "")
    late = recover(small, task, STEPS, deadline=9.0, file=file)
    assert late.steps == 3  # checks are due at even numbers
    ended = recover(small, task, STEPS, file=file)
    assert str(ended.repeated_by) == "16steps"
    assert same(ended.network, recover(small, task, STEPS).network)
