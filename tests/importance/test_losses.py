"""Expected losses: their shape, their accuracy, and what replaces those that are not known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.errors import ModelError
from autoprune.importance import Evidence, Ranking, losses, make_importance, rank_groups
from autoprune.importance.losses import with_losses
from autoprune.reconstruction.refit import Refitter
from autoprune.statistics.collect import collect_moments
from autoprune.structure.surgery import cut, kept_positions
from autoprune.structure.tracing.trace import trace


def images(count: int = 200) -> Samples:
    random = torch.Generator().manual_seed(0)
    return Samples(torch.randn(count, 3, 8, 8, generator=random), None)


def residual() -> nn.Module:
    """A stream that three layers read, an inner group, and a head."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
            self.inner, self.outer = nn.Conv2d(16, 12, 3, padding=1), nn.Conv2d(12, 16, 1)
            self.head = nn.Linear(16, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.stem(x)).relu()
            x = x + self.outer(self.inner(x).relu())
            return self.head(x.relu().mean((2, 3)) * 4)

    torch.manual_seed(0)
    return Residual().eval()


def known(model: nn.Module, samples: Samples) -> tuple[Evidence, Refitter, list[Ranking]]:
    structure = trace(model, samples.inputs[:2])
    moments = collect_moments(model, structure, samples, 0)
    evidence = Evidence(model, structure, moments, samples)
    rankings = rank_groups(make_importance("obs"), evidence)
    return evidence, Refitter(model, structure, moments), rankings


def soft_kl(dense: nn.Module, small: nn.Module, samples: Samples) -> float:
    with torch.no_grad():
        p, q = ((m(samples.inputs).double() / 4).log_softmax(1) for m in (dense, small))
    return float(16 * (p.exp() * (p - q)).sum(1).mean())


def test_they_predict_what_a_cut_of_one_group_does() -> None:
    model, samples = residual(), images()
    evidence, refitter, rankings = known(model, samples)
    found = with_losses(rankings, refitter, evidence, 4.0)
    for g, (group, ranking) in enumerate(zip(evidence.structure.groups, found, strict=True)):
        assert ranking.losses is not None
        for width in (group.size // 2, 3 * group.size // 4):
            kept = [tuple(range(size)) for size in evidence.structure.dense_widths]
            kept[g] = ranking.kept(width)
            keep = kept_positions(model, evidence.structure.policy(kept))
            # Only weights: what BN statistics make of it is no change of theirs.
            tensors = {
                name: value
                for name, value in refitter.tensors(keep).items()
                if "running" not in name
            }
            real = soft_kl(model, cut(model, keep, tensors), samples)
            assert 0.4 * real < ranking.losses[width] < 2.5 * real


def test_their_shape() -> None:
    model, samples = residual(), images(60)
    evidence, refitter, rankings = known(model, samples)
    found = with_losses(rankings, refitter, evidence, 4.0)
    for group, ranking, before in zip(evidence.structure.groups, found, rankings, strict=True):
        curve = np.array(ranking.losses)
        assert len(curve) == group.size + 1 and curve[-1] == 0.0
        assert (np.diff(curve) <= 0).all() and (curve[:-1] > 0).all()
        assert (ranking.order, ranking.errors) == (before.order, before.errors)


def test_fewer_widths_where_they_would_be_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = residual(), images(60)
    evidence, refitter, rankings = known(model, samples)
    every = with_losses(rankings, refitter, evidence, 4.0)
    monkeypatch.setattr(losses, "CHANGE_BYTES", 1)
    few = with_losses(rankings, refitter, evidence, 4.0)
    for a, b in zip(every, few, strict=True):
        assert np.corrcoef(np.log(a.losses[1:-1]), np.log(b.losses[1:-1]))[0, 1] > 0.97  # type: ignore[index]


@pytest.mark.parametrize("seen", [0.0, math.nan, math.inf])
def test_a_group_that_nothing_is_seen_of(seen: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loses for its errors what others lose for theirs."""
    model, samples = residual(), images(60)
    evidence, refitter, rankings = known(model, samples)
    every = with_losses(rankings, refitter, evidence, 4.0)
    real: Callable[..., Any] = losses.output_changes

    def blind(*args: Any) -> dict[str, Tensor]:
        name = evidence.structure.groups[1].name
        return {n: torch.full_like(v, seen) if n == name else v for n, v in real(*args).items()}

    monkeypatch.setattr(losses, "output_changes", blind)
    found = with_losses(rankings, refitter, evidence, 4.0)
    assert found[0] == every[0]
    assert found[1].losses is not None and rankings[0].errors and rankings[1].errors
    share = sum(every[0].losses or ()) / sum(rankings[0].errors)
    assert np.allclose(found[1].losses, share * np.array(rankings[1].errors))


def test_a_network_without_derivatives() -> None:
    class Deaf(nn.Sequential):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = super().forward(x)
            return out

    torch.manual_seed(0)
    layers: Sequence[nn.Module] = (nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 4))
    model, samples = Deaf(*layers).eval(), images(60)
    evidence, refitter, rankings = known(model, samples)
    with pytest.raises(ModelError, match="derivatives cannot be taken"):
        with_losses(rankings, refitter, evidence, 4.0)
