"""One operator call, what a rule may ask of the trace, and what rules of several families do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from autoprune.structure.tracing.labels import Atoms, constant, shrink, varying


@dataclass(frozen=True)
class Call:
    """One operator call: `name` without namespace, overload and in-place underscore."""

    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """Return a positional or keyword argument."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    def argument(self, name: str) -> Any:
        """Return an argument by its name in the schema, which tells overloads apart.

        One that was not given has its default; one that the overload does not have is None.
        """
        for place, known in enumerate(self.func._schema.arguments):
            if known.name == name:
                return self.arg(place, name, known.default_value)
        return None

    def inputs(self) -> Iterator[Tensor]:
        """Yield every tensor argument."""
        leaves = tree_leaves([list(self.args), dict(self.kwargs)])
        return (leaf for leaf in leaves if isinstance(leaf, Tensor))

    def outputs(self) -> Iterator[Tensor]:
        """Yield every tensor result."""
        return (leaf for leaf in tree_leaves(self.out) if isinstance(leaf, Tensor))


class Recorder(Protocol):
    """What a rule may ask of the trace and tell it."""

    atoms: Atoms
    fixed_macs: Counter[str]

    def labels(self, tensor: Tensor) -> Tensor:
        """Return the labels of a tensor."""

    def set_labels(self, tensor: Tensor, labels: Tensor) -> None:
        """Give a tensor its labels."""

    def origin(self, tensor: Any) -> Any:
        """Return the parameter that a tensor is a cast of, anything else itself."""

    def name(self, tensor: Tensor | None) -> str | None:
        """Return the name of a parameter or buffer, None for anything else."""

    def parameter(self, tensor: Tensor) -> str | None:
        """Return the name of a parameter, None for anything else."""

    def layer(self, call: Call, in_dim: int, positions: int, groups: int) -> None:
        """Record a call of a layer with a weight."""

    def batchnorm(self, source: Tensor, path: str, out: Tensor) -> None:
        """Record that a BN with running statistics reads a tensor."""

    def computed(self, call: Call, size: int) -> str:
        """Record a layer of so many outputs whose weight or bias is no parameter; say why."""


Rule = Callable[[Recorder, Call], None]


def only_along(trace: Recorder, tensor: Tensor, dim: int, reason: str) -> Tensor:
    """Return the labels along one dimension; channels laid out otherwise are blocked."""
    labels = trace.labels(tensor)
    dim %= tensor.dim()
    if set(varying(labels)) - {dim}:
        trace.atoms.block(labels, reason)
        return constant((tensor.shape[dim],))
    short = shrink(labels)
    return short.reshape(-1).expand(tensor.shape[dim])


def statistics_over(trace: Recorder, call: Call, dims: Iterable[int], reason: str) -> None:
    """Block channels that lie along dimensions whose entries are computed together."""
    labels = trace.labels(call.args[0])
    dims = {d % max(labels.dim(), 1) for d in dims} & set(range(labels.dim()))
    if set(varying(labels)) & dims:
        trace.atoms.block(labels, reason)
    for out in call.outputs():
        trace.set_labels(out, _resized(labels, dims, out.shape))


def _resized(labels: Tensor, dims: set[int], shape: torch.Size) -> Tensor:
    """Return labels along whose dimensions an operator has made more or fewer entries."""
    if shape == labels.shape:
        return labels
    if set(varying(labels)) & dims or len(shape) != labels.dim():
        return constant(shape)
    for d in dims:
        labels = labels.narrow(d, 0, 1)
    return labels.expand(shape)


def unknown(trace: Recorder, call: Call, reason: str | None = None) -> None:
    """Anything else: what enters cannot be cut, what leaves has a fixed size."""
    if call.func.namespace == "quantized":
        reason = f"used by {call.name}: prune before quantizing"
    for tensor in call.inputs():
        if trace.name(tensor) is None:
            why = reason or f"used by {call.name}, whose inputs are taken to have a fixed size"
            trace.atoms.block(trace.labels(tensor), why)
    for out in call.outputs():
        trace.set_labels(out, constant(out.shape))
