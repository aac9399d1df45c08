"""Latency tables as files: what is saved comes back, and whatever else lies there is refused."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tables import IMAGE, layers
from torch import nn

from autoprune.core.untrusted import LARGEST_FILE
from autoprune.cost.latency.correction import TERMS
from autoprune.cost.latency.model import LatencyCost
from autoprune.cost.latency.table import LatencyTable
from autoprune.errors import TableError
from autoprune.structure.groups import Structure
from autoprune.structure.tracing.trace import trace


@pytest.fixture(scope="module")
def structure() -> Structure:
    return trace(layers(), IMAGE)


@pytest.fixture(scope="module")
def table(stair_table: Any, aligned_backend: Any) -> LatencyTable:
    found: LatencyTable = stair_table(layers(), IMAGE, aligned_backend)
    assert [len(one.surfaces) for one in found.layers] == [1, 2, 2]
    return found


def test_a_table_is_the_same_after_a_file(
    table: LatencyTable, structure: Structure, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "table.json"
    table.save(path)
    again = LatencyTable.load(path)
    for widths in ((24,), (11,), (1,)):
        found = LatencyCost(structure, again).total(widths)
        assert found == LatencyCost(structure, table).total(widths)
    assert (again.conditions, again.origin) == (table.conditions, table.origin)
    again.save(path.with_name("again.json"))
    assert path.with_name("again.json").read_bytes() == path.read_bytes()


def test_a_file_begins_with_what_it_is_and_has_a_layer_in_each_line(
    table: LatencyTable, tmp_path: Path
) -> None:
    table.save(tmp_path / "table.json")
    lines = (tmp_path / "table.json").read_text().splitlines()
    assert lines[:3] == ["{", ' "format": "autoprune latency table",', ' "version": 2,']
    keys = [line.split('"')[1] for line in lines if line.startswith(' "')]
    assert keys[2:] == ["conditions", "origin", "call_ms", "correction", "layers"]
    rows = [line for line in lines if line.startswith('  {"layer": {"operator": "')]
    assert len(rows) == len(table.layers)


def broken(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        data = json.loads(text)
        change(data)
        return json.dumps(data)

    return edit


def surface(data: Any) -> Any:
    return data["layers"][0]["surfaces"][0]


def coefficients(**values: Any) -> Callable[[str], str]:
    return broken(lambda data: data["correction"]["coefficients"].update(values))


def curve(part: str, change: Callable[[list[Any]], object]) -> Callable[[str], str]:
    return broken(lambda data: change(surface(data)["outputs"][part]))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda text: text[: len(text) // 2], "cannot read"),
        (lambda text: "", "cannot read"),
        (lambda text: "[1, 2]", "is not a latency table"),
        (broken(lambda d: d.update(version=9)), "format version 9"),
        (broken(lambda d: d.update(layers=[])), "is empty"),
        (broken(lambda d: surface(d).pop("grid")), "damaged.*grid"),
        (
            broken(lambda d: surface(d)["inputs"]["ms"].__setitem__(0, -1.0)),
            "damaged",
        ),
        (broken(lambda d: surface(d)["outputs"]["lengths"].pop()), "damaged"),
        (broken(lambda d: d["conditions"].update(threads=0)), "damaged.*threads"),
        (broken(lambda d: d["conditions"].update(nonsense=0)), "damaged.*'nonsense' is unknown"),
        (broken(lambda d: d["conditions"].update(threads=None)), "damaged.*threads: None"),
        (broken(lambda d: d["conditions"].pop("dtype")), "damaged.*conditions: 'dtype' is missing"),
        (broken(lambda d: d["conditions"].update(dtype="int8")), "damaged.*dtype must be one of"),
        (broken(lambda d: d["correction"].pop("networks")), "damaged.*'networks' is missing"),
        (broken(lambda d: d["origin"].pop("noisy")), "damaged.*origin: 'noisy' is missing"),
        (broken(lambda d: d.update(version=2.0)), "damaged.*version: 2.0"),
        (broken(lambda d: d.update(more=1)), "damaged.*'more' is unknown"),
        (
            broken(lambda d: d["layers"][0]["layer"].update(groups=2)),
            "damaged.*channels do not come in whole groups",
        ),
        (broken(lambda d: d.pop("correction")), "damaged"),
        (broken(lambda d: d.update(call_ms=-1.0)), "damaged.*call_ms: -1.0"),
        (coefficients(odd_ms=-0.5), "damaged.*odd_ms: -0.5"),
        (coefficients(networks=math.nan), "damaged.*networks: nan"),
        (coefficients(weights_mb="1"), "damaged.*weights_mb: '1'"),
        (coefficients(other_mb=math.inf), "damaged.*other_mb: inf"),
        (curve("ms", lambda ms: ms.clear()), "damaged.*different numbers of lengths"),
        (curve("lengths", lambda lengths: lengths.reverse()), "damaged.*do not rise"),
        (curve("lengths", lambda lengths: lengths.__setitem__(-1, 10**12)), "damaged.*lengths"),
        (
            curve("lengths", lambda lengths: lengths.__setitem__(0, True)),
            r"damaged.*lengths\[0\]: True",
        ),
        (curve("spread_ms", lambda spread: spread.__setitem__(0, math.nan)), "damaged.*spread"),
        (broken(lambda d: d["origin"].update(device="a\x1b[2Jb")), "damaged.*device"),
        (broken(lambda d: d["origin"].update(versions=[])), "damaged.*versions"),
        (lambda text: text.replace('"version": 2', f'"version": {"1" * 5000}'), "cannot read"),
        (lambda text: "[" * 100_000, "cannot read"),
        (lambda text: text + " " * LARGEST_FILE, "cannot read.*larger than 64 MB"),
    ],
)
def test_damaged_files(
    table: LatencyTable, tmp_path: Path, edit: Callable[[str], str], words: str
) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    path.write_text(edit(path.read_text()))
    with pytest.raises(TableError, match=words):
        LatencyTable.load(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot read latency table"):
        LatencyTable.load(tmp_path / "none.json")


def test_a_table_that_predicts_nothing_is_refused(
    table: LatencyTable, structure: Structure, tmp_path: Path
) -> None:
    table.save(path := tmp_path / "table.json")
    nothing = coefficients(**dict.fromkeys(TERMS, 0.0))
    path.write_text(nothing(path.read_text()))
    with pytest.raises(TableError, match="predicts no time at all"):
        LatencyCost(structure, LatencyTable.load(path))


def test_odd_widths_that_cost_nothing_are_refused(
    table: LatencyTable, structure: Structure, tmp_path: Path
) -> None:
    """All of the network is aligned in between, and neither at its ends."""
    table.save(path := tmp_path / "table.json")
    for one in ("aligned_ms", "odd_ms"):
        only = coefficients(**dict.fromkeys(TERMS, 0.0) | {one: 1.0})
        path.write_text(only(path.read_text()))
        with pytest.raises(TableError, match="predicts no time at all"):
            LatencyCost(structure, LatencyTable.load(path))


@pytest.mark.parametrize("surface", [0, 1])
def test_a_surface_that_ends_early_is_not_used(
    table: LatencyTable, structure: Structure, tmp_path: Path, surface: int
) -> None:
    table.save(path := tmp_path / "table.json")

    def stump(data: dict[str, Any]) -> None:
        curve = data["layers"][1]["surfaces"][surface]["outputs"]
        for part in curve.values():
            del part[:-1]

    path.write_text(broken(stump)(path.read_text()))
    with pytest.raises(TableError, match="over all its widths"):
        LatencyCost(structure, LatencyTable.load(path))


def test_a_width_that_was_not_measured_is_refused(stair_table: Any) -> None:
    """The first layer is wide in both networks, but only in one of them can it shrink."""
    image = torch.randn(1, 3, 8, 8)
    fixed = nn.Sequential(nn.Conv2d(3, 24, 3), nn.Softmax(1), nn.Conv2d(24, 10, 1))
    free = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 10, 1))
    frozen, table = trace(fixed, image), stair_table(fixed, image)
    assert not frozen.groups and LatencyCost(frozen, table).total(()) > 0
    with pytest.raises(TableError, match=r"no layer conv2d 3x3 3 to 24 .* over all its widths"):
        LatencyCost(trace(free, image), table)


# ---------------------------------------------------------------------------------------- mutations

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from([10**400, 1e308, 5e-324, -0.0, "", "torch", "x" * 10_000]),
    st.text(max_size=5),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (holder, key) of everything in nested JSON."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in pairs:
        yield data, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def mutate(data: dict[str, Any], draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    found = list(places(data))
    holder, key = found[draw(st.integers(0, len(found) - 1))]
    how = draw(st.sampled_from(["replace", "scale", "drop", "repeat", "reverse"]))
    value = holder[key]
    if how == "drop":
        del holder[key]
    elif how == "repeat" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
    elif how == "reverse" and isinstance(value, list):
        value.reverse()
    elif how == "scale" and type(value) in (int, float):
        holder[key] = value * draw(st.sampled_from([-1, 0, 0.5, 2, 1e9, 1e-9, 10**30]))
    else:
        holder[key] = draw(JUNK)


@pytest.fixture(scope="module")
def saved(table: LatencyTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mutated") / "table.json"
    table.save(path)
    return path


def holds(path: Path, content: bytes, structure: Structure) -> None:
    """A file is refused in one line, or every prediction from it is above zero and finite."""
    changed = path.with_name("changed.json")
    changed.write_bytes(content)
    try:
        cost = LatencyCost(structure, LatencyTable.load(changed))
    except TableError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 1000
        return
    for width in (1, 2, 13, 23, 24):
        assert 0 < cost.total((width,)) < math.inf
        assert all(0 <= ms < math.inf for ms in cost.by_layer((width,)).values())


@given(data=st.data())
def test_altered_values_are_refused_or_harmless(
    saved: Path, structure: Structure, data: st.DataObject
) -> None:
    content = json.loads(saved.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(content, data.draw)
    holds(saved, json.dumps(content).encode(), structure)


@given(data=st.data())
def test_altered_bytes_are_refused_or_harmless(
    saved: Path, structure: Structure, data: st.DataObject
) -> None:
    content = bytearray(saved.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    start = data.draw(st.sampled_from([0, 0, 0, len(content) // 2]))
    holds(saved, bytes(content[start:]), structure)
