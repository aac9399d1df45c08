"""Makes `docs/coverage.md` from the rows that `run.py` wrote.

    python experiments/coverage/page.py rows.jsonl > docs/coverage.md

A row of a later measurement takes the place of earlier ones of the same network.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from networks import read_list

Row = Mapping[str, Any]

# The largest error of an ONNX file that counts as equal, as a share of the largest output.
ONNX_TOLERANCE = 1e-4
# Networks that are named for a reason.
MOST_NAMED = 15

HEAD = """\
# Coverage

What autoprune can do with networks of torchvision, timm and transformers, with random weights and
small inputs. The list is [networks.txt](../experiments/coverage/networks.txt). This page is made
from a measurement:

    python experiments/coverage/run.py rows.jsonl [--without-onnx]
    python experiments/coverage/page.py rows.jsonl > docs/coverage.md

Every network is traced and verified. A random policy then cuts it to 0.6 of its MACs, or as near as
it gets. The cut network runs at two batch sizes, is compared with the dense network whose layers
ignore the cut channels, is saved and loaded into a fresh network, and is written as ONNX.

- *reach*: the least share of the MACs, no group under a tenth of its channels.
- *frozen*: groups that are not cut; the reasons follow below.
- *s*: CPU seconds of tracing and verification together, on one thread.
- *ONNX*: the largest difference from PyTorch, as a share of the largest output; "–" where the dense
  network cannot be exported either, and nothing where it was left to a later run.
"""


def page(rows: Sequence[Row]) -> str:
    """Return the whole page."""
    libraries = dict.fromkeys(row["network"].partition(":")[0] for row in rows)
    parts = [HEAD, *_summary(rows)]
    for library in libraries:
        own = [row for row in rows if row["network"].startswith(f"{library}:")]
        parts += ["", f"## {library}", "", *_table(own)]
    return "\n".join([*parts, "", "## Why groups are frozen", "", *_reasons(rows)]) + "\n"


def _summary(rows: Sequence[Row]) -> list[str]:
    inspected = [row for row in rows if "reach" in row]
    exported = [row for row in rows if row.get("dense_onnx_error") is not None]
    equal = [row for row in exported if row.get("onnx_error", math.inf) <= ONNX_TOLERANCE]
    counts = {
        f"networks measured so far, of {len(read_list())} in the list": len(rows),
        "end before they are inspected": len(rows) - len(inspected),
        "end with an error afterwards, but for ONNX": sum(map(_fails_late, rows)),
        "reach 0.6 of their MACs": sum(row["reach"] <= 0.6 for row in inspected),
        "reach 0.3": sum(row["reach"] <= 0.3 for row in inspected),
        "differ from the dense network once they are cut": sum(
            row.get("difference") is not None for row in rows
        ),
        "are loaded bit for bit": sum(row.get("reloaded") is True for row in rows),
        "were exported to ONNX, or tried": sum(_tried_onnx(row) for row in rows),
        "export to ONNX uncut": len(exported),
        f"of these agree to {ONNX_TOLERANCE:g} once they are cut": len(equal),
        "take more than a minute to trace and verify": sum(_seconds(row) > 60 for row in rows),
    }
    return ["| | |", "|---|---|", *(f"| {what} | {count} |" for what, count in counts.items())]


def _tried_onnx(row: Row) -> bool:
    return bool({"dense ONNX", "ONNX"} & row.get("seconds", {}).keys())


def _fails_late(row: Row) -> bool:
    return bool(row.get("error")) and "reach" in row and not _tried_onnx(row)


def _table(rows: Sequence[Row]) -> list[str]:
    return [
        "| network | groups | frozen | reach | cut to | s | equal | reloaded | ONNX | |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(_line, rows),
    ]


def _line(row: Row) -> str:
    cells = [
        row["network"].partition(":")[2],
        _shown(row.get("groups")),
        _shown(len(row["frozen"]) if "frozen" in row else None),
        _share(row.get("reach")),
        _share(row.get("share")),
        f"{_seconds(row):.0f}" if row.get("seconds") else "",
        "" if "difference" not in row else row["difference"] or "yes",
        {True: "yes", False: "no"}.get(row.get("reloaded"), ""),  # type: ignore[call-overload]
        _onnx(row),
        _failure(row),
    ]
    return f"| {' | '.join(cells)} |"


def _shown(value: int | None) -> str:
    return "" if value is None else str(value)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _seconds(row: Row) -> float:
    return float(row.get("seconds", {}).get("analysis", 0.0))


def _onnx(row: Row) -> str:
    if row["stage"] == "dense ONNX":
        return "–"
    return f"{row['onnx_error']:.0e}" if row.get("onnx_error") is not None else ""


def _failure(row: Row) -> str:
    if not row.get("error"):
        return "nothing to cut" if row.get("groups") == 0 else ""
    if row["stage"] == "dense ONNX":
        return ""
    return f"{row['stage']}: {row['error']}".replace("|", "\\|")[:200]


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Return the reasons by how many networks have them, with the groups of each network."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for name, _, reason in row.get("frozen", []):
            found[_general(reason)][row["network"]].append(name)
    order = Counter({reason: len(networks) for reason, networks in found.items()}).most_common()
    return [f"- **{reason}** ({count}): {_networks(found[reason])}" for reason, count in order]


def _networks(groups: Mapping[str, Sequence[str]]) -> str:
    """Return the first networks with their groups."""
    named = [_places(*one) for one in islice(groups.items(), MOST_NAMED)]
    rest = [f"and {len(groups) - len(named)} more networks"] if len(groups) > len(named) else []
    return "; ".join([*named, *rest])


def _places(network: str, groups: Sequence[str]) -> str:
    return f"{network.partition(':')[2]} `{groups[0]}`" + (
        f" and {len(groups) - 1} more" if len(groups) > 1 else ""
    )


def _general(reason: str) -> str:
    """Return a reason without the names and numbers of one network."""
    # Operators of torchvision are named like modules.
    return re.sub(r"\d+", "N", re.sub(r"\b(?!torchvision)\w+(\.\w+)+", "…", reason))


if __name__ == "__main__":
    lines = Path(sys.argv[1]).read_text().splitlines()
    last = {row["network"]: row for row in map(json.loads, lines)}
    print(page([last[one.title] for one in read_list() if one.title in last]), end="")
