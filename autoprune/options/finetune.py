"""The options of fine-tuning, as one frozen value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

from autoprune.errors import UsageError, spelt
from autoprune.options import kinds
from autoprune.options.option import Option, Panel, option, options_of
from autoprune.options.training_options import AUGMENT, TrainingConfig, TrainingOptions, usual
from autoprune.training.choices import AUTO, FINETUNING_OPTIMIZERS, WHITENED

_training = partial(option, panel=Panel.TRAINING)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """How to fine-tune; docs/options.md explains every option."""

    optimizer: str = _training(
        AUTO,
        kinds.NAME,
        "whitened (AdamW in coordinates in which what a layer reads is uncorrelated; statistics of "
        "BN stay), sgd or adamw; auto (default): whitened, but sgd from scratch, with a weight "
        "decay, for detectors, in float16, and where single weights are zero.",
    )
    learning_rate: float | None = _training(
        None,
        kinds.NUMBER,
        "Its peak, from which it falls as half a cosine; of whitened, the relative change of a "
        f"layer's outputs in a step (default: {usual('rate', FINETUNING_OPTIMIZERS)}).",
        rule=kinds.ABOVE_ZERO,
    )
    temperature: float | None = _training(
        None,
        kinds.NUMBER,
        "Softens class probabilities in distillation (default: 2 with mixup, otherwise 4).",
        rule=kinds.ABOVE_ZERO,
    )
    augment: str = _training(
        AUTO,
        kinds.NAME,
        f"{AUGMENT}, or auto (default: none without torchvision; trivial where whitened teaches a "
        "classifier what the dense network answers; otherwise standard).",
    )
    mixup: float | None = _training(
        None,
        kinds.NUMBER,
        "Alpha of mixup; 0 for none (default: 1 where whitened teaches a classifier what the dense "
        "network answers to augmented images, unless cutmix is given; otherwise 0).",
        rule=kinds.ZERO_OR_MORE,
    )
    time: float | None = _training(
        None,
        kinds.SECONDS,
        "Train for 90s, 10m, 1h, …, or until --epochs are over.",
        rule=kinds.ABOVE_ZERO,
        is_basic=True,
    )
    from_scratch: bool = _training(
        False,
        kinds.SWITCH,
        "Train the same architecture from new weights instead, to compare; the files of the run "
        "and of fine-tuning stay.",
    )
    freeze_batchnorm: bool = _training(
        False,
        kinds.SWITCH,
        "Keep the running statistics of BN, to which the weights were fitted after the cut: for "
        "short trainings at a small learning rate, e.g. 0.0005; at larger ones the loss diverges.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer == WHITENED and (self.from_scratch or self.weight_decay):
            what = spelt("from_scratch" if self.from_scratch else "weight_decay")
            raise UsageError(f"{spelt('optimizer')} {WHITENED} and {what} exclude each other.")

    @classmethod
    def _choices(cls) -> Mapping[str, Collection[str]]:
        return {**super()._choices(), "optimizer": (AUTO, *FINETUNING_OPTIMIZERS)}

    @property
    def kind(self) -> str:
        """The key of the training in `result.json`."""
        return "from_scratch" if self.from_scratch else "finetune"

    @property
    def title(self) -> str:
        """What the training is called in messages."""
        return "training from scratch" if self.from_scratch else "fine-tuning"


OPTIONS: Mapping[str, Option] = options_of(FinetuneConfig)


class FinetuneOptions(TrainingOptions, total=False):
    """What `autoprune.finetune` takes for every field of `FinetuneConfig`."""

    time: float | str | None
    from_scratch: bool
    freeze_batchnorm: bool
