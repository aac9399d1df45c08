"""Tracing: from a network and one sample to its `Structure`.

The network runs under `LabelTrace`, a dispatch mode that sees every ATen operator; `rules` carries
channel labels through them. Labels that are combined in element-wise arithmetic, in a BN or in a
convolution group are linked. The connected components are the units that must be cut together, and
components that touch the same dimensions equally often form one `ChannelGroup` (`assembly`). `flow`
follows every layer's output to its BN, sum and clamp; a second pass finds the layers that add a
bias (`biases`). The result is a hypothesis, which `verify` tests numerically.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.utils._pytree import tree_leaves

from autoprune.core.view_sizes import InferredSize
from autoprune.errors import ModelError, describe, type_of, user_code
from autoprune.structure.groups import ChannelGroup, LayerSpec, Structure, TrainingOnly
from autoprune.structure.inputs import Inputs, outputs_of, run, sample
from autoprune.structure.layers import LAYER_MODULES, channels
from autoprune.structure.surgery import named_tensors
from autoprune.structure.tracing.assembly import assemble
from autoprune.structure.tracing.determinism import DeterministicMode
from autoprune.structure.tracing.followers import Chance, Follower, edits_of
from autoprune.structure.tracing.grouped import settle
from autoprune.structure.tracing.label_trace import LabelTrace
from autoprune.structure.tracing.labels import Atoms, along
from autoprune.structure.tracing.operators import plain_arithmetic, whole_operators
from autoprune.structure.tracing.sizes import SizedCall, tied
from autoprune.structure.tracing.training_only import in_training_mode, unread_weights

Ties: TypeAlias = tuple[tuple[int | None, tuple[SizedCall, ...]], ...]
"""Calls whose sizes stay consistent, with the place of a view's dimension that shrinks; None where
its size is the width of what the module reads."""

Kind: TypeAlias = tuple[list[int | None], set[str], set[int]]
"""Dimensions along which views shrink, names of attributes that follow, places of inferred sizes.
"""


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """What may be assumed of sizes that a forward pass names.

    Attributes:
        ties: calls whose sizes stay consistent, with the place of a view's dimension that shrinks
            (see `sizes.tied`).
        followers: numbers on modules that follow a dimension.
        inferred: sizes of views that are inferred.
    """

    ties: Ties = ()
    followers: tuple[Follower, ...] = ()
    inferred: tuple[InferredSize, ...] = ()

    @property
    def kind(self) -> Kind:
        """What hypotheses about repeated blocks have in common."""
        places = {one.dim for one in self.inferred}
        return [place for place, _ in self.ties], {one.attribute for one in self.followers}, places

    def __add__(self, other: Hypothesis) -> Hypothesis:
        """Return both together."""
        return Hypothesis(
            self.ties + other.ties,
            self.followers + other.followers,
            tuple(dict.fromkeys(self.inferred + other.inferred)),
        )


@dataclass(frozen=True, eq=False)
class Assembly:
    """A structure, and where its channels are.

    Attributes:
        structure: the structure.
        atoms: numbered channels with all of their links.
        owners: index of every atom's group (-1 for none), in each way of
            cutting, shape (ways, atoms).
    """

    structure: Structure
    atoms: Atoms
    owners: npt.NDArray[np.int64]

    def groups_of(self, calls: Iterable[SizedCall]) -> list[ChannelGroup]:
        """Return the groups whose channels lie along the sizes of some calls."""
        found = {int(g) for call in calls for g in np.unique(self.owners[:, call.atoms.numpy()])}
        return [self.structure.groups[g] for g in sorted(found - {-1})]


@dataclass(frozen=True, eq=False)
class Tracing:
    """What one forward pass tells about the channels of a network.

    Attributes:
        model: the network.
        atoms: its numbered channels with their links.
        tracer: the labels and layers.
        layers: its layers, completed.
        training: layers that run in training mode only.
        chance: attributes of modules that do not follow a group although they equal its size.
        assemblies: those made so far, without numbers that follow.
    """

    model: nn.Module
    atoms: Atoms
    tracer: LabelTrace
    layers: tuple[LayerSpec, ...]
    training: TrainingOnly
    chance: frozenset[Chance] = frozenset()
    assemblies: dict[Ties, Assembly] = field(default_factory=dict)

    def structure(self, hypothesis: Hypothesis = Hypothesis()) -> Structure:
        """Return the structure of the network under a hypothesis about sizes."""
        return self.assembled(hypothesis).structure

    def assembled(self, hypothesis: Hypothesis = Hypothesis()) -> Assembly:
        """Return the structure, and where its channels are."""
        ties, followers = hypothesis.ties, (*self.tracer.followers, *hypothesis.followers)
        if ties not in self.assemblies:
            self.assemblies[ties] = self._assembled(ties)
        found = self.assemblies[ties]
        groups = found.structure.groups
        edits = edits_of(self.model, followers, found.atoms, found.owners, groups, self.chance)
        structure = replace(found.structure, edits=edits, inferred=hypothesis.inferred)
        return replace(found, structure=structure)

    def _assembled(self, ties: Ties) -> Assembly:
        atoms, tracer = self.atoms, self.tracer
        for place, calls in ties:
            atoms = tied(atoms, calls, place)
        named = named_tensors(self.model)
        shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
        groups, frozen, owners = assemble(atoms, self.layers, shapes, tracer.mixers)
        structure = Structure(
            groups=groups,
            frozen=frozen + tracer.computed_layers,
            layers=self.layers,
            fixed_macs=dict(tracer.fixed_macs),
            uncounted=tuple(tracer.uncounted.names),
            shapes=shapes,
            parameters=tuple(name for name, _ in self.model.named_parameters()),
            itemsizes={name: tensor.element_size() for name, tensor in named.items()},
            activations=tracer.activations.sizes(tracer.labels, owners, groups),
            operators=tuple(tracer.activations.operators),
            mixers=tuple(tracer.mixers),
            training=self.training,
        )
        return Assembly(structure, atoms, owners)


def trace(model: nn.Module, example_inputs: Inputs) -> Structure:
    """Trace the channels of a network in one forward pass; nothing is verified.

    Args:
        model: any network in evaluation mode; it is left unchanged.
        example_inputs: a tensor, or a tuple or mapping of tensors, batch first.

    Raises:
        ModelError: the forward pass fails.
    """
    return traced(model, example_inputs).structure()


def traced(model: nn.Module, example_inputs: Inputs) -> Tracing:
    """Run a network once and return what that tells; arguments and errors are those of `trace`."""
    tracer = LabelTrace(model, named_tensors(model), Atoms())
    inputs = sample(example_inputs, 1)

    def failed(reason: str) -> ModelError:
        return ModelError(
            f"the model's forward pass fails on inputs of shape "
            f"{[tuple(leaf.shape) for leaf in tree_leaves(inputs)]}{_first_layer(model)}: {reason}"
        )

    with user_code(failed, passes=(ModelError,)):
        outputs = _run(model, inputs, tracer)
    returned = list(outputs_of(outputs).values())
    if not returned:
        raise ModelError(f"the model returns {type_of(outputs)} that contains no tensor.")
    for leaf in returned:
        tracer.atoms.block(tracer.labels(leaf), "the network's output")
    tracer.returned(returned)
    tracer.atoms = settle(tracer.atoms)
    layers = tracer.finished_layers(model, inputs)
    atoms, training = _traced_in_training(model, inputs, tracer)
    return Tracing(model, atoms, tracer, layers, training)


def _run(model: nn.Module, inputs: Any, tracer: LabelTrace) -> Any:
    """Run a network under a trace; the channels of its inputs are labelled and blocked."""
    for leaf in tree_leaves(inputs):
        image_channels = tracer.atoms.axis(
            f"input {id(leaf)}", None, leaf.shape[1] if leaf.dim() > 1 else 1
        )
        tracer.atoms.block(image_channels, "the network's input")
        if leaf.dim() > 1 and leaf.is_floating_point():  # integers are indices or masks
            tracer.set_labels(leaf, along(image_channels, leaf.shape, 1))
        tracer.activations.given(leaf)
    with (
        plain_arithmetic(),
        tracer.modules.watching(model),
        whole_operators(),
        tracer,
        DeterministicMode(),  # type: ignore[no-untyped-call]
    ):
        return run(model, inputs)


def _traced_in_training(
    model: nn.Module, inputs: Any, seen: LabelTrace
) -> tuple[Atoms, TrainingOnly]:
    """Return the atoms with the links of training mode added, and the layers that only run there.

    Channels blocked in training mode alone are not blocked: networks are pruned for evaluation.
    """
    unread = unread_weights(model, seen.read)
    if not unread:
        return seen.atoms, TrainingOnly()
    copied = in_training_mode(model)
    tracer = LabelTrace(copied, named_tensors(copied), seen.atoms.copy())
    failure = None
    try:
        _run(copied, inputs, tracer)
    except Exception as error:
        # Layers that ran before the failure are recorded all the same.
        failure = describe(error)
    layers = tuple(spec for weight, spec in tracer.layers.items() if weight in unread)
    atoms = seen.atoms
    if layers:
        atoms = replace(settle(tracer.atoms), blocked=atoms.blocked)
    unseen = tuple(weight for weight in unread if weight not in tracer.read)
    return atoms, TrainingOnly(layers, failure, unseen)


def _first_layer(model: nn.Module) -> str:
    """Describe what the first layer of a network takes."""
    for name, module in model.named_modules():
        if isinstance(module, LAYER_MODULES):
            unit = "features" if isinstance(module, nn.Linear) else "channels"
            return f", while its layer {name!r} takes {channels(module)[0]} {unit}"
    return ""
