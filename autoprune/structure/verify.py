"""The numerical test of a structure: a group cut away equals a group whose readers ignore it.

Zeroing the columns with which the consumers read some units must change the dense network exactly
as cutting these units does, in all that layers read and write. A constant in a forward pass
(`view(-1, 2048)`, a split at channel 24) breaks this, sometimes silently; such a group is frozen,
whatever the trace believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autoprune.errors import ModelError
from autoprune.structure.groups import ChannelGroup, Structure
from autoprune.structure.inputs import Inputs, outputs_of, run, sample
from autoprune.structure.probes import WAYS, Kept, probes
from autoprune.structure.specimen import Specimen, in_single, is_finite, specimen
from autoprune.structure.surgery import check_ready
from autoprune.structure.tracing.noise import fixed_seeds
from autoprune.structure.tracing.operators import plain_arithmetic
from autoprune.structure.tracing.trace import trace
from autoprune.structure.tracing.training_only import in_training_mode

# MACs of one sample from which on a network is tested in float32 before float64. Below, most of
# the time does not go into arithmetic.
LARGE = 3e7


def analyze(
    model: nn.Module,
    example_inputs: Inputs,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Structure:
    """Return the network's verified structure: traced, then all groups tested in several ways.

    Args:
        model: any network in evaluation mode.
        example_inputs: as for `trace`.
        progress: told the number of tests done and their total.

    Raises:
        ModelError: a layer has no weights yet, or the forward pass fails or gives NaN.
    """
    check_ready(model)
    with plain_arithmetic(), fixed_seeds(0):
        structure = trace(model, example_inputs)
        _check_finite(model, sample(example_inputs, 2))
        structure = CutTest(model, example_inputs).verified(structure, progress)
        return _tested_in_training(model, example_inputs, structure)


def _tested_in_training(model: nn.Module, inputs: Inputs, structure: Structure) -> Structure:
    """Note which groups are wrong in training mode, where other layers run there."""
    training = structure.training
    if not training.layers or training.failure:
        return structure
    tested = CutTest(in_training_mode(model), inputs).verified(structure)
    wrong = {f.name: f.reason for f in tested.frozen[len(structure.frozen) :]}
    return replace(structure, training=replace(training, wrong=wrong))


@dataclass(frozen=True)
class Probe:
    """One way to cut all groups at once.

    Attributes:
        kept: units that stay, by group name.
        batch: number of samples.
        single: the network in float32, where what agrees in that form needs no further test.
    """

    kept: Kept
    batch: int
    single: Specimen | None


class CutTest:
    """Tests hypotheses about which units of a network can be cut."""

    def __init__(self, model: nn.Module, example_inputs: Inputs) -> None:
        """Take a network in the mode in which it is to be tested."""
        self._dense = specimen(model, example_inputs)

    def verified(
        self,
        structure: Structure,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Structure:
        """Return the structure with all groups frozen that are found wrong."""
        single = in_single(self._dense, structure) if _macs(structure) >= LARGE else None
        for done, kept in enumerate(probes(structure.groups)):
            # Three samples take their time where a network is large.
            batch = 2 + (done == 1 if single else done % 2)
            probe = Probe(kept, batch, single if done else None)
            if self._disagree(structure, structure.groups, probe):
                wrong = self._wrong_alone(structure, structure.groups, probe)
                structure = self._freeze_interplay(structure.frozen_by(wrong), probe)
            progress(done + 1, len(WAYS))
        return structure

    def _disagree(
        self, structure: Structure, groups: Sequence[ChannelGroup], probe: Probe
    ) -> str | None:
        kept = {g.name: probe.kept[g.name] for g in groups}
        if probe.single and not probe.single.difference(structure, kept, probe.batch):
            return None
        # What differs in float32 may differ by rounding.
        return self.difference(structure, kept, probe.batch)

    def _wrong_alone(
        self, structure: Structure, groups: Sequence[ChannelGroup], probe: Probe
    ) -> dict[str, str]:
        """Return the groups that are wrong, and why: none of those that are right together."""
        reason = self._disagree(structure, groups, probe)
        if reason is None:
            return {}
        if len(groups) == 1:
            return {groups[0].name: reason}
        quarter = -(-len(groups) // 4)  # finds one wrong group as soon as halves, many sooner
        parts = (groups[i : i + quarter] for i in range(0, len(groups), quarter))
        found = (self._wrong_alone(structure, part, probe) for part in parts)
        return {name: why for part in found for name, why in part.items()}

    def _freeze_interplay(self, structure: Structure, probe: Probe) -> Structure:
        """Freeze groups that are right alone but wrong when cut together with others."""

        def reason(count: int) -> str | None:
            return self._disagree(structure, structure.groups[:count], probe)

        while reason(len(structure.groups)):
            low, high = 0, len(structure.groups)  # the first `low` agree, the first `high` do not
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if reason(middle) else (middle, high)
            culprit = structure.groups[high - 1].name
            why = f"together with other groups, {reason(high)}"
            structure = structure.frozen_by({culprit: why})
        return structure

    def difference(
        self, structure: Structure, kept: Mapping[str, Sequence[int]], batch: int = 2
    ) -> str | None:
        """Say how a cut network differs from the one whose consumers ignore what was cut.

        Args:
            structure: with the groups that are cut.
            kept: units that stay, by group name; other groups stay whole.
            batch: number of samples.

        Returns:
            What is different, None if nothing is.
        """
        return self._dense.difference(structure, kept, batch)


def _macs(structure: Structure) -> int:
    """Return the MACs of one sample."""
    layers = (one.positions * math.prod(structure.shapes[one.weight]) for one in structure.layers)
    return sum(layers) + sum(structure.fixed_macs.values())


def _check_finite(model: nn.Module, inputs: Any) -> None:
    with torch.no_grad():
        if not all(map(is_finite, outputs_of(run(model, inputs)).values())):
            raise ModelError(
                "the dense model's outputs are not finite: "
                + (_not_finite(model) or "the example inputs make them overflow.")
            )


def _not_finite(model: nn.Module) -> str | None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return f"its weights hold NaN or infinity in {name!r}."
    return None
