"""The public functions: search, and what is done with its outcome."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import scipy
import torch
from torch import nn
from typing_extensions import Unpack

from autoprune.agents.base import SearchProblem
from autoprune.core.allocator import kept_memory
from autoprune.core.files import misfits
from autoprune.core.policy import PruningPolicy
from autoprune.core.precision import fresh_casts
from autoprune.core.progress import PlainProgress, Progress
from autoprune.core.randomness import kept_random_states
from autoprune.cost.latency.model import LatencyCost
from autoprune.data import Partition, Samples, SplitSizes, as_splits, partition
from autoprune.data.forms import map_tensors, plain, sample_shapes
from autoprune.engine.clock import Session
from autoprune.engine.evaluators import Bench, Evaluate, set_up
from autoprune.engine.exploration import pose
from autoprune.engine.latency import Verifier, backend_here
from autoprune.engine.max_drop import Smallest, check_metric, find_smallest
from autoprune.engine.problem import Task, check_config, define_task
from autoprune.engine.recover import recover_finalist
from autoprune.engine.rounds import Arena, Contest
from autoprune.engine.summary import Summary
from autoprune.engine.trust import trust
from autoprune.errors import (
    DataError,
    ModelError,
    RunError,
    UsageError,
    shown,
    text_of,
    type_of,
    user_code,
)
from autoprune.evaluation.evaluator import timed
from autoprune.evaluation.reward import DEFAULT_REWARD, Reward, find_reward, on_the_scale_of
from autoprune.evaluation.scoring import find_evaluate
from autoprune.options.search import RENEWABLE, SearchConfig, SearchOptions
from autoprune.options.stored import (
    ORIGIN,
    REMARKS,
    in_todays_words,
    is_outdated,
    stored_settings,
)
from autoprune.structure import surgery
from autoprune.structure.inputs import Inputs, device_of, fitted, form_for
from autoprune.structure.surgery import deep_copy
from autoprune.structure.wrappers import plain_network
from autoprune.study.ledger import Ledger
from autoprune.study.result import limits_of
from autoprune.study.run_directory import RunDirectory, next_free
from autoprune.version import __version__

# What the options of a run meant that is of an older version (`config.is_outdated`).
OUTDATED = (
    "by a version that trained frozen weights, train_frozen=True today, and whose exclude is "
    "exclude_outputs today"
)


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


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Around a public function: it leaves the global random states, and does not end the process.

    Gradients can be taken inside, and weights changed, in whatever mode it is called.
    """

    def ended(reason: str) -> UsageError:
        return UsageError(f"code of yours ended the call: {reason}")

    with user_code(ended, passes=(Exception,)), kept_random_states(), fresh_casts():
        with torch.inference_mode(False):
            yield


@kept_memory()
@_undisturbed()
def search(
    model: nn.Module,
    example_inputs: Inputs | None = None,
    *,
    data: Any,
    evaluate: Evaluate | str | None = None,
    reward: Reward | str | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
    origin: Mapping[str, Any] | None = None,
    **options: Unpack[SearchOptions],
) -> Run:
    """Find how many channels each layer keeps under a budget, and cut the network down to that.

    Args:
        model: the trained network; the search works on a copy in evaluation mode, and leaves this
            one as it was: modes, buffers, hooks, gradients, and the global random states, too.
            Inside a wrapper (DataParallel, torch.compile) the network alone is searched and
            returned.
        example_inputs: a batch as the network takes it, in the form of the data's inputs; one of
            the data's by default.
        data: a DataLoader, a Dataset, or a dict of splits {"train", "val", "test"} of these.
            Batches are (inputs, targets), inputs alone, or (input, …, targets); inputs are a
            tensor, a tuple of positional arguments or a dict of arguments by name, samples first.
            A batch that is a dict has its targets under "labels", "label", "targets" or "target".
            Of a loader the samples that its sampler can draw are used.
            Floating inputs are brought to the precision of the network's parameters.
        evaluate: model → score (higher is better), for tasks that are not classification: the
            function, or `path/to/file.py:function` or `package.module:function`, which the run
            remembers. It scores candidates, finalists and the winner alike: keep images of your own
            to check the winner. Each time it is given a copy of the network as it would be handed
            out, in evaluation mode and with gradients enabled, and may do anything to it, such as
            train it for a moment. With several `workers` it is called from as many threads at once.
        reward: measurement → float (larger is better), or what names one (`find_reward`); −KL to
            the dense network by default, or the score of `evaluate`.
        output: the run directory; by default the next free `runs/<model>-<number>`.
        resume: continue the interrupted search in `output`, or a finished one with more trials,
            time or recovery.
        progress: told what happens; True prints lines on standard error.
        origin: where model and data came from, for `config.toml`.
        **options: fields of `SearchConfig`, `budget` above all (docs/options.md).

    Raises:
        AutopruneError: anything that the user can mend, in one line.
    """
    began = time.monotonic()
    if not isinstance(progress, Progress):
        progress = PlainProgress() if progress else Progress()
    wrapper, model = model, _network(model)
    if wrapper is not model:
        progress.note(f"the network inside {type_of(wrapper)} is searched, and returned without it")
    valued = find_reward(DEFAULT_REWARD if reward is None else reward)
    named = {"evaluate": evaluate} if isinstance(evaluate, str) else {}
    config = SearchConfig.from_mapping({**options, "reward": valued.name, **named})
    evaluate = find_evaluate(evaluate)
    check_config(config)
    session = Session(began, config.time, config.recover)
    device = str(device_of(model))
    settings = {"autoprune": __version__, **(origin or {}), "device": device, **config.to_mapping()}
    run = RunDirectory(output or next_free(Path("runs"), type(model).__name__.lower()))
    (run.load_config if resume else run.check_free)()  # before anything is written
    with run.held():
        if resume:
            before = _begun(run, settings, config, progress)
        else:
            before = _new(run, {**settings, **options, "reward": reward}, progress)

        # Optuna announces every trial of ours, and optional packages that it lacks.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        model = deep_copy(model).eval()
        images = draw_images(model, data, config, progress)
        inputs = images.calibration.first(2).inputs
        if example_inputs is not None:
            inputs = _check_example(model, example_inputs, inputs)
        with timed(session.seconds, "structure"):
            stop = session.search_deadline
            task = define_task(model, inputs, config, run.latency_path, progress, stop)
        judge = before.get("judge")
        repaired = before.get("repair_samples")
        bench = set_up(
            model, task, images, evaluate, config, progress, session.seconds, judge, repaired
        )
        session.count(*[bench.forwards()] * bench.judging)
        if config.max_drop is not None:
            check_metric(bench.dense)
        if (dense := bench.dense.metric) is not None:
            progress.note(f"the dense network scores {dense:.4f} on the search images")
        _write_down(run, before, settings, bench)
        ledger = Ledger(task.space, run.storage)
        valued = on_the_scale_of(valued, (t.measurement for t in ledger if t.measurement))
        with session.recorded(ledger):
            verifier = _verifier(model, inputs, task, config, progress)
            arena = Arena(config, bench, valued, ledger, session, progress, verifier)
            problem = pose(task, bench, config)
            contest, smallest = _compete(arena, problem)
            strategy, finalist = contest.strategy, contest.finalist
            if strategy.save(run.agent_path):
                progress.note(
                    f"what it learnt is in {run.agent_path}: use it with --agent {run.path}"
                )
            policy = bench.builder.policy(finalist.measurement.widths)
            run.save_policy(policy)
            run.save_weights(finalist.network)
            winner = recover_finalist(
                model, finalist, task, bench, images, valued, config, session, progress
            )
            if winner.recovered is not None:
                run.save_recovered(winner.network)
            result = Summary(
                model,
                config,
                images,
                task,
                bench,
                ledger,
                contest,
                winner,
                session,
                progress,
                problem.trials,
                smallest,
            ).report()
            run.save_result(result)
        return Run(run.path, winner.network, policy, result)


@_undisturbed()
def apply_policy(model: nn.Module, policy: PruningPolicy | str | os.PathLike[str]) -> nn.Module:
    """Return the model cut to a policy: structure only, its own weights sliced.

    Args:
        model: a network of the architecture that the policy was made for.
        policy: a policy, or the path of a `policy.json`.

    Raises:
        ModelError: the policy is for another network.
        RunError: the file cannot be read.
    """
    model = _network(model)
    if not isinstance(policy, PruningPolicy):
        policy = PruningPolicy.load(Path(policy))
    return surgery.apply_policy(model, policy)


@_undisturbed()
def load_pruned(model: nn.Module, run: str | os.PathLike[str]) -> nn.Module:
    """Return the pruned network of a run: structure and weights.

    Args:
        model: the dense network's architecture; its weights do not matter.
        run: a run directory.

    Raises:
        ModelError: the run is of another network.
        RunError: it is unfinished or damaged.
    """
    model = _network(model)
    directory = RunDirectory(run)
    policy = directory.load_policy()
    small = apply_policy(model, policy)
    state = directory.load_weights(small.state_dict())
    try:
        surgery.add_biases(small, state)
        surgery.add_buffers(small, state, state.buffers, policy)
        if wrong := misfits(state, small.state_dict()):
            raise ValueError(f"of another shape or type: {wrong[0]}")
        small.load_state_dict(state.with_defaults(small.state_dict()))
    except Exception as error:  # whatever a module's own way to load raises
        reason = " ".join(text_of(error).split())[:300]
        raise ModelError(f"the weights in {str(run)!r} do not fit the network: {reason}") from error
    return small.eval()


def draw_images(model: nn.Module, data: Any, config: SearchConfig, progress: Progress) -> Partition:
    """Return the images of a search, on the model's device.

    Raises:
        DataError: too few, not finite, or of a form that is not understood.
    """
    sizes = SplitSizes(config.calibration_samples, config.search_samples, config.selection_samples)
    images = partition(
        fitted(as_splits(data), model),
        sizes,
        config.seed,
        note=progress.note,
        step=lambda d, t: progress.step("images", d, t),
    )
    return images.to(device_of(model))


def _verifier(
    model: nn.Module, inputs: Inputs, task: Task, config: SearchConfig, progress: Progress
) -> Verifier | None:
    """Return what measures the winner; None where no latency is predicted."""
    latency = task.costs.get(LatencyCost.name)
    if not isinstance(latency, LatencyCost):
        return None
    backend = backend_here(latency.table, config, progress)
    return Verifier(model, inputs, latency.table, backend)


def _compete(arena: Arena, problem: SearchProblem) -> tuple[Contest, Smallest | None]:
    """Search under the budget, or under ever narrower ones where a loss is given instead."""
    config = arena.config
    if config.max_drop is None:
        return arena.hold(problem), None
    smallest = find_smallest(arena, problem, config.max_drop, config.minimize or "flops")
    return smallest.contest, smallest


def _network(model: nn.Module) -> nn.Module:
    """Return the network that is meant, without wrappers."""
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the first argument, model, must be a torch.nn.Module, but is {type_of(model)}."
        )
    return plain_network(model)


def _check_example(model: nn.Module, example: Inputs, like: Inputs) -> Inputs:
    """Statistics are gathered where the trace saw layers: forms and shapes must agree."""
    example = plain(example, "example_inputs")
    example = form_for(model, example, "example_inputs")(example)
    if sample_shapes(example) != sample_shapes(like):
        seen, own = (Samples(one, None).shape for one in (example, like))
        raise DataError(f"example_inputs have samples of {seen}, but the data's are {own}.")
    device = device_of(model)
    placed: Inputs = map_tensors(lambda one: one.to(device), example)
    return placed


def _begun(
    run: RunDirectory, settings: Mapping[str, Any], config: SearchConfig, progress: Progress
) -> dict[str, Any]:
    """Return the configuration that a run was begun with.

    An older version wrote fewer options down: those do what they do by default.

    Raises:
        RunError: there is no run, or it is finished and no limit is raised.
        UsageError: it was begun with other options.
    """
    stored = stored_settings(run)
    known = {*settings, *ORIGIN, *REMARKS, *(option.name for option in fields(SearchConfig))}
    if unknown := sorted(stored.keys() - known):
        option = f"{unknown[0]}={shown(stored[unknown[0]])}"
        raise UsageError(
            f"cannot resume {str(run.path)!r}: it was begun by autoprune "
            f"{stored.get('autoprune')!r} with {option}, an option that version "
            f"{__version__!r} does not have."
        )
    defaults = {**SearchConfig(config.budget).to_mapping(), "device": settings["device"]}
    before = {**defaults, **in_todays_words(stored)}
    older = f" ({OUTDATED})" if is_outdated(stored) else ""
    for key in sorted((settings.keys() | before.keys()) - {*RENEWABLE, *REMARKS}):
        if before.get(key) != settings.get(key):
            raise UsageError(
                f"cannot resume {str(run.path)!r} with {key}={shown(settings.get(key))}: it was "
                f"begun with {shown(before.get(key))}{older}."
            )
    if older:
        progress.note(f"{run.path} goes on as it was begun{older}")
    if run.is_finished:
        limits = limits_of(run)
        most, longest = limits["trials"], limits["time"] or math.inf
        recovered = (config.recover or 0.0) <= (limits["recover"] or 0.0)
        if (config.trials or 0) <= most and (config.time or math.inf) <= longest and recovered:
            raise RunError(
                f"the search in {str(run.path)!r} is finished ({limits['done']} trials): "
                "raise --trials, --time or --recover to go on."
            )
    return before


def _new(run: RunDirectory, named: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Return the configuration that a new run was begun with: none.

    What the caller names, the run may name later; objects are no names.

    Raises:
        RunError: another process has finished a run there since it was asked first.
    """
    run.check_free()
    if (failure := trust(run.path, named)) is not None:
        progress.note(failure)
    return {}


def _write_down(
    run: RunDirectory, before: Mapping[str, Any], settings: Mapping[str, Any], bench: Bench
) -> None:
    """Write `config.toml`: all settings of a new run, or those that a resumed one may renew."""
    chosen = {"judge": bench.judge_name, "repair_samples": len(bench.builder.repair.samples)}
    if before:
        renewed = {key: settings[key] for key in RENEWABLE if key in settings}
        run.save_config({**before, **renewed, **chosen})
    else:
        run.create({**settings, "versions": _versions(), **chosen})


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{module.__name__: str(module.__version__) for module in (torch, np, scipy, optuna)},
    }


__all__ = ["Run", "apply_policy", "draw_images", "load_pruned", "search"]
