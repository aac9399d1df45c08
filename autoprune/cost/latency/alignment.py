"""Alignment classes: the widths of a layer that a device treats alike.

Libraries have fast paths for channel counts that are multiples of 4 or 8, and slow ones for all
others: with ONNX Runtime a 3 x 3 convolution of 127 input channels takes up to twice as long as one
of 128, and a depthwise one of 127 channels up to 4.7 times as long. No single curve can describe
both. The widths of a layer are therefore divided into two classes, aligned and misaligned, each
with latencies of its own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AlignmentClass:
    """A set of channel counts that a device treats alike.

    Attributes:
        multiple: The number that aligned counts are multiples of; with 1 every count is aligned.
        is_misaligned: Whether the class holds the counts between the multiples instead.
    """

    multiple: int = 1
    is_misaligned: bool = False


def alignment_classes(alignment: int) -> tuple[AlignmentClass, ...]:
    """Return the alignment classes of a layer that is fast at multiples of a number."""
    if alignment == 1:
        return (AlignmentClass(),)
    return (AlignmentClass(alignment), AlignmentClass(alignment, is_misaligned=True))


@dataclass(frozen=True)
class Axis:
    """The lengths of one width of a layer that represent an alignment class, numbered from 1.

    A misaligned class is represented by the last length before every multiple.

    Attributes:
        full: The length in the dense layer.
        unit: The number of channels that are removed together: the outputs of one group of a
            grouped convolution.
        alignment_class: The class of the number of units.
    """

    full: int
    unit: int = 1
    alignment_class: AlignmentClass = AlignmentClass()

    @property
    def count(self) -> int:
        """The number of lengths."""
        units, multiple = self.full // self.unit, self.alignment_class.multiple
        return -(-units // multiple) if self.alignment_class.is_misaligned else units // multiple

    def at(self, position: int) -> int:
        """Return the length at a position, from 1 to `count`."""
        own = self.alignment_class
        return min(self.unit * (own.multiple * position - own.is_misaligned), self.full)

    @property
    def least(self) -> int:
        """The shortest length; in a misaligned class one unit, which comes before position 1."""
        return self.unit if self.alignment_class.is_misaligned else self.at(1)

    @property
    def top(self) -> int:
        """The greatest length."""
        return self.at(self.count)
