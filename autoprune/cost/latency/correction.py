"""The correction from the summed latencies of a network's layers to that of the whole network.

Layers are measured alone. What stands between them (BN and activations that the backend does not
fuse, pooling, residual sums, concatenations) mostly moves memory. Layers on a library's fast path
pass their results on in its own memory layout, which all other layers have to convert. The weights
of a whole network do not stay in the caches as those of a single layer do. Every pass has a fixed
cost. The model is therefore

    latency = a * aligned layers + b * misaligned layers + c * memory moved by misaligned layers
              + d * weights + e * memory moved by other operators + f,

with coefficients of zero or more that minimise the squared relative error over the measured
latencies of some cut networks. A few networks cannot separate terms that rise and fall together:
the fit is regularised towards the plain sum of the layers, with the strength that predicts best in
leave-one-out cross-validation.
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
"""The terms of the model, by their keys in a table: the summed latencies of aligned and misaligned
("odd") layers, ms, without the overhead of a call; megabytes (10^6 bytes) read and written by
misaligned layers; megabytes of the layers' weights; megabytes read and written by other operators;
and 1."""

PLAIN = (1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
# Strengths of the regularisation towards `PLAIN`; cross-validation chooses one of them.
STRENGTHS = (1.0, 0.1, 0.01, 0.001)


@dataclass(frozen=True)
class Correction:
    """A fitted linear model of the latency of whole networks.

    Attributes:
        coefficients: Milliseconds per unit of each of `TERMS`.
        relative_error: The root mean square of (predicted / measured - 1) over the networks of the
            fit, each predicted by a fit to the others; None if there were none.
        networks: The latencies predicted in that way and the measured ones, ms.
    """

    coefficients: tuple[float, ...] = PLAIN
    relative_error: float | None = None
    networks: tuple[tuple[float, float], ...] = ()

    @property
    def largest_error(self) -> float | None:
        """The largest |predicted / measured - 1| over `networks`; None if there are none."""
        return max((abs(a / b - 1) for a, b in self.networks), default=None)

    def apply(self, terms: Floats) -> Floats:
        """Return latencies, ms, of networks whose `TERMS` are in the last dimension."""
        latencies: Floats = terms @ np.array(self.coefficients)
        return latencies

    @classmethod
    def fit(cls, terms: Sequence[Floats], measured_ms: Sequence[float]) -> Correction:
        """Return the correction that best predicts networks that it was not fitted to.

        Args:
            terms: The `TERMS` of every network, (networks, terms).
            measured_ms: The latencies of the networks.
        """
        if not measured_ms:
            return cls()
        rows, measured = np.array(terms), np.array(measured_ms)
        predicted = {strength: _cross_validated(rows, measured, strength) for strength in STRENGTHS}
        errors = {
            strength: float(np.sqrt(np.mean((some / measured - 1) ** 2)))
            for strength, some in predicted.items()
        }
        best = min(STRENGTHS, key=lambda strength: errors[strength])
        return cls(
            tuple(_fitted(rows, measured, best).tolist()),
            errors[best],
            tuple(zip(predicted[best].tolist(), measured.tolist(), strict=True)),
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
        """Read what `to_json` returns.

        Raises:
            ValueError: The data are damaged.
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


def _cross_validated(rows: Floats, measured: Floats, strength: float) -> Floats:
    """Return the latency of every network as a fit to the others predicts it."""
    others = [np.arange(len(measured)) != i for i in range(len(measured))]
    fits = [_fitted(rows[some], measured[some], strength) for some in others]
    return np.array([float(row @ fit) for row, fit in zip(rows, fits, strict=True)])


def _fitted(rows: Floats, measured: Floats, strength: float) -> Floats:
    """Return the coefficients of least squared relative error, regularised towards `PLAIN`.

    Args:
        rows: The terms, (networks, terms).
        measured: The latencies, (networks,).
        strength: The weight of the regularisation, in networks.
    """
    plain = np.array(PLAIN)
    if not len(measured):
        return plain
    shares = rows / measured[:, None]
    pulled = np.sqrt(strength) * np.diag(shares.mean(axis=0))
    left, right = np.vstack([shares, pulled]), np.append(np.ones(len(rows)), pulled @ plain)
    size = np.maximum(left.max(axis=0), 1e-12)  # terms differ in size by orders of magnitude
    found, _ = nnls(left / size, right)
    # A term that none of the networks has keeps its plain coefficient.
    coefficients: Floats = np.where(shares.any(axis=0), found / size, plain)
    return coefficients
