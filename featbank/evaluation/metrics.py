"""Metrics of predictions of one class a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featbank.evaluation.folds import Int

__all__ = ["CALIBRATION", "METRICS", "TOP", "Meter", "weighted"]

Array = npt.NDArray[Any]

METRICS = {
    "map": "mAP",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "subset_accuracy": "all right",
    "roc_auc": "ROC AUC",
    "top5_accuracy": "top-5",
    "log_loss": "log loss",
    "brier": "Brier",
    "ece": "ECE",
}
"""Names of the metrics and their titles in a table; some are of several labels an image alone."""

CALIBRATION = ("log_loss", "brier", "ece")
"""Those that judge probabilities: the lower, the better."""

TOP = 5
BINS = 15


class Meter:
    """Computes every metric of one set of predictions, for any weighting of its rows.

    Parameters
    ----------
    y, predicted : ndarray of shape (n,), int
        Class codes.
    scores, probability : ndarray of shape (n, K), or None
        See `featbank.heads.outputs.Outputs`.
    n_classes : int
        K.
    weight : ndarray of shape (n,), optional
        Metric weight of each row; by default 1. Weights of a call multiply it.
    """

    def __init__(
        self,
        y: Int,
        predicted: Int,
        scores: Array | None,
        probability: Array | None,
        n_classes: int,
        weight: Array | None = None,
    ) -> None:
        self.y = y
        self.predicted = predicted
        self.weight = weight
        self.n_classes = n_classes
        self._losses: Array | None = None
        self._squares = self._gap = self._bin = np.empty(0)
        if probability is not None:
            share = probability / probability.sum(axis=1, keepdims=True)
            own = share[np.arange(len(y)), y].astype(np.float64)
            self._losses = -np.log(np.clip(own, float(np.finfo(share.dtype).eps), 1.0))
            share = share.astype(np.float64)
            self._squares = ((share**2).sum(axis=1) - 2 * own + 1) / (2 if n_classes == 2 else 1)
            top = share.argmax(axis=1)
            confidence = share[np.arange(len(y)), top]
            self._gap = (top == y) - confidence
            self._bin = np.clip(np.ceil(confidence * BINS).astype(np.intp) - 1, 0, BINS - 1)
        self._across: dict[int, Array] = {}
        self._hits: Array | None = None
        self._ranked: list[tuple[int, Array, Array]] = []
        if scores is not None:
            columns = [1] if n_classes == 2 else range(n_classes)
            # Scores of several classes may mean something only within a row, as logits do.
            across = scores if probability is None or n_classes == 2 else probability
            self._across = {c: across[:, c] for c in columns}
            self._ranked = [(c, *_ranked(values)) for c, values in self._across.items()]
            if n_classes > 2 * TOP:
                # Ties count against: scores that are all alike name nobody's top five.
                own = scores[np.arange(len(y)), y][:, None]
                self._hits = (scores >= own).sum(axis=1) <= TOP

    def __call__(self, weights: Array | None = None) -> dict[str, float]:
        """Return the metrics that are defined, by name.

        Balanced accuracy is the mean recall of the classes that occur; macro F1 the mean over
        those that occur or were predicted; ROC AUC needs scores and, with more than two classes,
        is the mean of each class that occurs against the rest, ranked by probability where there
        is one; top-5 needs scores and more than ten classes.

        Probabilities have a log loss, clipped at their type's epsilon; a Brier score, as
        scikit-learn's `brier_score_loss` has it: of two classes ``(p_1 - [y = 1])**2``, from 0 to
        1; of more the sum over classes, from 0 to 2; and an expected calibration error (ECE), in
        15 equally wide bins of the highest probability. The ECE of few rows is above 0 though the
        probabilities be right: compare it at equal numbers of rows only.

        References
        ----------
        G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
        Review 78 (1950). C. Guo et al., "On calibration of modern neural networks", ICML (2017).
        """
        w = weighted(len(self.y), self.weight, weights)
        total = w.sum()
        k = self.n_classes
        hit = np.bincount(self.y, w * (self.y == self.predicted), minlength=k)
        support = np.bincount(self.y, w, minlength=k)
        called = np.bincount(self.predicted, w, minlength=k)
        occurs, counts = support > 0, support + called > 0
        found = {
            "accuracy": hit.sum() / total,
            "balanced_accuracy": (hit[occurs] / support[occurs]).mean(),
            "macro_f1": (2 * hit[counts] / (support + called)[counts]).mean(),
        }
        if self._losses is not None:
            found["log_loss"] = w @ self._losses / total
            found["brier"] = w @ self._squares / total
            gaps = np.bincount(self._bin, w * self._gap, minlength=BINS)
            found["ece"] = np.abs(gaps).sum() / total
        areas = [_area(w[order], (self.y == c)[order], starts) for c, order, starts in self._ranked]
        areas = [area for area in areas if not np.isnan(area)]
        if areas:
            found["roc_auc"] = float(np.mean(areas))
        if self._hits is not None:
            found["top5_accuracy"] = w @ self._hits / total
        return {name: float(value) for name, value in found.items()}

    @classmethod
    def joined(cls, meters: Sequence[Self]) -> Self:
        """Return the meter of several folds' predictions together.

        Scores of different fits have no common scale, so that they become ranks within their fold.
        """
        first = meters[0]
        if len(meters) == 1:
            return first
        y, predicted = (np.concatenate(own) for own in zip(*((m.y, m.predicted) for m in meters),
                                                           strict=True))  # fmt: skip
        weight = None
        if first.weight is not None:
            weight = np.concatenate([m.weight for m in meters if m.weight is not None])
        made = cls(y, predicted, None, None, first.n_classes, weight)
        if all(m._losses is not None for m in meters):
            made._losses = np.concatenate([m._losses for m in meters if m._losses is not None])
            for name in ("_squares", "_gap", "_bin"):
                setattr(made, name, np.concatenate([getattr(m, name) for m in meters]))
        shared = [c for c in first._across if all(c in m._across for m in meters)]
        made._across = {
            c: np.concatenate([ranks_within(m._across[c]) for m in meters]) for c in shared
        }
        made._ranked = [(c, *_ranked(values)) for c, values in made._across.items()]
        if all(m._hits is not None for m in meters):
            made._hits = np.concatenate([m._hits for m in meters if m._hits is not None])
        return made

    def excess(self) -> float:
        """Return by how much chance alone raises the calibration error of so few rows, about.

        A gap g of a bin with standard error s adds the mean of a folded normal, less the size of g.
        """
        from scipy.stats import foldnorm

        w = weighted(len(self.y), self.weight, None)
        gaps, squares = (np.bincount(self._bin, own, minlength=BINS)
                         for own in (w * self._gap, (w * self._gap) ** 2))  # fmt: skip
        error = np.sqrt(squares)
        known = error > 0
        error = error[known]
        gaps = np.sqrt(np.maximum(0.0, gaps[known] ** 2 - error**2))  # of which error**2 is chance
        return float((foldnorm.mean(gaps / error, scale=error) - gaps).sum() / w.sum())

    def effects(self) -> dict[str, Array]:
        """Return by how much each row moves each metric, arrays of shape (n,) whose sum is 0.

        The derivative of the metric by the row's weight, times that weight: the influence function
        (of the ROC AUC DeLong's), whose squares add up to the metric's variance.

        References
        ----------
        L. Jaeckel, "The infinitesimal jackknife", Bell Laboratories (1972). E. R. DeLong et al.,
        "Comparing the areas under two or more correlated receiver operating characteristic curves",
        Biometrics 44 (1988).
        """
        w = weighted(len(self.y), self.weight, None)
        k, total = self.n_classes, w.sum()
        right = self.y == self.predicted
        hit = np.bincount(self.y, w * right, minlength=k)
        support = np.bincount(self.y, w, minlength=k)
        called = np.bincount(self.predicted, w, minlength=k)
        occurs, counts = support > 0, support + called > 0
        recall = hit / np.where(occurs, support, 1)
        both = np.where(counts, support + called, 1)
        f1 = 2 * hit / both
        of_true = (2 * right - f1[self.y]) / both[self.y]
        found = {
            "accuracy": w * (right - hit.sum() / total) / total,
            "balanced_accuracy": w
            * (right - recall[self.y])
            / (np.where(occurs, support, 1)[self.y] * occurs.sum()),
            "macro_f1": w * (of_true - (f1 / both)[self.predicted]) / counts.sum(),
        }
        means = {"log_loss": self._losses, "brier": self._squares, "top5_accuracy": self._hits}
        for name, values in means.items():
            if values is not None and len(values):
                found[name] = w * (values - w @ values / total) / total
        if self._losses is not None:
            gaps = np.bincount(self._bin, w * self._gap, minlength=BINS)
            ece = np.abs(gaps).sum() / total
            found["ece"] = w * (np.sign(gaps)[self._bin] * self._gap - ece) / total
        areas = [_area_effects(w, self.y == c, values) for c, values in self._across.items()]
        known = [own for own in areas if own is not None]
        if known:
            found["roc_auc"] = np.mean(known, axis=0)
        return found


def ranks_within(scores: Array) -> Array:
    """Return the share of rows that have a lower score, ties halved, shape (n,)."""
    from scipy.stats import rankdata

    return (rankdata(scores) - 0.5) / len(scores)


def _area_effects(weights: Array, positive: Array, scores: Array) -> Array | None:
    """Return the effects of rows on the area under the ROC curve; None where there is no area."""
    group = np.unique(scores, return_inverse=True)[1]
    p, q = (np.bincount(group, weights * side) for side in (positive, ~positive))
    if not (p.sum() > 0 and q.sum() > 0):
        return None
    below = (np.cumsum(q) - q / 2) / q.sum()
    above = 1 - (np.cumsum(p) - p / 2) / p.sum()
    area = p @ below / p.sum()
    own = np.where(positive, (below[group] - area) / p.sum(), (above[group] - area) / q.sum())
    return weights * own


def weighted(n: int, own: Array | None, further: Array | None) -> Array:
    """Return the product of two weightings of `n` rows; None weighs every row 1."""
    w = np.ones(n) if own is None else own
    return w if further is None else w * further


def _ranked(scores: Array) -> tuple[Array, Array]:
    """Return the ascending order of scores, and where each run of equal ones starts."""
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]  # infinite where a fit knew nothing of the class
    starts = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1]))
    return order, starts


def _area(weights: Array, positive: Array, starts: Array) -> float:
    """Return the area under the ROC curve of rows in ascending order of score, ties halved."""
    p = np.add.reduceat(weights * positive, starts)
    q = np.add.reduceat(weights * ~positive, starts)
    pairs = p.sum() * q.sum()
    return float(p @ (np.cumsum(q) - q / 2) / pairs) if pairs > 0 else float("nan")
