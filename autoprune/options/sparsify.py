"""The options of setting single weights to zero, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from autoprune.errors import UsageError, did_you_mean, spelt
from autoprune.options import kinds
from autoprune.options.option import Option, Panel, choices, declared_in, option, options_of
from autoprune.options.search import SearchConfig
from autoprune.options.train import TrainConfig
from autoprune.options.training_options import TrainingConfig, TrainingOptions
from autoprune.sparsity.choices import CRITERIA, OBS, UNSTRUCTURED, is_gradual, says_amount

_goal = partial(option, panel=Panel.GOAL, is_basic=True)
_of_search = partial(declared_in, SearchConfig)


@dataclass(frozen=True, kw_only=True)
class SparsifyConfig(TrainingConfig):
    """Which single weights become zero; docs/options.md explains every option."""

    amount: float | None = _goal(
        None,
        kinds.NUMBER,
        "Share of the weights that becomes zero, e.g. 0.75; N:M says that itself.",
        rule=kinds.SHARE_BELOW_ONE,
    )
    pattern: str = _goal(
        UNSTRUCTURED,
        kinds.NAME,
        "unstructured (default), N:M (of every M neighbouring input channels N stay, e.g. 2:4) or "
        "ROWSxCOLUMNS (blocks of outputs and input channels go as a whole, e.g. 4x1).",
    )
    method: str = _goal(
        OBS,
        kinds.NAME,
        f"What decides which: {choices(CRITERIA, OBS)}. obs: the others of a row make up for what "
        "goes, without labels; magnitude: the smallest go, on a cubic schedule if there are "
        "epochs; snip: those to which the loss is least sensitive, in whichever layer.",
    )
    epochs: float = option(
        0.0,
        kinds.NUMBER,
        "Passes over the training samples in which the other weights train; fractions too "
        "(default: none).",
        panel=Panel.TRAINING,
        rule=kinds.ZERO_OR_MORE,
        is_basic=True,
    )
    exclude: tuple[str, ...] = _of_search("exclude")
    train_frozen: bool = _of_search("train_frozen")
    calibration_samples: int = _of_search("calibration_samples")
    search_samples: int = _of_search("search_samples")
    selection_samples: int = _of_search("selection_samples")
    report: bool = _of_search("report")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in CRITERIA:
            hint = did_you_mean(self.method, CRITERIA)
            raise UsageError(f"unknown method {self.method!r}; {hint}")
        if says_amount(self.pattern) == (self.amount is not None):
            raise UsageError(
                f"pattern {self.pattern} says how much becomes zero: leave out {spelt('amount')}."
                if says_amount(self.pattern)
                else f"{spelt('amount')} is missing: the share that becomes zero, e.g. 0.75."
            )

    @property
    def epochs_after(self) -> float:
        """Epochs in which all zeros are there: half of them where weights go gradually."""
        return self.epochs / 2 if is_gradual(self.method, self.pattern) else self.epochs

    def training(self) -> dict[str, Any]:
        """Return it as what `autoprune.train` takes: a training after which no channel goes."""
        own = {one.name for one in fields(self)} & {one.name for one in fields(TrainConfig)}
        shared = {name: getattr(self, name) for name in own - {"method"}}
        given = {"amount": self.amount, "pattern": self.pattern, "criterion": self.method}
        return {
            **{name: value for name, value in shared.items() if value is not None},
            "method": "sparsify",
            "method_config": {name: value for name, value in given.items() if value is not None},
            "finetune_epochs": self.epochs_after,
        }


OPTIONS: Mapping[str, Option] = options_of(SparsifyConfig)


class SparsifyOptions(TrainingOptions, total=False):
    """What `autoprune.sparsify` takes for the other fields of `SparsifyConfig`."""

    exclude: str | Sequence[str]
    train_frozen: bool
    calibration_samples: int
    search_samples: int
    selection_samples: int
    report: bool
