"""PyTorch's own format, which needs PyTorch, but not the network's code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from autoprune.exporters.base import Exporter
from autoprune.profiling.backends.program import Predict, Program, conversion


class Pt2Exporter(Exporter):
    """Files of `torch.export.save`."""

    name: ClassVar[str] = "pt2"
    suffixes: ClassVar[tuple[str, ...]] = (".pt2",)
    backend: ClassVar[str] = "torch"

    def write(self, program: Program, path: Path) -> None:
        """Write a network."""
        with conversion(program, "pt2"), path.open("wb") as file:
            torch.export.save(program.exported, file)

    def open(self, path: Path, threads: int) -> Predict:
        """Return a function that runs a file; PyTorch's threads are those of the process."""
        module = torch.export.load(path).module()

        def predict(inputs: Sequence[Tensor]) -> list[Tensor]:
            with torch.no_grad():
                return list(module(*inputs))

        return predict
