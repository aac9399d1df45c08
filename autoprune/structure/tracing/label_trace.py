"""The dispatch mode that carries channel labels through a forward pass and records layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.slices import Slice
from autoprune.structure.groups import FrozenGroup, LayerSpec
from autoprune.structure.inputs import Inputs
from autoprune.structure.mixers import Mixer
from autoprune.structure.tracing.activation_sizes import ActivationLog
from autoprune.structure.tracing.biases import layers_adding_bias
from autoprune.structure.tracing.call import Call, unknown
from autoprune.structure.tracing.computed_weights import Origins, describe_computation, owner_of
from autoprune.structure.tracing.flow import GIVEN, Flow
from autoprune.structure.tracing.followers import Follower, candidates
from autoprune.structure.tracing.labels import Atoms, canonical, constant, overwritten, varying
from autoprune.structure.tracing.layer_specs import (
    first_call,
    is_refittable,
    multiplies_alone,
)
from autoprune.structure.tracing.module_stack import ModuleStack
from autoprune.structure.tracing.operators import OperatorMode
from autoprune.structure.tracing.products import Uncounted
from autoprune.structure.tracing.rules import find_rule
from autoprune.structure.tracing.sizes import SIZED, VIEWS, SizedCall, sized_call

# Larger tensors in element-wise arithmetic are taken to have a fixed size.
LARGEST_LABELLED_TENSOR = 4_000_000


class LabelTrace(OperatorMode):
    """Carries channel labels through a forward pass and records its layers (a `call.Recorder`)."""

    def __init__(self, model: nn.Module, named: Mapping[str, Tensor], atoms: Atoms) -> None:
        super().__init__()
        self._model = model
        self.atoms = atoms
        self.read: Counter[str] = Counter()
        self.layers: dict[str, LayerSpec] = {}
        self.fixed_macs: Counter[str] = Counter()
        self.mixers: list[Mixer] = []
        self.uncounted = Uncounted(self.name)
        self.activations = ActivationLog(self.name)
        self.modules = ModuleStack()
        self.sized: list[SizedCall] = []
        self.followers: list[Follower] = []
        self._parameters = {n for n, one in named.items() if isinstance(one, nn.Parameter)}
        self._names: dict[int, str] = {}
        for name, tensor in named.items():
            self._names.setdefault(id(tensor), name)
        self._labels: dict[int, Tensor] = {}
        # Labelled tensors, by the memory that they share.
        self._views: dict[int, list[Tensor]] = {}
        self._flow = Flow()
        self._origins = Origins(self.name)
        self._computed: dict[str, FrozenGroup] = {}
        self._operator_calls: Counter[str] = Counter()
        self._number = GIVEN
        # Widths that a number was found for first, by that number.
        self._columns: dict[tuple[str, str, int], Tensor] = {}
        # Rows of views with several tables, which have as many heads (queries, keys and values).
        self._heads: list[Tensor] = []
        # Tensors are kept alive, or Python would reuse their ids.
        self._alive: list[Any] = []

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator, then carry labels through it."""
        out = func(*args, **kwargs)
        call = Call(name, func, args, kwargs, out)
        self._number = number
        self._operator_calls[name] += number != GIVEN
        self._alive.append((args, out))
        self.read.update(filter(None, map(self.name, call.inputs())))
        self._flow.record(number, call)
        self._origins.record(call)
        rule = find_rule(name, func)
        (rule or unknown)(self, call)
        self._record_sizes(call)
        self.uncounted.record(call, rule is not None)
        self.activations.record(number, call)
        return out

    def _record_sizes(self, call: Call) -> None:
        if call.name in SIZED:
            before, after = self.labels(call.args[0]), self.labels(next(call.outputs()))
            modules = self.modules
            read = [self._labels[id(one)] for one in modules.read if id(one) in self._labels]
            found = sized_call(call, before, after, modules.paths, modules.view, read)
            self.sized += [found] if found else []
            if found and call.name in VIEWS and max(len(found.sizes), len(varying(before))) > 1:
                self._lay_out(found)

    def _lay_out(self, view: SizedCall) -> None:
        """Let numbers on the running module follow heads and widths, which a view lays out.

        A width is the same entry of the last dimension, whatever the others are, and in all views
        that one number sizes. Columns of a parameter may be positions.
        """
        for rows in view.sizes:
            self.followers += [replace(one, of_tables=True) for one in self._numbers_of(rows)]
        if len(view.sizes) > 2:
            self._heads.append(view.sizes[-2])
        if len(view.sizes) > 1 and not self.atoms.is_tensor(view.sizes[-1]):
            columns = view.sizes[-1]
            self.atoms.link(columns, columns[:, :1], "widths")
            for one in self._numbers_of(columns):
                first = self._columns.setdefault(one.key, columns)
                self.atoms.link(first[:, :1], columns[:, :1], "widths")

    def follow(self, rows: Tensor) -> bool:
        """Let numbers on the running module follow a dimension; say whether it has any."""
        found = self._numbers_of(rows)
        self.followers += found
        return bool(found)

    def _numbers_of(self, rows: Tensor) -> list[Follower]:
        """Return the numbers on the running module that equal the length of a dimension."""
        call = SizedCall(self.modules.paths, (rows,))
        return [
            one
            for one in candidates(self._model, call)
            if one.module in call.modules[-1:] and one.rows is rows
        ]

    def aside(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Treat an operator without a number in the same way."""
        return self.operate(GIVEN, name, func, args, kwargs)

    def labels(self, tensor: Tensor) -> Tensor:
        """Return the labels of a tensor."""
        if id(tensor) not in self._labels:
            self.set_labels(tensor, self._first_labels(tensor))
        return self._labels[id(tensor)]

    def _first_labels(self, tensor: Tensor) -> Tensor:
        name = self.name(tensor)
        numbered = name is not None and tensor.is_floating_point() and tensor.dim() > 0
        if not numbered or tensor.numel() > LARGEST_LABELLED_TENSOR:
            return constant(tensor.shape)
        assert name is not None
        return canonical(self.atoms.axis(name, None, tensor.numel()).reshape(tensor.shape))

    def set_labels(self, tensor: Tensor, labels: Tensor) -> None:
        """Set the labels of a tensor and update the labels of all views of its memory."""
        views = self._views.setdefault(tensor.untyped_storage()._cdata, [])
        before = self._labels.get(id(tensor))
        if before is None:
            views.append(tensor)
        elif before.shape == labels.shape and not torch.equal(before, labels):
            for view in views:
                self._labels[id(view)] = overwritten(view, self._labels[id(view)], tensor, labels)
        self._labels[id(tensor)] = labels

    def name(self, tensor: Tensor | None) -> str | None:
        """Return the name of a parameter or buffer, None for anything else."""
        return self._names.get(id(self.origin(tensor)))

    def parameter(self, tensor: Tensor) -> str | None:
        """Return the name of a parameter, None for anything else."""
        name = self.name(tensor)
        return name if name in self._parameters else None

    def layer(self, call: Call, positions: int, groups: int) -> None:
        """Record a call of a layer."""
        weight, bias = self.name(call.args[1]), self.name(call.arg(2, "bias"))
        assert weight is not None
        before = self.layers.get(weight)
        if before is None:
            self.layers[weight] = first_call(call, weight, bias, positions, groups)
        else:
            self.layers[weight] = replace(
                before, positions=before.positions + positions, calls=before.calls + 1
            )
        self._flow.layer(weight, call.out)

    def batchnorm(self, source: Tensor, path: str, out: Tensor) -> None:
        """Record that a BN with running statistics reads a tensor."""
        maker = self._flow.maker(source)
        # A BN normalises dimension 1; the outputs of a linear layer lie along the last dimension.
        if maker is not None and not self.layers[maker].kernel_size and source.dim() != 2:
            maker = None
        self._flow.batchnorm(path, maker, out)

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
        """Record an operator that combines the channels of tables (see `call.Recorder`)."""
        rows, columns = tables[0].shape
        # The number of axes is unique; that of the operator is not, in training mode.
        name = f"{call.name} {len(self.atoms.axes)}"
        made = tuple(filter(None, (self._made(table) for table in tables)))
        self.mixers.append(
            Mixer(
                name=name,
                operator=call.name,
                number=self._number,
                call=self._operator_calls[call.name] - 1,
                shape=(rows, columns),
                macs=macs / tables[0].numel(),
                arguments=arguments,
                out_dim=out_dim,
                rescales=rescales,
                factors=made,
            )
        )
        return self.atoms.axis(name, 0, rows), self.atoms.axis(name, 1, columns)

    def _made(self, table: Tensor) -> Slice | None:
        """Return the outputs of a layer that a table consists of; None if it does not."""
        first, last = int(table.min()), int(table.max())
        for weight, layer in self.layers.items():
            start, length = self.atoms.axes[weight, layer.out_dim]
            if start <= first and last < start + length:
                return Slice(weight, layer.out_dim, "producer", table.numpy() - start)
        return None

    def computed(self, call: Call, size: int) -> str:
        """Record a layer whose weight or bias is computed; return the reason to leave it whole."""
        weight, bias = call.args[1], call.arg(2, "bias")
        one = bias if isinstance(weight, nn.Parameter) else weight
        names = self._origins.of(one)
        if not names:
            return f"used by {call.name}, whose weight is computed from the network's input"
        if (buffer := self.name(one)) is not None:
            return f"used by {call.name} with a buffer as its weight, {buffer}"
        reason = describe_computation(names)
        layer = owner_of(names) or min(names)
        self._computed[layer] = FrozenGroup(layer, size, reason)
        return reason

    @property
    def computed_layers(self) -> tuple[FrozenGroup, ...]:
        """The outputs of layers with a computed weight."""
        return tuple(self._computed.values())

    def returned(self, outputs: Sequence[Tensor]) -> None:
        """Note the network's outputs; what lies in tables is known by now."""
        for rows in self._heads:
            self.atoms.link_heads(rows)
        self.activations.returned(outputs)
        self._flow.returned(outputs)

    def finished_layers(self, model: nn.Module, inputs: Inputs) -> tuple[LayerSpec, ...]:
        """Return the layers, each with what follows it and what can be done with it."""
        takers = layers_adding_bias(model, self.layers.values(), inputs)
        found = (
            replace(
                layer,
                **self._flow.behind(weight)._asdict(),
                takes_bias=weight in takers or self._adds_parameter(layer),
                across=layer.groups > 1 and (weight, layer.in_dim) in self.atoms.axes,
            )
            for weight, layer in self.layers.items()
        )
        return tuple(replace(layer, refittable=is_refittable(model, layer)) for layer in found)

    def _adds_parameter(self, layer: LayerSpec) -> bool:
        """Say whether a layer that is no module adds a parameter that nothing else reads."""
        own = not layer.is_module and layer.bias in self._parameters
        return own and multiplies_alone(layer, self.read)
