from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoprune.cost.memory import ACTIVATIONS, MemoryCost
from autoprune.structure.tracing.trace import trace


class LiveBytes(TorchDispatchMode):
    """The most bytes of results that were alive at once, as Python's own references say."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, tuple[weakref.ref[Any], int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._watch(leaf)
        alive = {key: size for key, (ref, size) in self._live.items() if ref() is not None}
        self.peak = max(self.peak, sum(alive.values()))
        return out

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        known = self._live.get(key)
        if known is None or known[0]() is None:
            self._live[key] = (weakref.ref(tensor), storage.nbytes())


def peak_of_a_run(model: nn.Module, inputs: Tensor) -> int:
    """Peak of an FX interpreter, which drops every value after its last use.

    The image is left out: its caller holds it to the end, and the first operator is no peak here.
    """
    graph, counter = fx.symbolic_trace(model), LiveBytes()
    with torch.inference_mode(), counter:
        fx.Interpreter(graph).run(inputs)
    return counter.peak


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 2, stride=2),
        nn.Flatten(),
        nn.Linear(54, 10),
    ).eval()


@pytest.mark.parametrize(("a", "b"), [(8, 6), (5, 6), (1, 2)])
def test_hand_counted(a: int, b: int) -> None:
    """Image 3x6x6; conv a x 36, BN another a x 36, ReLU in its place; b x 9; 10."""
    cost = MemoryCost(trace(chain(), torch.randn(1, 3, 6, 6)), adds_bias=False)
    weights = {"0": 27 * a, "1": 4 * a + 2, "3": 4 * a * b + b, "5": 90 * b + 10}
    peak = max(3 * 36 + 36 * a, 72 * a, 36 * a + 9 * b)
    # 1.num_batches_tracked is one 8-byte integer: two floats.
    expected = {name: 4 * count for name, count in weights.items()} | {ACTIVATIONS: 4 * peak}
    assert cost.by_layer((a, b)) == expected
    assert cost.total((a, b)) == sum(expected.values())


def test_half_precision_takes_half() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    image = torch.randn(1, 3, 4, 4)
    full = MemoryCost(trace(model, image)).total((8,))
    assert MemoryCost(trace(model.half(), image.half())).total((8,)) == full / 2


def test_a_shortcut_stays_alive_over_its_block(net: Any) -> None:
    """x (4 x 25 floats) is needed by the sum, so that three maps are alive in between."""
    model = net(
        lambda m, x: (y := m.a(x)) + m.c(m.b(y)),
        a=nn.Conv2d(1, 4, 1),
        b=nn.Conv2d(4, 16, 1),
        c=nn.Conv2d(16, 4, 1),
    )
    structure = trace(model, torch.randn(1, 1, 5, 5))
    cost = MemoryCost(structure)
    places = structure.index
    wide, narrow = list(structure.dense_widths), list(structure.dense_widths)
    narrow[places["b"]] = 2
    assert cost.peak(tuple(wide)) == 4 * 25 * (4 + 16 + 4)
    assert cost.peak(tuple(narrow)) == 4 * 25 * (4 + 4 + 4)  # the sum: y, c's result, its own


def test_fused_operators_hold_what_goes_in_and_comes_out(net: Any) -> None:
    """5 steps of 8 numbers; what a kernel keeps to itself, scores or gates, is not in it."""
    x = torch.randn(1, 5, 8)
    attention = net(lambda m, x: F.scaled_dot_product_attention(x, x, x))
    assert MemoryCost(trace(attention, x)).peak(()) == 4 * 2 * 40
    recurrent = net(lambda m, x: m.rnn(x)[0], rnn=nn.LSTM(8, 6, batch_first=True))
    states = 2 * 6  # hidden and cell, before and after
    assert MemoryCost(trace(recurrent, x)).peak(()) == 4 * (40 + states + 30 + states)


def test_groups_frozen_later_stay_whole() -> None:
    structure = trace(chain(), torch.randn(1, 3, 6, 6))
    frozen = structure.frozen_by({"3": "a test"})
    assert MemoryCost(frozen).total((5,)) == MemoryCost(structure).total((5, 6))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
def test_peak_of_a_real_run_whole_and_cut(name: str, random_cut: Any) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    image = torch.randn(1, 3, 64, 64)
    structure = trace(model, image)
    cost = MemoryCost(structure, adds_bias=False)
    small, widths = random_cut(model, structure, 0.6)
    for network, at in ((model, structure.dense_widths), (small, widths)):
        assert cost.peak(at) == peak_of_a_run(network, image)
        weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
        assert cost.total(at) - cost.peak(at) == weights
