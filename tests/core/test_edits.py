from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from autoprune.core.edits import AttributeEdit
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.errors import RunError

SIZES = {"a": 4, "b": 6}


@pytest.mark.parametrize(
    ("edit", "kept", "value"),
    [
        (AttributeEdit("m", "c", 4, {"a": (1,)}), {"a": 3}, 3),
        (AttributeEdit("m", "c", 8, {"a": (2,)}), {"a": 0}, 0),
        # Behind a concatenation of both groups with 3 channels that stay.
        (AttributeEdit("m", "c", 13, {"a": (1,), "b": (1,)}), {"a": 1, "b": 5}, 9),
        (AttributeEdit("m", "sizes", (4, 9), {"a": (1, 0), "b": (0, 1)}), {"a": 2, "b": 1}, (2, 4)),
        # Four heads of six channels.
        (AttributeEdit("m", "n", 24, {"a": (6,), "b": (4,)}, "product"), {"a": 3, "b": 5}, 15),
    ],
)
def test_a_value_follows_its_groups(
    edit: AttributeEdit, kept: dict[str, int], value: int | tuple[int, ...]
) -> None:
    edit.check(SIZES)
    assert edit.cut_value(SIZES, {**SIZES, **kept}) == value
    assert edit.cut_value(SIZES, SIZES) == edit.value


def test_groups_that_stay_whole_leave_an_edit() -> None:
    edit = AttributeEdit("m", "c", 10, {"a": (1,), "b": (1,)})
    assert edit.without(["a"]) == AttributeEdit("m", "c", 10, {"b": (1,)})
    assert edit.without(["a", "b"]) is None
    assert (edit.name, AttributeEdit("", "c", 1, {}).name) == ("m.c", "c")


def policy(*edits: AttributeEdit) -> PruningPolicy:
    return PruningPolicy({"a": GroupPolicy(4, (0, 2), ())}, "0123", edits)


def test_a_policy_keeps_its_edits() -> None:
    several = policy(
        AttributeEdit("m", "c", 8, {"a": (2,)}), AttributeEdit("m", "s", (4, 4), {"a": (1, 0)})
    )
    data = json.loads(json.dumps(several.to_json()))
    again = PruningPolicy.from_json(data)
    assert (again.edits, data["version"]) == (several.edits, 2)
    assert again.numbers == {("m", "c"): 4, ("m", "s"): (2, 4)}
    assert again.fingerprint == several.fingerprint != policy().fingerprint


EDIT = {"module": "m", "attribute": "c", "value": 8, "per_unit": {"a": [2]}, "rule": "sum"}
FORGERIES: dict[str, tuple[Callable[[Any], object], str]] = {
    "another group": (lambda d: d["edits"][0].update(per_unit={"x": [2]}), "m.c follows group x"),
    "below zero": (lambda d: d["edits"][0].update(per_unit={"a": [3]}), "m.c is not made of"),
    "larger": (lambda d: d["edits"][0].update(per_unit={"a": [-1]}), "of at least 0"),
    "no product": (lambda d: d["edits"][0].update(rule="product", value=9), "m.c is not made of"),
    "an unknown rule": (lambda d: d["edits"][0].update(rule="run"), "'run' is none of sum, prod"),
    "shares": (lambda d: d["edits"][0].update(value=[4, 4]), "m.c lacks a share"),
    "no integer": (lambda d: d["edits"][0].update(value=True), "value: True is not"),
    "a float": (lambda d: d["edits"][0].update(value=0.5), "value: 0.5 is not"),
    "something besides": (lambda d: d["edits"][0].update(code="x"), "'code' is unknown"),
    "twice": (lambda d: d["edits"].append(EDIT), "two edits of one attribute"),
    "in version 1": (lambda d: d.update(version=1), "it changes m.c: that needs format version 2"),
}


@pytest.mark.parametrize(("change", "words"), FORGERIES.values(), ids=FORGERIES)
def test_a_forged_edit_is_refused(change: Callable[[Any], object], words: str) -> None:
    data = json.loads(json.dumps(policy(AttributeEdit("m", "c", 8, {"a": (2,)})).to_json()))
    change(data)
    del data["checksum"]
    with pytest.raises(RunError, match=words) as refused:
        PruningPolicy.from_json(data)
    assert str(refused.value).count("\n") == 0


def test_an_altered_edit_is_refused() -> None:
    data = json.loads(json.dumps(policy(AttributeEdit("m", "c", 8, {"a": (2,)})).to_json()))
    data["edits"][0]["attribute"] = "d"
    with pytest.raises(RunError, match="altered"):
        PruningPolicy.from_json(data)


def test_policies_without_edits_have_the_fingerprint_of_version_1() -> None:
    text = json.dumps(["0123", {"a": [4, []]}], sort_keys=True)
    assert policy().fingerprint == sha256(text.encode()).hexdigest()[:16]
