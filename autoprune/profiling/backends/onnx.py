"""The backend that measures with ONNX Runtime."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.core.lazy import require
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.signature import Signature
from autoprune.data.forms import Inputs, tensors, with_floats
from autoprune.errors import ModelError, UsageError, first_line
from autoprune.profiling.backends.base import Backend
from autoprune.profiling.backends.onnx_files import INPUT, ONNX_DTYPES, layer_model
from autoprune.profiling.backends.portable import default_threads, device_name, open_session
from autoprune.profiling.backends.program import Flat, Predict, Program, conversion
from autoprune.profiling.stopwatch import Run
from autoprune.structure.surgery import deep_copy

PROVIDER = "ExecutionProvider"


class OnnxBackend(Backend):
    """ONNX Runtime with one of its execution providers."""

    name: ClassVar[str] = "onnxruntime"

    def __init__(self, conditions: Conditions) -> None:
        super().__init__(conditions)
        check_onnx(conditions)
        import onnxruntime

        self._library = onnxruntime
        self._provider = provider(conditions.device)
        known = onnxruntime.get_available_providers()
        if self._provider not in known:
            raise UsageError(
                f"ONNX Runtime has no provider {self._provider!r} here; it has {', '.join(known)}."
            )

    @classmethod
    def default_threads(cls) -> int:
        """Return one thread for every physical core."""
        return default_threads()

    def layer(self, signature: Signature) -> Run:
        """Return a run of the layer as an ONNX model."""
        conditions = self.conditions
        shape = signature.input_shape(conditions.batch)
        return self._run(
            layer_model(signature, conditions.batch, conditions.dtype), torch.ones(shape)
        )

    def network(self, model: nn.Module, inputs: Inputs) -> Run:
        """Return a run of the exported network."""
        return self._run(exported(model, inputs, self.conditions.dtype), inputs)

    def _run(self, model: bytes, inputs: Inputs) -> Run:
        session = open_session(self._library, model, self.conditions.threads, self._provider)
        given = tensors(with_floats(inputs, getattr(torch, self.conditions.dtype)))
        named = zip(input_names(inputs), given, strict=True)
        # An input that the network does not read is not in the model.
        known = {one.name for one in session.get_inputs()}
        feed = {name: value.cpu().numpy() for name, value in named if name in known}
        return lambda: session.run(None, feed)

    def device_name(self) -> str:
        """Return the name of the CPU, with the provider where it is another one."""
        return device_name(self._provider)

    def versions(self) -> Mapping[str, str]:
        """Return the version of ONNX Runtime."""
        return {"onnxruntime": str(self._library.__version__)}


def check_onnx(conditions: Conditions) -> None:
    """Refuse conditions that ONNX Runtime supports on no device.

    Raises:
        UsageError: A package is missing, or ONNX Runtime does not support a condition.
    """
    require("the backend 'onnxruntime'", "onnx", "onnx", "onnxruntime")
    if conditions.memory_format != "contiguous":
        raise UsageError("ONNX Runtime lays memory out itself: leave out --channels-last.")
    if conditions.dtype not in ONNX_DTYPES:
        raise UsageError(
            f"dtype must be {' or '.join(ONNX_DTYPES)} with ONNX, but got {conditions.dtype!r}."
        )
    if not provider(conditions.device).endswith(PROVIDER):
        raise UsageError(
            f"device {conditions.device!r} is not one of ONNX Runtime's: it must be cpu, cuda or a "
            "provider's full name, e.g. CoreMLExecutionProvider."
        )


def provider(device: str) -> str:
    """Return the full name of the provider for a device: "cpu", "cuda" or a provider itself."""
    short = {"cpu": "CPU", "cuda": "CUDA"}
    return f"{short[device]}{PROVIDER}" if device in short else device


def input_names(inputs: Inputs) -> list[str]:
    """Return the names of an exported network's inputs: `INPUT`, numbered if there are several."""
    count = len(tensors(inputs))
    return [INPUT] if count == 1 else [f"{INPUT}{place}" for place in range(count)]


def exported(model: nn.Module, inputs: Inputs, dtype: str) -> bytes:
    """Return a network as a serialised ONNX model whose inputs have `input_names`.

    Args:
        model: The network, which is not changed.
        inputs: A batch.
        dtype: The data type of the ONNX model, one of `ONNX_DTYPES`.

    Raises:
        ModelError: The network cannot be exported.
    """
    kind = getattr(torch, dtype)
    flat = Flat(deep_copy(model).eval().to("cpu", kind), inputs)
    given = tuple(one.cpu() for one in tensors(with_floats(inputs, kind)))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        file = Path(folder) / "network.onnx"
        warnings.simplefilter("ignore")  # about the exporter itself
        try:
            torch.onnx.export(
                flat, given, file, input_names=input_names(inputs), dynamo=False, opset_version=17
            )  # fmt: skip
        except Exception as error:  # the exporter raises many kinds
            raise ModelError(
                f"the network cannot be exported to ONNX: {first_line(error)}"
            ) from error
        return file.read_bytes()


def converted(program: Program) -> bytes:
    """Return a program as a serialised ONNX model, simplified, whose dynamic dimension is "batch".

    The exporter's optimizer folds BN and constants; what else there was to simplify is in
    docs/decisions/export.md.

    Raises:
        ModelError: ONNX lacks an operator of the network.
    """
    with conversion(program, "ONNX"):
        made = torch.onnx.export(
            program.exported,
            dynamo=True,
            optimize=True,
            external_data=False,
            verbose=False,
            input_names=program.inputs,
            output_names=program.outputs,
        )
        assert made is not None  # with `dynamo`
        model = made.model_proto
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == str(program.batch):
                dimension.dim_param = "batch"
    serialised: bytes = model.SerializeToString()
    return serialised


def opened(model: str, threads: int) -> Predict:
    """Return a function that runs an ONNX file on the CPU."""
    import onnxruntime

    session = open_session(onnxruntime, model, threads, provider("cpu"))
    names = [one.name for one in session.get_inputs()]

    def predict(inputs: Sequence[Tensor]) -> list[Tensor]:
        given = (one.numpy() for one in inputs)
        outputs = session.run(None, dict(zip(names, given, strict=True)))
        return [torch.from_numpy(one) for one in outputs]

    return predict
