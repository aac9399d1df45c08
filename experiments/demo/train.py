"""Train the demo's digits network and write the weights that the package ships.

python experiments/demo/train.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.data import Samples, Split, load_splits
from autoprune.models.demo.network import WEIGHTS, digits_cnn

EPOCHS = 60
BATCH = 64
PEAK_LEARNING_RATE = 5e-3


def train(samples: Samples, seed: int = 0) -> nn.Module:
    """Return a network trained on the samples; equal seeds give equal networks on one machine."""
    torch.manual_seed(seed)
    model = digits_cnn()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = EPOCHS * (len(samples) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(samples))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            assert samples.targets is not None
            logits = model(shift(samples.inputs[rows]))
            loss = F.cross_entropy(logits, samples.targets[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()


def shift(images: Tensor) -> Tensor:
    """Move every image of (n, 1, 8, 8) by −1, 0 or 1 pixels each way, zeros coming in."""
    n, _, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1))
    dy, dx = torch.randint(0, 3, (2, n, 1))
    rows = (dy + torch.arange(height))[:, :, None]
    columns = (dx + torch.arange(width))[:, None, :]
    return padded[torch.arange(n)[:, None, None], 0, rows, columns][:, None]


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Return the top-1 fraction."""
    batches = list(split.batches(512))
    hits = sum(int((model(b.inputs).argmax(1) == b.targets).sum()) for b in batches)
    return hits / len(split)


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else WEIGHTS
    splits = load_splits("digits")
    model = train(splits.train.take(range(len(splits.train))))
    for name, split in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        assert split is not None
        print(f"{name} accuracy {accuracy(model, split):.4f}")
    save_file(model.state_dict(), output)


if __name__ == "__main__":
    main()
