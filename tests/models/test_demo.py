from __future__ import annotations

import torch
from torch import nn

from autoprune.data import load_splits
from autoprune.models.demo import load_demo
from autoprune.models.demo.network import WEIGHTS


@torch.no_grad()
def test_the_shipped_weights_classify_unseen_digits() -> None:
    test = load_splits("digits").test
    assert test is not None
    samples = test.take(range(len(test)))
    assert (load_demo()(samples.inputs).argmax(1) == samples.targets).float().mean() >= 0.98


def test_small_file_and_a_depthwise_convolution() -> None:
    model = load_demo()
    assert not model.training
    assert WEIGHTS.stat().st_size < 1_000_000
    assert any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())
