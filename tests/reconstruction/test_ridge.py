from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoprune.reconstruction.ridge import RIDGE, RidgeToPrior, targets_behind_clamp

RELU = (0.0, math.inf)
CLAMPS = [RELU, (0.0, 6.0), (-1.0, 1.0)]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shifts", [True, False])
def test_the_fit_has_no_gradient_left(shifts: bool) -> None:
    inputs, prior, wanted = draw(0, 50, 4) + 1, draw(1, 3, 4), draw(2, 50, 3) + 2
    problem = RidgeToPrior(inputs.clone(), prior, shifts)
    problem.fit(wanted)
    weight, intercept = problem.weight.requires_grad_(), problem.intercept.requires_grad_()
    centred = inputs - inputs.mean(0) if shifts else inputs
    ridge = RIDGE * centred.square().mean()
    loss = (wanted - inputs @ weight.T - intercept).square().sum() / len(inputs)
    (loss + ridge * (weight - prior).square().sum()).backward()
    assert weight.grad is not None and intercept.grad is not None
    assert weight.grad.abs().max() < 1e-4
    assert (intercept.grad.abs().max() < 1e-4) == shifts
    assert shifts or not intercept.any()
    expected = inputs @ problem.weight.T + problem.intercept
    assert torch.allclose(problem.outputs(), expected, atol=1e-4)


def test_half_precision_is_summed_in_single() -> None:
    inputs = (100 * draw(0, 5000, 1)).expand(-1, 30).to(torch.float16)  # all alike, and large
    problem = RidgeToPrior(inputs, torch.zeros(2, 30, dtype=torch.float16), True)
    problem.fit(draw(1, 5000, 2).to(torch.float16))
    assert problem.weight.dtype == torch.float32 and problem.outputs().isfinite().all()


def test_what_passes_by_hand() -> None:
    wanted = torch.tensor([[-1.0], [-1.0], [2.0], [-1.0]])
    given_ = torch.tensor([[-5.0], [3.0], [-4.0], [0.5]])
    plain = torch.ones(1), torch.zeros(1)
    assert targets_behind_clamp(wanted, plain, RELU)(given_).flatten().tolist() == [
        -5.0,
        0.0,
        2.0,
        0.0,
    ]
    # Turned round, below zero is above: 2 is hidden now, and -1 is wanted.
    turned = -torch.ones(1), torch.zeros(1)
    assert targets_behind_clamp(wanted, turned, RELU)(given_).flatten().tolist() == [
        -1.0,
        -1.0,
        0.0,
        -1.0,
    ]
    for scale in (math.inf, -math.inf, 0.0):
        unknown = torch.tensor([scale]), torch.zeros(1)
        assert torch.equal(targets_behind_clamp(wanted, unknown, RELU)(given_), wanted)


@given(st.integers(0, 10**6), st.sampled_from(CLAMPS), st.booleans())
def test_the_clamp_sees_no_difference_and_nothing_nearer_does(
    seed: int, clamp: tuple[float, float], by_row: bool
) -> None:
    wanted, have = 4 * draw(seed, 20, 3), 4 * draw(seed + 1, 20, 3)
    scale = draw(seed + 2, 3)
    shift = draw(seed + 3, *((20, 3) if by_row else (3,)))
    found = targets_behind_clamp(wanted, (scale, shift), clamp)(have)

    def seen(outputs: Tensor) -> Tensor:
        return (scale * outputs + shift).clamp(*clamp)

    assert torch.allclose(seen(found), seen(wanted), atol=1e-4)
    assert ((found - have).abs() <= (wanted - have).abs() + 1e-5).all()
    inner = (seen(wanted) > clamp[0] + 1e-4) & (seen(wanted) < clamp[1] - 1e-4)
    assert torch.equal(found[inner], wanted[inner])
    # Nothing is asked of who is hidden already on the same side.
    before = scale * wanted + shift, scale * have + shift
    hidden = (before[0] < clamp[0] - 1e-4) & (before[1] < clamp[0] - 1e-4)
    assert torch.equal(found[hidden], have[hidden])


@given(st.integers(0, 10**6))
def test_every_round_comes_nearer_to_what_the_clamp_lets_through(seed: int) -> None:
    inputs = draw(seed, 60, 4)
    wanted = inputs @ draw(seed + 1, 4, 5) + draw(seed + 2, 60, 5)
    prior = torch.zeros(5, 4)
    problem, identity = RidgeToPrior(inputs.clone(), prior, True), (torch.ones(5), torch.zeros(5))
    problem.fit(wanted)

    def loss() -> float:
        off = torch.where(wanted > 0, problem.outputs() - wanted, problem.outputs().relu())
        pull = RIDGE * inputs.sub(inputs.mean(0)).square().mean() * problem.weight.square().sum()
        return float(off.square().sum() / len(inputs) + pull)

    losses = [loss()]
    for _ in range(5):
        problem.fit(targets_behind_clamp(wanted, identity, RELU)(problem.outputs()))
        losses.append(loss())
    assert all(after <= before * (1 + 1e-4) for before, after in pairwise(losses))
    assert losses[-1] < losses[0]
