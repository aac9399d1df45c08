"""The blocked elimination agrees with the dense one of `tests/helpers/dense_elimination.py`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from dense_elimination import DenseElimination, check_path
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.reconstruction import obs_problem
from autoprune.reconstruction.obs_path import obs_path
from autoprune.reconstruction.obs_problem import ObsProblem

TIE = 1e-6


def make_problem(
    outputs: int, units: int, entries: int, ridge: float = 1e-3, decay: float = 1.0, seed: int = 0
) -> ObsProblem:
    """Return a problem whose covariance has a spectrum that falls as a power of its index."""
    generator = torch.Generator().manual_seed(seed)
    size = units * entries
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64)
    spectrum = torch.arange(1, size + 1, dtype=torch.float64) ** -decay
    covariance = (mixing * spectrum) @ mixing.T / size
    strength = ridge * float(covariance.diagonal().mean())
    inverse = torch.linalg.inv(covariance + strength * torch.eye(size, dtype=torch.float64))
    weight = torch.randn(outputs, units, entries, generator=generator, dtype=torch.float64)
    rows = weight.flatten(1)
    energy = float(((rows @ covariance) * rows).sum())
    return ObsProblem(weight, (inverse + inverse.T) / 2, strength, energy)


def check(problems: Sequence[ObsProblem]) -> None:
    path = obs_path(problems)
    check_path(problems, path.order, path.errors, TIE)


@settings(max_examples=25)
@given(
    outputs=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    units=st.integers(1, 14),
    entries=st.integers(1, 5),
    ridge=st.sampled_from((1e-3, 1e-2, 1.0, 100.0)),
    decay=st.sampled_from((0.0, 1.0, 3.0)),
    seed=st.integers(0, 1000),
)
def test_paths_are_those_of_the_dense_elimination(
    outputs: list[int], units: int, entries: int, ridge: float, decay: float, seed: int
) -> None:
    check([make_problem(n, units, entries, ridge, decay, seed + i) for i, n in enumerate(outputs)])


@pytest.mark.parametrize(
    "outputs, units, entries", [(5, 150, 1), (160, 130, 1), (12, 40, 4), (9, 16, 9), (6, 3, 70)]
)
def test_paths_over_several_blocks_of_pivots(outputs: int, units: int, entries: int) -> None:
    assert units * entries > 2 * obs_problem.COLUMNS
    check([make_problem(outputs, units, entries)])


def test_consumers_that_read_a_unit_with_different_numbers_of_columns() -> None:
    check([make_problem(20, 80, 1), make_problem(6, 80, 2, seed=1)])


@pytest.mark.parametrize("entries", [1, 3])
def test_errors_of_a_given_order(entries: int) -> None:
    units = 90
    problem = make_problem(8, units, entries)
    order = torch.randperm(units, generator=torch.Generator().manual_seed(1)).tolist()
    path, state, highest = obs_path([problem], order), DenseElimination(problem), 0.0
    assert path.order == tuple(order)
    for width in reversed(range(units)):
        highest = max(highest, state.remove(order[width]))
        assert path.errors[width] == pytest.approx(highest, abs=TIE)


def test_equal_units_go_in_their_order() -> None:
    units = 100
    weight = torch.ones(3, units, 1, dtype=torch.float64)
    problem = ObsProblem(weight, torch.eye(units, dtype=torch.float64), 0.5, 150.0)
    path = obs_path([problem])
    assert path.order == tuple(reversed(range(units)))
    assert path.errors == pytest.approx([1 - w / units for w in range(units + 1)])


def test_units_without_weights_go_first_at_no_error() -> None:
    problem = make_problem(7, 70, 2)
    problem.weight[:, 5:15] = 0.0
    check([problem])
    path = obs_path([problem])
    assert path.order[-10:] == tuple(reversed(range(5, 15)))
    assert path.errors[60] == pytest.approx(0.0, abs=1e-12)
