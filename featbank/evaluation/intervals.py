"""Intervals: what scores of folds, repeats, seeds or resamples say of a metric, with 95 %."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.evaluation.folds import Int
from featbank.evaluation.metrics import CALIBRATION, Meter
from featbank.evaluation.multilabel.meter import LabelMeter

__all__ = [
    "SHARES",
    "Effects",
    "Estimate",
    "Metrics",
    "bootstrap",
    "bounded",
    "corrected_t",
    "estimates",
    "few_groups",
    "highest",
    "percentiles",
    "resampled",
    "seed_estimates",
    "students_t",
    "trials_of",
    "wilson",
]

Array = npt.NDArray[Any]
Judged = Meter | LabelMeter
Metrics = Callable[..., dict[str, float]]
"""Returns metrics by name, for weights of rows where it is given any."""

CONFIDENCE = 0.95
RESAMPLES = 1000
ROUNDING = 1e-12  # of an interval without width

LONE = 1.2
"""Factor on the error of folds that are drawn once, chosen by simulated coverage."""

FEW = 20
"""Groups from which their number no longer matters much to an interval."""

SHARES = ("accuracy", "subset_accuracy")
"""Metrics that are the share of rows that are right."""


def highest(name: str, n_classes: int = 2) -> float:
    """Return where a metric ends; all start at 0."""
    if name == "log_loss":
        return float("inf")
    return 2.0 if name == "brier" and n_classes > 2 else 1.0


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


def estimates(meters: Sequence[Judged], tested: Sequence[Int]) -> dict[str, Estimate]:
    """Return the metrics that are defined in every part, with their intervals.

    See `Effects`: one method for a test set, folds, repeats and repeated test sets.

    Parameters
    ----------
    meters : sequence of Meter or LabelMeter
        One a part: a test set, or a fold of a repeat.
    tested : sequence of ndarray of intp
        The units of each part's rows.
    """
    by_part = [meter() for meter in meters]
    names = [name for name in by_part[0] if all(name in found for found in by_part)]
    effects = Effects.of(meters, tested)
    found = {}
    for name in names:
        values = tuple(part[name] for part in by_part)
        mean = float(np.mean(values))
        low, high = effects.interval(name, mean)
        if name == "ece":
            low -= float(np.mean([m.excess() for m in meters if isinstance(m, Meter)]))
        top = highest(name, meters[0].n_classes)
        low, high = (float(np.clip(end, 0.0, top)) for end in (low, high))
        found[name] = Estimate(mean, low, high, values)
    return found


def seed_estimates(
    meters: Sequence[Metrics], tested: Sequence[Int], *, seed: int
) -> dict[str, Estimate]:
    """Return metrics on one test set: of one fit with `bootstrap`, of several seeds with Student's.

    Parameters
    ----------
    meters : sequence of callable
        One a seed.
    tested : sequence of ndarray of intp
        The units of each one's rows.
    seed : int
        Of the resamples.
    """
    by_part = [meter() for meter in meters]
    names = [name for name in by_part[0] if all(name in found for found in by_part)]
    values = {name: tuple(found[name] for found in by_part) for name in names}
    if len(meters) == 1:
        ends = bootstrap(meters[0], tested[0], seed=seed)
    else:
        ends = {name: students_t(values[name], 0.0) for name in names}
    found = {}
    for name in names:
        found[name] = bounded(
            values[name],
            ends.get(name, (float("nan"), float("nan"))),
            trials_of(tested) if name in SHARES else None,
            highest=highest(name),
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


def few_groups(units: Int) -> list[str]:
    """Return a note where the images that are scored, a unit each, are of few groups."""
    n = len(np.unique(units))
    if n >= FEW or 2 * n > len(units):
        return []
    return [f"intervals go by the {n} groups that are scored; under {FEW} groups they are rough."]


@dataclass(frozen=True)
class Effects:
    """How much each unit moves each metric's mean over parts: what its variance is made of.

    The variance is that of one pass over the units: squared effects, each unit's rows together,
    add up over units. Repeats average away the luck of the folds, but bring no new images, so that
    a unit that is scored in m passes counts m times the sum of its squares. Coverage is near 95 %,
    where Nadeau and Bengio's correction is 1.5 to 2 times too wide over five folds and too narrow
    over many repeats; see ``benchmarks/coverage.py``. Folds that are drawn once add luck of their
    own: their error is widened by `LONE`.

    Metrics that are shares have Wilson's interval, with the number of trials that has this variance
    (Kish's effective number); others Student's t.

    Attributes
    ----------
    by_name : dict of str to ndarray of shape (passes, units)
    times : ndarray of shape (units,)
        Passes that score each unit.
    trials : float
        Units, or with weights as many equally weighted ones as these are worth.
    lone : bool
        Whether there is one pass, over folds.

    References
    ----------
    P. Bayle et al., "Cross-validation confidence intervals for test error", NeurIPS (2020).
    S. Bates, T. Hastie and R. Tibshirani, "Cross-validation: what does it estimate and how well
    does it do it?", JASA 119 (2024). N. Dean and M. Pagano, "Evaluating confidence interval methods
    for binomial proportions in clustered surveys", J. Survey Statistics and Methodology 3 (2015).
    """

    by_name: dict[str, Array]
    times: Array
    trials: float
    lone: bool

    @classmethod
    def of(cls, meters: Sequence[Judged], tested: Sequence[Int]) -> Effects:
        """Compute them; consecutive parts without a unit in common are one pass."""
        every, place = np.unique(np.concatenate(tested), return_inverse=True)
        own = np.split(place, np.cumsum([len(units) for units in tested])[:-1])
        passes: list[list[int]] = []
        seen = np.zeros(len(every), dtype=bool)
        for part, units in enumerate(own):
            if not passes or seen[units].any():
                passes.append([])
                seen[:] = False
            passes[-1].append(part)
            seen[units] = True
        found: dict[str, list[Array]] = {}
        times = np.zeros(len(every))
        for parts in passes:
            unit = np.concatenate([own[part] for part in parts])
            times[np.unique(unit)] += 1
            kind: Any = type(meters[0])
            meter: Judged = kind.joined([meters[part] for part in parts])
            share = len(parts) / len(meters)
            for name, values in meter.effects().items():
                found.setdefault(name, []).append(
                    share * np.bincount(unit, values, minlength=len(every))
                )
        weights = [meter.weight for meter in meters if meter.weight is not None]
        trials = trials_of(tested, weights or None)
        by_name = {name: np.array(ones) for name, ones in found.items() if len(ones) == len(passes)}
        return cls(by_name, times, trials, len(passes) == 1 < len(meters))

    def __sub__(self, other: Effects) -> Effects:
        """Return the effects on a difference of two meters on the same parts."""
        shared = [name for name in self.by_name if name in other.by_name]
        by_name = {name: self.by_name[name] - other.by_name[name] for name in shared}
        return Effects(by_name, self.times, self.trials, self.lone)

    def error(self, name: str) -> float:
        """Return the standard error of a metric, NaN where nothing varies."""
        n = len(self.times)
        if name not in self.by_name or n < 2:
            return float("nan")
        variance = float(self.times @ (self.by_name[name] ** 2).sum(axis=0)) * n / (n - 1)
        error = np.sqrt(variance) * (LONE if self.lone else 1.0)
        return float(error) if error > ROUNDING else float("nan")

    @property
    def quantile(self) -> float:
        """Student's t, with a degree of freedom less than there are units."""
        from scipy.stats import t

        return float(t.ppf((1 + CONFIDENCE) / 2, max(1, len(self.times) - 1)))

    def interval(self, name: str, mean: float) -> tuple[float, float]:
        """Return the ends around the mean of a metric; NaN where there is too little to tell."""
        error = self.error(name)
        if name in SHARES and len(self.times) > 1 and (np.isnan(error) or not 0 < mean < 1):
            return wilson(mean, self.trials, self.quantile)
        if np.isnan(error):
            return float("nan"), float("nan")
        if name not in CALIBRATION and 0 < mean < 1:
            return wilson(mean, mean * (1 - mean) / error**2, self.quantile)
        return mean - self.quantile * error, mean + self.quantile * error


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


def wilson(share: float, n: float, z: float | None = None) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `n` independent trials; `z` is its quantile.

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

    z = float(norm.ppf((1 + CONFIDENCE) / 2)) if z is None else z
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
