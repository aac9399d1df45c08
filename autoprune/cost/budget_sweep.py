"""Sweeps: many budgets that differ by the bound on one cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from autoprune.cost.budget import UNBOUNDED, Budget
from autoprune.errors import BudgetError, spelt

MOST_BUDGETS = 100
_EXAMPLE = "write e.g. flops=0.3:0.9:0.1 (from, to, step) or latency=2ms:5ms:0.5ms"


@dataclass(frozen=True)
class Sweep:
    """Bounds on one cost, from the narrowest to the widest.

    Attributes:
        cost: its name.
        limits: the bounds as they stand in a budget, "0.3" or "2.5ms".
        text: all of it, as `parse` reads it.
    """

    cost: str
    limits: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Sweep:
        """Read "flops=0.3:0.9:0.1": the first bound, the last one, and the step between two.

        Raises:
            BudgetError: it is no sweep, or one of its bounds is no budget.
        """
        cost, _, values = (piece.strip() for piece in text.partition("="))
        parts = [re.fullmatch(r"([0-9.]+)\s*([A-Za-z]*)", one.strip()) for one in values.split(":")]
        units = {part[2] for part in parts if part}
        if None in parts or len(parts) != 3 or len(units) != 1:
            raise BudgetError(f"sweep {text!r} is not COST=FROM:TO:STEP in one unit; {_EXAMPLE}.")
        try:
            first, last, step = (Decimal(part[1]) for part in parts if part)
        except InvalidOperation:
            raise BudgetError(f"sweep {text!r} holds what is not a number; {_EXAMPLE}.") from None
        if step <= 0 or last < first:
            raise BudgetError(
                f"sweep {text!r} must go up from {first} to {last} in steps above zero; {_EXAMPLE}."
            )
        count = int((last - first) / step) + 1
        if count > MOST_BUDGETS:
            raise BudgetError(
                f"sweep {text!r} has {count} budgets, more than {MOST_BUDGETS}: take larger steps."
            )
        (unit,) = units
        bounds = [(first + place * step).normalize() for place in range(count)]
        limits = tuple(f"{bound:f}{unit}" for bound in bounds)
        for limit in limits:
            Budget.parse(f"{cost}={limit}")
        return cls(cost, limits, f"{cost}={first}{unit}:{last}{unit}:{step}{unit}")

    def budgets(self, further: str = UNBOUNDED) -> dict[str, str]:
        """Return every budget by the name of its folder, such as "flops-0.3".

        Args:
            further: bounds on other costs, which all of them have.

        Raises:
            BudgetError: they bound the same cost.
        """
        if self.cost in Budget.parse(further).limits:
            raise BudgetError(
                f"{spelt('budget')} bounds {self.cost} by {further!r}, which {spelt('sweep')} goes "
                f"through: leave {self.cost} out of it."
            )
        rest = "" if further == UNBOUNDED else f",{further}"
        return {f"{self.cost}-{one}": f"{self.cost}={one}{rest}" for one in self.limits}
