"""Adjustment: a temperature and a threshold, learned from predictions out of the inner folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import HeadError
from featbank.evaluation.plan import Fold
from featbank.heads.adjusted import AdjustedHead, logits_of
from featbank.heads.fits import fit_head

__all__ = ["THRESHOLDS", "best_temperature", "best_threshold", "fit_adjusted"]

Array = npt.NDArray[Any]

THRESHOLDS = ("accuracy", "balanced_accuracy", "macro_f1", "f1")
"""What a threshold can be chosen by; f1 is that of the class with fewer images."""

_LOG_RANGE = 10.0  # temperatures from exp(-10) to exp(10)


def fit_adjusted(
    estimator: Any,
    X: Array,
    y: Array,
    folds: Sequence[Fold],
    *,
    temperature: bool,
    threshold: str | None,
    **fit_params: Any,
) -> AdjustedHead:
    """Fit a head on all rows, and learn how its outputs are read from those out of `folds`.

    Parameters
    ----------
    estimator : estimator
        Unfitted.
    X : ndarray of shape (n, d)
    y : ndarray of shape (n,)
    folds : sequence of (ndarray, ndarray)
        Rows to fit on and rows to predict; what is learned, is learned from the latter.
    temperature : bool
    threshold : str or None
        One of `THRESHOLDS`, for two classes.
    **fit_params
        Handed to `fit`; arrays with one entry a row are cut to the fold.

    Raises
    ------
    HeadError
        There are no folds, or the head has no scores.
    """
    from sklearn.base import clone
    from sklearn.utils.validation import _check_method_params

    if not folds:
        raise HeadError("a class has too few images to calibrate or choose a threshold on.")
    classes = np.unique(y)
    logits, true = [], []
    for fit, rows in folds:
        weights = _check_method_params(X, fit_params, fit)
        part = fit_head(clone(estimator), X[fit], y[fit], **weights)
        if len(part.classes_) < len(classes):
            raise HeadError(
                "a class has no image in train to calibrate or choose a threshold with; leave it "
                "out, or give another split."
            )
        try:
            logits.append(logits_of(part, X[rows]))
        except TypeError as error:
            raise HeadError(
                f"a head of {type(part).__name__} can't be calibrated and takes no threshold: "
                f"{error}; choose another head."
            ) from error
        true.append(np.searchsorted(classes, y[rows]))
    out_of_fold, codes = np.concatenate(logits), np.concatenate(true)
    margin = out_of_fold[:, -1] - out_of_fold[:, 0]
    return AdjustedHead(
        fit_head(clone(estimator), X, y, **fit_params),
        temperature=best_temperature(out_of_fold, codes) if temperature else None,
        threshold=None if threshold is None else best_threshold(margin, codes, threshold),
    )


def best_temperature(logits: Array, y: Array) -> float:
    """Return the temperature at which the softmax of logits has the lowest log loss.

    Parameters
    ----------
    logits : ndarray of shape (n, K)
    y : ndarray of shape (n,), int
        Class codes.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    own = logits[np.arange(len(y)), y]

    def loss(log_temperature: float) -> float:
        heat = np.exp(log_temperature)
        return float(np.mean(logsumexp(logits / heat, axis=1) - own / heat))

    found = minimize_scalar(loss, bounds=(-_LOG_RANGE, _LOG_RANGE), options={"xatol": 1e-8})
    return float(np.exp(found.x))


def best_threshold(margin: Array, y: Array, metric: str) -> float:
    """Return the margin above which calling the second of two classes does best.

    Candidates lie half way between neighbouring margins that differ, so that each class is called
    at least once; of equally good ones the nearest to 0 is taken, the head's own.

    Parameters
    ----------
    margin : ndarray of shape (n,)
    y : ndarray of shape (n,), int
        0 or 1.
    metric : str
        One of `THRESHOLDS`.
    """
    order = np.argsort(margin, kind="stable")
    ascending, second = margin[order], y[order] == 1
    last = np.flatnonzero(np.diff(ascending) > 0)  # the last row below each candidate
    if not len(last) or not 0 < second.sum() < len(y):  # nothing tells one cut from another
        return 0.0
    cuts = (ascending[last] + ascending[last + 1]) / 2
    missed = np.cumsum(second)[last]  # rows of the second class at or below the cut
    hit_first = last + 1 - missed
    hit_second = second.sum() - missed
    support = np.array([len(y) - second.sum(), second.sum()], dtype=np.float64)
    called = np.array([last + 1, len(y) - last - 1])
    hits = np.array([hit_first, hit_second])
    f1 = 2 * hits / (support[:, None] + called)
    values = {
        "accuracy": hits.sum(axis=0) / len(y),
        "balanced_accuracy": (hits / support[:, None]).mean(axis=0),
        "macro_f1": f1.mean(axis=0),
        "f1": f1[int(support.argmin())],
    }[metric]
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return float(cuts[best[np.abs(cuts[best]).argmin()]])
