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
from autoprune.core.records import Record, Text, plain
from autoprune.data.forms import tensors
from autoprune.data.samples import Samples
from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import Evaluators, RepairKind
from autoprune.engine.own_code import digest_of_code
from autoprune.errors import shown
from autoprune.options.origin import ORIGIN
from autoprune.options.search import OPTIONS
from autoprune.reconstruction.sequential import QUICK_EFFORT

KEY = "fingerprint"
"""Under which a study has it."""
# Files and places say nothing of contents, and costs are compared themselves.
_ELSEWHERE = {"latency"}
_MEASURED = (
    "reward", "seed", "calibration_samples", "search_samples", "train_frozen",
    "judge", "from_training",
)  # fmt: skip


class Fingerprint(Record, frozen=True):
    """Digests of a network, and of the samples that candidates are repaired and scored with.

    The last one is of the user's own code; None where some of it comes from no file.
    """

    network: Text
    data: Text
    code: Text | None

    @classmethod
    def of(cls, context: SearchContext) -> Fingerprint:
        """Return that of a search."""
        state = context.model.state_dict()
        named = [(name, one) for name, one in state.items() if hasattr(one, "detach")]
        images = context.images
        samples = {"calibration": images.calibration, "search": images.search}
        data = [pair for name, own in samples.items() for pair in _named(name, own)]
        return cls(digest_of(named), digest_of(data), digest_of_code(context))

    def differs_in(self, other: Fingerprint) -> str | None:
        """Return what is not the same, in words; None if all is."""
        if self.network != other.network:
            return "network"
        if self.data != other.data:
            return "data"
        return None if self.code == other.code else "evaluate, distance, reward or importance"


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
        own: the settings of a search, the judge left out as long as it is not chosen.
        theirs: those of another run.
    """
    mine, others = measured_options(own), measured_options(theirs)
    if mine["judge"] is None:
        others["judge"] = None
    elif mine["judge"] == RepairKind.QUICK.value:
        # Whatever memory was free: no other repair of a search runs on these samples.
        mine["repair_samples"], others["repair_samples"] = map(_quick_samples, (own, theirs))
    for name, value in mine.items():
        if value != others[name]:
            return f"{name}={shown(others[name])} there, and {name}={shown(value)} here"
    return None


def _quick_samples(settings: Mapping[str, Any]) -> int | None:
    """Return how many samples the quick sequential repair runs on; None if it is not known."""
    found = settings.get("repair_samples")
    return found if found is None else min(QUICK_EFFORT.samples or found, found)


def study_name(
    fingerprint: Fingerprint, settings: Mapping[str, Any], evaluators: Evaluators
) -> str:
    """Return the name of the study that all searches of one problem under one budget share.

    Args:
        fingerprint: of the search.
        settings: its options.
        evaluators: its own; what another search evaluator measures is on another scale.
    """
    goal = {key: settings.get(key) for key in ("budget", "latency_table")}
    judge = [evaluators.search_repair.value, len(evaluators.builder.quick_repair.samples)]
    text = json.dumps([plain(fingerprint), measured_options(settings), goal, judge])
    return f"autoprune-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
