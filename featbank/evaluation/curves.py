"""Learning curves: heads fitted on balanced draws of 1, 2, 4, ... labels a class, and scored."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError, HeadError
from featbank.evaluation.fitting import Candidate, candidates, fit
from featbank.evaluation.folds import Int
from featbank.evaluation.inputs import Inputs, checked
from featbank.evaluation.law import LEAST_POINTS, Law, fit_law
from featbank.evaluation.metrics import CONFIDENCE, Estimate, corrected_t, wilson
from featbank.evaluation.parallel import run
from featbank.evaluation.plan import Part, plan, plan_final
from featbank.evaluation.text import aligned, interval, points
from featbank.heads.weights import of_classes

__all__ = ["CurvePoint", "Gain", "HeadCurve", "LearningCurve", "learning_curve"]

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]

METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}
LARGEST = 1024
"""The largest number of labels a class that is drawn unless more is asked for."""


@dataclass(frozen=True)
class CurvePoint:
    """A score at one number of labels.

    Attributes
    ----------
    labels : int
        Labels a class.
    images : int
        Rows that were learned from in each draw.
    metrics : dict of str to Estimate
        accuracy and balanced_accuracy, one value a draw.
    """

    labels: int
    images: int
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class Gain:
    """What doubling the labels adds to the score, with its 95 % interval.

    Attributes
    ----------
    labels : int
        Labels a class before doubling.
    mean, low, high : float
    """

    labels: int
    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"from": self.labels, "to": 2 * self.labels, "mean": self.mean,
                "ci95": [self.low, self.high]}  # fmt: skip


@dataclass(frozen=True)
class HeadCurve:
    """The curve of one head.

    Attributes
    ----------
    head : str
    points : tuple of CurvePoint
        By labels a class.
    gains : tuple of Gain
        Of each doubling that was drawn: differences between fits of the same draw, for a draw of
        2n holds that of n.
    law : Law or None
        Through the points; None where there are fewer than four.
    next_gain : Gain or None
        Of doubling once more, by the law; its interval is the jackknife's over draws, and says
        nothing of whether the law goes on to hold.
    worth : float
        The gain of doubling below which more labels don't pay.
    seconds : float
    notes : tuple of str
    """

    head: str
    points: tuple[CurvePoint, ...]
    gains: tuple[Gain, ...]
    law: Law | None
    next_gain: Gain | None
    worth: float
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """What the next doubling brings: "pays", "stops" (less than `worth`), or "open"."""
        if self.next_gain is None:
            return "open"
        if self.next_gain.low >= self.worth:
            return "pays"
        return "stops" if self.next_gain.high < self.worth else "open"

    @property
    def pays_until(self) -> float | None:
        """Labels a class from which doubling adds less than `worth`, by the law."""
        return None if self.law is None else self.law.pays_until(self.worth)

    def reading(self) -> str:
        """Return where more labels stop paying, in a sentence or two."""
        said = []
        if self.gains:
            last = self.gains[-1]
            said.append(
                f"the last doubling ({last.labels} to {2 * last.labels} a class) brought "
                f"{points(last.mean, last.low, last.high)} points."
            )
        if self.law is None or self.next_gain is None or self.pays_until is None:
            return " ".join([*said, f"A law needs {LEAST_POINTS} sizes of draw."])
        top, gain = self.points[-1].labels, self.next_gain
        said.append(
            f"The next ({top} to {2 * top}) should bring {points(gain.mean, gain.low, gain.high)} "
            "if the law goes on to hold:"
        )
        worth = f"{100 * self.worth:g} point" + "s" * (self.worth != 0.01)
        if self.verdict == "open":
            said.append(f"whether it is worth {worth} can't be told from these draws.")
        elif self.verdict == "stops":
            since = max(self.points[0].labels, _rounded(self.pays_until))
            said.append(f"more labels stop paying ({worth} a doubling) at about {since} a class.")
        else:
            beyond = self.pays_until > 4 * top
            until = f"more than {4 * top}" if beyond else f"about {_rounded(self.pays_until)}"
            said.append(f"more labels pay ({worth} a doubling or more), up to {until} a class.")
        return " ".join(said)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "head": self.head,
            "points": [
                {
                    "labels": point.labels,
                    "images": point.images,
                    **{name: estimate.to_dict() for name, estimate in point.metrics.items()},
                }
                for point in self.points
            ],
            "gains": [gain.to_dict() for gain in self.gains],
            "law": self.law and dataclasses.asdict(self.law),
            "next_gain": self.next_gain and self.next_gain.to_dict(),
            "verdict": self.verdict,
            "pays_until": self.pays_until,
            "reading": self.reading(),
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class LearningCurve:
    """Learning curves of several heads on the same draws.

    Attributes
    ----------
    heads : tuple of HeadCurve
    metric : str
        What gains and laws are about.
    worth : float
    draws : int
        Draws of each size.
    protocol : str
        What was done, in a few words.
    images : int
        Labelled rows.
    classes : tuple of str
    notes : tuple of str
    """

    heads: tuple[HeadCurve, ...]
    metric: str
    worth: float
    draws: int
    protocol: str
    images: int
    classes: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    def __getitem__(self, head: str) -> HeadCurve:
        """Return the curve of the head of this name."""
        for found in self.heads:
            if found.head == head:
                return found
        raise KeyError(f"{head!r} is none of {', '.join(h.head for h in self.heads)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, as ``featbank curve --json`` prints it."""
        return {
            "heads": [head.to_dict() for head in self.heads],
            "metric": self.metric,
            "worth": self.worth,
            "draws": self.draws,
            "protocol": self.protocol,
            "images": self.images,
            "classes": list(self.classes),
            "notes": list(self.notes),
        }

    def rows(self) -> list[list[Any]]:
        """Return a title line and one line a head and number of labels, for a table's file."""
        titles = [t for name in METRICS for t in (name, f"{name}_low", f"{name}_high")]
        table: list[list[Any]] = [["head", "labels_per_class", "images", "draws", *titles]]
        for head in self.heads:
            for point in head.points:
                found = [point.metrics[name] for name in METRICS]
                figures = [v for e in found for v in (e.mean, e.low, e.high)]
                table.append([head.head, point.labels, point.images, self.draws, *figures])
        return table

    def table(self) -> str:
        """Return the curves as plain text, and what they say of further labels."""
        rows = [["labels a class", "images", *(head.head for head in self.heads)]]
        for i, point in enumerate(self.heads[0].points):
            found = [head.points[i].metrics[self.metric] for head in self.heads]
            cells = [interval(e.mean, e.low, e.high) for e in found]
            rows.append([str(point.labels), str(point.images), *cells])
        head = f"{self.protocol}: {self.images} images, {len(self.classes)} classes"
        what = f"{METRICS[self.metric]}, mean of {self.draws} draws ± the 95 % confidence interval"
        blocks = [
            "\n".join([head, what, "", *aligned(rows, left=())]),
            "\n".join(f"{one.head}: {one.reading()}" for one in self.heads),
        ]
        notes = [*self.notes, *(f"{one.head}: {note}" for one in self.heads for note in one.notes)]
        if notes:
            blocks.append("\n".join(f"note: {note}" for note in notes))
        return "\n\n".join(blocks)

    def __str__(self) -> str:
        return self.table()


def learning_curve(
    X: Any,
    y: Any,
    head: Any = "logreg",
    *,
    sizes: Sequence[int] | None = None,
    draws: int = 10,
    uneven: bool = False,
    metric: str = "accuracy",
    worth: float = 0.01,
    cv: int | float | None = None,
    splits: Any = None,
    groups: Any = None,
    digests: Any = None,
    near_duplicates: Any = None,
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    class_weight: Any = None,
    scoring: str = "accuracy",
    random_state: int = 0,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> LearningCurve:
    """Score heads that learned from 1, 2, 4, ... labels a class.

    Each draw takes equally many rows of each class from a training part, and the head that is
    fitted on them, tuned inside them, is scored on all of the test part. A draw of 2n holds that
    of n. Parts come from `featbank.cross_validate`'s plan: rows of one group or of equal digest
    stay together, and of copies a draw takes one.

    Parameters
    ----------
    X, y, head, splits, groups, digests, near_duplicates
        As in `featbank.cross_validate`.
    tune, params, class_weight, scoring, random_state, n_jobs
        As there.
    sizes : sequence of int, optional
        Labels a class; by default powers of two up to 1,024 that every class has.
    draws : int, default=10
        Seeds: each draws anew, and from the next training part.
    uneven : bool, default=False
        Go on beyond the smallest class, which then gives all that it has.
    metric : {"accuracy", "balanced_accuracy"}
        What the gains and the law are about.
    worth : float, default=0.01
        The gain of doubling below which more labels don't pay.
    cv : int or float, optional
        As in `featbank.cross_validate`: folds (5) whose rest is drawn from, or the share held out.
    progress : callable, optional
        Called as ``progress(done, total)`` after each fit.

    Returns
    -------
    LearningCurve

    Raises
    ------
    EvaluationError, HeadError

    Notes
    -----
    Intervals are of 95 %. Where draws are scored on different parts, they are
    `featbank.evaluation.metrics.corrected_t`, with the sizes of the whole parts; small draws
    overlap less than these, so that it errs to the wide side. Where all are scored on one given
    split, the variance over draws and that over the split's images are added.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> curve = learning_curve(X, y, "centroid", tune=False, sizes=[1, 8])
    >>> [point.images for point in curve["centroid"].points]
    [3, 24]
    """
    if metric not in METRICS:
        raise EvaluationError(f"metric is {' or '.join(METRICS)}, not {metric!r}.")
    if draws < 2:
        raise EvaluationError(f"draws is {draws}; an interval needs at least 2.")
    if not 0 < worth < 1:
        raise EvaluationError(f"worth is a share of the score between 0 and 1, not {worth:g}.")
    data = checked(X, y, groups=groups, digests=digests, splits=splits, near=near_duplicates)
    found = candidates(
        head,
        params=params,
        tune=tune,
        class_weight=of_classes(class_weight, data.classes),
        calibrate=False,
        scoring=scoring,
        seed=random_state,
    )
    parts, protocol, notes = _parts(data, cv, draws, random_state)
    orders = [_order(data, part, [random_state, draw]) for draw, part in enumerate(parts)]
    chosen, said = _sizes(sizes, orders, uneven, data.classes)
    tasks = [
        (c, data, np.concatenate([rows[:n] for rows in order]), part.test, random_state)
        for c in found
        for order, part in zip(orders, parts, strict=True)
        for n in chosen
    ]
    scored: list[_Scored] = []
    for one in run(_score, tasks, n_jobs=n_jobs):
        scored.append(one)
        if progress is not None:
            progress(len(scored), len(tasks))
    step = draws * len(chosen)
    return LearningCurve(
        heads=tuple(
            _head_curve(
                c.name, scored[i * step : (i + 1) * step], chosen, parts, data, metric, worth
            )
            for i, c in enumerate(found)
        ),
        metric=metric,
        worth=worth,
        draws=draws,
        protocol=protocol,
        images=len(data.codes),
        classes=tuple(str(c) for c in data.classes),
        notes=(*data.notes, *notes, *said),
    )


@dataclass(frozen=True)
class _Scored:
    """One fit: which test rows were right, and what it cost."""

    hits: npt.NDArray[np.bool_]
    images: int
    seconds: float
    notes: tuple[str, ...]


def _parts(
    data: Inputs, cv: int | float | None, draws: int, seed: int
) -> tuple[list[Part], str, tuple[str, ...]]:
    """Return the part of each draw, and how they came about."""
    made = plan(data, cv=cv, repeats=1, seed=seed)
    if made.cv is not None and len(made.parts) < draws:
        made = plan(data, cv=cv, repeats=-(-draws // len(made.parts)), seed=seed)
    parts = [made.parts[i % len(made.parts)] for i in range(draws)]
    return parts, f"draws from the training parts of {made.protocol}", made.notes


def _order(data: Inputs, part: Part, seed: Sequence[int]) -> list[Int]:
    """Return each class's rows of the training part in random order, equal images once."""
    rows = np.random.default_rng([*seed]).permutation(part.train)
    if data.copies is not None:
        rows = rows[~np.isin(data.copies[rows], data.copies[part.test])]
        rows = rows[np.sort(np.unique(data.copies[rows], return_index=True)[1])]
    return [rows[data.codes[rows] == c] for c in range(len(data.classes))]


def _sizes(
    wanted: Sequence[int] | None, orders: list[list[Int]], uneven: bool, classes: Array
) -> tuple[list[int], list[str]]:
    """Return the numbers of labels a class that every draw can have, and what to say of them."""
    there = np.array([[len(rows) for rows in order] for order in orders]).min(axis=0)
    least, most = int(there.min()), int(there.max() if uneven else there.min())
    name = str(classes[int(there.argmin())])
    if least < 1:
        raise EvaluationError(
            f"class {name!r} has no image to draw from beside those that are scored on and their "
            "copies; leave it out or give other splits."
        )
    if wanted is None:
        sizes = [2**i for i in range(LARGEST.bit_length()) if 2**i <= most]
    else:
        sizes = sorted({int(n) for n in wanted})
        if not sizes or sizes[0] < 1:
            raise EvaluationError(f"sizes are labels a class, 1 or more, not {list(wanted)}.")
        if sizes[-1] > most:
            raise EvaluationError(
                f"{sizes[-1]} labels a class can't be drawn: class {name!r} has {least} to draw "
                "from; ask for fewer"
                + (", or for uneven draws." if not uneven else f", at most {most}.")
            )
    if sizes[-1] > least:
        return sizes, [f"beyond {least} labels a class {name!r} gives all that it has."]
    if wanted is None and sizes[-1] < LARGEST:
        return sizes, [f"draws end at {sizes[-1]}: class {name!r} has {least} to draw from."]
    return sizes, []


def _score(candidate: Candidate, data: Inputs, train: Int, test: Int, seed: int) -> _Scored:
    start = time.perf_counter()
    drawn = dataclasses.replace(
        data, X=data.X[train], y=data.y[train], codes=data.codes[train], units=data.units[train],
        splits=None,
    )  # fmt: skip
    candidate = _with_few_neighbours(candidate, len(train))
    try:
        fitted = fit(candidate, drawn.X, drawn.y, plan_final(drawn, seed=seed).inner)
    except HeadError as error:
        raise HeadError(f"{str(error).rstrip('.')}; leave draws so small out (sizes).") from error
    hits = np.asarray(fitted.estimator.predict(data.X[test])) == data.y[test]
    return _Scored(hits, len(train), time.perf_counter() - start, fitted.notes)


def _with_few_neighbours(candidate: Candidate, rows: int) -> Candidate:
    """Return the head so that it asks for no more neighbours than there are."""
    from sklearn.base import clone

    asked = {
        name: rows
        for name, value in candidate.estimator.get_params().items()
        if name.endswith("n_neighbors") and isinstance(value, int) and value > rows
    }
    if not asked:
        return candidate
    return dataclasses.replace(candidate, estimator=clone(candidate.estimator).set_params(**asked))


def _head_curve(
    name: str,
    scored: Sequence[_Scored],
    sizes: Sequence[int],
    parts: Sequence[Part],
    data: Inputs,
    metric: str,
    worth: float,
) -> HeadCurve:
    """Gather the fits of a head, which come draw by draw."""
    by_size = [scored[i :: len(sizes)] for i in range(len(sizes))]
    curve_points, hits = [], [[one.hits.astype(np.float64) for one in ones] for ones in by_size]
    for n, ones, found in zip(sizes, by_size, hits, strict=True):
        metrics = {}
        for one_metric in METRICS:
            e = _estimate(found, parts, data, one_metric)
            low, high = max(0.0, e.low), min(1.0, e.high)
            if low == high and one_metric == "accuracy":  # every draw scored the same
                tested = np.concatenate([data.units[part.test] for part in parts])
                low, high = wilson(e.mean, len(np.unique(tested)))
            metrics[one_metric] = dataclasses.replace(e, low=low, high=high)
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
    weights = [_weights(data.codes[part.test], metric) for part in parts]
    means = tuple(float(w @ v) for w, v in zip(weights, values, strict=True))
    if any(part is not parts[0] for part in parts):
        return Estimate(float(np.mean(means)), *corrected_t(means, _ratio(parts)), means)
    shared = _split_variance(values, parts[0], data, metric)
    return Estimate(float(np.mean(means)), *_t(means, shared), means)


def _weights(codes: Int, metric: str) -> Array:
    """Return what each row counts: the same, or one over the size of its class."""
    counts = np.bincount(codes)
    size = counts[codes] if metric == "balanced_accuracy" else np.full(len(codes), len(codes))
    return 1 / (size * (np.sum(counts > 0) if metric == "balanced_accuracy" else 1))


def _split_variance(values: Sequence[Array], part: Part, data: Inputs, metric: str) -> float:
    """Return the variance of the draws' mean score over the test part's units."""
    codes, mean = data.codes[part.test], np.mean(values, axis=0)
    if metric == "balanced_accuracy":
        centre = (np.bincount(codes, mean) / np.maximum(1, np.bincount(codes)))[codes]
    else:
        centre = np.full(len(mean), mean.mean())
    unit = np.unique(data.units[part.test], return_inverse=True)[1]
    return float(np.sum(np.bincount(unit, _weights(codes, metric) * (mean - centre)) ** 2))


def _t(values: Sequence[float], shared: float) -> tuple[float, float]:
    """Return the interval of a mean of independent values that share a variance besides."""
    from scipy.stats import t

    n = len(values)
    error = float(np.sqrt(np.var(values, ddof=1) / n + shared))
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    mean = float(np.mean(values))
    return mean - half, mean + half


def _ratio(parts: Sequence[Part]) -> float:
    return float(np.mean([len(part.test) / len(part.train) for part in parts]))


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
        low, high = corrected_t(pseudo, _ratio(parts))
    else:
        gained = [b - a for a, b in zip(hits[-2], hits[-1], strict=True)]
        low, high = _t(pseudo, _split_variance(gained, parts[0], data, metric))
    shift = gain - float(np.mean(pseudo))
    return law, Gain(top, gain, low + shift, high + shift)


def _rounded(n: float) -> int:
    """Return a number of labels with one digit that counts: a law knows no more."""
    if n < 1:
        return 1
    size = 10 ** (len(str(int(n))) - 1)
    return round(n / size) * size
