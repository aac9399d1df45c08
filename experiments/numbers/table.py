"""What can be cut in networks that use numbers of their modules, and that the cut is whole.

Usage: python experiments/numbers/table.py [NAME…]

For each network: groups, numbers that follow, the smallest share of MACs (one unit per group), the
least that a search reaches (a tenth of the channels), and for the network with half of the units
whether a fresh copy is cut alike by the policy's file, and its largest difference from ONNX Runtime
at another batch size. Seconds are CPU time of tracing and verification.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from networks import Network, build
from torch import nn
from torch.utils._pytree import tree_leaves

from autoprune.core.policy import PruningPolicy
from autoprune.cost import cost_models
from autoprune.search_spaces.keep_ratio import search_space
from autoprune.structure.inputs import run, sample
from autoprune.structure.surgery import apply_policy
from autoprune.structure.verify import analyze


def main(names: list[str]) -> None:
    heads = "network groups frozen numbers smallest reach reload ONNX seconds".split()
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, make in build(names).items():
        print(f"| {name} | {' | '.join(row(make))} |", flush=True)


def row(make: Callable[[], Network]) -> list[str]:
    model, inputs = make()
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # or nothing of the image is left at the end of deep networks
            nn.init.kaiming_normal_(parameter)
    start = time.process_time()
    structure = analyze(model, inputs)
    seconds = time.process_time() - start
    macs = cost_models(structure)["flops"]
    dense = macs.total(structure.dense_widths)
    smallest = macs.total((1,) * len(structure.groups)) / dense
    reach = macs.total(search_space(structure).lowest) / dense
    policy = structure.policy([range(0, group.size, 2) for group in structure.groups])
    small = apply_policy(model, policy)
    found = (len(structure.groups), len(structure.frozen), len(structure.edits))
    figures = (f"{smallest:.4f}", f"{reach:.3f}", is_cut_alike(make, model, policy, inputs))
    return [*map(str, found), *figures, f"{onnx_error(small, inputs):.1e}", f"{seconds:.1f}"]


def is_cut_alike(
    make: Callable[[], Network], model: nn.Module, policy: PruningPolicy, inputs: Any
) -> str:
    """Say whether a fresh network and the policy's file give the same outputs, bit for bit."""
    fresh = make()[0].eval()
    fresh.load_state_dict(model.state_dict())
    data = json.loads(json.dumps(policy.to_json()))
    pairs = (
        tree_leaves(run(apply_policy(one, read), inputs))
        for one, read in ((model, policy), (fresh, PruningPolicy.from_json(data)))
    )
    return "equal" if all(map(torch.equal, *pairs)) else "DIFFERS"


def onnx_error(small: nn.Module, inputs: Any) -> float:
    """Return the largest difference of ONNX Runtime's outputs, relative to the largest output."""
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    shapes = tuple({0: torch.export.Dim("batch")} for _ in arguments)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.onnx"
        torch.onnx.export(small, arguments, file, dynamo=True, dynamic_shapes=shapes, verbose=False)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        three = tree_leaves(sample(inputs, 3))
        feeds = {x.name: t.numpy() for x, t in zip(session.get_inputs(), three, strict=True)}
        found = session.run(None, feeds)
    expected = tree_leaves(run(small, sample(inputs, 3)))
    errors = [
        float((torch.from_numpy(a) - b).abs().max() / b.abs().max())
        for a, b in zip(found, expected, strict=True)
    ]
    return max(errors)


if __name__ == "__main__":
    main(sys.argv[1:])
