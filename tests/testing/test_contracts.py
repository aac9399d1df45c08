"""Contract suites accept what keeps to the contract and refuse what does not, run as users do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.agents.base import Strategy
from autoprune.core.policy import Widths
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.signature import Signature
from autoprune.cost.model import CostModel
from autoprune.data.forms import Inputs
from autoprune.evaluation.measurement import Measurement
from autoprune.importance import Evidence, Importance, Ranking
from autoprune.profiling.backends.base import Backend
from autoprune.profiling.backends.torch import TorchBackend
from autoprune.profiling.stopwatch import Run
from autoprune.structure.groups import ChannelGroup
from autoprune.structure.tracing.trace import trace
from autoprune.study.trial import Candidate, Trial
from autoprune.testing import (
    BackendContract,
    CostModelContract,
    ImportanceContract,
    RewardContract,
    StrategyContract,
)
from autoprune.testing.cost_model_contract import Network
from autoprune.testing.importance_contract import make_evidence
from autoprune.testing.small_networks import IMAGES, LABELS, plain, randomized
from autoprune.testing.toy_problems import Setting, make_toy

MINE = """
from autoprune.testing import RewardContract

class TestGood(RewardContract):
    def make(self):
        return lambda measurement: measurement.scores.top1 - measurement.costs["params"]

class TestBad(RewardContract):
    def make(self):
        return lambda measurement: measurement.costs["params"] - measurement.scores.top1
"""


def test_a_suite_in_a_users_file(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(MINE)
    options = "-q --tb=line -p no:cacheprovider -p no:xdist test_mine.py".split()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 6 passed" in done.stdout
    assert "FAILED test_mine.py::TestBad::test_lower_costs_are_not_worse" in done.stdout
    assert "FAILED test_mine.py::TestBad::test_better_scores_are_not_worse" in done.stdout


# -------------------------------------------------------------------------------- broken plug-ins


class Drawn(Importance):
    """Another order at every call, whatever the network."""

    name = "drawn"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        return Ranking(tuple(torch.randperm(group.size).tolist()))


class Scaled(Importance):
    """Filters by their size, and the network is changed."""

    name = "scaled"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        with torch.no_grad():
            weight = evidence.model.get_parameter(group.producers[0]).mul_(2)
        return Ranking.by(-weight.detach().flatten(1).norm(dim=1))


def test_importances_that_break_the_contract() -> None:
    evidence = make_evidence(randomized(plain()), IMAGES, LABELS)
    for criterion in (Drawn(), Scaled()):
        suite = ImportanceContract()
        suite.make = lambda one=criterion: one  # type: ignore[method-assign,misc]
        with pytest.raises(AssertionError):
            suite.test_rankings_are_complete_finite_and_repeatable(evidence)
    with pytest.raises(AssertionError):
        suite.test_a_dead_unit_ranks_last(make_evidence(randomized(plain()), IMAGES, LABELS))


@pytest.mark.parametrize(
    ("reward", "test"),
    [
        (lambda found: 1 / found.costs["flops"], "values_are_finite_numbers"),
        (lambda found: found.costs.pop("flops"), "it_depends_on_the_measurement_alone"),
        (lambda found: found.scores.kl, "better_scores_are_not_worse"),
        (lambda found: found.costs["flops"], "lower_costs_are_not_worse"),
    ],
)
def test_rewards_that_break_the_contract(reward: Callable[[Measurement], Any], test: str) -> None:
    suite = RewardContract()
    suite.make = lambda: reward  # type: ignore[method-assign]
    with pytest.raises(Exception):  # noqa: B017 - of any kind
        getattr(suite, f"test_{test}")()


class BadCost(CostModel):
    """Falls with the widths; its layers are not all that the total has."""

    name = "bad"
    unit = ""

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        return {"a": -float(sum(widths))}

    def total(self, widths: Widths) -> float:
        return 1000 - float(sum(widths))


@pytest.mark.parametrize(
    "test",
    [
        "it_has_a_name_and_a_unit",
        "costs_are_finite_and_not_negative",
        "layers_sum_to_the_total",
        "wider_is_not_cheaper_where_it_is_monotone",
    ],
)
def test_cost_models_that_break_the_contract(test: str) -> None:
    class Suite(CostModelContract):
        def make(self, network: Network) -> CostModel:
            return BadCost()

    model = plain().eval()
    with pytest.raises(AssertionError):
        getattr(Suite(), f"test_{test}")(Network(model, IMAGES[:1], trace(model, IMAGES[:1])))


class BadBackend(TorchBackend):
    """Works on the network itself, and knows nothing of where it runs."""

    def network(self, model: nn.Module, inputs: Inputs) -> Run:
        model.double()
        return lambda: None

    def layer(self, signature: Signature) -> Run:
        raise NotImplementedError(signature.operator)

    def versions(self) -> Mapping[str, str]:
        return {}


@pytest.mark.parametrize(
    ("test", "error"),
    [
        ("it_names_device_and_versions", AssertionError),
        ("every_kind_of_layer_is_measured", NotImplementedError),
        ("a_network_is_measured_and_left_unchanged", AssertionError),
    ],
)
def test_backends_that_break_the_contract(test: str, error: type[Exception]) -> None:
    class Suite(BackendContract):
        def make(self) -> Backend:
            return BadBackend(Conditions())

    with pytest.raises(error):
        getattr(Suite(), f"test_{test}")()


class Stubborn(Strategy):
    """The whole network, again and again."""

    name = "stubborn"
    needs_budget = False

    def ask(self) -> Candidate | None:
        return Candidate(self.problem.space.sizes)

    def tell(self, trial: Trial) -> None:
        pass


def test_strategies_that_break_the_contract() -> None:
    class Suite(StrategyContract):
        def make(self) -> Strategy:
            return Stubborn()

    toy, suite = make_toy([8, 8]), Suite()
    with pytest.raises(AssertionError, match="fits"):
        suite.test_candidates_are_allowed_new_and_repeatable(toy)
    with pytest.raises(AssertionError, match="set"):
        suite.test_candidates_are_allowed_new_and_repeatable(make_toy([8, 8], Setting(keep=1.0)))
    with pytest.raises(AssertionError):
        suite.test_without_a_budget()
