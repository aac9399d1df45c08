"""Which residual branches a network can do without, verified by numbers.

A branch can go if all of these hold:

- it holds a group of channels whose layers lead to one term of a sum only;
- with that term left out, the module around the sum does no more than run some of its children;
- with these in its place, every layer that is left reads and gives what it does in the dense
  network whose sum lacks the term, also if channels of other groups are cut.

Where the module does more (a transformer's block has two branches), the branch can go if it runs
nothing but modules: each then gives zeros in the shape of its input, and so does the branch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from autoprune.core.bypass import Bypass, is_dropped
from autoprune.structure.branches import Branch
from autoprune.structure.comparison import Recording, RecordingMode, find_difference
from autoprune.structure.cut_patterns import cut_patterns
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import Inputs
from autoprune.structure.mixed import columns_left
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
            branch = self._branch(candidate, without) or self._inner_branch(candidate)
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
            if group.way != "widths"  # the projection behind attention reads heads, too
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
        stays = {number for call in way for number in call.operators}
        operators = frozenset(set(module.operators) - stays)
        end = way[-1].out if way else module.source
        assert end is not None and module.out is not None
        result = candidate.module.out.made_at if candidate.module.out else module.out.made_at
        return self._made(candidate, (bypass,), operators, result, end.made_at)

    def _inner_branch(self, candidate: _Candidate) -> Branch | None:
        """Return the branch whose own modules give zeros; None if it runs more than modules."""
        term = candidate.term
        inside = [
            call
            for call in self._trace.calls
            if call.operators and call.out is not None and term.contains(call.operators)
        ]
        paths = {call.path for call in inside}
        outer = [call for call in inside if not paths.intersection(_around(call.path))]
        covered = {number for call in outer for number in call.operators}
        if covered != term.operators or any(self._runs(call.path) != 1 for call in outer):
            return None
        bypasses = tuple(Bypass(call.path, zero=True) for call in outer)
        shortcut = self._trace.other_source(term)
        return self._made(candidate, bypasses, term.operators, None, shortcut)

    def _made(
        self,
        candidate: _Candidate,
        bypasses: tuple[Bypass, ...],
        operators: frozenset[int],
        result: int | None,
        shortcut: int,
    ) -> Branch | None:
        """Return a branch; None if something else goes with it, or what is to go with it stays."""
        tensors = frozenset(
            name for name in named_tensors(self._prepared.model) if is_dropped(name, bypasses)
        )
        groups = tuple(
            group.name
            for group in self._structure.groups
            if tensors.issuperset(part.tensor for part in group.slices)
        )
        gone = self._trace.weights(operators)
        if gone != candidate.weights or candidate.group not in groups:
            return None
        return Branch(
            bypasses,
            candidate.group,
            groups,
            gone,
            tensors,
            operators,
            self._trace.addition(candidate.term),
            candidate.term.place,
            result,
            shortcut,
            self._trace.last_added(shortcut),
        )


def _around(path: str) -> Iterator[str]:
    """Yield the paths of the modules around a module, innermost first."""
    while path:
        path = path.rpartition(".")[0]
        yield path


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
        small_model = cut(prepared.model, keep, **policy.changes)
        small = prepared.record(small_model, {}, layers, batch)
    except Exception:  # whatever it is: code around the module wants more than its output
        return False
    masked = masked_weights(prepared.model, structure, kept)
    skipped = {branch.addition: branch.term for branch in structure.branches}
    columns = columns_left(structure, kept)
    mode = RecordingMode(tensor_names(prepared.model, masked), layers, skipped, columns)
    outputs = prepared.run(prepared.model, mode, batch, masked)
    gone = {weight for branch in structure.branches for weight in branch.weights}
    left = {key: value for key, value in mode.recording.layers.items() if key[0] not in gone}
    dense = Recording(left, outputs)
    return find_difference(dense, small, keep, layers, prepared.tolerance) is None
