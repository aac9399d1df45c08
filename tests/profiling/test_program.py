"""Networks as programs: free batch sizes, names, and what converters lack."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.profiling.backends.program import conversion, program_of
from autoprune.testing.backend_contract import SeveralInputs, layers, several_inputs


class Halves(nn.Module):
    """A network whose output is two halves of the whole batch."""

    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(2, -1) * 2


class Eigenvalues(nn.Module):
    """An operator that no runtime has, inside a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3)
        self.inner = nn.Module()
        self.inner.forward = lambda x: torch.linalg.eigvals(x.mean(1)).real  # type: ignore[method-assign]

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.inner(self.first(images))
        return found


class LearntMask(nn.Module):
    """Fused attention with a mask made of a parameter, and a view of its result."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.mask = nn.Linear(8, 24), nn.Parameter(torch.randn(1, 2, 5, 5))

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        heads = self.qkv(tokens).reshape(batch, count, 3, 2, 4).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(*heads, attn_mask=self.mask.tanh())
        return out.transpose(1, 2).reshape(batch, count, width)


def test_the_batch_size_is_free() -> None:
    program = program_of(layers(), torch.rand(1, 3, 8, 8))
    assert program.takes_any_batch
    assert [shape[1:] for shape in program.shapes] == [[3, 8, 8]]
    assert (program.inputs, program.outputs) == (("input",), ("output",))


def test_a_batch_size_that_the_network_fixes_is_one() -> None:
    program = program_of(Halves(), torch.rand(4, 1, 6, 6))
    assert not program.takes_any_batch and program.batch == 1
    fixed = program_of(layers(), torch.rand(3, 3, 8, 8), any_batch=False)
    assert not fixed.takes_any_batch and fixed.batch == 3


def test_inputs_and_outputs_have_the_networks_names() -> None:
    program = program_of(SeveralInputs(), several_inputs())
    assert program.inputs == ("image", "tokens", "unused")
    assert program.outputs == ("output0", "output1")
    program = program_of(SeveralInputs(), tuple(several_inputs().values()))
    assert program.inputs == ("input0", "input1", "input2")


def test_a_network_that_cannot_be_exported_is_named() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if bool(images.sum() > 0) else -images

    with pytest.raises(ModelError, match=r"the network cannot be exported: torch\.export fails"):
        program_of(Broken(), torch.rand(2, 3))


@pytest.mark.parametrize(
    ("runtime", "packages"),
    [("ONNX", ("onnx", "onnxscript", "onnxruntime")), ("OpenVINO", ("openvino", "onnx"))],
)
def test_what_a_runtime_lacks_is_named(runtime: str, packages: tuple[str, ...]) -> None:
    for package in packages:
        pytest.importorskip(package)
    if runtime == "ONNX":
        from autoprune.profiling.backends.onnx import converted
    else:
        from autoprune.profiling.backends.openvino import converted
    program = program_of(Eigenvalues(), torch.rand(2, 1, 6, 6))
    lacks = rf"cannot be converted to {runtime}: it lacks the operator '\w+', which module 'inner'"
    level = logging.root.level
    with pytest.raises(ModelError, match=lacks):
        converted(program)
    assert logging.root.level == level  # OpenVINO changes it


def test_attention_with_a_learnt_mask_is_converted(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from autoprune.profiling.backends.onnx import converted, opened

    torch.manual_seed(0)
    model, tokens = LearntMask().eval(), torch.randn(3, 5, 8)
    file = tmp_path / "network.onnx"
    file.write_bytes(converted(program_of(model, tokens[:2])))
    [found] = opened(str(file), 1)([tokens])
    assert torch.allclose(found, model(tokens), atol=1e-5)


def test_other_failures_are_told_in_one_line() -> None:
    program = program_of(layers(), torch.rand(1, 3, 8, 8))
    with pytest.raises(ModelError, match=r"cannot be converted to X: first line$"):
        with conversion(program, "X"):
            raise RuntimeError("first line\nsecond line")
