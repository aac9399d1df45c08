"""What reads each file of a run, or of a user: a file is read, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from made_runs import command
from torch import nn

import autoprune
from autoprune.agents.ddpg.config import DdpgConfig
from autoprune.agents.ddpg.storage import load_agent
from autoprune.agents.registry import check_strategy
from autoprune.cli.settings import gather
from autoprune.core.policy import PruningPolicy
from autoprune.cost.latency.table import LatencyTable
from autoprune.data import load_splits
from autoprune.data.class_names import Numbering
from autoprune.models.demo import load_demo
from autoprune.models.weights import load_weights
from autoprune.options.finetune import FinetuneConfig
from autoprune.reporting.status import in_words, read_status
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.ledger import Ledger
from autoprune.study.result import costs_of, limits_of, predictions_of
from autoprune.study.run_directory import RunDirectory
from autoprune.training.checkpoints import load_checkpoint
from autoprune.training.loggers import Log

Reader: TypeAlias = Callable[[Path], None]
"""Reads a run directory as a user would; it raises nothing but `AutopruneError`."""


def check_finite(model: nn.Module) -> None:
    tensors = model.state_dict().values()
    assert all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point())


def load(run: Path) -> None:
    check_finite(autoprune.load_pruned(load_demo(), run))


def apply(run: Path) -> None:
    check_finite(autoprune.apply_policy(load_demo(), run / "policy.json"))


def evaluate(run: Path) -> None:
    command("evaluate", str(run), "--json")


def resume(run: Path) -> None:
    """Ask for no more than there is: the files are read, and the search is finished."""
    command("search", "--resume", "--output", str(run), "--quiet")


def go_on(run: Path) -> None:
    command("search", "--resume", "--output", str(run), "--quiet", "--trials", "3")


def search_from(run: Path) -> None:
    output = str(run.with_name("from"))
    command("search", "--from", str(run), "--budget", "flops=0.6", "--output", output, "--quiet")


def with_options(run: Path) -> None:
    words = "search --strategy uniform --trials 1 --recover off --quiet --no-report".split()
    output = str(run.with_name("new"))
    command(*words, "--config", f"{run}/own/options.toml", "--output", output)


def train_on(run: Path) -> None:
    command("train", "--resume", "--output", str(run), "--quiet")


def tune_on(run: Path) -> None:
    command("finetune", str(run), "--resume", "--quiet", "--epochs", "1")


def report(run: Path) -> None:
    command("report", str(run))


def compare(run: Path) -> None:
    command("compare", str(run), "--json")


def explain(run: Path) -> None:
    command("explain", str(run))


def status(run: Path) -> None:
    assert all(in_words(read_status(RunDirectory(run))))


def inspect(run: Path) -> None:
    command("inspect", "--weights", f"{run}/own/weights.safetensors", "--model", "demo")


def recall(run: Path) -> None:
    check_strategy("recall", from_run=str(run))


def figures(run: Path) -> None:
    directory = RunDirectory(run)
    costs, (limits, _) = costs_of(directory), limits_of(directory)
    predictions_of(directory)
    assert all(row["flops"] >= 0 for row in costs.values()) and limits.trials >= 0


def study(run: Path) -> None:
    policy = PruningPolicy.load(run / "policy.json")
    sizes = tuple(group.size for group in policy.groups.values())
    space = SearchSpace(tuple(policy.groups), sizes, tuple(-(-size // 10) for size in sizes))
    ledger = Ledger(space, RunDirectory(run).storage)
    ledger.begin_round("1", 2)
    assert all(np.isfinite(trial.value or 0.0) for trial in ledger.best(9))
    assert ledger.spent.keys() >= set()


def agent(run: Path) -> None:
    _, tensors = load_agent(run, DdpgConfig().hidden)
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def weights(run: Path) -> None:
    for path in (run / "own").glob("weights.*"):
        model = load_demo()
        load_weights(model, str(path))
        check_finite(model)


def checkpoint(run: Path) -> None:
    for path in (run / "checkpoints").glob("*.pt"):
        assert load_checkpoint(path)


def tuning_options(run: Path) -> None:
    stored = RunDirectory(run).training().load_config()
    FinetuneConfig.from_mapping(stored).to_mapping()


def history(run: Path) -> None:
    for path in run.glob("*history.jsonl"):
        Log(path).resume(10**6)


def training_options(run: Path) -> None:
    check = RunDirectory(run).method.load_config()
    assert isinstance(check, dict)


def file_options(run: Path) -> None:
    gather({"config": f"{run}/own/options.toml"})


def images(run: Path) -> None:
    assert load_splits(f"npz:{run}/own/images.npz").train.take([0]).inputs.shape[0] == 1


def classes(run: Path) -> None:
    assert Numbering.of_file(run / "own/classes.txt", ["3", "7"]).classes >= 2


def latency(run: Path) -> None:
    assert LatencyTable.load(run / "t.json").layers


def bound_by_latency(run: Path) -> None:
    words = "search --strategy uniform --trials 1 --recover off --quiet --no-report".split()
    output = str(run.with_name("bounded"))
    bound = ["--budget", "latency=0.9", "--no-verify-latency"]
    command(*words, *bound, "--latency-table", f"{run}/t.json", "--output", output)


@dataclass(frozen=True)
class FileKind:
    """A file, and what reads it.

    Attributes:
        made: name of the run that has it (`made_runs.MAKERS`).
        name: of the file in the run.
        readers: quick ones.
        commands: whole commands, which take a second or more.
    """

    made: str
    name: str
    readers: tuple[Reader, ...] = ()
    commands: tuple[Reader, ...] = ()


KINDS = (
    FileKind("a", "policy.json", (load, apply), (evaluate,)),
    FileKind("a", "pruned.safetensors", (load,), (evaluate,)),
    FileKind("a", "result.json", (recall, figures, compare), (report, evaluate, search_from)),
    FileKind("a", "config.toml", (resume, status), (evaluate, go_on)),
    FileKind("a", "study.db", (study, status, explain), (report, go_on)),
    FileKind("a", "groups.json", (explain, compare), (report,)),
    FileKind("a", "agent/agent.safetensors", (agent,)),
    FileKind("a", "own/weights.pt", (weights,)),
    FileKind("a", "own/weights.safetensors", (weights,), (inspect,)),
    FileKind("a", "own/images.npz", (images,)),
    FileKind("a", "own/classes.txt", (classes,)),
    FileKind("a", "own/options.toml", (file_options,), (with_options,)),
    FileKind("a", "run.log", (status,), (resume,)),
    FileKind("a", "finetune.toml", (tuning_options,), (tune_on,)),
    FileKind("a", "history.jsonl", (history,), (tune_on,)),
    FileKind("a", "checkpoints/finetune.pt", (checkpoint,), (tune_on,)),
    FileKind("b", "standing.json", (status,), (resume,)),
    FileKind("b", "checkpoints/recovery.pt", (checkpoint,), (resume,)),
    FileKind("t", "train.toml", (training_options,), (train_on,)),
    FileKind("t", "config.toml", (status,), (train_on,)),
    FileKind("t", "train-history.jsonl", (history,), (train_on,)),
    FileKind("t", "checkpoints/train.pt", (checkpoint,), (train_on,)),
    FileKind("l", "t.json", (latency,), (bound_by_latency,)),
)
