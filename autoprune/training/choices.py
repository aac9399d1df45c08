"""What a training may be told by name, and what applies where it is told nothing.

The command line reads this; nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

AUTO = "auto"

STANDARD, TRIVIAL, UNCHANGED = "standard", "trivial", "none"
AUGMENTATIONS = (AUTO, STANDARD, TRIVIAL, UNCHANGED)
"""Whatever suits the training, none without torchvision; padded or resized crops and mirroring;
these and TrivialAugment (Müller and Hutter 2021, "TrivialAugment: tuning-free yet state-of-the-art
data augmentation"); images as they are."""

SINGLE, BFLOAT16 = "float32", "bfloat16"
PRECISIONS = (AUTO, SINGLE, BFLOAT16)
"""Of matrix products: bfloat16 where the device multiplies it natively; the network's own;
bfloat16."""


@dataclass(frozen=True)
class OptimizerDefaults:
    """Options of an optimizer.

    Attributes:
        rate: peak learning rate.
        decay: weight decay.
    """

    rate: float
    decay: float


OPTIMIZERS: Mapping[str, OptimizerDefaults] = {
    "sgd": OptimizerDefaults(0.01, 1e-4),
    "adamw": OptimizerDefaults(3e-4, 0.05),
}
SGD, WHITENED = "sgd", "whitened"
FINETUNING_OPTIMIZERS = {WHITENED: OptimizerDefaults(0.006, 0.0), **OPTIMIZERS}
"""Those of a network that is trained already: what its layers read is known (`whitening.py`)."""
EPOCHS = 10.0
"""Passes over the samples where neither they nor a time are limited."""
