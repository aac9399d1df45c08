"""What a fine-tuning does where its options leave it open: optimizer, images, temperature."""

from __future__ import annotations

from dataclasses import replace

import torch

from autoprune.data import Partition, Samples
from autoprune.engine.training_task import FinetuneContext
from autoprune.engine.validation import number_of_classes
from autoprune.errors import UsageError, spelt
from autoprune.training.augmentation import is_augmented, suits_trivial
from autoprune.training.choices import AUTO, SGD, TRIVIAL, WHITENED
from autoprune.training.objective import Distillation
from autoprune.training.own_losses import annotations_argument

# Alpha of mixup where a classifier learns from the dense network, which says little more of its own
# training images than their labels do (Beyer et al. 2022, "Knowledge distillation: a good teacher
# is patient and consistent", section 3). For the same reason they get TrivialAugment then.
MIXUP = 1.0
# Temperatures of distillation: with mixed images, and without.
OF_MIXED, OF_WHOLE = 2.0, Distillation.temperature


def with_choices(context: FinetuneContext, images: Partition) -> FinetuneContext:
    """Return the context with what suits where nothing is asked for.

    Args:
        context: what is known.
        images: as the search had them.

    Raises:
        UsageError: the optimizer that is asked for does not suit.
    """
    config = replace(context.config, optimizer=_optimizer(context, images))
    learns = _learns_answers(replace(context, config=config), images)
    if config.mixup is None:
        config = replace(config, mixup=MIXUP if learns and not config.cutmix else 0.0)
    if config.augment == AUTO and learns and suits_trivial(images.recovery):
        config = replace(config, augment=TRIVIAL)
    if config.temperature is None:
        config = replace(config, temperature=OF_MIXED if config.mixup else OF_WHOLE)
    return replace(context, config=config)


def _optimizer(context: FinetuneContext, images: Partition) -> str:
    """Return the optimizer: sgd, where whitened would not do.

    Raises:
        UsageError: whitened is asked for there.
    """
    config = context.config
    whys = {
        "does not keep single weights at zero": "sparsity"
        in context.run.load_result().get("train", {}),
        "does not suit networks that return their losses": bool(
            images.search.annotations and annotations_argument(context.dense)
        ),
        "does not train networks in float16": any(
            one.dtype == torch.float16 for one in context.dense.parameters()
        ),
    }
    why = next((reason for reason, applies in whys.items() if applies), None)
    if config.optimizer == WHITENED and why is not None:
        raise UsageError(f"{spelt('optimizer')} {WHITENED} {why}: choose {SGD} or adamw.")
    if config.optimizer != AUTO:
        return config.optimizer
    return SGD if why or config.from_scratch or config.weight_decay else WHITENED


def _learns_answers(context: FinetuneContext, images: Partition) -> bool:
    """Say whether a classifier learns the dense network's answers to augmented images.

    In whitened coordinates: what they are worth was measured there alone.
    """
    config = context.config
    if config.optimizer != WHITENED or not config.distill or context.loss:
        return False
    if not is_augmented(images.recovery, config.augment):
        return False
    validation = Samples.join([images.search, images.selection])
    return number_of_classes(context.dense, validation) is not None
