"""The public functions: search, and what is done with its outcome."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import scipy
import torch
from torch import Tensor, nn

from autoprune.agents import make_strategy
from autoprune.config import REMARKS, RENEWABLE, SearchConfig
from autoprune.data import Partition, SplitSizes, as_splits, partition
from autoprune.errors import DataError, ModelError, RunError, UsageError, type_of
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
from autoprune.progress import PlainProgress, Progress, SearchState
from autoprune.search_spaces.traits import describe
from autoprune.strategy import Candidate, SearchProblem, Strategy, Trial
from autoprune.structure import surgery
from autoprune.structure.inputs import device_of
from autoprune.study.ledger import Ledger
from autoprune.study.result import Outcome, frontier, stage_seconds
from autoprune.study.run_directory import RunDirectory, next_free
from autoprune.version import __version__

# Part of the user's time that the search itself may take; the finalists get the rest.
SEARCH_SHARE = 0.75
# Where the seconds of a session go, and those of all trials.
SESSION_STAGES = ("structure", "statistics", "paths", "judge", "strategy", "finalists")
TRIAL_STAGES = ("surgery", "batchnorm", "scoring")


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
    progress: Progress | bool | None = None,
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
        resume: continue the interrupted search in `output`, or a finished one with more trials or
            time.
        progress: told what happens; True prints lines on standard error.
        origin: where model and data came from, for `config.toml`.
        **options: fields of `SearchConfig`, `budget` above all.

    Raises:
        AutopruneError: anything that the user can mend, in one line.
    """
    began = time.monotonic()
    if not isinstance(progress, Progress):
        progress = PlainProgress() if progress else Progress()
    _check_model(model)
    valued = find_reward(DEFAULT_REWARD if reward is None else reward)
    config = SearchConfig.from_mapping({**options, "reward": valued.name})
    check_config(config)
    device = str(device_of(model))
    settings = {"autoprune": __version__, **(origin or {}), "device": device, **config.to_mapping()}
    run = RunDirectory(output or next_free(Path("runs"), type(model).__name__.lower()))
    before = _begun(run, settings, config) if resume else {}
    if not resume:
        run.check_free()
    seconds = dict.fromkeys(SESSION_STAGES, 0.0)

    # Optuna announces every trial of ours, and optional packages that it lacks.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    model = model.eval()
    images = draw_images(model, data, config, progress)
    inputs = images.calibration.inputs[:2] if example_inputs is None else example_inputs
    inputs = _check_example(inputs, images)
    with timed(seconds, "structure"):
        task = define_task(model, inputs, config, progress)
    judge = before.get("judge")
    bench = set_up(model, task, images, evaluate, config, progress, seconds, judge)
    if (dense := bench.dense.metric) is not None:
        progress.note(f"the dense network scores {dense:.4f} on the search images")
    if resume:
        renewed = {key: settings[key] for key in RENEWABLE if key in settings}
        run.save_config({**before, **renewed})
    else:
        run.create({**settings, "versions": _versions(), "judge": bench.judge_name})

    ledger = Ledger(task.space, run.storage)
    with _session(ledger, seconds, began):
        problem = _problem(task, bench, config)
        strategy = make_strategy(config.strategy, problem, **config.strategy_options)
        report = _explore(strategy, bench, config, valued, ledger, began, progress)
        strategy.save(run.agent_path)
        seconds["strategy"] = report.strategy_seconds
        with timed(seconds, "finalists"):
            end = began + (config.time or math.inf)
            finalist = run_off(_best(ledger), bench, valued, progress, end)
        policy = bench.builder.policy(finalist.measurement.widths)
        run.save_policy(policy)
        run.save_weights(finalist.network)
        result = {
            "version": 1,
            "strategy": config.strategy,
            "budget": config.budget if task.projection.constraints else None,
            "reward": config.reward,
            "seed": config.seed,
            "agent_from": strategy.agent_from,
            "judge": bench.judge_name,
            "reconstruction": finalist.reconstruction,
            **_outcome(model, finalist, task, images).report(),
            "search": {
                **_effort(ledger, report, bench, finalist),
                "limits": {"trials": problem.trials, "time": config.time},
                "signal_split": images.signal_split,
            },
            "seconds": _all_seconds(ledger, seconds),
            "frontier": frontier(ledger),
        }
        total = ledger.spent.get("total", 0.0) + time.monotonic() - began
        result["search"]["seconds"] = round(total, 3)
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
    _check_model(model)
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
    _check_model(model)
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


def draw_images(model: nn.Module, data: Any, config: SearchConfig, progress: Progress) -> Partition:
    """Return the images of a search, on the model's device.

    Raises:
        DataError: too few, not finite, or of a form that is not understood.
    """
    sizes = SplitSizes(config.calibration_samples, config.search_samples, config.selection_samples)
    images = partition(as_splits(data), sizes, config.seed, note=progress.note)
    return images.to(device_of(model))


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the first argument, model, must be a torch.nn.Module, but is {type_of(model)}."
        )


def _check_example(example: Tensor, images: Partition) -> Tensor:
    """Statistics are gathered where the trace saw layers: shapes must agree."""
    shape = images.calibration.inputs.shape[1:]
    if not isinstance(example, torch.Tensor) or example.shape[1:] != shape:
        seen = tuple(example.shape[1:]) if isinstance(example, torch.Tensor) else type(example)
        raise DataError(
            f"example_inputs have samples of {seen}, but the data's are {tuple(shape)}."
        )
    return example.to(images.calibration.inputs.device)


def _begun(run: RunDirectory, settings: Mapping[str, Any], config: SearchConfig) -> dict[str, Any]:
    """Return the configuration that a run was begun with.

    Raises:
        RunError: there is no run, or it is finished and no limit is raised.
        UsageError: it was begun with other options.
    """
    before = run.load_config()
    for key in sorted((settings.keys() | before.keys()) - {*RENEWABLE, *REMARKS}):
        if before.get(key) != settings.get(key):
            raise UsageError(
                f"cannot resume {str(run.path)!r} with {key}={settings.get(key)!r}: it was begun "
                f"with {before.get(key)!r}."
            )
    if run.is_finished:
        search = run.load_result().get("search", {})
        limits = search.get("limits", {})
        most, longest = limits.get("trials", 0), limits.get("time") or math.inf
        if (config.trials or 0) <= most and (config.time or math.inf) <= longest:
            raise RunError(
                f"the search in {str(run.path)!r} is finished ({search.get('trials')} trials): "
                "raise --trials or --time to go on."
            )
    return before


@contextmanager
def _session(ledger: Ledger, seconds: Mapping[str, float], began: float) -> Iterator[None]:
    """Write down what a session took, however it ends."""
    try:
        yield
    finally:
        ledger.end_session({**seconds, "total": time.monotonic() - began})


def _all_seconds(ledger: Ledger, seconds: Mapping[str, float]) -> dict[str, float | None]:
    """Return the seconds of all sessions by stage; `seconds` are those of the one that runs."""
    spent = ledger.spent
    return {
        **{stage: spent.get(stage, 0.0) + own for stage, own in seconds.items()},
        **dict.fromkeys(TRIAL_STAGES, 0.0),
        **stage_seconds(ledger),
        "recovery": None,
    }


def _problem(task: Task, bench: Bench, config: SearchConfig) -> SearchProblem:
    return SearchProblem(
        space=task.space,
        projection=task.projection,
        costs=task.costs,
        rankings=bench.rankings,
        traits=describe(task.structure),
        trials=config.trials or default_trials(len(task.space)),
        seed=config.seed,
    )


def _explore(
    strategy: Strategy,
    bench: Bench,
    config: SearchConfig,
    reward: Reward,
    ledger: Ledger,
    began: float,
    progress: Progress,
) -> LoopReport:
    """Search until the limit of trials or time."""
    deadline = began + SEARCH_SHARE * (config.time or math.inf)
    trials = strategy.problem.trials
    progress.note(
        f"{strategy.name}: up to {trials} trials over {len(strategy.problem.space)} groups"
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
    return report


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


def _effort(ledger: Ledger, report: LoopReport, bench: Bench, finalist: Finalist) -> dict[str, Any]:
    """Return what the search took; choosing the judge and the finalists count as evaluations."""
    searched = len(ledger) + bench.judging
    return {
        "trials": len(ledger),
        "evaluations": searched + len(finalist.judged),
        "image_forwards": bench.forwards * searched
        + sum(bench.final_forwards[repair] for repair in finalist.judged),
        "failed": report.failed,
        "best_value": _best(ledger)[0].value,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    plural = "s" if threads > 1 else ""
    return f"{platform.processor() or platform.machine()}, {threads} thread{plural}"


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{module.__name__: str(module.__version__) for module in (torch, np, scipy, optuna)},
    }


__all__ = ["Run", "apply_policy", "default_trials", "draw_images", "load_pruned", "search"]
