"""What is known of training with a method before it begins, and what cannot begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from autoprune.agents.registry import find_strategy
from autoprune.core.plugins import object_name
from autoprune.core.progress import Progress
from autoprune.cost.budget import Budget
from autoprune.data import Splits
from autoprune.engine.context import Evaluate
from autoprune.engine.finetune import TRAIN
from autoprune.engine.search_task import SearchTask
from autoprune.engine.training_task import FinetuneContext
from autoprune.errors import UsageError, shown, spelt
from autoprune.evaluation.reward import DEFAULT_REWARD, find_reward
from autoprune.methods.base import TrainingMethod
from autoprune.methods.registry import find_method
from autoprune.options.finetune import FinetuneConfig
from autoprune.options.stored import stored_settings
from autoprune.options.train import TrainConfig
from autoprune.options.training_options import is_as_begun
from autoprune.structure.frozen import is_entirely_frozen
from autoprune.study.recorded_widths import recorded_widths
from autoprune.study.run_directory import RunDirectory
from autoprune.training.objective import TaskLoss


@dataclass(frozen=True, eq=False)
class TrainContext:
    """What is known before the training.

    Attributes:
        model: the given network, without wrappers and computed weights; it is left as it was.
        splits: the data, as the network takes them.
        config: the options.
        run: the run directory.
        loss: the user's own; None for cross entropy.
        evaluate: the user's own score; None where networks are scored as classifiers.
        progress: told what happens.
        origin: where model and data came from.
    """

    model: nn.Module
    splits: Splits
    config: TrainConfig
    run: RunDirectory
    loss: TaskLoss | None = None
    evaluate: Evaluate | None = None
    progress: Progress = field(default_factory=Progress)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def method(self) -> TrainingMethod:
        """The method, not yet prepared for a network."""
        return check_method(self.config)

    @cached_property
    def widths(self) -> Mapping[str, int] | None:
        """Widths by group that the network gets whatever is learnt; None if there are none.

        A training that was begun has them itself: the run that they are from may have changed.
        """
        if self.config.widths_from is None:
            return None
        if self.run.config_path.exists():
            begun = stored_settings(self.run).get("strategy_config", {})
            own: Mapping[str, int] = find_strategy("given", **begun).config.widths
            return own
        widths = recorded_widths(RunDirectory(self.config.widths_from))
        if gone := [name for name, width in widths.items() if not width]:
            raise UsageError(
                f"the run in {self.config.widths_from!r} removed branches ({', '.join(gone)}), "
                "which training with a method cannot aim at: take one that decides channels alone."
            )
        return widths

    @cached_property
    def cut(self) -> SearchTask:
        """The search that is asked one thing: which widths follow from what was learnt."""
        reward, config = find_reward(DEFAULT_REWARD), self.config.search()
        least = self.method.least_score
        if not is_bounded(config.budget) and least is not None:
            config = replace(config, strategy_config={"threshold": least})
        if self.widths is not None:
            given = {"widths": dict(self.widths)}
            config = replace(config, strategy="given", strategy_config=given)
        if is_entirely_frozen(self.model):
            config = replace(config, train_frozen=True)
        return SearchTask(
            self.model, self.splits, config, reward, self.evaluate, None, {}, self.progress,
            origin=self.origin,
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """Return what `config.toml` says: the dense network of the run is the trained one."""
        own = {key: value for key, value in self.cut.settings().items() if key != "importance"}
        return {**own, "weights": self.run.method.weights_path.name}

    def options(self) -> dict[str, Any]:
        """Return what `train.toml` says: the options, and the weights of the given network."""
        functions = {"loss": self.loss, "evaluate": self.evaluate}
        named = {name: object_name(own) for name, own in functions.items() if own is not None}
        given = {"weights": self.origin["weights"]} if self.origin.get("weights") else {}
        return {**self.config.to_mapping(), **named, **given}

    def training(self, model: nn.Module, config: FinetuneConfig) -> FinetuneContext:
        """Return what one of the two parts of the training is given."""
        return FinetuneContext(
            model, self.run, self.splits, config, self.loss, self.evaluate,
            progress=self.progress, part_of=TRAIN,
        )  # fmt: skip


def is_bounded(budget: str) -> bool:
    """Return whether a budget bounds anything."""
    return bool(Budget.parse(budget).limits)


def check_method(config: TrainConfig) -> TrainingMethod:
    """Return the method that is meant, unless it lacks something; no network is needed for that.

    Raises:
        UsageError: there is no such method, an option is wrong, or a budget or epochs are needed.
    """
    method = find_method(config.method, config.method_config)
    if method.needs_training and not config.epochs:
        raise UsageError(f"{spelt('epochs')} must be above zero, but got 0.")
    decides = is_bounded(config.budget) or config.widths_from is not None
    if not decides and method.least_score is None:
        raise UsageError(
            f"the method {method.title!r} does not decide how much goes: give a budget, e.g. "
            f"{spelt('budget', 'flops=0.5')}, or a run with the widths: {spelt('widths_from')}."
        )
    return method


def check_train(context: TrainContext, resume: bool) -> None:
    """Refuse what cannot be begun or gone on with, before anything is trained.

    Raises:
        RunError: there is a run already, or none to go on with.
        UsageError: it was begun with other options.
    """
    run = context.run
    if not resume:
        run.check_free()
        return
    run.load_config()  # without it there is no run, whatever else is there
    begun, own = run.method.load_config(), context.options()
    for key in sorted(begun.keys() | own.keys()):
        if not is_as_begun(key, begun.get(key), own.get(key)):
            raise UsageError(
                f"cannot resume with {key}={shown(own.get(key))}: this training was begun with "
                f"{shown(begun.get(key))}."
            )
