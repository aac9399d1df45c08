"""The tables `[strategy.NAME]` of TOML files."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.errors import UsageError
from autoprune.options.component_tables import unused_tables, with_config
from autoprune.options.search import SearchConfig

DDPG = {"strategy": {"ddpg": {"updates": 60}}}
BOTH = {"strategy": {"ddpg": {"updates": 60}, "local": {"steps": 2}}}


@pytest.mark.parametrize("name", ["randm", "rl:pppo", ""])
def test_a_name_of_nothing_is_refused_when_it_is_read(name: str) -> None:
    with pytest.raises(UsageError, match=f"^unknown strategy '{name}'; "):
        SearchConfig.from_mapping({"budget": "flops=0.5", "strategy": name})


def test_the_config_of_a_strategy_comes_back() -> None:
    table = {"strategy": {"ddpg": {"updates": 60}}}
    config = SearchConfig.from_mapping({"budget": "flops=0.5", **table})
    assert (config.strategy, config.strategy_config) == ("ddpg", {"updates": 60})
    assert SearchConfig.from_mapping(config.to_mapping()) == config
    assert "strategy_config" not in SearchConfig("flops=0.5").to_mapping()


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
    assert with_config(values, "strategy", chosen) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (BOTH, "tables of the strategies 'ddpg', 'local': keep one"),
        ({"strategy": {"ddpg": 3}}, r"tables such as \[strategy.ddpg\], but its 'ddpg' is 3"),
        ({"strategy": {}}, "choose one with --strategy on the command line"),
    ],
)
def test_tables_that_cannot_be_meant(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_config(values, "strategy")


@pytest.mark.parametrize(
    ("values", "chosen", "unused"),
    [
        (DDPG, None, []),
        (DDPG, "ddpg", []),
        (DDPG, "local", ["[strategy.ddpg]"]),
        (BOTH, "local", ["[strategy.ddpg]"]),
        ({"strategy": "ddpg", "strategy_config": {"a": 1}}, "ddpg", []),
        ({"strategy": "ddpg", "strategy_config": {"a": 1}}, "local", ["[strategy_config]"]),
    ],
)
def test_tables_that_do_not_count(
    values: dict[str, Any], chosen: str | None, unused: list[str]
) -> None:
    assert unused_tables(values, "strategy", chosen) == unused
