"""Zeros in single weights without a step of training: criteria and patterns beside each other.

python experiments/sparsity/table.py SHARED RUNS [--network resnet20] [--criteria obs magnitude]
    [--patterns unstructured=0.5 unstructured=0.75 2:4 …]

Every run is a command line whose output is kept in RUNS, so that the script goes on where it was
stopped. Prints a row of test accuracies for every pattern.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

PATTERNS = ["unstructured=0.5", "unstructured=0.75", "unstructured=0.9", "2:4", "1:4", "4x1=0.5"]


def accuracy(shared: Path, runs: Path, network: str, pattern: str, criterion: str) -> float:
    """Return the test accuracy of a run, which is made unless it is there."""
    name, _, amount = pattern.partition("=")
    run = runs / f"{network}-{pattern.replace(':', 'of')}-{criterion}"
    if not (run / "result.json").exists():
        models = Path(__file__).parents[1] / "models" / "cifar_resnet.py"
        command = [
            *(sys.executable, "-m", "autoprune.cli.app", "sparsify"),
            *("--model", f"{models}:{network}"),
            *("--weights", str(shared / "checkpoints" / f"cifar_{network}.th")),
            *("--data", f"cifar10:{shared / 'data'}", "--pattern", name, "--method", criterion),
            *(("--amount", amount) if amount else ()),
            *("--output", str(run), "--no-report"),
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)
    found: float = json.loads((run / "result.json").read_text())["score"]["pruned"]
    return found


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--network", default="resnet20", choices=["resnet20", "resnet56"])
    parser.add_argument("--criteria", nargs="+", default=["obs", "magnitude"])
    parser.add_argument("--patterns", nargs="+", default=PATTERNS)
    args = parser.parse_args()
    print(f"| zeros | {' | '.join(args.criteria)} |\n|---|{'---|' * len(args.criteria)}")
    for pattern in args.patterns:
        found = [
            accuracy(args.shared, args.runs, args.network, pattern, one) for one in args.criteria
        ]
        print(f"| {pattern} | {' | '.join(f'{100 * one:.2f}' for one in found)} |", flush=True)


if __name__ == "__main__":
    main()
