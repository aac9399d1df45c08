"""Widths that a device treats alike.

Libraries have quick paths for channels in multiples of 4 or 8 and slow ones for all others: with
ONNX Runtime a 3 x 3 convolution of 127 input channels takes up to twice as long as one of 128, a
depthwise one of 127 channels up to 4.7 times. No curve through both tells either. So the widths of
a layer fall into two lattices, aligned and odd, each with latencies of its own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lattice:
    """Lengths that stand for all that are treated like them.

    Attributes:
        step: what aligned lengths are multiples of; with 1 all are.
        is_odd: whether it stands for those between the multiples.
    """

    step: int = 1
    is_odd: bool = False


def lattices(alignment: int) -> tuple[Lattice, ...]:
    """Return the lattices of a layer that is quick at multiples of a number."""
    if alignment == 1:
        return (Lattice(),)
    return (Lattice(alignment), Lattice(alignment, is_odd=True))


@dataclass(frozen=True)
class Axis:
    """The lengths along one width of a layer, on a lattice: each has a place, from 1.

    Attributes:
        full: the whole length.
        unit: what lengths come in: the outputs of one group of a grouped convolution.
        lattice: of the number of units.
    """

    full: int
    unit: int = 1
    lattice: Lattice = Lattice()

    @property
    def places(self) -> int:
        """How many there are."""
        units, step = self.full // self.unit, self.lattice.step
        return -(-units // step) if self.lattice.is_odd else units // step

    def at(self, place: int) -> int:
        """Return the length at a place."""
        return min(self.unit * (self.lattice.step * place - self.lattice.is_odd), self.full)

    @property
    def least(self) -> int:
        """The shortest; an odd lattice's is one unit, before its first place."""
        return self.unit if self.lattice.is_odd else self.at(1)

    @property
    def top(self) -> int:
        """The longest."""
        return self.at(self.places)
