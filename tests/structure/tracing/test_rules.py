"""Operators between two convolutions: channels go through, or are frozen for the true reason.

Most of the file is the table of operators.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from autoprune.core.plugins import load_object
from autoprune.structure.tracing.layer_rules import (
    batch_norm,
    group_norm,
    layer,
    layer_norm,
    lookup,
)
from autoprune.structure.tracing.operators import OperatorMode, whole_operators
from autoprune.structure.tracing.products import product
from autoprune.structure.tracing.rules import RULES
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import analyze

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
aten = torch.ops.aten
ROWS = torch.tensor([6, 1, 4])

Operation = Callable[[Tensor], Tensor]


def between(operation: Operation) -> nn.Module:
    """Return 3 → 8 channels, the operation, → 6 → 3 channels."""

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3, padding=1)
            with torch.no_grad():
                channels = operation(self.a(IMAGES)).shape[1]
            self.b, self.c = nn.Conv2d(channels, 6, 1), nn.Conv2d(6, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(self.b(operation(self.a(x))))
            return out

    torch.manual_seed(0)
    return Between().eval()


def written(x: Tensor, write: Callable[[Tensor], Any]) -> Tensor:
    """Return a copy of x that was written to."""
    out = x.clone()
    write(out)
    return out


def assigned(blank: Callable[[Tensor], Tensor]) -> Operation:
    """Return an operation that fills a blank by slices: rows from above and below."""

    def operation(x: Tensor) -> Tensor:
        out = blank(x)
        out[:, :, 1:] = x[:, :, :-1]
        out[:, :, 0] = x[:, :, -1]
        return out

    return operation


def halves_swapped(x: Tensor) -> Tensor:
    out, half = torch.empty_like(x), x.shape[1] // 2
    out[:, :half], out[:, half:] = x[:, half:], x[:, :half]
    return out


def pixels_from_channels(x: Tensor) -> Tensor:
    size = x.shape[0], x.shape[1] // 4, 2, 2, *x.shape[2:]
    return x.view(size).permute(0, 1, 4, 2, 5, 3).reshape(size[0], size[1], 2 * size[4], -1)


def shuffled(x: Tensor) -> Tensor:
    size = x.shape[0], 2, x.shape[1] // 2, *x.shape[2:]
    return x.view(size).transpose(1, 2).reshape(x.shape)


def half_written(x: Tensor) -> Tensor:
    """Two views of one blank are filled; the blank itself is read."""
    out = x.new_zeros(x.shape[0], 2 * x.shape[1], *x.shape[2:])
    first, second = out.chunk(2, 1)
    first.copy_(x.relu())
    second.add_(x)
    return out


def view_of_a_view(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out.flatten(2)[:, :, 5:].unsqueeze(0)[0].add_(x.flatten(2)[:, :, 5:])
    return out


def seen_by_an_older_view(x: Tensor) -> Tensor:
    """The view that is read was made before the write."""
    out = x.new_zeros(x.shape)
    seen = out.permute(0, 1, 3, 2)
    out += x
    return seen


def boxes_on(x: Tensor) -> list[Tensor]:
    return [torch.tensor([[0.0, 1.0, 6.5, 7.0]], dtype=x.dtype) for _ in x]


def sampled(x: Tensor) -> Tensor:
    theta = torch.tensor([[0.8, 0.1, 0.0], [0.0, 1.1, 0.2]]).expand(len(x), 2, 3)
    places = F.affine_grid(theta, [len(x), 1, 6, 6], align_corners=False)
    return F.grid_sample(x, places, align_corners=False)


def unpooled(x: Tensor) -> Tensor:
    values, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(values, places, 2)


def three_rows(x: Tensor) -> Tensor:
    return x.gather(2, ROWS[None, None, :, None].expand(len(x), x.shape[1], -1, 8))


def volume_sampled(x: Tensor) -> Tensor:
    places = torch.linspace(-1, 1, 3).expand(len(x), 1, 5, 5, 3)
    return F.grid_sample(x.unsqueeze(2), places, align_corners=False).squeeze(2)


def ticks(x: Tensor) -> Tensor:
    return torch.arange(x.shape[2], dtype=x.dtype)


def masked(x: Tensor) -> Tensor:
    """The mask's axes are moved about as those of data are."""
    mask = (x > 0).transpose(2, 3).flatten(2).view(x.shape[0], x.shape[1], 8, 8)
    return x.masked_fill(mask.transpose(2, 3), -1.0)


ACTIVATIONS = [
    *(nn.Hardswish(), nn.Mish(), nn.SiLU(), nn.ReLU6(), nn.Hardtanh(), nn.Hardsigmoid()),
    *(nn.ELU(), nn.SELU(), nn.CELU(), nn.LeakyReLU(), nn.RReLU(), nn.ReLU()),
    *(nn.GELU(), nn.GELU("tanh"), nn.Softplus(), nn.LogSigmoid(), nn.Softsign()),
    *(nn.Tanhshrink(), nn.Softshrink(), nn.Hardshrink(), nn.Threshold(0.1, 0.5)),
    *(nn.Sigmoid(), nn.Tanh(), nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.Identity()),
]
IN_PLACE = [
    *(nn.Hardswish, nn.Mish, nn.SiLU, nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid),
    *(nn.ELU, nn.SELU, nn.CELU, nn.LeakyReLU, nn.RReLU, nn.ReLU),
]

# Every channel is a unit of its own.
PASSED: dict[str, Operation] = {
    # Seen by an operator that then works on fewer channels (`groups.Mixer`).
    "mean of channels": lambda x: x - x.mean(1, keepdim=True),
    "variance over channels": lambda x: x / (1 + x.var(1, unbiased=False, keepdim=True)),
    "normalize over channels": lambda x: F.normalize(x),
    "rms_norm over channels": (
        lambda x: F.rms_norm(x.movedim(1, 3), x.shape[1:2]).movedim(3, 1)
    ),
    "group_norm of one group": lambda x: F.group_norm(x, 1),
    "matrix product in every channel": lambda x: x @ x,
    **{f"{module}": module.eval() for module in ACTIVATIONS},
    **{f"{kind.__name__} in place": kind(inplace=True).eval() for kind in IN_PLACE},
    "Threshold in place": nn.Threshold(0.1, 0.5, inplace=True),
    # Arithmetic.
    "clamp": lambda x: x.clamp(-0.5, 0.5).clip(max=0.4).clamp_min(-0.3),
    "lerp": lambda x: x.lerp(x.tanh(), 0.3),
    "addcmul": lambda x: torch.addcmul(x, x.sin(), x.cos()).addcdiv(x, x.exp()),
    "where": lambda x: torch.where(x > 0.1, x, x.square()),
    "where a number": lambda x: torch.where((x > 0) & ~(x > 1), x, 0.5),
    "comparisons": lambda x: x * (x.ge(0) | x.isnan()) + (x == 0).to(x.dtype),
    "masked_fill": masked,
    "maximum": lambda x: torch.max(x.sin(), x).minimum(x.cos()),
    "rounding": lambda x: x.round() + x // 0.5 + (1 - x) % 0.7 + torch.rsub(x, 1.0),
    "nan_to_num": lambda x: x.nan_to_num() + x.sign() * x.abs().sqrt().heaviside(x),
    # What is filled, made or copied.
    "zeros_like": lambda x: x + torch.zeros_like(x),
    "ones_like": lambda x: x * torch.ones_like(x) + torch.full_like(x, 0.5),
    "ones_like alone": lambda x: torch.cat([x, torch.ones_like(x)], 1),
    "new_zeros": lambda x: torch.max(x.new_zeros(x.shape), x),
    "new_ones": lambda x: x * x.new_ones(x.shape) + x.new_full(x.shape, 2.0),
    "ones": lambda x: x * torch.ones(x.shape) + torch.full(tuple(x.shape), 0.3),
    "fill in place": lambda x: written(x, lambda out: out[:, :, :2].fill_(0.3)),
    "zero in place": lambda x: written(x, lambda out: out.flatten(2)[..., 3:9].zero_()),
    "copy": lambda x: torch.empty(x.shape).copy_(x),
    "PReLU": lambda x: F.prelu(x, torch.tensor([0.3])),
    "transposed": lambda x: x.transpose(2, 3).contiguous() + x[:, :, 0, 0].t().t()[..., None, None],
    "clone and cast": lambda x: x.clone().double().float().contiguous().detach().type_as(x),
    "copy of strides": lambda x: torch.empty_strided(x.shape, x.stride()).copy_(x)
    + x.new_empty_strided(x.shape, x.stride()).copy_(x),
    # Work in place, through views.
    "slices of zeros_like": assigned(torch.zeros_like),
    "slices of empty": assigned(lambda x: torch.empty(x.shape)),
    "slices of new_empty": assigned(lambda x: x.new_empty(x.size())),
    "slices of a copy": assigned(torch.clone),
    "two chunks": half_written,
    "a view of a view": view_of_a_view,
    "an older view": seen_by_an_older_view,
    "a slice of its own": lambda x: written(x, lambda out: out[:, :, 1:].add_(x[:, :, :-1])),
    "activation of a slice": lambda x: written(x, lambda out: out[..., :4].relu_()),
    "unsqueeze in place": lambda x: x.clone().unsqueeze_(2).squeeze_(2).transpose_(2, 3),
    # Values at places.
    "index_put": lambda x: written(x, lambda out: out.__setitem__((..., ROWS), x[..., :3])),
    "a number at places": lambda x: written(x, lambda out: out.__setitem__((..., ROWS), 0.7)),
    "a mask of places": lambda x: written(
        x, lambda out: out.__setitem__((slice(None), slice(None), torch.ones(8, 8) > 0), 0.7)
    ),
    "index_copy": lambda x: x.index_copy(2, ROWS, x[:, :, :3]),
    "index_fill": lambda x: x.index_fill(3, ROWS, 0.2),
    "scatter": lambda x: x.scatter(2, ROWS[:, None].expand(*x.shape[:2], 3, 8), x.sin()),
    "scatter a number": lambda x: x.scatter(2, ROWS[:, None].expand(*x.shape[:2], 3, 8), 1),
    "slice_scatter": lambda x: x.slice_scatter(x[:, :, :3], 2, 4, 7),
    "select_scatter": lambda x: x.select_scatter(x[:, :, 3], 2, 5),
    # Movement.
    "gather": three_rows,
    "take_along_dim": lambda x: x.take_along_dim(ROWS[:, None].expand(1, 1, 3, 8), 2),
    "index_select": lambda x: x.index_select(3, ROWS)[:, :, ROWS],
    "roll": lambda x: x.roll((1, 2), (2, 3)).flip(2).rot90(1, (2, 3)),
    "repeat": lambda x: x.repeat(1, 1, 2, 1).repeat_interleave(2, 3),
    "unfold in windows": lambda x: x.unfold(2, 3, 2).flatten(3),
    "splits": lambda x: torch.cat(
        [*x.split(3, 2), *x.split_with_sizes([2, 6], 2), *x[:, :, :1].unsafe_split(1, 2)], 2
    ),
    "unbind": lambda x: torch.stack(x.unbind(2)[::2], 2),
    "views": lambda x: x.narrow(2, 1, 6).swapaxes(2, 3).unflatten(2, (2, 4)).flatten(2, 3),
    "tile": lambda x: x.tile(1, 2).reshape_as(torch.empty(1).expand(*x.shape[:3], 16)),
    "diagonal": lambda x: x.diagonal(0, 2, 3)[..., None] + x.diagonal_scatter(x[..., 0], 0, 2, 3),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "concat": lambda x: torch.concat([x, torch.concatenate([x.sin(), x], 1)], 1),
    "stack": lambda x: torch.stack([x, x.sin()], -1).flatten(3),
    "F.unfold and back": lambda x: F.fold(F.unfold(x, 3, padding=1), (8, 8), 3, padding=1),
    # Statistics over positions.
    "var": lambda x: x / (x.var((2, 3), unbiased=False, keepdim=True) + 1),
    "var along one dimension": lambda x: x - x.var(3, keepdim=True) + x.std(2, False, True),
    "var_mean": lambda x: x - sum(torch.var_mean(x, (2, 3), keepdim=True)),
    "std_mean": lambda x: x - sum(torch.std_mean(x, -1, correction=0, keepdim=True)),
    "norm": lambda x: x / x.norm(dim=(2, 3), keepdim=True) - x.norm(3, 2, True),
    "normalize": lambda x: F.normalize(x, dim=3),
    "logsumexp": lambda x: x - x.logsumexp((2, 3), keepdim=True) + x.prod(3, keepdim=True),
    "median": lambda x: x - x.median(3, keepdim=True).values + x.flatten(2).mode(2).values.view(
        *x.shape[:2], 1, 1
    ),
    "argmax": lambda x: x + x.flatten(2).argmax(2)[..., None, None],
    "softmax": lambda x: x.flatten(2).softmax(2).view_as(x) + x.log_softmax(3),
    "cumsum": lambda x: x.cumsum(2) + x.cumprod(3) + x.cummax(3).values,
    "topk": lambda x: x.topk(3, 2).values + x.sort(2).values[:, :, :3],
    "sums": lambda x: x - x.sum(2, keepdim=True) + x.nansum((2, 3), keepdim=True),
    "extremes": lambda x: x.amin(3, True) + x.min(2, True).values + x.aminmax(dim=3)[1][..., None],
    "places of extremes": lambda x: x + x.argmin(2, keepdim=True) + x.argmax(3, keepdim=True),
    "ranks": lambda x: x.kthvalue(2, 3, True).values + x.nanmedian(2, True).values,
    "counts": lambda x: x + (x > 0).count_nonzero((2, 3))[..., None, None] / 9,
    "any and all": lambda x: x * (x > 1).any(3, True) + x * (x < 2).all(2, True),
    "sums on the way": lambda x: x.logcumsumexp(2) + x.cummin(3).values,
    "triu": lambda x: x.triu() + x.tril(-1) * 2,
    "glu over space": lambda x: F.glu(x, 3),
    "fft": lambda x: torch.fft.rfft2(x).abs(),
    "fft and back": lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2).abs()
    + torch.fft.fft(torch.fft.fft(x, dim=2), dim=3).abs(),
    "layer_norm over space": lambda x: F.layer_norm(x, x.shape[2:]),
    "rms_norm over space": lambda x: F.rms_norm(x, x.shape[3:]),
    # Resampling.
    "grid_sample": sampled,
    "grid_sample of a volume": volume_sampled,
    "roi_align": lambda x: roi_align(x, boxes_on(x), 4, sampling_ratio=2),
    "roi_pool": lambda x: roi_pool(x, boxes_on(x), 4),
    "max_unpool": unpooled,
    "lp_pool": lambda x: F.lp_pool2d(x.abs(), 2, 2),
    **{
        f"interpolate {mode}": lambda x, mode=mode: F.interpolate(x, scale_factor=1.5, mode=mode)
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
    },
    "interpolate antialiased": lambda x: F.interpolate(
        x, (5, 5), mode="bilinear", antialias=True
    ),
    **{
        f"pad {mode}": lambda x, mode=mode: F.pad(x, (1, 2, 0, 1), mode=mode)
        for mode in ("constant", "reflect", "replicate", "circular")
    },
    "constant_pad_nd": lambda x: torch.constant_pad_nd(x, (1, 0), 0.5),
    # What a composite operator becomes where a graph was taken apart before.
    "kernels of softmax": lambda x: aten._softmax(x, 2, False)
    + aten._log_softmax(x, 3, False) + aten._safe_softmax(x, -1),
    "kernels of views": lambda x: aten._reshape_alias(
        aten._unsafe_view(aten.alias(aten._to_copy(x)), x.shape), x.shape, x.stride()
    ),
    "kernel of norm": lambda x: x / aten.norm(x, 2, [2, 3], True),
    "kernel of layer_norm": lambda x: aten.native_layer_norm(x, [8], None, None, 1e-5)[0],
    "kernel of rrelu": lambda x: aten.rrelu_with_noise(x, torch.empty_like(x), 0.1, 0.3, False),
    "checks": lambda x: x.where(torch._is_all_true(x > -99) & torch._is_any_true(x > 99), x),
    "positions": lambda x: x + ticks(x) * 0.1 + (ticks(x) > 3).to(x.dtype)[:, None],
}  # fmt: skip

# Operations by which several channels become one unit, and how many units there are.
PAIRED: dict[str, tuple[Operation, int]] = {
    "glu": (lambda x: F.glu(x, 1), 4),
    "chunks multiplied in place": (
        lambda x: (lambda pair: pair[0].mul_(pair[1]))(x.clone().chunk(2, 1)),
        4,
    ),
    "halves swapped by slices": (halves_swapped, 4),
    "polar": (lambda x: torch.polar(*x.chunk(2, 1)).abs(), 4),
    "complex numbers": (lambda x: torch.complex(*x.chunk(2, 1)).abs(), 4),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), 2),
    "pixel_shuffle by views": (pixels_from_channels, 2),
    "mean behind pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2).mean((2, 3), True), 2),
    "softmax over halves": (lambda x: x * x.view(len(x), 2, -1, 8, 8).softmax(1).flatten(1, 2), 4),
    "shuffle of channels": (lambda x: F.channel_shuffle(x, 2), 4),
    "shuffle by views": (shuffled, 4),
    "halves of unlike use": (lambda x: torch.cat([x.chunk(2, 1)[0] * 2, x.chunk(2, 1)[1]], 1), 4),
}

# Channels that stay, with part of the reason.
FROZEN: dict[str, tuple[Operation, str]] = {
    "softmax over channels": (lambda x: x.softmax(1), "compared with each other by softmax"),
    "cumsum over channels": (lambda x: x.cumsum(1), "summed over by cumsum"),
    "topk of channels": (lambda x: x.topk(3, 1).values, "compared with each other by topk"),
    "sort of channels": (lambda x: x.sort(dim=1).values, "compared with each other by sort"),
    "largest channel": (lambda x: x - x.amax(1, True), "compared with each other by amax"),
    "variance of all": (lambda x: x / x.var(unbiased=False), "summed over by var"),
    "kernel of group_norm": (
        lambda x: aten.native_group_norm(x, None, None, len(x), x.shape[1], 64, 1, 1e-5)[0],
        "normalised together by GroupNorm",
    ),
    "masked_scatter": (lambda x: x.masked_scatter(x > 0, x.sin()), "used by masked_scatter"),
    "triangle of channels": (
        lambda x: x.movedim(1, 3).tril().movedim(3, 1), "zeroed by their places in tril"
    ),
    "fft over channels": (lambda x: torch.fft.fft(x, dim=1).abs(), "summed over by _fft"),
    "roll of channels": (lambda x: x.roll(3, 1), "assumes its size"),
    "numbered channels": (
        lambda x: x + torch.arange(x.shape[1])[:, None, None], "a tensor of fixed size"
    ),
    "drawn for each channel": (
        lambda x: x * torch.linspace(0, 1, x.shape[1])[:, None, None], "a tensor of fixed size"
    ),
    "a blank of constant size": (
        lambda x: written(torch.zeros(len(x), 8, 8, 8), lambda out: out.copy_(x)), "once it is cut"
    ),
    "accumulated": (
        lambda x: x.index_put((torch.tensor([0, 0]),), x[:1], accumulate=True), "used by index_put"
    ),
    "added at places": (lambda x: x.index_add(1, ROWS, x[:, :3]), "used by index_add"),
    "bucketize": (lambda x: torch.bucketize(x, torch.arange(4.0)).float(), "used by bucketize"),
    "searchsorted": (
        lambda x: torch.searchsorted(torch.arange(4.0), x).float(), "used by searchsorted"
    ),
    "places from channels": (
        lambda x: F.grid_sample(x, x[:, :2].movedim(1, 3), align_corners=False),
        "places at which grid_sampler_2d reads",
    ),
    "matrix product of channels": (
        lambda x: (x.flatten(2) @ x.flatten(2).mT)[..., None] * x, "used by bmm"
    ),
    "distances": (lambda x: torch.cdist(x, x), "used by cdist"),
}  # fmt: skip


# Random numbers, which no two forward passes share: their structure is traced, but not verified.
RANDOM: dict[str, Operation] = {
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "dropout with its mask": lambda x: torch.native_dropout(x, 0.5, True)[0],
    "noise": lambda x: x + torch.rand_like(x) * torch.randn_like(x),
    "noise in place": lambda x: x + torch.empty_like(x).uniform_() - x.new_empty(x.shape).normal_(),
    "waiting times": lambda x: x * torch.empty(x.shape).exponential_(),
    "stochastic depth": lambda x: x * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.5),
}

# Rules of layers and of products, which `test_prunable` and `test_products` look at.
LAYERS = {layer, batch_norm, group_norm, layer_norm, lookup, product}


class Names(OperatorMode):
    """Notes the names of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return self.aside(name, func, args, kwargs)

    def aside(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        self.seen.add(name)
        return func(*args, **kwargs)


def units(model: nn.Module) -> dict[str, int]:
    return {group.name: group.size for group in analyze(model, IMAGES).groups}


@pytest.mark.parametrize("name", PASSED)
def test_channels_go_through(name: str) -> None:
    assert units(between(PASSED[name])) == {"a": 8, "b": 6}


@pytest.mark.parametrize("name", PAIRED)
def test_channels_that_meet_are_one_unit(name: str) -> None:
    operation, size = PAIRED[name]
    assert units(between(operation)) == {"a": size, "b": 6}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_as_wide_as_what_they_meet(name: str) -> None:
    structure = trace(between(RANDOM[name]), IMAGES)
    assert {group.name: group.size for group in structure.groups} == {"a": 8, "b": 6}


def test_every_rule_is_tried() -> None:
    """No operator is in the table that no test here or of layers and products looks at."""
    groups = ({k: v[0] for k, v in cases.items()} for cases in (PAIRED, FROZEN))
    operations = [one for cases in (PASSED, RANDOM, *groups) for one in cases.values()]
    names = Names()
    with whole_operators(), names:
        for operation in operations:
            operation(torch.randn(2, 8, 8, 8))
    assert {name for name, rule in RULES.items() if rule not in LAYERS} - names.seen == set()


@pytest.mark.parametrize("name", FROZEN)
def test_channels_stay_for_the_true_reason(name: str) -> None:
    operation, reason = FROZEN[name]
    structure = analyze(between(operation), IMAGES)
    assert "a" not in structure.index
    assert "b" in structure.index
    [why] = {frozen.reason for frozen in structure.frozen if frozen.name[0] == "a"}
    assert reason in why


def test_the_page_of_operators_is_what_the_table_says(root: Path) -> None:
    """To make it again: python experiments/operators/page.py > docs/operators.md."""
    page = load_object(f"{root}/experiments/operators/page.py:page", "page")
    assert (root / "docs" / "operators.md").read_text() == page()


def test_pieces_without_entries_are_concatenated(net: Any) -> None:
    """A detector that finds no box on the traced sample."""
    model = net(
        lambda m, x: (m.c(m.a(x)), torch.cat([x[x > 99], x[x > 99]])),
        a=nn.Conv2d(3, 6, 1), c=nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    assert [group.name for group in trace(model, IMAGES).groups] == ["a"]
