"""Activations that every operator of a forward pass reads and writes, with their sizes.

An activation is a piece of memory: its views are the same activation, and an in-place operator
writes the activation that it reads. Memory that a kernel allocates internally is not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from autoprune.structure.forward_pass import Activation, Operator
from autoprune.structure.groups import ChannelGroup
from autoprune.structure.tracing.call import Call
from autoprune.structure.tracing.flow import GIVEN
from autoprune.structure.tracing.labels import shrink

# Name of the pseudo-operator at the end, which reads the network's outputs.
RETURN = "return"


class ActivationLog:
    """Records the operators of a forward pass; the caller must keep their tensors alive."""

    def __init__(self, name: Callable[[Tensor | None], str | None]) -> None:
        """Take a function that names parameters and buffers."""
        self.operators: list[Operator] = []
        self._name = name
        self._places: dict[int, int] = {}
        self._tensors: list[Tensor] = []

    def given(self, tensor: Tensor) -> None:
        """Record an input of the network."""
        self._place(tensor)

    def returned(self, tensors: Iterable[Tensor]) -> None:
        """Record the network's outputs."""
        self.operators.append(Operator(RETURN, (), self._distinct(tensors), (), GIVEN))

    def record(self, number: int, call: Call) -> None:
        """Record one operator, unless it only returns a view.

        Args:
            number: its number; `GIVEN` if it has none.
            call: the operator.
        """
        tensors = [(tensor, self._name(tensor)) for tensor in call.inputs()]
        reads = self._distinct(tensor for tensor, name in tensors if name is None)
        before = len(self._tensors)
        outputs = self._distinct(call.outputs())
        in_place = call.func._schema.is_mutable
        writes = tuple(place for place in outputs if place >= before or in_place)
        if writes:
            names = tuple(name for _, name in tensors if name is not None)
            self.operators.append(Operator(call.name, names, reads, writes, number))

    def sizes(
        self,
        labels: Callable[[Tensor], Tensor],
        owners: npt.NDArray[np.int64],
        groups: Sequence[ChannelGroup],
    ) -> tuple[Activation, ...]:
        """Return the activations with their sizes per unit of each group.

        Args:
            labels: returns the labels of a tensor.
            owners: index of every atom's group in each way of cutting, -1 for none, (ways, atoms).
            groups: the channel groups.
        """
        return tuple(_measured(one, labels(one), owners, groups) for one in self._tensors)

    def _distinct(self, tensors: Iterable[Tensor]) -> tuple[int, ...]:
        own = (tensor for tensor in tensors if self._name(tensor) is None)
        return tuple(dict.fromkeys(self._place(tensor) for tensor in own))

    def _place(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()._cdata
        if storage not in self._places:
            self._places[storage] = len(self._tensors)
            self._tensors.append(tensor)
        return self._places[storage]


def _measured(
    tensor: Tensor,
    labels: Tensor,
    owners: npt.NDArray[np.int64],
    groups: Sequence[ChannelGroup],
) -> Activation:
    short = shrink(labels)
    item = tensor.element_size()
    each = item * tensor.numel() / max(short.numel(), 1)
    atoms = short.reshape(-1).numpy()
    found = owners[:, atoms[atoms > 0]]
    per_unit = {
        groups[place].name: count * each / groups[place].size
        for place, count in Counter(found.reshape(-1).tolist()).items()
        if place >= 0
    }
    both = Counter(map(tuple, found[:, (found >= 0).all(0)].T.tolist())) if len(found) > 1 else {}
    per_pair = {
        (groups[a].name, groups[b].name): count * each / (groups[a].size * groups[b].size)
        for (a, b), count in both.items()
    }
    return Activation(item * tensor.numel(), per_unit, per_pair)
