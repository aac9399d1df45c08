from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from residuals import IMAGES, basic
from torch import nn

from autoprune.errors import UsageError
from autoprune.search_spaces.keep_ratio import SearchSpace, match_groups, search_space, with_width
from autoprune.structure.depth import with_branches
from autoprune.structure.groups import Structure
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import analyze


@pytest.fixture(scope="module")
def structure() -> Structure:
    """Groups "stem" (20), "body.0" (12) and "body.1" (6); the head is frozen."""
    body = nn.Sequential(nn.Linear(20, 12), nn.Linear(12, 6))
    model = nn.Sequential()
    for name, part in {"stem": nn.Linear(5, 20), "body": body, "head": nn.Linear(6, 3)}.items():
        model.add_module(name, part)
    return trace(model, torch.randn(1, 5))


@pytest.mark.parametrize(
    ("min_keep", "step", "lowest"),
    [
        (None, 1, (2, 2, 1)),
        (0.25, 1, (5, 3, 2)),
        (1.0, 1, (20, 12, 6)),
        (1e-9, 1, (1, 1, 1)),
        (None, 4, (4, 4, 4)),
        (0.25, 4, (8, 4, 4)),
        (None, 8, (8, 8, 6)),
        ({"body": 0.5}, 1, (2, 6, 3)),
        ({"body.1": 0.5, "*": 0.25}, 1, (5, 3, 3)),
        ({"body.*": 0.5, "stem": 1.0}, 1, (20, 6, 3)),
    ],
)
def test_lowest_widths(
    structure: Structure,
    min_keep: Mapping[str, float] | float | None,
    step: int,
    lowest: tuple[int, ...],
) -> None:
    space = search_space(structure, min_keep, step)
    assert (space.names, space.sizes) == (("stem", "body.0", "body.1"), (20, 12, 6))
    assert space.lowest == lowest


def test_levels_are_multiples_and_the_full_size(structure: Structure) -> None:
    levels = [list(one) for one in search_space(structure, step=8).levels]
    assert levels == [[8, 16, 20], [8, 12], [6]]


@pytest.mark.parametrize(
    ("min_keep", "step", "message"),
    [
        (0.0, 1, r"min_keep must be in \(0, 1\], but got 0.0"),
        (-0.5, 1, r"min_keep must be in \(0, 1\], but got -0.5"),
        (1.5, 1, r"min_keep must be in \(0, 1\], but got 1.5"),
        (float("nan"), 1, r"min_keep must be in \(0, 1\], but got nan"),
        ({"stem": 2.0}, 1, "but got 2.0 for 'stem'"),
        ({"steam": 0.5}, 1, "min_keep: no layer matches 'steam'; did you mean 'stem'?"),
        (None, 0, "round_to must be at least 1, but got 0"),
        (None, -8, "round_to must be at least 1, but got -8"),
    ],
)
def test_bad_requests(
    structure: Structure, min_keep: Mapping[str, float] | float | None, step: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        search_space(structure, min_keep, step)


def test_patterns_choose_groups(structure: Structure) -> None:
    assert match_groups(structure, ["body", "stem"], "exclude") == ["body.0", "body.1", "stem"]
    assert match_groups(structure, ["*.1"], "exclude") == ["body.1"]
    assert match_groups(structure, ["head"], "exclude") == []
    with pytest.raises(UsageError, match=r"exclude: no layer matches 'body\.7'; did you mean"):
        match_groups(structure, ["body.7"], "exclude")


spaces = st.lists(st.integers(1, 40), min_size=1, max_size=5).flatmap(
    lambda sizes: st.builds(
        lambda step: SearchSpace(
            tuple(map(str, range(len(sizes)))),
            tuple(sizes),
            tuple(min(step, size) for size in sizes),
            step,
        ),
        st.sampled_from([1, 4, 8]),
    )
)


@given(spaces, st.data())
def test_rounding_down_is_allowed_and_exceeds_nothing_but_the_lowest(
    space: SearchSpace, data: st.DataObject
) -> None:
    wanted = np.array([data.draw(st.floats(0, 50)) for _ in space.sizes])
    widths = space.round_down(wanted)
    assert space.contains(widths)
    assert all(
        w <= max(x + 1e-6, low) for w, x, low in zip(widths, wanted, space.lowest, strict=True)
    )
    for group, wish in enumerate(wanted):  # and nothing wider would do
        wider = space.next_up(widths, group)
        assert wider is None or wider[group] > wish
    assert space.round_down(np.array(widths, dtype=float)) == widths


@given(spaces)
def test_next_up_climbs_every_level(space: SearchSpace) -> None:
    for group, levels in enumerate(space.levels):
        climbed = [space.lowest]
        while (wider := space.next_up(climbed[-1], group)) is not None:
            climbed.append(wider)
        assert [widths[group] for widths in climbed] == list(levels)
        assert all(space.contains(widths) for widths in climbed)


def test_contains_refuses_what_is_between_or_outside(structure: Structure) -> None:
    space = search_space(structure, step=8)
    assert space.contains((16, 12, 6))
    assert not any(map(space.contains, [(17, 12, 6), (24, 12, 6), (0, 12, 6), (16, 12)]))


def test_with_width() -> None:
    assert with_width((3, 4, 5), 1, 9) == (3, 9, 5)


def test_zero_is_a_width_where_a_branch_can_go() -> None:
    model = basic()
    structure = with_branches(model, IMAGES, analyze(model, IMAGES))
    space = search_space(structure, 0.5)
    place = structure.index["blocks.0.conv1"]
    assert space.levels[place].tolist() == [0, 4, 5, 6, 7]
    others = [
        low for name, low in zip(space.names, space.lowest, strict=True) if "conv1" not in name
    ]
    assert all(others)
    wanted = np.full(len(space), 3.9)
    assert space.round_down(wanted)[place] == 0
    assert space.round_down(wanted + 0.2)[place] == 4
    assert space.next_up(space.lowest, place)[place] == 4
    assert search_space(analyze(model, IMAGES), 0.5).lowest[place] == 4


def test_ratios_that_have_logarithms_are_above_zero() -> None:
    space = SearchSpace(("a", "b"), (8, 8), (0, 1), 1, (4, 1))
    assert space.ratios_above_zero((0, 4)).tolist() == [0.25, 0.5]
