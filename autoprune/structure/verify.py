"""Numerical verification of a structure: cutting a group must equal masking it.

Zeroing the weights with which consumers read some units must change the dense network exactly as
cutting those units does, in the inputs and outputs of every layer. A constant in the forward pass
(padding up to 64 channels, a split at channel 24) breaks this, sometimes silently. Such a group is
frozen, whatever tracing concluded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from autoprune.errors import ModelError
from autoprune.structure.cut_patterns import PATTERNS, Kept, cut_patterns
from autoprune.structure.groups import ChannelGroup, Structure
from autoprune.structure.hypotheses import adapted
from autoprune.structure.inputs import Inputs, outputs_of, run, sample
from autoprune.structure.prepared_network import (
    FAILS,
    PreparedNetwork,
    in_float32,
    is_finite,
    prepare,
)
from autoprune.structure.surgery import check_ready, with_own_sizes
from autoprune.structure.tracing.determinism import fixed_seeds
from autoprune.structure.tracing.operators import plain_arithmetic
from autoprune.structure.tracing.trace import traced
from autoprune.structure.tracing.training_only import in_training_mode, modules_with_same_views

# Networks with at least this many MACs per sample are tested in float32 before float64; in smaller
# ones little of the time goes into arithmetic.
LARGE = 3e7
# Patterns that are tested in training mode, of which only notes are made.
PATTERNS_IN_TRAINING = 2


def analyze(
    model: nn.Module,
    example_inputs: Inputs,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Structure:
    """Trace a network and verify its groups with several cut patterns.

    Args:
        model: any network in evaluation mode.
        example_inputs: as for `trace`.
        progress: called with the number of patterns tested so far and in total.

    Returns:
        The verified structure; groups that fail are frozen with a reason.

    Raises:
        ModelError: a layer has no weights yet, or the forward pass fails or gives NaN.
    """
    check_ready(model)
    model = with_own_sizes(model)
    with plain_arithmetic(), fixed_seeds(0):
        tracing = traced(model, example_inputs)
        _check_finite(model, sample(example_inputs, 2))
        test = CutTest(model, example_inputs)
        views = _ViewsInTraining(model, sample(example_inputs, 1))

        def agrees(structure: Structure, groups: Sequence[ChannelGroup]) -> bool:
            return views.are_same(structure) and test.agrees(structure, groups)

        revise = partial(adapted, tracing, agrees)
        structure = test.verified(tracing.structure(), progress, revise)
        return _tested_in_training(model, example_inputs, structure)


def _tested_in_training(model: nn.Module, inputs: Inputs, structure: Structure) -> Structure:
    """Record which groups are wrong in training mode, if other layers run there."""
    training = structure.training
    if not training.layers or training.failure:
        return structure
    tested = CutTest(in_training_mode(model), inputs).verified(
        structure, patterns=PATTERNS_IN_TRAINING
    )
    wrong = {f.name: f.reason for f in tested.frozen[len(structure.frozen) :]}
    return replace(structure, training=replace(training, wrong=wrong))


@dataclass(frozen=True, eq=False)
class _ViewsInTraining:
    """Knows whether inferred sizes are those of the same views in training mode."""

    model: nn.Module
    inputs: Any

    def are_same(self, structure: Structure) -> bool:
        """Say whether a structure infers sizes only in modules with the same views."""
        return all(one.module in self._modules for one in structure.inferred)

    @cached_property
    def _modules(self) -> frozenset[str]:
        return modules_with_same_views(self.model, self.inputs)


@dataclass(frozen=True)
class _Test:
    """One cut of all groups at once.

    Attributes:
        kept: units that are kept, by group name.
        batch: number of samples.
        fast: the network in float32; a cut that agrees there is not tested in float64. None to
            test in float64 only.
    """

    kept: Kept
    batch: int
    fast: PreparedNetwork | None


class CutTest:
    """Tests numerically which groups of a network can be cut."""

    def __init__(self, model: nn.Module, example_inputs: Inputs) -> None:
        """Prepare a network, which is in the mode (evaluation or training) to be tested."""
        self._dense = prepare(model, example_inputs)
        self._fast: list[PreparedNetwork | None] = []

    def verified(
        self,
        structure: Structure,
        progress: Callable[[int, int], None] = lambda done, total: None,
        revise: Callable[[], Structure | None] = lambda: None,
        patterns: int = len(PATTERNS),
    ) -> Structure:
        """Return the structure with all groups that fail frozen.

        Args:
            structure: the structure to be tested.
            progress: called with the number of patterns tested so far and in total.
            revise: called at the first failure; the structure that it returns, if any, is verified
                instead.
            patterns: how many of the `PATTERNS` are tested.
        """
        tried = False
        for done, test in enumerate(islice(self._tests(structure, structure.groups), patterns)):
            if self._disagree(structure, structure.groups, test):
                revised = None if tried else revise()
                if revised is not None:
                    return self.verified(revised, progress, patterns=patterns)
                tried = True
                wrong = self._wrong_alone(structure, structure.groups, test)
                structure = self._freeze_interactions(structure.frozen_by(wrong), test)
            progress(done + 1, patterns)
        return structure

    def agrees(self, structure: Structure, groups: Sequence[ChannelGroup]) -> bool:
        """Say whether some groups can be cut together, at two widths and batch sizes."""
        tests = islice(self._tests(structure, groups), 1, 3)
        return not any(self._disagree(structure, groups, test, confirms=False) for test in tests)

    def _tests(self, structure: Structure, groups: Sequence[ChannelGroup]) -> Iterator[_Test]:
        fast = self._in_float32(structure)
        for done, kept in enumerate(cut_patterns(groups)):
            # Three samples only once if the network is large: they take longer.
            batch = 2 + (done == 1 if fast else done % 2)
            yield _Test(kept, batch, fast if done else None)

    def _in_float32(self, structure: Structure) -> PreparedNetwork | None:
        """Return the float32 copy of a large network, the same one for all of its structures."""
        if not self._fast:
            large = _macs(structure) >= LARGE
            self._fast.append(in_float32(self._dense, structure) if large else None)
        return self._fast[0]

    def _disagree(
        self,
        structure: Structure,
        groups: Sequence[ChannelGroup],
        test: _Test,
        confirms: bool = True,
    ) -> str | None:
        """Describe the difference that cutting some groups makes; None if it makes none.

        Args:
            structure: structure that holds the groups.
            groups: the groups.
            test: what is kept of them.
            confirms: whether a forward pass that fails in float32 is run in float64 as well. It may
                fail by rounding, but hardly ever does.
        """
        kept = {g.name: test.kept[g.name] for g in groups}
        if test.fast:
            found = test.fast.difference(structure, kept, test.batch)
            if found is None or (not confirms and found.startswith(FAILS)):
                return found
        # A difference in float32 may be rounding.
        return self.difference(structure, kept, test.batch)

    def _wrong_alone(
        self, structure: Structure, groups: Sequence[ChannelGroup], test: _Test
    ) -> dict[str, str]:
        """Return the groups that fail and the reasons; groups that pass together all pass."""
        reason = self._disagree(structure, groups, test)
        if reason is None:
            return {}
        if len(groups) == 1:
            return {groups[0].name: reason}
        quarter = -(-len(groups) // 4)  # finds one wrong group as fast as halves, several faster
        parts = (groups[i : i + quarter] for i in range(0, len(groups), quarter))
        found = (self._wrong_alone(structure, part, test) for part in parts)
        return {name: why for part in found for name, why in part.items()}

    def _freeze_interactions(self, structure: Structure, test: _Test) -> Structure:
        """Freeze groups that pass alone but fail when cut together with others."""

        def reason(count: int) -> str | None:
            return self._disagree(structure, structure.groups[:count], test)

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
        """Describe how a cut network differs from the dense one with masked consumers.

        Args:
            structure: structure that holds the groups to cut.
            kept: units that are kept, by group name; other groups stay whole.
            batch: number of samples.

        Returns:
            What differs; None if nothing does.
        """
        return self._dense.difference(structure, kept, batch)


def _macs(structure: Structure) -> int:
    """Return the MACs of one sample."""
    layers = (one.positions * math.prod(structure.shapes[one.weight]) for one in structure.layers)
    products = (one.macs * math.prod(one.shape) for one in structure.mixers)
    return round(sum(layers) + sum(products) + sum(structure.fixed_macs.values()))


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
