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

__all__ = ["THRESHOLDS", "best_temperature", "best_threshold", "can_adjust", "fit_adjusted"]

Array = npt.NDArray[Any]

THRESHOLDS = ("accuracy", "balanced_accuracy", "macro_f1", "f1")
"""What a threshold can be chosen by; f1 is that of the class with fewer images."""

_LOG_RANGE = 10.0  # temperatures from exp(-10) to exp(10)


def can_adjust(y: Array, folds: Sequence[Fold]) -> bool:
    """Tell whether there are folds, and each has every class to fit on."""
    n_classes = len(np.unique(y))
    return bool(folds) and all(len(np.unique(y[fit])) == n_classes for fit, _ in folds)


def fit_adjusted(
    estimator: Any,
    X: Array,
    y: Array,
    folds: Sequence[Fold],
    *,
    temperature: bool,
    threshold: str | None,
    sample_weight: Array | None = None,
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
    sample_weight : ndarray of shape (n,), optional
        Weights of rows when the temperature is chosen; a threshold weighs all rows alike, as the
        metrics do.
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
    logits, true, held = [], [], []
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
        held.append(rows)
    out_of_fold, codes = np.concatenate(logits), np.concatenate(true)
    margin = out_of_fold[:, -1] - out_of_fold[:, 0]
    counts = None if sample_weight is None else sample_weight[np.concatenate(held)]
    return AdjustedHead(
        fit_head(clone(estimator), X, y, **fit_params),
        temperature=best_temperature(out_of_fold, codes, counts) if temperature else None,
        threshold=None if threshold is None else best_threshold(margin, codes, threshold),
    )


def best_temperature(logits: Array, y: Array, sample_weight: Array | None = None) -> float:
    """Return the temperature at which the softmax of logits has the lowest log loss.

    As in Platt's method each row counts as its own class in part only, by the rule of succession:
    (n + 1) of (n + 2). So probabilities stay below 1 where all of a few rows are predicted right.

    Parameters
    ----------
    logits : ndarray of shape (n, K)
    y : ndarray of shape (n,), int
        Class codes.
    sample_weight : ndarray of shape (n,), optional
        Rows of weight 0 don't count; by default all count alike.

    References
    ----------
    J. Platt, "Probabilistic outputs for support vector machines" (1999), section 2.2.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    weights = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    if not weights.any():
        return 1.0
    n, k = np.count_nonzero(weights), logits.shape[1]
    rest = 1 / (n + 2) / (k - 1)  # of each other class
    own = logits[np.arange(len(y)), y]
    aim = (1 - rest * k) * own + rest * logits.sum(axis=1)

    def loss(log_temperature: float) -> float:
        heat = np.exp(log_temperature)
        losses = logsumexp(logits / heat, axis=1) - aim / heat
        return float(np.average(losses, weights=weights))

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
