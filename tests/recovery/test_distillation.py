"""A cut network learns to do what the dense one does, and never gets worse."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from residuals import IMAGES, basic
from torch import Tensor, nn

from autoprune.data import Samples, Split, load_splits
from autoprune.errors import ModelError
from autoprune.models.demo import load_demo
from autoprune.recovery import student
from autoprune.recovery.distillation import DistillationTask, Recovery, recover
from autoprune.recovery.length import Length
from autoprune.structure.depth import with_branches
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import apply_policy, cut, kept_positions
from autoprune.structure.verify import analyze


class Images(Split):
    """Any tensors, counted as they are taken."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs
        self.taken: list[int] = []

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: Sequence[int]) -> Samples:
        self.taken += indices
        return Samples(self.inputs[list(indices)], None)


class Setting:
    """The demo network, its images, and cuts of it."""

    def __init__(self) -> None:
        splits = load_splits("digits")
        assert splits.val is not None
        self.dense = load_demo()
        self.images = Images(splits.train.take(range(600)).inputs)
        self.check = splits.val.take(range(150))
        self.structure: Structure = analyze(self.dense, self.check.inputs[:2])

    def task(self, kept: float = 1.0, **changes: Any) -> DistillationTask:
        units = [range(max(1, round(kept * size))) for size in self.structure.dense_widths]
        keep = kept_positions(self.dense, self.structure.policy(units))
        given = {"dense": self.dense, "images": self.images, "check": self.check}
        return DistillationTask(structure=self.structure, keep=keep, seed=0, **{**given, **changes})


@pytest.fixture
def setting() -> Setting:
    return Setting()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train(task: DistillationTask, steps: int) -> tuple[nn.Module, Recovery]:
    small = cut(task.dense, task.keep)
    return small, recover(small, task, Length(steps, "steps"))


def test_an_intact_copy_is_handed_back(setting: Setting) -> None:
    _, found = train(setting.task(), 20)
    # Folding BN into the teacher's layers leaves differences of rounding.
    assert found.after <= found.before < 1e-8
    with torch.no_grad():
        difference = found.network(setting.check.inputs) - setting.dense(setting.check.inputs)
    assert difference.abs().max() < 1e-3


def test_a_cut_network_comes_nearer(setting: Setting) -> None:
    small, found = train(setting.task(0.5), 120)
    assert found.after < 0.3 * found.before
    with torch.no_grad():
        dense, cut_, new = (m(setting.check.inputs) for m in (setting.dense, small, found.network))
    assert (new - dense).square().mean() < 0.5 * (cut_ - dense).square().mean()
    assert found.steps == 120


def test_neither_network_is_changed(setting: Setting) -> None:
    task = setting.task(0.5)
    dense, small = weights(setting.dense), cut(setting.dense, task.keep)
    before = weights(small)
    found = recover(small, task, Length(8, "steps"))
    assert same(weights(setting.dense), dense)
    assert same(weights(small), before)
    assert found.network is not small
    assert all(p.grad is None for p in [*small.parameters(), *setting.dense.parameters()])
    assert not any(module.training for module in found.network.modules())


def test_equal_seeds_and_steps_give_equal_networks(setting: Setting) -> None:
    task = setting.task(0.5)
    small = cut(setting.dense, task.keep)
    one, two = (recover(small, task, Length(12, "steps")).network for _ in range(2))
    assert same(weights(one), weights(two))


def test_statistics_of_batchnorm_stay(setting: Setting) -> None:
    small, found = train(setting.task(0.5), 12)
    buffers = dict(small.named_buffers())
    assert buffers
    assert all(torch.equal(buffers[name], b) for name, b in found.network.named_buffers())


def test_frozen_weights_learn_and_stay_marked(setting: Setting) -> None:
    task = setting.task(0.5)
    small = cut(setting.dense, task.keep).requires_grad_(False)
    found = recover(small, task, Length(12, "steps"))
    assert not same(weights(small), weights(found.network))
    assert not any(p.requires_grad for p in found.network.parameters())


def test_what_is_to_keep_its_values_is_not_trained(setting: Setting) -> None:
    """A frozen layer before a BN that learns, a frozen BN behind a layer that learns, a bias."""
    fixed = {"stem.0.weight", "widen.1.weight", "widen.1.bias", "head.bias"}
    assert fixed <= dict(setting.dense.named_parameters()).keys()
    setting.structure = setting.structure.leaving(fixed)
    small, found = train(setting.task(0.5), 30)
    assert found.network is not small and found.after < found.before
    before = weights(small)
    changed = {
        name for name, p in weights(found.network).items() if not torch.equal(p, before[name])
    }
    assert changed == {name for name, _ in small.named_parameters()} - fixed


def test_nothing_that_may_be_trained_is_said(setting: Setting) -> None:
    everything = frozenset(name for name, _ in setting.dense.named_parameters())
    setting.structure = setting.structure.leaving(everything)
    with pytest.raises(ModelError, match="every parameter is frozen or excluded; train_frozen"):
        train(setting.task(0.5), 4)


def test_every_image_is_seen_once_before_any_comes_again(setting: Setting) -> None:
    setting.images = Images(torch.randn(5 * student.CPU_BATCH, 1, 8, 8))
    train(setting.task(0.5), 4)
    assert sorted(setting.images.taken) == list(range(5 * student.CPU_BATCH))


def test_a_run_that_goes_astray_gives_nothing_worse(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "RATE", 1e3)
    _, found = train(setting.task(0.5), 8)
    assert found.after <= found.before
    assert all(bool(p.isfinite().all()) for p in found.network.parameters())


def test_a_smaller_rate_saves_a_run_that_went_astray(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "RATE", 1.0)
    monkeypatch.setattr(student, "BACK_OFF", 0.01)
    small, found = train(setting.task(0.5), 80)
    assert found.after < 0.8 * found.before
    assert found.network is not small


def test_steps_that_would_move_the_network_too_far_are_smaller_from_the_first(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "RATE", 0.3)  # ten times the usual one
    bounded = train(setting.task(0.9), 40)[1].after
    monkeypatch.setattr(student, "MOVED", float("inf"))
    assert bounded < 0.9 * train(setting.task(0.9), 40)[1].after


def test_branches_that_are_gone_teach_nothing() -> None:
    dense = basic()
    structure = with_branches(dense, IMAGES, analyze(dense, IMAGES))
    sizes = zip(structure.index, structure.dense_widths, strict=True)
    policy = structure.policy([range(0 if name == "blocks.0.conv1" else n) for name, n in sizes])
    keep, check = kept_positions(dense, policy), Samples(IMAGES, None)
    task = DistillationTask(dense, structure, keep, Images(IMAGES), check, 0)
    found = recover(apply_policy(copy.deepcopy(dense), policy), task, Length(40, "steps"))
    assert found.after < 0.8 * found.before


def test_broken_images_teach_nothing(setting: Setting) -> None:
    setting.images.inputs = torch.full((64, 1, 8, 8), torch.nan)
    small, found = train(setting.task(0.5), 8)
    assert found.network is small
    assert found.after == found.before


def test_an_interrupt_keeps_the_best_so_far(setting: Setting) -> None:
    task = setting.task(0.5)
    small = cut(setting.dense, task.keep)

    def interrupt(share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    found = recover(small, task, Length(40, "steps"), progress=interrupt)
    assert found.interrupted
    assert found.steps == 25
    assert found.after < found.before


def test_an_interrupt_before_the_first_step(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(student, "find_bases", interrupt)
    small, found = train(setting.task(0.5), 8)
    assert found.network is small and found.interrupted and found.steps == 0


def test_time_over_at_once_hands_back_what_was_given(setting: Setting) -> None:
    task = setting.task(0.5)
    small = cut(setting.dense, task.keep)
    found = recover(small, task, Length(40, "steps"), deadline=0.0)
    assert (found.network, found.steps, found.after) == (small, 0, found.before)


def test_dense_prediction(net: Any) -> None:
    torch.manual_seed(0)
    model = net(
        lambda m, x: m.last(m.act(m.bn(m.first(x)))),
        first=nn.Conv2d(3, 8, 3, padding=1),
        bn=nn.BatchNorm2d(8),
        act=nn.ReLU(inplace=True),
        last=nn.Conv2d(8, 4, 3, padding=1),
    ).eval()
    inputs = torch.randn(96, 3, 6, 6)
    structure = analyze(model, inputs[:2])
    keep = kept_positions(model, structure.policy([range(5)]))
    task = DistillationTask(
        model, structure, keep, Images(inputs[32:]), Samples(inputs[:32], None), 0
    )
    small = cut(model, keep)
    found = recover(small, task, Length(20, "steps"))
    with torch.no_grad():
        before, after = (
            (m(inputs) - model(inputs)).square().mean() for m in (small, found.network)
        )
    assert after < 0.8 * before


class Returning(nn.Module):
    """The demo network with anything made of its output."""

    def __init__(self, inner: nn.Module, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner = inner
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.inner(x))


def test_a_network_that_insists_on_its_precision_learns_in_it(setting: Setting) -> None:
    class Casting(Returning):
        def forward(self, x: Tensor) -> Any:
            return self.inner(x.bfloat16()).float()

    setting.dense.bfloat16()
    dense = Casting(setting.dense, nn.Identity()).eval()
    structure = analyze(dense, setting.check.first(2).inputs)
    keep = kept_positions(dense, structure.policy([range(s // 2) for s in structure.dense_widths]))
    _, found = train(DistillationTask(dense, structure, keep, setting.images, setting.check, 0), 25)
    assert found.after < 0.8 * found.before


@dataclass
class Output:
    logits: Tensor
    other: Tensor | None = None


def returning(
    setting: Setting, make: Callable[[Tensor], Any], kept: float = 0.5
) -> DistillationTask:
    dense = Returning(copy.deepcopy(setting.dense), make).eval()
    structure = analyze(setting.dense, setting.check.first(2).inputs)
    units = [range(max(1, round(kept * size))) for size in structure.dense_widths]
    structure = analyze(dense, setting.check.first(2).inputs)
    keep = kept_positions(dense, structure.policy(units))
    return DistillationTask(dense, structure, keep, setting.images, setting.check, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda y: (y, 3 * y),
        lambda y: {"scores": y, "picked": y.argmax(1)},
        lambda y: Output(y),
        lambda y: [{"boxes": [y]}, y.argmax(1)],
        lambda y: y.argmax(1),
        lambda y: (y.detach(), y.sum(0)),
    ],
    ids=["tuple", "dict", "dataclass", "nested", "whole numbers", "detached"],
)
def test_outputs_of_any_form(make: Callable[[Tensor], Any], setting: Setting) -> None:
    task = returning(setting, make)
    small, found = train(task, 25)
    assert found.after < 0.7 * found.before
    with torch.no_grad():
        dense, cut_, new = (
            m.inner(setting.check.inputs)  # type: ignore[operator]
            for m in (task.dense, small, found.network)
        )
    assert (new - dense).square().mean() < 0.8 * (cut_ - dense).square().mean()


def test_outputs_count_by_their_own_power(setting: Setting) -> None:
    """A second output a thousand times as large, but alike, changes nothing of the distance."""
    one, two = (returning(setting, make) for make in (lambda y: y, lambda y: (y, 1000 * y)))
    alone, both = (train(task, 1)[1] for task in (one, two))
    assert both.before == pytest.approx(alone.before, rel=1e-4)


def test_a_network_without_gradients_is_refused(setting: Setting) -> None:
    task = returning(setting, lambda y: y)
    task.dense.forward = torch.no_grad()(task.dense.forward)
    small = cut(task.dense, task.keep)
    small.forward = torch.no_grad()(type(small).forward.__get__(small))
    with pytest.raises(ModelError, match="without gradients: nothing can be learnt"):
        recover(small, task, Length(4, "steps"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_networks_of_any_precision(dtype: torch.dtype, setting: Setting) -> None:
    setting.dense.to(dtype)
    setting.images.inputs = setting.images.inputs.to(dtype)
    setting.check = Samples(setting.check.inputs[:50].to(dtype), None)
    small, found = train(setting.task(0.5), 12)
    assert found.after < 0.8 * found.before
    with torch.no_grad():
        dense, cut_, new = (
            m(setting.check.inputs).double() for m in (setting.dense, small, found.network)
        )
    assert (new - dense).square().mean() < (cut_ - dense).square().mean()
    kinds = [tensor.dtype for tensor in small.state_dict().values()]
    assert [tensor.dtype for tensor in found.network.state_dict().values()] == kinds
