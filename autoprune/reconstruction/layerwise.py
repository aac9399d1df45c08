"""A forward pass that stops at every layer that least squares can refit."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.errors import describe
from autoprune.statistics.moments import is_laid_out
from autoprune.structure.branches import Branch
from autoprune.structure.groups import LayerSpec
from autoprune.structure.inputs import cannot_run, run
from autoprune.structure.layers import LAYER_KINDS
from autoprune.structure.tracing.flow import GIVEN
from autoprune.structure.tracing.operators import OperatorMode, plain_arithmetic, whole_operators


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a layer.

    Attributes:
        operator: ATen operator.
        args: positional arguments: input, weight, bias and what else the operator takes.
        kwargs: keyword arguments.
    """

    operator: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def source(self) -> Float[Tensor, "samples ..."]:
        """Input of the layer."""
        source: Tensor = self.args[0]
        return source

    def run(self) -> Float[Tensor, "samples ..."]:
        """Return the output of the layer."""
        out: Tensor = self.operator(*self.args, **self.kwargs)
        return out

    def run_with(self, weight: Tensor, bias: Tensor | None) -> Float[Tensor, "samples ..."]:
        """Return the output of the layer with another weight and bias."""
        out: Tensor = self.operator(self.source, weight, bias, *self.args[3:], **self.kwargs)
        return out


class LayerwisePass(OperatorMode):
    """A forward pass that hands every refittable layer to `visit` and keeps the shortcuts."""

    def __init__(
        self, model: nn.Module, layers: Mapping[str, LayerSpec], gone: Sequence[Branch] = ()
    ) -> None:
        """Prepare a pass.

        Args:
            model: the network to run.
            layers: layers of the dense network to visit, by weight name.
            gone: residual branches that the network does without.
        """
        super().__init__(frozenset[int]().union(*(branch.operators for branch in gone)))
        layers = layers_left(layers, gone) if gone else layers
        self._model = model
        self._layers = layers
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        # Number of layers that still need each shortcut: it is released after the last of them.
        self._readers = Counter(layer.shortcut for layer in layers.values())
        self._shortcuts: dict[int | None, Tensor] = {}
        self._is_visiting = False

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator."""
        layer = None
        if name in LAYER_KINDS:
            layer = self._layers.get(self._names.get(id(self.origin(args[1])), ""))
        if layer is None:
            out = func(*args, **kwargs)
        else:
            out = self._visit(number, layer, LayerCall(func, args, kwargs))
        if self._readers[number]:
            self._shortcuts[number] = out
        return out

    def _visit(self, number: int, layer: LayerSpec, call: LayerCall) -> Tensor:
        if is_laid_out(layer, call.source):
            known = layer if number == layer.number else _without_shortcut(layer)
            self._is_visiting = True  # until it returns
            out = self.visit(known, call, self._shortcuts.get(known.shortcut))
            self._is_visiting = False
        else:
            out = call.run()
        self._readers[layer.shortcut] -= 1
        if not self._readers[layer.shortcut]:
            self._shortcuts.pop(layer.shortcut, None)
        return out

    @abstractmethod
    def visit(
        self, layer: LayerSpec, call: LayerCall, shortcut: Float[Tensor, "samples ..."] | None
    ) -> Float[Tensor, "samples ..."]:
        """Run one layer and return its output.

        Args:
            layer: the layer.
            call: the call to run.
            shortcut: activation that will be added to the output, if there is one.
        """

    def run(self, samples: Samples) -> None:
        """Run all samples as one batch.

        Raises:
            ModelError: the network's own code raises.
        """
        try:
            with plain_arithmetic(), whole_operators(), self:
                run(self._model, samples.inputs)
        except Exception as error:
            if self._is_visiting:
                raise
            raise cannot_run(describe(error)) from error


def layers_left(layers: Mapping[str, LayerSpec], gone: Sequence[Branch]) -> dict[str, LayerSpec]:
    """Return the layers of a network without some branches, with the shortcuts that are left."""
    weights = {weight for branch in gone for weight in branch.weights}
    stands_for = {one.result: one.shortcut for one in gone if one.result is not None}

    def left(layer: LayerSpec) -> LayerSpec:
        number = layer.shortcut
        while number in stands_for:
            number = stands_for[number]
        return _without_shortcut(layer) if number == GIVEN else replace(layer, shortcut=number)

    return {weight: left(layer) for weight, layer in layers.items() if weight not in weights}


def can_refit(layer: LayerSpec) -> bool:
    """Whether a layer can be refitted from its patches and outputs in a single pass."""
    return layer.refittable and layer.calls == 1 and not layer.is_transposed


def _without_shortcut(layer: LayerSpec) -> LayerSpec:
    """Return the layer for a network with other operator numbers: its shortcut is not known."""
    return layer if layer.shortcut is None else replace(layer, shortcut=None, clamp=None)
