"""Puts one network through everything: inspection, a cut, its checks, a reload and ONNX.

    python experiments/coverage/measure.py timm:deit_tiny_patch16_224 [--without-onnx]

Prints the row as a line of JSON after every stage, so that whoever ends the process early keeps
what was found until then.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import Network, read_list
from torch import Tensor, nn

import autoprune
from autoprune.core.files import save_state
from autoprune.core.policy import PruningPolicy
from autoprune.cost import cost_models
from autoprune.errors import describe
from autoprune.exporters.checking import deviation
from autoprune.exporters.onnx import OnnxExporter
from autoprune.profiling.backends.program import program_of
from autoprune.search_spaces.keep_ratio import SearchSpace, search_space
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import outputs_of, run
from autoprune.structure.plain_weights import with_plain_weights
from autoprune.structure.surgery import apply_policy, with_own_sizes
from autoprune.structure.verify import CutTest, analyze
from autoprune.study.run_directory import RunDirectory

# The share of the MACs that the tried policy keeps, where that can be reached.
SHARE = 0.6
# Option to end before a network is exported, and the stage of its row then.
WITHOUT_ONNX = "--without-onnx"
BEFORE_ONNX = "before ONNX"


class Row:
    """What is known of a network, printed whenever a stage is done."""

    def __init__(self, network: Network) -> None:
        self.values: dict[str, Any] = {
            "network": network.title,
            "stage": "building",
            "error": None,
            "seconds": {},
        }

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Around a stage: its CPU time is taken; what it raises is noted before it goes on."""
        self.values["stage"] = name
        self.tell()
        began = time.process_time()
        try:
            yield
        except Exception as error:
            self.values["error"] = describe(error)
            raise
        finally:
            self.values["seconds"][name] = round(time.process_time() - began, 2)
            self.tell()

    def tell(self, **found: Any) -> None:
        """Add what was found, and print the row."""
        self.values.update(found)
        print(json.dumps(self.values), flush=True)


def measure(network: Network, row: Row, onnx: bool) -> None:
    """Put one network through all stages; whatever a stage raises ends it."""
    with row.stage("building"):
        model, inputs = with_plain_weights(network.build()), network.inputs(2)
    with row.stage("analysis"):
        structure = analyze(model, inputs)
    space = search_space(structure)
    row.tell(**_inspected(structure, space))
    if not structure.groups:
        return row.tell(stage="done")
    with row.stage("cut"):
        widths = _policy_widths(structure, space)
        costs = cost_models(structure)["flops"]
        policy = structure.policy([range(width) for width in widths])
        small = apply_policy(model, policy)
        row.tell(share=costs.total(widths) / costs.total(structure.dense_widths))
    with row.stage("forward"):
        _run_at_two_sizes(network, small)
    with row.stage("comparison"):
        kept = {name: list(one.kept) for name, one in policy.groups.items()}
        test = CutTest(with_own_sizes(model), inputs)
        row.tell(difference=test.difference(structure, kept))
    with row.stage("reload"):
        row.tell(reloaded=_reloads(network, small, policy))
    if not onnx:
        return row.tell(stage=BEFORE_ONNX)
    for name, one in (("dense ONNX", model), ("ONNX", small)):
        with row.stage(name):
            found = _onnx_error(one, network)
            row.tell(**{name.lower().replace(" ", "_") + "_error": found})
    row.tell(stage="done")


def _inspected(structure: Structure, space: SearchSpace) -> dict[str, Any]:
    costs = cost_models(structure)
    macs = costs["flops"].total
    dense = macs(structure.dense_widths)
    return {
        "macs": dense,
        "params": costs["params"].total(structure.dense_widths),
        "groups": len(structure.groups),
        "units": sum(structure.dense_widths),
        "frozen": [[one.name, one.size, one.reason] for one in structure.frozen],
        "uncounted": list(structure.uncounted),
        "reach": macs(space.lowest) / dense if dense else 1.0,
    }


def _policy_widths(structure: Structure, space: SearchSpace) -> tuple[int, ...]:
    """Return uneven widths at `SHARE` of the MACs, or the narrowest where that is out of reach."""
    macs = cost_models(structure)["flops"]
    limit = SHARE * macs.total(structure.dense_widths)
    if macs.total(space.lowest) > limit:
        return space.lowest
    ratios = np.random.default_rng(0).uniform(0.2, 1.0, len(space))
    return Projection(space, [Constraint(macs, limit)]).project(ratios)


def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        return list(outputs_of(run(model, inputs)).values())


def _run_at_two_sizes(network: Network, small: nn.Module) -> None:
    for batch in (1, 3):
        if not all(bool(one.isfinite().all()) for one in _outputs(small, network.inputs(batch))):
            raise ValueError(f"the cut network's outputs are not finite at batch size {batch}")


def _reloads(network: Network, small: nn.Module, policy: PruningPolicy) -> bool:
    """Say whether a network of other weights, loaded from the files, gives the same outputs."""
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(folder)
        directory.save_policy(policy)
        save_state(directory.weights_path, small)
        directory.save_result({})
        again = autoprune.load_pruned(network.build(seed=1), folder)
    inputs = network.inputs(2)
    pairs = zip(_outputs(small, inputs), _outputs(again, inputs), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def _onnx_error(model: nn.Module, network: Network) -> float:
    """Return the largest difference from PyTorch, as a share of the largest output."""
    inputs = network.inputs(2)
    exporter = OnnxExporter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        program = program_of(model, inputs)
        exporter.write(program, path)
        batch = inputs if program.takes_any_batch else network.inputs(int(program.batch))
        return deviation(exporter.open(path, 1), model, [batch]).relative


def main(title: str, onnx: bool) -> None:
    """Measure the network of that title; a stage that fails is in the row, not raised."""
    network = next(one for one in read_list() if one.title == title)
    torch.backends.mha.set_fastpath_enabled(False)
    row = Row(network)
    try:
        measure(network, row, onnx)
    except Exception:
        if row.values["error"] is None:
            raise


if __name__ == "__main__":
    main(sys.argv[1], onnx=WITHOUT_ONNX not in sys.argv)
