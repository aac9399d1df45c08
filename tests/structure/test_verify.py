from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.structure.groups import ChannelGroup, Structure
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import CutTest, analyze

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def chain() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 2, 3)
    ).eval()


def broken(structure: Structure, change: Any) -> tuple[Structure, ChannelGroup]:
    """Replace the positions of one consumer of the first group."""
    group = structure.groups[0]
    slices = tuple(
        replace(s, positions=change(s.positions)) if s.role == "consumer" else s
        for s in group.slices
    )
    wrong = replace(group, slices=slices)
    return replace(structure, groups=(wrong, *structure.groups[1:])), wrong


def difference(structure: Structure, group: ChannelGroup) -> str | None:
    """Cut half of one group's units, an odd number."""
    rng = np.random.default_rng(0)
    kept = sorted(rng.permutation(group.size)[group.size // 2 | 1 :].tolist())
    return CutTest(chain(), IMAGES).difference(structure, {group.name: kept})


def test_a_module_with_two_names_is_one(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        out: Tensor = m.out(F.relu(m.other(F.relu(m.own(F.relu(m.stem(x)))))))
        return out

    own = nn.Conv2d(8, 8, 1)
    layers = {"stem": nn.Conv2d(3, 8, 1), "own": own, "again": own, "other": nn.Conv2d(8, 8, 1)}
    model = net(forward, **layers, out=nn.Conv2d(8, 2, 1))
    model.other.weight = own.weight  # and a parameter of two modules
    before = [tensor.clone() for tensor in model.parameters()]
    structure = analyze(model, IMAGES)
    assert [(group.name, group.size) for group in structure.groups] == [("stem", 8)]
    assert all(isinstance(m.weight, nn.Parameter) for m in (model.own, model.again, model.other))
    assert all(map(torch.equal, model.parameters(), before))


def test_right_structure_passes() -> None:
    structure = trace(chain(), IMAGES)
    for group in structure.groups:
        assert difference(structure, group) is None


@pytest.mark.parametrize("seed", range(5))
def test_permuted_channels_are_noticed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    structure, group = broken(trace(chain(), IMAGES), rng.permutation)
    assert difference(structure, group) is not None


def test_positions_shared_by_two_groups_are_noticed() -> None:
    structure, group = broken(trace(chain(), IMAGES), lambda p: p // 2)
    assert difference(structure, group) is not None


def test_groups_wrong_only_together_lose_the_culprit(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        a, b = m.a(x), m.b(x)
        if a.shape[1] < 6 and b.shape[1] < 6:
            b = b * 2
        out: Tensor = m.out(torch.cat([a, b], 1))
        return out

    model = net(forward, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(3, 6, 1), out=nn.Conv2d(12, 2, 1))
    structure = analyze(model, IMAGES)
    assert [g.name for g in structure.groups] == ["a"]
    assert structure.frozen[-1].name == "b"
    assert structure.frozen[-1].reason.startswith("together with other groups, ")


def test_failing_forward_gives_its_own_message(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        raise ValueError("expected 5 channels\nand more")

    with pytest.raises(ModelError, match=r"\(1, 3, 8, 8\).*ValueError: expected 5 channels$"):
        analyze(net(forward), IMAGES)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    model = chain()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = value
    with pytest.raises(ModelError, match=r"NaN or infinity in '3\.weight'"):
        analyze(model, IMAGES)


def test_overflow_of_finite_weights_is_told_apart() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    nn.init.constant_(model[0].weight, 1e30)
    nn.init.constant_(model[1].weight, 1e30)
    with pytest.raises(ModelError, match="example inputs make them overflow"):
        analyze(model, torch.ones(2, 4))


def test_progress_and_fast_path_are_kept() -> None:
    seen: list[tuple[int, int]] = []
    torch.backends.mha.set_fastpath_enabled(True)
    analyze(chain(), IMAGES, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 7) for i in range(7)]
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_of_examples_gives_the_same_structure(batch: int) -> None:
    images = torch.randn(batch, 3, 8, 8)
    structure = analyze(chain(), images)
    assert [(g.name, g.size) for g in structure.groups] == [("0", 8), ("3", 6)]
    assert [layer.positions for layer in structure.layers] == [36, 16, 4]


def share(part: float) -> Any:
    """Channels below a share of the width are worth twice as much."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = F.relu(m.a(x))
        low = int(h.shape[1] * part)
        out: Tensor = m.b(torch.cat([h[:, :low] * 2, h[:, low:]], 1))
        return out

    return forward


@pytest.mark.parametrize("part", [1 / 16, 1 / 8, 1 / 4, 1 / 3, 2 / 3, 3 / 4, 15 / 16])
def test_no_share_of_the_width_is_split_unseen(net: Any, part: float) -> None:
    torch.manual_seed(0)
    structure = analyze(net(share(part), a=nn.Conv2d(3, 16, 3), b=nn.Conv2d(16, 4, 3)), IMAGES)
    assert structure.groups == ()
    assert {f.name: f.reason for f in structure.frozen}["a"] == (
        "the forward pass assumes its size: b reads other values"
    )


def test_halves_lose_equally_many(net: Any) -> None:
    structure = analyze(net(share(0.5), a=nn.Conv2d(3, 16, 3), b=nn.Conv2d(16, 4, 3)), IMAGES)
    (group,) = structure.groups
    assert [s.positions.tolist() for s in group.consumers] == [[[i, i + 8] for i in range(8)]]


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h * 2 if h.shape[1] % 2 else h,
        lambda h: h * 2 if h.shape[1] < 4 else h,
        lambda h: h * 2 if h.shape[1] == 15 else h,
        lambda h: h / h.shape[1] ** 0.5,
        lambda h: torch.cat([h[:, :1] * 2, h[:, 1:]], 1),
        lambda h: torch.cat([h[:, :-1], h[:, -1:] * 2], 1),
    ],
)
def test_no_other_use_of_a_width_is_unseen(net: Any, change: Any) -> None:
    torch.manual_seed(0)
    parts = {"a": nn.Conv2d(3, 16, 3), "b": nn.Conv2d(16, 4, 3)}
    assert analyze(net(lambda m, x: m.b(change(m.a(x))), **parts), IMAGES).groups == ()


def test_the_width_of_another_group_is_no_width(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        a, b = m.a(x), m.b(x)
        n = b.shape[1]
        out: Tensor = m.out(torch.cat([a[:, : n // 2] * 2, a[:, n // 2 :], b], 1))
        return out

    torch.manual_seed(0)
    parts = {"a": nn.Conv2d(3, 8, 1), "b": nn.Conv2d(3, 8, 1), "out": nn.Conv2d(16, 2, 1)}
    frozen = {f.name for f in analyze(net(forward, **parts), IMAGES).frozen}
    assert "a" in frozen


def detector(net: Any, answer: Any, width: int = 6) -> Any:
    """Boxes and rare classes; the class branch assumes its width."""

    def forward(m: Any, x: Tensor) -> Any:
        h = F.relu(m.stem(x))
        c = m.cls(h)
        c = torch.cat([c[:, :width].relu(), c[:, width:].sigmoid()], 1)
        return answer(m.box(h), m.cls2(c))

    torch.manual_seed(0)
    model = net(
        forward, stem=nn.Conv2d(3, 8, 3), cls=nn.Conv2d(8, 12, 3), cls2=nn.Conv2d(12, 5, 1),
        box=nn.Conv2d(8, 4, 1),
    ).eval()  # fmt: skip
    nn.init.constant_(model.cls2.bias, -4.6)
    return model


@pytest.mark.parametrize(
    "answer",
    [
        lambda box, cls: torch.cat([box[..., 2:, 2:] * 1e4, cls.sigmoid()], 1),
        lambda box, cls: torch.cat([box[..., 2:, 2:] * 1e4, cls], 1).flatten(2).transpose(1, 2),
        lambda box, cls: cls.argmax(1),
        lambda box, cls: cls.flatten(1).topk(3).indices,
        lambda box, cls: {"boxes": box, "labels": (cls > 0.5)},
        lambda box, cls: (cls * 100 - 900).sigmoid(),
    ],
)
def test_no_output_hides_a_branch(net: Any, answer: Any) -> None:
    structure = analyze(detector(net, answer), IMAGES)
    assert [g.name for g in structure.groups] == ["stem"]
    reasons = {f.name: f.reason for f in structure.frozen}
    assert reasons["cls"] == "the forward pass assumes its size: cls2 reads other values"


@pytest.mark.parametrize("prepare", [nn.init.zeros_, nn.init.ones_])
def test_weights_without_information_hide_nothing(net: Any, prepare: Any) -> None:
    model = detector(net, lambda box, cls: cls)
    for parameter in model.parameters():
        prepare(parameter)
    assert [g.name for g in analyze(model, torch.zeros(2, 3, 8, 8)).groups] == ["stem"]
    assert all(bool((p == p.flatten()[0]).all()) for p in model.parameters())


def test_a_forward_pass_that_bears_no_other_type_is_tested_as_it_is(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        out: Tensor = m.b(F.relu(m.a(x)))
        return out

    parts = {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 4, 3)}
    assert [g.name for g in analyze(net(forward, **parts), IMAGES).groups] == ["a"]
    split = net(lambda m, x: forward(m, x) + 0 * share(0.5)(m, x), **parts)
    assert analyze(split, IMAGES).groups == ()


def test_random_state_is_as_it_was() -> None:
    model = nn.Sequential(*chain(), nn.Dropout(0.5)).train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    analyze(model, IMAGES)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_layer_that_is_given_nothing_is_named(net: Any) -> None:
    """A detector that finds no box says nothing of how the layers behind it are connected."""

    def forward(m: Any, x: Tensor) -> Tensor:
        rows = m.body(x)
        return m.head(rows[rows[:, 0] > 1e9])  # type: ignore[no-any-return]

    model = net(forward, body=nn.Linear(3, 4), head=nn.Linear(4, 2))
    with pytest.raises(ModelError, match=r"layer head\.weight is given nothing, .*finds boxes"):
        analyze(model, torch.ones(2, 3))


def test_a_layer_without_inputs_is_no_fault() -> None:
    """Features that are optional, and of which there are none."""

    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.extra, self.out = nn.Linear(3, 8), nn.Linear(0, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x).relu() + self.extra(x[:, :0]))  # type: ignore[no-any-return]

    assert "a" in {group.name for group in analyze(Optional().eval(), torch.ones(2, 3)).groups}


class Failing(nn.Module):
    """Does not run with fewer channels in some types of numbers; notes the types of its cuts."""

    seen: ClassVar[list[torch.dtype]] = []

    def __init__(self, *types: torch.dtype) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.types = types

    def forward(self, x: Tensor) -> Tensor:
        if len(self.stem.weight) < 8:
            self.seen.append(x.dtype)
            if x.dtype in self.types:
                raise ValueError("eight channels")
        out: Tensor = self.out(self.stem(x))
        return out


def test_a_large_network_that_fails_in_float32_is_not_run_in_float64(monkeypatch: Any) -> None:
    monkeypatch.setattr("autoprune.structure.verify.LARGE", 0)
    model = Failing(torch.float32, torch.float64).eval()
    structure = trace(model, IMAGES)
    Failing.seen.clear()
    assert not CutTest(model, IMAGES).agrees(structure, structure.groups)
    assert {*Failing.seen} == {torch.float32}


def test_only_float64_freezes_a_group(monkeypatch: Any) -> None:
    monkeypatch.setattr("autoprune.structure.verify.LARGE", 0)
    frozen = {
        types: [one.name for one in analyze(Failing(*types).eval(), IMAGES).frozen]
        for types in ((torch.float32,), (torch.float32, torch.float64))
    }
    assert frozen == {
        (torch.float32,): ["out"],
        (torch.float32, torch.float64): ["out", "stem"],
    }
