"""The contract of an exporter, which writes a network as a file of some runtime."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from autoprune.core.lazy import require
from autoprune.data.forms import Inputs
from autoprune.errors import UsageError, spelt
from autoprune.profiling.backends.program import Predict, Program, program_of
from autoprune.structure.inputs import sample


class Exporter(ABC):
    """Writes networks in one format, and runs its files.

    Attributes:
        name: the name in `--format`.
        suffixes: of the files that make one network; the first is the one that users name.
        backend: the name of the latency backend that has the same runtime.
        extra: of autoprune, which installs what is needed.
        modules: what must be importable.
        int8_modules: what must be importable for int8; empty where there is no int8.
        any_batch: whether the format can leave the batch size free; one sample otherwise.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    backend: ClassVar[str]
    extra: ClassVar[str] = ""
    modules: ClassVar[tuple[str, ...]] = ()
    int8_modules: ClassVar[tuple[str, ...]] = ()
    any_batch: ClassVar[bool] = True

    def check(self, is_int8: bool = False) -> None:
        """Refuse a format whose packages are missing, before any work is done.

        Raises:
            UsageError: a package is missing, or there is no int8 in this format.
        """
        if is_int8 and not self.int8_modules:
            raise UsageError(
                f"int8 is not supported yet for the format {self.name!r}: leave out "
                f"{spelt('int8')}, or choose onnx or openvino."
            )
        modules = (*self.modules, *(self.int8_modules if is_int8 else ()))
        require(f"the format {self.name!r}", self.extra, *modules)

    def program(self, model: nn.Module, inputs: Inputs) -> Program:
        """Export a network for any batch size or for one sample, as the format has it.

        Args:
            model: the network, which is not changed.
            inputs: a batch of any size.

        Raises:
            ModelError: the network cannot be exported.
        """
        inputs = inputs if self.any_batch else sample(inputs, 1)
        return program_of(model, inputs, any_batch=self.any_batch)

    @abstractmethod
    def write(self, program: Program, path: Path) -> None:
        """Write a network.

        Args:
            program: the network.
            path: of the first of the files; others lie beside it and differ in the suffix.

        Raises:
            ModelError: the format lacks an operator of the network.
        """

    @abstractmethod
    def open(self, path: Path, threads: int) -> Predict:
        """Return a function that runs a file in its runtime, on the CPU."""

    def quantize(self, path: Path, samples: Sequence[Sequence[Tensor]], target: Path) -> None:
        """Write the static int8 quantisation of a file.

        Args:
            path: of a file that `write` wrote.
            samples: calibration samples, each a batch of one as `Predict` takes it.
            target: the file to write.
        """
        raise NotImplementedError
