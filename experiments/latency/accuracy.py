"""How well a latency table predicts networks that it was not fitted to.

Usage: python experiments/latency/accuracy.py MODEL BACKEND TABLE [POLICIES]

MODEL is a torchvision name; TABLE is measured if the file is not there. Prints the median and 90th
percentile of the error and the rank correlation over random policies from 0.3 (or as near as there
are any) to 1.0 of the dense latency, and the rank correlation over policies of equal MACs: of
latencies as shares of the dense network's, which is measured in turn with every few policies, and
of milliseconds. The latter contain what the machine's speed has changed since the table was made.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from autoprune.core.allocator import kept_memory, settled_memory
from autoprune.core.policy import Widths
from autoprune.core.progress import PlainProgress
from autoprune.cost import cost_models
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.model import LatencyCost
from autoprune.cost.latency.table import LatencyTable
from autoprune.models.loading import load_model
from autoprune.profiling.backends.registry import make_backend
from autoprune.profiling.host import measure_table
from autoprune.profiling.subject import Subject
from autoprune.search_spaces.keep_ratio import search_space
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.structure.tracing.trace import trace

AT_ONCE = 4
EQUAL_MACS = 0.5


@kept_memory()
def main(name: str, backend_name: str, path: Path, count: int = 30) -> None:
    torch.set_num_threads(1)
    model = load_model(f"torchvision:{name}", None).eval()
    image = torch.randn(1, 3, 224, 224)
    structure = trace(model, image)
    subject = Subject(model, structure, image)
    conditions = Conditions(backend=backend_name)
    if not path.exists():
        measure_table(subject, make_backend(conditions), path, PlainProgress())
    table = LatencyTable.load(path)
    cost, backend = LatencyCost(structure, table), make_backend(conditions)
    space = search_space(structure, 0.1)
    random, dense = np.random.default_rng(99), structure.dense_widths

    def drawn(model_cost, share: float) -> Widths:
        projection = Projection(space, [Constraint(model_cost, share * model_cost.total(dense))])
        return projection.project(np.exp(random.normal(0, 0.4, len(space))))

    lowest = max(0.3, 1.2 * cost.total(space.lowest) / cost.total(dense))
    spread = [drawn(cost, share) for share in np.linspace(lowest, 1.0, count)]
    macs = cost_models(structure)["flops"]
    equal = [drawn(macs, EQUAL_MACS) for _ in range(2 * count // 3)]

    def measured(policies: list[Widths]) -> tuple[np.ndarray, np.ndarray]:
        """Return milliseconds, and shares of the dense network's."""
        found: list[float] = []
        whole: list[float] = []
        with settled_memory(), backend.session():
            for start in range(0, len(policies), AT_ONCE):
                some = policies[start : start + AT_ONCE]
                networks = [model, *(subject.cut_to(widths) for widths in some)]
                runs = [backend.network(network, image) for network in networks]
                reference, *others = (timing.ms for timing in backend.measure(runs))
                found += others
                whole += [reference] * len(others)
        return np.array(found), np.array(found) / np.array(whole)

    for kind, policies in (("spread", spread), ("equal MACs", equal)):
        predicted = np.array([cost.total(widths) for widths in policies])
        real_ms, shares = measured(policies)
        print(f"{kind}: {len(policies)} policies, {real_ms.min():.1f} to {real_ms.max():.1f} ms")
        for unit, own, real in (
            ("share", predicted / cost.total(dense), shares),
            ("ms", predicted, real_ms),
        ):
            median, most = np.quantile(np.abs(own / real - 1), [0.5, 0.9])
            rank = spearmanr(own, real).statistic
            print(
                f"  {unit:5}: median error {100 * median:.1f} %, p90 {100 * most:.1f} %, ", end=""
            )
            print(f"rank correlation {rank:.3f}")
    began = time.perf_counter()
    for _ in range(1000):
        cost.total(dense)
    print(
        f"one prediction {time.perf_counter() - began:.4f} ms; table {path.stat().st_size} bytes,"
    )
    print(f"  {table.origin.measurements} measurements, {table.origin.noisy} noisy")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:]))
