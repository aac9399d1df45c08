"""One operator call, what a rule may ask of the trace, and what rules of several families do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from torch.utils._pytree import tree_leaves

from autoprune.structure.labels import Atoms, constant, shrink, varying


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


def statistics_over(trace: Recorder, call: Call, dims: range, reason: str) -> None:
    """Block channels that lie along dimensions whose entries are computed together."""
    labels = trace.labels(call.args[0])
    if set(varying(labels)) & {d % labels.dim() for d in dims}:
        trace.atoms.block(labels, reason)
    for out in call.outputs():
        trace.set_labels(out, labels if out.shape == labels.shape else constant(out.shape))


def unknown(trace: Recorder, call: Call) -> None:
    """Anything else: what enters cannot be cut, what leaves has a fixed size."""
    for tensor in call.inputs():
        if trace.name(tensor) is None:
            trace.atoms.block(trace.labels(tensor), f"used by {call.name}, which needs its size")
    for out in call.outputs():
        trace.set_labels(out, constant(out.shape))
