"""Measures the latency table of a network on one device."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgspec.structs import replace

from autoprune.core.policy import Widths
from autoprune.core.records import significant
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.correction import Correction
from autoprune.cost.latency.model import Terms
from autoprune.cost.latency.signature import BARE, Family, Signature, families
from autoprune.cost.latency.table import LatencyTable, Origin
from autoprune.errors import MeasuringError, TableError, UsageError, counted, describe, spelt
from autoprune.profiling.backends.base import Backend
from autoprune.profiling.grid import assemble, wanted
from autoprune.profiling.journal import Journal, Measurement
from autoprune.profiling.sampling import COARSE, REFINED, Sampling
from autoprune.profiling.stopwatch import Run, Timing
from autoprune.profiling.subject import NETWORKS, Subject, spread_widths
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import sample

Item = TypeVar("Item")
Progress = Callable[[int, int], None]

# Measured in turn: enough to evict each other from the caches, few enough to fit into memory.
LAYERS_AT_ONCE, NETWORKS_AT_ONCE = 8, 4
MOST_WEIGHTS_AT_ONCE = 50_000_000
# How often runs are measured if their times are impossible: not finite, or not above zero.
ATTEMPTS = 3


@dataclass(frozen=True)
class TimeLimits:
    """How long a profile may take, in `time.monotonic` seconds.

    Attributes:
        refined_until: When refinement ends; a few whole networks are measured in any case.
        deadline: When every layer must have been measured coarsely.
    """

    refined_until: float = math.inf
    deadline: float = math.inf


UNLIMITED = TimeLimits()


def profile(
    subject: Subject,
    backend: Backend,
    journal: Journal,
    progress: Progress = lambda done, total: None,
    limits: TimeLimits = UNLIMITED,
) -> LatencyTable:
    """Measure every layer of a network over its widths, and some whole networks.

    Args:
        subject: The network.
        backend: What runs it.
        journal: What was measured before; every measurement is added at once.
        progress: A function of the number of measurements made and, as far as it is known, of
            those to be made.
        limits: How long it may take.

    Raises:
        MeasuringError: The device fails, or the time is over before every layer was measured
            coarsely; what was measured until then is in the journal.
    """
    began = time.monotonic()
    profiler = _Profiler(backend, journal, progress, limits)
    with backend.session():
        profiler.measure_layers(families(subject.structure))
        profiler.measure_networks(subject)
    origin = Origin(
        device=backend.device_name(),
        versions=dict(backend.versions()),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        noisy=journal.noisy,
        measurements=len(journal.layers),
        seconds=round(time.monotonic() - began, 1),
    )
    sampling = REFINED if time.monotonic() < limits.refined_until else COARSE
    return build_table(subject.structure, backend.conditions, origin, journal, sampling)


def build_table(
    structure: Structure,
    conditions: Conditions,
    origin: Origin,
    journal: Journal,
    sampling: Sampling = REFINED,
) -> LatencyTable:
    """Return the table that follows from measurements.

    Raises:
        TableError: A measurement is missing.
    """
    try:
        known, measured = journal.layers, journal.networks
        layers, call_ms = assemble(families(structure), known.get, sampling), known[BARE].ms
        planned = spread_widths(structure)
        if sampling is COARSE:
            planned = [widths for widths in planned if widths in measured]
        networks = {widths: measured[widths] for widths in planned}
    except KeyError as error:
        raise TableError(f"the measurements lack {error.args[0]}.") from error
    if not all(one.is_sound for one in (*known.values(), *networks.values())):
        raise TableError("the measurements differ by more than any device's speed.")
    table = LatencyTable(conditions, origin, significant(call_ms), Correction(), layers)
    terms = Terms(structure, table.of_layers(structure), table.call_ms, conditions.batch)
    correction = Correction.fit(
        [terms.at(widths) for widths in networks], [timing.ms for timing in networks.values()]
    )
    return replace(table, correction=correction)


def missing_layers(
    layers: Sequence[Family], known: Mapping[Signature, Timing], sampling: Sampling = REFINED
) -> list[Signature]:
    """Return the signatures to be measured next, each once; none are left at the end."""
    needed = dict.fromkeys(wanted(layers, known.get, sampling))
    return [signature for signature in needed if signature not in known]


def reference_layer(layers: Sequence[Family]) -> Signature:
    """Return the layer beside which all others are measured: one with much work."""
    return max((one.dense for one in layers), key=lambda one: (one.is_light, one.work))


@dataclass(frozen=True, eq=False)
class _Profiler:
    """Measures with one backend into one journal; the attributes are the arguments of `profile`."""

    backend: Backend
    journal: Journal
    progress: Progress
    limits: TimeLimits

    def measure_layers(self, layers: Sequence[Family]) -> None:
        """Measure until no curve asks for more, or the time is over.

        Raises:
            MeasuringError: The device fails, or the time is over too early for any table.
        """
        journal, reference = self.journal, reference_layer(layers)
        began, before = time.monotonic(), len(journal)
        while missing := missing_layers(layers, journal.layers):
            total = len(journal) + len(missing) + NETWORKS
            self.progress(len(journal), total)
            for some in _portions(missing, LAYERS_AT_ONCE, lambda one: one.weight_count):
                self._measure_portion(some, reference)
                self.progress(len(journal), total)
                now = time.monotonic()
                if now < self.limits.refined_until:
                    continue
                coarse = missing_layers(layers, journal.layers, COARSE)
                if not coarse:
                    return
                if now >= self.limits.deadline:
                    each = (now - began) / (len(journal) - before)
                    raise _too_short(journal, (len(coarse) + NETWORKS_AT_ONCE) * each)

    def _measure_portion(self, layers: Sequence[Signature], reference: Signature) -> None:
        """Measure some layers in turn, with the reference layer beside them."""
        runs = list(dict.fromkeys([reference, *layers]))
        found = self._timings([(str(one), self._layer_maker(one)) for one in runs])
        timings = dict(zip(runs, found, strict=True))
        for signature in layers:
            measurement = Measurement.beside(timings[signature], timings[reference])
            self.journal.add_layer(signature, measurement)

    def measure_networks(self, subject: Subject) -> None:
        """Measure whole networks, with the dense one beside them, or a few if the time is over.

        Raises:
            MeasuringError: The device fails.
        """
        inputs = sample(subject.inputs, self.backend.conditions.batch)

        def maker(widths: Widths) -> Callable[[], Run]:
            return lambda: self.backend.network(subject.cut_to(widths), inputs)

        dense, known = subject.structure.dense_widths, self.journal.networks
        missing = [widths for widths in spread_widths(subject.structure) if widths not in known]
        total = len(self.journal) + len(missing)
        for some in _portions(missing, NETWORKS_AT_ONCE, lambda _: 0):
            runs = [dense, *(widths for widths in some if widths != dense)]
            found = self._timings([("a cut network", maker(widths)) for widths in runs])
            timings = dict(zip(runs, found, strict=True))
            for widths in some:
                measurement = Measurement.beside(timings[widths], timings[dense])
                self.journal.add_network(widths, measurement)
            self.progress(len(self.journal), total)
            if time.monotonic() >= self.limits.refined_until:
                return

    def _layer_maker(self, signature: Signature) -> Callable[[], Run]:
        return lambda: self.backend.layer(signature)

    def _timings(self, makers: Sequence[tuple[str, Callable[[], Run]]]) -> list[Timing]:
        """Make runs, each with a name, and measure them; impossible times are measured again."""
        try:
            runs = [make() for _, make in makers]
            for _ in range(ATTEMPTS):
                timings = self.backend.measure(runs)
                if len(timings) == len(runs) and all(one.is_sound for one in timings):
                    return timings
            raise MeasuringError(f"impossible times, {ATTEMPTS} times in a row: {timings}")
        except UsageError:
            raise
        except Exception as error:  # whatever a device or its library raises
            made = counted(len(self.journal), "measurement")
            kept = f"what was measured ({made}) is kept in {str(self.journal.path)!r}"
            raise MeasuringError(
                f"the device fails while {makers[-1][0]} and what comes with it are measured "
                f"({describe(error)}); {kept}: run the same command "
                "again to go on."
            ) from error


def _too_short(journal: Journal, seconds: float) -> MeasuringError:
    """Return the error of a time limit that leaves no table, with the time that is lacking."""
    return MeasuringError(
        f"the time is too short to measure the latency of every layer: at least {seconds:.0f} s "
        f"more of measuring are needed; what was measured so far "
        f"({counted(len(journal), 'measurement')}) is kept in {str(journal.path)!r}: search again "
        f"to go on, with a longer {spelt('time')} or none, or make the table first with autoprune "
        "profile."
    )


def _portions(
    items: Sequence[Item], most: int, weight: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Yield items in portions that are limited in number and in total weight."""
    portion: list[Item] = []
    for item in items:
        heavy = sum(map(weight, [*portion, item])) > MOST_WEIGHTS_AT_ONCE
        if portion and (len(portion) == most or heavy):
            yield portion
            portion = []
        portion.append(item)
    if portion:
        yield portion
