"""What becomes of a layer's output: the BN that alone reads it, what is added to it, its clamp.

Tensors are known by the number of the operator that made them as they are: work in place makes
another of the same tensor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from autoprune.structure.tracing.call import Call

# What no operator with a number made: parameters, inputs, what is made beside them.
GIVEN = -1
# Bounds of an operator that clamps its input, by its call.
CLAMPS: Mapping[str, Callable[[Call], tuple[float, float]]] = {
    "relu": lambda call: (0.0, math.inf),
    "relu6": lambda call: (0.0, 6.0),
    "hardtanh": lambda call: (call.arg(1, "min_val", -1.0), call.arg(2, "max_val", 1.0)),
}


class Followers(NamedTuple):
    """Where a layer runs and what follows it, as in `LayerSpec`."""

    number: int
    batchnorm: str | None
    shortcut: int | None
    clamp: tuple[float, float] | None


class Flow:
    """Takes down operators while a network runs; its tensors must stay alive."""

    def __init__(self) -> None:
        self._made_at: dict[int, int] = {}
        self._reads: Counter[int] = Counter()
        self._layers: dict[int, str] = {}
        self._runs_at: dict[str, int] = {}
        self._calls: Counter[str] = Counter()
        # By layer: the BN that reads it, and where it puts its output.
        self._batchnorms: dict[str, tuple[str, int]] = {}
        self._batchnorm_calls: Counter[str] = Counter()
        self._sums: list[tuple[int, tuple[int, ...]]] = []
        self._clamps: dict[int, tuple[float, float]] = {}

    def record(self, number: int, call: Call) -> None:
        """Note one operator; its number is `GIVEN` if it has none."""
        terms = list(call.inputs())
        made_at = self._numbers(terms)
        self._reads.update(made_at)
        if call.name == "add" and call.kwargs.get("alpha", 1) == 1 and _alike(terms):
            self._sums.append((number, made_at))
        elif call.name in CLAMPS:
            self._clamps[made_at[0]] = CLAMPS[call.name](call)
        self._made_at |= {id(tensor): number for tensor in call.outputs()}

    def layer(self, weight: str, out: Tensor) -> None:
        """Note that the operator just recorded is a layer."""
        self._calls[weight] += 1
        if self._calls[weight] == 1:
            self._runs_at[weight] = self._made_at[id(out)]
            self._layers[self._made_at[id(out)]] = weight

    def maker(self, tensor: Tensor) -> str | None:
        """Return the weight of the layer whose output a tensor is."""
        return self._layers.get(self._made_at.get(id(tensor), GIVEN))

    def batchnorm(self, path: str, weight: str | None, out: Tensor) -> None:
        """Note that the operator just recorded is a BN, behind a layer or not."""
        self._batchnorm_calls[path] += 1
        if weight is not None:
            self._batchnorms[weight] = path, self._made_at[id(out)]

    def returned(self, outputs: Iterable[Tensor]) -> None:
        """Note the network's outputs."""
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
        """Return where a layer's output ends up, and which operator made what is added to it.

        None where nothing is added, or nothing that was there before the layer ran.
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
