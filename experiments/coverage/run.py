"""Measures all networks of the list, each in a process of its own, and writes a row for each.

    python experiments/coverage/run.py rows.jsonl [--seconds 900] [--gigabytes 12] [--without-onnx]
        [NETWORK…]

Networks that the file has a row of are left out, so that a run that was ended goes on. A process
that takes too long or too much memory leaves a row that says so. ONNX takes as long as all the
rest: `--without-onnx` leaves it to a later run with the same file. `page.py` makes
`docs/coverage.md` of the rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from measure import BEFORE_ONNX, WITHOUT_ONNX
from measure import main as measure
from networks import read_list


@dataclass(frozen=True)
class Limits:
    """What is measured of each network.

    Attributes:
        seconds: of CPU time that its process may take.
        gigabytes: of memory that its process may take.
        onnx: whether it is exported as well.
    """

    seconds: int
    gigabytes: float
    onnx: bool

    def enforce(self) -> None:
        """Limit the process that calls this."""
        size = int(self.gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CPU, (self.seconds, resource.RLIM_INFINITY))


def measured(title: str, limits: Limits) -> dict[str, Any]:
    """Return the row of one network; what its process came to if it did not end by itself."""
    with NamedTemporaryFile("r") as printed:
        process = get_context("fork").Process(target=_child, args=(title, limits, printed.name))
        process.start()
        process.join()
        text = printed.read()
    if process.exitcode == 0:
        return last_row(title, text, None)
    if process.exitcode == -signal.SIGXCPU:
        return last_row(title, text, f"ended after {limits.seconds} s of CPU time")
    last = (text.strip().splitlines() or [""])[-1]
    is_row = not last or last.startswith("{")
    return last_row(title, text, f"ended: {f'status {process.exitcode}' if is_row else last}")


def _child(title: str, limits: Limits, path: str) -> None:
    """Measure a network within limits; what is printed goes into a file."""
    limits.enforce()
    with open(path, "w") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            measure(title, limits.onnx)
        except BaseException:
            traceback.print_exc()
            raise


def last_row(title: str, printed: str, error: str | None) -> dict[str, Any]:
    """Return the last row that a process printed, with the reason why it is the last."""
    rows = [line for line in printed.splitlines() if line.startswith("{") and line.endswith("}")]
    row: dict[str, Any] = json.loads(rows[-1]) if rows else {"network": title, "stage": "starting"}
    return {**row, "error": error} if error else row


def main() -> None:
    """Measure what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("networks", nargs="*", help="all by default")
    parser.add_argument("--seconds", type=int, default=900, help="of CPU time for each network")
    parser.add_argument("--gigabytes", type=float, default=12.0, help="of memory for each network")
    parser.add_argument(WITHOUT_ONNX, action="store_true", help="leave it to a later run")
    given = parser.parse_intermixed_args()  # options may stand between the names
    listed = [one.title for one in read_list()]
    if unknown := set(given.networks) - set(listed):
        parser.error(f"not in the list: {', '.join(sorted(unknown))}")
    limits = Limits(given.seconds, given.gigabytes, onnx=not given.without_onnx)
    lines = given.rows.read_text().splitlines() if given.rows.exists() else []
    last = {row["network"]: row for row in map(json.loads, lines)}
    known = {
        title for title, row in last.items() if not (limits.onnx and row["stage"] == BEFORE_ONNX)
    }
    titles = given.networks or listed
    for library in {title.partition(":")[0] for title in titles}:
        import_module(library)  # once, not in every process
    for title in titles:
        if title in known:
            continue
        row = measured(title, limits)
        with given.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{title}: {row['stage']}" + (f", {row['error']}" if row["error"] else ""), flush=True
        )


if __name__ == "__main__":
    main()
