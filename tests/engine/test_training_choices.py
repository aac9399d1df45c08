"""What a fine-tuning does where nothing is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoprune.data import Partition, SplitSizes, load_splits, partition
from autoprune.engine.training_choices import with_choices
from autoprune.engine.training_task import FinetuneContext
from autoprune.errors import UsageError
from autoprune.models.demo import load_demo
from autoprune.options.finetune import FinetuneConfig
from autoprune.options.training_options import is_as_begun
from autoprune.study.run_directory import RunDirectory

WHOLE, MIXED = (0.0, 4.0), (1.0, 2.0)


class Run(RunDirectory):
    """A run of which only one result is known."""

    def __init__(self, path: Path, result: dict[str, Any]) -> None:
        super().__init__(path)
        self._result = result

    def load_result(self) -> dict[str, Any]:
        """Return it."""
        return self._result


@pytest.fixture(scope="module")
def images() -> Partition:
    return partition(load_splits("digits"), SplitSizes(64, 64, 64), 0)


def context(path: Path, result: dict[str, Any] | None = None, **options: Any) -> FinetuneContext:
    config = FinetuneConfig(**options)
    return FinetuneContext(load_demo(), Run(path, result or {}), load_splits("digits"), config)


def absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.abs().mean()


@pytest.mark.parametrize(
    ("options", "optimizer", "mixture"),
    [
        ({}, "whitened", MIXED),
        ({"cutmix": 1.0}, "whitened", WHOLE),
        ({"mixup": 0.5, "temperature": 3.0}, "whitened", (0.5, 3.0)),
        ({"mixup": 0.0}, "whitened", WHOLE),
        ({"augment": "none"}, "whitened", WHOLE),
        ({"distill": False}, "whitened", WHOLE),
        ({"optimizer": "sgd"}, "sgd", WHOLE),
        ({"optimizer": "adamw", "mixup": 1.0}, "adamw", MIXED),
        ({"weight_decay": 0.1}, "sgd", WHOLE),
        ({"weight_decay": 0.0}, "whitened", MIXED),
        ({"from_scratch": True}, "sgd", WHOLE),
    ],
    ids=str,
)
def test_what_suits(
    options: dict[str, Any],
    optimizer: str,
    mixture: tuple[float, float],
    images: Partition,
    tmp_path: Path,
) -> None:
    config = with_choices(context(tmp_path, **options), images).config
    assert (config.optimizer, config.mixup, config.temperature) == (optimizer, *mixture)


@pytest.mark.parametrize(
    ("options", "augment"),
    [
        ({}, "trivial"),
        ({"cutmix": 1.0}, "trivial"),
        ({"mixup": 0.0}, "trivial"),
        ({"augment": "standard"}, "standard"),
        ({"augment": "none"}, "none"),
        ({"distill": False}, "auto"),
        ({"optimizer": "sgd"}, "auto"),
        ({"from_scratch": True}, "auto"),
    ],
    ids=str,
)
def test_images_of_which_the_dense_network_says_most(
    options: dict[str, Any], augment: str, images: Partition, tmp_path: Path
) -> None:
    config = with_choices(context(tmp_path, **options), images).config
    assert config.augment == augment


def test_with_a_loss_of_the_users_own_nothing_is_mixed(images: Partition, tmp_path: Path) -> None:
    own = context(tmp_path)
    chosen = with_choices(
        FinetuneContext(own.dense, own.run, own.splits, own.config, absolute), images
    )
    config = chosen.config
    assert (config.optimizer, config.mixup, config.augment) == ("whitened", 0.0, "auto")


def test_networks_that_whitened_does_not_suit(images: Partition, tmp_path: Path) -> None:
    sparse = {"train": {"sparsity": {}}}
    assert with_choices(context(tmp_path, sparse), images).config.optimizer == "sgd"
    with pytest.raises(UsageError, match="does not keep single weights at zero: choose sgd or"):
        with_choices(context(tmp_path, sparse, optimizer="whitened"), images)
    half = context(tmp_path)
    half.dense.to(torch.float16)
    assert with_choices(half, images).config.optimizer == "sgd"
    half = context(tmp_path, optimizer="whitened")
    half.dense.to(torch.float16)
    with pytest.raises(UsageError, match="does not train networks in float16"):
        with_choices(half, images)


@pytest.mark.parametrize(
    ("name", "begun", "own", "same"),
    [
        ("augment", "standard", "auto", True),  # the default of earlier versions
        ("augment", "none", "auto", False),
        ("augment", "auto", "standard", False),
        ("precision", "standard", "auto", False),
        ("seed", 1, 1, True),
    ],
)
def test_what_a_training_that_goes_on_was_begun_with(
    name: str, begun: Any, own: Any, same: bool
) -> None:
    assert is_as_begun(name, begun, own) is same
