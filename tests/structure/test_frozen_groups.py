"""Channels that cannot be cut: frozen with a reason, while the rest of the network goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.plugins import load_object
from autoprune.cost import cost_models
from autoprune.structure.inputs import Inputs
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import analyze

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Case(NamedTuple):
    """A network, part of the reason by frozen group, and the groups that stay prunable."""

    build: Callable[[Any], nn.Module]
    frozen: Mapping[str, str]
    prunable: Sequence[str] = ()
    inputs: Inputs = IMAGES


def conv(inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def split_at_four(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    out: Tensor = m.out(torch.cat([h[:, :4].relu(), h[:, 4:]], 1))
    return out


def padded_by_constants(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    out: Tensor = m.head(m.b(h) + F.pad(h, (0, 0, 0, 0, 2, 2)))
    return out


def padded_by_extra(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    extra = 8 - h.shape[1]
    out: Tensor = m.head(F.pad(h, (0, 0, 0, 0, extra // 2, extra // 2)))
    return out


def spatial_attention(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    maps = torch.cat([h.mean(1, keepdim=True), h.amax(1, keepdim=True)], 1)
    out: Tensor = m.out(h * m.gate(maps).sigmoid())
    return out


CASES = {
    "output": Case(
        lambda net: nn.Sequential(conv(3, 8), conv(8, 4)), {"1": "the network's output"}, ["0"]
    ),
    "sum with the input": Case(
        lambda net: net(lambda m, x: m.b(x + m.a(x)), a=conv(3, 3), b=conv(3, 4)),
        {"a": "the network's input"},
    ),
    "one channel": Case(
        lambda net: nn.Sequential(conv(3, 1), nn.ReLU(), conv(1, 4)), {"0": "single channel"}
    ),
    "nothing to prune": Case(
        lambda net: nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), {"1": "the network's output"}
    ),
    "no weights": Case(lambda net: nn.ReLU(), {}),
    "split at a constant": Case(
        lambda net: net(split_at_four, a=conv(3, 8), out=conv(8, 3)), {"a": "assumes its size"}
    ),
    "view with a constant": Case(
        lambda net: net(
            lambda m, x: m.fc(F.max_pool2d(m.c(x), 2).view(x.shape[0], 8, -1).mean(2)),
            c=conv(3, 8), fc=nn.Linear(8, 3),
        ),
        {"c": "once it is cut"},
    ),
    "view with a constant behind the batch, which can be inferred": Case(
        lambda net: net(
            lambda m, x: m.fc(F.max_pool2d(m.c(x), 2).view(-1, 8 * 4 * 4)),
            c=conv(3, 8), fc=nn.Linear(128, 3),
        ),
        {},
        ["c"],
    ),
    "view that folds the batch silently": Case(
        lambda net: net(
            lambda m, x: F.avg_pool2d(m.b(m.a(x).relu()), 8).view(-1, 8)[:, :2],
            a=conv(3, 6), b=conv(6, 8),
        ),
        {"b": "the network's output"},
        ["a"],
    ),
    "fold then read by a convolution": Case(
        lambda net: net(
            lambda m, x: m.b(m.a(x).view(-1, 2, 8, 8)), a=conv(3, 4), b=conv(2, 2)
        ),
        {"a": "once it is cut"},
    ),
    "padding by constants": Case(
        lambda net: net(padded_by_constants, a=conv(3, 4), b=conv(4, 8), head=conv(8, 3)),
        {"b": "once it is cut"},
        ["a"],
    ),
    "padding by what is missing": Case(
        lambda net: net(padded_by_extra, a=conv(3, 4), head=conv(8, 3)), {"a": "once it is cut"}
    ),
    "local response normalisation": Case(
        lambda net: nn.Sequential(conv(3, 8), nn.LocalResponseNorm(3), conv(8, 6), conv(6, 3)),
        {"0": "pools"},
        ["2"],
    ),
    "mean and maximum over the channels": Case(
        lambda net: net(spatial_attention, a=conv(3, 8), gate=conv(2, 1, 7), out=conv(8, 3)),
        {"a": "compared with each other by amax"},
    ),
    "recurrent": Case(
        lambda net: net(
            lambda m, x: m.out(m.rnn(m.a(x))[0]),
            a=nn.Linear(4, 6), rnn=nn.LSTM(6, 5, batch_first=True), out=nn.Linear(5, 3),
        ),
        {"a": "used by lstm"},
        (),
        torch.randn(2, 5, 4),
    ),
    "weight tied to its own transpose": Case(
        lambda net: net(
            lambda m, x: F.linear(m.a(x).relu(), m.a.weight.t()), a=nn.Linear(4, 6, bias=False)
        ),
        {"a": "a's weight is computed from a.weight"},
        (),
        torch.randn(2, 4),
    ),
    "weight that is a buffer": Case(
        lambda net: net(
            lambda m, x: m.b(F.conv2d(m.a(x), m.fixed.kernel)),
            a=conv(3, 8), fixed=Buffer(torch.randn(4, 8, 3, 3)), b=conv(4, 3),
        ),
        {"a": "used by conv2d"},
    ),
    "computed weight": Case(
        lambda net: nn.Sequential(
            nn.utils.parametrizations.weight_norm(conv(3, 8)), conv(8, 6), conv(6, 3)
        ),
        {},
        ["1"],
    ),
    "grouped transposed convolution": Case(
        lambda net: nn.Sequential(
            conv(3, 6), nn.ConvTranspose2d(6, 6, 2, groups=3), conv(6, 5), conv(5, 2)
        ),
        {"0": "used by conv_transpose2d"},
        ["2"],
    ),
    "number of groups as a constant": Case(
        lambda net: net(
            lambda m, x: m.b(F.conv2d(m.a(x), m.k.weight, groups=8)),
            a=conv(3, 8), k=conv(8, 8, groups=8, bias=False), b=conv(8, 3),
        ),
        {"a": "once it is cut"},
    ),
}  # fmt: skip


class Buffer(nn.Module):
    kernel: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel)


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case: Case, net: Any) -> nn.Module:
    torch.manual_seed(0)
    return case.build(net).eval()


def test_frozen_with_reason_and_the_rest_prunable(case: Case, model: nn.Module) -> None:
    structure = analyze(model, case.inputs)
    reasons = {f.name: f.reason for f in structure.frozen}
    assert [g.name for g in structure.groups] == list(case.prunable)
    assert case.frozen.keys() <= reasons.keys()
    for name, fragment in case.frozen.items():
        assert fragment in reasons[name]


def test_all_macs_are_counted(
    case: Case,
    model: nn.Module,
    random_cut: Any,
    count_macs: Callable[[nn.Module, Inputs], float],
) -> None:
    structure = analyze(model, case.inputs)
    small, widths = random_cut(model, structure, 0.5)
    assert cost_models(structure)["flops"].total(widths) == count_macs(small, case.inputs)


def test_zero_padded_residual_network(root: Any) -> None:
    factory = load_object(f"{root}/experiments/models/cifar_resnet.py:resnet20", "model")
    torch.manual_seed(0)
    structure = analyze(factory().eval(), torch.randn(2, 3, 16, 16))
    inner = {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)}
    assert {g.name for g in structure.groups} == {"conv1", *inner}
    padded = {f.name: f.reason for f in structure.frozen if f.name != "linear"}
    assert padded.keys() == {"layer2.0.conv2", "layer3.0.conv2"}
    assert all("once it is cut" in reason for reason in padded.values())


def test_tied_weights_are_one_producer(net: Any) -> None:
    model = net(
        lambda m, x: m.c(m.a(x).relu() + m.b(x.flip(1))),
        a=nn.Linear(4, 6, bias=False), b=nn.Linear(4, 6, bias=False), c=nn.Linear(6, 3),
    )  # fmt: skip
    model.b.weight = model.a.weight
    structure = analyze(model, torch.randn(2, 4))
    [group] = structure.groups
    assert (group.size, group.producers) == (6, ("a.weight",))
    assert structure.parameters == ("a.weight", "c.weight", "c.bias")
    assert cost_models(structure)["params"].total((6,)) == 4 * 6 + 6 * 3 + 3
    assert cost_models(structure)["flops"].total((2,)) == 2 * (4 * 2) + 2 * 3


def test_trace_alone_believes_what_verify_refutes(net: Any) -> None:
    model = CASES["split at a constant"].build(net)
    assert [g.name for g in trace(model, IMAGES).groups] == ["a"]
    assert analyze(model, IMAGES).groups == ()
