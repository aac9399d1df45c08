"""From the sum of a network's layers to the network: one correction, fitted to whole networks.

Layers are measured alone. What stands between them (BN and activations that no backend fused,
pooling, residual sums, concatenations) mostly moves memory; layers on a library's quick path hand
each other their results in its own layout, which others have to convert; weights of a whole network
do not stay in the caches as those of one layer do; every pass has a fixed cost. So

    latency = a * aligned layers + b * odd layers + c * memory moved by odd layers
              + d * weights + e * memory moved by other operators + f,

with coefficients of zero or more that fit the measured latencies of some cut networks with the
least relative squared error. Few networks cannot tell terms apart that rise and fall together: the
fit is drawn to the plain sum of the layers, as strongly as leaving one network out says is best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from autoprune.core.arrays import Floats
from autoprune.core.untrusted import amount, each, fields, positive, significant

TERMS = ("aligned_ms", "odd_ms", "odd_mb", "weights_mb", "other_mb", "networks")
"""Sums of the layers on either lattice, ms, without what it takes to call them; megabytes (10^6)
read and written by odd layers; of the layers' weights; read and written by other operators; 1."""

PLAIN = (1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
# How strongly the fit is drawn to `PLAIN`: the strength is taken that foretells best.
PULLS = (1.0, 0.1, 0.01, 0.001)


@dataclass(frozen=True)
class Correction:
    """What makes latencies of networks from sums over their layers.

    Attributes:
        coefficients: ms per unit of each of `TERMS`.
        relative_error: root mean square of (predicted / measured - 1) over the networks that it
            was fitted to, each predicted by a fit to the others; None if there were none.
        networks: predicted that way and measured, ms.
    """

    coefficients: tuple[float, ...] = PLAIN
    relative_error: float | None = None
    networks: tuple[tuple[float, float], ...] = ()

    @property
    def largest_error(self) -> float | None:
        """The largest |predicted / measured - 1| among `networks`; None if there are none."""
        return max((abs(a / b - 1) for a, b in self.networks), default=None)

    def apply(self, terms: Floats) -> Floats:
        """Return latencies, ms, for `TERMS` in the last dimension."""
        latencies: Floats = terms @ np.array(self.coefficients)
        return latencies

    @classmethod
    def fit(cls, terms: Sequence[Floats], measured_ms: Sequence[float]) -> Correction:
        """Return the correction that foretells networks best that it was not fitted to.

        Args:
            terms: `TERMS` of every network, (networks, terms).
            measured_ms: their latencies.
        """
        if not measured_ms:
            return cls()
        rows, measured = np.array(terms), np.array(measured_ms)
        foretold = {pull: _foretold(rows, measured, pull) for pull in PULLS}
        errors = {
            pull: float(np.sqrt(np.mean((some / measured - 1) ** 2)))
            for pull, some in foretold.items()
        }
        best = min(PULLS, key=lambda pull: errors[pull])
        return cls(
            tuple(_fitted(rows, measured, best).tolist()),
            errors[best],
            tuple(zip(foretold[best].tolist(), measured.tolist(), strict=True)),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "coefficients": dict(zip(TERMS, self.coefficients, strict=True)),
            "relative_error": self.relative_error,
            "networks": [
                {"predicted_ms": significant(a), "measured_ms": significant(b)}
                for a, b in self.networks
            ],
        }

    @classmethod
    def from_json(cls, data: Any) -> Correction:
        """Inverse of `to_json`.

        Raises:
            ValueError: it is damaged.
        """
        found = fields(
            data,
            {
                "coefficients": lambda some: fields(some, dict.fromkeys(TERMS, amount)),
                "relative_error": lambda error: None if error is None else amount(error),
                "networks": each(
                    lambda one: fields(one, {"predicted_ms": amount, "measured_ms": positive})
                ),
            },
        )
        return cls(
            tuple(found["coefficients"].values()),
            found["relative_error"],
            tuple((one["predicted_ms"], one["measured_ms"]) for one in found["networks"]),
        )


def _foretold(rows: Floats, measured: Floats, pull: float) -> Floats:
    """Return every network's latency from a fit to the others."""
    others = [np.arange(len(measured)) != i for i in range(len(measured))]
    fits = [_fitted(rows[some], measured[some], pull) for some in others]
    return np.array([float(row @ fit) for row, fit in zip(rows, fits, strict=True)])


def _fitted(rows: Floats, measured: Floats, pull: float) -> Floats:
    """Return the coefficients of least relative squared error, drawn to the plain sum of layers.

    Args:
        rows: terms, (networks, terms).
        measured: latencies.
        pull: how strongly, in networks.
    """
    plain = np.array(PLAIN)
    if not len(measured):
        return plain
    shares = rows / measured[:, None]
    drawn = np.sqrt(pull) * np.diag(shares.mean(axis=0))
    left, right = np.vstack([shares, drawn]), np.append(np.ones(len(rows)), drawn @ plain)
    size = np.maximum(left.max(axis=0), 1e-12)  # terms of very different size
    found, _ = nnls(left / size, right)
    # What none of the networks has, they say nothing about.
    coefficients: Floats = np.where(shares.any(axis=0), found / size, plain)
    return coefficients
