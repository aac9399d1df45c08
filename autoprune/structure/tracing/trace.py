"""From a network and one sample to its `Structure`.

The network runs under a dispatch mode that sees every ATen operator; `rules` carries channel
labels through them. Labels that meet in element-wise arithmetic, in a BN or in a convolution group
are linked; the connected components are the units that must be cut together, and components that
touch the same dimensions equally often form one `ChannelGroup` (`assembly`). `flow` follows every
layer's output to its BN, sum and clamp; a second pass tells which layers add a bias (`biases`).
What this finds is a hypothesis: `verify` tests it by numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.errors import ModelError, describe, type_of, user_code
from autoprune.structure.groups import FrozenGroup, LayerSpec, Structure, TrainingOnly
from autoprune.structure.inputs import Inputs, outputs_of, run, sample
from autoprune.structure.layers import LAYER_MODULES, channels
from autoprune.structure.surgery import named_tensors
from autoprune.structure.tracing.activation_sizes import ActivationLog
from autoprune.structure.tracing.assembly import assemble
from autoprune.structure.tracing.biases import bias_takers
from autoprune.structure.tracing.call import Call, unknown
from autoprune.structure.tracing.computed import Origins, how_computed, owner_of
from autoprune.structure.tracing.flow import GIVEN, Flow
from autoprune.structure.tracing.labels import Atoms, along, canonical, constant, overwritten
from autoprune.structure.tracing.noise import WithoutChance
from autoprune.structure.tracing.operators import OperatorMode, plain_arithmetic, whole_operators
from autoprune.structure.tracing.products import Uncounted
from autoprune.structure.tracing.rules import find_rule
from autoprune.structure.tracing.training_only import idle_weights, in_training_mode

# Beyond this many elements a tensor in element-wise arithmetic is taken as fixed.
LARGEST_LABELLED_TENSOR = 4_000_000


class LabelTrace(OperatorMode):
    """Runs under a forward pass and records labels and layers (a `rules.Recorder`)."""

    def __init__(self, model: nn.Module, named: Mapping[str, Tensor], atoms: Atoms) -> None:
        super().__init__()
        self._model = model
        self.atoms = atoms
        self.read: set[str] = set()
        self.layers: dict[str, LayerSpec] = {}
        self.fixed_macs: Counter[str] = Counter()
        self.uncounted = Uncounted(self.name)
        self.activations = ActivationLog(self.name)
        self._parameters = {n for n, one in named.items() if isinstance(one, nn.Parameter)}
        self._names: dict[int, str] = {}
        for name, tensor in named.items():
            self._names.setdefault(id(tensor), name)
        self._labels: dict[int, Tensor] = {}
        # Tensors with labels, by the memory that they share.
        self._views: dict[int, list[Tensor]] = {}
        self._flow = Flow()
        self._origins = Origins(self.name)
        self._computed: dict[str, FrozenGroup] = {}
        # Results stay alive, or Python would give their ids to other tensors.
        self._alive: list[Any] = []

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator, then carry labels through it."""
        out = func(*args, **kwargs)
        call = Call(name, func, args, kwargs, out)
        self._alive.append((args, out))
        self.read.update(filter(None, map(self.name, call.inputs())))
        self._flow.record(number, call)
        self._origins.record(call)
        rule = find_rule(name, func)
        (rule or unknown)(self, call)
        self.uncounted.record(call, rule is not None)
        self.activations.record(call)
        return out

    def aside(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The same for an operator without a number."""
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
        """Give a tensor its labels; what is written in place shows in all views of the memory."""
        alike = self._views.setdefault(tensor.untyped_storage()._cdata, [])
        before = self._labels.get(id(tensor))
        if before is None:
            alike.append(tensor)
        elif before.shape == labels.shape and not torch.equal(before, labels):
            for view in alike:
                self._labels[id(view)] = overwritten(view, self._labels[id(view)], tensor, labels)
        self._labels[id(tensor)] = labels

    def name(self, tensor: Tensor | None) -> str | None:
        """Return the name of a parameter or buffer, None for anything else."""
        return self._names.get(id(self.origin(tensor)))

    def parameter(self, tensor: Tensor) -> str | None:
        """Return the name of a parameter, None for anything else."""
        name = self.name(tensor)
        return name if name in self._parameters else None

    def layer(self, call: Call, in_dim: int, positions: int, groups: int) -> None:
        """Record a call of a layer with a weight."""
        weight = self.name(call.args[1])
        assert weight is not None
        before = self.layers.get(weight)
        if before is None:
            self.layers[weight] = _layer_spec(self, call, weight, in_dim, positions, groups)
        else:
            self.layers[weight] = replace(
                before, positions=before.positions + positions, calls=before.calls + 1
            )
        self._flow.layer(weight, call.out)

    def batchnorm(self, source: Tensor, path: str, out: Tensor) -> None:
        """Record that a BN with running statistics reads a tensor."""
        maker = self._flow.maker(source)
        # A BN normalises dimension 1; a linear layer's outputs are the last.
        if maker is not None and not self.layers[maker].kernel_size and source.dim() != 2:
            maker = None
        self._flow.batchnorm(path, maker, out)

    def computed(self, call: Call, size: int) -> str:
        """Record a layer whose weight or bias is computed; return the reason to leave it whole."""
        weight, bias = call.args[1], call.arg(2, "bias")
        one = bias if isinstance(weight, nn.Parameter) else weight
        names = self._origins.of(one)
        if not names:
            return f"used by {call.name}, whose weight is computed from the network's input"
        if (buffer := self.name(one)) is not None:
            return f"used by {call.name} with a buffer as its weight, {buffer}"
        reason = how_computed(self._model, names)
        layer = owner_of(names) or min(names)
        self._computed[layer] = FrozenGroup(layer, size, reason)
        return reason

    @property
    def computed_layers(self) -> tuple[FrozenGroup, ...]:
        """The outputs of layers with a computed weight."""
        return tuple(self._computed.values())

    def returned(self, outputs: Sequence[Tensor]) -> None:
        """Note the network's outputs."""
        self.activations.returned(outputs)
        self._flow.returned(outputs)

    def finished_layers(self, model: nn.Module, inputs: Inputs) -> tuple[LayerSpec, ...]:
        """Return the layers, each with what follows it and what can be done with it."""
        takers = bias_takers(model, self.layers.values(), inputs)
        found = (
            replace(layer, **self._flow.behind(weight)._asdict(), takes_bias=weight in takers)
            for weight, layer in self.layers.items()
        )
        return tuple(replace(layer, refittable=_is_refittable(model, layer)) for layer in found)


def _is_refittable(model: nn.Module, layer: LayerSpec) -> bool:
    path, _, leaf = layer.weight.rpartition(".")
    module = model.get_submodule(path)
    if leaf != "weight" or not isinstance(module, LAYER_MODULES) or layer.groups != 1:
        return False
    if isinstance(module.bias, Tensor) and not isinstance(module.bias, nn.Parameter):
        return False  # nobody trains a buffer
    # Patches are cut from what the operator reads, under symmetric zero padding.
    is_even = any(size % 2 == 0 for size in layer.kernel_size)
    one_sided = is_even and getattr(module, "padding", 0) == "same"
    # The mean of what was cut goes into a bias, or into the BN of a layer that has none.
    shifts = layer.takes_bias or (module.bias is None and layer.batchnorm is not None)
    return shifts and not one_sided


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
        takes_bias=False,
        refittable=False,
        number=GIVEN,
        shortcut=None,
        clamp=None,
    )


def trace(model: nn.Module, example_inputs: Inputs) -> Structure:
    """Return what one forward pass shows of the network's channels; nothing is verified.

    Args:
        model: any network in evaluation mode; it is as it was afterwards.
        example_inputs: a tensor, or a tuple or mapping of tensors, batch first.

    Raises:
        ModelError: the forward pass fails.
    """
    named = named_tensors(model)
    tracer = LabelTrace(model, named, Atoms())
    inputs = sample(example_inputs, 1)

    def failed(reason: str) -> ModelError:
        return ModelError(
            f"the model's forward pass fails on inputs of shape "
            f"{[tuple(leaf.shape) for leaf in tree_leaves(inputs)]}{_first_layer(model)}: {reason}"
        )

    with user_code(failed):
        outputs = _run(model, inputs, tracer)
    returned = list(outputs_of(outputs).values())
    if not returned:
        raise ModelError(f"the model returns {type_of(outputs)} in which there is no tensor.")
    for leaf in returned:
        tracer.atoms.block(tracer.labels(leaf), "the network's output")
    tracer.returned(returned)
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    layers = tracer.finished_layers(model, inputs)
    atoms, training = _traced_in_training(model, inputs, tracer)
    groups, frozen, owners = assemble(atoms, layers, shapes)
    return Structure(
        groups=groups,
        frozen=frozen + tracer.computed_layers,
        layers=layers,
        fixed_macs=dict(tracer.fixed_macs),
        uncounted=tuple(tracer.uncounted.names),
        shapes=shapes,
        parameters=tuple(name for name, _ in model.named_parameters()),
        itemsizes={name: tensor.element_size() for name, tensor in named.items()},
        activations=tracer.activations.sizes(tracer.labels, owners, groups),
        operators=tuple(tracer.activations.operators),
        training=training,
    )


def _run(model: nn.Module, inputs: Any, tracer: LabelTrace) -> Any:
    """Run a network under a trace, its inputs' channels labelled and blocked."""
    for leaf in tree_leaves(inputs):
        image_channels = tracer.atoms.axis(
            f"input {id(leaf)}", None, leaf.shape[1] if leaf.dim() > 1 else 1
        )
        tracer.atoms.block(image_channels, "the network's input")
        if leaf.dim() > 1 and leaf.is_floating_point():  # whole numbers are indices, or masks
            tracer.set_labels(leaf, along(image_channels, leaf.shape, 1))
        tracer.activations.given(leaf)
    with plain_arithmetic(), whole_operators(), tracer, WithoutChance():  # type: ignore[no-untyped-call]
        return run(model, inputs)


def _traced_in_training(
    model: nn.Module, inputs: Any, seen: LabelTrace
) -> tuple[Atoms, TrainingOnly]:
    """Return the atoms, linked by what happens in training mode as well, and what runs only there.

    What blocks channels there does not count: evaluation is what is pruned.
    """
    idle = idle_weights(model, seen.read)
    if not idle:
        return seen.atoms, TrainingOnly()
    copied = in_training_mode(model)
    tracer = LabelTrace(copied, named_tensors(copied), seen.atoms.copy())
    failure = None
    try:
        _run(copied, inputs, tracer)
    except Exception as error:
        # What ran before is known all the same: the input of a head on too small an image.
        failure = describe(error)
    layers = tuple(spec for weight, spec in tracer.layers.items() if weight in idle)
    atoms = replace(tracer.atoms, blocked=seen.atoms.blocked) if layers else seen.atoms
    unseen = tuple(weight for weight in idle if weight not in tracer.read)
    return atoms, TrainingOnly(layers, failure, unseen)


def _first_layer(model: nn.Module) -> str:
    """Return in words what a network seems to begin with."""
    for name, module in model.named_modules():
        if isinstance(module, LAYER_MODULES):
            unit = "features" if isinstance(module, nn.Linear) else "channels"
            return f", while its layer {name!r} takes {channels(module)[0]} {unit}"
    return ""
