"""Kills searches and fine-tunings at random moments, resumes them, and compares the ends.

    OMP_NUM_THREADS=1 python experiments/endurance/kill.py --kills 20 --finetune-kills 4

Every search is of the demo network, in a process of its own that the kernel ends after so much
processor time, as SIGKILL would: a moment drawn at random in a stage of the uninterrupted search.
Strategies and stages take turns. A line is printed for every kill, and what they are together.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import autoprune
from autoprune.agents.registry import KIND
from autoprune.core.progress import Progress, SearchState
from autoprune.data import Splits, load_splits
from autoprune.errors import AutopruneError, describe
from autoprune.models.demo import load_demo
from autoprune.study.ledger import read_trials
from autoprune.study.run_directory import RunDirectory
from autoprune.study.trial import Trial

OPTIONS: Mapping[str, Any] = {
    "budget": "flops=0.5",
    "trials": 8,
    "calibration_samples": 64,
    "search_samples": 64,
    "selection_samples": 64,
    "recover": "24steps",
    "report": False,
}
TRAINING: Mapping[str, Any] = {"epochs": 1.0}
WEIGHTS = ("pruned.safetensors", "pruned-unrecovered.safetensors", "finetuned.safetensors")
FILES = ("policy.json", *WEIGHTS)
SEARCH, END = "search", "end"


class Timeline(Progress):
    """Writes down in which stage a process is, by its processor time."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._began = time.process_time()

    def step(self, stage: str, done: int, total: int) -> None:
        """Write the stage."""
        os.write(self._file, f"{stage} {time.process_time() - self._began}\n".encode())

    def searched(self, state: SearchState) -> None:
        """Write that a trial was made."""
        self.step(SEARCH, state.done, state.total)


@dataclass(frozen=True)
class Kill:
    """What came of one kill.

    Attributes:
        what: the strategy, or "finetune".
        stage: in which it fell.
        seconds: of processor time after which it fell.
        equal: whether study, policy and all weights are those of the uninterrupted run.
        lost: trials that were recorded at the kill, and are not in the study at the end.
        repeated: evaluations that were finished and recorded, and made again.
        differs: what is not equal.
    """

    what: str
    stage: str
    seconds: float
    equal: bool
    lost: int
    repeated: int
    differs: tuple[str, ...]


def in_process(work: Callable[[], Any], seconds: float | None = None) -> bool:
    """Do something in a process of its own; return whether it came to its end.

    Args:
        work: what is done.
        seconds: of processor time, after which the kernel ends the process.
    """

    def call() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        warnings.simplefilter("ignore")
        if seconds is not None:
            signal.setitimer(signal.ITIMER_PROF, seconds)  # whose signal ends a process
        work()

    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    process.join()
    if process.exitcode == -signal.SIGPROF:
        return False
    if process.exitcode:
        raise RuntimeError(f"the process ended with {process.exitcode}")
    return True


def stages(path: Path) -> list[tuple[str, float]]:
    """Return the stages of a process, each with the processor time at which it was first seen."""
    rows = (line.split() for line in path.read_text().splitlines())
    first: dict[str, float] = {}
    for stage, seconds in rows:
        first.setdefault(stage, float(seconds))
    return list(first.items())


def trials_of(folder: Path) -> list[Trial]:
    """Return the trials that are recorded."""
    run = RunDirectory(folder)
    if not run.has_study:
        return []
    with run.stored_study() as study:
        return list(read_trials(study))


def outcome(folder: Path) -> dict[str, Any]:
    """Return what must be equal: the study without its seconds, and the files."""
    trials = [(t.candidate.widths, t.candidate.kind, t.value, t.error) for t in trials_of(folder)]
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    return {"study": trials, **files}


class Endurance:
    """Uninterrupted runs, and those that are killed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._random = folder, random.Random(seed)
        self._data: Splits = load_splits("digits")
        self._model = load_demo()

    def search(self, folder: Path, strategy: str, resume: bool = False) -> None:
        """Search, or go on."""
        options = {**OPTIONS, "strategy": strategy}
        if strategy == "recall":
            options["from_run"] = str(self._folder / "netadapt")
        progress = Timeline(folder.with_suffix(".stages"))
        autoprune.search(
            self._model,
            data=self._data, output=folder, resume=resume, progress=progress, **options,
        )  # fmt: skip
        progress.step(END, 1, 1)

    def finetune(self, folder: Path, resume: bool = False) -> None:
        """Fine-tune a copy of a run, or go on."""
        progress = Timeline(folder.with_suffix(".stages"))
        autoprune.finetune(
            self._model, folder, data=self._data, resume=resume, progress=progress, **TRAINING
        )
        progress.step(END, 1, 1)

    def warm_up(self) -> None:
        """Import all that a search imports: later ones, and processes forked then, have it."""
        self.search(self._folder / "warm-up", "uniform")

    def uninterrupted(self, strategy: str) -> str | None:
        """Search without a kill, in this process; return why not, if that is impossible."""
        try:
            self.search(self._folder / strategy, strategy)
        except AutopruneError as error:
            return describe(error)
        return None

    def kill_search(self, strategy: str, wanted: int) -> Kill:
        """Kill a search in one of its stages, by number, and let it go on."""
        whole = self._folder / strategy
        seen = stages(whole.with_suffix(".stages"))
        begins = [("structure", 0.0), *((one, at) for one, at in seen if one != "structure")]
        number = wanted % (len(begins) - 1)
        (stage, begin), (_, end) = begins[number : number + 2]
        seconds = self._random.uniform(begin, end)
        folder = self._folder / f"{strategy}-killed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".stages").unlink(missing_ok=True)
        if in_process(lambda: self.search(folder, strategy), max(seconds, 0.05)):
            stage = "over"  # it was quicker than the uninterrupted one
        before = trials_of(folder)
        begun = (folder / "config.toml").exists()
        in_process(lambda: self.search(folder, strategy, resume=begun))
        made = folder.with_suffix(".stages").read_text().count(f"{SEARCH} ")
        return self._compared(strategy, stage, seconds, (whole, folder), (before, made))

    def kill_finetune(self, run: Path) -> Kill:
        """Kill a fine-tuning at any moment, and let it go on."""
        whole, folder = self._folder / "finetune", self._folder / "finetune-killed"
        if not whole.exists():
            shutil.copytree(run, whole)
            self.finetune(whole)
        seconds = self._random.uniform(0, dict(stages(whole.with_suffix(".stages")))[END])
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run, folder)
        stage = "training"
        if in_process(lambda: self.finetune(folder), max(seconds, 0.05)):
            stage = "over"
        if stage != "over":
            begun = RunDirectory(folder).training().is_begun
            in_process(lambda: self.finetune(folder, resume=begun))
        return self._compared("finetune", stage, seconds, (whole, folder), ([], 0))

    def _compared(
        self,
        what: str,
        stage: str,
        seconds: float,
        runs: tuple[Path, Path],
        counted: tuple[list[Trial], int],
    ) -> Kill:
        whole, ended = (outcome(folder) for folder in runs)
        before, made = counted
        left = {trial.candidate.widths for trial in trials_of(runs[1])}
        differs = [key for key in whole.keys() | ended.keys() if whole.get(key) != ended.get(key)]
        return Kill(
            what=what,
            stage=stage,
            seconds=round(seconds, 3),
            equal=not differs,
            lost=sum(trial.candidate.widths not in left for trial in before),
            repeated=max(0, made - len(left)) if made else 0,
            differs=tuple(sorted(differs)),
        )


def kills(endurance: Endurance, number: int, strategies: list[str]) -> Iterator[Kill]:
    """Yield what comes of some kills, over strategies and stages in turn."""
    endurance.warm_up()
    able = []
    for strategy in strategies:
        if (reason := endurance.uninterrupted(strategy)) is None:
            able.append(strategy)
        else:
            print(f"{strategy} is left out: {reason}", flush=True)
    turns = itertools.cycle(able)
    for turn in range(number):
        yield endurance.kill_search(next(turns), turn)


def main() -> None:
    """Kill, go on, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--finetune-kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategies", nargs="*", default=["netadapt", *sorted(KIND.built_in)])
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    found: list[Kill] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        endurance = Endurance(folder, given.seed)
        strategies = list(dict.fromkeys(given.strategies))
        searches = kills(endurance, given.kills, strategies)
        trainings = (
            endurance.kill_finetune(folder / strategies[0]) for _ in range(given.finetune_kills)
        )
        for one in itertools.chain(searches, trainings):
            found.append(one)
            print(json.dumps(asdict(one)), flush=True)
    equal, lost = sum(one.equal for one in found), sum(one.lost for one in found)
    repeated = sum(one.repeated for one in found)
    print(f"{equal} of {len(found)} equal; trials lost {lost}, evaluations repeated {repeated}")


if __name__ == "__main__":
    main()
