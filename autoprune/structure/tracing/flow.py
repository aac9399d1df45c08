"""What follows each layer: the BN that alone reads its output, the shortcut added to it, its clamp.

Tensors are identified by the number of the operator that last wrote them: an in-place operator
turns its argument into another tensor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from autoprune.structure.tracing.call import Call

# Stands for tensors that no numbered operator made: parameters, inputs, constants.
GIVEN = -1
# Bounds of the operators that clamp their input.
CLAMPS: Mapping[str, Callable[[Call], tuple[float, float]]] = {
    "relu": lambda call: (0.0, math.inf),
    "relu6": lambda call: (0.0, 6.0),
    "hardtanh": lambda call: (call.arg(1, "min_val", -1.0), call.arg(2, "max_val", 1.0)),
}


class Followers(NamedTuple):
    """The operator number of a layer and what follows it, as in `LayerSpec`."""

    number: int
    batchnorm: str | None
    shortcut: int | None
    clamp: tuple[float, float] | None


class Flow:
    """Records operators while a network runs; the caller must keep their tensors alive."""

    def __init__(self) -> None:
        self._made_at: dict[int, int] = {}
        self._reads: Counter[int] = Counter()
        self._layers: dict[int, str] = {}
        self._runs_at: dict[str, int] = {}
        self._calls: Counter[str] = Counter()
        # By layer: the BN that reads it, and the number of that BN.
        self._batchnorms: dict[str, tuple[str, int]] = {}
        self._batchnorm_calls: Counter[str] = Counter()
        self._sums: list[tuple[int, tuple[int, ...]]] = []
        self._clamps: dict[int, tuple[float, float]] = {}

    def record(self, number: int, call: Call) -> None:
        """Record one operator; its number is `GIVEN` if it has none."""
        terms = list(call.inputs())
        made_at = self._numbers(terms)
        self._reads.update(made_at)
        if call.name == "add" and call.kwargs.get("alpha", 1) == 1 and _alike(terms):
            self._sums.append((number, made_at))
        elif call.name in CLAMPS:
            self._clamps[made_at[0]] = CLAMPS[call.name](call)
        self._made_at |= {id(tensor): number for tensor in call.outputs()}

    def layer(self, weight: str, out: Tensor) -> None:
        """Record that the latest operator is a layer."""
        self._calls[weight] += 1
        if self._calls[weight] == 1:
            self._runs_at[weight] = self._made_at[id(out)]
            self._layers[self._made_at[id(out)]] = weight

    def maker(self, tensor: Tensor) -> str | None:
        """Return the weight of the layer that made a tensor; None if no layer did."""
        return self._layers.get(self._made_at.get(id(tensor), GIVEN))

    def batchnorm(self, path: str, weight: str | None, out: Tensor) -> None:
        """Record that the latest operator is a BN, which reads the layer of a weight or none."""
        self._batchnorm_calls[path] += 1
        if weight is not None:
            self._batchnorms[weight] = path, self._made_at[id(out)]

    def returned(self, outputs: Iterable[Tensor]) -> None:
        """Record the network's outputs."""
        self._reads.update(self._numbers(outputs))

    def behind(self, weight: str) -> Followers:
        """Return what follows a layer."""
        start = self._runs_at[weight]
        path, end = self._batchnorms.get(weight, (None, start))
        once = self._calls[weight] == 1
        alone = self._reads[start] == 1 and self._batchnorm_calls.get(path or "", 1) == 1 and once
        own = path if alone else None
        total, shortcut = self._sum(start, end)
        clamp = self._clamps.get(total) if self._reads[total] == 1 else None
        return Followers(start, own, shortcut, clamp if once and own == path else None)

    def _sum(self, start: int, end: int) -> tuple[int, int | None]:
        """Return the number of the layer's output after its sum, and of the shortcut in that sum.

        The shortcut is None if nothing is added that was computed before the layer ran.
        """
        for number, terms in self._sums:
            if end in terms:
                other = terms[0] if terms[1] == end else terms[1]
                if GIVEN < other < start:
                    return (number if self._reads[end] == 1 else end), other
                break
        return end, None

    def _numbers(self, tensors: Iterable[Tensor]) -> tuple[int, ...]:
        return tuple(self._made_at.get(id(tensor), GIVEN) for tensor in tensors)


def _alike(terms: Sequence[Tensor]) -> bool:
    return len(terms) == 2 and terms[0].shape == terms[1].shape
