"""Measures the table of a network on one device."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from torch import nn

from autoprune.core.policy import Widths
from autoprune.core.untrusted import significant
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.correction import Correction
from autoprune.cost.latency.model import Terms
from autoprune.cost.latency.signature import BARE, Family, Signature, families
from autoprune.cost.latency.table import LatencyTable, Origin
from autoprune.data.forms import Inputs
from autoprune.errors import MeasuringError, TableError, UsageError, describe
from autoprune.profiling.backends.base import Backend
from autoprune.profiling.grid import assemble, wanted
from autoprune.profiling.journal import Journal, Measurement
from autoprune.profiling.sampling import Refined, Sampling, SoFar
from autoprune.profiling.stopwatch import Run, Timing
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import sample
from autoprune.structure.surgery import apply_policy

Item = TypeVar("Item")
Progress = Callable[[int, int], None]

REFINED, SO_FAR = Refined(), SoFar()

# Whole networks that the correction is fitted to; the dense one is the first.
NETWORKS = 24
ROUND = 8
# Measured in turn: enough to chase each other out of the caches, few enough to fit into memory.
LAYERS_AT_ONCE, NETWORKS_AT_ONCE = 8, 4
MOST_WEIGHTS_AT_ONCE = 50_000_000
# How often runs are measured whose times cannot be: no finite ones above zero.
ATTEMPTS = 3


def profile(
    model: nn.Module,
    structure: Structure,
    example_inputs: Inputs,
    backend: Backend,
    journal: Journal,
    progress: Progress = lambda done, total: None,
    refined_until: float = math.inf,
    deadline: float = math.inf,
) -> LatencyTable:
    """Measure every layer of a network over its widths, and some whole networks.

    Args:
        model: the dense network.
        structure: of the model.
        example_inputs: a batch of any size.
        backend: what runs it.
        journal: what was measured before; every measurement is added at once.
        progress: told the number of measurements made and, as far as it is known, to be made.
        refined_until: when refinement ends, in `time.monotonic` seconds; a few whole networks are
            measured in any case.
        deadline: when every layer must have been measured coarsely.

    Raises:
        MeasuringError: the device fails, or the time is over before every layer was measured
            coarsely; what was measured until then is in the journal.
    """
    began = time.monotonic()
    with backend.session():
        measure_layers(families(structure), backend, journal, progress, refined_until, deadline)
        inputs = sample(example_inputs, backend.conditions.batch)
        _measure_networks(model, structure, inputs, backend, journal, progress, refined_until)
    origin = Origin(
        device=backend.device_name(),
        versions=backend.versions(),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        noisy=journal.noisy,
        measurements=len(journal.layers),
        seconds=round(time.monotonic() - began, 1),
    )
    sampling = REFINED if time.monotonic() < refined_until else SO_FAR
    return build_table(structure, backend.conditions, origin, journal, sampling)


def build_table(
    structure: Structure,
    conditions: Conditions,
    origin: Origin,
    journal: Journal,
    sampling: Sampling = REFINED,
) -> LatencyTable:
    """Return the table that measurements make.

    Raises:
        TableError: one is missing.
    """
    try:
        known, measured = journal.layers, journal.networks
        layers, call_ms = assemble(families(structure), known.get, sampling), known[BARE].ms
        planned = spread(structure)
        if sampling is SO_FAR:
            planned = [widths for widths in planned if widths in measured]
        networks = {widths: measured[widths] for widths in planned}
    except KeyError as error:
        raise TableError(f"the measurements lack {error.args[0]}.") from error
    if not all(one.is_sound for one in (*known.values(), *networks.values())):
        raise TableError("the measurements differ by more than any device's speed.")
    table = LatencyTable(conditions, origin, significant(call_ms), layers, Correction())
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


def layer_beside(layers: Sequence[Family]) -> Signature:
    """Return the layer that all others are measured beside: one with much work."""
    return max((one.dense for one in layers), key=lambda one: (one.is_light, one.work))


def measure_layers(
    layers: Sequence[Family],
    backend: Backend,
    journal: Journal,
    progress: Progress,
    refined_until: float = math.inf,
    deadline: float = math.inf,
) -> None:
    """Measure until no curve asks for more, or the time is over (as in `profile`).

    Raises:
        MeasuringError: the device fails, or the time is over too early for any table.
    """
    began, before = time.monotonic(), len(journal)
    while missing := missing_layers(layers, journal.layers):
        reference = layer_beside(layers)
        total = len(journal) + len(missing) + NETWORKS
        progress(len(journal), total)
        for some in _portions(missing, LAYERS_AT_ONCE, lambda one: one.weight_count):
            runs = list(dict.fromkeys([reference, *some]))
            found = _measured([(str(one), _maker(backend, one)) for one in runs], backend, journal)
            timings = dict(zip(runs, found, strict=True))
            beside = timings[reference].ms
            for signature in some:
                journal.add_layer(signature, Measurement(timings[signature], beside))
            progress(len(journal), total)
            now = time.monotonic()
            if now < refined_until:
                continue
            coarse = missing_layers(layers, journal.layers, SO_FAR)
            if not coarse:
                return
            if now >= deadline:
                each = (now - began) / (len(journal) - before)
                raise _too_short(journal, (len(coarse) + NETWORKS_AT_ONCE) * each)


def _too_short(journal: Journal, seconds: float) -> MeasuringError:
    """Return the error of time that ends before there is a table, and of what it lacks."""
    return MeasuringError(
        f"the time is too short to measure the latency of every layer: at least {seconds:.0f} s "
        f"more of measuring are needed; the {len(journal)} measurements so far are kept in "
        f"{str(journal.path)!r}: search again to go on, with a longer --time or none, or make "
        "the table first with autoprune profile."
    )


def _maker(backend: Backend, signature: Signature) -> Callable[[], Run]:
    return lambda: backend.layer(signature)


def _measure_networks(
    model: nn.Module,
    structure: Structure,
    inputs: Inputs,
    backend: Backend,
    journal: Journal,
    progress: Progress,
    deadline: float,
) -> None:
    def maker(widths: Widths) -> Callable[[], Run]:
        return lambda: backend.network(cut_to(model, structure, widths), inputs)

    dense = structure.dense_widths
    known = journal.networks
    missing = [widths for widths in spread(structure) if widths not in known]
    total = len(journal) + len(missing)
    for some in _portions(missing, NETWORKS_AT_ONCE, lambda _: 0):
        runs = [dense, *(widths for widths in some if widths != dense)]
        found = _measured([("a cut network", maker(widths)) for widths in runs], backend, journal)
        timings = dict(zip(runs, found, strict=True))
        for widths in some:
            journal.add_network(widths, Measurement(timings[widths], timings[dense].ms))
        progress(len(journal), total)
        if time.monotonic() >= deadline:
            return


def cut_to(model: nn.Module, structure: Structure, widths: Widths) -> nn.Module:
    """Return the network with the first so many units of every group."""
    return apply_policy(model, structure.policy([range(width) for width in widths]))


def spread(structure: Structure, count: int = NETWORKS, seed: int = 0) -> list[Widths]:
    """Return widths from the whole network to a tenth of it, each group drawn around the rest.

    Every other one is in multiples of `ROUND`, as searches often round widths: networks on a quick
    path are told from others.
    """
    random = np.random.default_rng(seed)
    sizes = np.array(structure.dense_widths)
    drawn = [structure.dense_widths]
    for place, keep in enumerate(np.linspace(1.0, 0.1, count)[1:]):
        ratios = np.clip(keep * np.exp(random.normal(0, 0.4, len(sizes))), 0.05, 1.0)
        step = np.where(sizes % ROUND, 1, ROUND) if place % 2 else np.ones_like(sizes)
        drawn.append(
            tuple((np.maximum(np.rint(ratios * sizes / step), 1) * step).astype(int).tolist())
        )
    return list(dict.fromkeys(drawn))


def _portions(
    items: Sequence[Item], most: int, weight: Callable[[Item], int]
) -> Iterator[list[Item]]:
    portion: list[Item] = []
    for item in items:
        heavy = sum(map(weight, [*portion, item])) > MOST_WEIGHTS_AT_ONCE
        if portion and (len(portion) == most or heavy):
            yield portion
            portion = []
        portion.append(item)
    if portion:
        yield portion


def _measured(
    makers: Sequence[tuple[str, Callable[[], Run]]], backend: Backend, journal: Journal
) -> list[Timing]:
    """Make runs, each with a name, and measure them; times that cannot be are measured again."""
    try:
        runs = [make() for _, make in makers]
        for _ in range(ATTEMPTS):
            timings = backend.measure(runs)
            if len(timings) == len(runs) and all(one.is_sound for one in timings):
                return timings
        raise MeasuringError(f"{ATTEMPTS} times in a row times that cannot be: {timings}")
    except UsageError:
        raise
    except Exception as error:  # whatever a device or its library raises
        kept = f"{len(journal)} measurements are kept in {str(journal.path)!r}"
        raise MeasuringError(
            f"the device fails while {makers[-1][0]} and what comes with it are measured "
            f"({describe(error)}); {kept}: run the same command "
            "again to go on."
        ) from error
