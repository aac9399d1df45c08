"""Self-contained HTML pages: markup, style and script are one file that needs no network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from autoprune.core.files import write_whole
from autoprune.reporting.blocks import Page


def write_page(page: Page, path: Path) -> None:
    """Write a page, making the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = render(page)
    write_whole(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def render(page: Page) -> str:
    """Return a page as HTML; whatever a block holds is text, never markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("autoprune.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["finite"] = _finite
    return environment.get_template("page.html").render(page=page, plotly=get_plotlyjs())


def _finite(value: Any) -> Any:
    """Return plain data for JSON, which knows neither NaN nor infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value
