"""Measures the models of a kit; needs Python and ONNX Runtime alone.

This file is copied into every kit, where its only import from autoprune is one of the file beside
it.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from autoprune.profiling.backends.portable import default_threads, device_name, open_session

WARM_UP, FEWEST, MOST, ENOUGH_MS, AT_ONCE = 2, 7, 40, 20.0, 8
HERE = pathlib.Path(__file__).resolve().parent
DTYPES = {"float32": "float32", "float16": "float16"}


def runner(library: Any, task: dict[str, Any], kit: dict[str, Any]) -> Callable[[], object]:
    """Return a function that runs a model once."""
    import numpy

    threads, provider = kit["conditions"]["threads"], kit["provider"]
    session = open_session(library, str(HERE / task["file"]), threads, provider)
    feed = {"x": numpy.ones(task["shape"], DTYPES[kit["conditions"]["dtype"]])}
    return lambda: session.run(None, feed)


def measure(runs: list[Callable[[], object]]) -> list[tuple[float, float, int]]:
    """Return (median, half the distance between the quartiles, repeats) of each run.

    Repeats of the runs alternate.

    Raises:
        RuntimeError: Too few repeats have a duration.
    """
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
                if took > 0:  # otherwise the clock jumped back
                    own.append(took)
    timings = []
    for own in times:
        if len(own) < FEWEST:
            raise RuntimeError("the clock stands still or runs backwards")
        low, middle, high = statistics.quantiles(own, n=4, method="inclusive")
        timings.append((middle, (high - low) / 2, len(own)))
    return timings


def portion(tasks: list[dict[str, Any]], done: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the first task of a kind, which is the reference, and the next tasks of that kind."""
    kind = "layer" if "layer" in tasks[done] else "network"
    same = [task for task in tasks if kind in task]
    start = done - tasks.index(same[0])
    return same[0], same[start : start + AT_ONCE]


def resume(results: pathlib.Path, head: dict[str, Any], most: int) -> int:
    """Start the file of results, or continue it; return the number of measurements in it."""
    lines = results.read_text().splitlines(True) if results.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if not whole:
        results.write_text(json.dumps(head) + "\n")
        return 0
    try:
        before = json.loads(whole[0])
        same = all(before[key] == head[key] for key in head if key != "date")
    except (ValueError, LookupError, TypeError):
        same = False
    if not same or len(whole) - 1 > most:
        sys.exit(f"{results} is of another kit or another device: remove it to begin again")
    results.write_text("".join(whole))  # a line that was cut short is measured again
    return len(whole) - 1


def main() -> None:
    """Measure what is not in the results yet."""
    import onnxruntime

    kit = json.loads((HERE / "tasks.json").read_text())
    if kit["conditions"]["threads"] is None:
        kit["conditions"]["threads"] = default_threads()
    results = HERE / "results.jsonl"
    known = onnxruntime.get_available_providers()
    if kit["provider"] not in known:
        sys.exit(f"ONNX Runtime has no {kit['provider']} here; it has {', '.join(known)}")
    head = {
        **{key: kit[key] for key in ("format", "version", "conditions", "subject")},
        "device": device_name(kit["provider"]),
        "versions": {"onnxruntime": onnxruntime.__version__},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    tasks, began = kit["tasks"], time.monotonic()
    done = first = resume(results, head, len(tasks))
    while done < len(tasks):
        beside, some = portion(tasks, done)
        runs = some if beside in some else [beside, *some]
        try:
            timings = measure([runner(onnxruntime, task, kit) for task in runs])
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            sys.exit(
                f"measuring {some[0]['file']} and what comes with it fails: {reason}; {done} of "
                f"{len(tasks)} are kept, and the same command goes on from there"
            )
        with results.open("a") as file:
            for task, (ms, spread, repeats) in zip(some, timings[-len(some) :]):  # noqa: B905
                line: dict[str, Any] = {k: task[k] for k in ("layer", "network") if k in task}
                line.update(ms=ms, spread_ms=spread, repeats=repeats, beside_ms=timings[0][0])
                file.write(json.dumps(line) + "\n")
        done += len(some)
        left = (time.monotonic() - began) / (done - first) * (len(tasks) - done)
        print(f"{done} of {len(tasks)}, {left:.0f} s left", file=sys.stderr)
    print(f"done: bring {results} back")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on where it was")
