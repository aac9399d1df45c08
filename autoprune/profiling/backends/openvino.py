"""The backend that measures with OpenVINO on the CPU."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from autoprune.cost.latency.signature import Signature
from autoprune.profiling.backends.converting import ConvertingBackend
from autoprune.profiling.backends.onnx_files import layer_model
from autoprune.profiling.backends.portable import default_threads
from autoprune.profiling.backends.program import Predict, Program, conversion
from autoprune.profiling.stopwatch import Run

# OpenVINO and NNCF report their use to their makers through this package. Without it they do not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# OpenVINO's names of the precisions to compute in. By itself it rounds to bfloat16 where the CPU
# has instructions for that.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class OpenVinoBackend(ConvertingBackend):
    """OpenVINO's plug-in for CPUs; the data type is the precision that it computes in."""

    name: ClassVar[str] = "openvino"
    modules: ClassVar[tuple[str, ...]] = ("openvino", "onnx")
    dtypes: ClassVar[tuple[str, ...]] = tuple(PRECISIONS)

    @classmethod
    def default_threads(cls) -> int:
        """Return one thread for every physical core."""
        return default_threads()

    def layer(self, signature: Signature) -> Run:
        """Return a run of the layer, read as an ONNX model: that takes no time to convert."""
        import openvino

        batch = self.conditions.batch
        model = openvino.Core().read_model(layer_model(signature, batch))
        return partial(self._compiled(model), [torch.ones(signature.input_shape(batch))])

    def opened(self, program: Program) -> Predict:
        """Convert a program, and return a function that runs it."""
        return self._compiled(converted(program))

    def _compiled(self, model: Any) -> Predict:
        return opened(model, self.conditions.threads, self.conditions.dtype)

    def versions(self) -> Mapping[str, str]:
        """Return the version of OpenVINO."""
        import openvino

        return {"openvino": str(openvino.__version__).partition("-")[0]}


def converted(program: Program) -> Any:
    """Return a program as an `openvino.Model`, its inputs with their names and shapes.

    Raises:
        ModelError: OpenVINO lacks an operator of the network.
    """
    import openvino

    with conversion(program, "OpenVINO"), _kept_root_logger():
        model = openvino.convert_model(program.exported)
        shapes = [[n if isinstance(n, int) else -1 for n in shape] for shape in program.shapes]
        model.reshape(dict(enumerate(map(openvino.PartialShape, shapes))))
        for port, name in zip(model.inputs, program.inputs, strict=True):
            port.get_tensor().set_names({name})
        for port, name in zip(model.outputs, program.outputs, strict=True):
            port.get_tensor().set_names({name})
    return model


@contextmanager
def _kept_root_logger() -> Iterator[None]:
    """Put the root logger back, which OpenVINO sets to ERROR and leaves so when it fails."""
    root = logging.getLogger()
    level, filters, handlers = root.level, list(root.filters), list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers


def opened(model: Path | Any, threads: int | None, dtype: str = "float32") -> Predict:
    """Return a function that runs a model, or the file of one, on the CPU.

    Args:
        model: the `.xml` file, whose weights are in the `.bin` file beside it, or a model.
        threads: the threads of one run; None leaves them to OpenVINO.
        dtype: the precision to compute in, of `PRECISIONS`.
    """
    import openvino

    options = {"INFERENCE_PRECISION_HINT": PRECISIONS[dtype], "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def predict(inputs: Sequence[Tensor]) -> list[Tensor]:
        request.infer([one.numpy() for one in inputs], share_inputs=True)
        # Copies: the next run writes into the request's own memory.
        return [torch.from_numpy(one.data.copy()) for one in request.output_tensors]

    return predict
