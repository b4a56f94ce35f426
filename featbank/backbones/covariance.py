"""Covariance: how the channels of a map go together over its positions, and its matrix power.

A bank holds the covariance itself: the upper triangle of the symmetric matrix row by row, entries
off the diagonal times the square root of two, so that the inner product of two rows is that of the
whole matrices. Whoever reads it gets its power, a triangle of the same shape: a covariance's few
large eigenvalues would else drown the rest (Li, Xie, Wang and Zuo, "Is second-order information
helpful for large-scale visual recognition?", 2017, arXiv:1703.08050, who take the power 1/2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FLOOR", "POWER", "WIDEST", "channels_of", "power_of", "triangle", "width_of"]

POWER = 0.25
"""Of the eigenvalues. Classifiers that were saved count on it, as on `FLOOR`."""

FLOOR = 0.01
"""Share of the mean eigenvalue that is added to each: a map may have fewer positions than channels.
"""

WIDEST = 512
"""Channels whose covariance is taken, at most: 131,328 numbers an image."""

_MATRICES = 256  # at a time

Floats = npt.NDArray[np.floating[Any]]


def width_of(channels: int) -> int:
    """Return how many numbers the triangle of a covariance has."""
    return channels * (channels + 1) // 2


def channels_of(width: int) -> int:
    """Return of how many channels a triangle of `width` numbers is.

    Raises
    ------
    ValueError
        No triangle has so many.
    """
    channels = (math.isqrt(8 * width + 1) - 1) // 2
    if width < 1 or width_of(channels) != width:
        raise ValueError(f"{width} numbers are no triangle of a matrix")
    return channels


def triangle(channels: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return where a triangle's entries lie in the flat matrix, and what each is multiplied by.

    Returns
    -------
    ndarray of shape (D,), intp
        D = ``width_of(channels)``.
    ndarray of shape (D,), float32
        1 on the diagonal, the square root of two off it.

    Examples
    --------
    >>> triangle(2)
    (array([0, 1, 3]), array([1.       , 1.4142135, 1.       ], dtype=float32))
    """
    rows, columns = np.triu_indices(channels)
    weights = np.where(rows == columns, 1, math.sqrt(2)).astype(np.float32)
    return rows * channels + columns, weights


def power_of(covariances: Floats) -> npt.NDArray[np.float32]:
    """Raise covariances to `POWER`.

    Parameters
    ----------
    covariances : ndarray of shape (N, D)
        Triangles. Rounding may have made an eigenvalue negative, which counts as 0.

    Returns
    -------
    ndarray of shape (N, D), float32
        Triangles. A row depends on its own covariance alone; one that is not finite is NaN.

    Raises
    ------
    ValueError
        D is the width of no triangle.

    Examples
    --------
    Of a diagonal matrix of 16 and 81, its diagonal's fourth roots, but for the floor:

    >>> power_of(np.array([[16.0, 0.0, 81.0]])).round(1)
    array([[2., 0., 3.]], dtype=float32)
    """
    channels = channels_of(covariances.shape[1])
    at, weights = triangle(channels)
    upper = np.zeros((channels, channels), np.intp)
    upper.flat[at] = np.arange(len(at))
    whole = np.maximum(upper, upper.T).ravel()  # where in a triangle each of a matrix lies
    powers = np.full(covariances.shape, np.nan, np.float32)
    finite = np.flatnonzero(np.isfinite(covariances).all(axis=1))
    for start in range(0, len(finite), _MATRICES):
        rows = finite[start : start + _MATRICES]
        entries = covariances[rows].astype(np.float32) / weights
        values, vectors = np.linalg.eigh(entries[:, whole].reshape(-1, channels, channels))
        values = np.maximum(values, 0)
        values = (values + FLOOR * values.mean(axis=1, keepdims=True)) ** POWER
        raised = (vectors * values[:, np.newaxis]) @ vectors.transpose(0, 2, 1)
        powers[rows] = raised.reshape(len(rows), -1)[:, at] * weights
    return powers
