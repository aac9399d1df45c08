"""What a training with a method is told."""

from __future__ import annotations

from types import SimpleNamespace

from autoprune.data import Samples
from autoprune.engine.train import _goal
from autoprune.testing.method_contract import Setup
from autoprune.testing.small_networks import IMAGES, LABELS, plain, randomized


def test_the_goal_has_network_widths_classes_samples_and_seed() -> None:
    setup = Setup.of(randomized(plain()))
    context = SimpleNamespace(config=SimpleNamespace(seed=7), widths=None)
    samples = Samples(IMAGES, LABELS)
    images = SimpleNamespace(selection=samples, calibration=samples[:9])
    search = SimpleNamespace(model=setup.network, images=images)
    goal = _goal(context, search, setup)
    assert goal.network is setup.network and goal.widths == setup.goal.widths
    assert (goal.classes, goal.seed) == (4, 7)
    assert goal.samples is images.calibration
