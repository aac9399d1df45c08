"""What is known of strategies without importing them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from autoprune.errors import UsageError
from autoprune.options import strategies
from autoprune.options.search import SearchConfig
from autoprune.options.strategies import check_strategy_name, with_strategy_config

DDPG = {"strategy": {"ddpg": {"updates": 60}}}
BOTH = {"strategy": {"ddpg": {"updates": 60}, "local": {"steps": 2}}}


@pytest.mark.parametrize(
    "name", ["auto", "rl:ppo", "recall", "mine.py:Mine", "package.module:Mine"]
)
def test_names(name: str) -> None:
    check_strategy_name(name)


@pytest.mark.parametrize("name", ["randm", "rl:pppo", "", "mine.py:", ":Mine", "Random"])
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(UsageError, match=f"^unknown strategy '{name}'; "):
        check_strategy_name(name)


def test_an_installed_strategy_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "is_entry_point", lambda name, group: name == "theirs")
    check_strategy_name("theirs")


@pytest.mark.parametrize(
    ("values", "chosen", "expected"),
    [
        (DDPG, None, {"strategy": "ddpg", "strategy_config": {"updates": 60}}),
        (DDPG, "local", {"strategy": "local", "strategy_config": {}}),
        (BOTH, "local", {"strategy": "local", "strategy_config": {"steps": 2}}),
        ({"strategy": "ddpg", "trials": 3}, None, {"strategy": "ddpg", "trials": 3}),
        (
            {"strategy": "ddpg", "strategy_config": {"updates": 60}},
            "ddpg",
            {"strategy": "ddpg", "strategy_config": {"updates": 60}},
        ),
        ({"strategy": "ddpg", "strategy_config": {"a": 1}}, "local", {"strategy": "ddpg"}),
    ],
)
def test_tables(values: dict[str, Any], chosen: str | None, expected: dict[str, Any]) -> None:
    assert with_strategy_config(values, chosen) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (BOTH, "tables of the strategies 'ddpg', 'local': choose one with --strategy"),
        ({"strategy": {"ddpg": 3}}, r"tables such as \[strategy.ddpg\], but its 'ddpg' is 3"),
        ({"strategy": {}}, "choose one with --strategy"),
    ],
)
def test_tables_that_cannot_be_meant(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_strategy_config(values)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strategy "theirs" with one option."""

    class Theirs:
        @dataclass(frozen=True)
        class Config:
            updates: int = 10

    module = ModuleType("theirs")
    module.Theirs = Theirs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "theirs", module)
    monkeypatch.setitem(strategies.PLACES, "theirs", "theirs:Theirs")
    monkeypatch.setattr(strategies, "STRATEGIES", (*strategies.STRATEGIES, "theirs"))


def test_the_config_of_a_strategy_comes_back(theirs: None) -> None:
    table = {"strategy": {"theirs": {"updates": 60}}}
    config = SearchConfig.from_mapping({"budget": "flops=0.5", **table})
    assert (config.strategy, config.strategy_config) == ("theirs", {"updates": 60})
    assert SearchConfig.from_mapping(config.to_mapping()) == config
    assert "strategy_config" not in SearchConfig("flops=0.5").to_mapping()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("theirs", "the strategy 'theirs' has no option 'update'; did you mean 'updates'"),
        ("uniform", "the strategy 'uniform' has no option 'update'; "),
        ("auto", "name the strategy that has the option 'update'"),
    ],
)
def test_options_that_a_strategy_does_not_have(theirs: None, name: str, message: str) -> None:
    values = {"budget": "flops=0.5", "strategy": name, "strategy_config": {"update": 60}}
    with pytest.raises(UsageError, match=message):
        SearchConfig.from_mapping(values)
