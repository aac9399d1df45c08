from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoprune.core.bypass import Bypass
from autoprune.core.policy import GroupPolicy, PruningPolicy, hash_shapes
from autoprune.core.slices import Slice
from autoprune.errors import ModelError, RunError
from autoprune.structure.surgery import apply_policy
from autoprune.structure.tracing.trace import trace


def grid(start: int, unit_step: int, units: int, entry_step: int, entries: int) -> list[list[int]]:
    return [[start + u * unit_step + e * entry_step for e in range(entries)] for u in range(units)]


small = st.integers(0, 30)


def regular(units: int) -> st.SearchStrategy[list[list[int]]]:
    return st.builds(grid, small, small, st.just(units), small, st.integers(1, 5))


def irregular(units: int) -> st.SearchStrategy[list[list[int]]]:
    return st.integers(1, 5).flatmap(
        lambda entries: st.lists(
            st.lists(st.integers(0, 10**9), min_size=entries, max_size=entries),
            min_size=units,
            max_size=units,
        )
    )


def slices(units: int) -> st.SearchStrategy[Slice]:
    return st.builds(
        lambda tensor, dim, role, positions: Slice(tensor, dim, role, np.array(positions)),
        st.text(max_size=8),
        st.integers(0, 4),
        st.sampled_from(["producer", "consumer", "carried"]),
        regular(units) | irregular(units),
    )


@st.composite
def group_policies(draw: st.DrawFn) -> GroupPolicy:
    kept = draw(st.sets(st.integers(0, 10), min_size=1))
    size = draw(st.integers(max(kept) + 1, 12))
    return GroupPolicy(size, tuple(sorted(kept)), tuple(draw(st.lists(slices(size), max_size=3))))


def through_text(data: Any) -> Any:
    return json.loads(json.dumps(data))


@given(st.integers(1, 8).flatmap(slices))
def test_slice_round_trip(one: Slice) -> None:
    policy = PruningPolicy({"a": GroupPolicy(len(one.positions), (0,), (one,))}, "")
    (again,) = PruningPolicy.from_json(through_text(policy.to_json())).groups["a"].slices
    assert (again.tensor, again.dim, again.role) == (one.tensor, one.dim, one.role)
    assert again.positions.dtype == np.int64
    assert np.array_equal(again.positions, one.positions)


@given(st.integers(1, 8).flatmap(regular))
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
    "kept units": lambda d: d["groups"]["0"].update(kept=[0, 3, 5]),
    "something besides": lambda d: d.update(note="x"),
    "checksum": lambda d: d.update(checksum=["x"]),
}


@pytest.mark.parametrize("alter", ALTERATIONS.values(), ids=ALTERATIONS)
def test_an_altered_file_is_refused(policy: PruningPolicy, alter: Callable[[Any], object]) -> None:
    data = through_text(policy.to_json())
    alter(data)
    with pytest.raises(RunError, match="altered"):
        PruningPolicy.from_json(data)


@pytest.mark.parametrize("kept", [[2, 1], [1, 1], [-1, 2], [0, 6]])
def test_kept_units_must_be_distinct_and_there(policy: PruningPolicy, kept: list[int]) -> None:
    data = through_text(policy.to_json())
    data["groups"]["0"]["kept"] = kept
    del data["checksum"]  # as in older files
    with pytest.raises(RunError, match=r"group '0': kept must be distinct rising .* below 6"):
        PruningPolicy.from_json(data)


def test_another_version_is_refused(policy: PruningPolicy) -> None:
    with pytest.raises(RunError, match=r"version 3 is not known; .* reads versions 1 and 2"):
        PruningPolicy.from_json({**policy.to_json(), "version": 3})


@pytest.fixture
def without_modules(policy: PruningPolicy) -> PruningPolicy:
    """Return a policy whose group keeps nothing: the modules that hold its tensors go."""
    (name, group), *_ = policy.groups.items()
    modules = sorted({one.tensor.partition(".")[0] for one in group.slices})
    gone = replace(group, kept=())
    return PruningPolicy({name: gone}, policy.shapes_hash, bypasses=tuple(map(Bypass, modules)))


def test_a_group_may_keep_no_unit_from_version_2_on(
    policy: PruningPolicy, without_modules: PruningPolicy
) -> None:
    data = through_text(without_modules.to_json())
    assert (data["version"], policy.to_json()["version"]) == (2, 1)
    again = PruningPolicy.from_json(data)
    assert again.kept == {"0": ()}
    assert again.bypasses == without_modules.bypasses
    del data["checksum"]
    with pytest.raises(RunError, match="group '0' keeps no unit: that needs format version 2"):
        PruningPolicy.from_json({**data, "version": 1})


def test_a_group_without_units_has_no_layers(without_modules: PruningPolicy) -> None:
    data = without_modules.to_json()
    del data["checksum"]
    with pytest.raises(RunError, match="group '0' keeps no unit, but its layers are not gone"):
        PruningPolicy.from_json({**data, "bypasses": data["bypasses"][1:]})


def test_a_module_goes_once(without_modules: PruningPolicy) -> None:
    data = without_modules.to_json()
    del data["checksum"]
    for module in ("0", "0.inner"):
        bypasses = [*data["bypasses"], {"module": module, "through": []}]
        with pytest.raises(RunError, match=f"module '{module}' is replaced twice"):
            PruningPolicy.from_json({**data, "bypasses": bypasses})


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


@pytest.mark.parametrize(
    ("model", "difference"),
    [
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), "has shape .*names 6 entries"),
        (nn.Sequential(nn.ReLU(), nn.Linear(4, 6)), "'0.weight' is not there"),
        (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 9)), "in one that is not pruned"),
    ],
)
def test_it_says_where_another_network_differs(
    policy: PruningPolicy, model: nn.Module, difference: str
) -> None:
    with pytest.raises(ModelError, match=difference):
        apply_policy(model, policy)


def forged(policy: PruningPolicy, change: Callable[[Any], object]) -> Any:
    """Return a changed policy whose fingerprint fits, as anybody could write it."""
    data = through_text(policy.to_json())
    change(data["groups"]["0"])
    structure = {name: [group["size"], group["slices"]] for name, group in data["groups"].items()}
    text = json.dumps([data["shapes"], structure], sort_keys=True)
    data["fingerprint"] = sha256(text.encode()).hexdigest()[:16]
    del data["checksum"]
    return data


GRID = {"start": 0, "unit_step": 1}
FORGERIES: dict[str, tuple[Callable[[Any], object], str]] = {
    "more units than a dimension has": (
        lambda g: g["slices"][0].update(positions={**GRID, "units": 40_000_000}),
        r"slices\[0\].positions.units: 40000000 is not a whole number of at most 2000000",
    ),
    "more entries than memory": (
        lambda g: g["slices"][0]["positions"].update(entries=2_000_000, entry_step=1),
        "12000000 positions are more than a dimension has",
    ),
    "many slices": (
        lambda g: g.update(
            size=2_000_000,
            slices=[{**g["slices"][0], "positions": {**GRID, "units": 2_000_000}}] * 50,
        ),
        "names 1.0e\\+08 tensor entries",
    ),
    "below zero": (
        lambda g: g["slices"][0]["positions"].update(start=2, unit_step=-1),
        "positions below zero",
    ),
    "fewer units than the group": (
        lambda g: g["slices"][0]["positions"].update(units=5),
        "a slice has 5 units, the group 6",
    ),
    "a dimension that is not there": (
        lambda g: g["slices"][0].update(dim=2),
        r"'0.weight' has shape \(6, 4\), where the policy names 6 entries along dimension 2",
    ),
    "beyond the tensor": (
        lambda g: g["slices"][0]["positions"].update(start=1),
        "names 7 entries along dimension 0",
    ),
    "a tensor that is not there": (
        lambda g: g["slices"][0].update(tensor="\x1b[2J" + "x" * 900),
        "is not there",
    ),
    "thousands of digits": (lambda g: g.update(size=10**4000), "size: .* is not a whole number"),
    "no number": (lambda g: g.update(size=6.0), "size: 6.0 is not a whole number"),
    "an unknown role": (lambda g: g["slices"][0].update(role="spy"), "role: 'spy' is none of"),
    "something besides": (lambda g: g.update(note=1), "'note' is unknown"),
}


@pytest.mark.parametrize(("change", "words"), FORGERIES.values(), ids=FORGERIES)
def test_a_forged_policy_is_refused_before_it_takes_memory(
    policy: PruningPolicy, change: Callable[[Any], object], words: str
) -> None:
    data = forged(policy, change)
    tracemalloc.start()
    with pytest.raises((RunError, ModelError), match=words) as refused:
        apply_policy(model(), PruningPolicy.from_json(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(str(refused.value)) < 500 and str(refused.value).isprintable()
    assert peak < 2**20


def test_policies_without_a_checksum_are_read(policy: PruningPolicy) -> None:
    data = through_text(policy.to_json())
    del data["checksum"]
    assert PruningPolicy.from_json(data).to_json() == policy.to_json()


def test_the_fingerprint_of_files_in_use_stays_as_it_is(policy: PruningPolicy) -> None:
    assert policy.fingerprint == "886ed99368230bd4"
