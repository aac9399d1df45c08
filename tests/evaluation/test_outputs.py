"""Scores of networks that give no class scores: minus the distance of their outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.data.splits import SamplesSplit
from autoprune.errors import EvaluateError, ModelError, UsageError
from autoprune.evaluation import outputs
from autoprune.evaluation.outputs import OutputScorer, gives_class_scores, score_on_split

SAMPLES = Samples(torch.linspace(-1, 1, 240).reshape(60, 4), None)


class Two(nn.Module):
    """Two outputs, the second shifted by a multiple of its standard deviation."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift
        self.calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        wide = x.reshape(-1, 2, 2)
        return {"same": wide, "other": wide + self.shift * wide.std(correction=0)}


def test_the_default_is_the_mean_over_outputs_in_units_of_their_variance() -> None:
    dense = Two()
    scorer = OutputScorer(dense, SAMPLES)
    assert scorer.dense.custom == 0.0 and scorer.dense.samples == 60
    assert scorer.score(Two(0.5)).custom == pytest.approx(-0.25 / 2)
    before = dense.calls
    scorer.score(Two(0.5))
    assert dense.calls == before  # its outputs are kept


def test_outputs_too_large_to_keep_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "KEPT_BYTES", 100)
    dense = Two()
    scorer = OutputScorer(dense, SAMPLES)
    before = dense.calls
    assert scorer.score(Two(0.5)).custom == pytest.approx(-0.25 / 2)
    assert dense.calls > before


def test_several_outputs_are_weighed_by_the_users_distance() -> None:
    def other(found: Any, dense: Any) -> Tensor:
        return (found["other"] - dense["other"]).abs().mean() + 0 * found["same"].sum()

    spread = float(SAMPLES.inputs.std(correction=0))  # type: ignore[union-attr]
    scorer = OutputScorer(Two(), SAMPLES, other)
    assert scorer.score(Two(2.0)).custom == pytest.approx(-2 * spread, rel=1e-4)
    with pytest.raises(UsageError, match="finite number for equal outputs, but it returned -inf"):
        OutputScorer(Two(), SAMPLES, lambda found, dense: torch.tensor(torch.inf))
    with pytest.raises(EvaluateError, match="raised IndexError"):
        OutputScorer(Two(), SAMPLES, lambda found, dense: dense["same"][1000])


class Returning(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: [{"boxes": one} for one in x], "as many tensors as there are .*evaluate="),
        (lambda x: x.argmax(1), "returns no floating numbers"),
        (lambda x: (x / 0,), "outputs are not finite"),
    ],
    ids=["boxes", "integers", "infinite"],
)
def test_outputs_that_cannot_be_compared(make: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        OutputScorer(Returning(make), SAMPLES)


def test_a_network_of_other_outputs_cannot_be_scored() -> None:
    scorer = OutputScorer(Two(), SAMPLES)
    with pytest.raises(EvaluateError, match="nothing can be compared"):
        scorer.score(Returning(lambda x: x))


def test_a_network_that_raises_cannot_be_scored() -> None:
    def out_of_memory(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    scorer = OutputScorer(Two(), SAMPLES)
    said = r"cannot be run: out of memory \(OutOfMemoryError: CUDA out of memory.\)"
    with pytest.raises(ModelError, match=said):
        scorer.score(Returning(out_of_memory))


def test_class_scores() -> None:
    for make, expected in (
        (lambda x: x, True),
        (lambda x: {"logits": x, "hidden": x[:, :1]}, True),
        (lambda x: x[:, :1], False),
        (lambda x: x.reshape(-1, 2, 2), False),
        (lambda x: (x, x), False),
    ):
        assert gives_class_scores(Returning(make), SAMPLES) is expected


def test_whole_splits_by_class_scores_or_by_outputs() -> None:
    split = SamplesSplit(SAMPLES)
    dense, other = score_on_split(Returning(lambda x: x), [Returning(lambda x: 2 * x)], split)
    assert dense.kl == 0.0 and (other.kl or 0.0) > 0.0 and other.custom is None
    dense, other = score_on_split(Two(), [Two(0.5)], split)
    assert dense.custom == 0.0 and other.custom == pytest.approx(-0.125) and other.samples == 60
    _, other = score_on_split(
        Returning(lambda x: x),
        [Returning(lambda x: x + 3)],
        split,
        lambda found, dense: (found - dense).mean(),
    )
    assert other.custom == pytest.approx(-3.0) and other.kl is None
