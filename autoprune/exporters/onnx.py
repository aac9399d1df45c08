"""ONNX, and its int8 by ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from autoprune.exporters.base import Exporter
from autoprune.profiling.backends.onnx import converted, opened
from autoprune.profiling.backends.program import Predict, Program


class OnnxExporter(Exporter):
    """ONNX files, run by ONNX Runtime."""

    name: ClassVar[str] = "onnx"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    backend: ClassVar[str] = "onnxruntime"
    extra: ClassVar[str] = "onnx"
    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    int8_modules: ClassVar[tuple[str, ...]] = ("onnxruntime.quantization",)

    def write(self, program: Program, path: Path) -> None:
        """Write a network."""
        path.write_bytes(converted(program))

    def open(self, path: Path, threads: int) -> Predict:
        """Return a function that runs a file."""
        return opened(str(path), threads)

    def quantize(self, path: Path, samples: Sequence[Sequence[Tensor]], target: Path) -> None:
        """Quantise in QDQ form; why these settings: docs/decisions/export.md."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = target.with_name(f"prepared-{target.name}")
        logging.disable(logging.WARNING)  # it advises what is done here
        try:
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(target),
                _Calibration(_input_names(prepared), samples),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
            prepared.unlink(missing_ok=True)


class _Calibration:
    """Samples as ONNX Runtime's quantiser reads them, one after the other."""

    def __init__(self, names: Sequence[str], samples: Sequence[Sequence[Tensor]]) -> None:
        self._feeds = (
            {name: value.numpy() for name, value in zip(names, sample, strict=True)}
            for sample in samples
        )

    def get_next(self) -> dict[str, npt.NDArray[np.generic]] | None:
        """Return the next sample; None after the last."""
        return next(self._feeds, None)


def _input_names(path: Path) -> list[str]:
    import onnx

    return [one.name for one in onnx.load(path).graph.input]
