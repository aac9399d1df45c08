from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoprune.reconstruction.elimination import AdditiveProblem
from autoprune.reconstruction.obs_path import ObsPath, obs_path
from autoprune.reconstruction.obs_problem import ObsProblem
from autoprune.reconstruction.refit import LeastSquares, regularized
from autoprune.statistics.moments import Moments

UNITS, TAPS, OUT = 6, 4, 5


def inputs_of(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(UNITS * TAPS, UNITS * TAPS, generator=generator, dtype=torch.float64)
    return torch.randn(500, UNITS * TAPS, generator=generator, dtype=torch.float64) @ mixing + 1


def moments_of(x: Tensor) -> Moments:
    # As of so many rows that their covariance is taken for what it is.
    return Moments(10**12, x.mean(0), torch.cov(x.T, correction=0))


def weight_of(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 100)
    return torch.randn(OUT, UNITS, TAPS, generator=generator, dtype=torch.float64)


def energy(weight: Tensor, moments: Moments) -> float:
    rows = weight.flatten(1)
    return float(((rows @ moments.covariance) * rows).sum())


def problem(weight: Tensor, moments: Moments) -> ObsProblem:
    h = regularized(moments)
    ridge = float(h[0, 0] - moments.covariance[0, 0])
    return ObsProblem(weight, torch.linalg.inv(h), ridge, energy(weight, moments))


def refit_error(weight: Tensor, moments: Moments, kept: list[int]) -> float:
    """tr(ΔGΔᵀ) / energy of the closed-form refit on some units."""
    small = torch.zeros_like(weight)
    if kept:
        small[:, kept] = LeastSquares(weight, moments).refit(torch.tensor(kept)).weight
    return energy(weight - small, moments) / energy(weight, moments)


def path_of(seed: int) -> tuple[ObsPath, Tensor, Moments]:
    weight, moments = weight_of(seed), moments_of(inputs_of(seed))
    return obs_path([problem(weight, moments)]), weight, moments


@pytest.mark.parametrize("seed", range(4))
def test_error_at_every_width_is_that_of_the_closed_form_refit(seed: int) -> None:
    path, weight, moments = path_of(seed)
    assert sorted(path.order) == list(range(UNITS))
    for width in range(UNITS + 1):
        expected = refit_error(weight, moments, sorted(path.order[:width]))
        assert path.errors[width] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_errors_run_from_all_lost_to_none(seed: int) -> None:
    path, _, _ = path_of(seed)
    assert path.errors[0] == pytest.approx(1.0)
    assert path.errors[UNITS] == 0.0
    assert list(path.errors) == sorted(path.errors, reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_first_to_go_is_the_best_of_all(seed: int) -> None:
    path, weight, moments = path_of(seed)
    errors = [
        refit_error(weight, moments, [v for v in range(UNITS) if v != u]) for u in range(UNITS)
    ]
    assert path.order[-1] == min(range(UNITS), key=errors.__getitem__)


@pytest.mark.parametrize("seed", range(4))
def test_every_step_is_the_best_next_one(seed: int) -> None:
    path, weight, moments = path_of(seed)
    for width in range(UNITS, 1, -1):
        left = path.order[:width]
        errors = {u: refit_error(weight, moments, sorted(set(left) - {u})) for u in left}
        assert errors[left[-1]] <= min(errors.values()) * (1 + 1e-2)


def test_one_of_two_equal_units_goes_first_and_costs_nothing() -> None:
    x = inputs_of(0)
    x[:, TAPS * 3 : TAPS * 4] = x[:, TAPS : 2 * TAPS]
    weight = weight_of(0)
    path = obs_path([problem(weight, moments_of(x))])
    assert path.order[-1] in (1, 3)
    assert path.errors[UNITS - 1] < 1e-3
    assert path.errors[UNITS - 2] > 1e-2


@pytest.mark.parametrize("dead", ["inputs", "weights"])
def test_dead_units_go_first_at_no_error(dead: str) -> None:
    x, weight = inputs_of(0), weight_of(0)
    for unit in (2, 4):
        if dead == "inputs":
            x[:, TAPS * unit : TAPS * (unit + 1)] = 0.0
        else:
            weight[:, unit] = 0.0
    moments = moments_of(x)
    path = obs_path([problem(weight, moments)])
    if dead == "inputs":
        assert set(path.order[-2:]) == {2, 4}
        assert path.errors[UNITS - 2] < 1e-9
    assert all(0.0 <= error <= 1.0 + 1e-9 for error in path.errors)


def test_all_inputs_dead_gives_finite_errors() -> None:
    path = obs_path([problem(weight_of(0), moments_of(torch.zeros(50, UNITS * TAPS).double()))])
    assert sorted(path.order) == list(range(UNITS))
    assert all(error == pytest.approx(0.0, abs=1e-9) for error in path.errors)


def test_consumers_are_summed() -> None:
    first, weight, moments = path_of(0)
    one = problem(weight, moments)
    twice = obs_path([one, one])
    assert twice.order == first.order
    assert twice.errors == pytest.approx([2 * error for error in first.errors])


def test_independent_inputs_add_up() -> None:
    path = obs_path([AdditiveProblem(torch.tensor([0.3, 0.1, 0.6]))])
    assert path.order == (2, 0, 1)
    assert path.errors == pytest.approx((1.0, 0.4, 0.1, 0.0))


def test_the_path_leaves_its_problem_alone() -> None:
    weight, moments = weight_of(0), moments_of(inputs_of(0))
    one = problem(weight, moments)
    before = one.weight.clone(), one.inverse.clone()
    obs_path([one])
    assert torch.equal(one.weight, before[0])
    assert torch.equal(one.inverse, before[1])
