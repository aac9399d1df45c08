"""The backends that measure with PyTorch: eager and compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.signature import Signature
from autoprune.data.forms import Inputs, map_tensors, tensors, with_floats
from autoprune.errors import UsageError, first_line
from autoprune.profiling.backends.base import Backend
from autoprune.profiling.backends.portable import processor_name
from autoprune.profiling.stopwatch import Run, measure
from autoprune.structure.inputs import run
from autoprune.structure.layers import LAYER_KINDS
from autoprune.structure.surgery import deep_copy

# The value of all weights: it does not change the time, and keeps results finite.
WEIGHT = 0.01


class TorchBackend(Backend):
    """Eager PyTorch on the CPU or a CUDA device."""

    name: ClassVar[str] = "torch"

    def __init__(self, conditions: Conditions) -> None:
        super().__init__(conditions)
        try:
            self._device = torch.device(conditions.device)
            torch.empty(1, device=self._device)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(
                f"device {conditions.device!r} cannot be used: {first_line(error)}"
            ) from error
        self._dtype: torch.dtype = getattr(torch, conditions.dtype)

    def layer(self, signature: Signature) -> Run:
        """Return a run of a module of the layer's kind."""
        with torch.device("meta"):
            module = layer_module(signature)
        module = module.to_empty(device=self._device)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(WEIGHT)
        return self.network(module, torch.ones(signature.input_shape(self.conditions.batch)))

    def network(self, model: nn.Module, inputs: Inputs) -> Run:
        """Return a run of the network in evaluation mode; the model itself is not changed."""
        # The tensors are copied too, since conversion changes parameters in place.
        model = deep_copy(model).eval().to(self._device, self._dtype)
        model = self._ready(model.to(memory_format=self._formats(4)))
        return network_run(model, map_tensors(self._placed, with_floats(inputs, self._dtype)))

    def _placed(self, one: Tensor) -> Tensor:
        return one.to(self._device).contiguous(memory_format=self._formats(one.dim()))

    def _ready(self, model: nn.Module) -> nn.Module:
        return model

    def _formats(self, rank: int) -> torch.memory_format:
        last = rank == 4 and self.conditions.memory_format == "channels_last"
        return torch.channels_last if last else torch.contiguous_format

    def device_name(self) -> str:
        """Return the name of the GPU, or of the CPU."""
        if self._device.type == "cuda":
            return torch.cuda.get_device_name(self._device)
        return processor_name()

    def versions(self) -> Mapping[str, str]:
        """Return the version of PyTorch."""
        return {"torch": str(torch.__version__)}

    @contextmanager
    def session(self) -> Iterator[None]:
        """Set the number of threads for a while."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.conditions.threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def network_run(model: nn.Module, inputs: Inputs) -> Run:
    """Return a run of a network that waits until its device is done."""
    device = tensors(inputs)[0].device

    def once() -> None:
        with torch.no_grad():
            run(model, inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return once


class CompiledBackend(TorchBackend):
    """`torch.compile` with its defaults, for fixed shapes."""

    name: ClassVar[str] = "torch-compile"

    def _ready(self, model: nn.Module) -> nn.Module:
        torch._dynamo.reset()  # otherwise all layers count as recompilations of one
        model.compile(dynamic=False)
        return model


def layer_module(signature: Signature) -> nn.Module:
    """Return a module with a signature, its weights at random."""
    kind: Any = LAYER_KINDS[signature.operator].module
    if not signature.kernel:
        return nn.Linear(signature.channels_in, signature.channels_out)
    module: nn.Module = kind(
        signature.channels_in,
        signature.channels_out,
        signature.kernel,
        stride=signature.stride,
        padding=signature.padding,
        dilation=signature.dilation,
        groups=signature.groups,
    )
    return module


def paired_latency_ms(models: Sequence[nn.Module], inputs: Inputs) -> list[float]:
    """Return the median latency of each model, ms per batch; repeats alternate between them."""
    return [timing.ms for timing in measure([network_run(model, inputs) for model in models])]
