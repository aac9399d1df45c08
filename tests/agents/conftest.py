"""Small problems whose answers can be enumerated, and a loop that plays strategies on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest

from autoprune.agents.base import Strategy
from autoprune.cost.model import CostModel
from autoprune.study.trial import Trial
from autoprune.testing import toy_problems
from autoprune.testing.toy_problems import (
    PROBLEMS,
    Answer,
    ChainCost,
    Setting,
    StairCost,
    Toy,
    WidestCost,
)

MakeToy: TypeAlias = Callable[..., Toy]
Play: TypeAlias = Callable[[Strategy, Answer, int], list[Trial]]


@pytest.fixture(scope="session")
def make_toy() -> MakeToy:
    """Make a toy problem; its setting is given by keywords."""

    def make(sizes: Sequence[int], **setting: Any) -> Toy:
        return toy_problems.make_toy(sizes, Setting(**setting))

    return make


@pytest.fixture(scope="session")
def widest() -> CostModel:
    return WidestCost()


@pytest.fixture(scope="session")
def chain() -> CostModel:
    return ChainCost()


@pytest.fixture(scope="session")
def stairs() -> CostModel:
    return StairCost()


@pytest.fixture(scope="module", params=PROBLEMS)
def toy(request: pytest.FixtureRequest) -> Toy:
    """Every kind of problem that a strategy has to get along with."""
    return PROBLEMS[request.param]()


@pytest.fixture(scope="session")
def play() -> Play:
    """Ask and tell in strict alternation; known widths are answered from the record."""
    return toy_problems.play


@pytest.fixture(scope="session")
def taught(make_toy: MakeToy, play: Play, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where an agent is that learnt a few episodes on a network of four groups: an odd taste."""
    from autoprune.agents.ddpg.agent import DdpgStrategy

    folder = tmp_path_factory.mktemp("taught")
    toy = make_toy([9, 14, 12, 8], seed=3)
    teacher = DdpgStrategy(updates=20).started(toy.problem)
    play(teacher, lambda widths: float(widths[2] - widths[0]), 12)
    teacher.save(folder)
    return str(folder)
