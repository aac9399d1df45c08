"""Patterns of zeros: single weights, blocks, or a few of every so many.

A weight is a matrix here (`layout.py`): a row for each output, and columns in which the input
channels of one kernel tap stand beside each other.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from autoprune.errors import UsageError, did_you_mean
from autoprune.sparsity.choices import UNSTRUCTURED

# Rounds in which single weights and blocks go; 8 gave hardly less error than 4.
ROUNDS = 4


class Pattern(ABC):
    """Which weights become zero together.

    Attributes:
        columns: neighbouring input channels that are decided on together.
        at_once: columns whose zeros are chosen before later ones are updated (`obs.by_columns`).
    """

    columns: int
    at_once: ClassVar[int]

    @abstractmethod
    def fits(self, outputs: int, channels: int) -> bool:
        """Return whether a layer can be divided like that.

        Args:
            outputs: rows of its matrix.
            channels: its input channels at one kernel tap.
        """

    @abstractmethod
    def kept(
        self, scores: Float[Tensor, "outputs inputs"], amount: float
    ) -> Bool[Tensor, "outputs inputs"]:
        """Return which weights stay.

        Args:
            scores: larger is more important.
            amount: share of them that becomes zero.
        """

    @abstractmethod
    def steps(self, amount: float) -> list[tuple[Pattern, float]]:
        """Return ever more zeros, a pattern and an amount for each round, up to what is wanted."""


@dataclass(frozen=True)
class Blocks(Pattern):
    """Blocks of weights go as a whole; with one row and one column, these are single weights.

    Attributes:
        rows: neighbouring outputs of a block.
        columns: neighbouring input channels of a block.
    """

    at_once: ClassVar[int] = 128  # SparseGPT, section 3.3

    rows: int = 1
    columns: int = 1

    def fits(self, outputs: int, channels: int) -> bool:
        """Return whether blocks fill the matrix."""
        return not outputs % self.rows and not channels % self.columns

    def totals(self, scores: Float[Tensor, "outputs inputs"]) -> Float[Tensor, "rows columns"]:
        """Return the sum of the scores of every block."""
        outputs, inputs = scores.shape
        tiles = scores.reshape(outputs // self.rows, self.rows, inputs // self.columns, -1)
        return tiles.sum((1, 3))

    def kept(
        self, scores: Float[Tensor, "outputs inputs"], amount: float
    ) -> Bool[Tensor, "outputs inputs"]:
        """Return which weights stay: all but the blocks of least total score."""
        totals = self.totals(scores)
        gone = totals.flatten().argsort(stable=True)[: round(amount * totals.numel())]
        stays = torch.ones(totals.numel(), dtype=torch.bool, device=scores.device)
        stays[gone] = False
        of_rows = stays.reshape(totals.shape).repeat_interleave(self.rows, 0)
        return of_rows.repeat_interleave(self.columns, 1)

    def steps(self, amount: float) -> list[tuple[Pattern, float]]:
        """Return four rounds on the cubic schedule of gradual pruning."""
        return [(self, amount * (1 - (1 - one / ROUNDS) ** 3)) for one in range(1, ROUNDS + 1)]


@dataclass(frozen=True)
class FewOfEvery(Pattern):
    """N of every M neighbouring input channels stay (N:M), which some processors multiply faster.

    Attributes:
        few: N.
        columns: M.
    """

    at_once: ClassVar[int] = 1

    few: int
    columns: int

    def fits(self, outputs: int, channels: int) -> bool:
        """Return whether the channels divide by M."""
        return not channels % self.columns

    def kept(
        self, scores: Float[Tensor, "outputs inputs"], amount: float
    ) -> Bool[Tensor, "outputs inputs"]:
        """Return which weights stay: the N of largest score; the amount follows from that."""
        runs = scores.reshape(-1, self.columns)
        order = runs.argsort(dim=1, descending=True, stable=True)[:, : self.few]
        kept = torch.zeros_like(runs, dtype=torch.bool).scatter(1, order, True)
        return kept.reshape(scores.shape)

    def steps(self, amount: float) -> list[tuple[Pattern, float]]:
        """Return one round for each that goes of M."""
        left = range(self.columns - 1, self.few - 1, -1)
        return [(FewOfEvery(one, self.columns), amount) for one in left]


def find_pattern(text: str) -> Pattern:
    """Return the pattern of a name: "unstructured", "2:4", "4x1".

    Raises:
        UsageError: it names none.
    """
    if text == UNSTRUCTURED:
        return Blocks()
    if (block := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)) is not None:
        return Blocks(*map(int, block.groups()))
    if (run := re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)) is not None:
        few, of = map(int, run.groups())
        if few < of:
            return FewOfEvery(few, of)
        raise UsageError(f"pattern {text!r} leaves nothing to remove: write N:M with N below M.")
    hint = did_you_mean(text, [UNSTRUCTURED], ["N:M, e.g. 2:4", "ROWSxCOLUMNS, e.g. 4x1"])
    raise UsageError(f"unknown pattern {text!r}; {hint}")
