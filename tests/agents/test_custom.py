"""Custom strategies: what they may be, and what becomes of their faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from autoprune.agents.base import Candidate, SearchProblem, Strategy, Trial
from autoprune.agents.config import stored
from autoprune.agents.evolution import EvolutionStrategy
from autoprune.agents.registry import KIND, check_strategy, find_strategy, make_strategy, options_of
from autoprune.errors import StrategyError, UsageError


@dataclass(frozen=True)
class StepsConfig:
    first: int = 3
    names: tuple[str, ...] = ()


class Steps(Strategy):
    """Proposes the uniform candidate so many times."""

    config = StepsConfig()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.told: list[Trial] = []

    def start(self, problem: SearchProblem) -> None:
        self.left = self.config.first

    def ask(self) -> Candidate | None:
        self.left -= 1
        return Candidate(self.problem.projection.uniform()) if self.left >= 0 else None

    def tell(self, trial: Trial) -> None:
        self.told.append(trial)


PLACE = f"{__name__}:Steps"
FORMS: list[Callable[[], Any]] = [
    lambda: Steps(first=2),
    lambda: Steps(StepsConfig(first=2)),
    lambda: Steps(StepsConfig(first=5), first=2),
]


@pytest.fixture
def problem(make_toy: Any) -> SearchProblem:
    made: SearchProblem = make_toy([8, 8]).problem
    return made


@pytest.mark.parametrize("form", FORMS)
def test_an_instance_brings_its_options(form: Any, problem: SearchProblem, play: Any) -> None:
    chosen = form()
    check_strategy(chosen, sampler=None)
    assert len(play(make_strategy(chosen, problem), lambda widths: 1.0, 9)) == 2
    assert not chosen.told and options_of(chosen) == {"first": 2}


def test_a_class_takes_its_options_by_name(problem: SearchProblem, play: Any) -> None:
    assert len(play(make_strategy(Steps, problem, first=1), lambda widths: 1.0, 9)) == 1


def test_a_file_and_an_entry_point(
    problem: SearchProblem, tmp_path: Path, play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "steps.py").write_text(Path(__file__).read_text())
    spec = f"{tmp_path}/steps.py:Steps"
    played = make_strategy(spec, problem, first=2, names=["a"])
    assert len(play(played, lambda widths: 1.0, 9)) == 2 and played.name == spec
    entry = EntryPoint("steps", "autoprune.agents.evolution:EvolutionStrategy", KIND.group)
    monkeypatch.setattr("autoprune.core.plugins.entry_points", lambda group: [entry])
    assert isinstance(find_strategy("steps", children=4), EvolutionStrategy)
    with pytest.raises(UsageError, match="unknown strategy 'stepz'; did you mean 'steps'"):
        check_strategy("stepz")


def test_every_start_is_fresh(problem: SearchProblem, play: Any) -> None:
    chosen = find_strategy(Steps(first=2))
    one, two = (chosen.started(problem) for _ in range(2))
    play(one, lambda widths: 1.0, 9)
    assert len(play(two, lambda widths: 1.0, 9)) == 2


@pytest.mark.parametrize(
    ("wanted", "options", "message"),
    [
        (Steps, {"frist": 2}, "the strategy 'Steps' has no option 'frist'; did you mean 'first'?"),
        (Steps, {"first": "2"}, "cannot have first='2': expected `int`, got `str`."),
        (Steps, {"names": [1]}, "cannot have names=[1]: expected `str`, got `int`."),
        (Steps(), {"first": 2}, "is an object, made with its options: leave out first."),
        (Steps(), {"sampler": "gp"}, "leave out sampler."),
        (object, {}, "gives an object: it must be a subclass of autoprune.agents.base.Strategy."),
        (3, {}, "gives an int: it must be a subclass of"),
        ("nowhere.py:Steps", {}, "no such file: 'nowhere.py'"),
        ("rl:pppo", {}, "unknown strategy 'rl:pppo'; did you mean 'rl:ppo'?"),
    ],
)
def test_mistakes(wanted: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_strategy(wanted, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("when", ["__init__", "start"])
def test_a_custom_strategy_has_its_own_attributes(when: str, problem: SearchProblem) -> None:
    class Knowing(Steps):
        finalists = 2

        def start(self, problem: SearchProblem) -> None:
            super().start(problem)
            self.agent_from = {"path": "agent.zip"}
            if when == "start":
                self.finalists = 3

    made = make_strategy(Knowing(), problem)
    assert made.finalists == (2 if when == "__init__" else 3)
    assert made.agent_from == {"path": "agent.zip"}


@pytest.mark.parametrize("finalists", [0, -1, "3", 1.0, True])
def test_finalists_that_are_no_number_are_refused(finalists: Any, problem: SearchProblem) -> None:
    odd = type("Odd", (Steps,), {"finalists": finalists})
    with pytest.raises(StrategyError, match="it must be a whole number above zero, or None"):
        make_strategy(odd(), problem)


def _raising(method: str) -> Strategy:
    def fail(self: Any, *args: Any) -> None:
        raise KeyError("group")

    made: Strategy = type("Raising", (Steps,), {method: fail})()
    return made


@pytest.mark.parametrize("method", ["check", "start", "ask", "tell", "save"])
def test_what_raises_is_named(method: str, problem: SearchProblem, tmp_path: Path) -> None:
    message = rf"the strategy '.*:Raising' failed in {method}\(\): KeyError: 'group'"
    with pytest.raises(StrategyError, match=message):
        chosen = find_strategy(_raising(method))
        chosen.check()
        strategy = chosen.started(problem)
        candidate = strategy.ask()
        assert candidate is not None
        strategy.tell(Trial(candidate, 1.0))
        strategy.save(tmp_path)


@pytest.mark.parametrize(
    ("proposed", "message"),
    [
        ((4, 4), "proposed (4, 4), which is not a Candidate: ask() must return Candidate(widths)"),
        (Candidate((4,)), "proposed (4,): widths must be a tuple of 2 whole numbers from (1, 1)"),
        (Candidate((4, 9)), "to (8, 8); self.problem.projection.project(ratios) returns such"),
        (Candidate((0.5, 4)), "proposed (0.5, 4)"),  # type: ignore[arg-type]
        (Candidate([4, 4]), "proposed [4, 4]"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_candidate_is_refused(
    proposed: Any, message: str, problem: SearchProblem
) -> None:
    odd = type("Odd", (Steps,), {"ask": lambda self: proposed})
    with pytest.raises(StrategyError) as caught:
        make_strategy(odd(), problem).ask()
    assert message in str(caught.value)


def test_what_cannot_be_copied_is_named(problem: SearchProblem) -> None:
    chosen = Steps()
    chosen.told = (one for one in [])  # type: ignore[assignment]
    with pytest.raises(StrategyError, match=r"failed in start\(\): TypeError: cannot pickle"):
        make_strategy(chosen, problem)


def test_a_custom_strategy_keeps_the_options_that_its_run_was_begun_with(
    problem: SearchProblem,
) -> None:
    made = make_strategy(Steps(), problem, {"first": 4, "names": ["a"]})
    assert made.config == StepsConfig(first=4, names=("a",))
    assert made.ask() and stored(made.config) == {"first": 4, "names": ("a",)}
