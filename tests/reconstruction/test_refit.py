from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.reconstruction import refit as refit_module
from autoprune.reconstruction.refit import RIDGE, LeastSquares, Refitter, ridge_of
from autoprune.statistics.collect import collect_moments
from autoprune.statistics.moments import Moments
from autoprune.structure.surgery import cut, kept_positions
from autoprune.structure.tracing.trace import trace


def inputs_of(kind: str, rows: int = 300, width: int = 12) -> Tensor:
    """Rows of a consumer's inputs; "singular" has dead, constant and duplicated ones."""
    torch.manual_seed(1)
    x = torch.randn(rows, width, dtype=torch.float64) @ torch.randn(width, width).double() + 2
    if kind == "singular":
        x[:, 0], x[:, 1], x[:, 3] = 0.0, 5.0, x[:, 2]
    if kind == "dead":
        x.zero_()
    return x.relu()


# As of so many rows that their covariance is taken for what it is.
MANY = 10**12


def moments_of(x: Tensor) -> Moments:
    return Moments(MANY, x.mean(0), torch.cov(x.T, correction=0))


@pytest.mark.parametrize("kind", ["usual", "singular", "dead"])
def test_full_keep_changes_nothing(kind: str) -> None:
    weight = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    fit = LeastSquares(weight, moments_of(inputs_of(kind))).refit(torch.arange(3))
    torch.testing.assert_close(fit.weight, weight, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fit.shift, torch.zeros(5).double(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["usual", "singular", "dead"])
@pytest.mark.parametrize("kept", [[0], [1, 2], [0, 3, 4], [2, 5, 8, 11]])
def test_mean_is_kept_and_error_never_above_slicing(
    kind: str, kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refit_module, "RIDGE", 1e-9)
    x = inputs_of(kind)
    weight = torch.randn(5, 12, dtype=torch.float64)
    fit = LeastSquares(weight, moments_of(x)).refit(torch.tensor(kept))
    assert bool(fit.weight.isfinite().all())
    dense = x @ weight.T
    refitted = x[:, kept] @ fit.weight.T + fit.shift
    sliced = x[:, kept] @ weight[:, kept].T
    torch.testing.assert_close(refitted.mean(0), dense.mean(0))
    errors = [(dense - made).square().sum() for made in (refitted, sliced)]
    assert errors[0] <= errors[1] * (1 + 1e-6) + 1e-6


def test_equals_least_squares_on_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit_module, "RIDGE", 1e-12)
    x, weight = inputs_of("usual"), torch.randn(5, 12, dtype=torch.float64)
    kept = torch.tensor([0, 2, 3, 7, 9])
    fit = LeastSquares(weight, moments_of(x)).refit(kept)
    with_one = torch.cat([x[:, kept], torch.ones(len(x), 1)], 1)
    best = torch.linalg.lstsq(with_one, x @ weight.T).solution.T
    torch.testing.assert_close(fit.weight, best[:, :-1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fit.shift, best[:, -1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "share"), [(4, 999), (8, 999), (100, 0.08 / 0.92), (MANY, RIDGE)])
def test_fewer_rows_are_trusted_less(rows: int, share: float) -> None:
    """By hand: ρ = (0 · 10 + 16) / (rows · (10 − 8)), of which ρ / (1 − ρ) is added."""
    moments = Moments(rows, torch.zeros(2).double(), torch.diag(torch.tensor([3.0, 1.0]).double()))
    assert ridge_of(moments) == pytest.approx(share * 2)


def test_what_few_rows_seem_to_foretell_is_not_believed() -> None:
    """Of independent inputs nothing can be rebuilt, though so few rows of them seem to agree."""
    torch.manual_seed(0)
    seen, others = torch.randn(40, 60).double(), torch.randn(4000, 60).double()
    weight, kept = torch.randn(5, 60).double(), torch.arange(45)
    moments = Moments(len(seen), seen.mean(0), torch.cov(seen.T, correction=0))
    fit = LeastSquares(weight, moments).refit(kept)
    lost = (others @ weight.T - others[:, kept] @ fit.weight.T - fit.shift).square().mean()
    assert lost < 1.3 * weight[:, 45:].square().sum(1).mean()


def test_diagonal_moments_slice_and_keep_the_mean() -> None:
    x, weight = inputs_of("usual"), torch.randn(5, 12, dtype=torch.float64)
    moments = Moments(len(x), x.mean(0), x.var(0, correction=0))
    fit = LeastSquares(weight, moments).refit(torch.tensor([1, 4]))
    assert torch.equal(fit.weight, weight[:, [1, 4]])
    made = x[:, [1, 4]] @ fit.weight.T + fit.shift
    torch.testing.assert_close(made.mean(0), (x @ weight.T).mean(0))


TAILS: dict[str, list[nn.Module]] = {
    "transposed": [nn.ConvTranspose2d(6, 5, 2, stride=2)],
    "transposed, batch norm": [
        nn.ConvTranspose2d(6, 5, (2, 3), stride=(2, 3), bias=False),
        nn.BatchNorm2d(5),
    ],
    "transposed, nothing that takes the mean": [nn.ConvTranspose2d(6, 5, 2, 2, bias=False)],
    "bias": [nn.Conv2d(6, 5, 3)],
    "batch norm": [nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5)],
    "batch norm without gain": [nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5, affine=False)],
    "nothing that takes the mean": [nn.Conv2d(6, 5, 3, bias=False)],
}


@pytest.mark.parametrize("tail", TAILS)
def test_the_cut_network_gets_weights_and_the_lost_mean(tail: str) -> None:
    torch.manual_seed(0)
    for module in TAILS[tail]:
        module.reset_parameters()  # they were made when this file was imported
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), *TAILS[tail]).eval()
    images = torch.randn(40, 3, 8, 8)
    structure = trace(model, images)
    moments = collect_moments(model, structure, Samples(images, None), 0, 10**6)
    keep = kept_positions(model, structure.policy([[0, 2, 5]]))
    changed = Refitter(model, structure, moments).tensors(keep)
    assert ("3.running_var" in changed) == ("batch norm" in tail)
    assert changed.keys() >= {weight for weight in structure.feeds}
    refitted = cut(model, keep, changed)
    with torch.no_grad():
        dense, better, worse = (m(images) for m in (model, refitted, cut(model, keep)))
    mean = dense.mean((0, 2, 3))
    torch.testing.assert_close(better.mean((0, 2, 3)), mean, rtol=1e-3, atol=1e-3)
    assert F.mse_loss(better, dense) < F.mse_loss(worse, dense)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_transposed_consumer_is_refitted_tap_by_tap(stride: int) -> None:
    """Nothing changes with all inputs; less is lost than by slicing, also where taps overlap."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.ConvTranspose2d(6, 5, 3, stride, padding=1), nn.ReLU(),
        nn.Conv2d(5, 2, 1),
    ).eval()  # fmt: skip
    images = torch.randn(40, 3, 8, 8)
    structure = trace(model, images)
    refitter = Refitter(
        model, structure, collect_moments(model, structure, Samples(images, None), 0, 10**6)
    )
    whole = refitter._solve("2.weight", torch.arange(6))
    torch.testing.assert_close(whole.weight, model[2].weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.spread, torch.ones(5), rtol=1e-4, atol=1e-4)
    assert float(whole.shift.abs().max()) < 1e-4
    keep = kept_positions(model, structure.policy([[0, 2, 3, 5], [0, 1, 4]]))
    refitted = cut(model, keep, refitter.tensors(keep))
    with torch.no_grad():
        dense, better, worse = (m[:3](images) for m in (model, refitted, cut(model, keep)))
    dense = dense[:, [0, 1, 4]]
    assert F.mse_loss(better, dense) <= 0.9 * F.mse_loss(worse, dense)


def test_bn_behind_a_transposed_layer_gets_the_variance_that_is_left() -> None:
    """Inputs far from zero: what they have about it says nothing of how they vary."""
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 6, 1)
    up, norm = nn.ConvTranspose2d(6, 4, 1), nn.BatchNorm2d(4)
    with torch.no_grad():
        stem.bias.fill_(5.0)  # type: ignore[union-attr]
        up.weight.abs_()
    model, images = nn.Sequential(stem, nn.ReLU(), up, norm), torch.randn(60, 3, 8, 8)
    for _ in range(200):
        model.train()(images)
    structure = trace(model.eval(), images)
    keep = kept_positions(model, structure.policy([[0, 3]]))
    moments = collect_moments(model, structure, Samples(images, None), 0, 10**6)
    small: Any = cut(model, keep, Refitter(model, structure, moments).tensors(keep))
    with torch.no_grad():
        raw = small[:3](images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(small[3].running_var, raw.var(1), rtol=0.02, atol=1e-4)
    torch.testing.assert_close(small[3].running_mean, raw.mean(1), rtol=0.02, atol=1e-2)


def test_rows_that_go_too_are_sliced_and_solutions_remembered() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2))
    inputs = torch.randn(64, 4)
    structure = trace(model, inputs)
    refitter = Refitter(
        model, structure, collect_moments(model, structure, Samples(inputs, None), 0)
    )
    wide = refitter.tensors(kept_positions(model, structure.policy([[0, 1, 2, 3], range(6)])))
    narrow = refitter.tensors(kept_positions(model, structure.policy([[0, 1, 2, 3], [1, 4]])))
    assert wide.keys() == {"1.weight", "1.bias"}
    assert narrow.keys() == {"1.weight", "1.bias", "2.weight", "2.bias"}
    assert torch.equal(narrow["1.weight"], wide["1.weight"][[1, 4]])
    assert torch.equal(narrow["1.bias"], wide["1.bias"][[1, 4]])
    assert refitter.tensors(kept_positions(model, structure.policy([range(8), range(6)]))) == {}


@pytest.mark.parametrize("kind", ["usual", "singular"])
def test_spread_is_the_share_of_variance_that_is_left(kind: str) -> None:
    x, weight = inputs_of(kind), torch.randn(5, 3, 2, 2, dtype=torch.float64)
    fit = LeastSquares(weight, moments_of(x)).refit(torch.tensor([0, 2]))
    columns = [*range(4), *range(8, 12)]
    left = (x[:, columns] @ fit.weight.flatten(1).T).var(0, correction=0)
    dense = (x @ weight.flatten(1).T).var(0, correction=0)
    torch.testing.assert_close(fit.spread, left / dense, rtol=1e-6, atol=1e-9)
