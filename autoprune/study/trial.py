"""A proposal of widths, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from autoprune.core.policy import Widths
from autoprune.evaluation.measurement import Measurement

Kind: TypeAlias = Literal["candidate", "probe"]


@dataclass(frozen=True)
class Candidate:
    """Widths to evaluate.

    Attributes:
        widths: units kept per group.
        kind: a "candidate" must satisfy the budget and can win; a "probe" is a measurement that the
            strategy needs on its way, may exceed the budget and never wins.
        base: widths that these differ from in few groups, for several candidates in a row: what
            comes before the first change is then computed once, best in network order.
        awaited: whether the strategy must know what came of this, and of all before it, to ask
            again; if not, it can be evaluated beside others.
    """

    widths: Widths
    kind: Kind = "candidate"
    base: Widths | None = field(default=None, compare=False)
    awaited: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Trial:
    """A candidate and what came of it.

    Attributes:
        candidate: the proposal.
        value: its reward; None if the evaluation or the reward failed.
        measurement: None if the evaluation failed.
        error: why it failed.
    """

    candidate: Candidate
    value: float | None
    measurement: Measurement | None = None
    error: str | None = None
