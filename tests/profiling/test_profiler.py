from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from tables import IMAGE, layers
from torch import nn

from autoprune.core.records import plain
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.correction import Correction, NetworkLatency
from autoprune.cost.latency.model import LatencyCost
from autoprune.cost.latency.table import LatencyTable, Origin, describe_error, describe_noise
from autoprune.errors import MeasuringError, TableError, UsageError
from autoprune.profiling import profiler
from autoprune.profiling.backends.base import Backend
from autoprune.profiling.backends.registry import make_backend
from autoprune.profiling.journal import Journal, Measurement
from autoprune.profiling.kit.write import write_kit
from autoprune.profiling.profiler import LAYERS_AT_ONCE, TimeLimits, profile
from autoprune.profiling.stopwatch import Timing
from autoprune.profiling.subject import Subject
from autoprune.structure.tracing.trace import trace
from autoprune.testing.backend_contract import SeveralInputs, several_inputs


def profiled(backend: Backend, path: Path | None) -> LatencyTable:
    network = layers()
    journal = Journal(path, plain(backend.conditions))
    return profile(Subject(network, trace(network, IMAGE), IMAGE), backend, journal)


@pytest.fixture(scope="module")
def table(stairs: Any) -> LatencyTable:
    return profiled(stairs(Conditions(backend="stairs")), None)


# ------------------------------------------------------------------------------------- interrupted


def test_an_interrupted_profile_goes_on_where_it_was(
    stairs: Any, table: LatencyTable, tmp_path: Path
) -> None:
    class Dying(stairs):  # type: ignore[misc]
        left = 20

        def layer(self, signature: Any) -> Callable[[], object]:
            type(self).left -= 1
            if not self.left:
                raise RuntimeError("CUDA error: device lost")
            made: Callable[[], object] = super().layer(signature)
            return made

    path, conditions = tmp_path / "table.part", Conditions(backend="stairs")
    with pytest.raises(MeasuringError, match=r"device lost.*\(16 measurements\) is kept.*go on"):
        profiled(Dying(conditions), path)
    with path.open("a") as file:
        file.write('{"layer": {"opera')  # the process died in the middle of a line
    journal = Journal(path, plain(conditions))
    assert len(journal.layers) == 16
    Dying.left = 10**6
    again = profiled(Dying(conditions), path)
    assert again.origin.measurements == table.origin.measurements
    # One layer runs along with all portions, so that they can be compared.
    portions = math.ceil((table.origin.measurements - 16) / LAYERS_AT_ONCE)
    asked = 10**6 - Dying.left - (table.origin.measurements - 16)
    assert 1 <= asked <= portions + 2
    assert plain(again.layers) == plain(table.layers)


def test_a_machine_that_changes_its_speed(stairs: Any, table: LatencyTable) -> None:
    """Every portion is measured at another speed; the usual one is in the table."""

    class Drifting(stairs):  # type: ignore[misc]
        portions = 0

        def measure(self, runs: Any) -> Any:
            type(self).portions += 1
            return [one.scaled(1 + self.portions % 5) for one in super().measure(runs)]

    slower = profiled(Drifting(Conditions(backend="stairs")), None)
    assert Drifting.portions > 5
    (factor,) = {
        round(mine / own, 3)
        for layer, same in zip(slower.layers, table.layers, strict=True)
        for mine, own in zip(layer.surfaces[0].outputs.ms, same.surfaces[0].outputs.ms, strict=True)
    }
    # Speeds come in turn, so that the median over all measurements is the middle one.
    assert factor == pytest.approx(3, abs=1) and factor != 2


def test_a_slow_moment_at_first_is_not_taken_for_the_usual_speed(
    stairs: Any, table: LatencyTable
) -> None:
    class Waking(stairs):  # type: ignore[misc]
        portions = 0

        def measure(self, runs: Any) -> Any:
            type(self).portions += 1
            return [one.scaled(3.0 if self.portions < 3 else 1.0) for one in super().measure(runs)]

    again = profiled(Waking(Conditions(backend="stairs")), None)
    assert Waking.portions > 6
    for mine, theirs in zip(again.layers, table.layers, strict=True):
        for own, other in zip(mine.surfaces, theirs.surfaces, strict=True):
            assert own.outputs.ms == pytest.approx(other.outputs.ms)


def test_measurements_under_other_conditions_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "part"
    Journal(path, plain(Conditions(threads=1)))
    with pytest.raises(UsageError, match="other conditions"):
        Journal(path, plain(Conditions(threads=2)))
    path.write_text("not a journal\n")
    with pytest.raises(TableError, match="remove it to begin again"):
        Journal(path, plain(Conditions()))


@pytest.mark.parametrize("times", [(math.nan, 0.0), (-1.0, 0.0), (0.0, 0.0), (1.0, math.inf)])
def test_times_that_cannot_be_are_measured_again(
    stairs: Any, table: LatencyTable, times: tuple[float, float], tmp_path: Path
) -> None:
    class Jumping(stairs):  # type: ignore[misc]
        calls, bad = 0, lambda call: call % 3  # two of three

        def measure(self, runs: Any) -> Any:
            kind = type(self)
            kind.calls += 1
            timings = super().measure(runs)
            return [Timing(*times, 7), *timings[1:]] if kind.bad(kind.calls) else timings

    conditions = Conditions(backend="stairs")
    again = profiled(Jumping(conditions), None)
    assert plain(again.layers) == plain(table.layers)
    Jumping.calls, Jumping.bad = 0, lambda call: call > 1
    with pytest.raises(
        MeasuringError, match=r"3 times in a row.*\(8 measurements\) is kept.*go on"
    ):
        profiled(Jumping(conditions), tmp_path / "part")


def test_a_backend_that_loses_a_time(stairs: Any, tmp_path: Path) -> None:
    class Losing(stairs):  # type: ignore[misc]
        def measure(self, runs: Any) -> Any:
            return super().measure(runs)[1:]

    with pytest.raises(MeasuringError, match=r"impossible times, .*: \["):
        profiled(Losing(Conditions(backend="stairs")), tmp_path / "part")


@pytest.mark.parametrize(
    "change",
    [
        {"ms": math.nan},
        {"ms": -1},
        {"spread_ms": "0"},
        {"repeats": 1.5},
        {"layer": 3},
        {"a": 1},
        {"beside_ms": 0},
        {"beside_ms": None},
    ],
)
def test_measurements_that_cannot_be_are_not_taken_up(
    change: dict[str, Any], tmp_path: Path
) -> None:
    path, conditions = tmp_path / "part", plain(Conditions())
    line = {"network": [3], "ms": 1.0, "spread_ms": 0.0, "repeats": 7, "beside_ms": 2.0}
    Journal(path, conditions).add_network((3,), Measurement(1.0, 0.0, 7, 2.0))
    assert json.loads(path.read_text().splitlines()[1]) == line
    with path.open("a") as file:
        file.write(json.dumps(line | change) + "\n")
    with pytest.raises(TableError, match="remove it to begin again"):
        Journal(path, conditions)


# ------------------------------------------------------------------------------------------- time


class Clocked:
    """A device on which everything that is measured at once takes a second."""

    def __init__(self, stairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.stairs = 0.0, stairs
        monkeypatch.setattr(profiler, "time", SimpleNamespace(monotonic=lambda: self.now))

    def profiled(
        self, refined: float, path: Path | None = None, deadline: float | None = None
    ) -> LatencyTable:
        self.now, clock = 0.0, self

        class Backend(self.stairs):  # type: ignore[name-defined,misc]
            def measure(self, runs: Any) -> Any:
                clock.now += 1.0
                return super().measure(runs)

        model, conditions = layers(), Conditions(backend="stairs")
        journal = Journal(path, plain(conditions))
        backend = Backend(conditions)
        limits = TimeLimits(refined, refined if deadline is None else deadline)
        subject = Subject(model, trace(model, IMAGE), IMAGE)
        return profile(subject, backend, journal, limits=limits)


@pytest.fixture
def clocked(stairs: Any, monkeypatch: pytest.MonkeyPatch) -> Clocked:
    return Clocked(stairs, monkeypatch)


def test_a_deadline_leaves_a_coarser_table(clocked: Clocked, table: LatencyTable) -> None:
    coarse, seconds = None, 1
    while coarse is None:
        try:
            coarse = clocked.profiled(seconds)
        except MeasuringError as error:
            assert re.search(
                r"at least \d+ s more of measuring are needed.* longer time", str(error)
            )
            seconds += 1
    assert seconds > 2 and clocked.now <= seconds + 1  # a few networks are measured in any case
    assert coarse.origin.measurements < table.origin.measurements
    for rough, fine in zip(coarse.layers, table.layers, strict=True):
        assert (rough.dense, rough.dense_ms) == (fine.dense, pytest.approx(fine.dense_ms))


def test_coarse_curves_are_waited_for(clocked: Clocked, table: LatencyTable) -> None:
    coarse = clocked.profiled(0.0, deadline=1e6)
    assert 8 < coarse.origin.measurements < table.origin.measurements


def test_time_enough_changes_nothing(clocked: Clocked, table: LatencyTable) -> None:
    again = clocked.profiled(1e6)
    assert plain(again.layers) == plain(table.layers)
    assert again.correction == table.correction


def test_time_that_is_too_short_keeps_what_was_measured(clocked: Clocked, tmp_path: Path) -> None:
    path = tmp_path / "part"
    match = rf"\(8 measurements\) is kept in '{path}'"
    with pytest.raises(MeasuringError, match=match):
        clocked.profiled(1.0, path)
    before = clocked.now
    assert clocked.profiled(1e6, path).origin.measurements > 8 and before == 1.0


@pytest.mark.parametrize("length", [0, 1, 40, None])
def test_a_first_line_that_was_cut_short_is_begun_again(length: int | None, tmp_path: Path) -> None:
    path, conditions = tmp_path / "part", plain(Conditions())
    Journal(path, conditions)
    whole = path.read_text()
    path.write_text(whole.removesuffix("\n")[:length])
    assert len(Journal(path, conditions)) == 0
    assert path.read_text() == whole


# -------------------------------------------------------------------------------------- correction


def test_the_correction_finds_the_coefficients() -> None:
    wanted = (0.8, 1.1, 0.3, 0.1, 0.2, 0.5)
    random = np.random.default_rng(0)
    rows = [np.append(random.integers(0, 9, 5), 1.0) for _ in range(16)]
    fit = Correction.fit(rows, [float(row @ wanted) for row in rows])
    assert fit.per_unit_ms == pytest.approx(wanted, rel=0.05)
    assert fit.relative_error is not None and fit.relative_error < 0.02


def test_without_networks_layers_are_summed() -> None:
    assert Correction.fit([], []) == Correction()
    assert Correction().largest_error is None
    assert Correction(
        networks=(NetworkLatency(9.0, 10.0), NetworkLatency(1.3, 1.0))
    ).largest_error == pytest.approx(0.3)
    assert Correction().apply(np.array([7.0, 2.0, 5.0, 4.0, 6.0, 1.0])) == 9.0


def test_a_noisy_machine_is_told(stairs: Any) -> None:
    class Noisy(stairs):  # type: ignore[misc]
        def measure(self, runs: Any) -> Any:
            return [Timing(float(run()), 100.0, 7) for run in runs]

    origin = profiled(Noisy(Conditions(backend="stairs")), None).origin
    assert origin.noisy == origin.measurements > 0
    assert "quieter machine" in (describe_noise(origin) or "")


@pytest.mark.parametrize(("threads", "hint"), [(1, False), (2, True)])
def test_predictions_that_are_rough_are_told(threads: int, hint: bool) -> None:
    origin = Origin("a device", {}, "2026-01-01T00:00:00+00:00", 0, 9, 1.0)
    good, bad = (
        Correction(relative_error=error, networks=(NetworkLatency(1.9, 1.0),))
        for error in (0.1, 0.4)
    )
    table = LatencyTable(Conditions(threads=threads), origin, 0.0, good, ())
    assert describe_error(table) is None
    told = describe_error(replace(table, correction=bad)) or ""
    assert told.startswith("latency is predicted only to within 40%, at worst 90%")
    assert ("--threads 1" in told) == hint


# ---------------------------------------------------------------------------------------- backends


@pytest.mark.parametrize(
    "name", ["torch", "onnxruntime", pytest.param("torch-compile", marks=pytest.mark.slow)]
)
def test_a_small_network_on_this_machine(name: str) -> None:
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    backend = make_backend(Conditions(backend=name))
    table = profiled(backend, None)
    cost = LatencyCost(trace(layers(), IMAGE), table)
    assert 0 < cost.total((24,)) < 1000
    assert table.origin.versions and table.origin.device


@pytest.mark.parametrize("form", [tuple, dict])
@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_networks_of_several_inputs_are_measured(name: str, form: type) -> None:
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    parts, network = several_inputs(), SeveralInputs().eval()
    inputs = parts if form is dict else tuple(parts.values())
    made = make_backend(Conditions(backend=name)).network(network, inputs)()
    if name == "onnxruntime":
        with torch.no_grad():
            first, second = network(*parts.values())
        for one, other in zip(made, (first, second["both"]), strict=True):
            assert np.allclose(one, other, atol=1e-5)


def test_a_kit_of_several_inputs_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    inputs, network = tuple(several_inputs().values()), SeveralInputs().eval()
    conditions = Conditions(backend="onnxruntime")
    with pytest.raises(UsageError, match=r"one tensor of floats.*\(1, 1, 6, 6\), \(1, 2\)"):
        write_kit(tmp_path / "kit", Subject(network, trace(network, inputs), inputs), conditions)
    assert not (tmp_path / "kit").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "torhc"}, "did you mean 'torch'"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"device": "nonsense"}, "device 'nonsense' cannot be used"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"memory_format": "nhwc"}, "memory-format must be one of"),
    ],
)
def test_conditions_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_backend(Conditions(**options))


def test_onnx_runs_every_kind_of_layer_as_torch_does() -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from autoprune.cost.latency.signature import families
    from autoprune.profiling.backends.onnx_files import WEIGHT, layer_model

    network = nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1),
        nn.Conv2d(6, 6, 3, dilation=2, padding=2, groups=3),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 64, 5),
    )
    for parameter in network.parameters():
        nn.init.constant_(parameter, WEIGHT)
    image = torch.ones(1, 2, 8, 8)
    for family, layer in zip(
        families(trace(network, image)), (m for m in network if list(m.parameters())), strict=True
    ):
        inputs = torch.ones(family.dense.input_shape(1))
        session = ort.InferenceSession(
            layer_model(family.dense, 1), providers=["CPUExecutionProvider"]
        )
        (found,) = session.run(None, {"x": inputs.numpy()})
        with torch.no_grad():
            expected = layer(inputs)
        assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
