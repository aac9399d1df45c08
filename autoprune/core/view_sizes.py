"""Sizes of views that are left to be inferred, in modules that take them from their input's width.

Attention of many libraries asks for `view(b, n, heads, c // heads)`, where `c` is the width of what
the module reads. In the dense network that is as many channels as there are; once its own widths
or those in front of it are cut, it is not. Any one size of a view can be left to PyTorch instead,
which changes nothing in the dense network.
"""

from __future__ import annotations

from typing import TypedDict

from autoprune.core.bypass import Bypass
from autoprune.core.edits import Numbers
from autoprune.core.records import Name, Natural, Record


class InferredSize(Record, frozen=True):
    """One size in one view of a module's forward pass that is whatever is left for it.

    Attributes:
        module: path of the module; "" is the network itself.
        view: number of the view, among all that a forward pass of the module calls on tensors with
            two dimensions or more, those of modules inside it included.
        dim: place of the size among the view's sizes.
    """

    module: Name
    view: Natural
    dim: Natural


class Changes(TypedDict):
    """What a cut does to a network besides cutting its tensors: numbers, modules and views."""

    numbers: Numbers
    bypasses: tuple[Bypass, ...]
    inferred: tuple[InferredSize, ...]
