"""OpenVINO's format, and its int8 by NNCF."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from autoprune.exporters.base import Exporter
from autoprune.profiling.backends.openvino import converted, opened
from autoprune.profiling.backends.program import Predict, Program


class OpenVinoExporter(Exporter):
    """Pairs of an `.xml` file and a `.bin` file with the weights, in float32."""

    name: ClassVar[str] = "openvino"
    suffixes: ClassVar[tuple[str, ...]] = (".xml", ".bin")
    backend: ClassVar[str] = "openvino"
    extra: ClassVar[str] = "openvino"
    modules: ClassVar[tuple[str, ...]] = ("openvino", "onnx")
    int8_modules: ClassVar[tuple[str, ...]] = ("nncf",)

    def write(self, program: Program, path: Path) -> None:
        """Write a network."""
        import openvino

        openvino.save_model(converted(program), path, compress_to_fp16=False)

    def open(self, path: Path, threads: int) -> Predict:
        """Return a function that runs a file."""
        return opened(path, threads)

    def quantize(self, path: Path, samples: Sequence[Sequence[Tensor]], target: Path) -> None:
        """Quantise weights per channel and activations per tensor."""
        import nncf
        import openvino

        nncf.set_log_level(logging.ERROR)
        feeds = [[one.numpy() for one in sample] for sample in samples]
        with redirect_stdout(io.StringIO()):  # progress bars
            model = nncf.quantize(
                openvino.Core().read_model(path), nncf.Dataset(feeds), subset_size=len(feeds)
            )
        openvino.save_model(model, target, compress_to_fp16=False)
