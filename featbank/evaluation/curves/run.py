"""The run of learning curves: heads fitted on balanced draws of 1, 2, 4, ... labels, and scored."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError, HeadError
from featbank.evaluation.baselines import baselines
from featbank.evaluation.curves.judge import Scored, head_curve
from featbank.evaluation.curves.result import METRICS, LearningCurve
from featbank.evaluation.fitting import Candidate, candidates, fit
from featbank.evaluation.folds import Int
from featbank.evaluation.inputs import Inputs, checked
from featbank.evaluation.parallel import Progress, run
from featbank.evaluation.plan import Part, plan, plan_final
from featbank.heads.weights import of_classes

__all__ = ["learning_curve"]

Array = npt.NDArray[Any]

LARGEST = 1024
"""The largest number of labels a class that is drawn unless more is asked for."""


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
    keep_copies: bool = False,
    near_duplicates: Any = None,
    metric_weight: Any = None,
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
    X, y, head, splits, groups, digests, keep_copies, near_duplicates, metric_weight
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
    `featbank.evaluation.intervals.corrected_t`, with the sizes of the whole parts; small draws
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
    check_curve(sizes=sizes, draws=draws, metric=metric, worth=worth)
    data = checked(
        X,
        y,
        groups=groups,
        digests=digests,
        splits=splits,
        near=near_duplicates,
        metric_weight=metric_weight,
        keep_copies=keep_copies,
    )
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
    scored = list(run(_score, tasks, n_jobs=n_jobs, progress=progress))
    step = draws * len(chosen)
    return LearningCurve(
        heads=tuple(
            head_curve(
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
        baselines=baselines(np.bincount(data.codes, data.metric_weight)),
    )


def check_curve(*, sizes: Sequence[int] | None, draws: int, metric: str, worth: float) -> None:
    """Refuse options that no features and labels would make possible.

    Raises
    ------
    EvaluationError
    """
    if metric not in METRICS:
        raise EvaluationError(f"metric is {' or '.join(METRICS)}, not {metric!r}.")
    if draws < 2:
        raise EvaluationError(f"draws is {draws}; an interval needs at least 2.")
    if not 0 < worth < 1:
        raise EvaluationError(f"worth is a share of the score between 0 and 1, not {worth:g}.")
    if sizes is not None and (not len(sizes) or min(sizes) < 1):
        raise EvaluationError(f"sizes are labels a class, 1 or more, not {list(sizes)}.")


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


def _score(candidate: Candidate, data: Inputs, train: Int, test: Int, seed: int) -> Scored:
    start = time.perf_counter()
    drawn = data.take(train)
    candidate = _with_few_neighbours(candidate, len(train))
    try:
        fitted = fit(candidate, drawn.X, drawn.y, plan_final(drawn, seed=seed).inner)
    except HeadError as error:
        raise HeadError(
            f"{str(error).rstrip('.')}; leave draws so small out by sizes (--sizes)."
        ) from error
    hits = np.asarray(fitted.estimator.predict(data.X[test])) == data.y[test]
    return Scored(hits, len(train), time.perf_counter() - start, fitted.notes)


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
