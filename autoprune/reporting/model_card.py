"""A run in the form of a model card: Markdown that a model hub shows."""

from __future__ import annotations

from autoprune.reporting import panels
from autoprune.reporting.blocks import Table, Text
from autoprune.reporting.run_records import RunRecord
from autoprune.version import __version__

_CARD = """\
---
library_name: autoprune
tags:
- pruning
- autoprune
---

# {title}

{headline}

{figures}

Channels were cut by autoprune {version}, strategy {strategy}. The folder holds the widths
(`policy.json`), the weights (safetensors) and all figures (`result.json`).

```python
import autoprune
from huggingface_hub import snapshot_download

network = autoprune.load_pruned(make_model(), snapshot_download("{repository}"))
```

`make_model()` returns the architecture of the dense network; its weights do not matter.
"""


def model_card(run: RunRecord, repository: str) -> str:
    """Return the card of a run.

    Args:
        run: what its directory says.
        repository: where it can be downloaded, "user/name".
    """
    blocks = [_markdown(block) for block in panels.gained(run, panels.MOST_ROWS)]
    return _CARD.format(
        title=repository.rpartition("/")[2],
        headline=_plain(panels.headline(run)),
        figures="\n\n".join(blocks),
        version=__version__,
        strategy=_plain(run.result.searched_by or run.result.strategy),
        repository=repository,
    )


def _markdown(block: object) -> str:
    if isinstance(block, Table):
        lines = [block.columns, ["---"] * len(block.columns), *block.rows]
        rows = ["| " + " | ".join(_plain(str(cell)) for cell in line) + " |" for line in lines]
        return "\n".join(rows) + f"\n\n{_plain(block.caption)}"
    return _plain(block.text) if isinstance(block, Text) else ""


def _plain(text: str) -> str:
    """Return a text in which Markdown and HTML mean nothing."""
    return "".join(f"\\{one}" if one in "\\`*_{}[]<>#|" else one for one in text)
