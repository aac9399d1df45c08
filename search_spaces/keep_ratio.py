"""What may be chosen: the widths that every group can take."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

from autoprune.core.policy import Widths
from autoprune.errors import UsageError, did_you_mean, spelt
from autoprune.structure.groups import Structure

DEFAULT_MIN_KEEP = 0.1


@dataclass(frozen=True)
class SearchSpace:
    """Allowed widths per group: multiples of a step from a lower bound on, and the full size.

    A group by which a branch can go may also have no units at all.

    Attributes:
        names: group names.
        sizes: units per group.
        lowest: fewest units that a group keeps.
        step: widths are multiples of it (a full group stays full).
        fewest: fewest units, above zero, of the groups whose lowest width is zero.
    """

    names: tuple[str, ...]
    sizes: Widths
    lowest: Widths
    step: int = 1
    fewest: Widths = ()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def levels(self) -> tuple[Int64[np.ndarray, " _levels"], ...]:
        """Allowed widths of every group, rising."""
        return tuple(
            np.unique([low, *range(some, size, self.step), size])
            for low, some, size in zip(self.lowest, self.above_zero, self.sizes, strict=True)
        )

    @cached_property
    def above_zero(self) -> Widths:
        """Fewest units of the groups that are there."""
        return tuple(
            low or some for low, some in zip(self.lowest, self.fewest or self.lowest, strict=True)
        )

    def round_down(self, wanted: Float64[np.ndarray, " groups"]) -> Widths:
        """Return the widest allowed widths that exceed the wanted ones nowhere (or the lowest)."""
        lowest, sizes, least = map(np.array, (self.lowest, self.sizes, self.above_zero))
        wanted = wanted + 1e-9
        steps = np.maximum((wanted - least) // self.step, 0).astype(int)
        there = np.where(wanted >= sizes, sizes, least + self.step * steps)
        return tuple(np.where(wanted >= least, there, lowest).tolist())

    def nearest(self, wanted: Float64[np.ndarray, " groups"]) -> Widths:
        """Return the allowed widths nearest to the wanted ones, the narrower of two."""
        pairs = zip(self.levels, wanted, strict=True)
        return tuple(int(levels[np.abs(levels - w).argmin()]) for levels, w in pairs)

    def next_up(self, widths: Widths, group: int) -> Widths | None:
        """Return the widths with one group a level wider, None if it is full."""
        levels = self.levels[group]
        place = int(np.searchsorted(levels, widths[group], side="right"))
        if place == len(levels):
            return None
        return with_width(widths, group, int(levels[place]))

    def contains(self, widths: Widths) -> bool:
        """Return whether every group's width is allowed."""
        return len(widths) == len(self) and all(
            w in levels for w, levels in zip(widths, self.levels, strict=True)
        )

    def ratios(self, widths: Widths) -> Float64[np.ndarray, " groups"]:
        """Return the keep ratio of every group."""
        ratios: Float64[np.ndarray, " groups"] = np.array(widths, dtype=float) / self.sizes
        return ratios

    def ratios_above_zero(self, widths: Widths) -> Float64[np.ndarray, " groups"]:
        """Return keep ratios that have logarithms: half of the fewest units stand for none."""
        halves = 0.5 * self.ratios(self.above_zero)
        return np.where(np.array(widths) > 0, self.ratios(widths), halves)

    def distance(self, widths: Widths, others: Widths) -> float:
        """Return the mean difference of the logarithms of what groups keep."""
        ratios = self.ratios_above_zero(widths) / self.ratios_above_zero(others)
        return float(np.abs(np.log(ratios)).mean())


def with_width(widths: Widths, group: int, width: int) -> Widths:
    """Return the widths with one group's replaced."""
    return (*widths[:group], width, *widths[group + 1 :])


def search_space(
    structure: Structure, min_keep: Mapping[str, float] | float | None = None, step: int = 1
) -> SearchSpace:
    """Return the space of a network's groups.

    Args:
        structure: of the network.
        min_keep: least keep ratio in (0, 1], one for all or by layer-name pattern ("*" is the
            rest); `DEFAULT_MIN_KEEP` by default.
        step: widths are multiples of it; groups no larger than the step stay whole.

    Raises:
        UsageError: a ratio or the step is out of range, or a pattern matches no group.
    """
    if step < 1:
        raise UsageError(f"{spelt('round_to')} must be at least 1, but got {step}.")
    if min_keep is None:
        min_keep = DEFAULT_MIN_KEEP
    patterns = min_keep if isinstance(min_keep, Mapping) else {"*": min_keep}
    for pattern, ratio in patterns.items():
        if not 0 < ratio <= 1:
            raise UsageError(
                f"{spelt('min_keep')} must be in (0, 1], but got {ratio} for {pattern!r}."
            )
        if pattern != "*":
            match_groups(structure, [pattern], "min_keep")
    fewest = []
    for group in structure.groups:
        names = (group.name, *group.producers)
        ratio = next(
            (r for p, r in patterns.items() if p != "*" and matches(names, p)),
            patterns.get("*", DEFAULT_MIN_KEEP),
        )
        some = math.ceil(max(ratio * group.size, 1) / step - 1e-9) * step
        fewest.append(min(some, group.size))
    can_go = {branch.group for branch in structure.branches}
    names = tuple(group.name for group in structure.groups)
    lowest = [0 if name in can_go else some for name, some in zip(names, fewest, strict=True)]
    return SearchSpace(names, structure.dense_widths, tuple(lowest), step, tuple(fewest))


def matches(names: Sequence[str], pattern: str) -> bool:
    """Whether a layer-name pattern (`layer1.*`, or a whole prefix `layer1`) names one of them."""
    layers = [name.removesuffix(".weight") for name in names]
    return any(fnmatch.fnmatchcase(n, pattern) or n.startswith(f"{pattern}.") for n in layers)


def match_groups(structure: Structure, patterns: Sequence[str], option: str) -> list[str]:
    """Return the names of the groups whose channels the named layers make.

    Args:
        structure: of the network.
        patterns: of layers.
        option: by which they were given.

    Raises:
        UsageError: a pattern matches no layer at all.
    """
    chosen = []
    layers = [layer.name for layer in structure.layers]
    for pattern in patterns:
        found = [g.name for g in structure.groups if matches((g.name, *g.producers), pattern)]
        if not found and not matches(layers, pattern):
            raise UsageError(
                f"{spelt(option)}: no layer matches {pattern!r}; {did_you_mean(pattern, layers)}"
            )
        chosen += found
    return chosen
