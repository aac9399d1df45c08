"""Scores and measurements, and what is read of files."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.core.records import plain, read
from autoprune.evaluation.measurement import Measurement, Scores, number_in

MEASUREMENT = Measurement(
    widths=(2, 3),
    names=("a", "b"),
    scores=Scores(kl=0.5, top1=0.75, samples=4),
    dense=Scores(kl=0.0, top1=1.0, samples=4),
    costs={"flops": 10.0},
    dense_costs={"flops": 20.0},
    seconds={"surgery": 0.1},
)


def test_json_round_trip() -> None:
    assert read(plain(MEASUREMENT), Measurement) == MEASUREMENT


def test_files_in_use_stay_as_they_are() -> None:
    of_network = (
        '"loss": null, "top1": %s, "custom": null, "soft_kl": null, "agreement": null, "samples": 4'
    )
    assert json.dumps(plain(MEASUREMENT)) == (
        '{"widths": [2, 3], "names": ["a", "b"], '
        f'"scores": {{"kl": 0.5, {of_network % 0.75}}}, '
        f'"dense": {{"kl": 0.0, {of_network % 1.0}}}, '
        '"costs": {"flops": 10.0}, "dense_costs": {"flops": 20.0}, "seconds": {"surgery": 0.1}, '
        '"others_scored": 0}'
    )


def test_files_of_before_agreement_was_known_are_read() -> None:
    earlier = plain(MEASUREMENT)
    for scores in (earlier["scores"], earlier["dense"]):
        del scores["agreement"]
    assert read(earlier, Measurement) == MEASUREMENT


def test_scores_of_a_network_that_overflows_are_read() -> None:
    found = read(plain(Scores(kl=math.nan, loss=math.inf)), Scores)
    assert found.kl is not None and math.isnan(found.kl) and found.loss == math.inf


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("widths", [-1, 3]),
        ("widths", [2.0, 3]),
        ("names", "ab"),
        ("names", ["a", None]),
        ("scores", {"kl": True}),
        ("scores", {"kl": 0.1, "more": 1}),
        ("costs", {"flops": -1.0}),
        ("costs", {"flops": math.nan}),
        ("seconds", [1.0]),
        ("others_scored", -1),
        ("more", 1),
    ],
)
def test_damaged_measurements_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        read({**plain(MEASUREMENT), key: value}, Measurement)


def test_the_users_score_goes_before_top1() -> None:
    assert Scores(top1=0.5).metric == 0.5 and Scores(top1=0.5, custom=0.1).metric == 0.1
    assert Scores(kl=0.5).metric is None


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (1, 1.0),
        (True, 1.0),
        (np.float32(0.5), 0.5),
        (np.array([0.5]).reshape(()), 0.5),
        (torch.tensor([0.25], requires_grad=True), 0.25),
        ("1", None),
        (b"1", None),
        (None, None),
        ([1.0], None),
        (torch.zeros(2), None),
    ],
)
def test_numbers_of_the_users_function(answer: Any, number: float | None) -> None:
    assert number_in(answer) == number
