"""Which residual branches a network can do without, verified by numbers.

A branch can go if all of these hold:

- it holds a group of channels whose layers lead to one term of a sum only;
- with that term left out, the module around the sum does no more than run some of its children;
- with these in its place, every layer that is left reads and gives what it does in the dense
  network whose sum lacks the term, also if channels of other groups are cut.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from autoprune.core.bypass import Bypass
from autoprune.structure.branches import Branch
from autoprune.structure.comparison import Recording, RecordingMode, find_difference
from autoprune.structure.cut_patterns import cut_patterns
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import Inputs
from autoprune.structure.prepared_network import (
    PreparedNetwork,
    masked_weights,
    prepare,
    tensor_names,
)
from autoprune.structure.surgery import cut, kept_positions, named_tensors, replica
from autoprune.structure.tracing.determinism import fixed_seeds
from autoprune.structure.tracing.operators import plain_arithmetic
from autoprune.structure.tracing.residuals import ModuleCall, ResidualTrace, Term, chain


def with_branches(
    model: nn.Module,
    example_inputs: Inputs,
    structure: Structure,
    excluded: Collection[str] = (),
) -> Structure:
    """Return a network's structure with the residual branches that can go.

    Args:
        model: the dense network in evaluation mode; it is left unchanged.
        example_inputs: as for `verify.analyze`.
        structure: its verified structure.
        excluded: names of parameters and buffers that stay in any case.
    """
    with plain_arithmetic(), fixed_seeds(0):
        prepared = prepare(model, example_inputs)
        found = [
            branch
            for branch in _Finding(prepared, structure).branches()
            if branch.tensors.isdisjoint(excluded)
        ]
        return replace(structure, branches=_verified(prepared, structure, found))


@dataclass(frozen=True)
class _Candidate:
    """A term of a sum, the innermost module around both, and the group that the term ends with."""

    term: Term
    module: ModuleCall
    weights: tuple[str, ...]
    group: str


class _Finding:
    """Finds branches that look as if they could go."""

    def __init__(self, prepared: PreparedNetwork, structure: Structure) -> None:
        self._prepared = prepared
        self._structure = structure
        self._trace = self._run({})

    def _run(self, skipped: Mapping[int, int]) -> ResidualTrace:
        model = replica(self._prepared.model)
        trace = ResidualTrace(tensor_names(model), self._structure.layer_of_weight, skipped)
        with trace.watching(model):
            self._prepared.run(model, trace, 1)
        return trace

    def branches(self) -> Iterator[Branch]:
        """Yield what looks like a branch that can go, in network order."""
        terms = (self._candidate(term) for term in self._trace.terms())
        candidates = {one.term.addition: one for one in terms if one is not None}
        without = self._run({a: one.term.place for a, one in candidates.items()})
        for candidate in candidates.values():
            branch = self._branch(candidate, without)
            if branch is not None:
                yield branch

    def _candidate(self, term: Term) -> _Candidate | None:
        """Return a term with what could go with it; None if there is no decision to make."""
        weights = self._trace.weights(term.operators)
        around = [
            call
            for call in self._trace.calls
            if call.path and {term.addition, *term.operators} <= {*call.operators}
        ]
        last = [
            group.name
            for group in self._structure.groups
            if weights and weights[-1] in {consumer.tensor for consumer in group.consumers}
            if {part.tensor for part in group.slices if part.role != "carried"} <= {*weights}
        ]
        if not around or len(last) != 1 or self._runs(around[0].path) != 1:
            return None
        return _Candidate(term, around[0], weights, last[0])

    def _runs(self, path: str) -> int:
        return sum(call.path == path for call in self._trace.calls)

    def _branch(self, candidate: _Candidate, without: ResidualTrace) -> Branch | None:
        """Return the branch of a candidate; None if its module does more than run children.

        Args:
            candidate: the candidate.
            without: a trace in which the sums of all candidates lack their terms.
        """
        module = next(call for call in without.calls if call.path == candidate.module.path)
        inside = [call for call in without.calls if call.path.rpartition(".")[0] == module.path]
        way = chain(module, inside)
        if way is None:
            return None
        bypass = Bypass(module.path, tuple(call.path.rpartition(".")[2] for call in way))
        tensors = frozenset(filter(bypass.drops, named_tensors(self._prepared.model)))
        stays = {number for call in way for number in call.operators}
        operators = frozenset(set(module.operators) - stays)
        groups = tuple(
            group.name
            for group in self._structure.groups
            if tensors.issuperset(part.tensor for part in group.slices)
        )
        gone = self._trace.weights(operators)
        if gone != candidate.weights or candidate.group not in groups:
            return None
        end = way[-1].out if way else module.source
        assert end is not None and module.out is not None
        return Branch(
            bypass,
            candidate.group,
            groups,
            gone,
            tensors,
            operators,
            candidate.term.addition,
            candidate.term.place,
            candidate.module.out.made_at if candidate.module.out else module.out.made_at,
            end.made_at,
            self._trace.last_added(end.made_at),
        )


def _verified(
    prepared: PreparedNetwork, structure: Structure, found: Sequence[Branch]
) -> tuple[Branch, ...]:
    """Return the branches that can go alone and together with all others."""
    if _all_agree(prepared, structure, found):
        return tuple(found)
    good: list[Branch] = []
    for branch in found:
        if _all_agree(prepared, structure, [*good, branch]):
            good.append(branch)
    return tuple(good)


def _all_agree(prepared: PreparedNetwork, structure: Structure, gone: Sequence[Branch]) -> bool:
    """Return whether a network without some branches is the dense one without their terms."""
    structure = replace(structure, branches=tuple(gone))
    cut_ones = cut_patterns(structure.groups)[0] if structure.groups else {}
    empty: dict[str, list[int]] = {branch.group: [] for branch in gone}
    return all(
        _agree(prepared, structure, {**kept, **empty}, batch)
        for batch, kept in ((2, {}), (3, cut_ones))
    )


def _agree(
    prepared: PreparedNetwork, structure: Structure, kept: Mapping[str, list[int]], batch: int
) -> bool:
    policy = structure.policy([kept.get(g.name, range(g.size)) for g in structure.groups])
    keep = kept_positions(prepared.model, policy)
    layers = structure.layer_of_weight
    try:
        small = prepared.record(
            cut(prepared.model, keep, bypasses=policy.bypasses), {}, layers, batch
        )
    except Exception:  # whatever it is: code around the module wants more than its output
        return False
    masked = masked_weights(prepared.model, structure, kept)
    skipped = {branch.addition: branch.term for branch in structure.branches}
    mode = RecordingMode(tensor_names(prepared.model, masked), layers, skipped)
    outputs = prepared.run(prepared.model, mode, batch, masked)
    gone = {weight for branch in structure.branches for weight in branch.weights}
    left = {key: value for key, value in mode.recording.layers.items() if key[0] not in gone}
    dense = Recording(left, outputs)
    return find_difference(dense, small, keep, layers, prepared.tolerance) is None
