"""What residual branches add to their sums on average."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.structure.branches import Branch
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import run
from autoprune.structure.layers import LAYER_KINDS
from autoprune.structure.tracing.operators import OperatorMode, plain_arithmetic, whole_operators

BATCH = 250


def branch_means(
    model: nn.Module, structure: Structure, samples: Samples
) -> dict[Branch, Float64[Tensor, " _channels"]]:
    """Return the mean of every branch whose mean a layer can take over, by branch.

    Args:
        model: the dense network in evaluation mode.
        structure: its structure.
        samples: calibration data.
    """
    kinds = {layer.weight: LAYER_KINDS[layer.kind].channel_dim for layer in structure.layers}
    branches = [branch for branch in structure.branches if branch.receiver is not None]
    dims = [kinds[branch.receiver] for branch in branches if branch.receiver is not None]
    if not branches:
        return {}
    sums: dict[Branch, Tensor] = {}
    for batch in samples.batches(BATCH):
        summing = _Summing(branches, dims)
        with plain_arithmetic(), whole_operators(), summing:
            run(model, batch.inputs)
        for branch, mean in summing.means.items():
            sums[branch] = sums.get(branch, torch.zeros_like(mean)) + mean * len(batch)
    return {branch: total / len(samples) for branch, total in sums.items()}


class _Summing(OperatorMode):
    """Takes the means of the terms that branches add to their sums."""

    def __init__(self, branches: Sequence[Branch], dims: Sequence[int]) -> None:
        super().__init__()
        self.means: dict[Branch, Tensor] = {}
        self._additions = itertools.count()
        self._at: Mapping[int, tuple[Branch, int]] = {
            branch.addition: (branch, dim) for branch, dim in zip(branches, dims, strict=True)
        }

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator."""
        found = self._at.get(next(self._additions)) if name == "add" else None
        if found is not None:
            branch, dim = found
            term = args[branch.term].movedim(dim, -1).flatten(0, -2)
            self.means[branch] = term.double().mean(0)
        return func(*args, **kwargs)
