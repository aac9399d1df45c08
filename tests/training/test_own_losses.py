"""Losses that a network computes itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.training.own_losses import annotations_argument, own_loss


class Told(nn.Module):
    def forward(self, images: Tensor, targets: Any = None) -> Any:
        return images, targets


def test_the_argument_for_annotations_is_known_by_its_name() -> None:
    assert annotations_argument(Told()) == "targets"
    assert annotations_argument(nn.Linear(2, 2)) is None


def test_losses_are_added_unless_one_of_them_is_their_sum() -> None:
    parts = {"boxes": torch.tensor(1.5), "classes": torch.tensor([2.0])}
    assert float(own_loss(parts)) == 3.5
    assert float(own_loss({**parts, "loss": torch.tensor(4.0)})) == 4.0


@pytest.mark.parametrize("outputs", [torch.ones(2), {}, {"boxes": torch.ones(3)}, [1.0]])
def test_anything_else_is_refused(outputs: Any) -> None:
    with pytest.raises(ModelError, match="no mapping of losses"):
        own_loss(outputs)
