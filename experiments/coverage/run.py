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
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import BEFORE_ONNX, WITHOUT_ONNX
from networks import read_list

MEASURE = Path(__file__).parent / "measure.py"


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
    process = subprocess.run(
        [sys.executable, str(MEASURE), title, *(() if limits.onnx else (WITHOUT_ONNX,))],
        capture_output=True,
        text=True,
        preexec_fn=limits.enforce,
    )
    if process.returncode == 0:
        return last_row(title, process.stdout, None)
    if process.returncode == -signal.SIGXCPU:
        return last_row(title, process.stdout, f"ended after {limits.seconds} s of CPU time")
    last = (process.stderr.strip().splitlines() or [f"status {process.returncode}"])[-1]
    return last_row(title, process.stdout, f"ended: {last}")


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
    given = parser.parse_args()
    listed = [one.title for one in read_list()]
    if unknown := set(given.networks) - set(listed):
        parser.error(f"not in the list: {', '.join(sorted(unknown))}")
    limits = Limits(given.seconds, given.gigabytes, onnx=not given.without_onnx)
    lines = given.rows.read_text().splitlines() if given.rows.exists() else []
    last = {row["network"]: row for row in map(json.loads, lines)}
    known = {
        title for title, row in last.items() if not (limits.onnx and row["stage"] == BEFORE_ONNX)
    }
    for title in given.networks or listed:
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
