"""Searches with and without residual branches that may go, under bounds on latency and MACs.

python experiments/depth/table.py SHARED RUNS [--networks resnet56 resnet18]
    [--budgets flops=0.5 latency=0.5] [--backends torch onnxruntime] [--seeds 0] [--trials N]
    [--data SPEC --weights FILE --classes FILE]

SHARED holds checkpoints/cifar_resnet56.th and data/cifar10_*.npz. resnet18 is torchvision's, for
which SHARED has neither: `--data` and `--weights` name its data and trained weights. Without these,
its weights are random, and only its latency and branches say anything. What a device takes is
measured once for every network and backend. Every search is a command line whose output is kept in
RUNS, so that the script goes on where it was stopped; a bound that cannot be kept is a row, too.
Prints a table in Markdown of what is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

DECISIONS = {"channels": "channels", "and depth": "channels,depth"}
"""What may be cut, by its name in the table."""
HEAD = """
| network | budget | on | cut | score | KL | MACs | ms, predicted | ms, measured | branches gone |
|---|---|---|---|---|---|---|---|---|---|"""
MODELS = Path(__file__).parents[1] / "models" / "cifar_resnet.py"
IMPOSSIBLE = "impossible.txt"


@dataclass(frozen=True)
class Case:
    """One search.

    Attributes:
        network: "resnet56", "resnet20" or "resnet18".
        budget: as the command line takes it.
        backend: that latency is predicted and measured with.
        decision: a key of `DECISIONS`.
        seed: of the search.
    """

    network: str
    budget: str
    backend: str
    decision: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its run directory."""
        decision = self.decision.replace(" ", "-")
        return f"{self.network}-{self.budget}-{self.backend}-{decision}-{self.seed}"


def autoprune(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command line; its errors are read, all else is shown."""
    print("autoprune", *arguments, flush=True)
    command = [sys.executable, "-m", "autoprune.cli.app", *arguments]
    return subprocess.run(command, check=False, text=True, stderr=subprocess.PIPE)


def model_options(args: argparse.Namespace, network: str) -> list[str]:
    """Return the options that name a network."""
    if network == "resnet18":
        weights = ["--weights", str(args.weights)] if args.weights else []
        return ["--model", "torchvision:resnet18", *weights]
    weights = ["--weights", str(args.shared / "checkpoints" / f"cifar_{network}.th")]
    return ["--model", f"{MODELS}:{network}", *weights]


def table(args: argparse.Namespace, network: str, backend: str) -> Path:
    """Return the latency table of a network on this device, measured at the first call."""
    path: Path = args.runs / f"{network}-{backend}.json"
    if not path.exists():
        shape = "3x224x224" if network == "resnet18" else "3x32x32"
        own = model_options(args, network)
        options = ("--input-shape", shape, "--backend", backend, "--output", str(path))
        autoprune("profile", *own, *options).check_returncode()
    return path


def search(args: argparse.Namespace, case: Case) -> Path:
    """Search once, and return the run; one that was stopped goes on."""
    run: Path = args.runs / case.name
    if (run / "result.json").exists() or (run / IMPOSSIBLE).exists():
        return run
    if (run / "config.toml").exists():
        done = autoprune("search", "--resume", "--output", str(run))
    else:
        data = ["--data", f"cifar10:{args.shared / 'data'}"]
        if case.network == "resnet18":
            classes = ["--classes", str(args.classes)] if args.classes else []
            data = ["--data", args.data, *classes]
        done = autoprune(
            "search", *model_options(args, case.network), *data,
            "--budget", case.budget, "--decide", DECISIONS[case.decision],
            "--latency-table", str(table(args, case.network, case.backend)),
            "--seed", str(case.seed), "--output", str(run), *args.options,
        )  # fmt: skip
    if done.returncode == 2:
        run.mkdir(exist_ok=True)
        (run / IMPOSSIBLE).write_text(done.stderr)
    elif done.returncode:
        raise SystemExit(done.stderr)
    return run


def row(case: Case, run: Path) -> str:
    """Return a line of the table."""
    named = (case.network, case.budget, case.backend, case.decision)
    return f"| {' | '.join((*named, *_figures(run)))} |"


def _figures(run: Path) -> Iterator[str]:
    if (run / IMPOSSIBLE).exists():
        lines = (run / IMPOSSIBLE).read_text().strip().splitlines() or ["impossible"]
        yield from (lines[-1], *["–"] * 5)
        return
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    policy = json.loads((run / "policy.json").read_text())
    score, costs = result["score"], result["costs"]
    latency = costs["latency"]
    yield _first(score, ("recovered", "pruned"), 4)
    yield _first(score, ("recovered_kl", "kl"), 3)
    yield f"{costs['pruned']['flops'] / costs['dense']['flops']:.1%}"
    yield _of(latency.get("predicted_ms"), latency.get("predicted_dense_ms"))
    yield _of(latency.get("measured_ms"), costs["dense"].get("latency_ms"))
    yield str(len(policy.get("bypasses", [])))


def _first(figures: Mapping[str, float | None], keys: Sequence[str], digits: int) -> str:
    known = [value for key in keys if (value := figures.get(key)) is not None]
    return f"{known[0]:.{digits}f}" if known else "–"


def _of(pruned: float | None, dense: float | None) -> str:
    if pruned is None or not dense:
        return "–"
    return f"{pruned:.2f} of {dense:.2f} ({pruned / dense:.1%})"


def cases(args: argparse.Namespace) -> list[Case]:
    """Return all searches, those that are compared next to each other."""
    wanted = product(args.networks, args.budgets, args.backends, args.seeds, DECISIONS)
    return [Case(n, b, backend, decision, seed) for n, b, backend, seed, decision in wanted]


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("runs", type=Path)
    names = ["resnet56", "resnet18"]
    parser.add_argument("--networks", nargs="+", default=names, choices=[*names, "resnet20"])
    parser.add_argument("--budgets", nargs="+", default=["flops=0.5", "latency=0.5"])
    parser.add_argument("--backends", nargs="+", default=["torch", "onnxruntime"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--trials", type=int)
    parser.add_argument("--recover", help="as autoprune search takes it")
    parser.add_argument("--data", help="data for resnet18, as autoprune search takes it")
    parser.add_argument("--weights", help="trained weights of resnet18")
    parser.add_argument("--classes", help="class names of that data, as autoprune search takes it")
    args = parser.parse_args(arguments)
    chosen = {"--trials": args.trials, "--recover": args.recover}
    args.options = [
        text for key, value in chosen.items() if value is not None for text in (key, str(value))
    ]
    if "resnet18" in args.networks and not args.data:
        parser.error("resnet18 needs --data, or name other --networks")
    return args


def main() -> None:
    """Search whatever is missing, and print what is there after every search."""
    args = parsed()
    args.runs.mkdir(parents=True, exist_ok=True)
    lines = []
    for case in cases(args):
        lines.append(row(case, search(args, case)))
        print(HEAD, *lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
