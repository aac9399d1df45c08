"""The coverage table: its list, the rows of processes that end early, and the page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def coverage(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the scripts as Python does when one of them is started."""
    names = ("networks", "measure", "run", "page")
    monkeypatch.syspath_prepend(str(root / "experiments/coverage"))
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield lambda name: __import__(name)
    for name in names:
        sys.modules.pop(name, None)


def test_the_list(coverage: Any) -> None:
    listed = coverage("networks").read_list()
    titles = [one.title for one in listed]
    assert len(set(titles)) == len(titles)
    counts = {name: sum(one.library == name for one in listed) for name in ("timm", "transformers")}
    assert counts["timm"] >= 80 and counts["transformers"] >= 10
    one = next(one for one in listed if one.title == "torchvision:vit_b_16")
    assert one.shape == (3, 64, 64) and one.arguments == {"image_size": 64}
    assert one.inputs(1).equal(one.inputs(3)[:1])


@pytest.mark.parametrize(
    ("limits", "reason"),
    [((1, 64.0, False), "ended after 1 s of CPU time"), ((60, 0.001, False), "")],
)
def test_a_process_beyond_its_limits_leaves_a_row(
    coverage: Any, limits: tuple[int, float, bool], reason: str
) -> None:
    run = coverage("run")
    row = run.measured("torchvision:resnet18", run.Limits(*limits))
    # Without memory, whatever library comes first says so in its own words.
    assert row["network"] == "torchvision:resnet18" and row["error"] and reason in row["error"]


def test_the_last_printed_row_is_kept(coverage: Any) -> None:
    printed = 'a library says\n{"stage": "tracing"}\n{"stage": "cut"}\n{"stage": "fo'
    assert coverage("run").last_row("timm:x", printed, "ended after 3 s") == {
        "stage": "cut",
        "error": "ended after 3 s",
    }


FROZEN = [["fc", 10, "the network's output"], ["a.b", 4, "feeds a.c, which is excluded"]]
ROWS = [
    {
        "network": "timm:good", "stage": "done", "error": None,
        "seconds": {"analysis": 70.2, "ONNX": 3.0},
        "groups": 3, "frozen": FROZEN, "reach": 0.25, "share": 0.6, "difference": None,
        "reloaded": True, "dense_onnx_error": 1e-7, "onnx_error": 2e-7,
    },
    {
        "network": "timm:no_onnx", "stage": "dense ONNX", "error": "fails",
        "seconds": {"dense ONNX": 1.0},
        "groups": 1, "frozen": FROZEN[:1], "reach": 0.5, "share": 0.6, "difference": "outputs",
        "reloaded": False,
    },
    {"network": "timm:slow", "stage": "verification", "error": "ended after 9 s"},
]  # fmt: skip


def test_the_page(coverage: Any) -> None:
    page = coverage("page").page(ROWS)
    assert "| good | 3 | 2 | 0.25 | 0.60 | 70 | yes | yes | 2e-07 |  |" in page
    assert "| no_onnx | 1 | 1 | 0.50 | 0.60 | 0 | outputs | no | – |  |" in page
    assert "| slow |  |  |  |  |  |  |  |  | verification: ended after 9 s |" in page
    for line in (
        "in the list | 3 |",
        "| end before they are inspected | 1 |",
        "| reach 0.6 of their MACs | 2 |",
        "| reach 0.3 | 1 |",
        "| differ from the dense network once they are cut | 1 |",
        "| export to ONNX uncut | 1 |",
        "| take more than a minute to trace and verify | 1 |",
        "- **the network's output** (2): good `fc`; no_onnx `fc`",
        "- **feeds …, which is excluded** (1): good `a.b`",
    ):
        assert line in page
