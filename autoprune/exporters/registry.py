"""Exporters by format: built in, of installed packages, or classes in the user's files."""

from __future__ import annotations

from autoprune.core.plugins import Kind

KIND = Kind(
    "export format",
    "autoprune.exporters",
    {
        "onnx": "autoprune.exporters.onnx:OnnxExporter",
        "pt2": "autoprune.exporters.pt2:Pt2Exporter",
        "openvino": "autoprune.exporters.openvino:OpenVinoExporter",
        "executorch": "autoprune.exporters.executorch:ExecuTorchExporter",
        "litert": "autoprune.exporters.litert:LiteRtExporter",
    },
)
