"""The public functions: search, and what is done with its outcome.

The file is long since each of them is documented in it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
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
from autoprune.data import Partition, Samples, SplitSizes, as_splits, partition
from autoprune.data.forms import map_tensors, plain, sample_shapes
from autoprune.engine.begin import begin_run, is_complete, resume_run
from autoprune.engine.clock import Clock
from autoprune.engine.context import Evaluate, SearchContext
from autoprune.engine.export import export_network, named_splits, plan_export
from autoprune.engine.finetune import check_training, finetune_run
from autoprune.engine.pipeline import run_search
from autoprune.engine.problem import check_config, check_patterns
from autoprune.engine.training_task import FinetuneContext
from autoprune.errors import (
    DataError,
    Interrupted,
    UsageError,
    describe,
    type_of,
    user_code,
)
from autoprune.evaluation.reward import DEFAULT_REWARD, Reward, find_reward
from autoprune.evaluation.scoring import find_distance, find_evaluate
from autoprune.exporters.base import Exporter
from autoprune.options.finetune import FinetuneConfig, FinetuneOptions
from autoprune.options.search import SearchConfig, SearchOptions
from autoprune.reporting.report import report
from autoprune.structure import surgery
from autoprune.structure.inputs import Inputs, adapt_splits, device_of, input_adapter
from autoprune.structure.output_distance import Distance
from autoprune.structure.plain_weights import notes_on_weights, with_plain_weights
from autoprune.structure.surgery import deep_copy
from autoprune.structure.wrappers import notes_on_wrappers, plain_network
from autoprune.study.reload import load_network
from autoprune.study.run_directory import RunDirectory, next_free
from autoprune.training.objective import TaskLoss, find_loss
from autoprune.training.processes import find_processes
from autoprune.version import __version__

log = logging.getLogger(__name__)


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
def _interruptible(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """Around work that Ctrl-C may end: what follows is one line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(how_to_go_on()) from None


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
            train it for a moment. With several `workers` it is called from as many threads at once.
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
    if not isinstance(progress, Progress):
        progress = PlainProgress() if progress else Progress()
    given, model = model, _network(model)
    valued = find_reward(DEFAULT_REWARD if reward is None else reward)
    own = {"evaluate": evaluate, "distance": distance}
    named = {option: value for option, value in own.items() if isinstance(value, str)}
    config = SearchConfig.from_mapping({**options, "reward": valued.name, **named})
    evaluate, distance = find_evaluate(evaluate), find_distance(distance)
    check_config(config)
    check_patterns(model, config)
    # Optuna announces every trial of ours, and optional packages that it lacks.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    clock = Clock(began, config.time, config.recover)
    device = str(device_of(model))
    settings = {"autoprune": __version__, **(origin or {}), "device": device, **config.to_mapping()}
    if resume and not output:
        raise UsageError("resume=True needs output: the run directory of the search.")
    folder = None if output is None else as_path(output, "output")
    run = RunDirectory(folder or next_free(Path("runs"), type(model).__name__.lower()))
    (run.load_config if resume else run.check_free)()  # before anything is written
    with forwarded_notes(progress), run.held():
        for text in (*notes_on_wrappers(given), *notes_on_weights(given)):
            log.info("%s", text)
        begun: dict[str, Any] = {}
        if resume:
            begun = resume_run(run, settings, config)
            if is_complete(run, config):
                network = load_network(model, run, run.searched_weights)
                return Run(run.path, network, run.load_policy(), run.load_result())
        else:
            begin_run(run, {**settings, **options, "reward": reward})
        model = deep_copy(model).eval()
        images = draw_images(model, data, config, progress)
        inputs = images.calibration.first(2).inputs
        if example_inputs is not None:
            inputs = _check_example(model, example_inputs, inputs)
        context = SearchContext(
            model,
            inputs,
            images,
            config,
            run,
            reward=valued,
            evaluate=evaluate,
            distance=distance,
            begun=begun,
            clock=clock,
            progress=progress,
        )
        with _interruptible(lambda: run.how_to_resume):
            found = run_search(context, settings)
        if config.report:
            _report(run)
    return Run(run.path, found.network, found.policy, found.result)


def _renew_report(run: RunDirectory) -> None:
    """Write the page of a run again after its result has changed, if it has one."""
    if run.report_path.exists():
        _report(run)


def _report(run: RunDirectory) -> None:
    """Write the page of a run that is finished: whatever happens, the run is not lost for it."""
    try:
        report(run.path)
    except (Exception, KeyboardInterrupt) as error:
        log.warning("the report cannot be written: %s", describe(error))


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
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **options: Unpack[FinetuneOptions],
) -> Run:
    """Train the pruned network of a run further, with labels and the dense network's answers.

    The best network by the validation images, which are those that the search scored on, goes into
    the run directory; it is what `load_pruned` returns from then on.

    Args:
        model: the dense network with its trained weights; it is left as it was.
        run: the directory of a finished run.
        data: as `search` takes it; the same, so that validation images are not trained on.
        loss: (the network's outputs, targets) → scalar tensor, for tasks that are not
            classification: the function, or its name, `path/to/file.py:function` or
            `package.module:function`.
            Without it, class labels are learnt by cross entropy. Other networks, and data without
            labels, learn from the dense network alone.
        evaluate: model → score (higher is better), by which the best network is chosen instead of
            accuracy; named as `loss` is.
        resume: go on with a training that was interrupted; options must be the same.
        overwrite: replace an earlier training.
        progress: told what happens; True prints lines on standard error.
        **options: fields of `FinetuneConfig` (docs/options.md).

    Raises:
        AutopruneError: anything that the user can mend, in one line.
    """
    if not isinstance(progress, Progress):
        progress = PlainProgress() if progress else Progress()
    config = FinetuneConfig.from_mapping(options)
    directory = RunDirectory(as_path(run, "run"))
    valued, loss = find_evaluate(evaluate), find_loss(loss)
    network = deep_copy(_network(model)).eval()
    policy = directory.load_policy()
    check_training(directory, config, resume, overwrite)
    processes = find_processes()
    lock = nullcontext() if processes.rank else directory.held()
    with forwarded_notes(progress), lock:
        splits = adapt_splits(as_splits(data), network)
        context = FinetuneContext(
            network, directory, splits, config, loss, valued, processes, progress
        )
        with _interruptible(lambda: directory.training(config.from_scratch).how_to_resume):
            done = finetune_run(context, resume)
        if processes.rank == 0:
            _renew_report(directory)
    return Run(directory.path, done.network, policy, done.result)


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


def draw_images(model: nn.Module, data: Any, config: SearchConfig, progress: Progress) -> Partition:
    """Return the images of a search, on the model's device.

    Raises:
        DataError: too few, not finite, or of a form that is not understood.
    """
    sizes = SplitSizes(config.calibration_samples, config.search_samples, config.selection_samples)
    images = partition(
        adapt_splits(as_splits(data), model),
        sizes,
        config.seed,
        note=log.info,
        step=lambda d, t: progress.step("images", d, t),
    )
    return images.to(device_of(model))


def _network(model: nn.Module) -> nn.Module:
    """Return the network that is meant, without wrappers and computed weights."""
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the first argument, model, must be a torch.nn.Module, but is {type_of(model)}."
        )
    return with_plain_weights(plain_network(model))


def _check_example(model: nn.Module, example: Inputs, like: Inputs) -> Inputs:
    """Statistics are gathered where the trace saw layers: forms and shapes must agree."""
    example = plain(example, "example_inputs")
    example = input_adapter(model, example, "example_inputs")(example)
    if sample_shapes(example) != sample_shapes(like):
        seen, own = (Samples(one, None).shape for one in (example, like))
        raise DataError(f"example_inputs have samples of {seen}, but the data's are {own}.")
    device = device_of(model)
    placed: Inputs = map_tensors(lambda one: one.to(device), example)
    return placed


__all__ = [
    "Run",
    "apply_policy",
    "draw_images",
    "export",
    "finetune",
    "load_pruned",
    "report",
    "search",
]
