"""Distances of outputs: the default, and the user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoprune.errors import EvaluateError, ModelError
from autoprune.structure.output_distance import output_distance, users_distance


def test_outputs_are_compared_in_units_of_their_variance() -> None:
    answers = {"boxes": torch.tensor([0.0, 2.0]), "count": torch.tensor([3])}
    outputs = {"boxes": torch.tensor([1.0, 2.0]), "count": torch.tensor([4])}
    assert float(output_distance(outputs, answers)) == pytest.approx(0.5 / 1.0)
    with pytest.raises(ModelError, match="no floating outputs of the same shape"):
        output_distance({"boxes": torch.zeros(3)}, answers)


def test_a_distance_of_the_users_own() -> None:
    def largest(outputs: Any, dense: Any) -> torch.Tensor:
        return (outputs["a"] - dense["a"]).abs().max().reshape(1)

    one, other = {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([1.0, 5.0])}
    assert users_distance(largest, one, other).shape == ()
    assert float(users_distance(largest, one, other)) == 3.0
    with pytest.raises(EvaluateError, match=r"distance.* raised KeyError"):
        users_distance(largest, {}, other)
    for wrong, seen in ((1.0, "a float"), (torch.zeros(2), "shape")):
        with pytest.raises(EvaluateError, match=f"must return a scalar tensor.*{seen}"):
            users_distance(lambda outputs, dense, wrong=wrong: wrong, one, other)  # type: ignore[misc]
