"""The latency table of one device: a readable file, and the layers in it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoprune.cost.latency.backends import Conditions
from autoprune.cost.latency.correction import Correction
from autoprune.cost.latency.curves import LayerLatency
from autoprune.cost.latency.signature import Signature
from autoprune.errors import TableError, UsageError, first_line

FORMAT, VERSION = "autoprune latency table", 1


@dataclass(frozen=True)
class Origin:
    """Where and when a table was measured.

    Attributes:
        device: name of the processor.
        versions: of the libraries that it was measured with.
        date: in ISO 8601.
        noisy: measurements whose spread exceeds what was measured.
        measurements: of layers.
        seconds: that measuring took.
    """

    device: str
    versions: Mapping[str, str]
    date: str
    noisy: int = 0
    measurements: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Measured latencies of layers, for predictions of whole networks.

    Attributes:
        conditions: under which all of it was measured.
        origin: where and when.
        layers: measured.
        correction: from sums of layers to networks.
    """

    conditions: Conditions
    origin: Origin
    layers: tuple[LayerLatency, ...] = field(repr=False)
    correction: Correction = field(repr=False)

    def find(self, signature: Signature) -> LayerLatency:
        """Return the latencies that hold for a layer: its own, or of a wider one of its kind.

        Raises:
            TableError: it was not measured.
        """
        like = [one for one in self.layers if one.dense.is_like(signature)]
        wide = [
            one
            for one in like
            if one.dense.inputs >= signature.inputs
            and one.dense.channels_out >= signature.channels_out
            and (len(one.inputs.lengths) > 1 or one.dense.inputs == signature.inputs)
            and (len(one.outputs.lengths) > 1 or one.dense.channels_out == signature.channels_out)
        ]
        if not wide:
            raise TableError(
                f"the latency table has no layer {signature} for {self.about}: measure one for "
                "this network and this input size with `autoprune profile`."
            )
        return min(wide, key=lambda one: one.dense.weight_count)

    def check(self, *, batch: int, dtype: str) -> None:
        """Refuse predictions under conditions that it was not measured under.

        Raises:
            TableError: another batch size or data type.
        """
        own = self.conditions
        if own.batch != batch:
            raise TableError(
                f"the latency table was measured at batch {own.batch}, not {batch}: measure one "
                f"with --batch {batch}."
            )
        if own.dtype != dtype:
            raise TableError(
                f"the latency table was measured in {own.dtype}, but the network computes in "
                f"{dtype}: measure one with --dtype {dtype}."
            )

    @property
    def about(self) -> str:
        """What it was measured on, in words."""
        own = self.conditions
        plural = "s" if own.threads > 1 else ""
        return f"{own.backend} on {self.origin.device} ({own.threads} thread{plural})"

    def save(self, path: Path) -> None:
        """Write the table; a file that is there is replaced in one step."""
        data = {
            "format": FORMAT,
            "version": VERSION,
            "conditions": self.conditions.to_json(),
            "origin": vars(self.origin) | {"versions": dict(self.origin.versions)},
            "correction": self.correction.to_json(),
        }
        head = json.dumps(data, indent=1, ensure_ascii=False).removesuffix("\n}")
        rows = ",\n".join(f"  {json.dumps(one.to_json())}" for one in self.layers)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        new.write_text(f'{head},\n "layers": [\n{rows}\n ]\n}}\n', encoding="utf-8")
        os.replace(new, path)

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a table written by `save`.

        Raises:
            TableError: there is none, or it is truncated, altered, empty or of another version.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise TableError(
                f"cannot read latency table {str(path)!r}: {first_line(error)}."
            ) from (error)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise TableError(f"{str(path)!r} is no latency table: make one with autoprune profile.")
        if data.get("version") != VERSION:
            raise TableError(
                f"latency table {str(path)!r} has format version {data.get('version')!r}; this "
                f"autoprune reads version {VERSION}."
            )
        try:
            table = cls(
                Conditions(**data["conditions"]),
                Origin(**data["origin"]),
                tuple(map(LayerLatency.from_json, data["layers"])),
                Correction.from_json(data["correction"]),
            )
        except (
            LookupError, TypeError, ValueError, AttributeError, ArithmeticError, UsageError
        ) as error:  # fmt: skip
            raise TableError(
                f"latency table {str(path)!r} is damaged: {type(error).__name__}: "
                f"{first_line(error)}."
            ) from error
        if not table.layers:
            raise TableError(f"latency table {str(path)!r} is empty.")
        return table


def describe_noise(origin: Origin) -> str | None:
    """Return what is to be said of a table that was measured on a restless machine, if any."""
    if not origin.noisy:
        return None
    return (
        f"{origin.noisy} of {origin.measurements} measurements spread by more than what they "
        "measure: predictions are rough; measure again on a quieter machine."
    )
