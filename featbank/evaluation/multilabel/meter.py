"""Metrics of predictions of several labels a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featbank.evaluation.metrics import ranks_within, weighted

__all__ = ["LabelMeter", "average_precision"]

Array = npt.NDArray[Any]


def average_precision(y: Array, scores: Array, weights: Array | None = None) -> float:
    """Return the average precision of scores, shape (n,); NaN where no row is positive.

    The mean of the precision at each positive, rows of equal score taken together: scikit-learn's
    `average_precision_score`.

    Examples
    --------
    >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]))
    0.8333333333333333
    """
    return _precision(*_ranked(y, scores), np.ones(len(y)) if weights is None else weights)


class LabelMeter:
    """Computes every metric of one set of predictions, for any weighting of its rows.

    Parameters
    ----------
    y, predicted : ndarray of shape (n, K), bool
    scores : ndarray of shape (n, K)
        The higher, the likelier; what counts is their order within a column.
    weight : ndarray of shape (n,), optional
        Metric weight of each row; by default 1. Weights of a call multiply it.
    """

    def __init__(
        self, y: Array, predicted: Array, scores: Array, weight: Array | None = None
    ) -> None:
        self.y = y
        self.weight = weight
        self.predicted = predicted
        self.n_classes = y.shape[1]
        self._hit = (y & predicted).astype(np.float64)
        self._either = y.astype(np.float64) + predicted
        self._right = (y == predicted).all(axis=1)
        self._scores = scores
        self._ranked = [_ranked(own, score) for own, score in zip(y.T, scores.T, strict=True)]

    def __call__(self, weights: Array | None = None) -> dict[str, float]:
        """Return the metrics that are defined, by name.

        ``map`` is the mean of the average precision of the labels that occur; ``macro_f1`` the mean
        over labels that occur or were predicted, ``micro_f1`` the F1 of all decisions together;
        ``subset_accuracy`` the share of rows whose labels are all right.
        """
        w = weighted(len(self.y), self.weight, weights)
        hit, either = w @ self._hit, w @ self._either
        found = {"subset_accuracy": float(w @ self._right / w.sum())}
        areas = self._average_precision(w)
        if not np.isnan(areas).all():
            found["map"] = float(np.nanmean(areas))
        if either.any():
            found["macro_f1"] = float((2 * hit[either > 0] / either[either > 0]).mean())
            found["micro_f1"] = float(2 * hit.sum() / either.sum())
        return found

    @classmethod
    def joined(cls, meters: Sequence[Self]) -> Self:
        """Return the meter of several folds' predictions together, ranked within their fold."""
        if len(meters) == 1:
            return meters[0]
        ranked = [np.apply_along_axis(ranks_within, 0, m._scores) for m in meters]
        own = [m.weight for m in meters if m.weight is not None]
        return cls(
            np.concatenate([m.y for m in meters]),
            np.concatenate([m.predicted for m in meters]),
            np.concatenate(ranked),
            np.concatenate(own) if own else None,
        )

    def effects(self) -> dict[str, Array]:
        """Return by how much each row moves each metric; see `Meter.effects`."""
        w = weighted(len(self.y), self.weight, None)
        hit, either = w @ self._hit, w @ self._either
        found = {"subset_accuracy": w * (self._right - w @ self._right / w.sum()) / w.sum()}
        counts = either > 0
        if counts.any():
            both = np.where(counts, either, 1)
            each = (2 * self._hit - 2 * hit / both * self._either) / both
            found["macro_f1"] = w * each[:, counts].mean(axis=1)
            micro = 2 * hit.sum() / either.sum()
            every = 2 * self._hit.sum(axis=1) - micro * self._either.sum(axis=1)
            found["micro_f1"] = w * every / either.sum()
        areas = [_precision_effects(*ranked, w) for ranked in self._ranked]
        known = [own for own in areas if own is not None]
        if known:
            found["map"] = np.mean(known, axis=0)
        return found

    def average_precision(self, weights: Array | None = None) -> Array:
        """Return the average precision of each label, shape (K,); NaN where it does not occur."""
        return self._average_precision(weighted(len(self.y), self.weight, weights))

    def _average_precision(self, w: Array) -> Array:
        return np.array([_precision(*ranked, w) for ranked in self._ranked])


def _ranked(y: Array, scores: Array) -> tuple[Array, Array, Array]:
    """Return the rows in descending order of score, their `y`, and where runs of equal ones end."""
    order = np.argsort(-scores, kind="stable")
    descending = scores[order]
    ends = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))
    return order, y[order].astype(bool), ends


def _precision(order: Array, positive: Array, ends: Array, weights: Array) -> float:
    w = weights[order]
    hit, seen = np.cumsum(w * positive)[ends], np.cumsum(w)[ends]
    if not hit[-1] > 0:
        return float("nan")
    precision = np.divide(hit, seen, out=np.zeros(len(hit)), where=seen > 0)
    return float(np.diff(hit, prepend=0.0) @ precision / hit[-1])


def _precision_effects(order: Array, positive: Array, ends: Array, weights: Array) -> Array | None:
    """Return the effects of rows on the average precision of a label; None where it has none."""
    w = weights[order]
    hit, seen = np.cumsum(w * positive)[ends], np.cumsum(w)[ends]
    if not hit[-1] > 0:
        return None
    step = np.diff(hit, prepend=0.0) / hit[-1]
    of = np.where(seen > 0, seen, 1)
    precision = hit / of
    gained = np.cumsum((step / of)[::-1])[::-1]  # by a positive, from its own run on
    lost = np.cumsum((step * hit / of**2)[::-1])[::-1]  # by any row
    run = np.searchsorted(ends, np.arange(len(w)))
    own = positive * (precision / hit[-1] + gained - step @ precision / hit[-1])[run] - lost[run]
    found = np.empty(len(w))
    found[order] = w * own
    return found
