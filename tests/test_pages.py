"""The pages: links lead somewhere, named files exist, and the examples for contributors run."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

PAGES = ("README.md", "CONTRIBUTING.md")
WITH_PATHS = ("CONTRIBUTING.md", "docs/architecture.md", "docs/decisions/*.md")

EXAMPLES = {
    "agents/nearby.py",
    "autoprune/agents/nearby.py",
    "autoprune/cost/flash.py",
    "autoprune/importance/largest_weight.py",
}
"""Files that a reader would make."""


def pages(root: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [page for pattern in patterns for page in sorted(root.glob(pattern))]


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere(root: Path) -> None:
    lost = []
    for page in pages(root, (*PAGES, "docs/**/*.md")):
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            goal = (page.parent / path).resolve() if path else page
            if "://" in target:
                continue
            if not goal.exists() or (anchor and anchor not in anchors(goal)):
                lost.append((page.relative_to(root).as_posix(), target))
    assert not lost


def missing(root: Path) -> set[str]:
    """Return the Python files and folders in backticks that are not in the tree."""
    text = "".join(page.read_text(encoding="utf-8") for page in pages(root, WITH_PATHS))
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", text))
    return {one for one in named if not any((root / at / one).exists() for at in ("", "autoprune"))}


def test_named_files_exist(root: Path) -> None:
    assert not sorted(missing(root) - EXAMPLES)


def test_examples_for_contributors_are_complete(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each defines one class that leaves nothing of its contract open."""
    blocks = code_blocks(root / "CONTRIBUTING.md")
    assert len(blocks) == 4
    for block in blocks:
        module = ModuleType("example")
        monkeypatch.setitem(sys.modules, "example", module)  # dataclasses look their module up
        exec(compile(block, "CONTRIBUTING.md", "exec"), vars(module))
        classes = filter(inspect.isclass, vars(module).values())
        (made,) = (one for one in classes if one.__module__ == "example")
        assert not inspect.isabstract(made), made
        assert made.__doc__
