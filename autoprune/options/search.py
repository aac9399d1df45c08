"""The options of a search, as one frozen value."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from autoprune.agents.registry import KIND as STRATEGY
from autoprune.agents.registry import options_of
from autoprune.cost.budget import UNBOUNDED
from autoprune.errors import UsageError, did_you_mean, shown
from autoprune.evaluation.reward import DEFAULT_REWARD, needs_no_budget
from autoprune.importance import KIND as IMPORTANCE
from autoprune.study.run_directory import RunDirectory

if TYPE_CHECKING:
    from autoprune.agents.base import Strategy
    from autoprune.importance import Importance

# Options that may change when a search is resumed.
RENEWABLE = ("trials", "time", "recover")
# What random number generators take.
LARGEST_SEED = 2**32 - 1
LARGEST_WHOLE = 2**63 - 1
# A step of widths that the device chooses.
AUTO = "auto"
# Where model and data come from, and written into a run's config.toml besides the options.
ORIGIN = ("model", "weights", "data", "normalize", "classes", "device")
REMARKS = ("autoprune", "versions", "judge", "repair_samples")


@dataclass(frozen=True)
class SearchConfig:
    """How to search; what every field defaults to is what the command line does.

    Attributes:
        budget: e.g. "flops=0.5,params=2M", or "none" (`budget.Budget`).
        reward: what is maximised (`evaluation.reward.find_reward`); of a function its name.
        strategy: who chooses the widths: a name, or the strategy itself (`agents.registry`).
        strategy_config: options of the strategy, by field of its config.
        trials: evaluations; None lets the number of groups decide.
        max_drop: instead of a budget: points of top-1 (or units of `evaluate`'s score) that the
            winner may lose on the selection images; the network is as small as that allows.
        minimize: with `max_drop`: the cost that is to be small; "flops" by default.
        time: seconds after which the search ends at its best so far, set-up and finalists included;
            one trial and one finalist are made in any case. None is no limit. A resumed search has
            it anew.
        recover: seconds in which the winner learns to do what the dense network does; 0 is off.
            None is half as long as the search took, two minutes at most.
        sampler: of the strategy "bayes", which "auto" then is.
        agent: of the strategies "ddpg" and "local", one of which "auto" then is: the run or file of
            one that learnt before.
        from_run: of the strategy "recall", which it implies: the run whose frontier is used.
        importance: which channels stay: a name, or the criterion itself.
        exclude: patterns of module paths that stay as they are: inputs, outputs and all values.
        exclude_outputs: patterns of layers whose outputs are not cut; their inputs may be.
        train_frozen: whether weights with requires_grad=False are refitted and trained, too.
        min_keep: least keep ratio by layer-name pattern; "*" is the rest.
        round_to: widths are multiples of it; "auto" takes what the latency table's device favours.
        latency_table: file of the table that predicts latency; None measures this host where
            latency is asked for.
        latency_backend: the backend of one's own that the table was measured with; without it such
            a table predicts, but nothing is imported to measure the winner.
        verify_latency: whether the winner's latency is measured, and the search goes on under a
            tighter bound if it misses the budget; it only says anything with a latency.
        workers: candidates that are evaluated at once, each in a thread of its own, by strategies
            that need not await every one.
        seed: of all randomness.
        repair_memory: bytes that the activations of sequential repair may take; as many calibration
            samples as fit are used. None is half of what is free when the search begins.
        calibration_samples, search_samples, selection_samples: drawn from the data.
        engine: tuning constants of the stages, by stage (`engine.limits.StageLimits`).
    """

    budget: str
    reward: str = DEFAULT_REWARD
    strategy: str | Strategy = AUTO
    strategy_config: Mapping[str, Any] = field(default_factory=dict)
    trials: int | None = None
    max_drop: float | None = None
    minimize: str | None = None
    time: float | None = None
    recover: float | None = None
    sampler: str | None = None
    agent: str | None = None
    from_run: str | None = None
    importance: str | Importance = "obs"
    exclude: tuple[str, ...] = ()
    exclude_outputs: tuple[str, ...] = ()
    train_frozen: bool = False
    min_keep: Mapping[str, float] = field(default_factory=dict)
    round_to: int | str = 1
    latency_table: str | None = None
    latency_backend: str | None = None
    verify_latency: bool = True
    workers: int = 1
    seed: int = 0
    repair_memory: int | None = None
    calibration_samples: int = 2000
    search_samples: int = 1000
    selection_samples: int = 1000
    engine: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("trials", "time", "workers", "repair_memory"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be above zero, but got {value}.")
        if self.recover is not None and not 0 <= self.recover < math.inf:
            raise UsageError(f"recover must be seconds or off, but got {self.recover}.")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise UsageError(f"max-drop must be points, 0 or more, but got {self.max_drop}.")
        if self.max_drop is not None and self.budget != UNBOUNDED:
            raise UsageError("max-drop stands instead of a budget: give one of them.")
        if self.minimize is not None and self.max_drop is None:
            raise UsageError("minimize says what is small at a given max-drop: give that too.")
        if self.latency_backend is not None and self.latency_table is None:
            raise UsageError(
                "latency-backend says what a latency table was measured with: give --latency-table "
                "too."
            )
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(
                f"seed must not be negative, nor above {LARGEST_SEED}, but got {self.seed}."
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SearchConfig:
        """Build from plain values; a single pattern or ratio may stand for a list or table.

        Raises:
            UsageError: an unknown key, no budget, a wrong type or a value out of range.
        """
        for key in values:
            if key not in _READERS:
                raise UsageError(f"unknown option {key!r}; {did_you_mean(key, _READERS)}")
        optional = {f.name for f in fields(cls) if f.default is None}
        plain: dict[str, Any] = {
            key: None if value is None and key in optional else read_option(key, value)
            for key, value in values.items()
        }
        if "budget" not in plain:
            weighs_costs = needs_no_budget(plain.get("reward", DEFAULT_REWARD))
            if plain.get("max_drop") is None and not weighs_costs:
                raise UsageError(
                    "budget is missing; write e.g. budget='flops=0.5': half of the MACs, or "
                    "max_drop=1: as small as one point of accuracy allows, or budget='none' with a "
                    "reward of your own that weighs the costs."
                )
            plain["budget"] = UNBOUNDED
        if plain.get("from_run") and plain.get("strategy", "auto") == "auto":
            plain["strategy"] = "recall"
        return cls(**plain)

    @property
    def strategy_name(self) -> str:
        """The name that finds the strategy again."""
        return STRATEGY.name_of(self.strategy)

    @property
    def strategy_options(self) -> dict[str, Any]:
        """The options of the strategy, by field of its config; None where nothing was said."""
        flags = {"sampler": self.sampler, "agent": self.agent, "from_run": self.from_run}
        return {**flags, **self.strategy_config}

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values; those that say nothing are left out."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        if not isinstance(self.strategy, (str, type)):
            values["strategy_config"] = options_of(self.strategy)
        values["strategy"] = self.strategy_name
        values["importance"] = IMPORTANCE.name_of(self.importance)
        if not values["strategy_config"]:
            del values["strategy_config"]
        lists = {name: list(values[name]) for name in ("exclude", "exclude_outputs")}
        plain = {**values, **lists, "min_keep": dict(self.min_keep), "engine": dict(self.engine)}
        return {key: value for key, value in plain.items() if value is not None}


def is_outdated(options: Mapping[str, Any]) -> bool:
    """Whether a run's options are of a version that trained what is frozen.

    Then `exclude` left the outputs of layers alone, not their inputs and values.
    """
    return "train_frozen" not in options


def in_todays_words(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run so that they say what they did when it was begun."""
    if not is_outdated(options):
        return dict(options)
    outputs = options.get("exclude", [])
    return {**options, "exclude": [], "exclude_outputs": outputs, "train_frozen": True}


def read_option(key: str, value: Any) -> Any:
    """Return an option of a search as `SearchConfig` holds it.

    Args:
        key: a field of `SearchConfig`.
        value: as Python, a TOML file or the command line has it.

    Raises:
        UsageError: the value is of the wrong type or cannot be meant.
    """
    return _checked(key, value, _READERS)


def _checked(key: str, value: Any, readers: _Readers) -> Any:
    read, wanted = readers[key]
    try:
        return read(value)
    except UsageError:
        raise
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{key} must be {wanted}, but got {shown(value)}.") from None


def read_setting(key: str, value: Any) -> Any:
    """Return an option of a search, or whatever else stands in a `config.toml`, if it is right.

    Args:
        key: a field of `SearchConfig`, or one in `ORIGIN` or `REMARKS`.
        value: as a TOML file has it.

    Raises:
        UsageError: the value is of the wrong type or cannot be meant.
    """
    return _checked(key, value, {**_READERS, **_STORED})


def stored_settings(run: RunDirectory) -> dict[str, Any]:
    """Return the configuration of a run; what is known there is of the right type.

    Raises:
        RunError: there is no run, or its configuration cannot be read.
        UsageError: a value is of the wrong type or cannot be meant.
    """
    stored = run.load_config()
    for key in stored.keys() & {*_READERS, *_STORED}:
        try:
            read_setting(key, stored[key])
        except UsageError as error:
            raise UsageError(f"{str(run.config_path)!r}: {error}") from error
    return stored


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _component(value: Any) -> Any:
    """Return the name of a component, or the component itself."""
    if value is None or isinstance(value, (bool, int, float, list, tuple, dict)):
        raise TypeError
    return value


def _options(value: Any) -> dict[str, Any]:
    return {_text(name): option for name, option in dict(value).items()}


def _place(value: Any) -> str:
    return _text(os.fspath(value))


def _budget(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{cost}={_bound(limit)}" for cost, limit in value.items())
    return UNBOUNDED if value is None else _text(value)


def _bound(limit: Any) -> str:
    return limit if isinstance(limit, str) else str(_number(limit))


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    number = operator.index(value)
    if abs(number) > LARGEST_WHOLE:
        raise ValueError
    return number


def _amount(value: Any) -> int:
    number = _whole(value)
    if number < 1:
        raise ValueError
    return number


def _step(value: Any) -> int | str:
    return AUTO if value == AUTO else _whole(value)


def _number(value: Any) -> float:
    if isinstance(value, (bool, str)):
        raise TypeError
    return float(value)


def _seconds(value: Any) -> float:
    return parse_duration(value) if isinstance(value, str) else _number(value)


def _recovery(value: Any) -> float:
    if value in (False, "off", "0"):  # False is also 0
        return 0.0
    return parse_duration(value, "recover") if isinstance(value, str) else _number(value)


def _patterns(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(_text, value))


def _ratios(value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {_text(pattern): _number(ratio) for pattern, ratio in value.items()}
    if value is None or isinstance(value, (str, list, tuple)):
        return parse_min_keep([value] if isinstance(value, str) else value or ())
    return {"*": _number(value)}


def _tables(value: Any) -> dict[str, dict[str, Any]]:
    return {_text(name): dict(table) for name, table in dict(value).items()}


def _versions(value: Any) -> dict[str, str]:
    return {name: _text(version) for name, version in dict(value).items()}


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str, name: str = "time") -> float:
    """Read "90s", "10m", "1.5h", or plain seconds.

    Returns:
        Seconds.

    Raises:
        UsageError: malformed, zero or negative.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([a-z]?)", text.strip().lower())
    seconds = float(match[1]) * _UNITS.get(match[2], math.nan) if match else math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"{name} {text!r} is no duration above zero: write e.g. 90s, 10m or 1h.")
    return seconds


def parse_min_keep(texts: Sequence[str]) -> dict[str, float]:
    """Read ["0.2", "layer1.*=0.5"] into ratios by pattern; "*" is the rest.

    Raises:
        UsageError: malformed, or a ratio outside (0, 1].
    """
    ratios: dict[str, float] = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            ratio = float(number)
        except ValueError:
            ratio = math.nan
        if not 0 < ratio <= 1:
            raise UsageError(
                f"min-keep {text!r} is no ratio in (0, 1]: write e.g. 0.2 or 'layer1.*=0.5'."
            )
        ratios[pattern.strip() or "*"] = ratio
    return ratios


_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def _memory(value: Any) -> int:
    if not isinstance(value, str):
        return _whole(value)
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kmgt]?b)", value.strip().lower())
    if match is None:
        raise ValueError
    return int(float(match[1]) * _BYTES[match[2]])


_Readers: TypeAlias = Mapping[str, tuple[Callable[[Any], Any], str]]
_TEXT, _WHOLE = (_text, "a text"), (_whole, "a whole number")

# How every field is read from a plain value, and what it takes, in words.
_READERS: _Readers = {
    **dict.fromkeys(("reward", "sampler"), _TEXT),
    **dict.fromkeys(("strategy", "importance"), (_component, "a text")),
    "strategy_config": (_options, "a table of options"),
    "round_to": (_step, "a whole number or 'auto'"),
    **dict.fromkeys(("agent", "from_run", "latency_table"), (_place, "a path")),
    "latency_backend": _TEXT,
    **dict.fromkeys(("verify_latency", "train_frozen"), (_switch, "true or false")),
    "budget": (_budget, "a text such as 'flops=0.5' or a table of bounds by cost"),
    **dict.fromkeys(("trials", "workers", "seed"), _WHOLE),
    **dict.fromkeys(("calibration_samples", "search_samples", "selection_samples"), _WHOLE),
    "max_drop": (_number, "a number of points"),
    "minimize": _TEXT,
    "time": (_seconds, "a number of seconds or a text such as '10m'"),
    "recover": (_recovery, "a number of seconds, a text such as '2m', or 'off'"),
    **dict.fromkeys(("exclude", "exclude_outputs"), (_patterns, "a pattern or a list of patterns")),
    "min_keep": (_ratios, "a ratio or ratios by pattern"),
    "engine": (_tables, "tables of limits by stage"),
    "repair_memory": (_memory, "a text such as '8GB' or a whole number of bytes"),
}
# What stands in a run's config.toml besides.
_STORED: _Readers = {
    **dict.fromkeys((*ORIGIN, "autoprune", "judge"), _TEXT),
    "versions": (_versions, "a table of versions"),
    "repair_samples": (_amount, "a whole number above zero"),
}
