"""Ridge regression on class targets for all values of alpha and all folds, in closed form.

With features standardised by all rows, the Gram matrices of folds are differences of a few matrix
products; a fold's own scaling is a scaling of rows and columns. Each alpha is then one Cholesky
factorisation, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.heads.linear import mean_and_spread

__all__ = ["ridge_decisions", "targets_of"]

Array = npt.NDArray[Any]
Fold = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]

_BLOCK = 4096


def targets_of(codes: Array, k: int) -> Array:
    """Return targets of -1 and 1: (n, k), or (n, 1) for two classes, float64."""
    if k == 2:
        return (2.0 * codes - 1.0)[:, None]
    return np.where(codes[:, None] == np.arange(k), 1.0, -1.0)


def ridge_decisions(
    Z: Array, targets: Array, folds: Sequence[Fold], alphas: Sequence[float]
) -> list[list[Array]]:
    """Return what `RidgeClassifier` behind a `StandardScaler` would say of held-out rows.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
        Features standardised by all rows, so that float32 products lose little.
    targets : ndarray of shape (n, k)
    folds : sequence of (ndarray, ndarray)
        Rows to fit on and rows to score.
    alphas : sequence of float

    Returns
    -------
    list of list of ndarray of shape (m, k), float64
        By alpha, then by fold.
    """
    parted = len(folds) > 1 and _are_parted(folds, len(Z))
    wide = min(len(rows) for rows, _ in folds) < Z.shape[1]
    total = _second_moment(Z) if parted and not wide else None
    found: list[list[Array]] = [[] for _ in alphas]
    for rows, held in folds:
        made = (
            _dual(Z[rows], targets[rows], Z[held], alphas)
            if wide
            else _primal(
                Z[rows],
                targets[rows],
                Z[held],
                alphas,
                _second_moment(Z[rows]) if total is None else total - _second_moment(Z[held]),
            )
        )
        for each, decision in zip(found, made, strict=True):
            each.append(decision)
    return found


def _are_parted(folds: Sequence[Fold], n: int) -> bool:
    """Tell whether every fold fits on all rows but those that it scores."""
    return all(
        len(rows) + len(held) == n and len(np.union1d(rows, held)) == n for rows, held in folds
    )


def _second_moment(Z: Array) -> Array:
    """Return Z^T Z, float64: float32 would drown the smallest alphas."""
    total = np.zeros((Z.shape[1], Z.shape[1]))
    for start in range(0, len(Z), _BLOCK):
        block = Z[start : start + _BLOCK].astype(np.float64)
        total += block.T @ block
    return total


def _primal(
    Z: Array, targets: Array, held: Array, alphas: Sequence[float], moment: Array
) -> list[Array]:
    from scipy.linalg import cho_factor, cho_solve

    n = len(Z)
    mean, scale = _scaling(Z)
    centre = targets.mean(axis=0)
    covariance = (moment - n * np.outer(mean, mean)) / np.outer(scale, scale)
    right = (Z.T @ (targets - centre).astype(Z.dtype)).astype(np.float64) / scale[:, None]
    found = []
    for alpha in alphas:
        system = covariance.copy()
        system[np.diag_indices_from(system)] += alpha
        factor = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
        coef = cho_solve(factor, right, check_finite=False) / scale[:, None]
        found.append((held @ coef.astype(held.dtype)).astype(np.float64) + (centre - mean @ coef))
    return found


def _dual(Z: Array, targets: Array, held: Array, alphas: Sequence[float]) -> list[Array]:
    from scipy.linalg import cho_factor, cho_solve

    mean, scale = _scaling(Z)
    scaled = ((Z - mean) / scale).astype(np.float64)
    others = (held - mean) / scale
    centre = targets.mean(axis=0)
    kernel, across = scaled @ scaled.T, others @ scaled.T
    found = []
    for alpha in alphas:
        system = kernel.copy()
        system[np.diag_indices_from(system)] += alpha
        factor = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
        found.append(across @ cho_solve(factor, targets - centre, check_finite=False) + centre)
    return found


def _scaling(Z: Array) -> tuple[Array, Array]:
    mean, scale = mean_and_spread(Z)
    scale[scale == 0] = 1.0
    return mean, scale
