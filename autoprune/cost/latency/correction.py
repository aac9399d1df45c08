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

import numpy as np
from msgspec.structs import astuple
from scipy.optimize import nnls

from autoprune.core.arrays import Floats
from autoprune.core.records import AboveZero, Measured, Record, significant


class Coefficients(Record, frozen=True):
    """Milliseconds per unit of each term of the model.

    Attributes:
        aligned_ms: Of the summed latencies of aligned layers, ms, without the overhead of a call.
        odd_ms: Of those of misaligned ("odd") layers.
        odd_mb: Of the megabytes (10^6 bytes) read and written by misaligned layers.
        weights_mb: Of the megabytes of the layers' weights.
        other_mb: Of the megabytes read and written by other operators.
        networks: Of 1.
    """

    aligned_ms: Measured
    odd_ms: Measured
    odd_mb: Measured
    weights_mb: Measured
    other_mb: Measured
    networks: Measured


TERMS = Coefficients.__struct_fields__
PLAIN = Coefficients(1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
# Strengths of the regularisation towards `PLAIN`; cross-validation chooses one of them.
STRENGTHS = (1.0, 0.1, 0.01, 0.001)


class NetworkLatency(Record, frozen=True):
    """The latencies of a network that was measured as a whole.

    Attributes:
        predicted_ms: The latency that a fit to the other networks predicts.
        measured_ms: The measured one.
    """

    predicted_ms: Measured
    measured_ms: AboveZero


class Correction(Record, frozen=True):
    """A fitted linear model of the latency of whole networks.

    Attributes:
        coefficients: The coefficients of the terms.
        relative_error: The root mean square of (predicted / measured - 1) over the networks of the
            fit, each predicted by a fit to the others; None if there were none.
        networks: The latencies predicted in that way and the measured ones.
    """

    coefficients: Coefficients = PLAIN
    relative_error: Measured | None = None
    networks: tuple[NetworkLatency, ...] = ()

    @property
    def largest_error(self) -> float | None:
        """The largest |predicted / measured - 1| over `networks`; None if there are none."""
        errors = (abs(one.predicted_ms / one.measured_ms - 1) for one in self.networks)
        return max(errors, default=None)

    @property
    def per_unit_ms(self) -> tuple[float, ...]:
        """The coefficients in the order of `TERMS`."""
        return astuple(self.coefficients)

    def apply(self, terms: Floats) -> Floats:
        """Return latencies, ms, of networks whose `TERMS` are in the last dimension."""
        latencies: Floats = terms @ np.array(self.per_unit_ms)
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
            Coefficients(*_fitted(rows, measured, best).tolist()),
            errors[best],
            tuple(
                NetworkLatency(significant(a), significant(b))
                for a, b in zip(predicted[best], measured, strict=True)
            ),
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
    plain = np.array(astuple(PLAIN))
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
