"""Options of a training method, one by one on the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from autoprune.options.option import ValueKind


def _read(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    return dict(map(_setting, [value] if isinstance(value, str) else value))


def _setting(text: Any) -> tuple[str, Any]:
    if not isinstance(text, str):
        raise TypeError
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError
    try:
        return name.strip(), json.loads(value)
    except ValueError:  # a text without quotation marks
        return name.strip(), value


METHOD_OPTIONS = ValueKind(
    "OPTION=VALUE", _read, "OPTION=VALUE, or a table of options", repeats=True
)
