"""Seconds and memory of ordering a layer's inputs by elimination, against their number.

Usage: OMP_NUM_THREADS=1 python experiments/benchmarks/elimination.py [OUTPUTSxUNITSxENTRIES…]
(One consumer with random weights; the covariance of its inputs has a few large eigenvalues and
many small ones. ENTRIES are the inputs per unit: 9 for a 3 x 3 convolution. Seconds are the
processor's, so that other work on the machine hardly shows; widths rise, so that the peak of memory
is that of the last one.)
"""

from __future__ import annotations

import math
import resource
import sys
import time

import torch

from autoprune.reconstruction.obs_path import obs_path
from autoprune.reconstruction.obs_problem import ObsProblem

SHAPES = (
    *("256x256x1", "512x512x1", "1024x1024x1", "2048x2048x1", "4096x4096x1"),
    *("64x64x9", "128x128x9", "256x256x9", "512x512x9"),
)
LARGE_EIGENVALUES = 100


def regularized_covariance(size: int) -> torch.Tensor:
    """Return H = G + λI of correlated inputs."""
    factors = torch.randn(size, LARGE_EIGENVALUES, dtype=torch.float64)
    factors *= torch.arange(1, LARGE_EIGENVALUES + 1, dtype=torch.float64) ** -0.5
    h = factors @ factors.T
    h.diagonal().add_(0.01 + torch.rand(size, dtype=torch.float64))
    return h


def peak_mib() -> float:
    """Return the most memory that this process held so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(shapes: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    before: tuple[int, float] | None = None
    for shape in shapes:
        outputs, units, entries = map(int, shape.split("x"))
        size = units * entries
        weight, h = torch.randn(outputs, units, entries), regularized_covariance(size)
        start = time.process_time()
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
        inverted = time.process_time() - start
        obs_path([ObsProblem(weight, inverse, 0.01, float(size * outputs))])
        seconds = time.process_time() - start
        law = ""
        if before is not None and before[0] < size:
            power = math.log(seconds / before[1]) / math.log(size / before[0])
            law = f", as the width to the power of {power:.1f}"
        print(
            f"{shape}: {seconds:.2f} s, {inverted:.2f} of them for the inverse{law}; "
            f"{peak_mib():.0f} MiB at most",
            flush=True,
        )
        before = size, seconds


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or SHAPES)
