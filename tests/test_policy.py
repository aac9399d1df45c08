from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoprune.errors import ModelError, RunError
from autoprune.policy import GroupPolicy, PruningPolicy, Slice, hash_shapes
from autoprune.structure.surgery import apply_policy
from autoprune.structure.trace import trace


def grid(start: int, unit_step: int, units: int, entry_step: int, entries: int) -> list[list[int]]:
    return [[start + u * unit_step + e * entry_step for e in range(entries)] for u in range(units)]


small = st.integers(0, 30)
regular = st.builds(grid, small, small, st.integers(1, 8), small, st.integers(1, 5))
irregular = st.integers(1, 5).flatmap(
    lambda entries: st.lists(
        st.lists(st.integers(0, 10**9), min_size=entries, max_size=entries), min_size=1, max_size=8
    )
)
slices = st.builds(
    lambda tensor, dim, role, positions: Slice(tensor, dim, role, np.array(positions)),
    st.text(max_size=8),
    st.integers(0, 4),
    st.sampled_from(["producer", "consumer", "carried"]),
    regular | irregular,
)


@st.composite
def group_policies(draw: st.DrawFn) -> GroupPolicy:
    kept = draw(st.sets(st.integers(0, 20), min_size=1))
    return GroupPolicy(
        draw(st.integers(max(kept) + 1, 40)),
        tuple(sorted(kept)),
        tuple(draw(st.lists(slices, max_size=3))),
    )


def through_text(data: Any) -> Any:
    return json.loads(json.dumps(data))


@given(slices)
def test_slice_round_trip(one: Slice) -> None:
    again = Slice.from_json(through_text(one.to_json()))
    assert (again.tensor, again.dim, again.role) == (one.tensor, one.dim, one.role)
    assert again.positions.dtype == np.int64
    assert np.array_equal(again.positions, one.positions)


@given(regular)
def test_regular_positions_take_few_numbers(positions: list[list[int]]) -> None:
    written = Slice("w", 0, "producer", np.array(positions)).to_json()["positions"]
    assert isinstance(written, dict)
    assert len(written) <= 5


@given(st.dictionaries(st.text(max_size=8), group_policies(), max_size=3))
def test_policy_round_trip(groups: dict[str, GroupPolicy]) -> None:
    policy = PruningPolicy(groups, "abc")
    again = PruningPolicy.from_json(through_text(policy.to_json()))
    assert again.to_json() == policy.to_json()
    assert again.kept == policy.kept
    assert again.fingerprint == policy.fingerprint


def model() -> Any:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.fixture
def policy() -> PruningPolicy:
    return trace(model(), torch.randn(1, 4)).policy([[0, 2, 5]])


def test_a_saved_policy_cuts_another_copy_of_the_network(
    policy: PruningPolicy, tmp_path: Path
) -> None:
    policy.save(tmp_path / "policy.json")
    loaded = PruningPolicy.load(tmp_path / "policy.json")
    dense = model()
    cut: Any = apply_policy(dense, loaded)
    assert torch.equal(cut[0].weight, dense[0].weight[[0, 2, 5]])
    assert torch.equal(cut[2].weight, dense[2].weight[:, [0, 2, 5]])


def test_fingerprint_is_of_the_structure_alone(policy: PruningPolicy) -> None:
    others = [trace(model(), torch.randn(1, 4)).policy([kept]) for kept in ([0], [1, 2])]
    assert {other.fingerprint for other in others} == {policy.fingerprint}
    wider = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3))
    assert trace(wider, torch.randn(1, 4)).policy([[0]]).fingerprint != policy.fingerprint


def test_shape_hash_sees_names_and_shapes() -> None:
    hashes = {hash_shapes(s) for s in ({"a": (1, 2)}, {"b": (1, 2)}, {"a": (2, 1)}, {})}
    assert len(hashes) == 4
    assert hash_shapes({"a": [1], "b": [2]}) == hash_shapes({"b": (2,), "a": (1,)})


ALTERATIONS: dict[str, Callable[[Any], object]] = {
    "group renamed": lambda d: d["groups"].update({"x": d["groups"].pop("0")}),
    "group size": lambda d: d["groups"]["0"].update(size=7),
    "shapes": lambda d: d.update(shapes="0" * 16),
    "tensor": lambda d: d["groups"]["0"]["slices"][0].update(tensor="nowhere"),
    "dimension": lambda d: d["groups"]["0"]["slices"][0].update(dim=1),
    "positions": lambda d: d["groups"]["0"]["slices"][0].update(positions=[[9]] * 6),
    "units": lambda d: d["groups"]["0"]["slices"][0]["positions"].update(units=2),
    "slice dropped": lambda d: d["groups"]["0"]["slices"].pop(),
    "fingerprint": lambda d: d.update(fingerprint=""),
}


@pytest.mark.parametrize("alter", ALTERATIONS.values(), ids=ALTERATIONS)
def test_an_altered_file_is_refused(policy: PruningPolicy, alter: Callable[[Any], object]) -> None:
    data = through_text(policy.to_json())
    alter(data)
    with pytest.raises(RunError, match="altered"):
        PruningPolicy.from_json(data)


@pytest.mark.parametrize("kept", [[], [2, 1], [1, 1], [-1, 2], [0, 6]])
def test_kept_units_must_be_distinct_and_there(policy: PruningPolicy, kept: list[int]) -> None:
    data = through_text(policy.to_json())
    data["groups"]["0"]["kept"] = kept
    with pytest.raises(RunError, match=r"group '0': kept must be distinct rising .* below 6"):
        PruningPolicy.from_json(data)


def test_another_version_is_refused(policy: PruningPolicy) -> None:
    with pytest.raises(RunError, match="version 2 is not known; this autoprune reads version 1"):
        PruningPolicy.from_json({**policy.to_json(), "version": 2})


MALFORMED_POSITIONS: list[Any] = [[], [[]], [1, 2], [[1], [2, 3]], "all", {"start": 0}, None]


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        3,
        "policy",
        {},
        {"version": 1},
        {"version": 1, "groups": [], "shapes": "", "fingerprint": ""},
        {"version": 1, "groups": {"a": None}, "shapes": "", "fingerprint": ""},
        {"version": 1, "groups": {"a": {"size": "many"}}, "shapes": "", "fingerprint": ""},
        *(
            {
                "version": 1,
                "groups": {
                    "a": {
                        "size": 2,
                        "kept": [0],
                        "slices": [{"tensor": "", "dim": 0, "role": "carried", "positions": p}],
                    }
                },
                "shapes": "",
                "fingerprint": "",
            }
            for p in MALFORMED_POSITIONS
        ),
    ],
)
def test_what_is_no_policy_is_refused(data: Any) -> None:
    with pytest.raises(RunError, match="not a pruning policy"):
        PruningPolicy.from_json(data)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", None])
def test_what_cannot_be_read_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"cannot read policy '.*policy\.json'"):
        PruningPolicy.load(path)


def test_another_network_is_refused(policy: PruningPolicy) -> None:
    with pytest.raises(ModelError, match=r"another network than Linear.*first difference: '0"):
        apply_policy(nn.Linear(4, 6), policy)
