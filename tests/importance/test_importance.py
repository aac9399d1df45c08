from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autoprune.data import Samples
from autoprune.errors import UsageError
from autoprune.importance import IMPORTANCES, Evidence, Ranking, make_importance
from autoprune.statistics.collect import collect_moments
from autoprune.structure.trace import trace


def evidence_of(model: nn.Module, inputs: torch.Tensor) -> Evidence:
    structure = trace(model.eval(), inputs)
    moments = collect_moments(model, structure, Samples(inputs, None), 0)
    return Evidence(model, structure, moments)


def filled(layer: Any, rows: list[float]) -> Any:
    """Give every output of a layer one value for all its weights, signs mixed."""
    with torch.no_grad():
        signs = torch.ones_like(layer.weight)
        signs.flatten()[::2] = -1
        layer.weight.copy_(torch.tensor(rows).reshape(-1, *[1] * (layer.weight.dim() - 1)) * signs)
    return layer


def rank(name: str, model: nn.Module, inputs: torch.Tensor, group: int = 0) -> Ranking:
    evidence = evidence_of(model, inputs)
    return make_importance(name).rank(evidence.structure.groups[group], evidence)


def test_l1_orders_by_filter_weights() -> None:
    conv = filled(nn.Conv2d(3, 4, 3), [0.2, 0.4, 0.1, 0.3])
    ranking = rank("l1", nn.Sequential(conv, nn.Conv2d(4, 2, 1)), torch.randn(2, 3, 6, 6))
    assert ranking.order == (1, 3, 0, 2)
    assert ranking.errors is None
    assert ranking.kept(2) == (1, 3)
    assert ranking.kept(3) == (0, 1, 3)


def test_l1_of_a_residual_stream_weighs_its_producers_equally(net: Any) -> None:
    """Shares .1 .2 .3 .4 and .7 .1 .1 .1 sum to .8 .3 .4 .5, however large the first weights."""
    model = net(
        lambda m, x: m.out((lambda h: h + m.b(h.relu()))(m.a(x))),
        a=filled(nn.Linear(3, 4), [100.0, 200.0, 300.0, 400.0]),
        b=filled(nn.Linear(4, 4), [0.7, 0.1, 0.1, 0.1]),
        out=nn.Linear(4, 2),
    )
    assert rank("l1", model, torch.randn(2, 3)).order == (0, 3, 2, 1)


def test_l1_sums_the_filters_of_a_unit() -> None:
    """Whole convolution groups: units {0, 1}, {2, 3} of the first layer's outputs."""
    model = nn.Sequential(
        filled(nn.Conv2d(3, 4, 1), [0.1, 0.9, 0.3, 0.4]),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv2d(4, 2, 1),
    )
    assert rank("l1", model, torch.randn(2, 3, 4, 4)).order == (0, 1)


def test_l1_of_zero_weights_is_finite() -> None:
    model = nn.Sequential(filled(nn.Linear(3, 4), [0.0] * 4), nn.Linear(4, 2))
    assert rank("l1", model, torch.randn(2, 3)).order == (0, 1, 2, 3)


def test_obs_drops_duplicates_and_dead_units_first() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
    with torch.no_grad():
        model[0].weight[4] = model[0].weight[1]
        model[0].bias[4] = model[0].bias[1]
        model[0].weight[2] = 0.0
        model[0].bias[2] = -1.0
    ranking = rank("obs", model, torch.randn(400, 5))
    assert ranking.errors is not None
    gone = set(ranking.order[-2:])
    assert 2 in gone and gone & {1, 4}
    assert ranking.errors[4] < 1e-3 < ranking.errors[3]


def test_obs_looks_behind_the_following_batch_norm() -> None:
    """Unit 0 feeds a row that BN amplifies, unit 1 an equal row that BN silences."""
    linear: Any = nn.Linear(2, 2, bias=False)
    norm = nn.BatchNorm1d(2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.1]]))
        norm.weight.copy_(torch.tensor([-5.0, 0.01]))
    first: Any = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.eye(2))
    model = nn.Sequential(first, linear, norm, nn.Linear(2, 3))
    assert rank("obs", model, torch.randn(200, 2)).order == (0, 1)


def test_obs_without_moments_takes_inputs_as_independent() -> None:
    """The consumer is a transposed convolution, which is not refitted."""
    consumer: Any = nn.ConvTranspose2d(3, 2, 2)
    with torch.no_grad():
        consumer.weight.copy_(torch.tensor([1.0, 3.0, 2.0]).reshape(3, 1, 1, 1).expand(3, 2, 2, 2))
    model = nn.Sequential(nn.Conv2d(3, 3, 1), consumer)
    ranking = rank("obs", model, torch.randn(4, 3, 5, 5))
    assert ranking.order == (1, 2, 0)
    assert ranking.errors == pytest.approx((1.0, 5 / 14, 1 / 14, 0.0))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", IMPORTANCES)
@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(4, 4, 2, padding="same")),
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 2, 1)),
    ],
    ids=["depthwise", "flatten", "even same", "grouped"],
)
def test_every_criterion_ranks_every_unit(name: str, model: nn.Module) -> None:
    evidence = evidence_of(model, torch.randn(8, 3, 6, 6))
    for group in evidence.structure.groups:
        ranking = make_importance(name).rank(group, evidence)
        assert sorted(ranking.order) == list(range(group.size))
        if ranking.errors is not None:
            assert len(ranking.errors) == group.size + 1
            assert list(ranking.errors) == sorted(ranking.errors, reverse=True)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown importance 'l2'; did you mean 'l1'"):
        make_importance("l2")
