"""Networks that draw random numbers in their forward pass."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.structure.tracing.determinism import DeterministicMode, fixed_seeds
from autoprune.structure.tracing.operators import whole_operators
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import analyze

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
H = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("draw", "value"),
    [
        (lambda: torch.rand(2, 3), 0.5),
        (lambda: torch.rand_like(H), 0.5),
        (lambda: torch.empty(2, 3).uniform_(2, 6), 4.0),
        (lambda: torch.randn(2, 3), 0.5),
        (lambda: torch.randn_like(H), 0.5),
        (lambda: torch.empty_like(H).normal_(1, 2), 2.0),
        (lambda: torch.normal(H, torch.ones(2, 3)), H + 0.5),
        (lambda: torch.bernoulli(torch.full((2, 3), 0.2)), 1.0),
        (lambda: H.new_empty((2, 3)).bernoulli_(0.2), 1.0),
        (lambda: torch.empty(2, 3).exponential_(), 1.0),
        (lambda: torch.poisson(H), H),
        (lambda: torch.randint(4, 9, (2, 3)), 4),
        (lambda: torch.randperm(3).expand(2, 3), torch.arange(3).expand(2, 3)),
        (lambda: torch.multinomial(H + 1, 3), torch.arange(3).expand(2, 3)),
        (lambda: F.dropout(H, 0.9), H),
        (lambda: F.dropout(H.clone(), 0.9, inplace=True), H),
        (lambda: F.dropout1d(H, 0.9), H),
        (lambda: F.alpha_dropout(H, 0.9, training=True), H),
        (lambda: F.rrelu(-H, 0.1, 0.3, training=True), -0.2 * H),
    ],
)  # fmt: skip
def test_every_draw_is_what_it_is_said_to_be(draw: Callable[[], Tensor], value: Any) -> None:
    before = torch.get_rng_state()
    with whole_operators(), DeterministicMode():
        drawn = draw()
    torch.testing.assert_close(drawn, torch.as_tensor(value).expand(2, 3), check_dtype=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_are_fixed_and_every_generator_is_as_it_was() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    wanted = draw()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    with fixed_seeds(1):
        first = draw()
    with fixed_seeds(1):
        assert draw() == first
    assert draw() == wanted


def pair(net: Any, change: Callable[[Tensor], Tensor]) -> Any:
    torch.manual_seed(0)
    return net(
        lambda m, x: m.fc(F.relu(m.b(change(F.relu(m.a(x))))).mean((2, 3))),
        a=nn.Conv2d(3, 12, 3), b=nn.Conv2d(12, 8, 3), fc=nn.Linear(8, 4),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda h: F.dropout(h, 0.2),
        lambda h: F.dropout2d(h, 0.2),
        lambda h: F.feature_alpha_dropout(h, 0.2, training=True),
        lambda h: h + torch.randn_like(h),
        lambda h: h * torch.rand(h.shape),
        lambda h: h * h.new_empty((len(h), 1, 1, 1)).bernoulli_(0.5),
        lambda h: h + torch.empty_like(h).normal_(),
        lambda h: h[torch.randperm(len(h))],
        lambda h: torch.distributions.Normal(h, h.exp()).rsample(),
        lambda h: h * random.choice([1, 2]),
        lambda h: h + float(np.random.rand()),
    ],
)
def test_chance_freezes_nothing(net: Any, change: Callable[[Tensor], Tensor]) -> None:
    assert [g.name for g in analyze(pair(net, change), IMAGES).groups] == ["a", "b"]


def test_a_sampled_latent_has_the_groups_of_one_that_is_not(net: Any) -> None:
    def forward(noise: float) -> Any:
        def run(m: Any, x: Tensor) -> Tensor:
            h = F.relu(m.enc(x))
            mu, spread = m.mu(h), m.spread(h)
            z = mu + noise * torch.randn_like(mu) * spread.exp() if noise else mu
            out: Tensor = m.out(F.relu(m.dec(z)))
            return out

        return run

    parts = {
        "enc": nn.Conv2d(3, 8, 3), "mu": nn.Conv2d(8, 4, 1), "spread": nn.Conv2d(8, 4, 1),
        "dec": nn.Conv2d(4, 8, 3), "out": nn.Conv2d(8, 3, 1),
    }  # fmt: skip
    found = [analyze(net(forward(n), **parts).eval(), IMAGES) for n in (0.0, 1.0)]
    plain, sampled = ([(g.name, g.size) for g in s.groups] for s in found)
    assert plain == sampled == [("enc", 8), ("mu", 4), ("dec", 8)]
    # Both parameters of the latent must shrink together once they meet.
    assert found[1].groups[1].producers == ("mu.weight", "spread.weight")


def test_a_split_is_found_beside_chance(net: Any) -> None:
    structure = analyze(
        pair(net, lambda h: torch.cat([F.dropout(h[:, :4], 0.3) * 2, h[:, 4:]], 1)), IMAGES
    )
    [reason] = [f.reason for f in structure.frozen if f.name == "a"]
    assert reason.startswith("the forward pass assumes its size")


def test_what_stays_random_is_called_random(net: Any) -> None:
    structure = analyze(pair(net, lambda h: h * int.from_bytes(os.urandom(4), "big")), IMAGES)
    assert structure.groups == ()
    assert {f.name: f.reason for f in structure.frozen}["a"] == "its forward pass is random"


def test_dropout_leaves_no_operator_behind(net: Any) -> None:
    plain = trace(pair(net, lambda h: h), IMAGES)
    noisy = trace(pair(net, lambda h: F.dropout(h, 0.5)), IMAGES)
    assert [o.name for o in plain.operators] == [o.name for o in noisy.operators]
