"""Rounding decides nothing: networks in half precision, under autocast, with casts of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.structure.float64 import float64_arithmetic
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import analyze

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_every_operator_is_exact_whatever_type_it_asks_for() -> None:
    before = torch.get_default_dtype()
    with float64_arithmetic():
        made = [
            torch.zeros(2),
            torch.arange(3, dtype=torch.float16),
            torch.ones(2).half(),
            torch.ones(2).to(torch.bfloat16).sum(dtype=torch.float32),
            torch.ones(2).type_as(torch.ones(2, dtype=torch.float32)),
        ]
        whole = torch.arange(3)
    assert {one.dtype for one in made} == {torch.float64}
    assert whole.dtype == torch.int64
    assert torch.get_default_dtype() == before


def deep() -> nn.Module:
    """Rounding in half precision adds up over fifteen layers."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(15):
        layers += [nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 4)).eval()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_has_the_same_groups_in_every_type(dtype: torch.dtype) -> None:
    model = deep().to(dtype)
    structure = analyze(model, IMAGES.to(dtype))
    assert len(structure.groups) == 16
    assert {p.dtype for p in model.parameters()} == {dtype}
    # Costs are those of the network's own type.
    assert structure.activations[0].size == IMAGES[:1].numel() * dtype.itemsize


def casting(m: Any, x: Tensor, cast: Callable[[Tensor], Tensor]) -> Tensor:
    h = cast(F.relu(m.a(x)))
    return m.fc(F.relu(m.b(h)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "cast",
    [
        lambda h: h.half().float(),
        lambda h: F.layer_norm(h.to(torch.float32), h.shape[2:]).to(h.dtype),
        lambda h: h.softmax(-1, dtype=torch.float32).type_as(h),
        lambda h: h + torch.linspace(0, 1, 8, dtype=torch.float32),
    ],
)
def test_casts_in_the_forward_pass(net: Any, cast: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = net(
        lambda m, x: casting(m, x, cast),
        a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 6, 3), fc=nn.Linear(6, 4),
    ).eval()  # fmt: skip
    assert [g.name for g in analyze(model, IMAGES).groups] == ["a", "b"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_hides_no_layer(net: Any, dtype: torch.dtype) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype):
            out: Tensor = m.plain(x)
        return out.float()

    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(),
        nn.Linear(96, 4),
    ).eval()  # fmt: skip
    cast = analyze(net(forward, plain=plain).eval(), IMAGES)
    assert [g.name for g in cast.groups] == ["plain.0", "plain.3"]
    wanted = trace(plain, IMAGES)
    assert [(one.positions, one.batchnorm) for one in cast.layers] == [
        (one.positions, one.batchnorm and f"plain.{one.batchnorm}") for one in wanted.layers
    ]


def test_a_fault_of_half_precision_networks_is_found(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        out: Tensor = m.b(torch.cat([h[:, :3] * 1.001, h[:, 3:]], 1))
        return out

    torch.manual_seed(0)
    model = net(forward, a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 4, 3)).eval().half()
    assert analyze(model, IMAGES.half()).groups == ()
