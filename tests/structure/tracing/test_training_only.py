"""Layers that run in training mode only: they shrink with what they read, and cost nothing."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.progress import Progress
from autoprune.cost import cost_models
from autoprune.engine.problem import prunable_structure
from autoprune.options.origin import Restrictions
from autoprune.structure.surgery import apply_policy
from autoprune.structure.verify import analyze

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Head = Callable[[Any, Tensor], Any]


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def with_head(net: Any, head: Head, **parts: nn.Module) -> Any:
    """Two blocks and a classifier; the head reads the first block's output, in training."""

    def forward(m: Any, x: Tensor) -> Any:
        h = m.a(x)
        out = m.fc(m.b(h).mean((2, 3)))
        return (out, head(m, h)) if m.training else out

    torch.manual_seed(0)
    return net(forward, a=block(3, 8), b=block(8, 6), fc=nn.Linear(6, 4), **parts).eval()


HEADS: dict[str, tuple[Head, dict[str, nn.Module]]] = {
    "one layer": (lambda m, h: m.aux(h).mean((2, 3)), {"aux": nn.Conv2d(8, 4, 1)}),
    "a small network": (
        lambda m, h: m.aux2(F.dropout(m.aux(h).mean((2, 3)), training=m.training)),
        {"aux": block(8, 5), "aux2": nn.Linear(5, 4)},
    ),
    "flattened": (lambda m, h: m.aux(h.flatten(1)), {"aux": nn.Linear(512, 4)}),
    "depthwise first": (
        lambda m, h: m.aux2(m.aux(h)),
        {"aux": nn.Conv2d(8, 8, 3, groups=8), "aux2": nn.Conv2d(8, 4, 1)},
    ),
}


@pytest.mark.parametrize(("head", "parts"), HEADS.values(), ids=HEADS.keys())
def test_a_cut_network_trains_with_its_head(
    net: Any, head: Head, parts: dict[str, nn.Module]
) -> None:
    model = with_head(net, head, **copy.deepcopy(parts))
    before = copy.deepcopy(model.state_dict())
    structure = analyze(model, IMAGES)
    assert [(g.name, g.size) for g in structure.groups] == [("a.0", 8), ("b.0", 6)]
    assert structure.training.layers[0].name.startswith("aux")
    assert structure.training.wrong == {}
    small = apply_policy(model, structure.policy([[1, 4, 6], [0, 5]]))
    for one in small.train()(IMAGES):
        one.sum().backward(retain_graph=True)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_head_reads_the_channels_that_stay(net: Any) -> None:
    model = with_head(net, *HEADS["one layer"][:1], **copy.deepcopy(HEADS["one layer"][1]))
    structure = analyze(model, IMAGES)
    small = apply_policy(model, structure.policy([[1, 4, 6], range(6)]))
    assert torch.equal(small.aux.weight, model.aux.weight[:, [1, 4, 6]])
    assert small.aux.in_channels == 3


def test_a_head_counts_as_parameters_but_not_as_macs(net: Any) -> None:
    head, parts = HEADS["a small network"]
    structure = analyze(with_head(net, head, **copy.deepcopy(parts)), IMAGES)
    costs = cost_models(structure)
    plain = 3 * 3 * 9 + 3 * 2 + 3 * 2 * 9 + 2 * 2 + 2 * 4 + 4  # two blocks and the classifier
    aux = 3 * 5 * 9 + 5 * 2 + 5 * 4 + 4
    assert costs["params"].total((3, 2)) == plain + aux
    assert costs["flops"].total((3, 2)) == 64 * 9 * (3 * 3 + 3 * 2) + 2 * 4
    # Nothing of it is a choice, and nothing refits it.
    assert not any(one.startswith("aux") for one in (*structure.feeds, *structure.index))


def test_what_ran_before_a_failure_is_known(net: Any) -> None:
    """As InceptionV3's head does on small images."""
    model = with_head(
        net, lambda m, h: m.aux2(m.aux(h)), aux=nn.Conv2d(8, 5, 3), aux2=nn.Conv2d(5, 4, 9)
    )
    training = analyze(model, IMAGES).training
    assert [layer.name for layer in training.layers] == ["aux"]
    assert training.failure is not None and "Kernel size" in training.failure
    small = apply_policy(model, analyze(model, IMAGES).policy([[1, 4, 6], range(6)]))
    small.train()(torch.randn(2, 3, 16, 16))


def test_training_that_needs_targets_freezes_nothing_and_is_told(net: Any) -> None:
    def head(m: Any, h: Tensor) -> Tensor:
        raise ValueError("targets are missing")

    structure = analyze(with_head(net, head, aux=nn.Conv2d(8, 4, 1)), IMAGES)
    assert [g.name for g in structure.groups] == ["a.0", "b.0"]
    [note] = structure.training.notes()
    assert "fails in training mode: ValueError: targets are missing" in note
    assert note.endswith("even if that is cut: aux")


def test_a_head_that_nothing_runs_is_told(net: Any) -> None:
    """It is behind a flag, or read by another method than forward."""
    model = with_head(net, lambda m, h: h, aux=nn.Conv2d(8, 4, 1))
    structure = analyze(model, IMAGES)
    assert [g.name for g in structure.groups] == ["a.0", "b.0"]
    [note] = structure.training.notes()
    assert note.startswith("no forward pass runs these layers; what they read is not known")
    assert note.endswith(": aux")


def test_a_head_that_assumes_a_width_is_told(net: Any) -> None:
    def head(m: Any, h: Tensor) -> Tensor:
        out: Tensor = m.aux(torch.cat([h[:, :4] * 2, h[:, 4:]], 1))
        return out

    structure = analyze(with_head(net, head, aux=nn.Conv2d(8, 4, 1)), IMAGES)
    assert [g.name for g in structure.groups] == ["a.0", "b.0"]
    assert structure.training.wrong.keys() == {"a.0"}
    assert "aux reads other values" in structure.training.wrong["a.0"]


def test_a_head_is_noted(net: Any, caplog: pytest.LogCaptureFixture) -> None:
    head, parts = HEADS["one layer"]
    model = with_head(net, head, **copy.deepcopy(parts))
    with caplog.at_level(logging.INFO, "autoprune"):
        prunable_structure(model, IMAGES, Restrictions(), Progress())
    assert caplog.messages == [
        "layers that run in training mode only, cut along with what they read: aux"
    ]


def test_ordinary_networks_are_not_run_in_training_mode(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        assert not m.training
        out: Tensor = m.fc(m.a(x).mean((2, 3)))
        return out

    structure = analyze(net(forward, a=block(3, 8), fc=nn.Linear(8, 4)).eval(), IMAGES)
    assert structure.training.layers == () and list(structure.training.notes()) == []
