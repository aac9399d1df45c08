"""The kinds of values that options take, and how each is read."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from autoprune.agents.registry import KIND as STRATEGIES
from autoprune.core.lazy import imported
from autoprune.core.plugins import Kind, absolute, absolute_object
from autoprune.cost.budget import UNBOUNDED, Budget
from autoprune.cost.budget_sweep import Sweep
from autoprune.data.sources import FORMS as DATA_FORMS
from autoprune.data.sources import absolute_data
from autoprune.errors import UsageError, spelt
from autoprune.exporters.registry import KIND as FORMATS
from autoprune.importance.registry import KIND as IMPORTANCES
from autoprune.methods.registry import KIND as METHODS
from autoprune.models import MODEL_FORMS
from autoprune.models.specs import absolute_model
from autoprune.options.durations import parse_duration
from autoprune.options.option import Rule, ValueKind
from autoprune.options.storage_url import absolute_storage, read_storage
from autoprune.profiling.backends.registry import KIND as BACKENDS
from autoprune.recovery.length import Length

# What random number generators take.
LARGEST_SEED = 2**32 - 1
LARGEST_WHOLE = 2**63 - 1
# What a search may decide.
DECISIONS = (CHANNELS, DEPTH, HEADS) = ("channels", "depth", "heads")
# The Ray cluster that is started on this machine.
LOCAL = "local"
# A multiple of widths that the device chooses.
AUTO = "auto"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _path(value: Any) -> str:
    return _text(os.fspath(value))


def _paths(value: Any) -> tuple[str, ...]:
    return tuple(map(_path, value))


def _budget(value: Any) -> str:
    if isinstance(value, Mapping):
        value = ",".join(f"{cost}={_bound(limit)}" for cost, limit in value.items())
    text = UNBOUNDED if value is None else _text(value)
    Budget.parse(text)
    return text


def _sweep(value: Any) -> str:
    return str(Sweep.parse(_text(value)))


def _component(value: Any) -> Any:
    """Return the name of a component, or the component itself."""
    if value is None or isinstance(value, (bool, int, float, list, tuple, Mapping)):
        raise TypeError
    return value


def _named(kind: Kind) -> Callable[[Any], Any]:
    """Return a reader of components of a kind, by a name that is there or as they are."""

    def read(value: Any) -> Any:
        if isinstance(value, str):
            kind.check_name(value)
        return _component(value)

    return read


def _bound(limit: Any) -> str:
    return limit if isinstance(limit, str) else str(_number(limit))


def _cluster(value: Any) -> str | None:
    """Return the address of a Ray cluster; True is one on this machine."""
    if isinstance(value, bool):
        return LOCAL if value else None
    address = _text(value)
    known = address in (LOCAL, "auto")
    if not known and re.fullmatch(r"(ray://)?[^\s/]+:\d{1,5}", address) is None:
        raise UsageError(
            f"{spelt('ray', address)} is no address of a Ray cluster: write HOST:PORT, auto (the "
            f"cluster that this machine belongs to) or {LOCAL}."
        )
    return address


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


def _multiple(value: Any) -> int | str:
    return AUTO if value == AUTO else _whole(value)


def _number(value: Any) -> float:
    if isinstance(value, (bool, str)):
        raise TypeError
    return float(value)


def _seconds(value: Any, name: str = "time") -> float:
    return parse_duration(value, name) if isinstance(value, str) else _number(value)


def _recovery(value: Any) -> float | str:
    """Return seconds, or how a length in steps or epochs is written."""
    if value in (False, "off", "0"):  # False is also 0
        return 0.0
    if not isinstance(value, str):
        return _number(value)
    if "step" in value.lower() or "epoch" in value.lower():
        try:
            return str(Length.read(value))
        except ValueError:
            raise UsageError(
                f"{spelt('recover')} {value!r} is not a number of steps or epochs above zero: "
                "write e.g. 500steps or 2epochs."
            ) from None
    return parse_duration(value, "recover", "10m, 500steps, 2epochs or off")


def _patterns(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(_text, value))


def _decisions(value: Any) -> tuple[str, ...]:
    wanted = {_text(one).strip() for one in (value.split(",") if isinstance(value, str) else value)}
    if unknown := sorted(wanted - {*DECISIONS}):
        raise UsageError(
            f"{spelt('decide')} {unknown[0]!r} is nothing that can be decided: choose from "
            f"{', '.join(DECISIONS)}."
        )
    if DECISIONS[0] not in wanted:
        raise UsageError(f"{spelt('decide')} must name {DECISIONS[0]}, but got {value!r}.")
    return tuple(one for one in DECISIONS if one in wanted)


def _ratios(value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {_text(pattern): _number(ratio) for pattern, ratio in value.items()}
    if value is None or isinstance(value, (str, list, tuple)):
        return parse_min_keep(_patterns(value or ()))
    return {"*": _number(value)}


def _table(value: Any) -> dict[str, Any]:
    return {_text(key): own for key, own in dict(value).items()}


def _tables(value: Any) -> dict[str, dict[str, Any]]:
    return {_text(name): dict(table) for name, table in dict(value).items()}


def _versions(value: Any) -> dict[str, str]:
    return {name: _text(version) for name, version in dict(value).items()}


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
                f"{spelt('min_keep')} {text!r} is not a ratio in (0, 1]: write e.g. 0.2 or "
                "'layer1.*=0.5'."
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


def _form(spec: str) -> str:
    return spec.partition(":")[0]


def _code(
    is_installed: Callable[[str], bool],
    read: Callable[[Any], Any] = _text,
    absolute: Callable[[str], str] = absolute_object,
    metavar: str = "SPEC",
) -> ValueKind:
    """Return a kind of values that name code; every option that leads to an import has such a one.

    Args:
        is_installed: see `ValueKind`.
        read: likewise.
        absolute: likewise.
        metavar: likewise.
    """
    return ValueKind(metavar, read, "a text", absolute=absolute, is_installed=is_installed)


NAME = ValueKind("NAME", _text, "a text")
SPEC = ValueKind("SPEC", _text, "a text")
REPOSITORY = ValueKind("USER/NAME", _text, "a text")
COST = ValueKind("COST", _text, "a text")
SHAPE = ValueKind("CxHxW", _text, "a text")
FILE = ValueKind("FILE", _path, "a path", absolute=absolute)
FOLDER = ValueKind("DIR", _path, "a path", absolute=absolute)
RUN = ValueKind("RUN", _path, "a path", absolute=absolute)
STORAGE = ValueKind("URL", read_storage, "a text", absolute=absolute_storage)
RUNS = ValueKind("RUN…", _paths, "paths", repeats=True)
LAYER = ValueKind("LAYER", _text, "a text")
OBJECT = _code(lambda spec: False)
"""A function or class of the user's: no name comes installed."""
MODEL = _code(lambda spec: _form(spec) in MODEL_FORMS, absolute=absolute_model)
DATA = _code(lambda spec: _form(spec) in DATA_FORMS, absolute=absolute_data)
REWARD = _code(imported("autoprune.evaluation.reward:KIND.is_installed"))  # it imports NumPy
BACKEND = _code(BACKENDS.is_installed)
FORMAT = _code(FORMATS.is_installed, _named(FORMATS), metavar="NAME")
IMPORTANCE = _code(IMPORTANCES.is_installed, _component)
STRATEGY = _code(STRATEGIES.is_installed, _named(STRATEGIES), metavar="NAME")
METHOD = _code(METHODS.is_installed, _named(METHODS), metavar="NAME")
LOGGERS = ValueKind(
    "NAME",
    _patterns,
    "a name or a list of names",
    absolute=lambda names: tuple(map(absolute_object, names)),
    is_installed=imported("autoprune.training.loggers:KIND.is_installed"),
    repeats=True,
)
CLUSTER = replace(
    _code(lambda address: address == LOCAL, _cluster, metavar="[ADDRESS]"),
    wanted="an address, true or false",
    bare=LOCAL,
)
"""A Ray cluster sends and runs pickled Python: an address in a file is taken as code is."""
SWITCH = ValueKind(None, _switch, "true or false", is_switch=True)
TWO_WAY_SWITCH = ValueKind(None, _switch, "true or false", is_switch=True, is_two_way=True)
WHOLE = ValueKind("N", _whole, "a whole number", int)
AMOUNT = ValueKind("N", _amount, "a whole number above zero", int)
MULTIPLE = ValueKind(
    "N|auto",
    _multiple,
    "a whole number or 'auto'",
    lambda text: text if text == AUTO else int(text),
)
NUMBER = ValueKind("NUMBER", _number, "a number", float)
POINTS = ValueKind("POINTS", _number, "a number of points", float)
BUDGET = ValueKind(
    "COST=LIMIT[,…]", _budget, "a text such as 'flops=0.5' or a table of bounds by cost"
)
SWEEP = ValueKind("COST=FROM:TO:STEP", _sweep, "a text such as 'flops=0.3:0.9:0.1'")
SECONDS = ValueKind("DURATION", _seconds, "a number of seconds or a text such as '10m'")
TIMEOUT = replace(SECONDS, read=partial(_seconds, name="trial_timeout"))
RECOVERY = ValueKind(
    "LENGTH|off",
    _recovery,
    "a number of seconds, a text such as '2m', '500steps' or '2epochs', or 'off'",
)
PATTERNS = ValueKind("PATTERN", _patterns, "a pattern or a list of patterns", repeats=True)
RATIOS = ValueKind("[PATTERN=]RATIO", _ratios, "a ratio or ratios by pattern", repeats=True)
DECISION = ValueKind("WHAT[,…]", _decisions, "a text such as 'channels,depth' or a list")
MEMORY = ValueKind("SIZE", _memory, "a text such as '8GB' or a whole number of bytes")
TABLE = ValueKind(None, _table, "a table of options", parse=None)
TABLES = ValueKind(None, _tables, "tables of limits by stage", parse=None)
VERSIONS = ValueKind(None, _versions, "a table of versions", parse=None)

MULTIPLE_OR_AUTO = Rule(lambda value: value == AUTO or value > 0, "be above zero, or auto")
ABOVE_ZERO = Rule(lambda value: 0 < value < math.inf, "be above zero")
GPUS = Rule(
    lambda value: 0 <= value <= 1 or (value < math.inf and value == int(value)),
    "be from 0 to 1, or whole: Ray shares out a GPU, or gives several",
)
ZERO_OR_MORE = Rule(lambda value: 0 <= value < math.inf, "be 0 or more")
SHARE = Rule(lambda value: 0 <= value <= 1, "be from 0 to 1")
SHARE_BELOW_ONE = Rule(lambda value: 0 <= value < 1, "be from 0 to below 1")
SECONDS_OR_OFF = Rule(
    lambda value: isinstance(value, str) or 0 <= value < math.inf, "be seconds or off"
)
ZERO_OR_MORE_POINTS = Rule(lambda value: 0 <= value < math.inf, "be points, 0 or more")
SEED = Rule(lambda value: 0 <= value <= LARGEST_SEED, f"not be negative, nor above {LARGEST_SEED}")
