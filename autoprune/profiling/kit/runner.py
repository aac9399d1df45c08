"""Measures the models of this folder; needs Python and ONNX Runtime alone.

This file is copied into a kit. It imports nothing of autoprune, which takes from here whatever both
must do alike.
"""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP, FEWEST, MOST, ENOUGH_MS, AT_ONCE = 2, 7, 40, 20.0, 8
CPU = "CPUExecutionProvider"
HERE = pathlib.Path(__file__).resolve().parent
DTYPES = {"float32": "float32", "float16": "float16"}


def processor_name() -> str:
    """Return the CPU's name, as the system knows it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def default_threads() -> int:
    """Return how many threads ONNX Runtime uses by default: one for every physical core."""
    try:
        described = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        described = ""
    cores = set(re.findall(r"physical id\s*:\s*(\d+).*?core id\s*:\s*(\d+)", described, re.S))
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(len(cores) or usable or 1, usable or 1)


def device_name(provider: str) -> str:
    """Return the CPU's name, with ONNX Runtime's provider where it is another."""
    name = processor_name()
    return name if provider == CPU else f"{provider} beside {name}"


def open_session(library: Any, model: str | bytes, threads: int | None, provider: str) -> Any:
    """Return ONNX Runtime's session of a model, as every one is that is measured.

    Idle threads of a session sleep: if they spun, as is ONNX Runtime's default, those of one
    session would take the processors from the other sessions that are measured in turn.

    Raises:
        RuntimeError: the provider does not start, so that the CPU would be measured in its place.
    """
    options = library.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0 leaves it to ONNX Runtime
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = library.InferenceSession(model, options, [provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"{provider} does not start")
    return session


def runner(library: Any, task: dict[str, Any], kit: dict[str, Any]) -> Callable[[], object]:
    """Return what runs one model once."""
    import numpy

    threads, provider = kit["conditions"]["threads"], kit["provider"]
    session = open_session(library, str(HERE / task["file"]), threads, provider)
    feed = {"x": numpy.ones(task["shape"], DTYPES[kit["conditions"]["dtype"]])}
    return lambda: session.run(None, feed)


def measure(runs: list[Callable[[], object]]) -> list[tuple[float, float, int]]:
    """Return (median, half the distance of the quartiles, repeats) of each run, in turn.

    Raises:
        RuntimeError: too few repeats have a duration.
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
                if took > 0:  # a clock that jumped back
                    own.append(took)
    timings = []
    for own in times:
        if len(own) < FEWEST:
            raise RuntimeError("the clock stands still or runs backwards")
        low, middle, high = statistics.quantiles(own, n=4, method="inclusive")
        timings.append((middle, (high - low) / 2, len(own)))
    return timings


def portion(tasks: list[dict[str, Any]], done: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the next tasks of one kind, and the first of that kind, which runs beside them."""
    kind = "layer" if "layer" in tasks[done] else "network"
    same = [task for task in tasks if kind in task]
    start = done - tasks.index(same[0])
    return same[0], same[start : start + AT_ONCE]


def resume(results: pathlib.Path, head: dict[str, Any], most: int) -> int:
    """Begin the results, or take up those that are there; return how many there are."""
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
        sys.exit(f"{results} is of another kit or another device: take it away, and begin anew")
    results.write_text("".join(whole))  # a line that was cut short is measured again
    return len(whole) - 1


def main() -> None:
    """Measure whatever is not in the results yet."""
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
                f"{len(tasks)} are kept, and the same command goes on there"
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
