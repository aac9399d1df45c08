"""The backend that measures with LiteRT (formerly TensorFlow Lite) and its XNNPACK delegate."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from torch import Tensor

from autoprune.profiling.backends.converting import ConvertingBackend
from autoprune.profiling.backends.program import Predict, Program, conversion


class LiteRtBackend(ConvertingBackend):
    """LiteRT's interpreter on the CPU."""

    name: ClassVar[str] = "litert"
    modules: ClassVar[tuple[str, ...]] = ("litert_torch", "ai_edge_litert.interpreter")

    @classmethod
    def default_threads(cls) -> int:
        """Return one thread, the interpreter's default."""
        return 1

    def opened(self, program: Program) -> Predict:
        """Convert a program, and return a function that runs it."""
        return opened(converted(program), self.conditions.threads)

    def versions(self) -> Mapping[str, str]:
        """Return the versions of the interpreter and the converter."""
        return {name: version(name) for name in ("ai-edge-litert", "litert-torch")}


def converted(program: Program) -> bytes:
    """Return the contents of a `.tflite` file.

    Raises:
        ModelError: LiteRT lacks an operator of the network.
    """
    import litert_torch

    given, _ = program.exported.example_inputs
    with conversion(program, "LiteRT"), redirect_stdout(io.StringIO()):  # progress
        model = litert_torch.convert(program.exported.module(), given)
        content: bytes = model.model_content()
    return content


def opened(content: bytes, threads: int | None) -> Predict:
    """Return a function that runs what is in a `.tflite` file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=threads)
    runner = interpreter.get_signature_runner()
    # A runner uses its interpreter and that its content, but neither keeps the other alive.
    return partial(_executed, (runner, interpreter, content))


def _executed(loaded: tuple[Any, ...], inputs: Sequence[Tensor]) -> list[Tensor]:
    runner, names = loaded[0], _numbered(loaded[0].get_input_details())
    # The converter turns integers of 64 bits into such of 32.
    kinds = [runner.get_input_details()[name]["dtype"] for name in names]
    given = (one.numpy().astype(kind) for one, kind in zip(inputs, kinds, strict=True))
    found = runner(**dict(zip(names, given, strict=True)))
    return [torch.from_numpy(found[name]) for name in _numbered(found)]


def _numbered(names: Iterable[str]) -> list[str]:
    """Return the names of a signature's inputs or outputs, which end in a number, in order."""
    return sorted(names, key=lambda name: int(name.rpartition("_")[2]))
