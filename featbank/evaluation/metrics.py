"""Metrics of predictions, and their confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.evaluation.folds import Int

__all__ = [
    "CALIBRATION",
    "METRICS",
    "TOP",
    "Estimate",
    "Meter",
    "bootstrap",
    "corrected_t",
    "percentiles",
    "resampled",
    "wilson",
]

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
CONFIDENCE = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % confidence interval.

    Attributes
    ----------
    mean : float
    low, high : float
        Both NaN where there is too little to tell (a single image to be scored on).
    values : tuple of float
        One value a fold, in the order of the folds.
    """

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"mean", "ci95", "values"}`` for JSON, NaN as None."""
        low, high = (None if np.isnan(v) else v for v in (self.low, self.high))
        return {"mean": self.mean, "ci95": [low, high], "values": list(self.values)}


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
    """

    def __init__(
        self,
        y: Int,
        predicted: Int,
        scores: Array | None,
        probability: Array | None,
        n_classes: int,
    ) -> None:
        self.y = y
        self.predicted = predicted
        self.n_classes = n_classes
        self._losses: Array | None = None
        if probability is not None:
            share = probability / probability.sum(axis=1, keepdims=True)
            own = share[np.arange(len(y)), y].astype(np.float64)
            self._losses = -np.log(np.clip(own, float(np.finfo(share.dtype).eps), 1.0))
            share = share.astype(np.float64)
            self._squares = (share**2).sum(axis=1) - 2 * own + 1
            top = share.argmax(axis=1)
            confidence = share[np.arange(len(y)), top]
            self._gap = (top == y) - confidence
            self._bin = np.clip(np.ceil(confidence * BINS).astype(np.intp) - 1, 0, BINS - 1)
        self._hits: Array | None = None
        self._ranked: list[tuple[int, Array, Array]] = []
        if scores is not None:
            columns = [1] if n_classes == 2 else range(n_classes)
            # Scores of several classes may mean something only within a row, as logits do.
            across = scores if probability is None or n_classes == 2 else probability
            self._ranked = [(c, *_ranked(across[:, c])) for c in columns]
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

        Probabilities have a log loss, clipped at their type's epsilon; a Brier score, the sum over
        classes of ``(p_k - [y = k])**2``, from 0 to 2; and an expected calibration error (ECE), in
        15 equally wide bins of the highest probability. The ECE of few rows is above 0 though the
        probabilities be right: compare it at equal numbers of rows only.

        References
        ----------
        G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
        Review 78 (1950). C. Guo et al., "On calibration of modern neural networks", ICML (2017).
        """
        w = np.ones(len(self.y)) if weights is None else weights
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


def corrected_t(values: Sequence[float], ratio: float) -> tuple[float, float]:
    """Return the 95 % interval of the mean over folds or repeats.

    Training sets of different folds overlap, so that their scores vary less than independent ones
    would. Nadeau and Bengio correct the variance of the mean of J values to
    ``(1 / J + n_test / n_train) * var(values)``; the interval is Student's t with J - 1 degrees of
    freedom. Values that are all alike give an interval of no width; see `wilson`.

    Parameters
    ----------
    values : sequence of float
        At least two.
    ratio : float
        Rows scored on over rows learned from, in each fold.

    References
    ----------
    C. Nadeau and Y. Bengio, "Inference for the generalization error", Machine Learning 52 (2003).
    """
    from scipy.stats import t

    n = len(values)
    error = np.sqrt((1 / n + ratio) * np.var(values, ddof=1))
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * float(error)
    mean = float(np.mean(values))
    return mean - half, mean + half


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `n` independent trials.

    It stands in for an interval of no width: 20 images that are all predicted rightly leave room
    for an accuracy of 84 %.

    References
    ----------
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal
    of the American Statistical Association 22 (1927).

    Examples
    --------
    >>> low, high = wilson(1.0, 20)
    >>> round(low, 2), high
    (0.84, 1.0)
    """
    from scipy.stats import norm

    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def bootstrap(
    meter: Callable[..., dict[str, float]], units: Int, *, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the 95 % percentile interval of each metric over images drawn with replacement.

    Rows of one unit are drawn together: they are one observation. 1,000 resamples. Resamples have
    fewer distinct images, and with them a larger ECE: its interval is moved so that its median is
    the ECE of the rows as they are.

    References
    ----------
    B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    drawn = resampled(meter, units, seed=seed)
    if "ece" in drawn:
        drawn["ece"] = drawn["ece"] + meter()["ece"] - np.median(drawn["ece"])
    return {name: percentiles(values) for name, values in drawn.items()}


def resampled(meter: Callable[..., dict[str, float]], units: Int, *, seed: int) -> dict[str, Array]:
    """Return the metrics of 1,000 resamples of units, arrays of shape (1000,), by name.

    Equal units and seeds give equal resamples, so that differences of two meters are paired. NaN
    where a resample has no such metric; empty where there is one unit.
    """
    unit = np.unique(units, return_inverse=True)[1]
    n = int(unit.max()) + 1
    if n < 2:
        return {}
    random = np.random.default_rng(seed)
    drawn = {name: np.full(RESAMPLES, np.nan) for name in meter()}
    for i in range(RESAMPLES):
        times = np.bincount(random.integers(n, size=n), minlength=n)
        for name, value in meter(times[unit].astype(np.float64)).items():
            drawn[name][i] = value
    return drawn


def percentiles(values: Array) -> tuple[float, float]:
    """Return the ends of the 95 % in the middle of values, NaN left out."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


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
