"""Operator calls, the interface between rules and the trace, and helpers that rules share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from autoprune.structure.tracing.labels import FIXED, Atoms, constant, shrink, varying


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
        """Return an argument by its name in the operator's schema.

        An argument that was not given has its default; one that the overload lacks is None.
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


def operator_name(func: Any) -> str:
    """Return an operator's name without overload and in-place underscore.

    Operators that do not come with PyTorch keep their namespace ("torchvision.deform_conv2d").
    """
    name: str = func.overloadpacket.__name__
    name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    return name if func.namespace == "aten" else f"{func.namespace}.{name}"


class Recorder(Protocol):
    """The trace, as rules see it: where they read labels and record what they find."""

    atoms: Atoms
    fixed_macs: Counter[str]

    def labels(self, tensor: Tensor) -> Tensor:
        """Return the labels of a tensor."""

    def set_labels(self, tensor: Tensor, labels: Tensor) -> None:
        """Set the labels of a tensor."""

    def origin(self, tensor: Any) -> Any:
        """Return the parameter of which a tensor is a cast, or the tensor itself."""

    def name(self, tensor: Tensor | None) -> str | None:
        """Return the name of a parameter or buffer, None for anything else."""

    def parameter(self, tensor: Tensor) -> str | None:
        """Return the name of a parameter, None for anything else."""

    def layer(self, call: Call, positions: int, groups: int) -> None:
        """Record a call of a layer."""

    def batchnorm(self, source: Tensor, path: str, out: Tensor) -> None:
        """Record that a BN with running statistics reads a tensor."""

    def mixer(
        self,
        call: Call,
        tables: Sequence[Tensor],
        arguments: Mapping[str, int],
        *,
        out_dim: int | None = None,
        macs: int = 0,
        rescales: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Record an operator that combines the channels of tables (see `groups.Mixer`).

        Args:
            call: the operator call.
            tables: labels of the channels, (rows, columns), for every argument that has them.
            arguments: as in `Mixer`, as are `out_dim` and `rescales`.
            out_dim: dimension of the columns in the result.
            macs: MACs per sample of all entries together.
            rescales: whether the result depends on the number of channels.

        Returns:
            Labels of the table's rows and of its columns.
        """

    def follow(self, rows: Tensor) -> bool:
        """Let numbers on the running module follow a dimension; say whether it has any."""

    def computed(self, call: Call, size: int) -> str:
        """Record a layer of `size` outputs with a computed weight or bias; return the reason."""


Rule = Callable[[Recorder, Call], None]


def only_along(trace: Recorder, tensor: Tensor, dim: int, reason: str) -> Tensor:
    """Return the labels along one dimension.

    Channels that also lie along other dimensions (pixels, behind `pixel_shuffle`) become one unit
    wherever they share a place along this one; channels that lie along others only are blocked.
    """
    labels = trace.labels(tensor)
    dim %= tensor.dim()
    along = set(varying(labels))
    if along - {dim}:
        if dim not in along:
            trace.atoms.block(labels, reason)
            return constant((tensor.shape[dim],))
        labels = joined(trace.atoms, labels, {dim})
    short = shrink(labels)
    return short.reshape(-1).expand(tensor.shape[dim])


def joined(atoms: Atoms, labels: Tensor, dims: Iterable[int]) -> Tensor:
    """Return labels that vary along some dimensions only; channels at equal places are one unit."""
    short = shrink(labels)
    others = sorted(set(range(labels.dim())) - set(dims))
    first = short.amax(others, keepdim=True)
    met = first.expand(short.shape)
    atoms.block(met[(short == FIXED) & (met > 0)], "combined with a tensor of fixed size")
    atoms.link(short, met)
    return first.expand(labels.shape)


def statistics_over(trace: Recorder, call: Call, dims: Iterable[int], reason: str) -> None:
    """Block channels that lie along dimensions which the operator mixes.

    Channels that lie along others, too, become one unit wherever they share a place along those.
    """
    labels = trace.labels(call.args[0])
    dims = {d % max(labels.dim(), 1) for d in dims} & set(range(labels.dim()))
    along = set(varying(labels))
    if along & dims and along - dims:
        labels = joined(trace.atoms, labels, along - dims)
    elif along & dims:
        trace.atoms.block(labels, reason)
    for out in call.outputs():
        trace.set_labels(out, _resized(labels, dims, out.shape))


def _resized(labels: Tensor, dims: set[int], shape: torch.Size) -> Tensor:
    """Return labels for an output in which some dimensions have another length."""
    if shape == labels.shape:
        return labels
    if set(varying(labels)) & dims or len(shape) != labels.dim():
        return constant(shape)
    for d in dims:
        labels = labels.narrow(d, 0, 1)
    return labels.expand(shape)


def unknown(trace: Recorder, call: Call, reason: str | None = None) -> None:
    """Any other operator: its inputs cannot be cut, its outputs have a fixed size."""
    if call.func.namespace == "quantized":
        reason = f"used by {call.name}: prune before quantizing"
    for tensor in call.inputs():
        if trace.name(tensor) is None:
            why = reason or f"used by {call.name}, whose inputs are taken to have a fixed size"
            trace.atoms.block(trace.labels(tensor), why)
    for out in call.outputs():
        trace.set_labels(out, constant(out.shape))
