"""What the measurements of a search depend on, in a few words: searches that agree can share them.

Measurements are of one network, on the same samples, by the same options. The options are compared
one by one, so that a message can name the one that differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from autoprune.core.digest import digest_of
from autoprune.core.records import Record, Text
from autoprune.data.forms import tensors
from autoprune.data.samples import Samples
from autoprune.engine.context import SearchContext
from autoprune.errors import shown
from autoprune.options.origin import ORIGIN
from autoprune.options.search import OPTIONS

KEY = "fingerprint"
"""Under which a study has it."""
# Files and places say nothing of contents, and costs are compared themselves.
_ELSEWHERE = {"latency"}
_MEASURED = (
    "reward", "seed", "calibration_samples", "search_samples", "train_frozen",
    "judge", "repair_samples", "from_training",
)  # fmt: skip


class Fingerprint(Record, frozen=True):
    """Digests of a network, and of the samples that candidates are repaired and scored with."""

    network: Text
    data: Text

    @classmethod
    def of(cls, context: SearchContext) -> Fingerprint:
        """Return that of a search."""
        state = context.model.state_dict()
        named = [(name, one) for name, one in state.items() if hasattr(one, "detach")]
        images = context.images
        samples = {"calibration": images.calibration, "search": images.search}
        data = [pair for name, own in samples.items() for pair in _named(name, own)]
        return cls(digest_of(named), digest_of(data))

    def differs_in(self, other: Fingerprint) -> str | None:
        """Return what is not the same, in words; None if all is."""
        if self.network != other.network:
            return "network"
        return "data" if self.data != other.data else None


def _named(name: str, samples: Samples) -> list[tuple[str, Any]]:
    inputs = [(f"{name} {shape_of(one)}", one) for one in tensors(samples.inputs)]
    if samples.targets is None:
        return inputs
    return [*inputs, (f"{name} targets", samples.targets)]


def shape_of(tensor: Any) -> str:
    """Return shape and type of a tensor in words."""
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def measured_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run that measurements depend on; None for those that are not set."""
    by_declaration = {
        name
        for name, one in OPTIONS.items()
        if one.recalled_with is not None and one.recalled_with not in {ORIGIN, *_ELSEWHERE}
    }
    return {name: settings.get(name) for name in sorted({*by_declaration, *_MEASURED})}


def other_option(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return the first option that measurements depend on and that differs, with both values.

    Args:
        own: the settings of a search, those among `_MEASURED` that are chosen on its way left out
            as long as they are not known.
        theirs: those of another run.
    """
    mine, others = measured_options(own), measured_options(theirs)
    for name, value in mine.items():
        is_open = name in ("judge", "repair_samples") and value is None
        if value != others[name] and not is_open:
            return f"{name}={shown(others[name])} there, and {name}={shown(value)} here"
    return None


def study_name(fingerprint: Fingerprint, settings: Mapping[str, Any]) -> str:
    """Return the name of the study that all searches of one problem under one budget share."""
    goal = {key: settings.get(key) for key in ("budget", "latency_table")}
    text = json.dumps([fingerprint.network, fingerprint.data, measured_options(settings), goal])
    return f"autoprune-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
