"""Training methods side by side at equal epochs, beside a search and the architecture from scratch.

python experiments/methods/table.py SHARED RUNS [--network resnet20] [--budget flops=0.5]
    [--epochs 10] [--seed 0] [--arms sfp slimming … search scratch] [--tries FILE] [-- OPTIONS]

A method has half of the epochs, and its cut network the other half. The search is fine-tuned for
all of them, and its architecture is trained from scratch for as many. FILE is a TOML file with an
array of tables for every method, e.g. [[slimming]] with sparsity = 1e-4: each of them is tried,
and the best by the validation images of fine-tuning stands in the table. OPTIONS go to
`autoprune train` and `autoprune search` alike.

Every run is a command line whose output is kept in RUNS, so that the script goes on where it was
stopped. A row is printed as soon as it is known; RUNS/table.md has all of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.core.untrusted import read_toml
from autoprune.methods.registry import KIND

HEAD = (
    "| | options | right after the cut, % | fine-tuned, % | FLOPs | seconds | tries |\n"
    "|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Setting:
    """What all runs share: the options of a search and of a training, and where they are kept."""

    common: Sequence[str]
    runs: Path
    epochs: float
    seed: int

    def result(self, run: Path) -> dict[str, Any]:
        """Return what a finished run says of itself."""
        found: dict[str, Any] = json.loads((run / "result.json").read_text())
        return found

    def trained(self, method: str, number: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Train with a method, or go on with that, and return the result."""
        run = self.runs / f"{method}-{number}"
        if (run / "config.toml").exists():
            autoprune("train", "--resume", "--output", str(run))
        else:
            given = [f"--method-option={name}={json.dumps(one)}" for name, one in options.items()]
            epochs = ("--epochs", str(self.epochs))
            autoprune(
                *("train", "--method", method, *given, *epochs, *self.common, "--output", str(run))
            )
        return self.result(run)

    def searched(self) -> Path:
        """Search, or go on with that, and return the run."""
        run = self.runs / "search"
        if not (run / "result.json").exists():
            if (run / "config.toml").exists():
                autoprune("search", "--resume", "--output", str(run))
            else:
                autoprune("search", *self.common, "--output", str(run))
        return run

    def tuned(self, from_scratch: bool) -> dict[str, Any]:
        """Train the network of the search for all epochs, or go on with that."""
        run, flags = self.searched(), ("--from-scratch",) if from_scratch else ()
        begun = run / ("from-scratch.toml" if from_scratch else "finetune.toml")
        how: tuple[str, ...] = ("--epochs", str(self.epochs), "--seed", str(self.seed))
        if from_scratch:  # as fine-tuning's own table has it
            how += ("--no-distill", "--learning-rate", "0.1")
        autoprune("finetune", str(run), *flags, *(("--resume",) if begun.exists() else how))
        return self.result(run)


def autoprune(*arguments: str) -> None:
    """Run a command line."""
    command = [sys.executable, "-m", "autoprune.cli.app", *arguments]
    print(" ".join(command[2:]), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=sys.stderr)


def row(name: str, result: Mapping[str, Any], tries: int = 1) -> str:
    """Return the line of a run."""
    shaped, score, costs = result.get("train", {}), result["score"], result["costs"]
    key = "from_scratch" if name == "scratch" else "finetuned"
    tuning = result["from_scratch" if name == "scratch" else "finetune"]
    cut = None if name == "scratch" else score["pruned"]
    # Where training did not help, what it began with is handed over.
    tuned = score[key] if score[key] is not None or name == "scratch" else _cut(score)
    seconds = shaped.get("seconds", 0.0) + sum(result["seconds"].values()) + tuning["seconds"]
    options = ", ".join(f"{k} {v:g}" for k, v in shaped.get("options", {}).items())
    share = costs["pruned"]["flops"] / costs["dense"]["flops"]
    cells = (name, options, percent(cut), percent(tuned), f"{share:.4f}", f"{seconds:.0f}", tries)
    return "| " + " | ".join(map(str, cells)) + " |"


def _cut(score: Mapping[str, Any]) -> float | None:
    recovered: float | None = score["recovered"]
    return score["pruned"] if recovered is None else recovered


def percent(share: float | None) -> str:
    """Return a share in per cent, a dash for what is not known."""
    return "–" if share is None else f"{100 * share:.2f}"


def rows(setting: Setting, arms: Sequence[str], tries: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of all arms, each when it is done."""
    for arm in arms:
        if arm in ("search", "scratch"):
            yield row(arm, setting.tuned(arm == "scratch"))
            continue
        options = tries.get(arm, [{}])
        found = [setting.trained(arm, number, one) for number, one in enumerate(options)]
        yield row(arm, max(found, key=validated), len(found))


def validated(result: Mapping[str, Any]) -> float:
    """Return the accuracy on the validation images of fine-tuning."""
    return float(result["finetune"]["validation"]["best"]["top1"])


def main() -> None:
    """Run the arms, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    arms = [*KIND.built_in, "search", "scratch"]
    parser.add_argument("shared", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--network", default="resnet20", choices=["resnet20", "resnet56"])
    parser.add_argument("--budget", default="flops=0.5")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", default=arms, choices=arms)
    parser.add_argument("--tries", type=Path)
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    args = parser.parse_args(given[:end])
    models = Path(__file__).parents[1] / "models" / "cifar_resnet.py"
    common = [
        *("--model", f"{models}:{args.network}"),
        *("--weights", str(args.shared / "checkpoints" / f"cifar_{args.network}.th")),
        *("--data", f"cifar10:{args.shared / 'data'}", "--budget", args.budget),
        *("--seed", str(args.seed), *given[end + 1 :]),
    ]
    args.runs.mkdir(parents=True, exist_ok=True)
    tries = {} if args.tries is None else read_toml(args.tries)
    setting = Setting(common, args.runs, args.epochs, args.seed)
    lines = [f"{args.network}, {args.budget}, {args.epochs:g} epochs, seed {args.seed}\n", HEAD]
    print("\n".join(lines), flush=True)
    for line in rows(setting, args.arms, tries):
        print(line, flush=True)
        lines.append(line)
        (args.runs / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
