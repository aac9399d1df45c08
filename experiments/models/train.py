"""Train a CIFAR-10 network that no search was ever tuned on.

Usage: python experiments/models/train.py SHARED experiments/models/cifar_resnet.py:resnet14 \
    resnet14.pt --epochs 10
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from autoprune.data import load_splits
from autoprune.models.loading import load_model

BATCH = 128
# Pixels that images are shifted by at most.
SHIFT = 4


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (n, c, h, w) shifted together and mirrored one by one."""
    n, _, height, width = images.shape
    down, right = torch.randint(2 * SHIFT + 1, (2,), generator=generator).tolist()
    padded = F.pad(images, (SHIFT,) * 4)[:, :, down : down + height, right : right + width]
    mirrored = torch.rand(n, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], padded.flip(3), padded)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("model", help="FILE.py:FACTORY")
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = load_model(args.model, None).train().to(memory_format=torch.channels_last)
    splits = load_splits(f"cifar10:{args.shared / 'data'}")
    train = splits.train.take(range(len(splits.train)))
    images, labels = train.inputs, train.targets
    steps = args.epochs * (len(images) // BATCH)
    optimizer = torch.optim.SGD(
        model.parameters(), args.rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.rate, steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(args.seed)
    start = time.perf_counter()
    for epoch in range(args.epochs):
        order = torch.randperm(len(images), generator=generator)[: steps // args.epochs * BATCH]
        for chosen in order.split(BATCH):
            batch = augmented(images[chosen], generator).contiguous(
                memory_format=torch.channels_last
            )
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(batch).float(), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(
            f"epoch {epoch + 1}: loss {loss:.3f}, {time.perf_counter() - start:.0f} s", flush=True
        )
        torch.save(model.state_dict(), args.output)
    model.eval()
    test = splits.test.take(range(len(splits.test)))
    with torch.no_grad():
        right = [
            (model(x).argmax(1) == y).float()
            for x, y in zip(test.inputs.split(500), test.targets.split(500), strict=True)
        ]
    print(f"top-1 on {len(test)} test images: {torch.cat(right).mean():.4f}")


if __name__ == "__main__":
    main()
