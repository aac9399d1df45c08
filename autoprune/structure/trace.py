"""From a network and one sample to its `Structure`.

The network runs once under a dispatch mode that sees every ATen operator; `rules` carries channel
labels through them. Labels that meet in element-wise arithmetic, in a BN or in a convolution group
are linked; the connected components are the units that must be cut together, and components that
touch the same dimensions equally often form one `ChannelGroup`. What this finds is a hypothesis:
`verify` tests it by numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from autoprune.errors import ModelError, first_line
from autoprune.policy import Role, Slice
from autoprune.structure.activations import ActivationLog
from autoprune.structure.call import Call, unknown
from autoprune.structure.groups import ChannelGroup, FrozenGroup, LayerSpec, Structure
from autoprune.structure.inputs import Inputs, run, sample
from autoprune.structure.labels import Atoms, along, canonical, constant
from autoprune.structure.operators import OperatorMode
from autoprune.structure.rules import find_rule

# Beyond this many elements a tensor in element-wise arithmetic is taken as fixed.
LARGEST_LABELLED_TENSOR = 4_000_000


# Bounds of an operator that clamps its input, by its call.
_CLAMPS: Mapping[str, Callable[[Call], tuple[float, float]]] = {
    "relu": lambda call: (0.0, math.inf),
    "relu6": lambda call: (0.0, 6.0),
    "hardtanh": lambda call: (call.arg(1, "min_val", -1.0), call.arg(2, "max_val", 1.0)),
}


class LabelTrace(OperatorMode):
    """Runs under a forward pass and records labels and layers (a `rules.Recorder`)."""

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.atoms = Atoms()
        self.layers: dict[str, LayerSpec] = {}
        self.fixed_macs: Counter[str] = Counter()
        self.activations = ActivationLog(self.name)
        self._names: dict[int, str] = {}
        for name, tensor in named.items():
            self._names.setdefault(id(tensor), name)
        self._labels: dict[int, Tensor] = {}
        self._made_by: dict[int, str] = {}
        self._uses: Counter[int] = Counter()
        self._batchnorms: dict[str, tuple[int, str]] = {}
        self._batchnorm_calls: Counter[str] = Counter()
        # Numbers of the operators that made a tensor, a layer's output (behind its BN), a sum and
        # its terms, the only input of a clamp; how many operators read what each of them made.
        self._made_at: dict[int, int] = {}
        self._runs_at: dict[str, int] = {}
        self._ends_at: dict[str, int] = {}
        self._joins: list[tuple[int, tuple[int, ...]]] = []
        self._clamps: dict[int, tuple[float, float]] = {}
        self._reads: Counter[int] = Counter()
        # Results stay alive, or Python would give their ids to other tensors.
        self._alive: list[Any] = []

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator, then carry labels through it."""
        out = func(*args, **kwargs)
        call = Call(name, func, args, kwargs, out)
        self._alive.append((args, out))
        terms = list(call.inputs())
        made_at = tuple(self._made_at.get(id(tensor), -1) for tensor in terms)
        self._uses.update(id(tensor) for tensor in terms)
        self._reads.update(made_at)
        if name == "add" and call.kwargs.get("alpha", 1) == 1 and _alike(terms):
            self._joins.append((number, made_at))
        elif name in _CLAMPS:
            self._clamps[made_at[0]] = _CLAMPS[name](call)
        for tensor in call.outputs():
            self._made_at[id(tensor)] = number
        rule = find_rule(name, func)
        if rule is None and func.overloadpacket in flop_registry:
            flops = flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
            self.fixed_macs[name] += flops // 2
        (rule or unknown)(self, call)
        self.activations.record(call)
        return out

    def labels(self, tensor: Tensor) -> Tensor:
        """Return the labels of a tensor."""
        found = self._labels.get(id(tensor))
        if found is None:
            found = self._first_labels(tensor)
            self._labels[id(tensor)] = found
        return found

    def _first_labels(self, tensor: Tensor) -> Tensor:
        name = self.name(tensor)
        numbered = name is not None and tensor.is_floating_point() and tensor.dim() > 0
        if not numbered or tensor.numel() > LARGEST_LABELLED_TENSOR:
            return constant(tensor.shape)
        assert name is not None
        return canonical(self.atoms.axis(name, None, tensor.numel()).reshape(tensor.shape))

    def set_labels(self, tensor: Tensor, labels: Tensor) -> None:
        """Give a tensor its labels."""
        self._labels[id(tensor)] = labels

    def name(self, tensor: Tensor | None) -> str | None:
        """Return the name of a parameter or buffer, None for anything else."""
        return self._names.get(id(tensor))

    def layer(self, call: Call, in_dim: int, positions: int, groups: int) -> None:
        """Record a call of a layer with a weight."""
        weight = self.name(call.args[1])
        assert weight is not None
        before = self.layers.get(weight)
        if before is None:
            self.layers[weight] = _layer_spec(self, call, weight, in_dim, positions, groups)
            self._made_by[id(call.out)] = weight
            self._runs_at[weight] = self._ends_at[weight] = self._made_at[id(call.out)]
        else:
            self.layers[weight] = replace(
                before, positions=before.positions + positions, calls=before.calls + 1
            )

    def batchnorm(self, source: Tensor, path: str, out: Tensor) -> None:
        """Record that a BN with running statistics reads a tensor."""
        self._batchnorm_calls[path] += 1
        maker = self._made_by.get(id(source))
        # A BN normalises dimension 1; a linear layer's outputs are the last.
        if maker is not None and (self.layers[maker].kind != "linear" or source.dim() == 2):
            self._batchnorms[maker] = (id(source), path)
            self._ends_at[maker] = self._made_at[id(out)]

    def returned(self, outputs: Sequence[Tensor]) -> None:
        """Note the network's outputs."""
        self.activations.returned(outputs)
        self._reads.update(self._made_at.get(id(tensor), -1) for tensor in outputs)

    def finished_layers(self, model: nn.Module) -> tuple[LayerSpec, ...]:
        """Return the layers, each with the BN that alone reads it."""
        layers = []
        for weight, layer in self.layers.items():
            source, bn = self._batchnorms.get(weight, (None, None))
            alone = source is not None and self._uses[source] == 1 and layer.calls == 1
            shared = bn is not None and self._batchnorm_calls[bn] > 1
            own_bn = bn if alone and not shared else None
            total, shortcut = self._sum(weight)
            layers.append(
                replace(
                    layer,
                    batchnorm=own_bn,
                    shortcut=shortcut,
                    clamp=self._clamp(total) if own_bn == bn and layer.calls == 1 else None,
                    refittable=_is_refittable(model, layer),
                )
            )
        return tuple(layers)

    def _sum(self, weight: str) -> tuple[int, int | None]:
        """Return where a layer's output ends up, and which operator made what is added to it.

        None where nothing is added, or nothing that was there before the layer ran.
        """
        end, start = self._ends_at[weight], self._runs_at[weight]
        for number, terms in self._joins:
            if len(terms) == 2 and end in terms:
                other = terms[0] if terms[1] == end else terms[1]
                if 0 <= other < start:
                    return (number if self._reads[end] == 1 else end), other
                break
        return end, None

    def _clamp(self, number: int) -> tuple[float, float] | None:
        """Return the bounds of the clamp that alone reads what an operator made."""
        return self._clamps.get(number) if self._reads[number] == 1 else None


def _alike(terms: Sequence[Tensor]) -> bool:
    return len(terms) == 2 and terms[0].shape == terms[1].shape


def _is_refittable(model: nn.Module, layer: LayerSpec) -> bool:
    path, _, leaf = layer.weight.rpartition(".")
    module = model.get_submodule(path)
    plain = isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))
    # Patches are cut from the module's input under symmetric zero padding.
    mirrored = getattr(module, "padding_mode", "zeros") != "zeros"
    is_even = any(size % 2 == 0 for size in layer.kernel_size)
    one_sided = is_even and getattr(module, "padding", 0) == "same"
    usual = plain and not mirrored and not one_sided
    return usual and leaf == "weight" and layer.groups == 1


def _layer_spec(
    trace: LabelTrace, call: Call, weight: str, in_dim: int, positions: int, groups: int
) -> LayerSpec:
    rank = call.args[1].dim() - 2

    def each(index: int, name: str, default: int) -> tuple[int, ...]:
        value = call.arg(index, name, default)
        value = [value] if isinstance(value, int) else list(value)
        return tuple(value * rank if len(value) == 1 else value)

    source, out = call.args[0], call.out
    path, _, leaf = weight.rpartition(".")
    transposed = in_dim == 0
    kernel_size = tuple(call.args[1].shape[2:])
    dilation = each(7 if transposed else 5, "dilation", 1) if rank else ()
    if call.arg(4, "padding") == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel_size, strict=True))
    elif call.arg(4, "padding") == "valid":
        padding = (0,) * rank
    else:
        padding = each(4, "padding", 0) if rank else ()
    return LayerSpec(
        name=path if leaf == "weight" else weight,
        kind=call.name,
        weight=weight,
        bias=trace.name(call.arg(2, "bias")),
        batchnorm=None,
        in_dim=in_dim,
        positions=positions,
        calls=1,
        kernel_size=kernel_size,
        stride=each(3, "stride", 1) if rank else (),
        padding=padding,
        dilation=dilation,
        groups=groups,
        input_shape=tuple(source.shape[1:]),
        output_shape=tuple(out.shape[1:]),
        refittable=False,
        shortcut=None,
        clamp=None,
    )


def trace(model: nn.Module, example_inputs: Inputs) -> Structure:
    """Return what one forward pass shows of the network's channels; nothing is verified.

    Args:
        model: any network in evaluation mode; it is not changed.
        example_inputs: a tensor, or a tuple or mapping of tensors, batch first.

    Raises:
        ModelError: the forward pass fails.
    """
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tracer = LabelTrace(named)
    inputs = sample(example_inputs, 1)
    for leaf in tree_leaves(inputs):
        image_channels = tracer.atoms.axis(
            f"input {id(leaf)}", None, leaf.shape[1] if leaf.dim() > 1 else 1
        )
        tracer.atoms.block(image_channels, "the network's input")
        if leaf.dim() > 1:
            tracer.set_labels(leaf, along(image_channels, leaf.shape, 1))
        tracer.activations.given(leaf)
    try:
        with torch.inference_mode(), tracer:
            outputs = run(model, inputs)
    except Exception as error:
        raise ModelError(
            f"the model's forward pass fails on inputs of shape "
            f"{[tuple(leaf.shape) for leaf in tree_leaves(inputs)]}{_first_layer(model)}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    returned = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    for leaf in returned:
        tracer.atoms.block(tracer.labels(leaf), "the network's output")
    tracer.returned(returned)
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    layers = tracer.finished_layers(model)
    groups, frozen, owners = _assemble(tracer.atoms, layers, shapes)
    return Structure(
        groups=groups,
        frozen=frozen,
        layers=layers,
        fixed_macs=dict(tracer.fixed_macs),
        shapes=shapes,
        parameters=tuple(name for name, _ in model.named_parameters()),
        itemsizes={name: tensor.element_size() for name, tensor in named.items()},
        activations=tracer.activations.sizes(tracer.labels, owners, groups),
        operators=tuple(tracer.activations.operators),
    )


def _first_layer(model: nn.Module) -> str:
    """Return in words what a network seems to begin with."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            return f", while its layer {name!r} takes {module.in_channels} channels"
        if isinstance(module, nn.Linear):
            return f", while its layer {name!r} takes {module.in_features} features"
    return ""


@dataclass
class _Axis:
    """One tensor dimension with the component that each of its entries belongs to."""

    tensor: str
    dim: int
    role: Role
    components: npt.NDArray[np.int64]


@dataclass
class _Unit:
    """One component: the entries it owns on each axis."""

    entries: dict[int, list[int]] = field(default_factory=dict)

    @property
    def signature(self) -> tuple[tuple[int, int], ...]:
        return tuple((axis, len(positions)) for axis, positions in sorted(self.entries.items()))


def _assemble(
    atoms: Atoms, layers: Sequence[LayerSpec], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[ChannelGroup, ...], tuple[FrozenGroup, ...], npt.NDArray[np.int64]]:
    """Return the groups, what is frozen, and the place of each atom's group (-1: of none)."""
    component = _components(atoms)
    reasons: dict[int, str] = {}
    for labels, reason in atoms.blocked:
        for c in np.unique(component[labels]):
            reasons.setdefault(int(c), reason)
    axes = _axes(atoms, layers, shapes, component, reasons)
    made = _member(axes, "producer")
    cuttable = made & _member(axes, "consumer")
    for c in made - cuttable:
        reasons.setdefault(c, "no layer reads it")
    units = _units(axes, made)
    groups, frozen = _group(axes, units, reasons)
    return groups, frozen, _owners(atoms, component, groups)


def _owners(
    atoms: Atoms, component: npt.NDArray[np.int64], groups: Sequence[ChannelGroup]
) -> npt.NDArray[np.int64]:
    owners = np.full(len(component), -1)
    for place, group in enumerate(groups):
        made = next(s for s in group.slices if s.role == "producer")
        start, _ = atoms.axes[made.tensor, made.dim]
        owners[component[start + made.positions[:, 0]]] = place
    return owners[component]


def _components(atoms: Atoms) -> npt.NDArray[np.int64]:
    pairs = np.concatenate([np.zeros((2, 0), np.int64), *atoms.links], axis=1)
    graph = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), (atoms.count,) * 2)
    _, component = connected_components(graph, directed=False)
    return component.astype(np.int64)


def _axes(
    atoms: Atoms,
    layers: Sequence[LayerSpec],
    shapes: Mapping[str, tuple[int, ...]],
    component: npt.NDArray[np.int64],
    reasons: dict[int, str],
) -> list[_Axis]:
    roles: dict[tuple[str, int], Role] = {}
    for layer in layers:
        if layer.groups == 1:
            roles[layer.weight, layer.out_dim] = "producer"
            roles[layer.weight, layer.in_dim] = "consumer"
    axes = []
    for (tensor, dim), (start, length) in atoms.axes.items():
        own = component[start : start + length]
        if tensor not in shapes:
            continue
        if dim is None:
            shape = shapes[tensor]
            grid = own.reshape(shape)
            moving = [d for d in range(len(shape)) if (grid != grid.take([0], d)).any()]
            if len(moving) != 1:
                for c in np.unique(own):
                    reasons.setdefault(int(c), f"tied along several dimensions of {tensor}")
                continue
            dim = moving[0]
            own = np.moveaxis(grid, dim, 0).reshape(shape[dim], -1)[:, 0]
        axes.append(_Axis(tensor, dim, roles.get((tensor, dim), "carried"), own))
    return axes


def _member(axes: Sequence[_Axis], role: Role) -> set[int]:
    return {int(c) for axis in axes if axis.role == role for c in np.unique(axis.components)}


def _units(axes: Sequence[_Axis], wanted: set[int]) -> dict[int, _Unit]:
    units: dict[int, _Unit] = {}
    for number, axis in enumerate(axes):
        for position, c in enumerate(axis.components.tolist()):
            if c in wanted:
                unit = units.setdefault(c, _Unit())
                unit.entries.setdefault(number, []).append(position)
    return units


def _group(
    axes: Sequence[_Axis], units: Mapping[int, _Unit], reasons: Mapping[int, str]
) -> tuple[tuple[ChannelGroup, ...], tuple[FrozenGroup, ...]]:
    alike: dict[tuple[tuple[tuple[int, int], ...], str | None], list[_Unit]] = {}
    for c, unit in units.items():
        alike.setdefault((unit.signature, reasons.get(c)), []).append(unit)
    groups, frozen, taken = [], [], Counter[str]()
    for (signature, reason), members in alike.items():
        first = next(axes[a].tensor for a, _ in signature if axes[a].role == "producer")
        name = first.removesuffix(".weight")
        taken[name] += 1
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        if reason is None and len(members) == 1:
            reason = "it has a single unit"
        if reason is not None:
            frozen.append(FrozenGroup(name, len(members), reason))
            continue
        slices = tuple(
            Slice(
                axes[a].tensor,
                axes[a].dim,
                axes[a].role,
                np.asarray([unit.entries[a] for unit in members], dtype=np.int64),
            )
            for a, _ in signature
        )
        groups.append(ChannelGroup(name, len(members), slices))
    return tuple(groups), tuple(frozen)
