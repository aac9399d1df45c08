"""The options of a search, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from autoprune.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class SearchConfig:
    """How to search; what every field defaults to is what the command line does.

    Attributes:
        budget: e.g. "flops=0.5,params=2M" (`budget.Budget`).
        strategy: who chooses the widths (`agents.STRATEGIES`).
        trials: evaluations; None lets the number of groups decide.
        time: seconds after which the search ends at its best so far; None is no limit.
        sampler: of the strategy "bayes".
        importance: which channels stay.
        exclude: layer-name patterns that stay as they are.
        min_keep: least keep ratio by layer-name pattern; "*" is the rest.
        round_to: widths are multiples of it.
        seed: of all randomness.
        calibration_samples, search_samples, selection_samples: drawn from the data.
    """

    budget: str
    strategy: str = "auto"
    trials: int | None = None
    time: float | None = None
    sampler: str | None = None
    importance: str = "obs"
    exclude: tuple[str, ...] = ()
    min_keep: Mapping[str, float] = field(default_factory=dict)
    round_to: int = 1
    seed: int = 0
    calibration_samples: int = 2000
    search_samples: int = 1000
    selection_samples: int = 1000

    def __post_init__(self) -> None:
        for name in ("trials", "time"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be above zero, but got {value}.")
        if self.seed < 0:
            raise UsageError(f"seed must not be negative, but got {self.seed}.")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SearchConfig:
        """Build from plain values.

        Raises:
            UsageError: an unknown key, or a value out of range.
        """
        known = {f.name for f in fields(cls)}
        for key in values:
            if key not in known:
                raise UsageError(f"unknown option {key!r}; {did_you_mean(key, known)}")
        plain = dict(values)
        exclude = plain.get("exclude", ())
        plain["exclude"] = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        min_keep = plain.get("min_keep") or {}
        plain["min_keep"] = min_keep if isinstance(min_keep, Mapping) else {"*": float(min_keep)}
        return cls(**plain)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values; those that are None are left out."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        return {**values, "exclude": list(self.exclude), "min_keep": dict(self.min_keep)}
