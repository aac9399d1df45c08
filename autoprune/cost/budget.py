"""Budgets: upper bounds on costs, all of which must hold; "none" is a budget without bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoprune.cost.registry import COSTS, cost_class
from autoprune.errors import BudgetError, did_you_mean

UNBOUNDED = "none"
# A smaller number without a suffix cannot be meant as an absolute bound on a count of millions.
FEWEST = 100
_EXAMPLE = "write e.g. flops=0.5 (half of the dense cost) or flops=60M,params=2.5M"


@dataclass(frozen=True)
class Limit:
    """One upper bound: a share of the dense cost, or an absolute value in the cost's own unit."""

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

        A number in (0, 1] without a suffix is a share of the dense cost; anything else is absolute.

        Raises:
            BudgetError: A bound is malformed, unknown, zero, negative or given twice.
        """
        if text.strip() == UNBOUNDED:
            return cls({})
        limits: dict[str, Limit] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not name or not value:
                raise BudgetError(f"budget {text!r}: {part.strip()!r} is not a bound; {_EXAMPLE}.")
            if name not in COSTS:
                raise BudgetError(
                    f"budget {text!r}: unknown cost {name!r}; {did_you_mean(name, COSTS)}"
                )
            if name in limits:
                raise BudgetError(f"budget {text!r}: {name!r} is given twice; give it once.")
            limits[name] = _parse_limit(name, value)
        return cls(limits)

    def resolve(self, dense: Mapping[str, float]) -> dict[str, float]:
        """Return absolute bounds, given the costs of the dense network."""
        return {name: limit.resolve(dense[name]) for name, limit in self.limits.items()}

    def __str__(self) -> str:
        shown = [f"{name}={_written(limit, name)}" for name, limit in self.limits.items()]
        return ",".join(shown) or UNBOUNDED


def _parse_limit(name: str, text: str) -> Limit:
    match = re.fullmatch(r"([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*([a-z]*)", text.lower())
    units = cost_class(name).budget_units
    sizes = {suffix.lower(): size for suffix, size in units.items()}
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    suffix = match[2] if match else ""
    is_share = suffix == "" and 0 < number <= 1
    if math.isnan(number) or (not is_share and suffix not in sizes):
        known = ", ".join(filter(None, units))
        wanted = f"a number with one of the units {known}" if known else "a number"
        raise BudgetError(f"budget {name}={text!r} is not {wanted}; {_EXAMPLE}.")
    if number <= 0 or math.isinf(number):
        raise BudgetError(f"budget {name}={text!r} must be above zero and finite; {_EXAMPLE}.")
    if not suffix and 1 < number < FEWEST and "M" in units:
        raise BudgetError(
            f"budget {name}={text!r} is not a share in (0, 1], and far too small as an absolute "
            f"bound: write {name}={number / 100:g} for {number:g} percent, or a unit as in "
            f"{name}={number:g}M."
        )
    return Limit(number if is_share else number * sizes[suffix], is_share)


def _written(limit: Limit, name: str) -> str:
    """Return a bound as `Budget.parse` reads it; an absolute one in the cost's own unit."""
    units = cost_class(name).budget_units
    own = "" if limit.is_share else next(suffix for suffix, size in units.items() if size == 1)
    return f"{limit.value:.12g}{own}"
