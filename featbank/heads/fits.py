"""Fits: one head on all of its rows, by the faster of two ways to the same solution."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.heads.sweep import as_task

__all__ = ["fit_head"]

Array = npt.NDArray[Any]


def fit_head(estimator: Any, X: Array, y: Array, **fit_params: Any) -> Any:
    """Fit a head in place and return it: scikit-learn's estimator, as its own `fit` leaves it.

    A pipeline of scaling and an RBF `SVC` is fitted through one Gram matrix, where that fits in
    memory; all else by its `fit`.

    Parameters
    ----------
    estimator : estimator
    X : ndarray of shape (n, d)
    y : ndarray of shape (n,)
    **fit_params
        Weights of rows, by ``<step>__sample_weight``.

    Raises
    ------
    ValueError
        The head refuses the data.
    """
    steps = getattr(estimator, "steps", [])
    last = steps[-1][1] if steps else estimator
    if type(last).__name__ == "NearestCentroid" and len(X) <= len(np.unique(y)):
        if last.shrink_threshold is not None:  # all centroids would be NaN; LDA says the same
            raise ValueError("The number of samples must be more than the number of classes.")
        with np.errstate(invalid="ignore"):  # the spread is; see `featbank.heads.outputs`
            return estimator.fit(X, y, **fit_params)
    if len(steps) > 1 and type(last).__name__ == "SVC":
        from featbank.heads.kernel import fit_by_gram, gram_bytes
        from featbank.heads.memory import SHARE, available_memory

        name, svc = steps[-1]
        rows = np.arange(len(X))
        values = {f"{name}__C": [svc.C]}
        task = as_task(estimator, values, X, y, [(rows, rows)], None, fit_params)
        have = available_memory()
        if task is not None and (have is None or gram_bytes(len(X)) <= SHARE * have):
            weights = {k: w for k, w in fit_params.items() if k != f"{name}__sample_weight"}
            Z = estimator[:-1].fit_transform(X, **weights)
            fit_by_gram(svc, Z, task.y, task.weights)
            return estimator
    return estimator.fit(X, y, **fit_params)
