"""The options of training with a method and cutting by what it learnt, as one frozen value."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from autoprune.agents.config import changes
from autoprune.cost.budget import UNBOUNDED
from autoprune.cost.registry import COSTS
from autoprune.errors import UsageError, spelt
from autoprune.methods.registry import KIND as METHODS
from autoprune.methods.registry import Wanted
from autoprune.options import kinds
from autoprune.options.component_tables import with_config
from autoprune.options.finetune import FinetuneConfig
from autoprune.options.method_options import METHOD_OPTIONS
from autoprune.options.option import Option, Panel, choices, declared_in, option, options_of
from autoprune.options.origin import Restrictions
from autoprune.options.search import SearchConfig
from autoprune.options.training_options import TrainingConfig, TrainingOptions
from autoprune.training.choices import EPOCHS

if TYPE_CHECKING:
    from typing_extensions import Self

    from autoprune.methods.base import TrainingMethod

_goal = partial(option, panel=Panel.GOAL, is_basic=True)
_training = partial(option, panel=Panel.TRAINING, is_basic=True)
_of_search = partial(declared_in, SearchConfig)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Restrictions, TrainingConfig):
    """How to train with a method and to cut; docs/options.md explains every option."""

    method: str | TrainingMethod = _goal(  # noqa: RUF009, it declares a field
        MISSING,
        kinds.METHOD,
        f"What shapes the network while it trains: {choices(METHODS.names)}, "
        "path/to/file.py:Class or package.module:Class.",
    )
    method_config: Mapping[str, Any] = _goal(
        {},
        METHOD_OPTIONS,
        "An option of the method, e.g. sparsity=1e-4; repeatable.",
        flag="--method-option",
    )
    budget: str = _goal(
        UNBOUNDED,
        kinds.BUDGET,
        f"Upper bounds on {choices(COSTS)}, as autoprune search takes them; without any the method "
        "decides how much goes, if it can.",
    )
    widths_from: str | None = _goal(
        None,
        kinds.RUN,
        "Instead of a budget: the widths that this run, e.g. of a search, has found are what the "
        "method aims at and the network is cut to; on the command line, its model, data and what "
        "it excluded are used unless others are given.",
    )
    epochs: float = _training(
        EPOCHS,
        kinds.NUMBER,
        "Passes over the training samples, those after the cut included; fractions too.",
        rule=kinds.ZERO_OR_MORE,
    )
    finetune_epochs: float | None = _training(
        None,
        kinds.NUMBER,
        "How many of them are fine-tuning after the cut; 0 for none (default: half).",
        rule=kinds.ZERO_OR_MORE,
    )
    round_to: int | str = _of_search("round_to")
    train_frozen: bool = _of_search("train_frozen")
    calibration_samples: int = _of_search("calibration_samples")
    search_samples: int = _of_search("search_samples")
    selection_samples: int = _of_search("selection_samples")
    report: bool = _of_search("report")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values; `method` may be a table of one method's options by its name.

        Raises:
            UsageError: an unknown key, a wrong type or a value out of range.
        """
        return super().from_mapping(with_config(values, "method"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.widths_from is not None and self.budget != UNBOUNDED:
            raise UsageError(
                f"{spelt('widths_from')} stands instead of {spelt('budget')}: give one of them."
            )
        if self.epochs_after > self.epochs:
            raise UsageError(
                f"{spelt('finetune_epochs')} {self.epochs_after:g} are more than all "
                f"{self.epochs:g} {spelt('epochs')}."
            )

    @property
    def epochs_after(self) -> float:
        """Epochs of fine-tuning after the cut."""
        return self.epochs / 2 if self.finetune_epochs is None else self.finetune_epochs

    @property
    def epochs_before(self) -> float:
        """Epochs with the method."""
        return self.epochs - self.epochs_after

    @property
    def title(self) -> str:
        """What the training is called in messages."""
        return "training"

    def shaping(self) -> FinetuneConfig:
        """Return how the network is trained with the method."""
        return self._training(self.epochs_before)

    def finetuning(self) -> FinetuneConfig:
        """Return how the cut network is trained."""
        return self._training(self.epochs_after)

    def _training(self, epochs: float) -> FinetuneConfig:
        shared = {one.name: getattr(self, one.name) for one in fields(TrainingConfig)}
        return FinetuneConfig(**{**shared, "epochs": epochs or None})

    def search(self) -> SearchConfig:
        """Return how the network is cut, but for what was learnt."""
        names = {one.name for one in fields(SearchConfig)} & {one.name for one in fields(self)}
        own = {"workers", "finetune_epochs", "logger"}  # those of training
        shared = {name: getattr(self, name) for name in names - own}
        return SearchConfig(**shared, strategy="global", trials=1, recover=0.0)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values, as in train.toml; those that say nothing are left out."""
        values = super().to_mapping()
        if not isinstance(self.method, (str, type)):
            values["method_config"] = changes(self.method.config, type(self.method).config)
        return {**values, "method": METHODS.name_of(self.method)}


OPTIONS: Mapping[str, Option] = options_of(TrainConfig)


class TrainOptions(TrainingOptions, total=False):
    """What `autoprune.train` takes for the other fields of `TrainConfig`."""

    method_config: Mapping[str, Any]
    widths_from: str | os.PathLike[str] | None
    finetune_epochs: float | None
    decide: str | Sequence[str]
    exclude: str | Sequence[str]
    exclude_outputs: str | Sequence[str]
    min_keep: float | str | Sequence[str] | Mapping[str, float] | None
    round_to: int | str
    train_frozen: bool
    calibration_samples: int
    search_samples: int
    selection_samples: int
    report: bool


__all__ = ["OPTIONS", "TrainConfig", "TrainOptions", "Wanted"]
