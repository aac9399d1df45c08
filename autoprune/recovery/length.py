"""How long a recovery is, as options and files say it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

Unit: TypeAlias = Literal["seconds", "steps", "epochs"]

_FORM = re.compile(
    r"(?P<amount>[0-9]*\.?[0-9]+) *epochs?|(?:(?P<made>[0-9]+)/)?(?P<steps>[0-9]+) *steps?"
)


@dataclass(frozen=True)
class Length:
    """How long a recovery is.

    Attributes:
        amount: number of units; 0 is no recovery.
        unit: of the amount. Recoveries in steps and epochs are repeatable.
        made: of so many steps, the first ones that are made, which repeats a recovery that was cut
            short: the learning rate follows `amount`. None for all.
    """

    amount: float
    unit: Unit = "seconds"
    made: int | None = None

    @classmethod
    def read(cls, value: float | str) -> Length:
        """Read seconds, or a text such as "500steps", "2epochs" or "212/300steps".

        Raises:
            ValueError: the text is of another form, or not above zero.
        """
        if not isinstance(value, str):
            return cls(value)
        match = _FORM.fullmatch(value.strip().lower())
        if match is None:
            raise ValueError(value)
        if match["amount"] is not None:
            length, made = cls(float(match["amount"]), "epochs"), 1
        else:
            steps, made = int(match["steps"]), int(match["made"] or match["steps"])
            length = cls(steps, "steps", None if made == steps else made)
        if length.amount <= 0 or not 0 < made <= max(length.amount, 1):
            raise ValueError(value)
        return length

    def __str__(self) -> str:
        """Return the text that `read` takes; seconds have none."""
        made = "" if self.made is None else f"{self.made}/"
        return f"{made}{self.amount:.15g}{self.unit}"

    def exceeds(self, done: Length) -> bool:
        """Return whether a run of another length is too short for this one."""
        if self.unit != done.unit:
            return self.amount > 0
        longest = self.amount, self.made or self.amount
        return longest > (done.amount, done.made or done.amount)
