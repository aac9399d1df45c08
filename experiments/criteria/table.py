"""Every importance criterion at uniform keep ratios and half the MACs, with more and more repair.

Usage: python experiments/criteria/table.py SHARED [resnet20|resnet56 [NAME ...]]
(SHARED holds data/ and checkpoints/ of CIFAR-10. Top-1 in percent on 1,000 validation images and
on the 3,000 test images; mean and range over seeds for criteria that draw at random.)
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from autoprune.core.allocator import kept_memory
from autoprune.core.policy import Widths
from autoprune.data import Partition, Samples, SplitSizes, load_splits, partition
from autoprune.engine.builder import BATCHNORM_SAMPLES
from autoprune.engine.context import SearchContext
from autoprune.engine.problem import make_problem
from autoprune.evaluation.evaluator import Builder
from autoprune.importance import IMPORTANCES, Evidence, make_importance, rank_groups
from autoprune.models.loading import load_model
from autoprune.options.search import SearchConfig
from autoprune.reconstruction.batchnorm import reestimate_batchnorm
from autoprune.reconstruction.refit import Refitter
from autoprune.reconstruction.sequential import SequentialRepair
from autoprune.statistics.collect import collect_moments
from autoprune.structure.surgery import cut, kept_positions
from autoprune.study.run_directory import RunDirectory

SAMPLED = {"random", "coreset", "aofp"}
SEEDS = 3


def builds(
    model: nn.Module, builder: Builder, images: Partition
) -> Mapping[str, Callable[[Widths], nn.Module]]:
    """Return how networks are repaired, column by column."""

    def cut_only(widths: Widths) -> nn.Module:
        return cut(model, kept_positions(model, builder.policy(widths)))

    def cut_and_batchnorm(widths: Widths) -> nn.Module:
        small = cut_only(widths)
        reestimate_batchnorm(small, images.calibration.first(BATCHNORM_SAMPLES))
        return small

    return {
        "cut": cut_only,
        "cut + BN": cut_and_batchnorm,
        "refit": builder.one_shot,
        "refit + BN": builder.one_shot_with_batchnorm,
        "sequential": builder.sequential,
    }


class Table:
    """One network, its images, and what all criteria share."""

    def __init__(self, shared: Path, network: str) -> None:
        factory = Path(__file__).parents[1] / "models" / "cifar_resnet.py"
        weights = shared / "checkpoints" / f"cifar_{network}.th"
        self.model = load_model(f"{factory}:{network}", str(weights)).eval()
        splits = load_splits(f"cifar10:{shared / 'data'}")
        self.images = partition(splits, SplitSizes(), seed=0).to("cpu")
        inputs = self.images.calibration.inputs[:2]
        config = SearchConfig("flops=0.5")
        run = RunDirectory("unused")
        self.task = make_problem(SearchContext(self.model, inputs, self.images, config, run))
        structure = self.task.structure
        self.moments = collect_moments(self.model, structure, self.images.calibration, 0)
        self.refitter = Refitter(self.model, structure, self.moments)
        self.repair = SequentialRepair(self.model, structure, self.images.calibration, 0)
        assert splits.test is not None
        test = splits.test.take(range(len(splits.test))).to("cpu")
        self.shown = {"selection": self.images.selection, "test": test}

    def score(self, model: nn.Module) -> dict[str, float]:
        """Return the top-1 in percent on every set of images."""
        return {name: top1(model, samples) for name, samples in self.shown.items()}

    def rows(self, name: str) -> Iterator[dict[str, float]]:
        """Yield, seed by seed, the top-1 of every kind of repair on every set of images."""
        widths = self.task.projection.uniform()
        few = self.images.calibration.first(BATCHNORM_SAMPLES)
        structure = self.task.structure
        for seed in range(SEEDS if name in SAMPLED else 1):
            samples = self.images.calibration
            start = time.perf_counter()
            evidence = Evidence(self.model, structure, self.moments, samples, seed)
            rankings = rank_groups(make_importance(name), evidence)
            row = {"seconds": time.perf_counter() - start}
            builder = Builder(self.model, structure, rankings, self.refitter, few, self.repair)
            for column, build in builds(self.model, builder, self.images).items():
                scores = self.score(build(widths).eval())
                row |= {f"{column}|{split}": value for split, value in scores.items()}
            yield row


def top1(model: nn.Module, samples: Samples) -> float:
    assert samples.targets is not None
    with torch.no_grad():
        logits = torch.cat([model(batch.inputs) for batch in samples.batches(250)])
    return 100 * float((logits.argmax(1) == samples.targets).float().mean())


@kept_memory()
def main(shared: Path, network: str = "resnet20", *names: str) -> None:
    table = Table(shared, network)
    dense = ", ".join(f"{split} {value:.2f}" for split, value in table.score(table.model).items())
    print(f"{network}, dense: {dense}; every cell: selection / test")
    print("| importance | seconds | cut | cut + BN | refit | refit + BN | sequential |")
    print("|---|" + "---|" * 6)
    for name in names or IMPORTANCES:
        print(line(name, list(table.rows(name))), flush=True)


def line(name: str, found: list[dict[str, float]]) -> str:
    """Return one row of the table, "val / test" in every column."""
    columns = list(dict.fromkeys(key.partition("|")[0] for key in found[0] if key != "seconds"))
    cells = [f"{statistics.mean(row['seconds'] for row in found):.1f}"]
    for column in columns:
        parts = []
        for split in ("selection", "test"):
            values = [row[f"{column}|{split}"] for row in found]
            spread = f" (±{(max(values) - min(values)) / 2:.1f})" if len(values) > 1 else ""
            parts.append(f"{statistics.mean(values):.1f}{spread}")
        cells.append(" / ".join(parts))
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
