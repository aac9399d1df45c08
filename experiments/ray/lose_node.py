"""A cluster of two nodes on this machine loses one in the middle of a search, and gets another.

    OMP_NUM_THREADS=1 python experiments/ray/lose_node.py --strategies random netadapt

Every search is of the demo network. Study, policy and weights must be those of searches in this
process, with one Ray worker, and with two of which none is lost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray.cluster_utils import Cluster

import autoprune
from autoprune.core.progress import Progress, SearchState
from autoprune.data import load_splits
from autoprune.models.demo import load_demo

sys.path.insert(0, str(Path(__file__).parents[1] / "endurance"))
from kill import OPTIONS, outcome

TRIALS = 16
LOST_AT, BACK_AT = TRIALS // 3, 2 * TRIALS // 3


class Changing(Progress):
    """Does something to the cluster after a trial, and writes down what workers did."""

    def __init__(self, changes: Mapping[int, Callable[[], None]]) -> None:
        self._changes = dict(changes)
        self.busy: list[int | None] = []

    def searched(self, state: SearchState) -> None:
        """Change the cluster if it is time."""
        self.busy.append(state.busy)
        if state.done in self._changes:
            self._changes.pop(state.done)()


def search(folder: Path, strategy: str, progress: Progress, **options: Any) -> dict[str, Any]:
    """Run one search; return what must be equal."""
    own = {**OPTIONS, "trials": TRIALS, "recover": "off", "at_once": 2}
    autoprune.search(
        load_demo(),
        data=load_splits("digits"),
        strategy=strategy,
        output=folder,
        progress=progress,
        **{**own, **options},
    )
    return outcome(folder)


def on_two_nodes(folder: Path, strategy: str, loses: bool) -> dict[str, Any]:
    """Run one search on two nodes, with a core each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        changes = {
            LOST_AT: lambda: cluster.remove_node(node, allow_graceful=False),
            BACK_AT: lambda: cluster.add_node(num_cpus=1),
        }
        progress = Changing(changes if loses else {})
        found = search(folder, strategy, progress, ray=cluster.address, workers=2)
        print(f"  workers busy after each trial: {progress.busy}", flush=True)
        return found
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--strategies", nargs="+", default=["random"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for strategy in args.strategies:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ways: Mapping[str, Callable[[], dict[str, Any]]] = {
                "this process": lambda f=folder, s=strategy: search(f / "a", s, Progress()),
                "one worker": lambda f=folder, s=strategy: search(
                    f / "b", s, Progress(), ray=True, workers=1
                ),
                "two nodes": lambda f=folder, s=strategy: on_two_nodes(f / "c", s, loses=False),
                "a node is lost": lambda f=folder, s=strategy: on_two_nodes(f / "d", s, loses=True),
            }
            first: dict[str, Any] | None = None
            for way, run in ways.items():
                start = time.perf_counter()
                found = run()
                first = found if first is None else first
                differs = sorted(key for key in first if first[key] != found.get(key))
                print(
                    f"{strategy}, {way}: {len(found['study'])} trials, "
                    f"{time.perf_counter() - start:.0f} s, "
                    f"{'differs: ' + ', '.join(differs) if differs else 'equal'}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
