"""Search for what makes groups cuttable that fail: channels that go together, numbers that follow.

A forward pass that names sizes (a split at `self.c`, a view of `self.heads` rows) fails once a
channel is gone, unless the number follows, or its pieces lose equally many. Which of both holds
cannot be seen in the trace; so hypotheses are tried, the simplest first, and one counts if the cut
network then agrees with the dense one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
from torch import nn

from autoprune.core.view_sizes import InferredSize
from autoprune.structure.attributes import settings_of
from autoprune.structure.groups import ChannelGroup, Structure
from autoprune.structure.tracing.assembly import sharing
from autoprune.structure.tracing.followers import Chance, Follower, candidates
from autoprune.structure.tracing.labels import Atoms
from autoprune.structure.tracing.sizes import ALIKE, SizedCall, repeated
from autoprune.structure.tracing.trace import Assembly, Hypothesis, Kind, Ties, Tracing

# Attributes that are tried alone, those of the innermost modules first.
MOST_ALONE = 4
# Share of the channels that a hypothesis must leave in groups: ties may also tie everything.
LEAST_COVERED = 0.5

Agrees = Callable[[Structure, Sequence[ChannelGroup]], bool]
"""Whether cutting some groups of a structure does what masking them does."""


def adapted(tracing: Tracing, agrees: Agrees) -> Structure | None:
    """Return the structure of a network with the hypotheses by which more groups can be cut.

    None if no hypothesis holds.

    Args:
        tracing: of the network.
        agrees: tests some groups of a structure.
    """
    tracing = _without_chance(tracing, agrees)
    search = _Search(tracing, agrees, tracing.assembled())
    accepted, held = Hypothesis(), list[Kind]()
    left, learnt = _clusters(search.plain, tracing.tracer.sized), True
    while left and learnt:
        # What some calls ask for may also depend on the numbers of others.
        found, left = _tried(search, accepted, held, left)
        accepted, learnt = found, found is not accepted
    # One number may size what shares no group: the queries of every head, say.
    accepted, _ = _tried(search, accepted, held, _joined(left))
    return tracing.structure(accepted) if held or tracing.chance else None


def _tried(
    search: _Search,
    accepted: Hypothesis,
    held: list[Kind],
    clusters: Sequence[tuple[SizedCall, ...]],
) -> tuple[Hypothesis, list[tuple[SizedCall, ...]]]:
    """Try hypotheses for some clusters of calls, one after the other.

    Args:
        search: what they are tested with.
        accepted: what holds already.
        held: kinds of hypotheses that held; added to. Networks repeat their blocks: what held in
            one is tried first in the next, and where nothing did, nothing else.
        clusters: calls, those together that share a group.

    Returns:
        What holds now, and the clusters for which nothing does.
    """
    hopeless: set[tuple[Any, ...]] = set()
    waiting, failed = list(clusters), []
    while waiting:
        calls = waiting.pop(0)
        if search.is_settled(accepted, calls):
            continue
        every = search.hypotheses(calls)
        places = sorted(range(len(every)), key=lambda one: every[one].kind not in held)
        if _shape(calls) in hopeless:
            places = [one for one in places if every[one].kind in held]
        place = next((one for one in places if search.holds(accepted + every[one], calls)), None)
        if place is None:
            hopeless.add(_shape(calls))
            failed.append(calls)
        else:
            found = search.smallest(accepted, every[place], calls)
            accepted += found
            held += [every[place].kind, found.kind]
            alike = [one for one in waiting if _shape(one) == _shape(calls)]
            alike = [one for one in alike if not search.is_settled(accepted, one)]
            repeated = search.repeated(accepted, every[place], found, place, alike)
            if repeated is not None:
                accepted = repeated
                waiting = [one for one in waiting if one not in alike]
        # Often one call alone was wrong, and one test of all others takes as long as of any.
        if search.is_cuttable([call for later in waiting for call in later]):
            break
    return accepted, failed


def _is_alike(one: Hypothesis, other: Hypothesis) -> bool:
    """Say whether two hypotheses may be the same about two blocks."""
    attributes = [[follower.key[1:] for follower in each.followers] for each in (one, other)]
    return one.kind == other.kind and attributes[0] == attributes[1]


def _shape(calls: Sequence[SizedCall]) -> tuple[Any, ...]:
    """Return what clusters of repeated blocks have in common."""
    return tuple(call.shape for call in calls)


def _without_chance(tracing: Tracing, agrees: Agrees) -> Tracing:
    """Return a tracing without numbers that equal a size by chance: a shift by 3, and 3 heads.

    Where several attributes of a module follow one group, one of them alone may be right. Modules
    repeat, so an attribute is left out in all of them at once, and if that is wrong in each alone.
    """
    plain = tracing.structure()
    followed: dict[tuple[str, str], list[str]] = {}
    for edit in plain.edits:
        for group in edit.per_unit:
            followed.setdefault((edit.module, group), []).append(edit.attribute)
    by_attribute: dict[str, list[Chance]] = {}
    for (module, group), attributes in followed.items():
        for attribute in attributes if len(attributes) > 1 else ():
            by_attribute.setdefault(attribute, []).append((module, attribute, group))
    for every in by_attribute.values():
        modules = list(dict.fromkeys(module for module, *_ in every))
        for own in (modules, *([module] for module in modules if len(modules) > 1)):
            left_out = frozenset(one for one in every if one[0] in own)
            names = {group for *_, group in left_out}
            groups = [group for group in plain.groups if group.name in names]
            if agrees(tracing.structure(), groups):
                continue
            fewer = replace(tracing, chance=tracing.chance | left_out)
            if agrees(fewer.structure(), groups):
                tracing = fewer
    return tracing


@dataclass(frozen=True, eq=False)
class _Search:
    """What hypotheses are tested with.

    Attributes:
        tracing: of the network.
        agrees: tests some groups of a structure.
        plain: the network without a hypothesis.
    """

    tracing: Tracing
    agrees: Agrees
    plain: Assembly

    def is_cuttable(self, calls: Sequence[SizedCall]) -> bool:
        """Say whether the channels of some calls can be cut as they were traced."""
        return self.agrees(self.plain.structure, self.plain.groups_of(calls))

    def is_settled(self, accepted: Hypothesis, calls: Sequence[SizedCall]) -> bool:
        """Say whether the channels of some calls can be cut without another hypothesis."""
        return self.is_cuttable(calls) or bool(accepted.inferred and self.holds(accepted, calls))

    def holds(self, hypothesis: Hypothesis, *clusters: Sequence[SizedCall]) -> bool:
        """Say whether most channels of each cluster of calls can be cut under a hypothesis."""
        assembly = self.tracing.assembled(hypothesis)
        for calls in clusters:
            groups, before = assembly.groups_of(calls), self.plain.groups_of(calls)
            if _channels(groups) < LEAST_COVERED * _channels(before):
                return False
        every_call = [call for calls in clusters for call in calls]
        return self.agrees(assembly.structure, assembly.groups_of(every_call))

    def hypotheses(self, calls: tuple[SizedCall, ...]) -> list[Hypothesis]:
        """Return the hypotheses about some calls, the simplest first."""
        return [*_hypotheses(self.tracing.model, calls, self.plain.atoms)]

    def repeated(
        self,
        accepted: Hypothesis,
        whole: Hypothesis,
        found: Hypothesis,
        place: int,
        clusters: Sequence[tuple[SizedCall, ...]],
    ) -> Hypothesis | None:
        """Return what holds if the same does in repeated blocks as in the first, by one test.

        Args:
            accepted: what holds already, in the first block, too.
            whole: hypothesis about the first block.
            found: what is left of it without numbers that need not follow.
            place: that it has among the hypotheses about the block.
            clusters: calls of the other blocks.

        Returns:
            None where it does not hold in all of them, or there are none.
        """
        follow = [any(one.key == own.key for own in found.followers) for one in whole.followers]
        for calls in clusters:
            every = self.hypotheses(calls)
            if place >= len(every) or not _is_alike(every[place], whole):
                return None
            # By their order: the same attribute may be on the block and on what holds the blocks.
            followers = tuple(compress(every[place].followers, follow))
            accepted += replace(every[place], followers=followers)
        return accepted if clusters and self.holds(accepted, *clusters) else None

    def smallest(
        self, accepted: Hypothesis, hypothesis: Hypothesis, calls: Sequence[SizedCall]
    ) -> Hypothesis:
        """Return a hypothesis that holds without the numbers that need not follow."""
        keys = dict.fromkeys(one.key for one in hypothesis.followers)
        for key in keys if len(keys) > 1 else ():
            others = tuple(other for other in hypothesis.followers if other.key != key)
            fewer = replace(hypothesis, followers=others)
            if self.holds(accepted + fewer, calls):
                hypothesis = fewer
        return hypothesis


def _channels(groups: Sequence[ChannelGroup]) -> int:
    slices = (s for group in groups for s in group.slices if s.role == "producer")
    return sum(s.positions.size for s in slices)


def _clusters(plain: Assembly, calls: Sequence[SizedCall]) -> list[tuple[SizedCall, ...]]:
    """Return the calls, those together that share a group; calls without a group are left out."""
    owned = (({group.name for group in plain.groups_of([call])}, call) for call in calls)
    return [tuple(own) for own in sharing((names, call) for names, call in owned if names)]


def _joined(clusters: Sequence[tuple[SizedCall, ...]]) -> list[tuple[SizedCall, ...]]:
    """Return those clusters together in which one module makes the same calls."""
    made = ({(call.modules, call.shape) for call in calls} for calls in clusters)
    every = sharing(zip(made, clusters, strict=True))
    return [tuple(call for calls in own for call in calls) for own in every if len(own) > 1]


def _hypotheses(
    model: nn.Module, calls: tuple[SizedCall, ...], atoms: Atoms
) -> Iterator[Hypothesis]:
    """Yield hypotheses about some calls, the simplest first."""
    numbers = _choices(model, calls)
    yield from (Hypothesis(followers=followers) for followers in numbers[1:])
    for place in range(max(1 if call.is_split else len(call.sizes) for call in calls)):
        along: Ties = ((place, calls),)
        yield from (Hypothesis(along, followers) for followers in numbers)
    if repeated(calls):
        yield from (Hypothesis(((ALIKE, calls),), followers) for followers in numbers)
    most = max(len(call.inferable) for call in calls)
    for ties in _ties_beside(calls, atoms):
        chosen = [_inferred(calls, place) for place in range(most)]
        for inferred in chosen if not ties else [(), *chosen]:
            yield from (Hypothesis(ties, followers, inferred) for followers in numbers)


def _inferred(calls: Sequence[SizedCall], place: int) -> tuple[InferredSize, ...]:
    """Return one size of every view that can infer one, by its place from the end."""
    return tuple(
        call.inferable[max(len(call.inferable) - 1 - place, 0)] for call in calls if call.inferable
    )


def _ties_beside(calls: Sequence[SizedCall], atoms: Atoms) -> list[Ties]:
    """Return what may hold beside inferred sizes, the simplest first.

    Sizes that are the width of what the module reads, and columns of views whose rows are no heads:
    of keys and values where there is a single head.
    """
    heads = np.concatenate([[0], *atoms.tables])
    widths = tuple(call for call in calls if call.width is not None)
    pairs = tuple(
        call
        for call in calls
        if not call.is_split and len(call.sizes) == 2 and not np.isin(call.atoms, heads).any()
    )
    own: list[Ties] = [((None, widths),)] if widths else []
    columns: list[Ties] = [((0, pairs),)] if pairs else []
    return [(), *own, *columns, *(a + b for a in own for b in columns)]


def _choices(model: nn.Module, calls: Sequence[SizedCall]) -> list[tuple[Follower, ...]]:
    """Return sets of numbers that may follow: none, those of modules, and of what these hold."""
    own = _found(calls, lambda call: candidates(model, call))
    settings = _found(calls, lambda call: candidates(model, call, settings_of))
    return [(), *_sets(own), *_sets(settings)]


def _found(
    calls: Sequence[SizedCall], among: Callable[[SizedCall], Sequence[Follower]]
) -> list[Follower]:
    """Return the numbers found for some calls; of several dimensions for one, groups decide."""
    return [one for call in calls for one in among(call)]


def _sets(found: Sequence[Follower]) -> list[tuple[Follower, ...]]:
    """Return all numbers together, and those of each attribute alone."""
    attributes = list(dict.fromkeys(one.key[:2] for one in found))[:MOST_ALONE]
    alone = [tuple(one for one in found if one.key[:2] == a) for a in attributes]
    return [*([tuple(found)] if found else []), *(alone if len(alone) > 1 else [])]
