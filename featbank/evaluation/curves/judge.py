"""The judge of learning curves: from which test rows were right to points, gains and a law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.evaluation.curves.law import LEAST_POINTS, Law, fit_law
from featbank.evaluation.curves.result import METRICS, CurvePoint, Gain, HeadCurve
from featbank.evaluation.inputs import Inputs
from featbank.evaluation.intervals import Estimate, bounded, corrected_t, students_t, trials_of
from featbank.evaluation.plan import Part, ratio_of

__all__ = ["Scored", "head_curve"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Scored:
    """One fit: which test rows were right, and what it cost."""

    hits: npt.NDArray[np.bool_]
    images: int
    seconds: float
    notes: tuple[str, ...]


def head_curve(
    name: str,
    scored: Sequence[Scored],
    sizes: Sequence[int],
    parts: Sequence[Part],
    data: Inputs,
    metric: str,
    worth: float,
) -> HeadCurve:
    """Gather the fits of a head, which come draw by draw."""
    tested = trials_of(
        [data.units[part.test] for part in parts], data.weights_of(part.test for part in parts)
    )
    by_size = [scored[i :: len(sizes)] for i in range(len(sizes))]
    curve_points, hits = [], [[one.hits.astype(np.float64) for one in ones] for ones in by_size]
    for n, ones, found in zip(sizes, by_size, hits, strict=True):
        metrics = {}
        for one_metric in METRICS:
            e = _estimate(found, parts, data, one_metric)
            trials = tested if one_metric == "accuracy" else None
            metrics[one_metric] = bounded(e.values, (e.low, e.high), trials)
        curve_points.append(CurvePoint(n, ones[0].images, metrics))
    gains = []
    for (n, before), (m, after) in pairwise(zip(sizes, hits, strict=True)):
        if m == 2 * n:
            gained = [b - a for a, b in zip(before, after, strict=True)]
            e = _estimate(gained, parts, data, metric)
            gains.append(Gain(n, e.mean, e.low, e.high))
    law, following = None, None
    if len(sizes) >= LEAST_POINTS:
        law, following = _next(curve_points, hits, parts, data, metric)
    told: dict[str, list[int]] = {}
    for n, ones in zip(sizes, by_size, strict=True):
        for note in dict.fromkeys(note for one in ones for note in one.notes):
            told.setdefault(note, []).append(n)
    return HeadCurve(
        head=name,
        points=tuple(curve_points),
        gains=tuple(gains),
        law=law,
        next_gain=following,
        worth=worth,
        seconds=sum(one.seconds for one in scored),
        notes=tuple(f"{', '.join(map(str, ns))} a class: {note}" for note, ns in told.items()),
    )


def _estimate(
    values: Sequence[Array], parts: Sequence[Part], data: Inputs, metric: str
) -> Estimate:
    """Return the mean over draws, weighted over rows as the metric does, with its interval."""
    weights = [_weights(data, part, metric) for part in parts]
    means = tuple(float(w @ v) for w, v in zip(weights, values, strict=True))
    if any(part is not parts[0] for part in parts):
        return Estimate(float(np.mean(means)), *corrected_t(means, ratio_of(parts)), means)
    shared = _split_variance(values, parts[0], data, metric)
    return Estimate(float(np.mean(means)), *students_t(means, shared), means)


def _weights(data: Inputs, part: Part, metric: str) -> Array:
    """Return what each test row counts: its metric weight, if need be over that of its class."""
    codes, own = data.codes[part.test], data.weight_of(part.test)
    own = np.ones(len(codes)) if own is None else own
    if metric != "balanced_accuracy":
        return own / own.sum()
    sizes = np.bincount(codes, own)
    return own / (sizes[codes] * np.sum(sizes > 0))


def _split_variance(values: Sequence[Array], part: Part, data: Inputs, metric: str) -> float:
    """Return the variance of the draws' mean score over the test part's units."""
    codes, mean = data.codes[part.test], np.mean(values, axis=0)
    weights = _weights(data, part, metric)
    stratum = codes if metric == "balanced_accuracy" else np.zeros_like(codes)
    sums = [np.bincount(stratum, one) for one in (weights * mean, weights)]
    centre = (sums[0] / np.where(sums[1] > 0, sums[1], 1))[stratum]
    unit = np.unique(data.units[part.test], return_inverse=True)[1]
    return float(np.sum(np.bincount(unit, weights * (mean - centre)) ** 2))


def _next(
    curve_points: Sequence[CurvePoint],
    hits: Sequence[Sequence[Array]],
    parts: Sequence[Part],
    data: Inputs,
    metric: str,
) -> tuple[Law, Gain]:
    """Fit the law, and what it says of doubling the largest draw.

    The jackknife leaves out one draw at a time; its pseudo-values stand for the draws' own gains.
    """
    scores = np.array([point.metrics[metric].values for point in curve_points])
    labels = [point.labels for point in curve_points]
    draws = scores.shape[1]
    tested = len(np.unique(np.concatenate([part.test for part in parts])))
    mean = scores.mean(axis=1)
    # A draw's score is known no better than its test images tell it, however alike draws are.
    variances = scores.var(axis=1, ddof=1) / draws + np.maximum(mean * (1 - mean), 0.01) / tested
    law = fit_law(labels, mean, variances)
    top = labels[-1]
    gain = law.gain(top)
    without = [
        fit_law(labels, np.delete(scores, i, axis=1).mean(axis=1), variances).gain(top)
        for i in range(draws)
    ]
    pseudo = [draws * gain - (draws - 1) * other for other in without]
    if any(part is not parts[0] for part in parts):
        low, high = corrected_t(pseudo, ratio_of(parts))
    else:
        gained = [b - a for a, b in zip(hits[-2], hits[-1], strict=True)]
        low, high = students_t(pseudo, _split_variance(gained, parts[0], data, metric))
    shift = gain - float(np.mean(pseudo))
    return law, Gain(top, gain, low + shift, high + shift)
