"""What backends have in common whose runtimes take networks converted from PyTorch."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import nn

from autoprune.core.lazy import require
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.signature import Signature
from autoprune.data.forms import Inputs, tensors, with_floats
from autoprune.errors import UsageError
from autoprune.profiling.backends.base import Backend
from autoprune.profiling.backends.portable import processor_name
from autoprune.profiling.backends.program import Predict, Program, program_of
from autoprune.profiling.backends.torch import layer_module
from autoprune.profiling.stopwatch import Run


class ConvertingBackend(Backend):
    """A runtime on the CPU that takes networks converted from PyTorch.

    Attributes:
        modules: what must be importable; the extra of autoprune that installs it has the backend's
            name.
        dtypes: the data types that it computes in.
    """

    modules: ClassVar[tuple[str, ...]]
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)

    def __init__(self, conditions: Conditions) -> None:
        super().__init__(conditions)
        require(f"the backend {self.name!r}", self.name, *self.modules)
        allowed = {"device": ("cpu",), "dtype": self.dtypes, "memory_format": ("contiguous",)}
        for condition, known in allowed.items():
            if (value := getattr(conditions, condition)) not in known:
                raise UsageError(
                    f"{condition.replace('_', '-')} must be {' or '.join(known)} with the backend "
                    f"{self.name!r}, but got {value!r}."
                )

    def layer(self, signature: Signature) -> Run:
        """Return a run of the layer as a network of its own."""
        shape = signature.input_shape(self.conditions.batch)
        return self.network(layer_module(signature), torch.ones(shape))

    def network(self, model: nn.Module, inputs: Inputs) -> Run:
        """Return a run of the converted network, whose batch size is fixed."""
        predict = self.opened(program_of(model, inputs, any_batch=False))
        given = [one.cpu().contiguous() for one in tensors(with_floats(inputs, torch.float32))]
        return lambda: predict(given)

    @abstractmethod
    def opened(self, program: Program) -> Predict:
        """Convert a program, and return a function that runs it."""

    def device_name(self) -> str:
        """Return the name of the CPU."""
        return processor_name()
