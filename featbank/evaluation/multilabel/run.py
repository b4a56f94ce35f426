"""Several labels a row: heads scored one label against the rest, on folds stratified by label."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError, HeadError
from featbank.evaluation.assembly import most_common, never_predicted, weighted_by
from featbank.evaluation.crossval import notes_on
from featbank.evaluation.final import FinalFit
from featbank.evaluation.fitting import Candidate, candidates, watched
from featbank.evaluation.folds import Int
from featbank.evaluation.inputs import Inputs, checked
from featbank.evaluation.intervals import Estimate, estimates, few_groups
from featbank.evaluation.multilabel.meter import LabelMeter
from featbank.evaluation.multilabel.plan import LabelData, plan_final_sets, plan_sets
from featbank.evaluation.multilabel.result import LabelHeadResult, LabelResult
from featbank.evaluation.multilabel.sets import label_sets
from featbank.evaluation.neighbours import NearDuplicates
from featbank.evaluation.parallel import Progress, run
from featbank.evaluation.plan import Fold, Part, Plan
from featbank.evaluation.result import Predictions
from featbank.heads.sweep import COARSE, best_of, grid_search, sweep
from featbank.heads.weights import by_step, checked_weights

__all__ = ["cross_validate_sets", "fit_final_sets"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Scored:
    part: Part
    meter: LabelMeter
    scores: Array
    probability: Array | None
    best_params: dict[str, Any]
    seconds: float
    notes: tuple[str, ...]


def cross_validate_sets(
    X: Any,
    y: Any,
    head: Any,
    *,
    classes: Sequence[str] | None = None,
    cv: int | float | None = None,
    repeats: int = 1,
    n_jobs: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> LabelResult:
    """Score heads where a row may have several labels; see `featbank.cross_validate`.

    Each label has a classifier against the rest; what comes before it in the head, as scaling, is
    shared. Hyper-parameters are the same for all labels, chosen by mAP in the training part (or by
    the mean over labels of another `scoring`). Folds are stratified by label: see
    `featbank.evaluation.multilabel.sets.deal_sets`. A label with fewer different images than folds,
    with it or without it, is left out, and a note says so.

    Parameters
    ----------
    X : array-like of shape (n, d)
    y : sequence of set, or array-like of shape (n, K)
    classes : sequence of str, optional
        See `featbank.evaluation.multilabel.sets.label_sets`.
    **options
        All others of `featbank.cross_validate`, but for ``device``; ``calibrate``, ``threshold``
        and ``show_leak`` are refused.
    """
    data, found, seed = _prepared(X, y, head, classes, **options)
    data, made = plan_sets(data, cv=cv, repeats=repeats, seed=seed)
    parts = [*made.parts, *([made.clean] if made.clean else [])]
    tasks = [
        (
            candidate,
            part,
            data.inputs.X,
            data.indicator,
            data.classes,
            data.weights,
            data.inputs.weight_of(part.test),
        )
        for candidate in found
        for part in parts
    ]
    work = data.inputs.X.size * len(data.classes) * len(tasks)
    scored = list(run(_score, tasks, n_jobs=n_jobs, work=work, progress=progress))
    inputs = data.inputs
    per_head = [scored[i : i + len(parts)] for i in range(0, len(scored), len(parts))]
    rows = np.unique(np.concatenate([np.append(part.train, part.test) for part in made.parts]))
    tested = np.unique(np.concatenate([part.test for part in made.parts]))
    return LabelResult(
        heads=tuple(
            _head_result(candidate.name, ones, made, data)
            for candidate, ones in zip(found, per_head, strict=True)
        ),
        protocol=made.protocol,
        folds=len(made.parts),
        images=len(rows),
        classes=data.classes,
        duplicates=inputs.duplicates,
        groups=inputs.groups,
        notes=(
            *inputs.notes,
            *data.notes,
            *made.notes,
            *few_groups(inputs.units[tested]),
            *notes_on(data.weights, weighted_by(inputs)),
        ),
        near_duplicates=inputs.near and inputs.near.spread(inputs.rows, len(X)),
        class_sizes=tuple(int(n) for n in data.indicator[rows].sum(axis=0)),
        repeats=repeats,
        random_state=seed,
        metric_weight=weighted_by(inputs),
    )


def fit_final_sets(
    X: Any, y: Any, head: Any, *, classes: Sequence[str] | None = None, **options: Any
) -> FinalFit:
    """Fit one head for several labels a row, for use; see `featbank.evaluation.fit_final`."""
    data, (candidate,), seed = _prepared(X, y, [head], classes, **options)
    data, part = plan_final_sets(data, seed=seed)
    start = time.perf_counter()
    estimator, best, notes = _fit(
        candidate,
        data.inputs.X[part.train],
        data.indicator[part.train],
        data.classes,
        part.inner,
        None if data.weights is None else data.weights[part.train],
    )
    return FinalFit(
        head=candidate.name,
        estimator=estimator,
        classes=data.classes,
        best_params=best,
        rows=data.inputs.rows[part.train],
        seconds=time.perf_counter() - start,
        notes=notes,
    )


def _prepared(
    X: Any,
    y: Any,
    head: Any,
    classes: Sequence[str] | None,
    *,
    near_duplicates: float | NearDuplicates | None,
    tune: bool,
    params: Mapping[str, Any] | None,
    class_weight: Any,
    sample_weight: Any,
    scoring: str,
    random_state: int,
    calibrate: bool | str | None = None,
    threshold: str | None = None,
    show_leak: bool = False,
    **binding: Any,
) -> tuple[LabelData, list[Candidate], int]:
    """Check what was given; build candidates."""
    lacking = {"calibrate": calibrate, "threshold": threshold, "show_leak": show_leak}
    for name, value in lacking.items():
        if value:
            raise EvaluationError(f"{name} is not there for several labels an image; leave it out.")
    weights = checked_weights(sample_weight, len(X))
    if class_weight not in (None, "balanced"):
        raise EvaluationError(
            "with several labels an image class_weight is 'balanced', each label against the rest, "
            "or not given."
        )
    sets = label_sets(y, classes)
    inputs = _inputs(X, sets.words(), near_duplicates, binding)
    found = candidates(
        head,
        params=params,
        tune=tune,
        class_weight=class_weight,
        calibrate=False,
        scoring="average_precision" if scoring == "accuracy" else scoring,
        seed=random_state,
    )
    for candidate in found:
        if weights is not None:
            by_step(candidate.estimator, candidate.name, weights)
    return (
        LabelData(
            inputs,
            sets.indicator[inputs.rows],
            sets.classes,
            None if weights is None else weights[inputs.rows],
        ),
        found,
        random_state,
    )


def _inputs(
    X: Any,
    words: list[str | None],
    near: float | NearDuplicates | None,
    binding: dict[str, Any],
) -> Inputs:
    """Check rows whose classes are sets of labels."""
    inputs = checked(X, words, **binding)
    if near is None:
        return inputs
    # Images of a rare set may well be near-duplicates of one another, unlike those of a class.
    halves: list[int | None] = [None] * len(words)
    for position, row in enumerate(inputs.rows.tolist()):
        halves[row] = position % 2
    bound = checked(X, halves, near=near, **{**binding, "keep_copies": True})
    return replace(inputs, units=bound.units, copies=bound.copies, near=bound.near)


def _score(
    candidate: Candidate,
    part: Part,
    X: Array,
    indicator: Array,
    classes: tuple[str, ...],
    weights: Array | None,
    metric_weight: Array | None,
) -> _Scored:
    """Fit on the part's training rows, predict its test rows."""
    start = time.perf_counter()
    head, best, notes = _fit(
        candidate,
        X[part.train],
        indicator[part.train],
        classes,
        part.inner,
        None if weights is None else weights[part.train],
    )
    tested = X[part.test]
    probability = head.predict_proba(tested) if hasattr(head, "predict_proba") else None
    scores = probability
    if hasattr(head, "decision_function"):
        scores = head.decision_function(tested)
    if scores is None:
        raise HeadError(
            f"head {candidate.name!r} gives neither scores nor probabilities, which several labels "
            "an image are ranked by; choose another head."
        )
    meter = LabelMeter(indicator[part.test], head.predict(tested), scores, metric_weight)
    seconds = time.perf_counter() - start
    return _Scored(part, meter, scores, probability, best, seconds, notes)


def _fit(
    candidate: Candidate,
    X: Array,
    indicator: Array,
    classes: tuple[str, ...],
    inner: tuple[Fold, ...],
    sample_weight: Array | None,
) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """Return the fitted head, what was chosen, and notes."""
    from sklearn.base import clone

    from featbank.heads.multilabel import one_vs_rest

    estimator = clone(candidate.estimator)
    weights = {}
    if sample_weight is not None:
        weights = by_step(estimator, candidate.name, sample_weight)
    values = candidate.grid(n_samples=min((len(rows) for rows, _ in inner), default=len(X)))
    best: dict[str, Any] = {}
    with watched(candidate.name, len(X)) as notes:
        if values:
            best = _chosen(estimator, values, X, indicator, inner, candidate.scoring, weights)
            if not best:
                notes.append("too few images to choose parameters on; defaults were used.")
        head = one_vs_rest(estimator.set_params(**deepcopy(best)), classes)
        head.fit(X, indicator, **weights)
    return head, best, tuple(notes)


def _chosen(
    estimator: Any,
    values: dict[str, list[Any]],
    X: Array,
    indicator: Array,
    inner: tuple[Fold, ...],
    scoring: str,
    weights: dict[str, Any],
) -> dict[str, Any]:
    """Return the values with the best mean over labels, as `best_of` chooses.

    A label counts in the folds where some images have it and others lack it, on both sides.
    """
    # What one label's search from coarse to fine leaves out, another's may need.
    search = sweep if max(map(len, values.values())) < COARSE else grid_search
    means, losses = [], []
    params: list[dict[str, Any]] = [{}]
    for column in indicator.T:
        y = column.astype(np.int64)
        folds = [fold for fold in inner if all(0 < y[rows].sum() < len(rows) for rows in fold)]
        if folds:
            found = search(estimator, values, X, y, folds, scoring=scoring, **weights)
            params = found.params
            means.append(found.means)
            losses.append(found.losses.mean(axis=1))
    if not means:
        return {}
    return params[best_of(params, np.mean(means, axis=0), np.mean(losses, axis=0))]


def _head_result(
    name: str, scored: Sequence[_Scored], made: Plan, data: LabelData
) -> LabelHeadResult:
    own = scored[: len(made.parts)]
    inputs = data.inputs
    tested = [one.part.test for one in own]
    probability = [one.probability for one in own]
    chosen = tuple(one.best_params for one in own)
    return LabelHeadResult(
        head=name,
        metrics=_estimates(own, inputs.units),
        best_params=most_common(chosen),
        fold_params=chosen,
        confusion=np.empty((0, 0), dtype=np.int64),
        predictions=Predictions(
            rows=np.concatenate([inputs.rows[rows] for rows in tested]),
            fold=np.repeat(np.arange(len(own)), [len(rows) for rows in tested]),
            y_true=np.concatenate([one.meter.y for one in own]),
            y_pred=np.concatenate([one.meter.predicted for one in own]),
            scores=np.concatenate([one.scores for one in own]),
            probability=None
            if any(part is None for part in probability)
            else np.concatenate(cast(list[Array], probability)),
            unit=np.concatenate([inputs.units[rows] for rows in tested]),
            weight=inputs.weight_of(np.concatenate(tested)),
        ),
        seconds=sum(one.seconds for one in own),
        without_duplicates=_estimates(scored[len(own) :], inputs.units) if made.clean else None,
        notes=(
            *dict.fromkeys(note for one in own for note in one.notes),
            *never_predicted(
                data.classes,
                np.concatenate([one.meter.y for one in own]).astype(bool),
                np.concatenate([one.meter.predicted for one in own]).astype(bool),
                np.concatenate(tested),
            ),
        ),
        average_precision=np.array([one.meter.average_precision() for one in own]),
    )


def _estimates(scored: Sequence[_Scored], units: Int) -> dict[str, Estimate]:
    return estimates([one.meter for one in scored], [units[one.part.test] for one in scored])
