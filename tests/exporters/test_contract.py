"""The contract of exporters, for every built-in one."""

from __future__ import annotations

import pytest

from autoprune.exporters.base import Exporter
from autoprune.exporters.registry import KIND
from autoprune.testing import ExporterContract

NEEDED = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "nncf", "onnx"),
    "executorch": ("executorch",),
    "litert": ("litert_torch",),
}
FORMATS = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("executorch", "litert") else name
    for name in KIND.built_in
]


class TestBuiltIn(ExporterContract):
    @pytest.fixture(autouse=True, params=FORMATS)
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.format = request.param
        for package in NEEDED.get(self.format, ()):
            pytest.importorskip(package)

    def make(self) -> Exporter:
        return KIND.make(self.format, Exporter)
