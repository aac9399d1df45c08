"""LiteRT's format (formerly TensorFlow Lite), for phones and embedded devices."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from autoprune.exporters.base import Exporter
from autoprune.profiling.backends.litert import converted, opened
from autoprune.profiling.backends.program import Predict, Program


class LiteRtExporter(Exporter):
    """Files for LiteRT's interpreter, for one sample at a time."""

    name: ClassVar[str] = "litert"
    suffixes: ClassVar[tuple[str, ...]] = (".tflite",)
    backend: ClassVar[str] = "litert"
    extra: ClassVar[str] = "litert"
    modules: ClassVar[tuple[str, ...]] = ("litert_torch", "ai_edge_litert.interpreter")
    any_batch: ClassVar[bool] = False

    def write(self, program: Program, path: Path) -> None:
        """Write a network."""
        path.write_bytes(converted(program))

    def open(self, path: Path, threads: int) -> Predict:
        """Return a function that runs a file."""
        return opened(path.read_bytes(), threads)
