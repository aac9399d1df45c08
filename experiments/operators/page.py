"""Generates `docs/operators.md`, which says how every operator is treated, from the table of rules.

    python experiments/operators/page.py > docs/operators.md

`seen.json` lists the operators that networks use; `census.py` writes it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401  (its operators)

from autoprune.structure.tracing.call import Rule, unknown
from autoprune.structure.tracing.products import product
from autoprune.structure.tracing.rules import RULES, SPATIAL, find_rule
from autoprune.structure.tracing.tensor_rules import pointwise, spatial

SEEN = Path(__file__).parent / "seen.json"

HEAD = """\
# Operators

How channels pass through every operator of a forward pass (names in ATen, without the in-place
underscore). This page is generated from the table of rules; a test checks that it is up to date:

    python experiments/operators/page.py > docs/operators.md

Operators without a rule are decomposed into smaller ones. An operator that cannot be decomposed
("unknown" below) freezes the channels that enter it, with a reason; a tensor that it creates
(`arange`) has a fixed size. Every rule's result is verified numerically before it is used.
"""
SEEN_HEAD = """
## Operators that networks use

Found in {networks} (one of every family, traced by `experiments/operators/census.py`):
torchvision (tv), timm and transformers (tf).
"""


def page() -> str:
    """Return the whole page."""
    seen = json.loads(SEEN.read_text())
    networks = ", ".join(f"{count} networks of {name}" for name, count in seen["networks"].items())
    rows = [
        f"| `{name}` | {_libraries(libraries)} | {_title(rule_of(name))} |"
        for name, libraries in seen["operators"].items()
    ]
    table = ["| operator | found in | rule |", "|---|---|---|", *rows]
    return "\n".join([HEAD, *_families(), SEEN_HEAD.format(networks=networks), *table]) + "\n"


def rule_of(name: str) -> Rule:
    """Return the rule for an operator."""
    namespace, _, short = name.rpartition(".")
    library: Any = getattr(torch.ops, namespace or "aten")
    packet = getattr(library, short, None) or getattr(library, f"{short}_")
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    return next(filter(None, (find_rule(name, one) for one in overloads)), unknown)


def _families() -> list[str]:
    names: dict[Rule, list[str]] = defaultdict(list)
    for name, rule in RULES.items():
        names[rule].append(name)
    names[spatial] = [f"{prefix}…" for prefix in SPATIAL]
    more = {
        pointwise: ", and all that PyTorch tags as pointwise",
        product: ", and all whose products PyTorch's own counter knows",
    }
    return [
        f"- **{_title(rule)}.** {_summary(rule)} {_listed(own)}{more.get(rule, '')}."
        for rule, own in sorted(names.items(), key=lambda pair: _title(pair[0]))
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _title(rule: Rule) -> str:
    return rule.__name__.replace("_", " ")


def _summary(rule: Rule) -> str:
    assert rule.__doc__ is not None
    return rule.__doc__.splitlines()[0]


def _libraries(names: Sequence[str]) -> str:
    short: Mapping[str, str] = {"torchvision": "tv", "timm": "timm", "transformers": "tf"}
    return ", ".join(short[name] for name in short if name in names)


if __name__ == "__main__":
    print(page(), end="")
