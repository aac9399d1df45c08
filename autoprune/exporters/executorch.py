"""ExecuTorch's format, for phones and embedded devices."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from autoprune.exporters.base import Exporter
from autoprune.profiling.backends.executorch import converted, opened
from autoprune.profiling.backends.program import Predict, Program


class ExecuTorchExporter(Exporter):
    """Files for ExecuTorch with XNNPACK, which plan their memory for one sample."""

    name: ClassVar[str] = "executorch"
    suffixes: ClassVar[tuple[str, ...]] = (".pte",)
    backend: ClassVar[str] = "executorch"
    extra: ClassVar[str] = "executorch"
    modules: ClassVar[tuple[str, ...]] = ("executorch.exir", "executorch.runtime")
    any_batch: ClassVar[bool] = False

    def write(self, program: Program, path: Path) -> None:
        """Write a network."""
        path.write_bytes(converted(program))

    def open(self, path: Path, threads: int) -> Predict:
        """Return a function that runs a file; the threads are those of the process."""
        return opened(path.read_bytes())
