"""Tuning constants of the stages of a search, addressable as `[engine.STAGE]` in TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.agents.config import Amount, Count, configured
from autoprune.core.records import Natural
from autoprune.errors import UsageError, did_you_mean, shown


@dataclass(frozen=True)
class RepairLimits:
    """When a more thorough repair is worth its time.

    Attributes:
        clearly_better: the KL that a slower repair must reach in the search, as a share of the
            quicker one's.
        affordable: the most work of a quick sequential repair in the search, as a multiple of the
            work of scoring a candidate.
        pays: how many times less work the quick repair of finalists must be than the thorough
            one. Scoring, the same for both, is left out of the ratio.
    """

    clearly_better: Amount = 0.9
    affordable: Amount = 2.0
    pays: Amount = 4.0


@dataclass(frozen=True)
class FinalistLimits:
    """How many trials are looked at again.

    Attributes:
        shortlist: best trials that are prescreened.
        diverse: the same where the search evaluator repaired candidates as a whole: fewer, which
            differ from each other.
        apart: mean difference of the logarithms of keep ratios at which two of these differ:
            neighbours are as good as each other, or as overrated.
        prescreened: finalists where a quick repair has prescreened the shortlist.
        unscreened: finalists where there is no quick repair, or it is no better than the search's.
    """

    shortlist: Count = 24
    diverse: Count = 12
    apart: Amount = 0.03
    prescreened: Count = 4
    unscreened: Count = 8


@dataclass(frozen=True)
class RoundLimits:
    """How often a miss is followed up.

    Attributes:
        most: rounds after the first one.
        extra_trials: trials of each of these, as a part of the first one's.
        fewest: trials of each at least.
    """

    most: Natural = 4
    extra_trials: Amount = 0.25
    fewest: Count = 8


@dataclass(frozen=True)
class StorageLimits:
    """When a process that searches a shared study (`--storage`) counts as dead.

    Attributes:
        heartbeat: seconds between two signs of life.
        patience: signs that may be missing; where a storage knows no heartbeats (a journal), the
            minutes after which a candidate that was begun elsewhere is evaluated again.
    """

    heartbeat: Count = 20
    patience: Count = 3


@dataclass(frozen=True)
class StageLimits:
    """The limits of every stage."""

    repair: RepairLimits = field(default_factory=RepairLimits)
    finalists: FinalistLimits = field(default_factory=FinalistLimits)
    rounds: RoundLimits = field(default_factory=RoundLimits)
    storage: StorageLimits = field(default_factory=StorageLimits)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> StageLimits:
        """Build from tables by stage, e.g. `{"finalists": {"shortlist": 12}}`.

        Raises:
            UsageError: an unknown stage or limit, or a value of the wrong type or out of range.
        """
        kinds: dict[str, type[Any]] = {
            "repair": RepairLimits,
            "finalists": FinalistLimits,
            "rounds": RoundLimits,
            "storage": StorageLimits,
        }
        for stage in values:
            if stage not in kinds:
                raise UsageError(f"unknown stage engine.{stage}; {did_you_mean(stage, kinds)}")
        limits = {}
        for stage, table in values.items():
            if not isinstance(table, Mapping):
                raise UsageError(f"engine.{stage} must be a table, but got {shown(table)}.")
            limits[stage] = configured(kinds[stage](), table, f"the stage {stage!r}")
        return cls(**limits)
