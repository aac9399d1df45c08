"""Operators without weights that combine channels, as plain immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from autoprune.core.slices import Slice

Way: TypeAlias = Literal["heads", "widths"]
"""How channels laid out along two dimensions are cut: whole rows (heads), or the same columns (a
width) of every row."""


@dataclass(frozen=True)
class Mixer:
    """An operator without weights that combines channels: a normalisation, or a product.

    Its channels lie in a table: rows are heads (one row where there are none), columns the channels
    of each. Once some are cut, it sees those that are left.

    Attributes:
        name: by which slices of a `ChannelGroup` call it; dimension 0 are rows, 1 columns.
        operator: its name in ATen.
        number: number of the operator (see `operators.OperatorMode`).
        call: number of the call, among those of this operator that depend on a layer.
        shape: (rows, columns).
        macs: MACs per sample for every entry of the table.
        arguments: dimension of the columns in the arguments that are combined along them, by their
            names in the operator's schema; none if it combines something else.
        out_dim: dimension of the columns in the result, None where they are summed up.
        rescales: whether its result for the channels that are left depends on how many they are.
        factors: where the table's entries are made, for each argument that layers make: outputs of
            a weight, with positions (rows, columns).
    """

    name: str
    operator: str
    number: int
    call: int
    shape: tuple[int, int]
    macs: float = 0.0
    arguments: Mapping[str, int] = field(default_factory=dict)
    out_dim: int | None = None
    rescales: bool = False
    factors: tuple[Slice, ...] = ()

    @property
    def reads(self) -> bool:
        """Whether it is a product that sums over the columns: their consumer, as a layer is."""
        return self.macs > 0 and bool(self.arguments)
