"""Transferability: how well features suit classes, told without fitting a head."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["logme"]

Array = npt.NDArray[Any]

_STEPS = 1000
_TOLERANCE = 1e-9  # of the change of either precision
_LEAST = 1e-12  # of a target's square, the smallest residual: an exact fit has no noise to estimate


def logme(features: Array, y: Array) -> float:
    """Return LogME, the evidence that a linear model on features has for classes.

    For each class a Bayesian linear model with weights ~ N(0, 1 / alpha) and noise ~ N(0, 1 / beta)
    predicts 1 for its rows and 0 for others. The value is the logarithm of the evidence, maximised
    over alpha and beta by MacKay's fixed-point steps, over the number of rows, averaged over
    classes. Only comparisons of features on the same rows mean something: the higher, the better.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        As they are: not scaled, no constant added.
    y : ndarray of shape (n,)

    Notes
    -----
    All runs on the eigenvalues of the smaller Gram matrix, in float64: a time of
    ``n d min(n, d)``, whatever the number of classes.

    References
    ----------
    K. You, Y. Liu, J. Wang and M. Long, "LogME: practical assessment of pre-trained models for
    transfer learning", ICML (2021), algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.repeat([0, 1], 20)
    >>> noise = np.random.default_rng(0).normal(size=(40, 3))
    >>> logme(noise + y[:, None], y) > logme(noise, y)
    True
    """
    F = np.asarray(features, dtype=np.float64)
    n, d = F.shape
    targets = (np.asarray(y)[:, None] == np.unique(y)).astype(np.float64)
    if n < d:
        squares, left = np.linalg.eigh(F @ F.T)
        held = squares > squares[-1] * n * np.finfo(np.float64).eps
        squares, along = squares[held], (left[:, held].T @ targets) ** 2
    else:
        squares, right = np.linalg.eigh(F.T @ F)
        held = squares > squares[-1] * n * np.finfo(np.float64).eps
        squares = squares[held]
        along = (right[:, held].T @ (F.T @ targets)) ** 2 / squares[:, None]
    total = (targets**2).sum(axis=0)
    return float(
        np.mean([_evidence(squares, z, t, n, d) for z, t in zip(along.T, total, strict=True)])
    )


def _evidence(squares: Array, along: Array, total: float, n: int, d: int) -> float:
    """Return the evidence of one target over the number of rows.

    Parameters
    ----------
    squares : ndarray of shape (k,)
        The features' squared singular values that aren't 0.
    along : ndarray of shape (k,)
        The target's squared components along their left singular vectors.
    total : float
        The target's squared length.
    n, d : int
    """
    outside = max(0.0, total - float(along.sum()))
    alpha = beta = 1.0
    for _ in range(_STEPS):
        spread = alpha + beta * squares
        gamma = float((beta * squares / spread).sum())
        weights = float((beta**2 * squares * along / spread**2).sum())
        residual = max(float((along * (alpha / spread) ** 2).sum()) + outside, _LEAST * total)
        before = alpha, beta
        if weights > 0:
            alpha = min(gamma / weights, 1 / (_LEAST * total))
        beta = (n - gamma) / residual
        changes = (abs(new / old - 1) for new, old in zip((alpha, beta), before, strict=True))
        if max(changes) < _TOLERANCE:
            break
    spread = alpha + beta * squares
    weights = float((beta**2 * squares * along / spread**2).sum())
    residual = float((along * (alpha / spread) ** 2).sum()) + outside
    determinant = float(np.log(spread).sum()) + (d - len(squares)) * np.log(alpha)
    evidence = n * np.log(beta) + d * np.log(alpha) - n * np.log(2 * np.pi) - determinant
    return float(evidence - beta * residual - alpha * weights) / (2 * n)
