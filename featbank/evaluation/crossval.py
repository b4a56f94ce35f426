"""Cross-validation of heads on features, and the final fit: `cross_validate` and `fit_final`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.evaluation.fitting import Candidate, Fitted, candidates, fit
from featbank.evaluation.folds import Int
from featbank.evaluation.inputs import Inputs, checked
from featbank.evaluation.metrics import Estimate, Meter, bootstrap, corrected_t, wilson
from featbank.evaluation.plan import Part, Plan, plan, plan_final
from featbank.evaluation.result import EvaluationResult, HeadResult, Predictions
from featbank.heads.outputs import Outputs, outputs

__all__ = ["FinalFit", "cross_validate", "fit_final"]

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FinalFit:
    """A head fitted for use.

    Attributes
    ----------
    head : str
    estimator : estimator
        Fitted on the labels as given.
    classes : tuple of str
        In the order of the estimator's ``classes_``.
    best_params : dict
        What was chosen; empty where nothing was.
    rows : ndarray of intp
        Positions of the rows it was fitted on.
    seconds : float
    notes : tuple of str
    """

    head: str
    estimator: Any
    classes: tuple[str, ...]
    best_params: dict[str, Any]
    rows: Array
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Scored:
    """One part, fitted and predicted."""

    part: Part
    fitted: Fitted
    outputs: Outputs
    meter: Meter


def cross_validate(
    X: Any,
    y: Any,
    head: Any = "svm",
    *,
    cv: int | float | None = None,
    repeats: int = 1,
    splits: Any = None,
    groups: Any = None,
    digests: Any = None,
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    class_weight: Any = None,
    calibrate: bool = False,
    scoring: str = "accuracy",
    random_state: int = 0,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Score one or several heads on the same folds, honestly.

    Everything that is learned (scaling, hyper-parameters, calibration) is learned within a fold's
    training part. Rows of one group, or of equal digest, never straddle folds that are made here.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Features; float32 stays float32.
    y : array-like of shape (n,)
        Classes, text or whole numbers; rows of None are left out.
    head : str, estimator, or sequence of them
        See `featbank.make_head`.
    cv : int or float, optional
        Number of stratified folds (5; fewer where a class is smaller), or the share of each class
        that is held out in each repeat.
    repeats : int, default=1
        Times that the folds are drawn anew.
    splits : sequence of {"train", "valid", "test", "fold<i>", None}, optional
        Given splits, which stand as they are. With train, valid and test, hyper-parameters are
        chosen on valid, the head is fitted on both and scored once on test. With train and one
        other, they are chosen by cross-validation inside train, and the other is scored once.
        Folds are held out in turn. Rows of None are left out; train alone is cross-validated.
    groups : sequence of shape (n,), optional
        Patient, video, session, ...; None binds a row to no other.
    digests : sequence of shape (n,), or ndarray of bytes of shape (n, b), optional
        What is equal for identical images.
    tune : bool, default=True
        Choose hyper-parameters by `grid`, for heads that have one, in 3 inner folds.
    params : mapping, optional
        Parameters of the head, where there is one; what is set here is not chosen.
    class_weight : {"balanced"} or mapping, optional
    calibrate : bool, default=False
        Give every head probabilities, by Platt's method inside the fold.
    scoring : str, default="accuracy"
        What hyper-parameters are chosen by; a name of scikit-learn's.
    random_state : int, default=0
        Seed of folds, heads and resamples.
    n_jobs : int, optional
        Fits at the same time, through joblib.
    progress : callable, optional
        Called as ``progress(done, total)`` after each fit.

    Returns
    -------
    EvaluationResult

    Raises
    ------
    EvaluationError
        A score can't be had honestly from these data.
    HeadError
        A head is unknown, takes no such parameter, or refuses the data.

    Notes
    -----
    Intervals are of 95 %: over folds and repeats `featbank.evaluation.metrics.corrected_t`, for a
    single scored part `featbank.evaluation.metrics.bootstrap`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> result = cross_validate(X, y, ["ridge", "lda"], tune=False)
    >>> [round(head.metrics["accuracy"].mean, 1) for head in result.heads]
    [0.8, 1.0]
    """
    from joblib import Parallel, delayed

    data = checked(X, y, groups=groups, digests=digests, splits=splits)
    found = candidates(
        head,
        params=params,
        tune=tune,
        class_weight=class_weight,
        calibrate=calibrate,
        scoring=scoring,
        seed=random_state,
    )
    made = plan(data, cv=cv, repeats=repeats, seed=random_state)
    parts = [*made.parts, *([made.clean] if made.clean else [])]
    tasks = [(candidate, part) for candidate in found for part in parts]
    parallel = Parallel(n_jobs=n_jobs, return_as="generator")
    scored: list[_Scored] = []
    for one in parallel(
        delayed(_score)(candidate, part, data.X, data.y, data.codes, data.classes)
        for candidate, part in tasks
    ):
        scored.append(one)
        if progress is not None:
            progress(len(scored), len(tasks))
    per_head = [scored[i : i + len(parts)] for i in range(0, len(scored), len(parts))]
    return EvaluationResult(
        heads=tuple(
            _head_result(candidate.name, ones, made, data, random_state)
            for candidate, ones in zip(found, per_head, strict=True)
        ),
        protocol=made.protocol,
        folds=len(made.parts),
        images=len(np.unique(np.concatenate([np.append(p.train, p.test) for p in made.parts]))),
        classes=tuple(str(c) for c in data.classes),
        duplicates=data.duplicates,
        groups=data.groups,
        notes=(*data.notes, *made.notes),
    )


def fit_final(
    X: Any,
    y: Any,
    head: Any = "svm",
    *,
    splits: Any = None,
    groups: Any = None,
    digests: Any = None,
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    class_weight: Any = None,
    calibrate: bool = False,
    scoring: str = "accuracy",
    random_state: int = 0,
) -> FinalFit:
    """Fit one head for use, on all labelled rows that no split ``test`` reserves.

    Hyper-parameters are chosen by cross-validation on these rows (with train, valid and test: on
    valid), as `cross_validate` does inside a fold; see there for the arguments and errors.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> fit_final(X, y, "ridge", params={"alpha": 1.0}).estimator.predict(X[:2])
    array([0, 0])
    """
    data = checked(X, y, groups=groups, digests=digests, splits=splits)
    (candidate,) = candidates(
        [head],
        params=params,
        tune=tune,
        class_weight=class_weight,
        calibrate=calibrate,
        scoring=scoring,
        seed=random_state,
    )
    part = plan_final(data, seed=random_state)
    fitted = fit(candidate, data.X[part.train], data.y[part.train], part.inner)
    return FinalFit(
        head=candidate.name,
        estimator=fitted.estimator,
        classes=tuple(str(c) for c in fitted.estimator.classes_),
        best_params=fitted.best_params,
        rows=data.rows[part.train],
        seconds=fitted.seconds,
        notes=fitted.notes,
    )


def _score(
    candidate: Candidate, part: Part, X: Array, y: Array, codes: Int, classes: Array
) -> _Scored:
    """Fit on the part's training rows, predict its test rows."""
    fitted = fit(candidate, X[part.train], y[part.train], part.inner)
    start = time.perf_counter()
    told = _in_all_classes(outputs(fitted.estimator, X[part.test]), fitted.estimator, classes)
    seconds = fitted.seconds + time.perf_counter() - start
    meter = Meter(codes[part.test], told.codes, told.scores, told.probability, len(classes))
    # The fitted estimator stays behind: only numbers travel back from a worker.
    return _Scored(part, replace(fitted, estimator=None, seconds=seconds), told, meter)


def _in_all_classes(told: Outputs, estimator: Any, classes: Array) -> Outputs:
    """Bring outputs of a fit that lacked classes to columns of all of them."""
    known = np.searchsorted(classes, estimator.classes_)
    if len(known) == len(classes):
        return told

    def widened(values: Array | None, fill: float) -> Array | None:
        if values is None:
            return None
        wide = np.full((len(values), len(classes)), fill, dtype=values.dtype)
        wide[:, known] = values
        return wide

    return Outputs(known[told.codes], widened(told.scores, -np.inf), widened(told.probability, 0.0))


def _head_result(
    name: str, scored: Sequence[_Scored], made: Plan, data: Inputs, seed: int
) -> HeadResult:
    own = scored[: len(made.parts)]
    chosen = tuple(one.fitted.best_params for one in own)
    predictions = Predictions(
        rows=np.concatenate([data.rows[one.part.test] for one in own]),
        fold=np.repeat(np.arange(len(own)), [len(one.part.test) for one in own]),
        y_true=np.concatenate([one.meter.y for one in own]),
        y_pred=np.concatenate([one.outputs.codes for one in own]),
        scores=_stacked([one.outputs.scores for one in own]),
        probability=_stacked([one.outputs.probability for one in own]),
    )
    confusion = np.zeros((len(data.classes), len(data.classes)), dtype=np.int64)
    np.add.at(confusion, (predictions.y_true, predictions.y_pred), 1)
    return HeadResult(
        head=name,
        metrics=_estimates(own, data, seed),
        best_params=_most_common(chosen),
        fold_params=chosen,
        confusion=confusion,
        predictions=predictions,
        seconds=sum(one.fitted.seconds for one in own),
        without_duplicates=_estimates(scored[len(own) :], data, seed) if made.clean else None,
        notes=tuple(dict.fromkeys(note for one in own for note in one.fitted.notes)),
    )


def _estimates(scored: Sequence[_Scored], data: Inputs, seed: int) -> dict[str, Estimate]:
    """Return the metrics that are defined in every part, with their intervals."""
    by_part = [one.meter() for one in scored]
    names = [name for name in by_part[0] if all(name in found for found in by_part)]
    values = {name: tuple(found[name] for found in by_part) for name in names}
    if len(scored) == 1:
        ends = bootstrap(scored[0].meter, data.units[scored[0].part.test], seed=seed)
    else:
        ratio = float(np.mean([len(one.part.test) / len(one.part.train) for one in scored]))
        ends = {name: corrected_t(values[name], ratio) for name in names}
    low, high = ends.get("accuracy", (0.0, 0.0))
    if low == high:  # every part, or every resample, scored the same
        tested = np.concatenate([one.part.test for one in scored])
        ends["accuracy"] = wilson(
            float(np.mean(values["accuracy"])), len(np.unique(data.units[tested]))
        )
    estimates = {}
    for name in names:
        low, high = ends.get(name, (float("nan"), float("nan")))
        top = np.inf if name == "log_loss" else 1.0
        low, high = (float(np.clip(end, 0.0, top)) for end in (low, high))
        estimates[name] = Estimate(float(np.mean(values[name])), low, high, values[name])
    return estimates


def _most_common(chosen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    keys = [json.dumps(params, sort_keys=True, default=repr) for params in chosen]
    return chosen[keys.index(Counter(keys).most_common(1)[0][0])]


def _stacked(parts: Sequence[Array | None]) -> Array | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
