"""The backend that measures with ExecuTorch and its XNNPACK delegate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, ClassVar

from torch import Tensor

from autoprune.profiling.backends.converting import ConvertingBackend
from autoprune.profiling.backends.program import Predict, Program, conversion


class ExecuTorchBackend(ConvertingBackend):
    """ExecuTorch on the CPU; what XNNPACK does not take runs in its portable kernels."""

    name: ClassVar[str] = "executorch"
    modules: ClassVar[tuple[str, ...]] = ("executorch.exir", "executorch.runtime")

    @classmethod
    def default_threads(cls) -> int:
        """Return the threads of ExecuTorch's pool."""
        return int(_pool()._threadpool_get_thread_count())

    def opened(self, program: Program) -> Predict:
        """Convert a program, and return a function that runs it."""
        return opened(converted(program))

    @contextmanager
    def session(self) -> Iterator[None]:
        """Set the size of ExecuTorch's pool, which all networks of this process share."""
        pool, before = _pool(), self.default_threads()
        pool._unsafe_reset_threadpool(self.conditions.threads or before)
        try:
            yield
        finally:
            pool._unsafe_reset_threadpool(before)

    def versions(self) -> Mapping[str, str]:
        """Return the version of ExecuTorch."""
        return {"executorch": version("executorch")}


def _pool() -> Any:
    from executorch.extension.pybindings import portable_lib

    return portable_lib


def converted(program: Program) -> bytes:
    """Return the contents of a `.pte` file, with everything that XNNPACK takes left to it.

    Raises:
        ModelError: ExecuTorch lacks an operator of the network.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    with conversion(program, "ExecuTorch"):
        lowered = to_edge_transform_and_lower(program.exported, partitioner=[XnnpackPartitioner()])
        content: bytes = lowered.to_executorch().buffer
        # Only now is it known whether there is a kernel for every operator.
        Runtime.get().load_program(content).load_method("forward")
    return content


def opened(content: bytes) -> Predict:
    """Return a function that runs what is in a `.pte` file."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(content)
    method = program.load_method("forward")
    # A method reads from its program and that from its content, but neither keeps the other alive.
    return partial(_executed, (method, program, content))


def _executed(loaded: tuple[Any, ...], inputs: Sequence[Tensor]) -> list[Tensor]:
    # Copies: the next run writes into the method's own memory.
    return [one.clone() for one in loaded[0].execute(list(inputs))]
