"""The contract of a training method, as tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.agents.global_ranking import threshold
from autoprune.cost import cost_models
from autoprune.data import Samples
from autoprune.data.splits import SamplesSplit
from autoprune.errors import UsageError
from autoprune.methods.base import Goal, Scores, TrainingMethod
from autoprune.search_spaces.keep_ratio import search_space
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import apply_policy, deep_copy
from autoprune.structure.tracing.trace import trace
from autoprune.testing import small_networks
from autoprune.testing.small_networks import IMAGES, LABELS, randomized
from autoprune.training.duration import Duration
from autoprune.training.hooks import Moment
from autoprune.training.objective import Objective
from autoprune.training.random_batches import Batch, RandomBatches
from autoprune.training.trainer import train
from autoprune.training.training_values import (
    Recipe,
    Trained,
    TrainingFiles,
    TrainingTask,
    Validation,
)

NETWORKS = ("plain", "residual", "depthwise", "concatenated", "product")
# Networks that are trained and cut, but for nothing else.
FURTHER = ("grouped", "flattened", "transposed", "functional", "normalized")
RECIPE = Recipe(Duration(steps=12), checks=4, rate=0.02, decay=0.0)
BATCH = 20
# Share of the MACs that a budget leaves.
BUDGET = 0.6
# Channels of the first layer of a chain that are planted to be redundant.
PLANTED = (1, 4, 6)
# Value of all that makes and reads a channel that hardly does anything.
WEAK = 1e-3
# Steps in which the other channels become useful, and those in which a method finds the weak ones.
LEARNING = 150
FINDING = replace(RECIPE, duration=Duration(steps=150), checks=1, rate=0.01)


class _Failing(Objective):
    """An objective that is not finite from the eighth step on."""

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        return super().__call__(network, batch) * (math.nan if batch.step >= 7 else 1.0)


class Killed(BaseException):
    """Stands for the end of the process."""


@dataclass(frozen=True, eq=False)
class Setup:
    """A network to shape, its structure, and a budget."""

    network: nn.Module
    structure: Structure
    projection: Projection

    @classmethod
    def of(cls, network: nn.Module, share: float = BUDGET) -> Setup:
        """Return the setup of a network under a budget of some share of its MACs."""
        structure = trace(network, IMAGES[:2])
        cost = cost_models(structure)["flops"]
        limit = share * cost.total(structure.dense_widths)
        space = search_space(structure, None, 1)
        return cls(network, structure, Projection(space, [Constraint(cost, limit)]))

    @property
    def goal(self) -> Goal:
        """What a method is told."""
        return Goal(
            self.structure,
            self.network,
            self.projection.uniform(),
            lambda scores: threshold(self.projection, [one.numpy() for one in scores]),
            classes=4,
        )

    def task(self, method: TrainingMethod, images: Tensor = IMAGES) -> TrainingTask:
        """Return the training with a method."""
        split = SamplesSplit(Samples(images, LABELS))
        batches = RandomBatches(split, BATCH, seed=0)
        return TrainingTask(self.network, batches, Objective(4, True), validated, hooks=method)

    def cut(self, network: nn.Module, scores: Scores) -> nn.Module:
        """Return a network cut by scores to the budget, without any repair."""
        widths = threshold(self.projection, [one.numpy() for one in scores])
        kept = [
            one.argsort(descending=True, stable=True)[:width].tolist()
            for one, width in zip(scores, widths, strict=True)
        ]
        return apply_policy(network, self.structure.policy(kept))


def validated(network: nn.Module) -> Validation:
    """Return minus the loss of a network."""
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(network(IMAGES), LABELS))
    return Validation(-loss, {"loss": loss})


def equal_tensors(one: nn.Module, other: nn.Module) -> bool:
    """Say whether two networks have the same tensors under the same names, bit for bit."""
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def difference(one: nn.Module, other: nn.Module) -> float:
    """Return the largest difference of two networks' outputs."""
    with torch.no_grad():
        return float((one(IMAGES) - other(IMAGES)).abs().max())


def with_weak_channels() -> nn.Module:
    """Return a trained chain in which the planted channels of the first layer hardly do anything.

    The others are of use, since they were trained without these. No BN follows what reads the
    channels, so that their scale counts.
    """
    second = nn.Sequential(nn.Conv2d(8, 7, 3, padding=1), nn.ReLU())
    chain = nn.Sequential(small_networks.block(3, 8), second, small_networks.head(7))
    network: Any = randomized(chain).train()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(LEARNING):
        _weaken(network)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(IMAGES), LABELS).backward()
        optimizer.step()
    _weaken(network)
    plain: nn.Module = network.eval()
    return plain


def _weaken(network: Any) -> None:
    first, batchnorm, following = network[0][0], network[0][1], network[1][0]
    with torch.no_grad():
        for tensor in (first.weight, first.bias, batchnorm.weight, batchnorm.bias):
            tensor[[*PLANTED]] = WEAK
        following.weight[:, [*PLANTED]] = WEAK


def with_twin_channels() -> nn.Module:
    """Return a chain in which the planted channels of the first layer equal the channel 0."""
    network: Any = randomized(small_networks.plain())
    with torch.no_grad():
        for tensor in (*network[0].parameters(), *network[0].buffers()):
            if tensor.dim():
                tensor[[*PLANTED]] = tensor[0].clone()
    plain: nn.Module = network
    return plain


class MethodContract:
    """Tests that every training method passes; override `make`.

    Attributes:
        redundant: returns a network with channels that the method must find, `PLANTED` of the
            first group.
        others: number of other channels that may rank as low.
    """

    redundant: Callable[[], nn.Module] = staticmethod(with_weak_channels)
    others: int = 0

    def make(self) -> TrainingMethod:
        """Return the method under test."""
        raise NotImplementedError

    @pytest.fixture(params=NETWORKS)
    def setup(self, request: pytest.FixtureRequest) -> Setup:
        """Networks of several kinds."""
        return Setup.of(randomized(getattr(small_networks, request.param)()))

    @pytest.mark.parametrize("name", NETWORKS + FURTHER)
    def test_it_trains_and_the_cut_meets_the_budget(self, name: str) -> None:
        """What is handed over is a plain network like the given one, which is not changed."""
        setup = Setup.of(randomized(getattr(small_networks, name)()))
        before = deep_copy(setup.network)
        try:
            done, method = self._train(setup)
        except UsageError as error:
            pytest.skip(f"refused: {error}")
        assert equal_tensors(before, setup.network)
        assert done.steps == done.best_step == 12 and not done.network.training
        assert not equal_tensors(done.network, setup.network)
        own, given = done.network.state_dict(), setup.network.state_dict()
        assert {name: one.shape for name, one in own.items()} == {
            name: one.shape for name, one in given.items()
        }
        scores = method.scores(done.network)
        assert [len(one) for one in scores] == list(setup.structure.dense_widths)
        assert all(bool(one.isfinite().all()) for one in scores)
        small = setup.cut(done.network, scores)
        assert small(IMAGES).shape == (60, 4)

    def test_the_plain_network_computes_the_same(self, setup: Setup) -> None:
        """Gates are folded and the like: outputs are those of the network in training."""
        method = self.make().prepared(setup.goal)
        apart = []

        def finish(network: nn.Module) -> nn.Module:
            inside = method.called(deep_copy(network)).eval()
            plain = type(method).finish(method, network)
            apart.append(difference(inside, plain))
            return plain

        setattr(method, "finish", finish)  # noqa: B010
        train(setup.task(method), RECIPE)
        assert len(apart) == 4 and max(apart) < 1e-4

    def test_without_steps_nothing_changes(self, setup: Setup) -> None:
        """Beginning and ending alone leave the outputs as they are."""
        method = self.make().prepared(setup.goal)
        network = deep_copy(setup.network)
        method.start(network)
        assert difference(method.finish(network), setup.network) < 1e-5

    def test_a_killed_training_goes_on_exactly(self, setup: Setup, tmp_path: Path) -> None:
        """Weights and scores are those of a training in one go."""
        whole, method = self._train(setup)
        calls = iter(range(100))

        def killing(network: nn.Module) -> Validation:
            if next(calls) == 3:
                raise Killed
            return validated(network)

        files = TrainingFiles(tmp_path / "checkpoint.pt")
        first = self.make().prepared(setup.goal)
        with pytest.raises(Killed):
            train(replace(setup.task(first), validate=killing), RECIPE, files)
        again = self.make().prepared(setup.goal)
        resumed = train(setup.task(again), RECIPE, files)
        assert equal_tensors(whole.network, resumed.network)
        pairs = zip(method.scores(whole.network), again.scores(resumed.network), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    def test_equal_seeds_give_equal_networks(self, setup: Setup) -> None:
        """Whatever the state of the global generator."""
        one, method = self._train(setup)
        torch.manual_seed(17)
        other, again = self._train(setup)
        assert equal_tensors(one.network, other.network)
        pairs = zip(method.scores(one.network), again.scores(other.network), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    def test_a_loss_that_is_not_finite_is_survived(self, setup: Setup) -> None:
        """The network of the last validation is handed over, with its scores."""
        method = self.make().prepared(setup.goal)
        done = train(replace(setup.task(method), objective=_Failing(4, True)), RECIPE)
        assert done.diverged == 7 and done.best_step == 6
        assert all(bool(one.isfinite().all()) for one in done.network.state_dict().values())
        assert all(bool(one.isfinite().all()) for one in method.scores(done.network))

    def test_what_is_frozen_stays(self) -> None:
        """Excluded tensors keep their values."""
        setup = Setup.of(randomized(small_networks.plain()))
        frozen = frozenset(name for name in setup.network.state_dict() if name.startswith("1.")) - {
            "1.1.num_batches_tracked"
        }
        method = self.make().prepared(setup.goal)
        done = train(replace(setup.task(method), frozen=frozen), RECIPE)
        own, given = done.network.state_dict(), setup.network.state_dict()
        assert all(torch.equal(own[name], given[name]) for name in frozen)

    def test_planted_redundancy_is_found(self) -> None:
        """Channels without use, or that others can stand for, have the least scores."""
        setup = Setup.of(type(self).redundant())
        method = self.make().prepared(setup.goal)
        done = train(setup.task(method), FINDING)
        scores = method.scores(done.network)[0]
        assert {*PLANTED} <= set(scores.argsort()[: len(PLANTED) + self.others].tolist())

    def _train(self, setup: Setup) -> tuple[Trained, TrainingMethod]:
        method = self.make().prepared(setup.goal)
        return train(setup.task(method), RECIPE), method


def moment(step: int = 0, completed: float = 0.0, rate: float = 0.1) -> Moment:
    """Return a moment of a run with three steps in a pass."""
    return Moment(step, 3, completed, rate)


__all__ = ["MethodContract", "Setup", "moment"]
