"""Fine-tuning beside its controls: usual images, without distillation, and from new weights.

python experiments/finetuning/table.py SHARED RUNS [--network resnet56] [--budget flops=0.5]
    [--seeds 0 1 2] [--arms distilled standard labels scratch] [--epochs 10]

Every search and every training is a command line whose output is kept in RUNS, so that the script
goes on where it was stopped. Prints a table in Markdown of what is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ARMS = {
    "distilled": ("finetuned", ()),
    "standard": ("finetuned", ("--augment", "standard")),
    "labels": ("finetuned", ("--no-distill",)),
    "scratch": ("from_scratch", ("--from-scratch", "--no-distill", "--learning-rate", "0.1")),
}
"""The key of the score in result.json, and the options of the training."""


def autoprune(*arguments: str) -> None:
    """Run a command line."""
    command = [sys.executable, "-m", "autoprune.cli.app", *arguments, "--trust"]
    print(" ".join(command[2:]), flush=True)
    subprocess.run(command, check=True)


def search(shared: Path, network: str, budget: str, seed: int, output: Path) -> None:
    """Search once; a search that was stopped goes on."""
    if (output / "result.json").exists():
        return
    if (output / "config.toml").exists():
        autoprune("search", "--resume", "--output", str(output))
        return
    models = Path(__file__).parents[1] / "models" / "cifar_resnet.py"
    autoprune(
        "search", "--model", f"{models}:{network}",
        "--weights", str(shared / "checkpoints" / f"cifar_{network}.th"),
        "--data", f"cifar10:{shared / 'data'}", "--budget", budget, "--seed", str(seed),
        "--output", str(output),
    )  # fmt: skip


def train(run: Path, arm: str, epochs: float, seed: int) -> dict[str, Any]:
    """Train a copy of a run, and return its result; a training that was stopped goes on."""
    own = run.with_name(f"{run.name}-{arm}-{epochs:g}")
    if not own.exists():
        shutil.copytree(run, own)
    key, options = ARMS[arm]
    result: dict[str, Any] = json.loads((own / "result.json").read_text())
    if key not in result["score"]:
        name = "from-scratch.toml" if arm == "scratch" else "finetune.toml"
        if (own / name).exists():
            flag = ("--from-scratch",) if arm == "scratch" else ()
            autoprune("finetune", str(own), "--resume", *flag)
        else:
            how = ("--epochs", str(epochs), "--seed", str(seed))
            autoprune("finetune", str(own), *how, *options)
        result = json.loads((own / "result.json").read_text())
    return result


def row(name: str, shares: Sequence[float | None]) -> str:
    """Return a line of the table: mean and spread in per cent."""
    known = [100 * share for share in shares if share is not None]
    if not known:
        return f"| {name} | – | 0 |"
    spread = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return f"| {name} | {statistics.mean(known):.2f}{spread} | {len(known)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--network", default="resnet56", choices=["resnet56", "resnet20"])
    parser.add_argument("--budget", default="flops=0.5")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--epochs", type=float, default=10)
    args = parser.parse_args()
    found: dict[str, list[float | None]] = {}
    for seed in args.seeds:
        run = args.runs / f"{args.network}-{args.budget}-{seed}"
        search(args.shared, args.network, args.budget, seed, run)
        score = json.loads((run / "result.json").read_text())["score"]
        for stage in ("dense", "pruned", "recovered"):
            found.setdefault(stage, []).append(score[stage])
        for arm in args.arms:
            scores = train(run, arm, args.epochs, seed)["score"]
            own = (scores[key] for key in (ARMS[arm][0], "recovered", "pruned"))
            # Where training did not help, what it began with is handed over.
            found.setdefault(arm, []).append(next((one for one in own if one is not None), None))
    print(f"\n{args.network}, {args.budget}, {args.epochs:g} epochs\n")
    print("| network | test accuracy, % | runs |\n|---|---|---|")
    print("\n".join(row(name, shares) for name, shares in found.items()))


if __name__ == "__main__":
    main()
