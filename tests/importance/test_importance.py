from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autoprune.errors import UsageError
from autoprune.importance import Ranking, make_importance


def filled(layer: Any, rows: list[float]) -> Any:
    """Give every output of a layer one value for all its weights, signs mixed."""
    with torch.no_grad():
        signs = torch.ones_like(layer.weight)
        signs.flatten()[::2] = -1
        layer.weight.copy_(torch.tensor(rows).reshape(-1, *[1] * (layer.weight.dim() - 1)) * signs)
    return layer


@pytest.fixture
def rank(evidence_of: Any) -> Any:
    def one(name: str, model: nn.Module, inputs: torch.Tensor) -> Ranking:
        evidence = evidence_of(model, inputs)
        return make_importance(name).rank(evidence.structure.groups[0], evidence)

    return one


def test_l1_orders_by_filter_weights(rank: Any) -> None:
    conv = filled(nn.Conv2d(3, 4, 3), [0.2, 0.4, 0.1, 0.3])
    ranking = rank("l1", nn.Sequential(conv, nn.Conv2d(4, 2, 1)), torch.randn(2, 3, 6, 6))
    assert ranking.order == (1, 3, 0, 2)
    assert ranking.errors is None
    assert ranking.kept(2) == (1, 3)
    assert ranking.kept(3) == (0, 1, 3)


def test_l1_of_a_residual_stream_weighs_its_producers_equally(net: Any, rank: Any) -> None:
    """Shares .1 .2 .3 .4 and .7 .1 .1 .1 sum to .8 .3 .4 .5, however large the first weights."""
    model = net(
        lambda m, x: m.out((lambda h: h + m.b(h.relu()))(m.a(x))),
        a=filled(nn.Linear(3, 4), [100.0, 200.0, 300.0, 400.0]),
        b=filled(nn.Linear(4, 4), [0.7, 0.1, 0.1, 0.1]),
        out=nn.Linear(4, 2),
    )
    assert rank("l1", model, torch.randn(2, 3)).order == (0, 3, 2, 1)


def test_l1_sums_the_filters_of_a_unit(rank: Any) -> None:
    """Whole convolution groups: units {0, 1}, {2, 3} of the first layer's outputs."""
    model = nn.Sequential(
        filled(nn.Conv2d(3, 4, 1), [0.1, 0.9, 0.3, 0.4]),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv2d(4, 2, 1),
    )
    assert rank("l1", model, torch.randn(2, 3, 4, 4)).order == (0, 1)


def test_l1_of_zero_weights_is_finite(rank: Any) -> None:
    model = nn.Sequential(filled(nn.Linear(3, 4), [0.0] * 4), nn.Linear(4, 2))
    assert rank("l1", model, torch.randn(2, 3)).order == (0, 1, 2, 3)


def test_obs_drops_duplicates_and_dead_units_first(rank: Any) -> None:
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


def test_obs_looks_behind_the_following_batch_norm(rank: Any) -> None:
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


def test_obs_sees_what_a_transposed_consumer_reads(rank: Any) -> None:
    """A unit whose activation never varies goes first, however large the weights that read it."""
    producer, consumer = nn.Conv2d(3, 3, 1), nn.ConvTranspose2d(3, 2, 2)
    with torch.no_grad():
        producer.bias.copy_(torch.tensor([0.0, -100.0, 0.0]))  # type: ignore[union-attr]
        consumer.weight[1] *= 3
    model = nn.Sequential(producer, nn.ReLU(), consumer)
    ranking = rank("obs", model, torch.randn(40, 3, 5, 5))
    assert ranking.order[-1] == 1 and ranking.errors[2] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_obs_without_moments_takes_inputs_as_independent(rank: Any) -> None:
    """The consumer's padding is one-sided, and it is not refitted."""
    consumer: Any = nn.Conv2d(3, 2, 2, padding="same")
    with torch.no_grad():
        consumer.weight.copy_(torch.tensor([1.0, 3.0, 2.0]).reshape(1, 3, 1, 1).expand(2, 3, 2, 2))
    model = nn.Sequential(nn.Conv2d(3, 3, 1), consumer)
    ranking = rank("obs", model, torch.randn(4, 3, 5, 5))
    assert ranking.order == (1, 2, 0)
    assert ranking.errors == pytest.approx((1.0, 5 / 14, 1 / 14, 0.0))


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown importance 'l3'; did you mean 'l"):
        make_importance("l3")
