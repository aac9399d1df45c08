"""A page is one file; what a block holds is text, whatever it looks like."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from autoprune.reporting.blocks import Bar, Code, Figure, Page, Section, Table, Text, View
from autoprune.reporting.page import render, write_page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"


class Tags(HTMLParser):
    """Collects the start tags of a page, with their attributes, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page(text: str) -> Page:
    data = [{"type": "scatter", "x": [1, math.nan], "y": [math.inf, 2.0], "name": text}]
    figure = Figure(text, text, [View(text, data, {}), View("other", [], {})])
    table = Table(text, [text, "b", "c"], [[text, Bar(text, 0.5), text]], texts=1)
    blocks = [Text(text), Code(text), Code(text, text), table, figure]
    return Page(text, [text], [Section(text, blocks, text), Section("b", [], "b")], text)


@pytest.fixture(scope="module")
def hostile() -> str:
    return render(page(HOSTILE))


def test_whatever_a_block_holds_is_text(hostile: str) -> None:
    harmless, found = Tags(render(page("harmless"))), Tags(hostile)
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in harmless.tags]
    assert [own.keys() for _, own in found.tags] == [own.keys() for _, own in harmless.tags]
    assert found.texts.count(HOSTILE) == harmless.texts.count("harmless")
    assert "49" not in {text.strip() for text in found.texts}  # templates are not evaluated twice


def test_figures_are_json_without_nan(hostile: str) -> None:
    (content,) = re.findall(r'<script type="application/json">(.*?)</script>', hostile, re.S)
    (first, second) = json.loads(content)
    assert first["data"] == [{"type": "scatter", "x": [1, None], "y": [None, 2.0], "name": HOSTILE}]
    assert second == {"data": [], "layout": {}}


def test_a_page_asks_for_nothing(hostile: str) -> None:
    found = Tags(hostile)
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in found.tags}
    for _, attributes in found.tags:
        assert not {"src", "srcset", "action", "data", "background"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    policies = [own for _, own in found.tags if own.get("http-equiv") == "Content-Security-Policy"]
    assert str(policies[0]["content"]).startswith("default-src 'none'")


def test_a_reader_can_find_the_way(hostile: str) -> None:
    found = Tags(hostile)
    tags = [tag for tag, _ in found.tags]
    assert tags.count("h1") == 1 and tags.count("main") == 1
    assert ("html", {"lang": "en"}) in found.tags
    scopes = [own.get("scope") for tag, own in found.tags if tag == "th"]
    assert set(scopes) == {"col", "row"}
    images = [own for _, own in found.tags if own.get("role") == "img"]
    assert images and all(own.get("aria-label") for own in images)
    identifiers = {own["id"] for _, own in found.tags if "id" in own}
    links = {str(own["href"])[1:] for tag, own in found.tags if tag == "a"}
    assert links and links <= identifiers
    assert tags.count("figure") == tags.count("figcaption")


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    write_page(page("ä"), tmp_path / "new" / "page.html")
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["page.html"]
    assert "<h1>ä</h1>" in (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
