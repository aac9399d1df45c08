from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.errors import UsageError
from autoprune.training.features import FeatureMatching, LastPooling, match_features
from autoprune.training.objective import Distillation, Objective, Teacher
from autoprune.training.random_batches import Batch

INPUTS = torch.arange(32.0).reshape(2, 1, 4, 4)


def network(channels: int) -> nn.Module:
    torch.manual_seed(channels)
    return nn.Sequential(
        nn.MaxPool2d(2),
        nn.Conv2d(1, channels, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 3),
    ).eval()


class Mean(nn.Module):
    """Pools without a module."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean((2, 3))


@pytest.mark.parametrize(
    "pool", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(4), nn.MaxPool2d(4), Mean()]
)
def test_the_input_of_the_last_pooling_is_recorded(pool: nn.Module) -> None:
    with LastPooling() as recorded:
        pool(nn.functional.max_pool2d(INPUTS, 1) + 1)
    assert torch.equal(recorded.source, INPUTS + 1)


def test_the_error_is_relative_to_the_kept_dense_features() -> None:
    own, dense = LastPooling(), LastPooling()
    own.source = torch.tensor([[[1.0], [3.0]]])
    dense.source = torch.tensor([[[2.0], [9.0], [4.0]]])
    error = FeatureMatching(1.0, torch.tensor([0, 2])).error(own, dense)
    assert error.item() == pytest.approx(((1 + 1) / 2) / ((4 + 16) / 2))


def test_kept_channels_are_those_that_the_next_layer_reads() -> None:
    keep = {"4.weight": {1: torch.tensor([1, 3])}, "1.weight": {0: torch.tensor([1, 3])}}
    found = match_features(network(4), network(2), keep, INPUTS, 0.5)
    assert found.kept.tolist() == [1, 3] and found.weight == 0.5
    assert match_features(network(4), network(4), {}, INPUTS, 0.5).kept is None


def test_what_cannot_be_matched_is_refused() -> None:
    with pytest.raises(UsageError, match="is not known"):
        match_features(network(4), network(2), {}, INPUTS, 0.5)
    with pytest.raises(UsageError, match="pools nothing"):
        match_features(nn.Flatten(), nn.Flatten(), {}, INPUTS, 0.5)


def test_features_are_added_to_the_loss() -> None:
    dense, small = network(4), network(2)
    keep = torch.tensor([1, 3])
    plain = Objective(3, False, teacher=Teacher(dense), distillation=Distillation(1.0, 2.0))
    matched = Objective(
        3,
        False,
        teacher=Teacher(dense),
        distillation=Distillation(1.0, 2.0),
        features=FeatureMatching(0.5, keep),
    )
    batch = Batch(0, Samples(INPUTS, None), [0, 1])
    pooled = [net[1](net[0](INPUTS)) for net in (small, dense)]
    wanted = pooled[1][:, keep]
    error = (pooled[0] - wanted).square().mean() / wanted.square().mean()
    assert matched(small, batch).item() == pytest.approx(
        plain(small, batch).item() + 0.5 * error.item(), rel=1e-5
    )
    assert matched(small, batch).requires_grad
