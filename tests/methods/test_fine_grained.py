"""Single weights that become zero in training, and stay so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.engine.train_context import check_method
from autoprune.errors import UsageError
from autoprune.methods.fine_grained import FineGrained
from autoprune.methods.registry import find_method
from autoprune.options.train import TrainConfig
from autoprune.testing.method_contract import Setup, equal_tensors, moment
from autoprune.testing.small_networks import plain, randomized
from autoprune.training.kept_zeros import KeptZeros


@pytest.fixture
def setup() -> Setup:
    return Setup.of(randomized(plain()))


def zeros(network: nn.Module) -> float:
    return float((network.get_parameter("1.0.weight") == 0).double().mean())


def test_the_cubic_schedule(setup: Setup) -> None:
    """s_t = .5 (1 − (1 − t)³): .2891 at a quarter, .4375 at half; zeros stay."""
    method = FineGrained(amount=0.5, end=1.0, removals=4).prepared(setup.goal)
    network, seen = setup.network, []
    method.start(network)
    with torch.no_grad():
        weight, gone = network.get_parameter("1.0.weight"), None
        for completed in (0.1, 0.25, 0.4, 0.5, 1.0):
            method.after_step(network, moment(completed=completed))
            seen.append(zeros(network))
            assert gone is None or bool((weight == 0)[gone].all())  # for good
            gone = weight == 0
            weight.add_(0.3)  # a step of the optimizer
        method.after_step(network, moment(completed=1.0))
    assert seen == pytest.approx([0, 0.2891, 0.2891, 0.4375, 0.5], abs=2e-3)
    assert zeros(network) == 0.5


def test_all_zeros_are_there_in_the_end(setup: Setup) -> None:
    """However few steps there were; what the schedule chose is among them."""
    method = FineGrained(amount=0.75).prepared(setup.goal)
    method.start(setup.network)
    with torch.no_grad():
        method.after_step(setup.network, moment(completed=0.1))
    early = setup.network.get_parameter("1.0.weight") == 0
    finished = method.finish(setup.network)
    assert zeros(finished) == 0.75
    assert bool((finished.get_parameter("1.0.weight") == 0)[early].all())
    figures = method.figures(finished)["sparsity"]
    assert figures["zeros"] == round(0.75 * figures["weights"])
    assert figures["nonzero_macs"] == pytest.approx(0.25 * figures["macs"], rel=1e-6)


def test_it_goes_on_from_its_state(setup: Setup) -> None:
    method = FineGrained(amount=0.5).prepared(setup.goal)
    method.start(setup.network)
    with torch.no_grad():
        method.after_step(setup.network, moment(completed=0.5))
        again = FineGrained(amount=0.5).prepared(setup.goal)
        again.start(setup.network)
        again.load_state(method.state())
        before = setup.network.get_parameter("1.0.weight").clone()
        setup.network.get_parameter("1.0.weight").add_(1.0)
        again.after_step(setup.network, moment(completed=0.5))
    assert torch.equal(setup.network.get_parameter("1.0.weight") == 0, before == 0)


def test_what_is_chosen_at_once_changes_nothing_in_training(setup: Setup) -> None:
    method = FineGrained(pattern="2:4").prepared(setup.goal)
    before = randomized(plain())
    before.load_state_dict(setup.network.state_dict())
    method.start(setup.network)
    method.after_step(setup.network, moment(completed=0.9))
    assert equal_tensors(before, setup.network)


def test_a_pattern_that_fits_nowhere(setup: Setup) -> None:
    with pytest.raises(UsageError, match="no weight that may change can be divided into '5:9'"):
        FineGrained(pattern="5:9").prepared(setup.goal).start(setup.network)


def test_zeros_stay_in_fine_tuning(setup: Setup) -> None:
    method = FineGrained(amount=0.5).prepared(setup.goal)
    method.start(setup.network)
    method.finish(setup.network)
    names = ["0.0.weight", "1.0.weight"]
    hooks, fresh = KeptZeros(setup.network, names), randomized(plain(), seed=1)
    hooks.start(fresh)
    assert zeros(fresh) == 0.5
    with torch.no_grad():
        fresh.get_parameter("1.0.weight").sub_(0.1)
        hooks.after_step(fresh, moment())
    assert zeros(fresh) == 0.5
    assert bool((fresh.get_parameter("0.1.bias") != 0).all())  # vectors are left alone


def test_only_this_needs_no_epochs() -> None:
    assert isinstance(find_method("sparsify", {}), FineGrained)
    assert check_method(TrainConfig(method="sparsify", epochs=0)).least_score == 0
    with pytest.raises(UsageError, match="epochs must be above zero, but got 0"):
        check_method(TrainConfig(method="sss", epochs=0))
