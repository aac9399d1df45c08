"""How many steps a recovery makes, and its learning rate over them."""

from __future__ import annotations

from dataclasses import dataclass

# Fraction of the run in which the learning rate rises.
WARM_UP = 0.1


@dataclass(frozen=True)
class Schedule:
    """The steps of a run, which is repeatable: nothing else but their number shapes it.

    Attributes:
        steps: that the learning rate is spread over.
        made: the first of them, after which the run ends; usually all.
    """

    steps: int
    made: int

    def completed(self, steps: int) -> float:
        """Return the completed fraction of a whole run after some steps."""
        return steps / self.steps if self.steps else 1.0


def learning_rate(completed: float) -> float:
    """Return the learning rate as a fraction of its peak: a linear warm-up, then decay to zero.

    Linear decay to zero within a given time comes close to a training many times as long
    (Li et al. 2020, "Budgeted training", equation 3 with p = 1).

    Args:
        completed: completed fraction of the run.
    """
    return max(0.0, min(completed / WARM_UP, (1 - completed) / (1 - WARM_UP)))
