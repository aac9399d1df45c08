"""What a recovery of a run's cut network gives, on images that it never saw.

Usage: python experiments/recovery/measure.py SHARED RUN --steps 300 --seed 0

RUN is a search of a CIFAR-10 ResNet of experiments/models/cifar_resnet.py, right after the cut. The
first 250 validation images choose the best network of the recovery, the others measure it. `--rate`
is the peak of the learning rate.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import autoprune
from autoprune.core.allocator import kept_memory
from autoprune.core.policy import PruningPolicy
from autoprune.data import load_splits
from autoprune.models.loading import load_model
from autoprune.recovery import student
from autoprune.recovery.distillation import DistillationTask, recover
from autoprune.recovery.length import Length
from autoprune.structure.surgery import kept_positions
from autoprune.structure.verify import analyze

CHECKED = 250


def logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return (samples, classes)."""
    with torch.no_grad():
        return torch.cat([network(batch) for batch in inputs.split(250)])


def told(network: nn.Module, inputs: Tensor, targets: Tensor, dense: Tensor) -> str:
    """Return KL to the dense network's logits, and top-1."""
    own = logits(network, inputs)
    kl = nn.functional.kl_div(
        own.log_softmax(1), dense.log_softmax(1), reduction="batchmean", log_target=True
    )
    return f"KL {kl:.4f}, top-1 {100 * (own.argmax(1) == targets).float().mean():.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=student.RATE)
    asked = parser.parse_args()
    student.RATE = asked.rate
    factory = f"{Path(__file__).parents[1] / 'models' / 'cifar_resnet.py'}:{asked.network}"
    dense = load_model(factory, str(asked.shared / "checkpoints" / f"cifar_{asked.network}.th"))
    dense.eval()
    splits = load_splits(f"cifar10:{asked.shared / 'data'}")
    assert splits.val is not None
    check = splits.val.take(range(CHECKED))
    unseen = splits.val.take(range(CHECKED, len(splits.val)))
    small = autoprune.load_pruned(dense, asked.run, "cut").eval()
    keep = kept_positions(dense, PruningPolicy.load(asked.run / "policy.json"))
    structure = analyze(dense, check.inputs[:2])
    task = DistillationTask(dense, structure, keep, splits.train, check, asked.seed)
    aims = unseen.inputs, unseen.targets, logits(dense, unseen.inputs)
    print("cut", told(small, *aims), flush=True)
    began = time.process_time()
    with kept_memory():
        found = recover(small, task, Length(asked.steps, "steps"))
    seconds = time.process_time() - began
    print(json.dumps(vars(asked), default=str), told(found.network, *aims), f"{seconds:.0f} CPU s")


if __name__ == "__main__":
    main()
