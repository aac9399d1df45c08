from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from autoprune.agents.tools.calibration import Calibration, CalibrationConfig
from autoprune.agents.tools.moves import error
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import expected_losses
from autoprune.search_spaces.keep_ratio import with_width

SCALES = (3.0, 0.2, 1.0, 40.0)


def value(toy: Any, widths: Widths) -> float:
    """Error curves of the right shape and the wrong scale."""
    pairs = zip(SCALES, toy.curves, widths, strict=True)
    return -sum(scale * float(curve[width]) for scale, curve, width in pairs)


@pytest.fixture
def toy(make_toy: Any) -> Any:
    return make_toy([12, 12, 12, 12])


def test_before_any_measurement_errors_are_all_there_is(toy: Any) -> None:
    curves = Calibration(toy.problem, CalibrationConfig()).curves((6, 12, 12, 12), {})
    for curve, shape, width in zip(curves, toy.curves, (6, 12, 12, 12), strict=True):
        assert curve == pytest.approx(np.asarray(shape) - shape[width])


def test_one_measurement_gives_the_common_scale(toy: Any) -> None:
    """Nothing tells the groups apart yet: all are worth 7 per error."""
    dense, cut = (12,) * 4, (6,) * 4
    measured = {dense: 0.0, cut: 7 * toy.value(cut)}
    curves = Calibration(toy.problem, CalibrationConfig()).curves(dense, measured)
    assert error(curves, (9,) * 4) == pytest.approx(-7 * toy.value((9,) * 4))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e9])
def test_scales_are_learnt_group_by_group(unit: float, toy: Any) -> None:
    """Twelve cuts of single groups; predicted is a cut of all."""
    dense = (12, 12, 12, 12)
    cuts = [with_width(dense, g, w) for g in range(4) for w in (10, 8, 6)]
    measured = {widths: unit * value(toy, widths) for widths in [dense, *cuts]}
    calibration = Calibration(toy.problem, CalibrationConfig())
    predicted = error(calibration.curves(dense, measured), (7, 7, 7, 7))
    assert predicted == pytest.approx(-unit * value(toy, (7, 7, 7, 7)), rel=0.1)


def test_a_centre_between_has_two_scales(toy: Any) -> None:
    """Shrinking costs 5 per error, growing is worth 1; one scale would say 3 of both."""
    centre = (6, 6, 6, 6)
    measured = {centre: 0.0}
    for g, step in itertools.product(range(4), (-3, -2, -1, 1, 2, 3)):
        other = with_width(centre, g, 6 + step)
        difference = toy.value(other) - toy.value(centre)
        measured[other] = difference * (1 if step > 0 else 5)
    curves = Calibration(toy.problem, CalibrationConfig()).curves(centre, measured)
    for curve, shape in zip(curves, toy.curves, strict=True):
        assert curve[6] == 0
        below, above = ((curve[w] - curve[6]) / (shape[w] - shape[6]) for w in (5, 7))
        assert below == pytest.approx(5, abs=1)
        assert below > 1.5 * above


def test_no_error_comes_for_free(toy: Any) -> None:
    """Rewards may rise as units go; a curve never does."""
    dense = (12, 12, 12, 12)
    measured = {dense: 0.0, (6, 12, 12, 12): 5.0, (12, 6, 12, 12): -1.0}
    for curve in Calibration(toy.problem, CalibrationConfig()).curves(dense, measured):
        assert (np.diff(curve) < 0).all()


def test_draws_spread_where_little_is_known(toy: Any) -> None:
    dense = (12, 12, 12, 12)
    measured = {dense: 0.0}
    for width in range(3, 12):
        measured[(width, 12, 12, 12)] = value(toy, (width, 12, 12, 12))
    calibration, random = Calibration(toy.problem, CalibrationConfig()), np.random.default_rng(0)
    drawn = np.array(
        [[c[6] for c in calibration.curves(dense, measured, random)] for _ in range(200)]
    )
    spread = drawn.std(axis=0) / drawn.mean(axis=0)
    assert spread[0] < 0.15
    assert (spread[1:] > 0.4).all()


def test_a_criterion_without_errors_gets_a_shape(make_toy: Any) -> None:
    curves = expected_losses(make_toy([4, 8], has_errors=False).problem.rankings)
    assert curves[0].tolist() == [1.0, 0.5625, 0.25, 0.0625, 0.0]
    assert len(curves[1]) == 9
