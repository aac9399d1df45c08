"""What Ray workers bring and cost: evaluations per minute, overhead, start-up and memory.

Usage: OMP_NUM_THREADS=1 python experiments/ray/measure.py SHARED --workers 1 2

SHARED holds data/ and checkpoints/ of CIFAR-10; the network is ResNet-20. The same random widths
under `flops=0.5` are measured in this process with one thread, then by each number of Ray workers
on this machine, each of which has one thread, too; the scores must be equal bit for bit. On a
machine that others use, wall-clock time says little: the CPU seconds of an evaluation, of this
process and of Ray's own processes are given beside it, and how many cores the workers had.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch

from autoprune.core.policy import Widths
from autoprune.engine.evaluators import Evaluators, measure_candidate
from autoprune.engine.executors import Executor, LocalExecutor
from autoprune.engine.ray_cluster import joined
from autoprune.engine.ray_executor import RayExecutor
from autoprune.evaluation.measurement import Scores
from autoprune.options.search import SearchConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "strategies"))
from compare import Setting, setting

# Pieces of work that do nothing, for the time that a round trip takes.
EMPTY = 50


@dataclass(frozen=True)
class Row:
    """What one number of workers brought and cost.

    Attributes:
        where: "this process" or "Ray".
        workers: at once.
        evaluations: measured.
        seconds: wall-clock, of all of them.
        per_minute: evaluations a minute, by the wall clock.
        cores: CPU seconds of the workers by wall-clock seconds: what the machine gave them.
        cpu_each: CPU seconds of one evaluation in its worker, median.
        driver_cpu_each: CPU seconds of this process per evaluation.
        ray_cpu_each: the same of Ray's own processes (raylet, GCS and others).
        start_seconds, start_cpu: from the executor's making to its first empty result; CPU seconds
            of this process and the workers.
        round_trip_ms: of a piece of work that does nothing, median.
        worker_mb: memory that one worker has for itself (USS), mean; None in this process.
    """

    where: str
    workers: int
    evaluations: int
    seconds: float
    per_minute: float
    cores: float
    cpu_each: float
    driver_cpu_each: float
    ray_cpu_each: float | None = None
    start_seconds: float | None = None
    start_cpu: float | None = None
    round_trip_ms: float | None = None
    worker_mb: float | None = None


def widths_of(own: Setting, count: int) -> list[Widths]:
    """Return random widths under the budget."""
    random = np.random.default_rng(0)
    projection, groups = own.problem.projection, len(own.problem.space)
    return [projection.project(random.uniform(0.2, 1.0, groups)) for _ in range(count)]


def timed(widths: Widths, evaluators: Evaluators) -> tuple[Scores, float]:
    """Measure widths; return the scores, and the CPU seconds that they took."""
    start = time.process_time()
    scores = measure_candidate(widths, None, None, evaluators).scores
    return scores, time.process_time() - start


def memory(evaluators: Evaluators) -> tuple[int, float]:
    """Return the process that this runs in, and its own memory in MB."""
    time.sleep(0.5)  # so that every worker is asked
    return os.getpid(), psutil.Process().memory_full_info().uss / 1e6


def measure(
    executor: Executor[Evaluators], asked: Sequence[Widths]
) -> tuple[list[Scores], dict[str, float]]:
    """Measure all widths; return their scores, and figures of a row."""
    own, others = time.process_time(), ray_cpu()
    start = time.perf_counter()
    with executor.opened() as submit:
        pending = [submit(partial(timed, widths)) for widths in asked]
        done = [wait() for wait in pending]
    seconds = time.perf_counter() - start
    cpu = [spent for _, spent in done]
    driver = time.process_time() - own
    figures = {
        "evaluations": len(asked),
        "seconds": seconds,
        "per_minute": 60 * len(asked) / seconds,
        "cores": sum(cpu) / seconds,
        "cpu_each": statistics.median(cpu),
        "driver_cpu_each": driver / len(asked),
        "ray_cpu_each": (ray_cpu() - others) / len(asked),
    }
    return [scores for scores, _ in done], figures


def ray_cpu() -> float:
    """Return the CPU seconds of Ray's processes below this one, without its workers."""
    total = 0.0
    for one in psutil.Process().children(recursive=True):
        try:
            if not one.cmdline()[0].startswith("ray::"):
                times = one.cpu_times()
                total += times.user + times.system
        except (psutil.Error, IndexError):
            continue
    return total


def on_ray(
    own: Setting, config: SearchConfig, workers: int, asked: Sequence[Widths]
) -> tuple[list[Scores], Row]:
    """Measure all widths on Ray workers."""
    with joined(config.ray, "cpu") as cluster:
        assert cluster is not None
        start, began = time.perf_counter(), time.process_time()
        with closing(RayExecutor(cluster, own.evaluators, workers)) as executor:
            with executor.opened() as submit:
                # As many at once as there are workers: all of them have begun then.
                cpu = {
                    pid: used
                    for pid, used in (w() for w in [submit(_begun) for _ in range(workers)])
                }
                begun = time.perf_counter() - start
                used = time.process_time() - began + sum(cpu.values())
                trips = []
                for _ in range(EMPTY):
                    sent = time.perf_counter()
                    submit(_nothing)()
                    trips.append(1000 * (time.perf_counter() - sent))
            scores, figures = measure(executor, asked)
            with executor.opened() as submit:
                held = dict(wait() for wait in [submit(memory) for _ in range(2 * workers)])
        row = Row(
            "Ray",
            workers,
            **figures,  # type: ignore[arg-type]
            start_seconds=begun,
            start_cpu=used,
            round_trip_ms=statistics.median(trips),
            worker_mb=statistics.mean(held.values()),
        )
    return scores, row


def _begun(evaluators: Evaluators) -> tuple[int, float]:
    time.sleep(0.5)
    return os.getpid(), time.process_time()


def _nothing(evaluators: Evaluators) -> None:
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--output", type=Path, default=Path("ray.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    # The one-shot repair is what most networks get; naming it saves measuring the others.
    config = SearchConfig.from_mapping({"budget": "flops=0.5", "ray": True})
    own = setting(args.shared, "resnet20", config, judge="one-shot")
    asked = widths_of(own, args.evaluations)
    print(f"groundwork: {time.perf_counter() - start:.0f} s", flush=True)
    expected, figures = measure(LocalExecutor(own.evaluators), asked)
    rows = [Row("this process", 1, **{**figures, "ray_cpu_each": None})]  # type: ignore[arg-type]
    print(rows[-1], flush=True)
    for workers in args.workers:
        scores, row = on_ray(own, config, workers, asked)
        assert scores == expected, "scores differ from those of this process"
        rows.append(row)
        print(row, flush=True)
        args.output.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n")
    print("all scores are equal, bit for bit")


if __name__ == "__main__":
    main()
