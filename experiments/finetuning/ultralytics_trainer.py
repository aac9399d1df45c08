"""A network of ultralytics, pruned by autoprune and trained further by ultralytics' own trainer.

pip install ultralytics
python experiments/finetuning/ultralytics_trainer.py SHARED OUTPUT [--epochs 3] [--images 2000]

Ultralytics builds a network from its YAML file when a training begins, which would undo the cut:
the trainer is told to take the pruned one. Prints the accuracy at every stage.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from ultralytics import YOLO
from ultralytics.models.yolo.classify import ClassificationTrainer

import autoprune

SIDE = 32


class Logits(nn.Module):
    """A classifier of ultralytics, which answers (probabilities, logits), by its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, (samples, classes)."""
        answer = self.network(images)
        return answer[1] if isinstance(answer, tuple) else answer


def trainer_of(pruned: nn.Module) -> type[ClassificationTrainer]:
    """Return a trainer of ultralytics that trains this network."""

    class PrunedTrainer(ClassificationTrainer):
        def get_model(self, *arguments: Any, **options: Any) -> nn.Module:
            return pruned.requires_grad_(True)

    return PrunedTrainer


def write_images(shared: Path, folder: Path, count: int) -> Path:
    """Write CIFAR-10 images as ultralytics reads them: a folder of PNG files for every class."""
    for split, name in (("train", "train_0"), ("val", "val")):
        with np.load(shared / "data" / f"cifar10_{name}.npz") as file:
            images, labels = file["x"][:count], file["y"][:count]
        for place, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            own = folder / split / str(label)
            own.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(own / f"{place}.png")
    return folder


def accuracy(network: nn.Module, split: datasets.ImageFolder) -> float:
    """Return the share of right answers, in evaluation mode."""
    network.eval()
    with torch.inference_mode():
        right = [
            (network(images).argmax(1) == labels).float()
            for images, labels in DataLoader(split, batch_size=256)
        ]
    return float(torch.cat(right).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000)
    args = parser.parse_args()
    folder = write_images(args.shared, args.output.absolute() / "images", args.images)
    training = {
        "data": str(folder), "imgsz": SIDE, "epochs": args.epochs, "device": "cpu", "workers": 0,
        "project": str(args.output.absolute()), "plots": False, "verbose": False, "amp": False,
    }  # fmt: skip

    yolo = YOLO("yolov8n-cls.yaml")
    yolo.train(name="dense", **training)
    dense = Logits(yolo.model.float().eval())
    splits = {
        split: datasets.ImageFolder(folder / split, transforms.ToTensor())
        for split in ("train", "val")
    }
    run = autoprune.search(
        dense, data=splits, budget="flops=0.5", strategy="netadapt", trials=60, recover="off",
        output=args.output / "run", calibration_samples=500, search_samples=500,
        selection_samples=500,
    )  # fmt: skip
    figures = {"dense": accuracy(dense, splits["val"])}
    figures["right after the cut"] = accuracy(run.model, splits["val"])

    pruned = run.model.network
    parameters = sum(one.numel() for one in pruned.parameters())
    yolo.train(name="pruned", trainer=trainer_of(pruned), **training)
    assert sum(one.numel() for one in yolo.model.parameters()) == parameters
    figures["trained by ultralytics"] = accuracy(Logits(yolo.model.float()), splits["val"])
    for stage, share in figures.items():
        print(f"{stage}: {100 * share:.2f} %")


if __name__ == "__main__":
    main()
