from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autoprune.data import Samples
from autoprune.reconstruction.batchnorm import BATCH, reestimate_batchnorm


def model_of() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=0.3), nn.Dropout(0.9), nn.Linear(6, 5),
        nn.BatchNorm1d(5, track_running_stats=False), nn.BatchNorm1d(5),
    ).eval()  # fmt: skip


def test_one_batch_gives_its_own_statistics() -> None:
    model, x = model_of(), torch.randn(64, 4) * 3 + 1
    with torch.no_grad():
        hidden = model[0](x)
    reestimate_batchnorm(model, Samples(x, None))
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(model[1].running_var, hidden.var(0))


def test_several_batches_count_equally() -> None:
    model, x = model_of(), torch.randn(4 * BATCH, 4)
    with torch.no_grad():
        hidden = model[0](x)
    reestimate_batchnorm(model, Samples(x, None))
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
    variance = hidden.reshape(4, BATCH, 6).var(1).mean(0)
    torch.testing.assert_close(model[1].running_var, variance, rtol=1e-4, atol=1e-5)


def test_dropout_stays_off_so_that_it_is_deterministic() -> None:
    x = torch.randn(64, 4)
    a, b = model_of(), model_of()
    for model in (a, b):
        reestimate_batchnorm(model, Samples(x, None))
    assert torch.equal(a[5].running_mean, b[5].running_mean)
    assert a[5].running_mean.abs().max() > 0


def test_flags_momenta_and_weights_come_back() -> None:
    model = model_of()
    before = {name: p.clone() for name, p in model.named_parameters()}
    reestimate_batchnorm(model, Samples(torch.randn(64, 4), None))
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.3
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_nothing_happens_without_batch_norm() -> None:
    reestimate_batchnorm(nn.Linear(4, 2), Samples(torch.randn(3, 5), None))
