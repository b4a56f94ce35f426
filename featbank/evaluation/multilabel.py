"""Several labels a row: heads scored one label against the rest, on folds stratified by label."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError, HeadError
from featbank.evaluation.crossval import FinalFit, most_common
from featbank.evaluation.fitting import Candidate, candidates, noted
from featbank.evaluation.folds import Int
from featbank.evaluation.inputs import Inputs, checked
from featbank.evaluation.labelmeter import LabelMeter
from featbank.evaluation.labelplan import LabelData, plan_final_sets, plan_sets
from featbank.evaluation.labelresult import LabelHeadResult, LabelResult
from featbank.evaluation.labelsets import label_sets
from featbank.evaluation.metrics import Estimate, bootstrap, corrected_t, wilson
from featbank.evaluation.parallel import run
from featbank.evaluation.plan import Fold, Part, Plan
from featbank.evaluation.result import Predictions
from featbank.heads.sweep import sweep
from featbank.heads.weights import by_step, checked_weights

__all__ = ["cross_validate_sets", "fit_final_sets"]

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]


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
    `featbank.evaluation.labelsets.deal_sets`. A label with fewer different images than folds, with
    it or without it, is left out, and a note says so.

    Parameters
    ----------
    X : array-like of shape (n, d)
    y : sequence of set, or array-like of shape (n, K)
    classes : sequence of str, optional
        See `featbank.evaluation.labelsets.label_sets`.
    **options
        ``splits``, ``groups``, ``digests``, ``near``, ``tune``, ``params``, ``class_weight``,
        ``sample_weight``, ``scoring``, ``random_state``.
    """
    data, found, seed = _prepared(X, y, head, classes, options)
    data, made = plan_sets(data, cv=cv, repeats=repeats, seed=seed)
    parts = [*made.parts, *([made.clean] if made.clean else [])]
    tasks = [
        (candidate, part, data.inputs.X, data.indicator, data.classes, data.weights)
        for candidate in found
        for part in parts
    ]
    scored: list[_Scored] = []
    work = data.inputs.X.size * len(data.classes) * len(tasks)
    for one in run(_score, tasks, n_jobs=n_jobs, work=work):
        scored.append(one)
        if progress is not None:
            progress(len(scored), len(tasks))
    inputs = data.inputs
    per_head = [scored[i : i + len(parts)] for i in range(0, len(scored), len(parts))]
    rows = np.unique(np.concatenate([np.append(part.train, part.test) for part in made.parts]))
    weighted = "sample weights count in fitting alone; the scores weigh every image alike."
    return LabelResult(
        heads=tuple(
            _head_result(candidate.name, ones, made, data, seed)
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
            *([] if data.weights is None else [weighted]),
        ),
        near_duplicates=inputs.near and inputs.near.spread(inputs.rows, len(X)),
        class_sizes=tuple(int(n) for n in data.indicator[rows].sum(axis=0)),
        repeats=repeats,
        ratio=_ratio(made.parts),
        random_state=seed,
    )


def fit_final_sets(
    X: Any, y: Any, head: Any, *, classes: Sequence[str] | None = None, **options: Any
) -> FinalFit:
    """Fit one head for several labels a row, for use; see `featbank.evaluation.fit_final`."""
    data, (candidate,), seed = _prepared(X, y, [head], classes, options)
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
    X: Any, y: Any, head: Any, classes: Sequence[str] | None, options: Mapping[str, Any]
) -> tuple[LabelData, list[Candidate], int]:
    """Check what was given; build candidates."""
    own = dict(options)
    binding = {name: own.pop(name, None) for name in ("splits", "groups", "digests", "near")}
    class_weight, seed = own.pop("class_weight", None), own.pop("random_state", 0)
    weights = checked_weights(own.pop("sample_weight", None), len(X))
    scoring = own.pop("scoring", "accuracy")
    tune, params = own.pop("tune", True), own.pop("params", None)
    for name, value in own.items():
        if value:
            raise EvaluationError(f"{name} is not there for several labels an image; leave it out.")
    if class_weight not in (None, "balanced"):
        raise EvaluationError(
            "with several labels an image class_weight is 'balanced', each label against the rest, "
            "or not given."
        )
    sets = label_sets(y, classes)
    inputs = _inputs(X, sets.words(), binding)
    found = candidates(
        head,
        params=params,
        tune=tune,
        class_weight=class_weight,
        calibrate=False,
        scoring="average_precision" if scoring == "accuracy" else scoring,
        seed=seed,
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
        seed,
    )


def _inputs(X: Any, words: list[str | None], binding: dict[str, Any]) -> Inputs:
    """Check rows whose classes are sets of labels."""
    near = binding.pop("near")
    inputs = checked(X, words, **binding)
    if near is None:
        return inputs
    # Images of a rare set may well be near-duplicates of one another, unlike those of a class.
    some = iter(range(len(words)))
    halves = [None if word is None else next(some) % 2 for word in words]
    bound = checked(X, halves, near=near, **binding)
    return replace(inputs, units=bound.units, copies=bound.copies, near=bound.near)


def _score(
    candidate: Candidate,
    part: Part,
    X: Array,
    indicator: Array,
    classes: tuple[str, ...],
    weights: Array | None,
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
    meter = LabelMeter(indicator[part.test], head.predict(tested), scores)
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
    notes = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if values:
                best = _chosen(estimator, values, X, indicator, inner, candidate.scoring, weights)
                if not best:
                    notes.append("too few images to choose parameters on; defaults were used.")
            head = one_vs_rest(estimator.set_params(**best), classes)
            head.fit(X, indicator, **weights)
        except (ValueError, TypeError) as error:
            if isinstance(error, HeadError):
                raise
            reason = str(error).strip().splitlines()[-1]
            raise HeadError(
                f"head {candidate.name!r} could not be fitted on {len(X)} images: {reason}"
            ) from error
    return head, best, (*notes, *noted(caught))


def _chosen(
    estimator: Any,
    values: dict[str, list[Any]],
    X: Array,
    indicator: Array,
    inner: tuple[Fold, ...],
    scoring: str,
    weights: dict[str, Any],
) -> dict[str, Any]:
    """Return the values with the best mean over labels, the first of equal ones.

    A label counts in the folds where some images have it and others lack it, on both sides.
    """
    from sklearn.metrics import get_scorer

    score = get_scorer(scoring)  # by name a sweep may stop at what is best for one label alone
    means = []
    params: list[dict[str, Any]] = [{}]
    for column in indicator.T:
        y = column.astype(np.int64)
        folds = [fold for fold in inner if all(0 < y[rows].sum() < len(rows) for rows in fold)]
        if folds:
            found = sweep(estimator, values, X, y, folds, scoring=score, **weights)
            params = found.params
            means.append(found.scores.mean(axis=1))
    return params[int(np.mean(means, axis=0).argmax())] if means else {}


def _head_result(
    name: str, scored: Sequence[_Scored], made: Plan, data: LabelData, seed: int
) -> LabelHeadResult:
    own = scored[: len(made.parts)]
    inputs = data.inputs
    tested = [one.part.test for one in own]
    probability = [one.probability for one in own]
    chosen = tuple(one.best_params for one in own)
    return LabelHeadResult(
        head=name,
        metrics=_estimates(own, inputs.units, seed),
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
        ),
        seconds=sum(one.seconds for one in own),
        without_duplicates=_estimates(scored[len(own) :], inputs.units, seed)
        if made.clean
        else None,
        notes=tuple(dict.fromkeys(note for one in own for note in one.notes)),
        average_precision=np.array([one.meter.average_precision() for one in own]),
    )


def _estimates(scored: Sequence[_Scored], units: Int, seed: int) -> dict[str, Estimate]:
    """Return the metrics that are defined in every part, with their intervals."""
    by_part = [one.meter() for one in scored]
    names = [name for name in by_part[0] if all(name in found for found in by_part)]
    values = {name: tuple(found[name] for found in by_part) for name in names}
    if len(scored) == 1:
        ends = bootstrap(scored[0].meter, units[scored[0].part.test], seed=seed)
    else:
        ratio = _ratio([one.part for one in scored])
        ends = {name: corrected_t(values[name], ratio) for name in names}
    low, high = ends.get("subset_accuracy", (0.0, 0.0))
    if low == high:  # every part, or every resample, scored the same
        tested = np.unique(units[np.concatenate([one.part.test for one in scored])])
        ends["subset_accuracy"] = wilson(float(np.mean(values["subset_accuracy"])), len(tested))
    estimates = {}
    for name in names:
        low, high = ends.get(name, (float("nan"), float("nan")))
        low, high = (float(np.clip(end, 0.0, 1.0)) for end in (low, high))
        estimates[name] = Estimate(float(np.mean(values[name])), low, high, values[name])
    return estimates


def _ratio(parts: Sequence[Part]) -> float:
    return float(np.mean([len(part.test) / len(part.train) for part in parts]))
