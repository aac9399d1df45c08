"""The journal of an unfinished profile: one line per measurement, added as it is made.

Processors change their speed within seconds. Every measurement is therefore made beside the same
reference run, a layer or the dense network, and scaled as if the reference had taken its median
time.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import asdict

from autoprune.core.policy import Widths
from autoprune.core.records import AboveZero, plain, read
from autoprune.core.untrusted import parse_json, read_text
from autoprune.cost.latency.signature import Signature
from autoprune.errors import TableError, UsageError, shown
from autoprune.profiling.stopwatch import Timing

FORMAT, VERSION = "autoprune measurements", 2
SUBJECTS = ("layer", "network")

Key = TypeVar("Key", bound=Hashable)


class Measurement(Timing, frozen=True):
    """A timing, and what the reference run beside it took.

    Attributes:
        beside_ms: The median of the reference run, ms.
    """

    beside_ms: AboveZero

    @classmethod
    def beside(cls, timing: Timing, reference: Timing) -> Measurement:
        """Return a timing with that of the reference run beside it."""
        return cls(**asdict(timing), beside_ms=reference.ms)


class Journal:
    """Timings of layers and of whole networks, kept in a file.

    A line that was cut short because the process died is dropped.
    """

    def __init__(self, path: Path | None, conditions: Mapping[str, Any]) -> None:
        """Start a file, or continue an existing one.

        Args:
            path: The file; None keeps the measurements in memory alone.
            conditions: What all measurements have in common.

        Raises:
            UsageError: The file exists and was started under other conditions.
            TableError: The file is not a journal.
        """
        self.path = path
        self._layers: dict[Signature, Measurement] = {}
        self._networks: dict[Widths, Measurement] = {}
        header = {"format": FORMAT, "version": VERSION, "conditions": dict(conditions)}
        if path is None:
            return
        if os.path.lexists(path) and not _is_cut(path, header):
            self._read(path, header)
        else:
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(header)

    def __len__(self) -> int:
        return len(self._layers) + len(self._networks)

    @property
    def layers(self) -> dict[Signature, Timing]:
        """The timings of layers, scaled to one speed of the machine."""
        return _at_one_speed(self._layers)

    @property
    def networks(self) -> dict[Widths, Timing]:
        """The timings of whole networks, scaled to one speed of the machine."""
        return _at_one_speed(self._networks)

    @property
    def noisy(self) -> int:
        """The number of layers whose spread exceeds their median."""
        return sum(one.is_noisy for one in self._layers.values())

    def take(self, line: Any) -> None:
        """Add a measurement that was read from a file.

        Raises:
            ValueError: The line is not a measurement.
        """
        if not isinstance(line, dict):
            raise ValueError(f"{shown(line)} is not a measurement")
        measurement = read({k: v for k, v in line.items() if k not in SUBJECTS}, Measurement)
        if "layer" in line:
            self._layers[read(line["layer"], Signature)] = measurement
        else:
            self._networks[read(line.get("network"), Widths)] = measurement

    def add_layer(self, signature: Signature, measurement: Measurement) -> None:
        """Add a measurement of a layer, made beside the reference layer."""
        self._layers[signature] = measurement
        self._write({"layer": plain(signature), **plain(measurement)})

    def add_network(self, widths: Widths, measurement: Measurement) -> None:
        """Add a measurement of a whole network, made beside the dense network."""
        self._networks[widths] = measurement
        self._write({"network": list(widths), **plain(measurement)})

    def discard(self) -> None:
        """Remove the file once its measurements are in a table."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _read(self, path: Path, header: Mapping[str, Any]) -> None:
        try:
            text = read_text(path)
            lines = [parse_json(line) for line in text.splitlines()[: text.count("\n")]]
            found = {key: lines[0].get(key) for key in header}
            for line in lines[1:]:
                self.take(line)
        except (OSError, LookupError, ValueError, AttributeError) as error:
            raise TableError(
                f"{str(path)!r} holds no measurements that can be read: remove it to begin again."
            ) from error
        if found != json.loads(json.dumps(header)):
            raise UsageError(
                f"{str(path)!r} holds measurements made under other conditions "
                f"({str(found.get('conditions'))[:300]}): remove it to begin again, or "
                "choose another --output."
            )
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def _is_cut(path: Path, header: Mapping[str, Any]) -> bool:
    """Return whether a process was killed before the first line was whole."""
    begun = json.dumps(header).encode()
    return (
        path.is_file() and path.stat().st_size <= len(begun) and begun.startswith(path.read_bytes())
    )


def _at_one_speed(measurements: Mapping[Key, Measurement]) -> dict[Key, Timing]:
    """Return timings scaled as if the reference run always took its median time."""
    if not measurements:
        return {}
    usual = statistics.median(one.beside_ms for one in measurements.values())
    return {key: one.scaled(usual / one.beside_ms) for key, one in measurements.items()}
