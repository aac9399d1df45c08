"""The public functions: search, sweep and train, and what is done with their outcome.

The file is long since each of them is documented in it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typing_extensions import Unpack

from autoprune.core.allocator import kept_memory
from autoprune.core.files import as_path
from autoprune.core.notes import forwarded_notes
from autoprune.core.policy import PruningPolicy
from autoprune.core.precision import fresh_casts
from autoprune.core.progress import PlainProgress, Progress
from autoprune.core.randomness import kept_random_states
from autoprune.cost.budget_sweep import Sweep
from autoprune.data import as_splits
from autoprune.engine.clock import Clock
from autoprune.engine.context import Evaluate
from autoprune.engine.export import export_network, named_splits, plan_export
from autoprune.engine.finetune import check_training, finetune_run
from autoprune.engine.search_task import Run, UserFunctions, interruptible, make_task, write_report
from autoprune.engine.sweep import SweepRuns, run_sweep
from autoprune.engine.train import run_training
from autoprune.engine.train_context import TrainContext, check_train
from autoprune.engine.training_task import FinetuneContext
from autoprune.errors import UsageError, type_of, user_code
from autoprune.evaluation.reward import Reward
from autoprune.evaluation.scoring import find_distance, find_evaluate
from autoprune.exporters.base import Exporter
from autoprune.methods.registry import Wanted
from autoprune.options.finetune import FinetuneConfig, FinetuneOptions
from autoprune.options.search import OPTIONS, SearchOptions, budgets_of
from autoprune.options.sparsify import SparsifyConfig, SparsifyOptions
from autoprune.options.train import TrainConfig, TrainOptions
from autoprune.reporting.report import report
from autoprune.structure import surgery
from autoprune.structure.inputs import Inputs, adapt_splits
from autoprune.structure.output_distance import Distance
from autoprune.structure.plain_weights import with_plain_weights
from autoprune.structure.surgery import deep_copy, with_own_sizes
from autoprune.structure.wrappers import plain_network
from autoprune.study.reload import load_network, load_trained
from autoprune.study.run_directory import RunDirectory, next_free
from autoprune.study.sweep_directory import SweepDirectory, SweepRecord
from autoprune.training.batchnorm_statistics import with_own_statistics
from autoprune.training.objective import TaskLoss, find_loss
from autoprune.training.processes import find_processes, refuse_several


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
    distance: Distance | str | None = None,
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
            What is wrapped (DataParallel, torch.compile) is searched and returned without the
            wrapper; weights that modules compute (weight norm, other parametrizations, masks of
            torch.nn.utils.prune) become plain parameters in what is returned.
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
            train it for a moment. With several `workers` it is called from as many threads at once,
            with `ray` in as many processes (docs/ray.md).
        distance: (a network's outputs, the dense network's) → scalar tensor, 0 where they are equal
            and about 1 where they have nothing in common: how the outputs of a network that gives
            no class scores are compared and weighed, for the score without an `evaluate` and in
            recovery; the function or its name, as for `evaluate`. By default squared errors in
            units of the variance, the mean over all outputs.
        reward: measurement → float (larger is better), or what names one (`find_reward`); −KL to
            the dense network by default, minus the distance of other outputs than class scores,
            or the score of `evaluate`.
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
    _network(model)
    functions = UserFunctions(evaluate, distance, reward)
    task = make_task(model, data, options, functions, _progress(progress))
    task = replace(task, example_inputs=example_inputs, origin=dict(origin or {}))
    clock = Clock(began, task.config.time, task.config.recover)
    if resume and not output:
        raise UsageError("resume=True needs output: the run directory of the search.")
    folder = None if output is None else as_path(output, "output")
    name = type(task.network).__name__.lower()
    return task.run(RunDirectory(folder or next_free(Path("runs"), name)), clock, resume)


@kept_memory()
@_undisturbed()
def sweep(
    model: nn.Module,
    sweep: str,
    *,
    data: Any,
    output: str | os.PathLike[str],
    evaluate: Evaluate | str | None = None,
    distance: Distance | str | None = None,
    reward: Reward | str | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
    origin: Mapping[str, Any] | None = None,
    **options: Unpack[SearchOptions],
) -> SweepRuns:
    """Bring the policies that an earlier run passed on its way onto many budgets.

    Every budget gets an ordinary run directory in `output`, named "flops-0.3" and so on; beside
    them `sweep.json` and `report.html` show accuracy against cost. The network is traced, and its
    statistics are gathered, once for all. A budget that is out of reach is left out, and says so.

    Args:
        model: the trained network, as `search` takes it.
        sweep: the budgets, e.g. "flops=0.3:0.9:0.1": from, to, step.
        data: as `search` takes it.
        output: the directory of all runs.
        evaluate: as `search` takes it.
        distance: likewise.
        reward: likewise.
        resume: continue the interrupted sweep in `output`; options must be the same.
        progress: told what happens; True prints lines on standard error.
        origin: where model and data came from, for the runs' `config.toml`.
        **options: fields of `SearchConfig`. Of these `from_run` must be given, the run whose
            policies are recalled (netadapt passes every budget); `budget` bounds other costs.

    Raises:
        AutopruneError: anything that the user can mend, in one line.
    """
    parsed = Sweep.parse(sweep)
    given: Mapping[str, Any] = options
    budgets = budgets_of(parsed, given)
    first = {**given, "budget": next(iter(budgets.values()))}
    _network(model)
    functions = UserFunctions(evaluate, distance, reward)
    task = make_task(model, data, first, functions, _progress(progress))
    task = replace(task, origin=dict(origin or {}))
    further = OPTIONS["budget"].read(given.get("budget"))
    asked = SweepRecord(str(parsed), {**task.settings(), "budget": further})
    folder = SweepDirectory(as_path(output, "output"))
    return run_sweep(task, budgets, asked, folder, resume)


def _progress(progress: Progress | bool | None) -> Progress:
    if isinstance(progress, Progress):
        return progress
    return PlainProgress() if progress else Progress()


def _renew_report(run: RunDirectory) -> None:
    """Write the page of a run again after its result has changed, if it has one."""
    if run.report_path.exists():
        write_report(run)


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
        policy = PruningPolicy.load(as_path(policy, "policy"))
    return surgery.apply_policy(model, policy)


@_undisturbed()
def load_pruned(
    model: nn.Module, run: str | os.PathLike[str], weights: str | None = None
) -> nn.Module:
    """Return the pruned network of a run: structure and weights.

    Args:
        model: the dense network's architecture; its weights do not matter.
        run: a run directory.
        weights: "cut", "recovered" or "finetuned", by default the last of these that there is; or
            "from_scratch".

    Raises:
        ModelError: the run is of another network.
        RunError: it is unfinished or damaged.
        UsageError: it has no such weights.
    """
    return load_network(_network(model), RunDirectory(as_path(run, "run")), weights)


@kept_memory()
@_undisturbed()
def finetune(
    model: nn.Module,
    run: str | os.PathLike[str],
    *,
    data: Any,
    loss: TaskLoss | str | None = None,
    evaluate: Evaluate | str | None = None,
    distance: Distance | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **options: Unpack[FinetuneOptions],
) -> Run:
    """Train the pruned network of a run further, with labels and the dense network's answers.

    The best network by the validation images, which are those that the search scored on, goes into
    the run directory; it is what `load_pruned` returns from then on.

    Args:
        model: the dense network with its trained weights; it is left as it was. In a run of
            `train` these lie in the run, and the model's own do not matter.
        run: the directory of a finished run.
        data: as `search` takes it; the same, so that validation images are not trained on.
        loss: (the network's outputs, targets) → scalar tensor, for tasks that are not
            classification: the function, or its name, `path/to/file.py:function` or
            `package.module:function`.
            Without it, class labels are learnt by cross entropy. Other networks, and data without
            labels, learn from the dense network alone.
        evaluate: model → score (higher is better), by which the best network is chosen instead of
            accuracy; named as `loss` is.
        distance: (a network's outputs, the dense network's) → scalar tensor, as `search` takes it:
            what the dense network teaches by, instead of KL or squared errors; named as `loss` is.
        resume: go on with a training that was interrupted; options must be the same.
        overwrite: replace an earlier training.
        progress: told what happens; True prints lines on standard error.
        **options: fields of `FinetuneConfig` (docs/options.md).

    Raises:
        AutopruneError: anything that the user can mend, in one line.
    """
    progress = _progress(progress)
    config = FinetuneConfig.from_mapping(options)
    directory = RunDirectory(as_path(run, "run"))
    valued, loss, apart = find_evaluate(evaluate), find_loss(loss), find_distance(distance)
    network = with_own_sizes(deep_copy(_network(model)).eval())
    policy = directory.load_policy()
    load_trained(network, directory)
    check_training(directory, config, resume, overwrite)
    processes = find_processes()
    lock = nullcontext() if processes.rank else directory.held()
    with forwarded_notes(progress), lock:
        splits = adapt_splits(as_splits(data), network)
        context = FinetuneContext(
            network, directory, splits, config, loss, valued, apart, processes, progress
        )
        with interruptible(lambda: directory.training(config.from_scratch).how_to_resume):
            done = finetune_run(context, resume)
        if processes.rank == 0:
            _renew_report(directory)
    return Run(directory.path, done.network, policy, done.result)


@kept_memory()
@_undisturbed()
def train(
    model: nn.Module,
    *,
    data: Any,
    method: Wanted,
    budget: str | Mapping[str, float | str] | None = None,
    loss: TaskLoss | str | None = None,
    evaluate: Evaluate | str | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
    origin: Mapping[str, Any] | None = None,
    **options: Unpack[TrainOptions],
) -> Run:
    """Train a network with a method that prepares it for the cut, cut it, and fine-tune it.

    The run directory is that of a search whose dense network is the one that the method trained.

    Args:
        model: the network, trained usually; it is left as it was. It teaches in both parts of the
            training unless `distill=False`.
        data: as `search` takes it.
        method: "slimming" or another name, `path/to/file.py:Class`, or the method itself, such as
            `Slimming(sparsity=1e-4)` (docs/training.md).
        budget: as `search` takes it; None where the method decides how much goes.
        loss: as `finetune` takes it.
        evaluate: as `search` takes it.
        output: the run directory; by default the next free `runs/<model>-<number>`.
        resume: go on with the training in `output`; options must be the same.
        progress: told what happens; True prints lines on standard error.
        origin: where model and data came from, for `config.toml`.
        **options: other fields of `TrainConfig`, `epochs` above all (docs/options.md).

    Raises:
        AutopruneError: anything that the user can mend, in one line.
    """
    progress = _progress(progress)
    refuse_several("training with a method")
    given = {**options, "method": method, "budget": budget}
    config = TrainConfig.from_mapping(given)
    network = _network(model)
    if resume and not output:
        raise UsageError("resume=True needs output: the run directory of the training.")
    folder = None if output is None else as_path(output, "output")
    directory = RunDirectory(folder or next_free(Path("runs"), type(network).__name__.lower()))
    functions = find_loss(loss), find_evaluate(evaluate)
    with forwarded_notes(progress), directory.held():
        splits = adapt_splits(as_splits(data), network)
        context = TrainContext(
            network, splits, config, directory, *functions, progress, origin or {}
        )
        check_train(context, resume)
        with interruptible(lambda: directory.method.how_to_resume):
            done = run_training(context, resume)
        if config.report:
            write_report(directory)
    return Run(directory.path, done.network, done.policy, done.result)


def sparsify(
    model: nn.Module,
    *,
    data: Any,
    amount: float | None = None,
    pattern: str = "unstructured",
    method: str = "obs",
    loss: TaskLoss | str | None = None,
    evaluate: Evaluate | str | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
    origin: Mapping[str, Any] | None = None,
    **options: Unpack[SparsifyOptions],
) -> Run:
    """Set single weights of a network to zero, in a pattern, and train the others.

    No channel goes. The run directory is that of `train`.

    Args:
        model: the trained network; it is left as it was. It teaches unless `distill=False`.
        data: as `search` takes it.
        amount: share of the weights that becomes zero; None for N:M.
        pattern: "unstructured", N:M such as "2:4", or ROWSxCOLUMNS such as "4x1".
        method: "obs", "magnitude" or "snip" (docs/sparsity.md).
        loss: as `finetune` takes it.
        evaluate: as `search` takes it.
        output: the run directory; by default the next free `runs/<model>-<number>`.
        resume: go on with the run in `output`; options must be the same.
        progress: told what happens; True prints lines on standard error.
        origin: where model and data came from, for `config.toml`.
        **options: other fields of `SparsifyConfig`, `epochs` above all (docs/options.md).

    Raises:
        AutopruneError: anything that the user can mend, in one line.
    """
    given = {"amount": amount, "pattern": pattern, "method": method}
    config = SparsifyConfig.from_mapping({**options, **given})
    if not resume:
        config.refuse_unused()
    return train(
        model, data=data, loss=loss, evaluate=evaluate, output=output, resume=resume,
        progress=progress, origin=origin, **config.training(),
    )  # fmt: skip


@_undisturbed()
def export(
    model: nn.Module,
    run: str | os.PathLike[str],
    *,
    data: Any = None,
    format: str | Exporter = "onnx",
    int8: bool = False,
    output: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Write the pruned network of a run as a file of some runtime, and check and time it there.

    Args:
        model: the dense network's architecture; its weights do not matter.
        run: a run directory, to which `export/` and what was found out are added.
        data: as `search` takes it; by default the data that the run names, unless these are code
            of your own. Files are checked on these inputs.
        format: "onnx", "pt2", "openvino", "executorch", "litert", or an exporter of your own.
        int8: quantise by the run's calibration samples (onnx and openvino).
        output: the file; by default `pruned` or `pruned-int8` in `RUN/export`, with the suffix of
            the format.

    Returns:
        The entry of "export" in `result.json`, which docs/export.md describes.

    Raises:
        AutopruneError: anything that the user can mend, in one line; no file is left then.
    """
    model, directory = _network(model), RunDirectory(as_path(run, "run"))
    file = None if output is None else as_path(output, "output")
    wanted = plan_export(directory, format, int8, file)
    splits = adapt_splits(
        named_splits(directory, model) if data is None else as_splits(data), model
    )
    entry = export_network(wanted, model, load_pruned(model, run), splits)
    _renew_report(directory)
    return entry


def _network(model: nn.Module) -> nn.Module:
    """Return the network that is meant, without wrappers and computed weights."""
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the first argument, model, must be a torch.nn.Module, but is {type_of(model)}."
        )
    return with_plain_weights(plain_network(model))


__all__ = [
    "Run",
    "SweepRuns",
    "apply_policy",
    "export",
    "finetune",
    "load_pruned",
    "report",
    "search",
    "sparsify",
    "sweep",
    "train",
    "with_own_statistics",
]
