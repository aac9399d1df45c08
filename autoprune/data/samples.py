"""Samples in memory: inputs and targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from autoprune.data.forms import Inputs, described, map_tensors, tensors
from autoprune.errors import DataError

# Limit on the inputs of one batch; the network's activations take many times as much.
BATCH_BYTES = 40_000_000

# The label of a sample without a label among labelled ones, as in PyTorch's losses.
NO_LABEL = -100


Annotations: TypeAlias = tuple[Mapping[str, Any], ...]
"""What the images of a detector show: for each a mapping of boxes, labels, masks, …"""


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs and targets in memory.

    Attributes:
        inputs: a tensor of shape (n, ...), or tuples (positional arguments) and dicts (keyword
            arguments) of such tensors, as the network takes them.
        targets: int64 labels of shape (n,), or any tensor of n rows if the task is not
            classification; None if there are none.
        annotations: targets that are no tensor, one for each sample; None if there are none.
    """

    inputs: Inputs
    targets: Tensor | None
    annotations: Annotations | None = None

    def __len__(self) -> int:
        return len(tensors(self.inputs)[0])

    def __getitem__(self, rows: slice | Sequence[int]) -> Samples:
        targets = None if self.targets is None else self.targets[rows]
        found = self.annotations
        if found is not None:
            found = found[rows] if isinstance(rows, slice) else tuple(found[row] for row in rows)
        return Samples(map_tensors(lambda one: one[rows], self.inputs), targets, found)

    @classmethod
    def join(cls, parts: Sequence[Samples]) -> Samples:
        """Concatenate samples; the result has targets, or annotations, if all parts have them.

        Raises:
            DataError: the inputs differ in structure or shape.
        """
        labels = [part.targets for part in parts if part.targets is not None]
        found = [part.annotations for part in parts if part.annotations is not None]
        annotations = tuple(chain.from_iterable(found)) if len(found) == len(parts) else None
        try:
            inputs = map_tensors(lambda *own: torch.cat(own), *(part.inputs for part in parts))
            targets = torch.cat(labels) if len(labels) == len(parts) else None
            return cls(inputs, targets, annotations)
        except (RuntimeError, ValueError) as error:
            shapes = sorted({described(part.first(1).inputs) for part in parts})
            raise DataError(f"batches differ in shape: {' and '.join(shapes[:2])}.") from error

    @property
    def device(self) -> torch.device:
        """Device of the inputs."""
        return tensors(self.inputs)[0].device

    @property
    def sample_bytes(self) -> int:
        """Memory of the inputs of one sample in bytes, at least 1."""
        return max(1, sum(one[:1].nbytes for one in tensors(self.inputs)))

    @property
    def shape(self) -> str:
        """Description of the shapes of one sample's inputs."""
        return described(map_tensors(lambda one: one[0], self.inputs))

    def finite(self) -> Tensor:
        """Return whether all inputs of each sample are finite, shape (n,)."""
        found = [one.isfinite().reshape(len(self), -1).all(1) for one in tensors(self.inputs)]
        return torch.stack(found).all(0)

    @property
    def labelled(self) -> bool:
        """Whether the targets are class labels and at least one sample has one."""
        labels = self.targets
        if labels is None or labels.dim() != 1 or labels.dtype != torch.int64:
            return False
        return bool((labels != NO_LABEL).any())

    def with_unlabelled(self, others: Samples) -> Samples:
        """Append other samples; these get `NO_LABEL` if the first have targets."""
        none = None if self.targets is None else self.targets.new_full((len(others),), NO_LABEL)
        return Samples.join([self, Samples(others.inputs, none)])

    def first(self, n: int) -> Samples:
        """Return the first n samples, or all if there are fewer; they share memory."""
        return self[:n]

    def batches(self, size: int) -> Iterator[Samples]:
        """Yield all samples in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def batch_count(self, size: int, at_once: int = 1) -> int:
        """Return the number of batches of at most `size` samples each.

        `at_once` of these batches together have at most `BATCH_BYTES` of inputs.
        """
        each = at_once * self.sample_bytes
        return -(-len(self) // max(1, min(size, BATCH_BYTES // each)))

    def batches_within(self, size: int, at_once: int = 1) -> Iterator[Samples]:
        """Yield all samples in order, in `batch_count` batches of nearly equal size."""
        return self.batches(-(-len(self) // self.batch_count(size, at_once)))

    def to(self, device: torch.device | str) -> Samples:
        """Return the samples on a device; images are channels last, which convolutions prefer."""

        def moved(one: Tensor) -> Tensor:
            layout = torch.channels_last if one.dim() == 4 else torch.preserve_format
            return one.to(device, memory_format=layout)

        targets = None if self.targets is None else self.targets.to(device)
        found = tree_map_only(Tensor, lambda one: one.to(device), self.annotations)
        return Samples(map_tensors(moved, self.inputs), targets, found)
