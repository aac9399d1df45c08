"""Pages in a real browser, without a network, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chromium import Chromium, chromium, find_chromium
from run_files import groups, write_run
from torch import nn

from autoprune.reporting.latency_page import write_latency_page
from autoprune.reporting.report import report
from autoprune.reporting.run_records import read_runs
from autoprune.reporting.sweep_page import write_sweep_page

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if (program := find_chromium()) is None:
        pytest.skip("needs a Chromium, and there is none (Debian: apt-get install chromium)")
    with chromium(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, stair_table: Any) -> dict[str, Path]:
    """One page of every kind, with names that are long or hostile."""
    folder = tmp_path_factory.mktemp("pages")
    names = (f"layer{'.block' * 30}.conv", EVIL)
    widths = {"widths": {names[0]: [6, 8], names[1]: [2, 4]}}
    runs = [write_run(folder / "a"), write_run(folder / "b", widths, groups(names, EVIL * 20))]
    layers = [nn.Conv2d(a, b, 1) for a, b in zip([3, *range(20, 33)], range(20, 34), strict=True)]
    table = stair_table(nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
    write_latency_page(table, folder / "latency.html")
    write_sweep_page(
        read_runs([write_run(folder / "c"), write_run(folder / "d")]), folder / "sweep.html"
    )
    return {
        "one run": report(runs[1]),
        "two runs": report(*runs, output=folder / "both.html"),
        "sweep": folder / "sweep.html",
        "latency": folder / "latency.html",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    ("kind", "plots"), [("one run", 3), ("two runs", 4), ("sweep", 2), ("latency", 3)]
)
def test_a_page_is_right_at_any_width(
    browser: Chromium, pages: dict[str, Path], kind: str, plots: int, width: int, scheme: str
) -> None:
    seen = browser.visit(pages[kind], width, scheme)
    assert (seen.errors, seen.requests, seen.overflowing) == ([], [], [])
    assert seen.scroll_width <= width
    assert seen.plots == plots


def test_a_fault_would_be_seen(browser: Chromium, tmp_path: Path) -> None:
    wide = '<div style="width: 2000px">wide</div><img src="https://example.org/x.png">'
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><title>x</title>{wide}<script>nothing.there()</script>")
    seen = browser.visit(page, 390)
    assert seen.overflowing == ["DIV."] and seen.scroll_width > 390
    assert seen.requests == ["https://example.org/x.png"]
    assert any("nothing is not defined" in error for error in seen.errors)
