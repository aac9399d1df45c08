from __future__ import annotations

from typing import Any

import pytest

from autoprune.core.bypass import Bypass, check_order, is_dropped
from autoprune.core.records import plain, read


def test_what_is_under_the_module_goes_but_for_the_children_that_stay() -> None:
    bypass = Bypass("layer2.0", ("downsample", "relu"))
    assert bypass.drops("layer2.0.conv1.weight")
    assert not bypass.drops("layer2.0.downsample.0.weight")
    assert not bypass.drops("layer2.01.conv1.weight")
    assert not bypass.drops("layer2.0")
    assert is_dropped("layer2.0.bn1.bias", [Bypass("layer1"), bypass])
    assert not is_dropped("layer2.0.bn1.bias", [Bypass("layer1")])


def test_files_give_back_what_was_written() -> None:
    bypass = Bypass("layer2.0", ("downsample",))
    assert read(plain(bypass), Bypass) == bypass


@pytest.mark.parametrize(
    "data",
    [
        {"module": ""},
        {"module": "a", "through": ["b.c"]},
        {"module": "a", "through": [""]},
        {"module": "a", "through": ["b", "b"]},
        {"module": "a", "through": "b"},
        {"module": "a", "file": "b"},
        {},
    ],
)
def test_anything_else_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        read(data, Bypass)


def test_modules_are_replaced_once_and_while_they_are_there() -> None:
    check_order([Bypass("a.b"), Bypass("a", ("b",)), Bypass("ab")])
    for second in ("a", "a.b"):
        with pytest.raises(ValueError, match=f"module '{second}' is replaced twice"):
            check_order([Bypass("a"), Bypass(second)])
