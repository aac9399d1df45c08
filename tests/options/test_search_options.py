from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprune.cost.budget import Budget, Limit
from autoprune.errors import UsageError
from autoprune.options.search import SearchConfig
from autoprune.options.stored import in_todays_words, is_outdated


def test_everything_but_the_budget_has_a_default() -> None:
    config = SearchConfig.from_mapping({"budget": "flops=0.5"})
    assert config == SearchConfig("flops=0.5")
    assert (config.strategy, config.seed, config.round_to) == ("auto", 0, 1)
    assert config.trials is config.time is config.sampler is None


def test_options_of_an_older_version_say_what_they_did() -> None:
    old = {"budget": "flops=0.5", "exclude": ["head"]}
    assert is_outdated(old)
    words = in_todays_words(old)
    assert words == {**old, "exclude": [], "exclude_outputs": ["head"], "train_frozen": True}
    today = SearchConfig.from_mapping(old).to_mapping()
    assert not is_outdated(today) and in_todays_words(today) == today
    assert (today["exclude"], today["train_frozen"]) == (["head"], False)


def test_a_run_of_threads_goes_on_with_as_many_candidates_at_once() -> None:
    old = {"budget": "flops=0.5", "train_frozen": False, "workers": 3}
    assert in_todays_words(old) == {**old, "at_once": 3}
    assert in_todays_words({**old, "at_once": 5})["at_once"] == 5


def test_plain_values_come_back() -> None:
    values: dict[str, Any] = {
        "budget": "flops=0.5,params=1M",
        "reward": "accuracy",
        "evaluate": "mine.py:score",
        "distance": "mine.py:distance",
        "strategy": "bayes",
        "strategy_config": {"first_bins": 4},
        "engine": {"repair": {"affordable": 1}},
        "trials": 7,
        "time": 2.5,
        "recover": 30.0,
        "trial_timeout": 20.0,
        "sampler": "gp",
        "agent": "runs/a",
        "from_run": "runs/b",
        "warm_from": "runs/c",
        "finetune_epochs": 2.5,
        "importance": "l1",
        "exclude": ["stem", "layer1.*"],
        "exclude_outputs": ["layer2"],
        "decide": ["channels", "depth"],
        "train_frozen": True,
        "min_keep": {"*": 0.2, "head": 1.0},
        "round_to": 8,
        "latency_table": "table.json",
        "latency_backend": "device.py:Device",
        "verify_latency": False,
        "logger": ["tensorboard"],
        "report": False,
        "workers": 2,
        "at_once": 3,
        "ray": "10.0.0.1:6379",
        "gpus_per_worker": 0.5,
        "seed": 3,
        "repair_memory": 2_000_000_000,
        "calibration_samples": 1,
        "search_samples": 2,
        "selection_samples": 3,
    }
    # They exclude some of these.
    others = {"max_drop", "minimize", "rounds", "from_training", "storage"}
    assert values.keys() == {field.name for field in fields(SearchConfig)} - others
    config = SearchConfig.from_mapping(values)
    assert config.to_mapping() == values
    assert SearchConfig.from_mapping(config.to_mapping()) == config
    without = {key: value for key, value in values.items() if key != "budget"}
    dropping = SearchConfig.from_mapping({**without, "max_drop": 1.5, "minimize": "params"})
    assert dropping.to_mapping() == {
        **values,
        "budget": "none",
        "max_drop": 1.5,
        "minimize": "params",
    }
    assert SearchConfig.from_mapping(dropping.to_mapping()) == dropping


def test_paths_may_be_paths() -> None:
    given = {"agent": Path("runs/a"), "from_run": Path("b"), "latency_table": Path("t.json")}
    config = SearchConfig.from_mapping({"budget": "flops=0.5", **given})
    assert {key: str(path) for key, path in given.items()}.items() <= config.to_mapping().items()
    with pytest.raises(UsageError, match="agent must be a path, but got 3"):
        SearchConfig.from_mapping({"budget": "flops=0.5", "agent": 3})


def test_what_is_none_is_left_out() -> None:
    plain = SearchConfig("flops=0.5").to_mapping()
    assert not {"trials", "time", "sampler"} & plain.keys() and None not in plain.values()


@pytest.mark.parametrize(
    ("given", "exclude", "min_keep"),
    [
        ({"exclude": "stem"}, ("stem",), {}),
        ({"exclude": ["a", "b"]}, ("a", "b"), {}),
        ({"min_keep": 0.25}, (), {"*": 0.25}),
        ({"min_keep": 1}, (), {"*": 1.0}),
        ({"min_keep": {"stem": 0.5}}, (), {"stem": 0.5}),
        ({"min_keep": None}, (), {}),
        ({"min_keep": ["0.2", "stem=0.5"]}, (), {"*": 0.2, "stem": 0.5}),
    ],
    ids=str,
)
def test_short_forms(given: Any, exclude: tuple[str, ...], min_keep: dict[str, float]) -> None:
    config = SearchConfig.from_mapping({"budget": "flops=0.5", **given})
    assert (config.exclude, dict(config.min_keep)) == (exclude, min_keep)


def test_values_as_on_the_command_line() -> None:
    config = SearchConfig.from_mapping({"budget": {"flops": 0.5, "params": "2M"}, "time": "10m"})
    assert (config.budget, config.time) == ("flops=0.5,params=2M", 600.0)
    config = SearchConfig.from_mapping({"budget": {"params": 2_500_000, "flops": 1}})
    limits = Budget.parse(config.budget).limits
    assert limits == {"params": Limit(2.5e6, False), "flops": Limit(1.0, True)}


@pytest.mark.parametrize(
    ("given", "kept"), [("500 steps", "500steps"), ("2epochs", "2epochs"), ("3/9steps",) * 2]
)
def test_recovery_may_be_steps_or_epochs(given: str, kept: str) -> None:
    config = SearchConfig.from_mapping({"budget": "flops=0.5", "recover": given})
    assert config.recover == kept
    assert SearchConfig.from_mapping(config.to_mapping()) == config


@pytest.mark.parametrize(
    ("given", "seconds"), [("off", 0), (False, 0), (0, 0), ("0", 0), ("2m", 120), (30, 30)]
)
def test_recovery_is_seconds_or_off(given: Any, seconds: float) -> None:
    config = SearchConfig.from_mapping({"budget": "flops=0.5", "recover": given})
    assert config.recover == seconds
    assert SearchConfig.from_mapping(config.to_mapping()) == config


@pytest.mark.parametrize(
    ("given", "amount"),
    [("8GB", 8 * 10**9), ("1.5 gb", 15 * 10**8), ("200MB", 2 * 10**8), (4096, 4096)],
)
def test_memory_has_a_unit_or_is_in_bytes(given: Any, amount: int) -> None:
    config = SearchConfig.from_mapping({"budget": "flops=0.5", "repair_memory": given})
    assert config.repair_memory == amount
    assert SearchConfig.from_mapping(config.to_mapping()) == config


@pytest.mark.parametrize("given", ["8", "much", "0GB", 0, -1, 1.5, True, "inf GB"])
def test_no_amount_of_memory(given: Any) -> None:
    with pytest.raises(UsageError, match="repair_memory must be"):
        SearchConfig.from_mapping({"budget": "flops=0.5", "repair_memory": given})


def test_numpy_numbers_are_numbers() -> None:
    given = {"trials": np.int64(3), "time": np.float32(2), "seed": np.int64(1)}
    config = SearchConfig.from_mapping({"budget": "flops=0.5", **given})
    assert (config.trials, config.time, config.seed) == (3, 2.0, 1)
    assert all(type(config.to_mapping()[key]) is int for key in ("trials", "seed"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trails": 3}, "unknown option 'trails'; did you mean 'trials'?"),
        ({"verbosity": 3}, "unknown option 'verbosity'; choose one of: agent, at_once, budget, "),
        ({"trials": 0}, "trials must be above zero, but got 0"),
        ({"trials": -1}, "trials must be above zero, but got -1"),
        ({"time": 0.0}, "time must be above zero, but got 0.0"),
        ({"time": float("nan")}, "time must be above zero, but got nan"),
        ({"seed": -1}, "seed must not be negative, nor above 4294967295, but got -1"),
        ({"trials": "3"}, "trials must be a whole number, but got '3'"),
        ({"trials": 2.5}, "trials must be a whole number, but got 2.5"),
        ({"trials": True}, "trials must be a whole number, but got True"),
        ({"seed": 2**32}, "nor above 4294967295, but got 4294967296"),
        ({"trials": 10**4000}, "trials must be a whole number, but got 1000"),
        ({"seed": None}, "seed must be a whole number, but got None"),
        ({"time": "soon"}, "time 'soon' is not a duration above zero"),
        ({"time": [3]}, "time must be a number of seconds or a text such as '10m', but got [3]"),
        (
            {"recover": "soon"},
            "recover 'soon' is not a duration above zero: write e.g. 10m, 500steps, 2epochs or off",
        ),
        ({"recover": "0steps"}, "recover '0steps' is not a number of steps or epochs above zero"),
        ({"trial_timeout": "soon"}, "trial_timeout 'soon' is not a duration above zero"),
        ({"recover": -1}, "recover must be seconds or off, but got -1"),
        ({"recover": float("inf")}, "recover must be seconds or off, but got inf"),
        ({"recover": True}, "recover must be a number of seconds, a text such as '2m'"),
        ({"budget": 0.5}, "budget must be a text such as 'flops=0.5' or a table of bounds by cost"),
        ({"budget": {"flops": None}}, "budget must be a text such as 'flops=0.5' or a table"),
        ({"strategy": None}, "strategy must be a text, but got None"),
        ({"exclude": 3}, "exclude must be a pattern or a list of patterns, but got 3"),
        ({"exclude_outputs": 3}, "exclude_outputs must be a pattern or a list of patterns"),
        ({"train_frozen": "yes"}, "train_frozen must be true or false, but got 'yes'"),
        ({"exclude": [3]}, "exclude must be a pattern or a list of patterns, but got [3]"),
        ({"min_keep": "half"}, "min_keep 'half' is not a ratio in (0, 1]"),
        ({"min_keep": True}, "min_keep must be a ratio or ratios by pattern, but got True"),
        ({"min_keep": {"*": "half"}}, "min_keep must be a ratio or ratios by pattern"),
    ],
    ids=str,
)
def test_wrong_values(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        SearchConfig.from_mapping({"budget": "flops=0.5", **wrong})
    assert message in str(caught.value)


@pytest.mark.parametrize("reward", [None, "kl", "accuracy", "mine.py:reward"])
def test_the_budget_cannot_be_left_out(reward: str | None) -> None:
    with pytest.raises(UsageError, match="budget is missing; write"):
        SearchConfig.from_mapping({} if reward is None else {"reward": reward})


@pytest.mark.parametrize(
    "given",
    [
        {"reward": "accuracy_flops"},
        {"reward": "accuracy_latency"},
        {"reward": "mine.py:reward", "budget": None},
        {"reward": "mine.py:reward", "budget": "none"},
    ],
    ids=str,
)
def test_no_budget(given: dict[str, Any]) -> None:
    config = SearchConfig.from_mapping(given)
    assert config.budget == "none"
    assert SearchConfig.from_mapping(config.to_mapping()) == config


def test_files_of_storages_have_whole_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read = SearchConfig.from_mapping({"budget": "flops=0.5", "storage": "sqlite:///a.db"})
    assert read.storage == f"sqlite:///{tmp_path}/a.db"


def test_decisions_that_are_no_texts_are_refused() -> None:
    with pytest.raises(UsageError, match=r"decide must be a text .*, but got \[1\]"):
        SearchConfig.from_mapping({"budget": "flops=0.5", "decide": [1]})
