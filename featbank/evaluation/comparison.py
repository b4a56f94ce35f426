"""Comparison: the difference of two heads on the same rows, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError, nearest
from featbank.evaluation.folds import Int
from featbank.evaluation.intervals import ROUNDING, SHARES, Effects, Estimate, Judged, highest
from featbank.evaluation.metrics import Meter
from featbank.evaluation.multilabel.meter import LabelMeter

if TYPE_CHECKING:
    from featbank.evaluation.result import HeadResult

__all__ = [
    "COMPARED",
    "Compared",
    "adjusted",
    "differences",
    "holm",
    "judged_parts",
    "mcnemar",
    "p_values",
    "tango",
]

COMPARED = ("map", "accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "roc_auc")
"""What the table and the JSON tell of; `EvaluationResult.compare` knows every metric."""


@dataclass(frozen=True)
class Compared:
    """A head's predictions, ready to be compared with another's on the same parts."""

    effects: Effects
    right: list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]]

    @classmethod
    def of(cls, head: HeadResult) -> Compared:
        """Read them from a result."""
        meters, tested = judged_parts(head)
        right = []
        for one in meters:
            hits = one.y == one.predicted
            weight = np.ones(len(hits)) if one.weight is None else one.weight
            right.append((hits.all(axis=1) if hits.ndim == 2 else hits, weight))
        return cls(Effects.of(meters, tested), right)

    def discordant(self, other: Compared) -> tuple[float, float]:
        """Return the share of rows that only this head has right, and that only the other has."""
        only, others = [], []
        for (own, w), (second, _) in zip(self.right, other.right, strict=True):
            only.append(w @ (own & ~second) / w.sum())
            others.append(w @ (second & ~own) / w.sum())
        return float(np.mean(only)), float(np.mean(others))


def judged_parts(head: HeadResult) -> tuple[list[Judged], list[Int]]:
    """Return the meter and the units of each part that a head was scored on."""
    told = head.predictions
    meters: list[Judged] = []
    tested = []
    for part in np.unique(told.fold):
        rows = told.fold == part
        y, called = told.y_true[rows], told.y_pred[rows]
        scores, odds, weight = (
            None if v is None else v[rows] for v in (told.scores, told.probability, told.weight)
        )
        if y.ndim == 2:
            assert scores is not None
            meters.append(LabelMeter(y, called, scores, weight))
        else:
            meters.append(Meter(y, called, scores, odds, len(head.confusion), weight))
        tested.append(told.unit[rows])
    return meters, tested


def differences(
    first: HeadResult, second: HeadResult, metrics: Sequence[str]
) -> dict[str, Estimate]:
    """Return by how much metrics of the first head are above the second's.

    The interval of a difference of shares of right rows is Tango's for paired proportions, at the
    number of trials that has the variance of `Effects`; without any row that one head alone has
    right it is Wilson's for none of all units. Other metrics have Student's t, and no interval
    where nothing varies.

    Raises
    ------
    EvaluationError
        One of the heads has no such metric.
    """
    for head in (first, second):
        for name in metrics:
            if name not in head.metrics:
                raise EvaluationError(
                    f"head {head.head!r} has no {name!r}: {nearest(name, head.metrics)}"
                )
    one, other = Compared.of(first), Compared.of(second)
    gap = one.effects - other.effects
    found = {}
    for name in metrics:
        pairs = zip(first.metrics[name].values, second.metrics[name].values, strict=True)
        values = tuple(a - b for a, b in pairs)
        mean = float(np.mean(values))
        half = gap.quantile * gap.error(name)
        low, high = mean - half, mean + half
        if name in SHARES:
            low, high = tango(*one.discordant(other), _trials(one, other, gap, name), gap.quantile)
        end = highest(name, len(first.confusion))
        low, high = (float(np.clip(side, -end, end)) for side in (low, high))
        if not np.isnan(low):
            low, high = min(low, mean), max(high, mean)
        found[name] = Estimate(mean, low, high, values)
    return found


def p_values(
    first: Compared, second: Compared, metrics: Sequence[str], means: Sequence[float]
) -> dict[str, float]:
    """Return how likely at least such a difference is between heads that do not differ."""
    from scipy.stats import t

    gap = first.effects - second.effects
    found = {}
    for name, mean in zip(metrics, means, strict=True):
        error = gap.error(name)
        if name in SHARES:
            found[name] = mcnemar(*first.discordant(second), _trials(first, second, gap, name))
        elif np.isnan(error):
            found[name] = 1.0
        else:
            found[name] = float(2 * t.sf(abs(mean) / error, max(1, len(gap.times) - 1)))
    return found


def adjusted(
    heads: Sequence[HeadResult], reference: str, metrics: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return of each other head the p-values of its differences to the reference, by metric.

    McNemar's exact test for shares of right rows, else Student's t; adjusted by Holm over all pairs
    of heads: the best head is known only after all were compared.
    """
    if len(heads) < 2:
        return {}
    ready = [Compared.of(head) for head in heads]
    pairs = [(i, j) for i in range(len(heads)) for j in range(i + 1, len(heads))]
    found = []
    for i, j in pairs:
        means = [heads[i].metrics[m].mean - heads[j].metrics[m].mean for m in metrics]
        found.append(p_values(ready[i], ready[j], metrics, means))
    told: dict[str, dict[str, float]] = {head.head: {} for head in heads if head.head != reference}
    for name in metrics:
        for (i, j), p in zip(pairs, holm([one[name] for one in found]), strict=True):
            names = [heads[i].head, heads[j].head]
            if reference in names:
                names.remove(reference)
                told[names[0]][name] = p
    return told


def _trials(first: Compared, second: Compared, gap: Effects, name: str) -> float:
    """Return how many independent pairs would leave a difference of shares this variance."""
    only, other = first.discordant(second)
    variance, error = only + other - (only - other) ** 2, gap.error(name)
    return gap.trials if np.isnan(error) or variance <= ROUNDING else variance / error**2


def tango(only: float, other: float, n: float, z: float) -> tuple[float, float]:
    """Return Tango's score interval of a difference of paired proportions.

    Parameters
    ----------
    only, other : float
        Share of pairs that the first alone has right, and the second alone.
    n : float
        Pairs.
    z : float
        Quantile.

    References
    ----------
    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998).

    Examples
    --------
    >>> [round(end, 3) for end in tango(1 / 21, 7 / 21, 21, 1.959964)]
    [-0.517, -0.026]
    """
    from scipy.optimize import brentq

    b, c = n * only, n * other

    def score(delta: float) -> float:
        middle = -b - c + (2 * n - b + c) * delta
        least = -c * delta * (1 - delta)
        share = (np.sqrt(max(0.0, middle**2 - 8 * n * least)) - middle) / (4 * n)
        variance = n * (2 * share + delta * (1 - delta))
        return (b - c - n * delta) / np.sqrt(variance) if variance > 0 else 0.0

    def end(side: float, limit: float) -> float:
        mean = only - other
        if abs(limit - mean) < ROUNDING or abs(score(limit * (1 - ROUNDING))) < z:
            return limit
        return float(brentq(lambda d: score(d) - side * z, mean, limit * (1 - ROUNDING)))

    return end(1.0, -1.0), end(-1.0, 1.0)


def mcnemar(only: float, other: float, n: float) -> float:
    """Return the p-value of McNemar's exact test, for counts that need not be whole.

    Parameters
    ----------
    only, other : float
        Share of pairs that the first alone has right, and the second alone.
    n : float
        Pairs.

    References
    ----------
    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947).

    Examples
    --------
    >>> from scipy.stats import binomtest
    >>> round(mcnemar(0.05, 0.13, 100), 6), round(float(binomtest(5, 18).pvalue), 6)
    (0.096252, 0.096252)
    """
    from scipy.special import betainc

    fewer, pairs = n * min(only, other), n * (only + other)
    if pairs <= ROUNDING or pairs - fewer <= ROUNDING:
        return 1.0
    return float(min(1.0, 2 * betainc(pairs - fewer, fewer + 1, 0.5)))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values that hold for all of several comparisons at once.

    References
    ----------
    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979).

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    steps = np.array(p)[order] * np.arange(len(p), 0, -1)
    found = np.empty(len(p))
    found[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(one) for one in found]
