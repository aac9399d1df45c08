"""Channels of queries and keys, ordered by what they contribute to attention's scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.importance import make_importance
from autoprune.importance.attention_scores import product_moments
from autoprune.importance.base import Evidence
from autoprune.importance.ranking import rank_groups
from autoprune.importance.registry import IMPORTANCES
from autoprune.statistics.collect import collect_moments
from autoprune.structure.verify import analyze


def attend(m: Any, x: Tensor) -> Tensor:
    h = m.stem(x)
    q, k, v = (f(h).unflatten(-1, (m.heads, -1)).transpose(1, 2) for f in (m.q, m.k, m.v))
    out: Tensor = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return m.head(m.out(out.transpose(1, 2).flatten(2)).mean(1))


@pytest.fixture
def evidence(net: Any) -> Evidence:
    torch.manual_seed(0)
    layers = {name: nn.Linear(6, 8) for name in ("q", "k", "v")}
    model = net(attend, stem=nn.Linear(5, 6), **layers, out=nn.Linear(8, 6), head=nn.Linear(6, 3))
    model.heads = 2
    model.eval()
    inputs = torch.randn(400, 7, 5)
    structure = analyze(model, inputs[:2])
    samples = Samples(inputs, torch.arange(400) % 3)
    return Evidence(model, structure, collect_moments(model, structure, samples, seed=0), samples)


def test_terms_of_scores_have_the_moments_that_samples_show(evidence: Evidence) -> None:
    """Tokens are drawn independently, as the estimate assumes; keys are centred."""
    group = next(one for one in evidence.structure.groups if not one.consumers)
    ((columns, found),) = product_moments(group, evidence)
    assert columns.positions.tolist() == [[0], [1], [2], [3]]
    model: Any = evidence.model
    with torch.no_grad():
        h = model.stem(evidence.samples.inputs)
        q, k = (f(h).unflatten(-1, (2, 4)).flatten(0, 1).double() for f in (model.q, model.k))
    terms = q[:-1] * (k - k.mean(0))[1:]  # of one token and the next
    seen = torch.einsum("nhi,nhj->hij", terms, terms) / len(terms)
    seen = (seen / seen.sum((1, 2), keepdim=True)).mean(0)
    assert torch.allclose(found.covariance, seen, atol=0.05 * float(seen.abs().max()))


@pytest.mark.parametrize("name", IMPORTANCES)
def test_every_criterion_orders_queries_and_keys(name: str, evidence: Evidence) -> None:
    rankings = rank_groups(make_importance(name), evidence)
    for group, ranking in zip(evidence.structure.groups, rankings, strict=True):
        assert sorted(ranking.order) == list(range(group.size))
        assert ranking.errors is not None and ranking.errors[0] > ranking.errors[-1] - 1e-9


def test_a_channel_that_is_always_zero_goes_first(evidence: Evidence) -> None:
    model: Any = evidence.model
    for layer in (model.q, model.k):
        layer.weight.data[[1, 5]] = 0.0  # channel 1 of both heads
        layer.bias.data[[1, 5]] = 0.0
    (ranking,) = (
        ranking
        for group, ranking in zip(
            evidence.structure.groups,
            rank_groups(make_importance("obs"), evidence),
            strict=True,
        )
        if not group.consumers
    )
    assert ranking.order[-1] == 1 and ranking.errors is not None and ranking.errors[3] < 0.01


def test_channels_of_keys_are_ordered_for_learnt_queries(net: Any) -> None:
    """No layer makes the queries, so that the keys' moments alone decide."""
    torch.manual_seed(0)
    model = net(
        lambda m, x: m.head(
            ((m.queries.expand(len(x), -1, -1) @ m.k(x).mT).softmax(-1) @ m.v(x)).mean(1)
        ),
        queries=nn.Parameter(torch.randn(3, 8)),
        **{name: nn.Linear(5, 8) for name in ("k", "v")},
        head=nn.Linear(8, 3),
    ).eval()
    with torch.no_grad():
        model.k.weight[1], model.k.bias[1] = 0.0, 0.0
        model.k.weight[4] *= 9.0
    inputs = torch.randn(50, 7, 5)
    structure, samples = analyze(model, inputs[:2]), Samples(inputs, torch.arange(50) % 3)
    moments = collect_moments(model, structure, samples, seed=0)
    evidence = Evidence(model, structure, moments, samples)
    found = dict(zip(structure.index, rank_groups(make_importance("obs"), evidence), strict=True))
    assert found["k"].order[0] == 4 and found["k"].order[-1] == 1
