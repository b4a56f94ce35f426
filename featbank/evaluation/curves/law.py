"""The law of a learning curve: how a score grows with the number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LEAST_POINTS", "Law", "fit_law"]

Array = npt.NDArray[Any]

LEAST_POINTS = 4
"""Three numbers are fitted, so that fewer points would be met exactly."""

_EXPONENTS = np.linspace(0.02, 2.0, 397)


@dataclass(frozen=True)
class Law:
    """The error at n labels, ``floor + scale * n ** -exponent``; the score is 1 less that.

    Attributes
    ----------
    floor, scale : float
        Not negative. A `scale` of 0 is a flat curve.
    exponent : float
        From 0.02 to 2.
    """

    floor: float
    scale: float
    exponent: float

    def score(self, n: float) -> float:
        """Return the score at `n` labels."""
        return float(1 - self.floor - self.scale * n**-self.exponent)

    def gain(self, n: float) -> float:
        """Return what twice as many labels as `n` add to the score."""
        return float(self.scale * n**-self.exponent * (1 - 2**-self.exponent))

    def pays_until(self, worth: float) -> float:
        """Return the number of labels from which doubling adds less than `worth`.

        It is infinite where it is too large for a float.
        """
        first = self.scale * (1 - 2**-self.exponent)
        with np.errstate(over="ignore"):
            return float(np.float64(first / worth) ** (1 / self.exponent))


def fit_law(labels: Sequence[int], scores: Array, variances: Array) -> Law:
    """Fit the law by least squares, each point weighed by the inverse of its variance.

    The error is linear in floor and scale, so that both are solved for at each exponent of a grid
    in steps of 0.005, kept from being negative.

    Parameters
    ----------
    labels : sequence of int
        At least `LEAST_POINTS`.
    scores, variances : ndarray of shape (len(labels),)

    References
    ----------
    C. Cortes et al., "Learning curves: asymptotic values and rate of convergence", NeurIPS (1993).
    T. Viering and M. Loog, "The shape of learning curves: a review", IEEE TPAMI 45 (2023).

    Examples
    --------
    >>> import numpy as np
    >>> n = [1, 2, 4, 8, 16]
    >>> law = fit_law(n, 0.9 - 0.4 * np.array(n) ** -0.5, np.ones(5))
    >>> round(law.floor, 3), round(law.scale, 3), round(law.exponent, 3)
    (0.1, 0.4, 0.5)
    """
    error, weight = 1 - np.asarray(scores), 1 / np.asarray(variances)
    weight = weight / weight.sum()
    powers = np.asarray(labels, dtype=np.float64) ** -_EXPONENTS[:, None]
    mean, mean_power = float(weight @ error), powers @ weight
    spread = (powers - mean_power[:, None]) * weight
    scale = (spread @ error) / (spread * powers).sum(axis=1)
    floor = mean - scale * mean_power
    through_zero = floor < 0
    alone = (powers * weight) @ error / (powers**2 @ weight)
    floor, scale = np.where(through_zero, 0, floor), np.where(through_zero, alone, scale)
    flat = scale < 0
    floor, scale = np.where(flat, mean, floor), np.where(flat, 0, scale)
    residual = error - floor[:, None] - scale[:, None] * powers
    best = int((residual**2 @ weight).argmin())
    return Law(float(floor[best]), float(scale[best]), float(_EXPONENTS[best]))
