"""Budgets: upper bounds on costs, all of which must hold; "none" is no bound at all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoprune.errors import BudgetError, did_you_mean

_SCALES = {
    "flops": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9},
    "latency": {"ms": 1.0, "us": 1e-3, "s": 1e3},
    "memory": {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9},
}
COSTS = tuple(_SCALES)
UNBOUNDED = "none"
# Less than that without a unit cannot be meant as an absolute bound.
FEWEST = 100
_EXAMPLE = "write e.g. flops=0.5 (half of the dense cost) or flops=60M,params=2.5M"


@dataclass(frozen=True)
class Limit:
    """One upper bound: a share of the dense cost, or absolute in the cost's own unit."""

    value: float
    is_share: bool

    def resolve(self, dense: float) -> float:
        """Return the bound in the cost's own unit (MACs, parameters, ms, bytes)."""
        return self.value * dense if self.is_share else self.value


@dataclass(frozen=True)
class Budget:
    """Upper bounds by cost name; every one must hold."""

    limits: Mapping[str, Limit]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "flops=0.5,latency=5ms", or "none".

        A bare number in (0, 1] is a share of the dense cost, anything else is absolute.

        Raises:
            BudgetError: malformed, unknown, zero, negative or given twice.
        """
        if text.strip() == UNBOUNDED:
            return cls({})
        limits: dict[str, Limit] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not name or not value:
                raise BudgetError(f"budget {text!r}: {part.strip()!r} is no bound; {_EXAMPLE}.")
            if name not in _SCALES:
                raise BudgetError(
                    f"budget {text!r}: unknown cost {name!r}; {did_you_mean(name, COSTS)}"
                )
            if name in limits:
                raise BudgetError(f"budget {text!r}: {name!r} is given twice; give it once.")
            limits[name] = _parse_limit(name, value)
        return cls(limits)

    def resolve(self, dense: Mapping[str, float]) -> dict[str, float]:
        """Return absolute bounds, given the dense network's costs."""
        return {name: limit.resolve(dense[name]) for name, limit in self.limits.items()}

    def __str__(self) -> str:
        shown = [f"{name}={_show(limit, name)}" for name, limit in self.limits.items()]
        return ",".join(shown) or UNBOUNDED


def _parse_limit(name: str, text: str) -> Limit:
    match = re.fullmatch(r"([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*([a-z]*)", text.lower())
    scales = _SCALES[name]
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    suffix = match[2] if match else ""
    is_share = suffix == "" and 0 < number <= 1
    if math.isnan(number) or (not is_share and suffix not in scales):
        units = ", ".join(unit for unit in scales if unit)
        raise BudgetError(
            f"budget {name}={text!r} is no number with one of the units {units}; {_EXAMPLE}."
        )
    if number <= 0 or math.isinf(number):
        raise BudgetError(f"budget {name}={text!r} must be above zero and finite; {_EXAMPLE}.")
    if not suffix and 1 < number < FEWEST:
        raise BudgetError(
            f"budget {name}={text!r} is no share in (0, 1], and far too little in all: write "
            f"{name}={number / 100:g} for {number:g} percent, or a unit as in {name}={number:g}M."
        )
    return Limit(number if is_share else number * scales[suffix], is_share)


def _show(limit: Limit, name: str) -> str:
    unit = {"latency": "ms", "memory": "B"}.get(name, "") if not limit.is_share else ""
    return f"{limit.value:.12g}{unit}"
