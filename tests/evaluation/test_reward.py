"""Rewards: their values by hand, how they are named, and what becomes of those that fail."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.errors import RewardError, UsageError
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.evaluation.reward import (
    BUILT_IN,
    NamedReward,
    check_labels,
    find_reward,
    needs_no_budget,
    on_the_scale_of,
)
from autoprune.testing import RewardContract


class TestBuiltIn(RewardContract):
    @pytest.fixture(autouse=True, params=BUILT_IN)
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.name: str = request.param

    def make(self) -> str:
        return self.name


class TestCustomScore(RewardContract):
    def make(self) -> str:
        return "kl"

    def measurements(self) -> Iterator[Measurement]:
        yield from (measured(custom=value) for value in (-1.0, 0.0, 0.25))


def measured(costs: Mapping[str, float] | None = None, **scores: Any) -> Measurement:
    costs = costs or {"flops": 1e6, "params": 2500.0}
    return Measurement((3,), ("a",), Scores(**scores), Scores(), costs, costs, {})


def test_built_in_values_by_hand() -> None:
    labelled = {"kl": 0.4, "soft_kl": 0.5, "top1": 0.75, "samples": 100}
    for name, found, value in (
        ("kl", measured(**labelled), -0.5),
        ("kl", measured(custom=0.25), 0.25),
        ("accuracy", measured(**labelled), -0.25),
        # ln(10^6) = 13.8155..., a quarter of it 3.4538...
        ("accuracy_flops", measured(**labelled), -3.4538776394910684),
        # 2 ms are 2,000 us; ln(2000) = 7.6009...
        ("accuracy_latency", measured({"latency": 2.0}, **labelled), -1.9002256148855205),
    ):
        assert find_reward(name)(found) == pytest.approx(value, rel=1e-12), name


def test_a_run_goes_on_by_the_kl_that_it_was_begun_with() -> None:
    softened, plain = measured(kl=0.4, soft_kl=0.5), measured(kl=0.3)
    by_kl, by_top1 = find_reward("kl"), find_reward("accuracy")
    for earlier, value in (([], -0.5), ([softened], -0.5), ([softened, plain], -0.4)):
        assert on_the_scale_of(by_kl, earlier)(softened) == value
    assert on_the_scale_of(by_top1, [plain]) == by_top1
    assert on_the_scale_of(by_kl, [measured(custom=1.0)]) == by_kl


def test_less_cost_is_better_even_without_an_error() -> None:
    reward = find_reward("accuracy_flops")
    perfect = [measured({"flops": cost}, top1=1.0, samples=100) for cost in (1e5, 1e6)]
    assert reward(perfect[0]) > reward(perfect[1])
    assert reward(perfect[1]) == pytest.approx(-0.005 * math.log(1e6))
    assert reward(perfect[1]) > reward(measured(top1=0.99, samples=100))


@pytest.mark.parametrize("cost", [0.0, 1e-9, 1.0, 2.7])
def test_fewer_errors_are_better_at_the_smallest_costs(cost: float) -> None:
    for name, costs in (("flops", {"flops": cost}), ("latency", {"latency": cost / 1000})):
        few, many = (measured(costs, top1=top1, samples=100) for top1 in (0.75, 0.5))
        reward = find_reward(f"accuracy_{name}")
        assert (reward(few), reward(many)) == (-0.25, -0.5)


def test_what_built_in_rewards_need() -> None:
    assert {name for name in BUILT_IN if needs_no_budget(name)} == {
        "accuracy_flops",
        "accuracy_latency",
    }
    assert not needs_no_budget("mine.py:reward")
    for name in ("accuracy", "accuracy_flops"):
        with pytest.raises(UsageError, match=f"'{name}' needs top-1 .* the data has no labels"):
            check_labels(name, Scores(kl=0.0))
        with pytest.raises(UsageError, match="evaluate gives none"):
            check_labels(name, Scores(custom=0.0))
        check_labels(name, Scores(kl=0.0, top1=0.0))
    check_labels("kl", Scores(kl=0.0))
    check_labels("mine.py:reward", Scores(kl=0.0))


# ----------------------------------------------------------------------------------------- by name


def size(found: Measurement) -> float:
    return -found.costs["params"]


class Weighted:
    def __call__(self, found: Measurement) -> float:
        return 2.0


def test_functions_are_known_by_their_qualified_names() -> None:
    here = __name__
    for function, name, value in (
        (size, f"{here}:size", -2500.0),
        (Weighted(), f"{here}:Weighted", 2.0),
        (functools.partial(size), "functools:partial", -2500.0),
        (lambda found: 1, f"{here}:{test_functions_are_known_by_their_qualified_names.__name__}"
         ".<locals>.<lambda>", 1.0),
    ):  # fmt: skip
        reward = find_reward(function)
        assert (reward.name, reward(measured())) == (name, value)


def test_files_and_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("my_rewards.py").write_text("def lean(found):\n    return -found.costs['params']\n")
    for spec in ("my_rewards.py:lean", "my_rewards:lean", f"{tmp_path}/my_rewards.py:lean"):
        reward = find_reward(spec)
        assert (reward.name, reward(measured())) == (spec, -2500.0)


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, "autoprune.rewards")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that packages with these entry points are installed."""

    def install(*entries: EntryPoint) -> None:
        def entry_points(group: str) -> list[EntryPoint]:
            return [one for one in entries if one.group == group]

        monkeypatch.setattr("autoprune.core.plugins.entry_points", entry_points)

    return install


def test_entry_points(installed: Callable[..., None]) -> None:
    installed(entry("tan", "math:tan"), entry("pi", "math:pi"), entry("gone", "no_such_module:f"))
    assert find_reward("tan") == NamedReward("tan", math.tan)
    with pytest.raises(UsageError, match=r"'pi' names no function: float is not callable"):
        find_reward("pi")
    with pytest.raises(UsageError, match=r"'gone', entry point .*no module named 'no_such_module'"):
        find_reward("gone")
    with pytest.raises(UsageError, match="unknown reward 'tann'; did you mean 'tan'"):
        find_reward("tann")


def test_a_built_in_name_is_never_an_entry_point(installed: Callable[..., None]) -> None:
    installed(entry("kl", "math:tan"))
    assert find_reward("kl")(measured(kl=0.5, soft_kl=0.5)) == -0.5


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("accuracy_flop", "unknown reward 'accuracy_flop'; did you mean 'accuracy_flops'?"),
        ("acuracy", "did you mean 'accuracy'?"),
        ("x", "choose one of: accuracy, accuracy_flops, accuracy_latency, kl, path/to/file.py:"),
        ("mine.py", "'mine.py' names no object: write path/to/file.py:NAME"),
        ("mine.py:f", "no such file: 'mine.py'"),
        ("math:tanhh", "'math' has no 'tanhh'; did you mean 'tanh'?"),
        ("math:pi", "reward 'math:pi' names no function: float is not callable."),
        (3, "reward must be a function or the name of one, but got 3"),
    ],
)
def test_unknown_names(wanted: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_reward(wanted)
    assert message in str(caught.value)


# -------------------------------------------------------------------------------------- that fails


@pytest.mark.parametrize(
    "answer", [3, 3.0, np.float32(3), np.array(3), torch.tensor(3), torch.tensor([3.0])], ids=repr
)
def test_numbers_of_any_kind(answer: Any) -> None:
    value = NamedReward("mine", lambda found: answer)(measured())
    assert type(value) is float and value == 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "answer",
    [math.nan, math.inf, -math.inf, None, "3", b"3", [3], 3j, torch.ones(2), torch.tensor(math.nan),
     10**400],
    ids=lambda answer: f"{answer!r:.20}",
)  # fmt: skip
def test_no_finite_number(answer: Any) -> None:
    with pytest.raises(RewardError) as caught:
        NamedReward("mine", lambda found: answer)(measured())
    message = str(caught.value)
    assert message.startswith("the reward 'mine' returned ") and "\n" not in message
    assert message.endswith("not a finite number, for a network of flops=1000000, params=2500")


def test_a_function_that_raises() -> None:
    def broken(found: Measurement) -> float:
        return found.costs["latency"]

    with pytest.raises(RewardError) as caught:
        NamedReward("mine", broken)(measured())
    assert str(caught.value) == (
        "the reward 'mine' raised KeyError: 'latency' for a network of flops=1000000, params=2500"
    )
    assert isinstance(caught.value.__cause__, KeyError)


def test_interruption_passes() -> None:
    def interrupted(found: Measurement) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        NamedReward("mine", interrupted)(measured())
