"""Measures the models of this folder; needs Python and ONNX Runtime alone.

This file is copied into a kit. It imports nothing of autoprune.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP, FEWEST, MOST, ENOUGH_MS, AT_ONCE = 2, 7, 40, 20.0, 8
HERE = pathlib.Path(__file__).resolve().parent
DTYPES = {"float32": "float32", "float16": "float16"}


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def runner(library: Any, task: dict[str, Any], kit: dict[str, Any]) -> Callable[[], object]:
    """Return what runs one model once."""
    import numpy

    options = library.SessionOptions()
    options.intra_op_num_threads = kit["conditions"]["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads that spin would take the processors from the other models measured in turn.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = library.InferenceSession(str(HERE / task["file"]), options, [kit["provider"]])
    feed = {"x": numpy.ones(task["shape"], DTYPES[kit["conditions"]["dtype"]])}
    return lambda: session.run(None, feed)


def measure(runs: list[Callable[[], object]]) -> list[tuple[float, float, int]]:
    """Return (median, half the distance of the quartiles, repeats) of each run, in turn."""
    for _ in range(WARM_UP):
        for run in runs:
            run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(MOST):
        for run, own in zip(runs, times):  # noqa: B905 - of Python 3.10
            if len(own) < FEWEST or sum(own) < ENOUGH_MS:
                start = time.perf_counter()
                run()
                took = 1000 * (time.perf_counter() - start)
                if took > 0:  # a clock that jumped back
                    own.append(took)
    timings = []
    for own in times:
        low, middle, high = statistics.quantiles(own, n=4, method="inclusive")
        timings.append((middle, (high - low) / 2, len(own)))
    return timings


def main() -> None:
    """Measure whatever is not in the results yet."""
    import onnxruntime

    kit = json.loads((HERE / "tasks.json").read_text())
    results = HERE / "results.jsonl"
    if results.exists():
        text = results.read_text()
        lines = text.splitlines(True)
        whole = [line for line in lines if line.endswith("\n")]
        results.write_text("".join(whole))  # a line that was cut short is measured again
        done = len(whole) - 1
    else:
        head = {
            "format": kit["format"],
            "version": kit["version"],
            "conditions": kit["conditions"],
            "device": processor(),
            "versions": {"onnxruntime": onnxruntime.__version__},
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }
        results.write_text(json.dumps(head) + "\n")
        done = 0
    tasks, began, first = kit["tasks"], time.monotonic(), done
    while done < len(tasks):
        some = tasks[done : done + AT_ONCE]
        timings = measure([runner(onnxruntime, task, kit) for task in some])
        with results.open("a") as file:
            for task, (ms, spread, repeats) in zip(some, timings):  # noqa: B905
                key = {k: task[k] for k in ("layer", "network") if k in task}
                line = {**key, "ms": ms, "spread_ms": spread, "repeats": repeats}
                file.write(json.dumps(line) + "\n")
        done += len(some)
        left = (time.monotonic() - began) / (done - first) * (len(tasks) - done)
        print(f"{done} of {len(tasks)}, {left:.0f} s left", file=sys.stderr)
    print(f"done: bring {results} back")


if __name__ == "__main__":
    main()
