"""Kernel SVMs through one Gram matrix: a matrix product once, in place of a kernel inside libsvm.

libsvm computes an RBF kernel entry by entry, in each fit anew. With the matrix given
(``kernel="precomputed"``) it solves the same problem: one matrix of distances serves all values of
gamma, and one of the kernel all values of C.

Rows of weight 0 are left out before there is a matrix. libsvm drops them too, but then reads the
entries of a given matrix by the positions that rows had before, and solves another problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "fit_by_gram",
    "gamma_of",
    "gram",
    "gram_bytes",
    "precomputed",
    "squared_distances",
    "suits",
    "weighing",
]

Array = npt.NDArray[Any]


def suits(svc: Any, gammas: Sequence[Any]) -> bool:
    """Tell whether an estimator is an `SVC` whose kernels, one a gamma, are those computed here."""
    from sklearn.svm import SVC

    return (
        type(svc) is SVC
        and svc.kernel == "rbf"
        and svc.probability in (False, "deprecated")
        and all(gamma in ("scale", "auto") or isinstance(gamma, float | int) for gamma in gammas)
    )


def gamma_of(gamma: Any, X: Array) -> float:
    """Return the width that an `SVC` would fit features of shape (n, d) with."""
    if gamma == "scale":
        variance = X.var(dtype=np.float64)
        return 1.0 / (X.shape[1] * variance) if variance else 1.0
    return 1.0 / X.shape[1] if gamma == "auto" else float(gamma)


def squared_distances(A: Array, B: Array) -> Array:
    """Return ``|a - b|^2`` for rows of A (n, d) and B (m, d), shape (n, m)."""
    distance: Array = A @ B.T
    distance *= -2
    distance += np.einsum("ij,ij->i", A, A)[:, None]
    distance += np.einsum("ij,ij->i", B, B)
    np.maximum(distance, 0, out=distance)
    if A is B:
        np.fill_diagonal(distance, 0)
    return distance


def gram(distance: Array, gamma: float) -> Array:
    """Return ``exp(-gamma * distance)``, float64."""
    found = distance.astype(np.float64)
    found *= -gamma
    return np.exp(found, out=found)


def gram_bytes(n: int, m: int = 0) -> int:
    """Return the bytes of Gram matrices of n rows with themselves and with m others.

    The first is held three times: as distances in float32, as a kernel in float64, and by libsvm.
    """
    return 20 * n * n + 8 * n * m


def weighing(sample_weight: Array | None) -> Any:
    """Return an index of the rows whose weight is above 0."""
    return slice(None) if sample_weight is None else np.flatnonzero(sample_weight > 0)


def precomputed(svc: Any, y: Array, codes: Array) -> Any:
    """Return an unfitted copy of `svc` that takes Gram matrices and class codes.

    Its class weights are those of all labels `y`, rows of weight 0 included, as in `SVC.fit`.
    """
    from sklearn.base import clone
    from sklearn.utils import compute_class_weight

    weights = None
    if svc.class_weight is not None:
        found = compute_class_weight(svc.class_weight, classes=np.unique(y), y=y)
        weights = dict(zip(np.unique(codes).tolist(), found.tolist(), strict=True))
    return clone(svc).set_params(kernel="precomputed", class_weight=weights)


def fit_by_gram(svc: Any, X: Array, y: Array, sample_weight: Array | None = None) -> Any:
    """Fit an `SVC` by its Gram matrix and leave it as its own `fit` would: an RBF SVC.

    The dual solution is the same to libsvm's tolerance; from then on the estimator computes its
    kernel itself, from support vectors of its own.

    Parameters
    ----------
    svc : SVC
        One that `suits`; fitted in place.
    X : ndarray of shape (n, d)
    y : ndarray of shape (n,)
    sample_weight : ndarray of shape (n,), optional
        Each class has a row of weight above 0.
    """
    gamma = gamma_of(svc.gamma, X)
    rows = weighing(sample_weight)
    classes, codes = np.unique(y, return_inverse=True)
    given = X[rows]
    solved = precomputed(svc, y, codes).fit(
        gram(squared_distances(given, given), gamma),
        codes[rows],
        None if sample_weight is None else sample_weight[rows],
    )
    kept = {name: value for name, value in vars(solved).items() if name not in svc.get_params()}
    vars(svc).update(kept)
    svc._gamma = gamma
    svc.classes_ = classes
    svc.support_ = np.arange(len(X), dtype=solved.support_.dtype)[rows][solved.support_]
    svc.n_features_in_, svc.shape_fit_ = X.shape[1], X.shape
    svc.support_vectors_ = np.ascontiguousarray(X[svc.support_], dtype=np.float64)
    return svc
