"""Every export format, float and int8, on three networks: the table in docs/export.md.

Usage: python experiments/export/table.py SHARED RUNS [NETWORK ...]
SHARED holds data/ and checkpoints/. Runs that are in RUNS already are used, and entries that are in
their results are not made again: what was interrupted goes on, and a second Python environment,
which has other formats installed, adds these to the same runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FORMATS = {
    "onnx": (False, True),
    "openvino": (False, True),
    "pt2": (False,),
    "executorch": (False,),
    "litert": (False,),
}
# Exported files are compared, so the search is as short as can be.
SEARCH = "--budget flops=0.5 --strategy uniform --trials 3 --recover off --seed 0"
FEW = "--calibration-samples 300 --search-samples 100 --selection-samples 100"


def options(shared: Path) -> dict[str, list[str]]:
    """Return what is searched, by the name of the run."""
    pictures = ["--data", f"imagefolder:{shared}/data/imagenet_500"]
    classes = ["--classes", f"{shared}/data/imagenet_500/classes.txt"]
    return {
        "resnet56": [
            *("--model", f"{HERE.parent}/models/cifar_resnet.py:resnet56"),
            *("--weights", f"{shared}/checkpoints/cifar_resnet56.th"),
            *("--data", f"cifar10:{shared}/data"),
        ],
        "mobilenet_v2": ["--model", f"{HERE}/networks.py:mobilenet_v2", *pictures, *classes],
        "efficientnet_lite0": [
            *("--model", f"{HERE}/networks.py:efficientnet_lite0", *pictures, *classes),
            *("--normalize", "0.5,0.5,0.5/0.5,0.5,0.5"),
        ],
    }


def command(*words: str) -> int:
    """Run autoprune in this Python, and return its exit status."""
    print("autoprune", *words, flush=True)
    return subprocess.run([sys.executable, "-m", "autoprune.cli.app", *words]).returncode


def exported(run: Path) -> dict[tuple[str, bool], dict[str, Any]]:
    """Return what the result says of exported files."""
    result = json.loads((run / "result.json").read_text())
    return {(one["format"], one["int8"]): one for one in result.get("export", [])}


def rows(run: Path) -> Iterator[str]:
    """Yield the rows of a run's files in Markdown."""
    for (name, is_int8), one in sorted(exported(run).items()):
        steps = ["dense_", "float_", ""] if is_int8 else ["dense_", ""]
        sizes = (f"{one[f'{step}bytes'] / 1e6:.2f}" for step in steps)
        times = (f"{one[f'{step}latency_ms']:.2f}" for step in steps)
        figures = [" → ".join(sizes), " → ".join(times)]
        figures.append(f"{one['max_error']:.1e} ({100 * one['relative_error']:.1g} %)")
        quality = ""
        if is_int8:
            tops = (one["float_top1"], one["top1"])
            shown = "" if None in tops else " → ".join(f"{100 * top:.2f}" for top in tops) + ", "
            quality = f"{shown}agreement {100 * one['agreement']:.1f} %, KL {one['kl']:.3f}"
        about = f"{name}{' int8' if is_int8 else ''}"
        yield f"| {run.name} | {about} | {' | '.join(figures)} | {quality} |"


def main() -> None:
    """Search, export what is missing, and print the table."""
    shared, runs, *names = sys.argv[1:]
    known = options(Path(shared).resolve())
    for name in names or known:
        run = Path(runs) / name
        if not (run / "result.json").exists():
            command("search", *known[name], *SEARCH.split(), *FEW.split(), "--output", str(run))
        for form, kinds in FORMATS.items():
            for is_int8 in kinds:
                if (form, is_int8) not in exported(run):
                    extra = ["--int8"] if is_int8 else []
                    command("export", str(run), "--format", form, *extra)
    print("\n| network | format | size, MB | latency, ms | largest error | int8 beside float |")
    print("|---|---|---|---|---|---|")
    for name in known:
        if (Path(runs) / name / "result.json").exists():
            print("\n".join(rows(Path(runs) / name)))


if __name__ == "__main__":
    main()
