"""An independent dependency graph finds the same coupled layers."""

from __future__ import annotations

import pytest
import torch
import torch_pruning
import torchvision
from torch import nn

from autoprune.structure.tracing.trace import trace

Coupled = set[frozenset[str]]


def coupled_layers(model: nn.Module, images: torch.Tensor) -> Coupled:
    structure = trace(model, images)
    out_dims = {(layer.weight, layer.out_dim): layer.name for layer in structure.layers}
    return {
        frozenset(out_dims[s.tensor, s.dim] for s in group.slices if (s.tensor, s.dim) in out_dims)
        for group in structure.groups
    }


def coupled_layers_of_torch_pruning(model: nn.Module, images: torch.Tensor) -> Coupled:
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=images)
    names = {module: name for name, module in model.named_modules()}
    head = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    coupled = {
        frozenset(
            names[dep.target.module]
            for dep, _ in group
            if isinstance(dep.target.module, (nn.Conv2d, nn.Linear))
            and graph.is_out_channel_pruning_fn(dep.handler)
        )
        for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear])
    }
    return {layers for layers in coupled if head not in layers}


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", pytest.param("vgg11_bn", marks=pytest.mark.slow)]
)
def test_same_coupled_layers(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None).eval()
    images = torch.randn(1, 3, 64, 64)
    ours = coupled_layers(model, images)
    assert len(ours) > 5
    assert ours == coupled_layers_of_torch_pruning(model, images)
