"""Counts the MACs and parameters of a network cut to any widths.

One multiply-accumulate of a convolution or matrix product counts as one MAC, at the level of ATen
operators and for one sample; attention and recurrent networks are included, bias, BN and
activations are not. (Some tools count two operations per MAC.) Every trainable scalar counts as one
parameter, tied ones once.

Both are sums of products of dimension lengths. A length is linear in the widths, except where heads
and the width of all heads are cut both: it is their product there. So the cost of a network takes
one small matrix product. Branches that are gone count
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import ClassVar

import numpy as np

from autoprune.core.arrays import Floats
from autoprune.core.policy import SomeWidths, Widths
from autoprune.core.slices import Slice
from autoprune.cost.model import CostModel
from autoprune.cost.presence import Presence
from autoprune.structure.groups import Structure


class Lengths:
    """The lengths of dimensions, of tensors or of mixers' tables, as functions of the widths."""

    def __init__(self, structure: Structure, dims: Sequence[tuple[str, int]]) -> None:
        """Find the units that each dimension consists of.

        Args:
            structure: The structure of the network.
            dims: The dimensions as (name of a tensor or mixer, dimension).
        """
        rows = {dim: row for row, dim in enumerate(dims)}
        shapes = {**structure.shapes, **{one.name: one.shape for one in structure.mixers}}
        self._full = np.array([shapes[name][dim] for name, dim in dims], dtype=float)
        self._per_unit = np.zeros((len(dims), len(structure.groups)))
        self._sizes = np.array(structure.dense_widths, dtype=float)
        for column, group in enumerate(structure.groups):
            for s in (*group.slices, *group.mixed):
                if (s.tensor, s.dim) in rows:
                    self._per_unit[rows[s.tensor, s.dim], column] = s.positions.shape[1]
        shared = _shared_entries(structure, rows)
        self._pairs = np.array([place for place, _ in shared], dtype=int).reshape(-1, 3)
        self._per_pair = np.array([count for _, count in shared], dtype=float)

    def at(self, widths: SomeWidths) -> Floats:
        """Return the length of every dimension, (…, dims)."""
        gone = self._sizes - np.asarray(widths, dtype=float)
        lengths: Floats = self._full - gone @ self._per_unit.T
        rows, first, second = self._pairs.T
        # What both groups would remove is gone once only.
        shared = self._per_pair * gone[..., first] * gone[..., second]
        np.add.at(lengths.T, rows, shared.T)
        return lengths


def _shared_entries(
    structure: Structure, rows: Mapping[tuple[str, int], int]
) -> list[tuple[tuple[int, int, int], float]]:
    """Return the entries of a dimension that belong to units of two groups, heads and widths.

    Args:
        structure: The structure of the network.
        rows: The place of every dimension.

    Returns:
        Places of the dimension and of both groups, with the entries that each pair of units shares.
    """
    own: dict[tuple[str, int], list[tuple[int, Slice]]] = {}
    for column, group in enumerate(structure.groups):
        for s in (*group.slices, *group.mixed):
            if (s.tensor, s.dim) in rows:
                own.setdefault((s.tensor, s.dim), []).append((column, s))
    found = []
    for dim, parts in own.items():
        for (a, first), (b, second) in combinations(parts, 2):
            if count := np.intersect1d(first.positions, second.positions).size:
                each = count / (len(first.positions) * len(second.positions))
                found.append(((rows[dim], a, b), each))
    return found


class _Products:
    """Terms for some tensors, each a factor times the lengths of some dimensions."""

    def __init__(
        self, structure: Structure, tensors: Sequence[tuple[str, float, tuple[int, ...]]]
    ) -> None:
        """Take (tensor name, factor, dimensions whose lengths are multiplied) for every term."""
        dims = sorted({(name, dim) for name, _, used in tensors for dim in used})
        row = {dim: i for i, dim in enumerate(dims)}
        one = len(dims)  # the row of a constant length 1
        width = max((len(used) for _, _, used in tensors), default=1)
        self._lengths = Lengths(structure, dims)
        self._factors = np.array([factor for _, factor, _ in tensors], dtype=float)
        self._rows = np.full((len(tensors), width), one)
        for term, (name, _, used) in enumerate(tensors):
            self._rows[term, : len(used)] = [row[name, dim] for dim in used]

    def at(self, widths: SomeWidths) -> Floats:
        """Return all terms, (…, tensors)."""
        lengths = self._lengths.at(widths)
        lengths = np.concatenate([lengths, np.ones((*lengths.shape[:-1], 1))], axis=-1)
        terms: Floats = self._factors * lengths[..., self._rows].prod(axis=-1)
        return terms


class MacsCost(CostModel):
    """Predicts the multiply-accumulates per sample."""

    name = result_key = "flops"
    title = unit = "MACs"
    budget_units: ClassVar[Mapping[str, float]] = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}

    def __init__(self, structure: Structure, adds_bias: bool = True) -> None:
        """Take the structure of the network; added biases count no MACs."""
        products = [one for one in structure.mixers if one.macs]
        self._layers = [layer.name for layer in structure.layers]
        self._products = [f"{one.operator} (of activations)" for one in products]
        self._fixed = {f"{op} (fixed)": float(n) for op, n in structure.fixed_macs.items()}
        self._terms = _Products(
            structure,
            [
                *(
                    (layer.weight, layer.positions * float(np.prod(layer.kernel_size)), (0, 1))
                    for layer in structure.layers
                ),
                *((one.name, one.macs, (0, 1)) for one in products),
            ],
        )
        names = [layer.weight for layer in structure.layers] + [one.name for one in products]
        self._presence = Presence(
            structure,
            names,
            lambda branch: [
                *branch.weights,
                *(one.name for one in products if one.number in branch.operators),
            ],
        )

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the MACs of every layer and kind of product, and those that no width changes."""
        terms = self._at(widths).tolist()
        count = len(self._layers)
        products = Counter[str]()
        for name, macs in zip(self._products, terms[count:], strict=True):
            products[name] += macs
        return {**dict(zip(self._layers, terms, strict=False)), **products, **self._fixed}

    def total(self, widths: Widths) -> float:
        """Return the MACs of the whole network."""
        return float(self._at(widths).sum()) + sum(self._fixed.values())

    def totals(self, widths: Sequence[Widths]) -> Floats:
        """Return the MACs of several networks, (networks,)."""
        totals: Floats = self._at(widths).sum(axis=-1) + sum(self._fixed.values())
        return totals

    def _at(self, widths: SomeWidths) -> Floats:
        macs: Floats = self._terms.at(widths) * self._presence.at(widths)
        return macs


class TensorSizes:
    """The summed sizes of a network's tensors, with the biases that reconstruction adds.

    Reconstruction adds a bias to a layer without bias or BN once its inputs are cut.
    """

    def __init__(
        self, structure: Structure, each: Mapping[str, float], adds_bias: bool = True
    ) -> None:
        """Find the dimensions of all tensors that count.

        Args:
            structure: The structure of the network.
            each: The size of one element of every tensor that counts, by its name.
            adds_bias: Whether reconstruction adds biases.
        """
        shapes = structure.shapes
        self._terms = _Products(
            structure,
            [(name, factor, tuple(range(len(shapes[name])))) for name, factor in each.items()],
        )
        gaining = [
            layer for layer in structure.layers if adds_bias and gains_bias(structure, layer.weight)
        ]
        self._names = [*each, *(f"{layer.name}.bias" for layer in gaining)]
        self._each_gained = np.array([each[layer.weight] for layer in gaining])
        self._outputs = Lengths(structure, [(layer.weight, layer.out_dim) for layer in gaining])
        self._inputs = Lengths(structure, [(layer.weight, layer.in_dim) for layer in gaining])
        self._dense_inputs = self._inputs.at(structure.dense_widths)
        tensors = [*each, *(layer.weight for layer in gaining)]
        self._presence = Presence(structure, tensors, lambda branch: branch.tensors)

    def by_module(self, widths: Widths) -> dict[str, float]:
        """Return the size of every module that has its own tensors."""
        sizes: dict[str, float] = {}
        for tensor, size in zip(self._names, self._sizes(widths).tolist(), strict=True):
            module = tensor.rpartition(".")[0]
            sizes[module] = sizes.get(module, 0.0) + size
        return sizes

    def total(self, widths: Widths) -> float:
        """Return the size of the whole network."""
        return float(self._sizes(widths).sum())

    def totals(self, widths: Sequence[Widths]) -> Floats:
        """Return the sizes of several networks, (networks,)."""
        totals: Floats = self._sizes(widths).sum(axis=-1)
        return totals

    def _sizes(self, widths: SomeWidths) -> Floats:
        gained = self._outputs.at(widths) * (self._inputs.at(widths) < self._dense_inputs)
        terms = self._terms.at(widths)
        sizes: Floats = np.concatenate([terms, gained * self._each_gained], axis=-1)
        present: Floats = sizes * self._presence.at(widths)
        return present


class ParamsCost(CostModel):
    """Predicts the trainable scalars, including the biases that reconstruction adds."""

    name = title = result_key = "params"
    unit = "parameters"
    budget_units: ClassVar[Mapping[str, float]] = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}

    def __init__(self, structure: Structure, adds_bias: bool = True) -> None:
        self._sizes = TensorSizes(structure, dict.fromkeys(structure.parameters, 1.0), adds_bias)

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the parameters of every module that has its own parameters."""
        return self._sizes.by_module(widths)

    def total(self, widths: Widths) -> float:
        """Return the parameters of the whole network."""
        return self._sizes.total(widths)

    def totals(self, widths: Sequence[Widths]) -> Floats:
        """Return the parameters of several networks, (networks,)."""
        return self._sizes.totals(widths)


def gains_bias(structure: Structure, weight: str) -> bool:
    """Return whether reconstruction adds a bias to a weight's layer once its inputs are cut."""
    layer = structure.layer_of_weight[weight]
    return layer.refittable and not layer.absorbs_mean and weight in structure.feeds
