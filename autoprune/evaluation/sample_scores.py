"""Scores of a network sample by sample, and their means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.core.precision import at_least_single
from autoprune.data import NO_LABEL
from autoprune.evaluation.measurement import Scores

# Temperature of the softened KL. The plain KL comes mostly from the few images on which a network
# errs; softened class probabilities differ on all images, so fewer of them tell networks apart.
TEMPERATURE = 4.0


@dataclass(frozen=True, eq=False)
class SampleScores:
    """Scores of a network on each of some samples.

    Attributes:
        rows: shape (2 or 4, samples): the KL divergence from the dense network's class
            probabilities, the same softened by `TEMPERATURE` and, if there are labels, the cross
            entropy and whether the label is the top class (NaN for a sample without a label).
    """

    rows: Tensor

    def __len__(self) -> int:
        return self.rows.shape[1]

    @property
    def soft_kl(self) -> Tensor:
        """Softened KL of every sample in nats, shape (samples,)."""
        return self.rows[1]

    @classmethod
    def of(cls, dense: Tensor, logits: Tensor, targets: Tensor | None) -> SampleScores:
        """Score class scores against those of the dense network and the labels.

        Args:
            dense: class scores of the dense network, (samples, classes).
            logits: class scores of the network, (samples, classes).
            targets: labels, (samples,); None if there are none.
        """
        # In half precision the mean of hits and misses would be rounded.
        wide = at_least_single(dense), at_least_single(logits)
        p, q = (scores.log_softmax(1) for scores in wide)
        soft_p, soft_q = ((scores / TEMPERATURE).log_softmax(1) for scores in wide)
        rows = [_kl(p, q), TEMPERATURE**2 * _kl(soft_p, soft_q)]
        if targets is not None:
            right = (q.argmax(1) == targets).to(q.dtype)
            of_labels = [F.nll_loss(q, targets, ignore_index=NO_LABEL, reduction="none"), right]
            rows += [row.masked_fill(targets == NO_LABEL, torch.nan) for row in of_labels]
        return cls(torch.stack(rows))

    @classmethod
    def join(cls, parts: Sequence[SampleScores]) -> SampleScores:
        """Concatenate batches."""
        return cls(torch.cat([part.rows for part in parts], dim=1))

    def mean(self) -> Scores:
        """Return the scores on these samples."""
        return self.with_control(self)

    def with_control(self, other: SampleScores) -> Scores:
        """Estimate the scores on all samples of another network, of which these are the first.

        The estimate is a control variate: the other network's mean on all samples plus the mean
        difference on those that both have seen, which is unbiased.
        """
        means = expected_means(self.rows, other.rows).tolist()
        kl, soft_kl, *labelled = means
        if not labelled or math.isnan(labelled[1]):  # no sample has a label
            return Scores(kl, soft_kl=soft_kl, samples=len(self))
        loss, top1 = labelled
        return Scores(kl, loss, min(top1, 1.0), soft_kl=soft_kl, samples=len(self))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Return the KL of every sample from log-probabilities (samples, classes)."""
    return F.kl_div(q, p, reduction="none", log_target=True).sum(1)


def expected_means(rows: Tensor, others: Tensor) -> Tensor:
    """Estimate the mean of each row, given its first values and all values of a similar row.

    Estimates are clamped at zero. NaN in the first two rows (KL) makes their means NaN; in the
    other rows, samples without a label (NaN) are left out.

    Args:
        rows: known values, (rows, seen samples).
        others: values of the other network, (rows, samples).
    """
    differences = rows - others[:, : rows.shape[1]]
    # The samples seen so far may all be without a label.
    means = others.nanmean(1) + differences.nanmean(1).nan_to_num(0.0)
    means[:2] = others[:2].mean(1) + differences[:2].mean(1)
    return means.clamp_min(0.0)
