"""What a run directory says of its search, read once and checked value by value."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from autoprune.core.records import Extent, Name, Natural, Quantity, Table, Text, Width
from autoprune.errors import RunError, UsageError
from autoprune.options.stored import stored_settings
from autoprune.study.group_records import GroupRecords
from autoprune.study.ledger import read_trials
from autoprune.study.result import read_result
from autoprune.study.run_directory import RunDirectory
from autoprune.study.trial import Trial

Stage: TypeAlias = Literal["dense", "pruned", "recovered", "finetuned"]

# The names of the stages in words.
STAGES: Mapping[Stage, str] = {
    "dense": "dense",
    "pruned": "right after the cut",
    "recovered": "recovered",
    "finetuned": "fine-tuned",
}


class Latency(msgspec.Struct, frozen=True):
    """Latencies, and what they were measured with."""

    backend: Text
    device: Text
    threads: Natural | None = None
    predicted_ms: Quantity | None = None
    predicted_dense_ms: Quantity | None = None
    measured_ms: Quantity | None = None
    measured_dense_ms: Quantity | None = None


class Costs(msgspec.Struct, frozen=True):
    """Costs of the dense and of the pruned network, by their keys in the result."""

    dense: Table[Quantity | None]
    pruned: Table[Quantity | None]
    latency: Latency | None = None


class Score(msgspec.Struct, frozen=True):
    """Scores of every stage; they need not be finite."""

    metric: Literal["top1", "custom"]
    dense: float | None
    pruned: float | None
    split: Text
    recovered: float | None = None
    finetuned: float | None = None
    from_scratch: float | None = None
    samples: Natural | None = None
    kl: float | None = None
    recovered_kl: float | None = None
    finetuned_kl: float | None = None


class Search(msgspec.Struct, frozen=True):
    """How much work the search was."""

    trials: Natural
    evaluations: Natural
    failed: Natural = 0
    seconds: Quantity = 0.0


class Finetune(msgspec.Struct, frozen=True):
    """How the winner was fine-tuned."""

    epochs: Quantity | None = None
    seconds: Quantity | None = None
    best_epoch: Quantity | None = None


class Sparsity(msgspec.Struct, frozen=True):
    """How many of the weights that could become zero are."""

    weights: Natural
    zeros: Natural


class Training(msgspec.Struct, frozen=True):
    """What training with a method, before the cut, left behind besides scores."""

    sparsity: Sparsity | None = None


class Export(msgspec.Struct, frozen=True):
    """One exported file, perhaps beside that of the dense network."""

    format: Text
    file: Name
    int8: bool = False
    bytes: Natural | None = None
    dense_bytes: Natural | None = None
    max_error: float | None = None
    latency_ms: Quantity | None = None
    dense_latency_ms: Quantity | None = None
    backend: Text | None = None
    device: Text | None = None
    threads: Natural | None = None


class Result(msgspec.Struct, frozen=True):
    """What of `result.json` is shown; older versions lack some keys, later ones add some."""

    strategy: Text
    budget: Text | None
    costs: Costs
    score: Score
    widths: Table[tuple[Width, Extent]]
    search: Search
    searched_by: Text | None = None
    reward: Text = "kl"
    seed: int = 0
    seconds: Table[Quantity | None] = msgspec.field(default_factory=dict)
    finetune: Finetune | None = None
    train: Training | None = None
    export: list[Export] = []


@dataclass(frozen=True, eq=False)
class RunRecord:
    """All that one run directory says.

    Attributes:
        run: the directory.
        label: what tells it from the other runs that are shown.
        config: its options, as in `config.toml`.
        result: what it ended with.
        trials: in the order of their evaluation.
        groups: what was known of the groups; None if an older version made the run.
    """

    run: RunDirectory
    label: str
    config: Mapping[str, Any]
    result: Result
    trials: Sequence[Trial]
    groups: GroupRecords | None

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.run.path

    @property
    def network(self) -> str:
        """What the network is called, if the run says."""
        return str(self.config.get("model", "a network given in Python"))

    @property
    def zeros(self) -> float | None:
        """Share of the weights that is zero; None if it was not made so."""
        sparsity = self.result.train and self.result.train.sparsity
        return sparsity.zeros / sparsity.weights if sparsity and sparsity.weights else None

    @property
    def asked(self) -> str:
        """The budget, or the loss that was allowed."""
        if (drop := self.config.get("max_drop")) is not None:
            smallest = self.config.get("minimize", "flops")
            return f"the smallest {smallest} that loses at most {drop:g} points"
        return self.result.budget or "no budget"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that have a score, from the dense network to what is handed over."""
        return tuple(one for one in STAGES if self.score(one) is not None)

    @property
    def handed_over(self) -> Stage:
        """The last stage."""
        return self.stages[-1] if self.stages else "pruned"

    @property
    def lost(self) -> float | None:
        """What the network that is handed over scores less than the dense one."""
        dense, last = self.score("dense"), self.score(self.handed_over)
        return None if dense is None or last is None else dense - last

    def score(self, stage: Stage) -> float | None:
        """Return accuracy, or the user's score, at a stage."""
        found: float | None = getattr(self.result.score, stage)
        return found

    def divergence(self, stage: Stage) -> float | None:
        """Return the KL divergence from the dense network at a stage."""
        keys = {"pruned": "kl", "recovered": "recovered_kl", "finetuned": "finetuned_kl"}
        return getattr(self.result.score, keys[stage]) if stage in keys else None

    def weights_file(self, stage: Stage) -> Path | None:
        """Return the file with the weights of a stage, None if there is none."""
        recovered = self.result.score.recovered is not None
        places = {
            "pruned": self.run.unrecovered_path if recovered else self.run.weights_path,
            "recovered": self.run.weights_path,
            "finetuned": self.run.training().weights_path,
        }
        found = places.get(stage)
        return found if found is not None and found.is_file() else None

    def share(self, key: str) -> float | None:
        """Return what is left of a cost, by its key in the result, as a part of the dense one."""
        dense, pruned = self.result.costs.dense.get(key), self.result.costs.pruned.get(key)
        return None if not dense or pruned is None else pruned / dense

    def is_like(self, other: RunRecord) -> bool:
        """Return whether both runs are of networks with the same groups and costs."""
        mine, theirs = (
            ({name: size for name, (_, size) in one.result.widths.items()}, one.result.costs.dense)
            for one in (self, other)
        )
        counted = {key for key in mine[1].keys() & theirs[1].keys() if key != "latency_ms"}
        return mine[0] == theirs[0] and all(mine[1][key] == theirs[1][key] for key in counted)


def read_runs(paths: Iterable[str | os.PathLike[str]]) -> list[RunRecord]:
    """Read some finished runs.

    Raises:
        UsageError: a directory is named twice.
        RunError: one is no run, not finished or damaged.
    """
    runs = [RunDirectory(path) for path in paths]
    places = Counter(run.path.resolve() for run in runs)
    names = Counter(place.name for place in places)
    found = []
    for run in runs:
        place = run.path.resolve()
        if places[place] > 1:
            raise UsageError(f"the run {str(run.path)!r} is given twice.")
        found.append(_read(run, place.name if names[place.name] == 1 else str(run.path)))
    return found


def _read(run: RunDirectory, label: str) -> RunRecord:
    result = read_result(run, Result)
    config = stored_settings(run)
    with run.stored_study() as study:
        trials = read_trials(study)
    for number, trial in enumerate(trials, 1):
        if len(trial.candidate.widths) != len(result.widths):
            raise RunError(f"trial {number} of the study in {str(run.path)!r} is of another run.")
    groups = run.load_groups()
    if groups is not None and [one.name for one in groups.groups] != list(result.widths):
        raise RunError(f"{str(run.groups_path)!r} is of another run.")
    return RunRecord(run, label, config, result, trials, groups)
