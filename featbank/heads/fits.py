"""Fits: one head on all of its rows, as precisely as a sweep chose its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.heads.sweep import Task, as_task

__all__ = ["fit_head"]

Array = npt.NDArray[Any]

_SWEPT = {
    "LogisticRegression",
    "LinearSVC",
    "SVC",
    "RidgeClassifier",
    "LinearDiscriminantAnalysis",
}


def fit_head(estimator: Any, X: Array, y: Array, **fit_params: Any) -> Any:
    """Fit a head in place and return it: scikit-learn's estimator, as its own `fit` leaves it.

    What a sweep solves is solved here by the same method, tolerance and precision, so that the head
    predicts as the sweep that chose it did: logistic regression and the linear SVM by
    `featbank.heads.linear`, an RBF `SVC` through one Gram matrix, ridge and LDA in float64. All
    else is fitted by its own `fit`.

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
    kind = type(last).__name__
    if kind == "NearestCentroid" and len(X) <= len(np.unique(y)):
        if last.shrink_threshold is not None:  # all centroids would be NaN; LDA says the same
            raise ValueError("The number of samples must be more than the number of classes.")
        with np.errstate(invalid="ignore"):  # the spread is; see `featbank.heads.outputs`
            return estimator.fit(X, y, **fit_params)
    if kind == "LinearDiscriminantAnalysis" and len(np.unique(y)) < 2:  # it would fit, then fail
        raise ValueError("The number of classes has to be greater than one; got 1 class.")
    if steps and type(steps[0][1]).__name__ == "Columns":
        X = steps[0][1].fit_transform(X)
        fit_head(estimator[1:], X, y, **fit_params)
        return estimator
    task = _task(estimator, X, y, fit_params) if kind in _SWEPT else None
    if task is None or not np.isfinite(X).all():
        return estimator.fit(X, y, **fit_params)
    if kind in ("RidgeClassifier", "LinearDiscriminantAnalysis"):
        return estimator.fit(np.asarray(X, dtype=np.float64), y, **fit_params)
    if kind == "SVC" and not _gram_fits(len(X)):
        return estimator.fit(X, y, **fit_params)
    Z = X
    if len(steps) > 1:
        own = f"{steps[-1][0]}__sample_weight"
        Z = estimator[:-1].fit_transform(X, **{k: w for k, w in fit_params.items() if k != own})
    if kind == "SVC":
        from featbank.heads.kernel import fit_by_gram

        fit_by_gram(last, Z, task.y, task.weights)
        return estimator
    from featbank.heads.paths import fit_linear

    last.coef_, last.intercept_, iterations = fit_linear(task, Z)
    last.classes_, last.n_features_in_ = task.classes, Z.shape[1]
    last.n_iter_ = np.array([iterations], np.int32) if kind == "LogisticRegression" else iterations
    return estimator


def _task(estimator: Any, X: Array, y: Array, fit_params: dict[str, Any]) -> Task | None:
    """Return the fit as a sweep of one setting on all rows; None where scikit-learn is to do it.

    A `tol` that a caller set is scikit-learn's to keep, and wrong settings are its to refuse.
    """
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    if type(last).__name__ in ("LogisticRegression", "LinearSVC"):
        sound = isinstance(last.C, int | float | np.number) and 0 < last.C < np.inf
        sound = sound and isinstance(last.max_iter, int | np.integer) and last.max_iter > 0
        if not sound or last.tol != type(last)().tol:
            return None
    rows = np.arange(len(X))
    return as_task(estimator, {}, X, y, [(rows, rows)], None, fit_params)


def _gram_fits(n: int) -> bool:
    from featbank.heads.kernel import gram_bytes
    from featbank.heads.memory import SHARE, available_memory

    have = available_memory()
    return have is None or gram_bytes(n) <= SHARE * have
