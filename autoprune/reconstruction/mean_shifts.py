"""The mean of a residual branch that is gone, in the bias or BN of a layer that stays.

A layer whose output is added to the shortcut takes the mean over. Where nothing but sums stand
between the two, the network is then the one whose branch gives its mean at every position. Behind a
ReLU this holds only for channels whose mean is negative, and nearly for those that are mostly
active.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float64
from torch import Tensor, nn

from autoprune.structure.branches import Branch
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.surgery import Keep


class BranchMeans:
    """Puts the means of branches that are gone where they can go."""

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        means: Mapping[Branch, Float64[Tensor, " _channels"]],
    ) -> None:
        """Take the dense network, its structure, and the means of its branches."""
        self._tensors = dict(model.state_dict())
        self._structure = structure
        self._means = means

    def absorbed(
        self, gone: Sequence[Branch], keep: Keep, changed: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the tensors of the cut network that take means over, already sliced.

        Args:
            gone: branches that are gone.
            keep: kept entries of every tensor.
            changed: tensors of the cut network that a refit changed.
        """
        placed: dict[str, Tensor] = {}
        for branch in gone:
            layer = self._receiver(branch, gone)
            if branch not in self._means or layer is None:
                continue
            kept = keep.get(layer.weight, {}).get(layer.out_dim)
            name, sign = self._place(layer)
            if name in self._structure.untouched:
                continue
            before = {**changed, **placed}.get(name)
            if before is None:
                before = self._tensors[name] if kept is None else self._tensors[name][kept]
            mean = self._means[branch] if kept is None else self._means[branch][kept]
            placed[name] = before + sign * mean.to(before)
        return placed

    def _receiver(self, branch: Branch, gone: Sequence[Branch]) -> LayerSpec | None:
        """Return the layer that takes a branch's mean over; None if there is none left."""
        weight = branch.receiver
        while weight is not None:
            around = next((one for one in gone if weight in one.weights), None)
            if around is None:
                layer = self._structure.layer_of_weight[weight]
                return layer if layer.absorbs_mean else None
            weight = around.receiver
        return None

    def _place(self, layer: LayerSpec) -> tuple[str, int]:
        """Return the tensor that shifts a layer's output behind its BN, and the sign of a shift."""
        shifts = f"{layer.batchnorm}.bias"
        if layer.batchnorm is None:
            assert layer.bias is not None
            return layer.bias, 1
        # A BN without a shift of its own subtracts less.
        return (shifts, 1) if shifts in self._tensors else (f"{layer.batchnorm}.running_mean", -1)
