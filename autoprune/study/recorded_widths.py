"""Widths by the names of groups, as runs leave them behind."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.core.policy import Widths
from autoprune.errors import RunError, UsageError, listed, spelt
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.run_directory import RunDirectory


def recorded_widths(run: RunDirectory) -> dict[str, int]:
    """Return how many units of every group the pruned network of a run has.

    Raises:
        RunError: the run is not finished, or damaged.
        UsageError: it has zeros in single weights, which a repair would fill; no channel went.
    """
    if "sparsity" in run.load_result().get("train", {}):
        raise UsageError(
            f"the run in {str(run.path)!r} has zeros in single weights, and all channels: take one "
            "of a search, or of a training that cuts."
        )
    return {name: len(units) for name, units in run.load_policy().kept.items()}


def widths_in(space: SearchSpace, named: Mapping[str, int], whose: str) -> Widths:
    """Return widths in the order of a search space, whether or not it allows them.

    Args:
        space: of a network.
        named: widths by group.
        whose: they are, for messages.

    Raises:
        RunError: they are of other groups, or larger than these.
    """
    pairs = zip(space.names, space.sizes, strict=True)
    if named.keys() != set(space.names) or any(named[name] > size for name, size in pairs):
        raise RunError(f"{whose} is of another network or pruned other groups.")
    return tuple(named[name] for name in space.names)


def allowed_widths_in(space: SearchSpace, named: Mapping[str, int], whose: str) -> Widths:
    """Return the same where the search space allows them.

    Raises:
        RunError: as `widths_in` does.
        UsageError: one is not allowed.
    """
    widths = widths_in(space, named, whose)
    for name, width, levels in zip(space.names, widths, space.levels, strict=True):
        if width not in levels:
            raise UsageError(
                f"{whose}: the width {width} of {name!r} is not allowed, its channels may be "
                f"{listed([str(one) for one in levels])}; give the {spelt('min_keep')}, "
                f"{spelt('round_to')} and {spelt('decide')} that allow it."
            )
    return widths
