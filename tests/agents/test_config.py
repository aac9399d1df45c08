"""Options of the strategies that come with autoprune."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from autoprune.agents.evolution import EvolutionConfig, EvolutionStrategy
from autoprune.agents.registry import (
    AUTO,
    FLAGS,
    KIND,
    STRATEGIES,
    check_strategy,
    find_strategy,
    options_of,
    strategy_class,
)
from autoprune.errors import UsageError

NAMES = [name for name in STRATEGIES if name != AUTO]


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_frozen_documented_and_checked(name: str) -> None:
    config = strategy_class(name).config
    assert config.__dataclass_params__.frozen
    documented = "\n".join(kind.__doc__ or "" for kind in type(config).__mro__)
    for field in fields(config):
        assert f"        {field.name}: " in documented
        with pytest.raises(UsageError, match=f"the strategy '{name}' cannot have {field.name}="):
            find_strategy(name, **{field.name: {1: None}})  # of no option's type
    assert strategy_class(name).name == name
    assert options_of(find_strategy(name)) == {}


@pytest.mark.parametrize("option", FLAGS)
def test_flags_are_options_of_the_strategies_that_they_are_for(option: str) -> None:
    has = [n for n in NAMES if option in {one.name for one in fields(strategy_class(n).config)}]
    assert tuple(has) == FLAGS[option]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ddpg", {"update": 60}, "the strategy 'ddpg' has no option 'update'; did you mean 'upd"),
        ("ddpg", {"updates": 0}, "the strategy 'ddpg' cannot have updates=0: expected `int` >= 1."),
        ("ddpg", {"updates": 1.5}, "cannot have updates=1.5: expected `int`, got `float`."),
        ("ddpg", {"updates": True}, "cannot have updates=True: expected `int`, got `bool`."),
        ("ddpg", {"hidden": [64, -1]}, "cannot have hidden=[64, -1]: expected `int` >= 1."),
        ("surrogate", {"start_share": 1.5}, "cannot have start_share=1.5: expected `float` <= 1"),
        ("random", {"step": 1}, "the strategy 'random' has no option 'step'; it has none."),
        ("auto", {"walks": 9}, "'auto' stands for several strategies: name the one whose option"),
        ("evolution", {"sampler": "gp"}, "sampler is for the strategy 'bayes'; 'evolution' has"),
    ],
)
def test_mistakes(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_strategy(name, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_options_from_a_file_are_those_from_python() -> None:
    chosen = find_strategy("ddpg", hidden=[32, 32], updates=5, blur=0)
    assert chosen.config == type(chosen)(hidden=(32, 32), updates=5, blur=0.0).config
    assert options_of(chosen) == {"hidden": [32, 32], "updates": 5, "blur": 0.0}


def test_a_config_may_be_given_whole() -> None:
    chosen = find_strategy(EvolutionStrategy(EvolutionConfig(children=4)))
    assert KIND.name_of(chosen) == "evolution" and options_of(chosen) == {"children": 4}
    with pytest.raises(UsageError, match="the strategy 'evolution' takes a EvolutionConfig, but"):
        EvolutionStrategy(4)


def test_names_are_known_without_pytorch() -> None:
    import subprocess
    import sys

    script = (
        "import sys\n"
        "from autoprune.agents.registry import KIND\n"
        "KIND.check_name('rl:ppo')\n"
        "assert not {'torch', 'numpy', 'optuna', 'stable_baselines3'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
