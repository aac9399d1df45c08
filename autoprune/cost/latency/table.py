"""The latency table of one device: measured layers and the correction, in a readable file."""

from __future__ import annotations

import json
from pathlib import Path

from autoprune.core.records import Measured, Natural, Record, Stated, Table, Text, plain, read
from autoprune.core.untrusted import read_json
from autoprune.cost.latency.conditions import Conditions, measured_on
from autoprune.cost.latency.correction import Correction
from autoprune.cost.latency.curves import LayerLatency
from autoprune.cost.latency.signature import Family, Signature, families
from autoprune.errors import TableError, file_fault, first_line, shown
from autoprune.structure.groups import Structure

# Predictions with a larger relative error are called rough.
ROUGH = 0.15
FORMAT, VERSION = "autoprune latency table", 2


class Origin(Record, frozen=True):
    """Where and when a table was measured.

    Attributes:
        device: The name of the processor.
        versions: The versions of the libraries in use, by name.
        date: The date and time in ISO 8601.
        noisy: The number of measurements whose spread exceeds their median.
        measurements: The number of measurements of layers.
        seconds: The time that measuring took.
    """

    device: Text
    versions: Table[Text]
    date: Text
    noisy: Natural
    measurements: Natural
    seconds: Measured


class LatencyTable(Record, frozen=True, eq=False, tag_field="version", tag=VERSION):
    """Measured latencies of layers, from which whole networks are predicted.

    Attributes:
        conditions: The conditions of all measurements.
        origin: Where and when they were made.
        call_ms: The overhead of a call, which the latencies of layers include.
        correction: The correction from sums of layers to whole networks.
        layers: The measured layers.
    """

    conditions: Stated[Conditions]
    origin: Origin
    call_ms: Measured
    correction: Stated[Correction]
    layers: tuple[LayerLatency, ...]

    def __repr__(self) -> str:
        return f"LatencyTable(for {self.about})"

    def of_layers(self, structure: Structure) -> list[LayerLatency]:
        """Return the latencies of every layer of a network, in the network's order.

        Raises:
            TableError: A layer was not measured.
        """
        found = {family.dense: self.find(family) for family in families(structure)}
        return [found[Signature.of(layer, structure)] for layer in structure.layers]

    def find(self, family: Family) -> LayerLatency:
        """Return the latencies of a layer: its own, or those of a wider layer of its kind.

        Raises:
            TableError: The layer was not measured, or not along a width that can be cut.
        """
        wide = [one for one in self.layers if one.covers(family)]
        if not wide:
            raise TableError(
                f"the latency table has no layer {family.dense} over all its widths for "
                f"{self.about}: measure one for this network and this input size with "
                "`autoprune profile`."
            )
        return min(wide, key=lambda one: one.dense.weight_count)

    def check(self, *, batch: int, dtype: str) -> None:
        """Refuse to predict under conditions other than those of the measurements.

        Raises:
            TableError: The batch size or the data type differs.
        """
        own = self.conditions
        if own.batch != batch:
            raise TableError(
                f"the latency table was measured at batch {own.batch}, not {batch}: measure one "
                f"with autoprune profile --batch {batch}."
            )
        if own.dtype != dtype:
            raise TableError(
                f"the latency table was measured in {own.dtype}, but the network computes in "
                f"{dtype}: measure one with autoprune profile --dtype {dtype}."
            )

    @property
    def about(self) -> str:
        """The backend, device and threads in words."""
        own = self.conditions
        return measured_on(own.backend, self.origin.device, own.threads)

    def save(self, path: Path) -> None:
        """Write the table; an existing file is replaced in one step."""
        from autoprune.core.files import write_whole  # brings PyTorch, which budgets must not

        data = {"format": FORMAT, **plain(self)}
        rows = ",\n".join(f"  {json.dumps(one)}" for one in data.pop("layers"))
        head = json.dumps(data, indent=1, ensure_ascii=False).removesuffix("\n}")
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = f'{head},\n "layers": [\n{rows}\n ]\n}}\n'
        write_whole(path, lambda draft: draft.write_text(whole, encoding="utf-8"))

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a table written by `save`.

        Raises:
            TableError: The file is missing, truncated, altered, empty or of another version.
        """
        try:
            data = read_json(path)
        except (OSError, ValueError) as error:
            raise TableError(
                f"cannot read latency table {str(path)!r}: {file_fault(error)}."
            ) from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise TableError(
                f"{str(path)!r} is not a latency table: make one with autoprune profile."
            )
        if data.get("version") != VERSION:
            raise TableError(
                f"latency table {str(path)!r} has format version "
                f"{shown(data.get('version'))}; this autoprune reads version {VERSION}."
            )
        try:
            table = read({key: data[key] for key in data if key != "format"}, cls)
            if table.conditions.threads is None:
                raise ValueError("conditions.threads: None is not a whole number")
        except ValueError as error:
            raise TableError(
                f"latency table {str(path)!r} is damaged: {first_line(error).rstrip('.')}."
            ) from error
        if not table.layers:
            raise TableError(f"latency table {str(path)!r} is empty.")
        return table


def describe_noise(origin: Origin) -> str | None:
    """Return a warning about a table that was measured on a busy machine, or None."""
    if not origin.noisy:
        return None
    return (
        f"the spread of {origin.noisy} of {origin.measurements} measurements exceeds their median: "
        "predictions are rough; measure again on a quieter machine."
    )


def describe_error(table: LatencyTable) -> str | None:
    """Return a warning about a table that predicts whole networks poorly, or None."""
    correction = table.correction
    usual, largest = correction.relative_error or 0.0, correction.largest_error or 0.0
    if usual <= ROUGH:
        return None
    told = (
        f"latency is predicted only to within {usual:.0%}, at worst {largest:.0%}: trust the "
        "measured latency of the winner, not the predictions"
    )
    if (table.conditions.threads or 1) == 1:
        return told
    return (
        f"{told} (a small network's threads wait for each other: try autoprune profile --threads 1)"
    )
