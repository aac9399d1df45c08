"""What pages are made of: plain values, which `page` shows in HTML and the terminal as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Bar:
    """A figure with a bar behind it.

    Attributes:
        text: the figure.
        share: how long the bar is, from 0 to 1.
    """

    text: str
    share: float

    def __str__(self) -> str:
        return self.text


Cell: TypeAlias = str | Bar


@dataclass(frozen=True)
class Table:
    """A table whose first columns hold texts, and the others figures.

    Attributes:
        caption: what it shows.
        columns: the headings.
        rows: one cell per column.
        texts: the number of columns that hold texts.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    texts: int = 1


@dataclass(frozen=True)
class View:
    """One way to look at a figure.

    Attributes:
        label: what the reader chooses it by.
        data: traces, as Plotly takes them.
        layout: the same; colours come from the page.
    """

    label: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        caption: what it shows, for all.
        summary: the same in words, for those who cannot see it.
        views: the first one is shown until the reader chooses another.
        height: pixels.
    """

    caption: str
    summary: str
    views: Sequence[View]
    height: int = 420


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Something to copy, as it is.

    Attributes:
        text: all of it.
        title: what opens it; empty if it is always open.
    """

    text: str
    title: str = ""


Block: TypeAlias = Table | Figure | Text | Code


@dataclass(frozen=True)
class Section:
    """What stands under one heading.

    Attributes:
        title: the heading.
        blocks: below it.
        link: what leads to it from the top of the page; empty if nothing does.
    """

    title: str
    blocks: Sequence[Block]
    link: str


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: of the page.
        lead: its first sentences: what there is to know.
        sections: in their order.
        origin: what made it.
    """

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]
    origin: str
