"""Racing: a candidate that has fallen too far behind a rival on some images is not scored on all.

Both networks see the same images in the same order, and how well they do goes together, image by
image: the mean of their differences is known long before either mean. After `LOOKS` of the images
a candidate that is worse by `CERTAIN` standard errors is dropped (Maron and Moore 1994, Hoeffding
races, with paired differences). What is reported for it is the rival's score on all images and the
mean difference on those seen, which is unbiased (a control variate).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.precision import at_least_single
from autoprune.data import NO_LABEL
from autoprune.evaluation.measurement import Scores

# Shares of the images after which a candidate may be dropped.
LOOKS = (0.125, 0.25, 0.5, 0.75)
# Standard errors by which it must be worse. In searches on ResNet-20 2.5 dropped 60 to 88 of 100
# candidates after 0.33 to 0.65 of all images and nobody better; with 2 one was.
CERTAIN = 2.5
# Fewer images than this say nothing about their own spread.
LEAST = 50
# Temperature of the softened KL. A plain KL is mostly that of the few images on which a network
# errs; softened class probabilities differ on all of them, so that fewer tell two networks apart.
TEMPERATURE = 4.0

Rival: TypeAlias = tuple[Hashable, Callable[[], nn.Module]]
"""What a rival is remembered by, and how to get it where it is not."""


@dataclass(frozen=True, eq=False)
class SampleScores:
    """How well a network does on each of some samples.

    Attributes:
        rows: the KL from the dense network's class probabilities, the same softened and, where
            there are labels, the cross entropy and whether the label is the first choice, NaN where
            a sample has no label: (2 or 4, samples).
    """

    rows: Tensor

    def __len__(self) -> int:
        return self.rows.shape[1]

    @property
    def soft_kl(self) -> Tensor:
        """Softened KL of every sample, nats."""
        return self.rows[1]

    @classmethod
    def of(cls, dense: Tensor, logits: Tensor, targets: Tensor | None) -> SampleScores:
        """Compare class scores (samples, classes) with the dense network's and the labels."""
        # Half precision would round hits and misses when their mean is taken.
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
        """Put batches together."""
        return cls(torch.cat([part.rows for part in parts], dim=1))

    def mean(self) -> Scores:
        """Return the scores on these samples."""
        return self.beside(self)

    def beside(self, rival: SampleScores) -> Scores:
        """Return the scores expected on all samples of a rival, of which these are the first."""
        means = expected_means(self.rows, rival.rows).tolist()
        kl, soft_kl, *labelled = means
        if not labelled or math.isnan(labelled[1]):  # no sample has a label
            return Scores(kl, soft_kl=soft_kl, samples=len(self))
        loss, top1 = labelled
        return Scores(kl, loss, min(top1, 1.0), soft_kl=soft_kl, samples=len(self))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Return the KL of every sample from logarithms of probabilities, (samples, classes)."""
    return F.kl_div(q, p, reduction="none", log_target=True).sum(1)


def expected_means(rows: Tensor, others: Tensor) -> Tensor:
    """Return the means of rows of which the first values are known beside all of others'.

    None of them is negative. A KL that is no number makes its mean none; in the rows behind it,
    samples without a label are left out.
    """
    differences = rows - others[:, : rows.shape[1]]
    # The first samples alone may have no label.
    means = others.nanmean(1) + differences.nanmean(1).nan_to_num(0.0)
    means[:2] = others[:2].mean(1) + differences[:2].mean(1)
    return means.clamp_min(0.0)


def race(batches: Iterable[SampleScores], rival: SampleScores) -> SampleScores:
    """Return a network's scores, of the first samples only if it falls too far behind.

    Args:
        batches: scores of the samples in the rival's order; no more are taken than needed.
        rival: the scores of another network on all samples.
    """
    parts: list[SampleScores] = []
    looks = [share * len(rival) for share in LOOKS if share * len(rival) >= LEAST]
    seen = 0
    for batch in batches:
        parts.append(batch)
        seen += len(batch)
        if looks and looks[0] <= seen < len(rival):
            looks = [look for look in looks if look > seen]
            so_far = SampleScores.join(parts)
            if _is_behind(so_far.soft_kl - rival.soft_kl[:seen], len(rival)):
                return so_far
    return SampleScores.join(parts)


def _is_behind(differences: Tensor, total: int) -> bool:
    """Whether a mean difference is surely above zero on all of the samples."""
    n = len(differences)
    # The rest of a finite set is known the better the less of it is left.
    error = differences.std() * ((1 - n / total) / n) ** 0.5
    return bool(differences.mean() > CERTAIN * error)
