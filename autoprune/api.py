"""The public functions: search, and what is done with its outcome."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import scipy
import torch
from torch import Tensor, nn

from autoprune.agents import make_strategy
from autoprune.config import SearchConfig
from autoprune.data import Partition, SplitSizes, as_splits, partition
from autoprune.errors import DataError, ModelError, RunError, UsageError
from autoprune.evaluation.evaluator import timed
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.reward import DEFAULT_REWARD, Reward, find_reward
from autoprune.evaluation.scoring import score_split
from autoprune.evaluation.stopwatch import paired_latency_ms
from autoprune.loop import LoopReport, run_loop
from autoprune.memory import kept_memory
from autoprune.pipeline import (
    FINALISTS,
    Bench,
    Evaluate,
    Finalist,
    Task,
    check_config,
    define_task,
    run_off,
    set_up,
)
from autoprune.policy import PruningPolicy
from autoprune.progress import Progress, SearchState
from autoprune.search_spaces.traits import describe
from autoprune.strategy import Candidate, SearchProblem, Trial
from autoprune.structure import surgery
from autoprune.structure.inputs import device_of
from autoprune.study.ledger import Ledger
from autoprune.study.result import Outcome, frontier, stage_seconds
from autoprune.study.run_directory import RunDirectory, next_free
from autoprune.version import __version__

# Part of the user's time that the search itself may take; the finalists get the rest.
SEARCH_SHARE = 0.75
# Where the seconds of a search go, in `result.json`.
STAGES = (
    *("structure", "statistics", "paths", "judge", "surgery", "batchnorm", "scoring"),
    *("strategy", "finalists", "recovery"),
)
# Options that may change when a search is resumed, and remarks in the configuration.
RENEWABLE = {"trials", "time", "autoprune", "versions"}


@dataclass(frozen=True, eq=False)
class Run:
    """A finished search.

    Attributes:
        path: its run directory.
        model: the pruned network, in evaluation mode.
        policy: which units stay.
        result: what is in `result.json`.
    """

    path: Path
    model: nn.Module = field(repr=False)
    policy: PruningPolicy = field(repr=False)
    result: Mapping[str, Any] = field(repr=False)


@kept_memory()
def search(
    model: nn.Module,
    example_inputs: Tensor | None = None,
    *,
    data: Any,
    evaluate: Evaluate | None = None,
    reward: Reward | str | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    origin: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Find how many channels each layer keeps under a budget, and cut the network down to that.

    Args:
        model: the trained network; it is not changed, but put into evaluation mode.
        example_inputs: a batch as the network takes it; one of the data's by default.
        data: a DataLoader, a Dataset, or a dict of splits {"train", "val", "test"} of these;
            batches are (inputs, targets).
        evaluate: model → score (higher is better), for tasks that are not classification. It judges
            candidates, finalists and the winner alike: keep images of your own to check the winner.
        reward: measurement → float (larger is better), or what names one (`find_reward`); −KL to
            the dense network by default, or the score of `evaluate`.
        output: the run directory; by default the next free `runs/<model>-<number>`.
        resume: continue the interrupted search in `output`.
        progress: told what happens.
        origin: where model and data came from, for `config.toml`.
        **options: fields of `SearchConfig`, `budget` above all.

    Raises:
        AutopruneError: anything that the user can mend, in one line.
    """
    began = time.monotonic()
    progress = progress or Progress()
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch.nn.Module, but got a {type(model).__name__}.")
    valued = find_reward(DEFAULT_REWARD if reward is None else reward)
    config = SearchConfig.from_mapping({**options, "reward": valued.name})
    check_config(config)
    settings = {"autoprune": __version__, **(origin or {}), **config.to_mapping()}
    run = RunDirectory(output or next_free(Path("runs"), type(model).__name__.lower()))
    _check_output(run, settings, resume)
    seconds = dict.fromkeys(STAGES, 0.0)

    # Optuna announces every trial of ours, and optional packages that it lacks.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    model = model.eval()
    images = draw_images(model, data, config)
    inputs = images.calibration.inputs[:2] if example_inputs is None else example_inputs
    inputs = _check_example(inputs, images)
    with timed(seconds, "structure"):
        task = define_task(model, inputs, config, progress)
    bench = set_up(model, task, images, evaluate, config, progress, seconds)
    if (dense := bench.dense.metric) is not None:
        progress.note(f"the dense network scores {dense:.4f} on the search images")
    if not resume:
        run.create({**settings, "versions": _versions()})

    deadline = math.inf if config.time is None else began + SEARCH_SHARE * config.time
    ledger, report = _explore(task, bench, config, valued, run, deadline, progress)
    with timed(seconds, "finalists"):
        finalist = run_off(_best(ledger), bench, valued, progress)
    policy = bench.builder.policy(finalist.measurement.widths)
    run.save_policy(policy)
    run.save_weights(finalist.network)
    result = {
        "version": 1,
        "strategy": config.strategy,
        "budget": config.budget if task.projection.constraints else None,
        "reward": config.reward,
        "seed": config.seed,
        "agent_from": None,
        "judge": bench.judge_name,
        "reconstruction": finalist.reconstruction,
        **_outcome(model, finalist, task, images).report(),
        "search": {**_effort(ledger, report, bench), "signal_split": images.signal_split},
        "seconds": {**seconds, **stage_seconds(ledger), "strategy": report.strategy_seconds},
        "frontier": frontier(ledger),
    }
    result["search"]["seconds"] = round(time.monotonic() - began, 3)
    run.save_result(result)
    return Run(run.path, finalist.network, policy, result)


def default_trials(groups: int) -> int:
    """Return how many evaluations a search of so many groups gets if nobody says."""
    return min(max(40, 4 * groups), 400)


def apply_policy(model: nn.Module, policy: PruningPolicy | str | os.PathLike[str]) -> nn.Module:
    """Return the model cut to a policy: structure only, its own weights sliced.

    Args:
        model: a network of the architecture that the policy was made for.
        policy: a policy, or the path of a `policy.json`.

    Raises:
        ModelError: the policy is for another network.
        RunError: the file cannot be read.
    """
    if not isinstance(policy, PruningPolicy):
        policy = PruningPolicy.load(Path(policy))
    return surgery.apply_policy(model, policy)


def load_pruned(model: nn.Module, run: str | os.PathLike[str]) -> nn.Module:
    """Return the pruned network of a run: structure and weights.

    Args:
        model: the dense network's architecture; its weights do not matter.
        run: a run directory.

    Raises:
        ModelError: the run is of another network.
        RunError: it is unfinished or damaged.
    """
    directory = RunDirectory(run)
    small = apply_policy(model, directory.load_policy())
    tensors = directory.load_weights()
    surgery.add_biases(small, tensors)
    try:
        small.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"the weights in {str(run)!r} do not fit the network: {reason}") from error
    return small.eval()


def draw_images(model: nn.Module, data: Any, config: SearchConfig) -> Partition:
    """Return the images of a search, on the model's device.

    Raises:
        DataError: too few, not finite, or of a form that is not understood.
    """
    sizes = SplitSizes(config.calibration_samples, config.search_samples, config.selection_samples)
    images = partition(as_splits(data), sizes, config.seed)
    return images.to(device_of(model))


def _check_example(example: Tensor, images: Partition) -> Tensor:
    """Statistics are gathered where the trace saw layers: shapes must agree."""
    shape = images.calibration.inputs.shape[1:]
    if not isinstance(example, torch.Tensor) or example.shape[1:] != shape:
        seen = tuple(example.shape[1:]) if isinstance(example, torch.Tensor) else type(example)
        raise DataError(
            f"example_inputs have samples of {seen}, but the data's are {tuple(shape)}."
        )
    return example.to(images.calibration.inputs.device)


def _check_output(run: RunDirectory, settings: Mapping[str, Any], resume: bool) -> None:
    if not resume:
        run.check_free()
        return
    before = run.load_config()
    for key in sorted((settings.keys() | before.keys()) - RENEWABLE):
        if before.get(key) != settings.get(key):
            raise UsageError(
                f"cannot resume {str(run.path)!r} with {key}={settings.get(key)!r}: it was begun "
                f"with {before.get(key)!r}."
            )


def _explore(
    task: Task,
    bench: Bench,
    config: SearchConfig,
    reward: Reward,
    run: RunDirectory,
    deadline: float,
    progress: Progress,
) -> tuple[Ledger, LoopReport]:
    trials = config.trials or default_trials(len(task.space))
    problem = SearchProblem(
        space=task.space,
        projection=task.projection,
        costs=task.costs,
        rankings=bench.rankings,
        traits=describe(task.structure),
        trials=trials,
        seed=config.seed,
    )
    strategy = make_strategy(config.strategy, problem, **config.strategy_options)
    ledger = Ledger(task.space, run.storage)
    progress.note(
        f"{strategy.name}: up to {trials} trials over {len(task.space)} groups"
        + (f", {len(ledger)} of them done before" if len(ledger) else "")
    )
    teller = _teller(ledger, trials, progress)

    def measure(candidate: Candidate) -> Measurement:
        return bench.judge.measure(candidate.widths, candidate.base)

    report = run_loop(strategy, measure, reward, ledger, trials, deadline, teller)
    if not _best(ledger):
        failed = [trial.error for trial in ledger if trial.error]
        raise RunError(
            "no trial succeeded before the search ended; "
            + (f"the last one failed because {failed[-1]}; " if failed else "")
            + "give it more time or trials."
        )
    return ledger, report


def _best(ledger: Ledger) -> list[Trial]:
    return ledger.best(FINALISTS)


def _teller(ledger: Ledger, trials: int, progress: Progress) -> Callable[[Trial], None]:
    def tell(trial: Trial) -> None:
        if trial.measurement is None or trial.value is None:
            detail = f"failed: {trial.error}"
        else:
            scores = trial.measurement.scores
            shown = {"kl": scores.kl, "top1": scores.top1, "score": scores.custom}
            detail = ", ".join(f"{k} {v:.4f}" for k, v in shown.items() if v is not None)
        best = ledger.best(1)
        progress.searched(SearchState(len(ledger), trials, best[0].value if best else None, detail))

    return tell


def _outcome(model: nn.Module, finalist: Finalist, task: Task, images: Partition) -> Outcome:
    """Score once on the test split (without one, or with the user's own score, as selected)."""
    small, chosen = finalist.network, finalist.measurement
    dense, pruned, split = chosen.dense, chosen.scores, "selection"
    if pruned.custom is not None:
        split = "user"
    if images.test is not None and pruned.custom is None:
        (dense, pruned), split = score_split(model, [small], images.test), "test"
    one = images.calibration.inputs[:1]
    return Outcome(
        winner=chosen,
        sizes=task.space.sizes,
        dense=dense,
        pruned=pruned,
        split=split,
        latencies_ms=paired_latency_ms([model, small], one),
        device=_device_name(one.device),
    )


def _effort(ledger: Ledger, report: LoopReport, bench: Bench) -> dict[str, Any]:
    """Return what the search took; choosing the judge and the finalists count as evaluations."""
    finalists = _best(ledger)
    evaluations = len(ledger) + len(bench.finals) * len(finalists) + bench.judging
    return {
        "trials": len(ledger),
        "evaluations": evaluations,
        "image_forwards": bench.forwards * (len(ledger) + bench.judging)
        + bench.final_forwards * len(finalists),
        "failed": report.failed,
        "best_value": finalists[0].value,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{module.__name__: str(module.__version__) for module in (torch, np, scipy, optuna)},
    }


__all__ = ["Run", "apply_policy", "default_trials", "draw_images", "load_pruned", "search"]
