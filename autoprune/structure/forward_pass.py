"""What a forward pass writes and reads, as plain immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Activation:
    """One piece of memory that a forward pass of one sample writes and reads.

    Attributes:
        size: bytes in the dense network.
        per_unit: bytes per unit of a group, by group name (the mean if units differ).
        per_pair: bytes that belong to a unit of one group and to a unit of another one, by their
            names: a head and a width of all heads.
    """

    size: int
    per_unit: Mapping[str, float]
    per_pair: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Operator:
    """One operator that reads or writes activations; views do neither.

    Attributes:
        name: name in ATen, without the in-place underscore.
        tensors: names of the parameters and buffers that it reads.
        reads, writes: indices in `Structure.activations`; in-place operators have theirs in both.
        number: its number in a forward pass; `GIVEN` if it has none.
    """

    name: str
    tensors: tuple[str, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    number: int
