from __future__ import annotations

import copy
import threading
from collections import deque, namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.core.policy import PruningPolicy, hash_shapes
from autoprune.errors import ModelError
from autoprune.structure.surgery import (
    apply_policy,
    cut,
    deep_copy,
    kept_positions,
    named_tensors,
    replica,
)
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import analyze

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def model_of(*, width: int = 8) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.PReLU(width),
        nn.Conv2d(width, 2 * width, 3, groups=width),
        nn.ConvTranspose2d(2 * width, 6, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).eval()


def half_policy(model: nn.Module) -> Any:
    structure = trace(model, IMAGES)
    return structure.policy([range(0, g.size, 2) for g in structure.groups])


def test_the_small_layers_know_their_sizes() -> None:
    small: Any = apply_policy(model_of(), half_policy(model_of()))
    conv, norm, prelu, depthwise, transposed, _, _, linear = small
    assert (conv.in_channels, conv.out_channels) == (3, 4)
    assert (norm.num_features, prelu.num_parameters) == (4, 4)
    sizes = (depthwise.in_channels, depthwise.out_channels, depthwise.groups)
    assert sizes == (4, 8, 4)
    assert (transposed.in_channels, transposed.out_channels) == (8, 3)
    assert (linear.in_features, linear.out_features) == (3, 4)
    assert "in_channels" not in repr(small) and "Conv2d(4, 8" in repr(small)


def test_the_dense_network_is_left_alone() -> None:
    model = model_of()
    before = copy.deepcopy(model.state_dict())
    small = apply_policy(model, half_policy(model))
    for tensor in [*small.parameters(), *small.buffers()]:
        tensor.data.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_policy_keeps_the_named_channels() -> None:
    model = model_of()
    small: Any = apply_policy(model, half_policy(model))
    assert torch.equal(small[0].weight, model[0].weight[::2])
    assert torch.equal(small[1].running_mean, model[1].running_mean[::2])
    assert torch.equal(small[7].weight, model[7].weight[:, ::2])


def test_the_small_network_trains_where_the_dense_one_does() -> None:
    model = model_of()
    model[0].requires_grad_(False)
    small: Any = apply_policy(model, half_policy(model))
    assert not small[0].weight.requires_grad
    small(IMAGES).sum().backward()
    assert small[3].weight.grad is not None


def test_tied_weights_stay_tied(net: Any) -> None:
    model = net(
        lambda m, x: m.c(m.a(x) + m.b(x)),
        a=nn.Linear(4, 6, bias=False), b=nn.Linear(4, 6, bias=False), c=nn.Linear(6, 3),
    )  # fmt: skip
    model.b.weight = model.a.weight
    structure = trace(model, torch.randn(2, 4))
    small: Any = apply_policy(model, structure.policy([[0, 5]]))
    assert small.a.weight is small.b.weight
    assert small.a.weight.shape == (2, 4)


def test_given_weights_replace_the_sliced_ones_and_missing_biases_appear() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3, bias=False))
    structure = trace(model, torch.randn(2, 4))
    policy = structure.policy([[1, 3]])
    new = {"1.weight": torch.full((3, 2), 0.5), "1.bias": torch.arange(3.0)}
    small: Any = cut(model, kept_positions(model, policy), new)
    assert isinstance(small[1].bias, nn.Parameter)
    expected = small[0].bias.sum() * 0.5 + torch.arange(3.0)
    torch.testing.assert_close(small(torch.zeros(1, 4)), expected[None])


@pytest.mark.parametrize(
    "other",
    [model_of(width=10), model_of(width=4), nn.Sequential(nn.Linear(3, 3)), nn.Identity()],
    ids=["wider", "narrower", "other layers", "empty"],
)
def test_policy_for_another_network_is_refused(other: nn.Module) -> None:
    with pytest.raises(ModelError, match="made for another network"):
        apply_policy(other, half_policy(model_of()))


Losses = namedtuple("Losses", "first second")


@pytest.mark.parametrize(
    "hold",
    [
        lambda loss: loss,
        lambda loss: [loss, [loss]],
        lambda loss: {"a": (loss, 3)},
        lambda loss: SimpleNamespace(inside=SimpleNamespace(value=loss)),
        lambda loss: deque([loss]),
        lambda loss: Losses(loss, None),
        lambda loss: {loss},
    ],
    ids=["plain", "list", "dict", "object", "deque", "namedtuple", "set"],
)
def test_tensors_with_a_graph_are_copied_without_it(hold: Any) -> None:
    model = model_of()
    loss = model[0](IMAGES).abs().mean()
    model[1].kept = hold(loss)
    for make in (deep_copy, replica, lambda m: apply_policy(m, half_policy(m))):
        found = make(model)[1].kept
        while not isinstance(found, torch.Tensor):
            if isinstance(found, SimpleNamespace):
                found = next(iter(vars(found).values()))
            else:
                found = next(iter(found.values() if isinstance(found, dict) else found))
        assert found.grad_fn is None and torch.equal(found, loss.detach()) and found is not loss
    assert loss.grad_fn is not None
    loss.backward()
    assert model[0].weight.grad is not None


def test_a_buffer_with_a_graph_can_be_cut() -> None:
    model = model_of()
    model[1].running_mean = 2 * model[0].weight.sum((1, 2, 3))
    small: Any = apply_policy(model, half_policy(model))
    assert torch.equal(small[1].running_mean, model[1].running_mean[::2].detach())
    assert small[1].running_mean.grad_fn is None


def test_tensors_that_are_shared_stay_shared() -> None:
    model = model_of()
    model[0].kept = model[1].kept = 2 * model[0].weight
    copied: Any = deep_copy(model)
    assert copied[0].kept is copied[1].kept is not model[0].kept


def test_what_has_no_copy_is_named_in_one_line() -> None:
    model = model_of()
    model[1].lock = threading.Lock()
    with pytest.raises(ModelError, match=r"cannot be copied: TypeError: cannot pickle '_thread"):
        deep_copy(model)


def test_lazy_layers_are_named(net: Any) -> None:
    policy = half_policy(model_of())
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LazyConv2d(4, 3))
    for call in (lambda: apply_policy(model, policy), lambda: analyze(model, IMAGES)):
        with pytest.raises(ModelError, match="layer '1', a LazyConv2d, has no weights yet"):
            call()
    model(IMAGES)
    analyze(model, IMAGES)


class Cached(nn.Module):
    """Makes one buffer at its first call, and gives another one its size."""

    table: torch.Tensor

    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.persistent = persistent
        self.register_buffer("anchors", torch.empty(0), persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).relu()
        if not hasattr(self, "table"):
            self.register_buffer("table", torch.ones(1, x.shape[1], 1, 1), self.persistent)
            self.anchors = torch.arange(x.shape[-1])
        out: torch.Tensor = self.last(x * self.table)
        return out


@pytest.mark.parametrize("persistent", [True, False])
def test_a_policy_fits_networks_that_ran_and_that_did_not(persistent: bool) -> None:
    ran, fresh = Cached(persistent), Cached(persistent)
    ran(IMAGES)
    policy = half_policy(ran)
    assert policy.groups["conv"].kept == (0, 2, 4, 6)
    for model in (ran, fresh):
        assert apply_policy(model, policy)(IMAGES).shape == (2, 2, 6, 6)


def test_policies_that_count_buffers_are_still_understood() -> None:
    model = model_of()
    policy = half_policy(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    older = PruningPolicy(policy.groups, hash_shapes(shapes))
    assert older.shapes_hash != policy.shapes_hash
    assert str(apply_policy(model, older)) == str(apply_policy(model, policy))
