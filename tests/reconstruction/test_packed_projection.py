"""The packed projection of queries, keys and values is refitted as a linear layer is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.reconstruction.refit import Refitter
from autoprune.reconstruction.sequential import SequentialRepair
from autoprune.statistics.collect import collect_moments
from autoprune.structure.surgery import cut, kept_positions, with_own_sizes
from autoprune.structure.verify import analyze

WEIGHT, BIAS = "attention.in_proj_weight", "attention.in_proj_bias"
TOKENS = torch.randn(200, 5, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A stream of 12 channels that lie near 6 dimensions, in front of PyTorch's attention."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 12)
        self.attention = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))
        return out


def test_the_refit_is_least_squares_and_its_mean_goes_into_the_packed_bias() -> None:
    torch.manual_seed(0)
    model = with_own_sizes(Net().eval())
    structure = analyze(model, TOKENS[:2])
    layer = structure.layer_of_weight[WEIGHT]
    assert layer.refittable and layer.bias == BIAS
    moments = collect_moments(model, structure, Samples(TOKENS, None), seed=0)
    group = next(one for one in structure.groups if WEIGHT in {s.tensor for s in one.consumers})
    kept = [0, 2, 3, 5, 7, 8, 9, 11]
    policy = structure.policy(
        [kept if one is group else range(one.size) for one in structure.groups]
    )
    keep = kept_positions(model, policy)
    tensors = Refitter(model, structure, moments).tensors(keep)
    with torch.no_grad():
        stream = model.stem(TOKENS).flatten(0, 1)
        wanted = F.linear(stream, *(model.get_parameter(name) for name in (WEIGHT, BIAS)))
        refitted = F.linear(stream[:, kept], tensors[WEIGHT], tensors[BIAS])
        sliced = F.linear(stream[:, kept], model.get_parameter(WEIGHT)[:, kept])
        exact = torch.linalg.lstsq(
            torch.cat([stream[:, kept], torch.ones(len(stream), 1)], 1), wanted
        ).solution
    error = F.mse_loss(refitted, wanted)
    # Six dimensions of eight channels: nothing is lost but by the ridge.
    assert error < 0.02 * wanted.var() < 0.02 * F.mse_loss(sliced, wanted) * 5
    assert F.mse_loss(stream[:, kept] @ exact[:-1] + exact[-1], wanted) < 1e-6
    small = cut(model, keep, tensors, **policy.changes)
    before = cut(model, keep, **policy.changes)
    with torch.no_grad():
        gaps = [F.mse_loss(one(TOKENS), model(TOKENS)) for one in (small, before)]
    assert gaps[0] < 0.1 * gaps[1]


def test_the_sequential_repair_refits_it_in_place() -> None:
    torch.manual_seed(0)
    model = with_own_sizes(Net().eval())
    structure = analyze(model, TOKENS[:2])
    policy = structure.policy(
        [range(8) if one.name == "stem" else range(one.size) for one in structure.groups]
    )
    keep = kept_positions(model, policy)
    small = cut(model, keep, **policy.changes)
    with torch.no_grad():
        before = F.mse_loss(small(TOKENS), model(TOKENS))
        first = small.get_parameter(WEIGHT).clone()
        SequentialRepair(model, structure, Samples(TOKENS, None), 0).repair(small, keep)
        after = F.mse_loss(small(TOKENS), model(TOKENS))
    assert not torch.equal(small.get_parameter(WEIGHT), first)
    assert after < 0.1 * before


def test_a_projection_without_a_bias_or_with_another_reader_is_left_as_it_is() -> None:
    class Read(Net):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = super().forward(x) * self.attention.in_proj_weight.abs().mean()
            return out

    for model in (Net(bias=False).eval(), Read().eval()):
        structure = analyze(model, TOKENS[:2])
        assert not structure.layer_of_weight[WEIGHT].refittable
