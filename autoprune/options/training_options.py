"""The options of every training on the loop, as one frozen value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from autoprune.errors import UsageError, did_you_mean, spelt
from autoprune.options import kinds
from autoprune.options.option import Panel, choices, option, options_of
from autoprune.training.choices import (
    AUGMENTATIONS,
    AUTO,
    EPOCHS,
    OPTIMIZERS,
    PRECISIONS,
    STANDARD,
    OptimizerDefaults,
)

if TYPE_CHECKING:
    from typing_extensions import Self

_training = partial(option, panel=Panel.TRAINING)
# Options of a training that mean something where no weight is trained.
_WITHOUT_EPOCHS = frozenset({"epochs", "batch", "workers", "seed", "logger"})

AUGMENT = (
    "Of images that autoprune reads: standard (padded crops, resized ones for image files, and "
    "mirroring), trivial (TrivialAugment besides), none"
)
"""What augmentations there are, for the help."""


def usual(option: str, optimizers: Mapping[str, OptimizerDefaults] = OPTIMIZERS) -> str:
    """Return the default of every optimizer, for the help."""
    return ", ".join(f"{getattr(own, option):g} for {name}" for name, own in optimizers.items())


def is_as_begun(name: str, begun: Any, own: Any) -> bool:
    """Return whether an option is what a training that goes on was begun with.

    Trainings of earlier versions have `augment = "standard"`, their default, which is the same.
    """
    return bool(begun == own) or (name == "augment" and (begun, own) == (STANDARD, AUTO))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train; docs/options.md explains every option.

    To add one, declare it here, and add the types that Python callers may pass to
    `TrainingOptions`.
    """

    epochs: float | None = _training(
        None,
        kinds.NUMBER,
        f"Passes over the training samples; fractions too (default: {EPOCHS:g} without --time).",
        rule=kinds.ABOVE_ZERO,
        is_basic=True,
    )
    batch: int = _training(128, kinds.AMOUNT, "Samples per step.")
    optimizer: str = _training("sgd", kinds.NAME, f"{choices(OPTIMIZERS, 'sgd')}.")
    learning_rate: float | None = _training(
        None,
        kinds.NUMBER,
        f"Its peak, from which it falls as half a cosine (default: {usual('rate')}).",
        rule=kinds.ABOVE_ZERO,
    )
    weight_decay: float | None = _training(
        None,
        kinds.NUMBER,
        f"Of kernels and matrices (default: {usual('decay')}).",
        rule=kinds.ZERO_OR_MORE,
    )
    warm_up: float = _training(
        0.05,
        kinds.NUMBER,
        "Share of the training in which the learning rate rises.",
        rule=kinds.SHARE_BELOW_ONE,
    )
    label_smoothing: float = _training(
        0.0, kinds.NUMBER, "Of the cross entropy.", rule=kinds.SHARE_BELOW_ONE
    )
    ema: float = _training(
        0.0,
        kinds.NUMBER,
        "Keep a moving average of the weights, with this decay per step, e.g. 0.999; 0 for none "
        "(default).",
        rule=kinds.SHARE_BELOW_ONE,
    )
    clip: float = _training(
        0.0,
        kinds.NUMBER,
        "Largest norm of the gradient; 0 for any (default).",
        rule=kinds.ZERO_OR_MORE,
    )
    precision: str = _training(
        "auto",
        kinds.NAME,
        "auto (default: bfloat16 where the device multiplies it natively), float32 or bfloat16.",
    )
    distill: bool = _training(
        True,
        kinds.TWO_WAY_SWITCH,
        "Learn from the dense network's answers, besides labels where there are any (default: "
        "yes).",
    )
    distill_weight: float = _training(
        0.9,
        kinds.NUMBER,
        "Share of these answers in the loss; labels have the rest.",
        rule=kinds.SHARE,
    )
    temperature: float | None = _training(
        4.0,
        kinds.NUMBER,
        "Softens class probabilities in distillation.",
        rule=kinds.ABOVE_ZERO,
    )
    distill_features: float = _training(
        0.0,
        kinds.NUMBER,
        "Weight of the squared error of what the last pooling reads, relative to the dense "
        "network's; 0 for none (default).",
        rule=kinds.ZERO_OR_MORE,
    )
    augment: str = _training(
        "auto",
        kinds.NAME,
        f"{AUGMENT}, or auto (default: standard where torchvision is installed, otherwise none).",
    )
    mixup: float | None = _training(
        0.0, kinds.NUMBER, "Alpha of mixup; 0 for none (default).", rule=kinds.ZERO_OR_MORE
    )
    cutmix: float = _training(
        0.0, kinds.NUMBER, "Alpha of CutMix; 0 for none (default).", rule=kinds.ZERO_OR_MORE
    )
    workers: int = _training(
        0, kinds.WHOLE, "Processes that read samples ahead.", rule=kinds.ZERO_OR_MORE
    )
    seed: int = _training(0, kinds.WHOLE, "Seed of all randomness.", rule=kinds.SEED)
    logger: tuple[str, ...] = _training(
        (),
        kinds.LOGGERS,
        "Where figures go besides history.jsonl: tensorboard, mlflow, wandb, trackio, "
        "path/to/file.py:Class or package.module:Class; repeatable.",
    )

    def __post_init__(self) -> None:
        for name, declared in options_of(type(self)).items():
            declared.check(getattr(self, name))
        for name, known in self._choices().items():
            if (value := getattr(self, name)) not in known:
                raise UsageError(f"unknown {name} {value!r}; {did_you_mean(value, known)}")

    def refuse_unused(self) -> None:
        """Refuse options of how weights train where there are no epochs to train them in.

        Raises:
            UsageError: one of them is given.
        """
        if self.epochs != 0:
            return
        for name, declared in options_of(TrainingConfig).items():
            if name not in _WITHOUT_EPOCHS and getattr(self, name) != declared.default:
                raise UsageError(
                    f"{spelt(name)} is how weights train, but there are no epochs: give "
                    f"{spelt('epochs')}, or leave it out."
                )

    @classmethod
    def _choices(cls) -> Mapping[str, Collection[str]]:
        """Return what some options may be."""
        return {"optimizer": OPTIMIZERS, "augment": AUGMENTATIONS, "precision": PRECISIONS}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values.

        Raises:
            UsageError: an unknown key, a wrong type or a value out of range.
        """
        options = options_of(cls)
        for key in values:
            if key not in options:
                raise UsageError(f"unknown option {key!r}; {did_you_mean(key, options)}")
        given = {key: value for key, value in values.items() if value is not None}
        return cls(**{key: options[key].read(value) for key, value in given.items()})

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values, as in TOML files; those that say nothing are left out."""
        values = {name: getattr(self, name) for name in options_of(type(self))}
        values |= {key: list(value) for key, value in values.items() if isinstance(value, tuple)}
        return {key: value for key, value in values.items() if value is not None}


class TrainingOptions(TypedDict, total=False):
    """What Python takes for every field of `TrainingConfig`."""

    epochs: float | None
    batch: int
    optimizer: str
    learning_rate: float | None
    weight_decay: float | None
    warm_up: float
    label_smoothing: float
    ema: float
    clip: float
    precision: str
    distill: bool
    distill_weight: float
    temperature: float | None
    distill_features: float
    augment: str
    mixup: float | None
    cutmix: float
    workers: int
    seed: int
    logger: str | Sequence[str]
