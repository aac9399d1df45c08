"""Residual branches that a network can do without, as plain immutable values."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.core.bypass import Bypass


@dataclass(frozen=True)
class Branch:
    """A branch of a residual sum whose absence leaves the rest of the network as it is.

    Operators are named by their numbers in a forward pass (see `tracing.operators`).

    Attributes:
        bypasses: what replaces the module around the branch and its sum; where that does more, what
            replaces the modules inside the branch, so that it gives zeros.
        group: name of the group that the branch's last layer reads: with none of its units, the
            branch is gone.
        groups: names of all groups whose channels lie inside the branch.
        weights: weights of the layers that go, in the order in which they run.
        tensors: parameters and buffers that go.
        operators: operators that go.
        addition: number of the sum that adds the branch to the shortcut, among the additions that
            depend on a layer: unlike other numbers, the same on whatever channels they run.
        term: place of the branch among the two terms of that sum.
        result: the operator whose result leaves the module; None if the sum stays.
        shortcut: the operator whose result does so without the branch; `GIVEN` if none made it.
        receiver: weight of the layer that alone is added into the shortcut last; None if there is
            none. Its bias, or that of its BN, can stand for the mean of the branch.
    """

    bypasses: tuple[Bypass, ...]
    group: str
    groups: tuple[str, ...]
    weights: tuple[str, ...]
    tensors: frozenset[str]
    operators: frozenset[int]
    addition: int
    term: int
    result: int | None
    shortcut: int
    receiver: str | None
