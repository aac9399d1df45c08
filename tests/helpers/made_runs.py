"""Runs in every state that a user may have on disk, each made once by the command line."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from loops import problem
from safetensors.torch import save_file

import autoprune
from autoprune.agents.ddpg.agent import DdpgStrategy
from autoprune.cli.app import main
from autoprune.core.progress import Progress
from autoprune.data import load_splits
from autoprune.errors import AutopruneError
from autoprune.models.demo import load_demo
from autoprune.recovery.student import Student

SMALL = """
calibration-samples = 64
search-samples = 64
selection-samples = 64
"""
# What a run directory from a stranger might name, in the current folder of whoever reads it.
CANARY = "from pathlib import Path\nPath('canary-ran').touch()\n\ndef touch(*_): return None\n"


class CommandError(AutopruneError):
    """What a command said that ended with status 2."""


def command(*arguments: str) -> None:
    """Run a command; a refusal is raised.

    Raises:
        CommandError: it ended with status 2; the message is its last line on standard error.
    """
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(arguments)
    said = err.getvalue()
    assert status in (0, 2), said
    assert "Traceback" not in said, said
    if status:
        raise CommandError(said.rstrip("\n").rpartition("\n")[2])


def make_finished(folder: Path, recover: str = "off") -> Path:
    """Return a finished search with an agent, and files of weights and images beside it."""
    (folder / "small.toml").write_text(SMALL)
    words = f"--budget flops=0.5 --trials 1 --strategy uniform --quiet --recover {recover}"
    run = folder / "a"
    command("search", "--config", f"{folder}/small.toml", *words.split(), "--output", str(run))
    DdpgStrategy().started(problem()).save(run / "agent")
    own = run / "own"
    own.mkdir()
    torch.save(load_demo().state_dict(), own / "weights.pt")
    save_file(load_demo().state_dict(), own / "weights.safetensors")
    np.savez(own / "images.npz", x=np.zeros((9, 4, 4, 1), np.uint8), y=np.arange(9))
    (own / "classes.txt").write_text("".join(f"{n} class\n" for n in range(10)))
    (own / "options.toml").write_text(SMALL + 'budget = "flops=0.5"\n[strategy.bayes]\nbins = 4\n')
    return run


class Killed(BaseException):
    """What ends work at once, as if the process were killed; callers get an `AutopruneError`."""


class _Stops(Progress):
    """Ends a stage at one of its steps."""

    def __init__(self, stage: str, share: float) -> None:
        self._stage, self._share = stage, share

    def step(self, stage: str, done: int, total: int) -> None:
        """End it."""
        if stage == self._stage and done >= self._share * total:
            raise Killed


def make_killed(folder: Path) -> Path:
    """Return a search as a kill in the middle of recovery leaves it, with a state to go on from."""
    options: dict[str, Any] = {
        "calibration_samples": 64, "search_samples": 64, "selection_samples": 64,
        "budget": "flops=0.5", "trials": 1, "strategy": "uniform", "recover": "24steps",
        "report": False,
    }  # fmt: skip
    whole, killed, learn = folder / "whole", folder / "b", Student.step

    def step(self: Student, inputs: Any, rate: float) -> None:
        if self.steps == 12:
            shutil.copytree(whole, killed, ignore=shutil.ignore_patterns(".lock*"))
        learn(self, inputs, rate)

    origin = {"model": "demo", "data": "digits"}
    with patch.object(Student, "step", step):
        autoprune.search(
            load_demo(), data=load_splits("digits"), output=whole, origin=origin, **options
        )
    assert (killed / "checkpoints/recovery.pt").exists() and (killed / "standing.json").exists()
    return killed


def make_tuning(run: Path) -> None:
    """Begin a fine-tuning of a finished search, and end it after its first validation."""
    progress = _Stops("training", 0.6)
    with suppress(AutopruneError):
        autoprune.finetune(
            load_demo(), run, data=load_splits("digits"), epochs=1.0, progress=progress
        )
    assert (run / "checkpoints/finetune.pt").exists()


def make_training(folder: Path) -> Path:
    """Return a training with a method that was killed after its first validation."""
    origin = {"model": "demo", "data": "digits"}
    with suppress(AutopruneError):
        autoprune.train(
            load_demo(), method="slimming", data=load_splits("digits"), output=folder / "t",
            budget="flops=0.5", epochs=1.0, progress=_Stops("training", 0.6), origin=origin,
        )  # fmt: skip
    assert (folder / "t/checkpoints/train.pt").exists()
    return folder / "t"


def make_profile(folder: Path) -> Path:
    """Return a folder with a latency table of the demo network."""
    place = folder / "l"
    place.mkdir()
    command(
        "profile", "--model", "demo", "--input-shape", "1x8x8", "--output", str(place / "t.json")
    )
    return place


MAKERS: dict[str, Callable[[Path], Path]] = {
    "a": make_finished,
    "b": make_killed,
    "t": make_training,
    "l": make_profile,
}
