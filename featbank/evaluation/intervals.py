"""Intervals: what scores of folds, repeats, seeds or resamples say of a metric, with 95 %."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.evaluation.folds import Int

__all__ = [
    "HIGHEST",
    "Estimate",
    "Metrics",
    "bootstrap",
    "bounded",
    "corrected_t",
    "estimates",
    "percentiles",
    "resampled",
    "students_t",
    "trials_of",
    "wilson",
]

Array = npt.NDArray[Any]
Metrics = Callable[..., dict[str, float]]
"""Returns metrics by name, for weights of rows where it is given any."""

CONFIDENCE = 0.95
RESAMPLES = 1000
ROUNDING = 1e-12  # of an interval without width

HIGHEST = {"log_loss": np.inf, "brier": 2.0}
"""The ends of metrics that may exceed 1."""

_SHARES = ("accuracy", "subset_accuracy")
"""Metrics that are the share of rows that are right."""


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % confidence interval.

    Attributes
    ----------
    mean : float
    low, high : float
        Both NaN where there is too little to tell: a single image to be scored on, or folds that
        all score the same.
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

    def columns(self, name: str) -> dict[str, float | None]:
        """Return ``{name, name_low, name_high}`` for a table, NaN as None.

        Examples
        --------
        >>> Estimate(0.9, 0.85, 0.93, ()).columns("accuracy")
        {'accuracy': 0.9, 'accuracy_low': 0.85, 'accuracy_high': 0.93}
        """
        values = (None if np.isnan(v) else v for v in (self.mean, self.low, self.high))
        return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def estimates(
    meters: Sequence[Metrics],
    tested: Sequence[Int],
    *,
    ratio: float,
    seed: int,
    weights: Sequence[Array] | None = None,
) -> dict[str, Estimate]:
    """Return the metrics that are defined in every part, with their intervals.

    Over several parts the interval is `corrected_t`, of a single one `bootstrap`; where these have
    no width, that of a share of right rows is `wilson`, and of other metrics there is none.

    Parameters
    ----------
    meters : sequence of callable
        One a part: a fold, a repeat, or a seed.
    tested : sequence of ndarray of intp
        The units of each part's rows.
    ratio : float
        Rows scored on over rows learned from, the mean of the parts; 0 where these learn from rows
        that were drawn independently.
    seed : int
        Of the resamples.
    weights : sequence of ndarray of float, optional
        Metric weights of each part's rows, which the meters know already: they tell how many
        independent trials a share of right rows is worth.
    """
    by_part = [meter() for meter in meters]
    names = [name for name in by_part[0] if all(name in found for found in by_part)]
    values = {name: tuple(found[name] for found in by_part) for name in names}
    if len(meters) == 1:
        ends = bootstrap(meters[0], tested[0], seed=seed)
    else:
        ends = {name: corrected_t(values[name], ratio) for name in names}
    found = {}
    for name in names:
        found[name] = bounded(
            values[name],
            ends.get(name, (float("nan"), float("nan"))),
            trials_of(tested, weights) if name in _SHARES else None,
            highest=HIGHEST.get(name, 1.0),
        )
    return found


def trials_of(tested: Sequence[Int], weights: Sequence[Array] | None = None) -> float:
    """Return the number of units that were scored, or with weights Kish's effective number.

    References
    ----------
    L. Kish, "Survey Sampling" (1965), section 11.7.
    """
    unit = np.unique(np.concatenate(tested), return_inverse=True)[1]
    if weights is None:
        return int(unit.max()) + 1
    total = np.bincount(unit, np.concatenate(weights)) / np.bincount(unit)
    return float(total.sum() ** 2 / (total**2).sum())


def bounded(
    values: Sequence[float],
    ends: tuple[float, float],
    trials: float | None = None,
    *,
    highest: float = 1.0,
) -> Estimate:
    """Return the mean of values with an interval that stays within the metric's own ends.

    Parameters
    ----------
    values : sequence of float
    ends : (float, float)
        Of the interval as it was computed.
    trials : float, optional
        Of a share of right rows, how many could be right: an interval without width, for every part
        or every resample scored the same, gives way to `wilson`. Without them it gives way to none.
    highest : float
    """
    mean = float(np.mean(values))
    if not ends[1] - ends[0] > ROUNDING:
        ends = (float("nan"), float("nan")) if trials is None else wilson(mean, trials)
    low, high = (float(np.clip(end, 0.0, highest)) for end in ends)
    return Estimate(mean, low, high, tuple(values))


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
    return students_t(values, ratio * float(np.var(values, ddof=1)))


def students_t(values: Sequence[float], shared: float) -> tuple[float, float]:
    """Return the 95 % interval of the mean of independent values that share a variance besides."""
    from scipy.stats import t

    n = len(values)
    error = float(np.sqrt(np.var(values, ddof=1) / n + shared))
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    mean = float(np.mean(values))
    return mean - half, mean + half


def wilson(share: float, n: float) -> tuple[float, float]:
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


def bootstrap(meter: Metrics, units: Int, *, seed: int) -> dict[str, tuple[float, float]]:
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


def resampled(meter: Metrics, units: Int, *, seed: int) -> dict[str, Array]:
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
