"""What can be pruned in torchvision's networks, and that a 0.6-MACs policy runs on each.

Usage: python experiments/benchmarks/zoo.py [NAME…]
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import numpy as np
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from autoprune.cost import cost_models
from autoprune.search_spaces.keep_ratio import search_space
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.structure.surgery import apply_policy
from autoprune.structure.verify import analyze

NETWORKS = (
    *("resnet18", "resnet50", "mobilenet_v2", "vgg11_bn", "densenet121", "shufflenet_v2_x0_5"),
    *("efficientnet_b0", "convnext_tiny", "vit_b_16"),
)


def main(names: tuple[str, ...]) -> None:
    images = torch.randn(2, 3, 224, 224)
    torch.backends.mha.set_fastpath_enabled(False)
    for name in names:
        model = torchvision.models.get_model(name, weights=None).eval()
        start = time.perf_counter()
        structure = analyze(model, images)
        seconds = time.perf_counter() - start
        costs, space = cost_models(structure, adds_bias=False), search_space(structure)
        dense = costs["flops"].total(space.sizes)
        projection = Projection(space, [Constraint(costs["flops"], 0.6 * dense)])
        widths = projection.project(np.random.default_rng(0).uniform(0.2, 1.0, len(space)))
        small = apply_policy(model, structure.policy([range(w) for w in widths]))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            small(images[:1])
        share = counter.get_total_flops() / 2 / dense
        exact = counter.get_total_flops() / 2 == costs["flops"].total(widths)
        exact &= sum(p.numel() for p in small.parameters()) == costs["params"].total(widths)
        print(
            f"{name}: {len(structure.groups)} groups of {sum(space.sizes)} units, {seconds:.1f} s; "
            f"cut to {share:.4f} of the MACs and runs; costs {'exact' if exact else 'WRONG'}"
        )
        for reason, count in Counter(frozen.reason for frozen in structure.frozen).most_common(4):
            print(f"    frozen {count}: {reason}")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or NETWORKS)
