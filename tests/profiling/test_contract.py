"""The contract of backends, for every built-in one."""

from __future__ import annotations

import pytest

from autoprune.cost.latency.conditions import Conditions
from autoprune.profiling.backends.base import Backend
from autoprune.profiling.backends.registry import make_backend
from autoprune.testing import BackendContract

CONDITIONS = [
    Conditions(backend="torch"),
    Conditions(backend="torch", dtype="bfloat16"),
    Conditions(backend="torch", memory_format="channels_last"),
    Conditions(backend="onnxruntime"),
    Conditions(backend="openvino"),
    pytest.param(Conditions(backend="torch-compile"), marks=pytest.mark.slow),
    pytest.param(Conditions(backend="executorch"), marks=pytest.mark.slow),
    pytest.param(Conditions(backend="litert"), marks=pytest.mark.slow),
]
NEEDED = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "executorch": ("executorch",),
    "litert": ("litert_torch",),
}


class TestBuiltIn(BackendContract):
    @pytest.fixture(
        autouse=True,
        params=CONDITIONS,
        ids=[
            *("torch", "bfloat16", "channels_last", "onnxruntime", "openvino"),
            *("torch-compile", "executorch", "litert"),
        ],
    )
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.conditions: Conditions = request.param
        for package in NEEDED.get(self.conditions.backend, ()):
            pytest.importorskip(package)

    def make(self) -> Backend:
        return make_backend(self.conditions)
