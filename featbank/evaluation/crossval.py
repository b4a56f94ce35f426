"""Cross-validation of heads on features: `cross_validate`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError
from featbank.evaluation.fitting import Candidate, Fitted, candidates, check_scoring, fit
from featbank.evaluation.folds import Int
from featbank.evaluation.inputs import Inputs, checked
from featbank.evaluation.intervals import Estimate, estimates
from featbank.evaluation.metrics import CALIBRATION, METRICS, Meter
from featbank.evaluation.multilabel.sets import are_label_sets
from featbank.evaluation.neighbours import NearDuplicates
from featbank.evaluation.parallel import Progress, run
from featbank.evaluation.plan import Part, Plan, plan, plan_naive, ratio_of
from featbank.evaluation.result import EvaluationResult, HeadResult, Predictions
from featbank.heads.outputs import Outputs, outputs
from featbank.heads.streaming import Blocks
from featbank.heads.weights import by_step, checked_weights, of_classes

__all__ = ["check_plain", "cross_validate", "most_common", "notes_on", "prepared"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Scored:
    """One part, fitted and predicted."""

    part: Part
    fitted: Fitted
    outputs: Outputs
    meter: Meter
    before: Meter | None


def cross_validate(
    X: Any,
    y: Any,
    head: Any = "svm",
    *,
    classes: Sequence[str] | None = None,
    cv: int | float | None = None,
    repeats: int = 1,
    splits: Any = None,
    groups: Any = None,
    digests: Any = None,
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    class_weight: Any = None,
    sample_weight: Any = None,
    calibrate: bool | str = False,
    threshold: str | None = None,
    scoring: str = "accuracy",
    near_duplicates: float | NearDuplicates | None = None,
    show_leak: bool = False,
    random_state: int = 0,
    device: str | None = None,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Score one or several heads on the same folds, honestly.

    Everything that is learned (scaling, hyper-parameters, calibration, a threshold) is learned
    within a fold's training part. Rows of one group, of equal digest, or of one cluster of
    near-duplicates never straddle folds that are made here.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Features; float32 stays float32.
    y : array-like of shape (n,), sequence of sets, or array-like of shape (n, K)
        Classes, text or whole numbers; rows of None are left out. Where a row may have several
        labels: sets of words, or a matrix of 0 and 1; see Notes.
    head : str, estimator, or sequence of them
        See `featbank.make_head`.
    classes : sequence of str, optional
        Names of the columns of a matrix `y`, or the labels that count where `y` holds sets.
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
        A mapping gives a class its weight; classes that it leaves out have 1.
    sample_weight : array-like of shape (n,), optional
        Numbers from 0 up: how much a row counts when a head is fitted and when its
        hyper-parameters' fits are. Scores weigh every row alike, whatever its weight.
    calibrate : bool or {"platt", "temperature"}, default=False
        Give every head probabilities inside the fold, by Platt's method (also True) or by one
        temperature, which leaves predictions as they are. Calibration before it stands beside.
    threshold : {"accuracy", "balanced_accuracy", "macro_f1", "f1"}, optional
        Choose where two classes part by this metric inside the fold; f1 is that of the class with
        fewer images.
    scoring : str, default="accuracy"
        What hyper-parameters are chosen by; a name of scikit-learn's.
    near_duplicates : float, optional
        Cosine similarity from which images count as one, such as 0.98; see
        `featbank.near_duplicates`, whose result is taken too.
    show_leak : bool, default=False
        Also score folds that tear apart what belongs together, to tell what these would claim.
    random_state : int, default=0
        Seed of folds, heads and resamples.
    device : str, optional
        ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"auto"``: logreg, ridge and lda with solver svd are
        fitted there by scikit-learn on torch tensors, one at a time. This needs the environment
        variable SCIPY_ARRAY_API=1. By default NumPy fits them; mlp finds CUDA by itself.
    n_jobs : int, optional
        Fits at the same time at most, through joblib; see `featbank.evaluation.parallel.run`.
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
    Intervals are of 95 %: over folds and repeats `featbank.evaluation.intervals.corrected_t`, for a
    single scored part `featbank.evaluation.intervals.bootstrap`.

    With several labels a row each label has a classifier against the rest, folds are stratified by
    label, settings are chosen by mAP (or by the mean of another `scoring` over labels), and the
    result is a `featbank.evaluation.multilabel.result.LabelResult`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> result = cross_validate(X, y, ["ridge", "lda"], tune=False)
    >>> [round(head.metrics["accuracy"].mean, 1) for head in result.heads]
    [0.8, 1.0]
    """
    options: dict[str, Any] = {
        "splits": splits,
        "groups": groups,
        "digests": digests,
        "near_duplicates": near_duplicates,
        "tune": tune,
        "params": params,
        "class_weight": class_weight,
        "sample_weight": sample_weight,
        "calibrate": calibrate,
        "threshold": threshold,
        "scoring": scoring,
        "random_state": random_state,
    }
    if classes is not None or are_label_sets(y):
        check_plain(X, device)
        from featbank.evaluation.multilabel.run import cross_validate_sets

        return cross_validate_sets(
            X,
            y,
            head,
            classes=classes,
            cv=cv,
            repeats=repeats,
            n_jobs=n_jobs,
            progress=progress,
            show_leak=show_leak,
            **options,
        )
    data, found, weights = prepared(X, y, head, device=device, **options)
    made = plan(data, cv=cv, repeats=repeats, seed=random_state)
    naive: tuple[Part, ...] = ()
    told = ""
    if show_leak:
        naive, told = plan_naive(data, made, repeats=repeats, seed=random_state)
    parts = [*made.parts, *([made.clean] if made.clean else []), *naive]
    tasks = [
        (candidate, part, data.X, data.y, data.codes, data.classes, weights)
        for candidate in found
        for part in parts
    ]
    size = data.X.shape[0] * data.X.shape[1]
    # One process reads what is streamed; one has the device.
    features: Any = data.X
    jobs = 1 if isinstance(features, Blocks) or device is not None else n_jobs
    scored = list(run(_score, tasks, n_jobs=jobs, work=size * len(tasks), progress=progress))
    per_head = [scored[i : i + len(parts)] for i in range(0, len(scored), len(parts))]
    return EvaluationResult(
        heads=tuple(
            _head_result(candidate, ones, made, naive, data, random_state)
            for candidate, ones in zip(found, per_head, strict=True)
        ),
        protocol=made.protocol,
        folds=len(made.parts),
        images=len(np.unique(np.concatenate([np.append(p.train, p.test) for p in made.parts]))),
        classes=tuple(str(c) for c in data.classes),
        duplicates=data.duplicates,
        groups=data.groups,
        notes=(
            *data.notes,
            *made.notes,
            *([f"no naive score: {told}"] if told else []),
            *_imbalance(data, found, scoring),
            *notes_on(weights),
        ),
        near_duplicates=data.near and data.near.spread(data.rows, len(X)),
        class_sizes=tuple(np.bincount(data.codes).tolist()),
        repeats=repeats,
        ratio=ratio_of(made.parts),
        random_state=random_state,
    )


def check_plain(X: Any, device: str | None) -> None:
    """Refuse to learn several labels an image in blocks or on a device."""
    if device is not None or isinstance(X, Blocks):
        raise EvaluationError(
            "several labels an image are learned on the CPU, from features in memory; leave the "
            "device out, or give more memory."
        )


def prepared(
    X: Any,
    y: Any,
    head: Any,
    *,
    splits: Any,
    groups: Any,
    digests: Any,
    near_duplicates: float | NearDuplicates | None,
    class_weight: Any,
    sample_weight: Any,
    threshold: str | None,
    random_state: int,
    **words: Any,
) -> tuple[Inputs, list[Candidate], Array | None]:
    """Check what was given; build candidates, and return the weights of the labelled rows."""
    data = checked(X, y, groups=groups, digests=digests, splits=splits, near=near_duplicates)
    if threshold is not None and len(data.classes) != 2:
        raise EvaluationError(
            f"a threshold parts two classes, and there are {len(data.classes)}; choose two of "
            "them, or ask for no threshold."
        )
    weights = checked_weights(sample_weight, len(X))
    found = candidates(
        head,
        class_weight=of_classes(class_weight, data.classes),
        threshold=threshold,
        seed=random_state,
        **words,
    )
    check_scoring(words["scoring"], data.classes, found)
    if weights is None:
        return data, found, None
    for candidate in found:
        by_step(candidate.estimator, candidate.name, weights)
    return data, found, weights[data.rows]


def _imbalance(data: Inputs, found: Sequence[Candidate], scoring: str) -> list[str]:
    sizes = np.bincount(data.codes)
    most, least = int(sizes.argmax()), int(sizes.argmin())
    if sizes[most] < 10 * sizes[least]:
        return []
    large, small = (f"{str(data.classes[c])!r} has {sizes[c]} images" for c in (most, least))
    note = f"classes differ tenfold or more ({large}, {small}): go by balanced metrics"
    if scoring == "accuracy" and any(candidate.grid() for candidate in found):
        note += "; settings are chosen by accuracy, but with scoring balanced_accuracy by that"
    return [note + "."]


def notes_on(weights: Array | None) -> list[str]:
    """Say what sample weights mean, where there are any."""
    if weights is None:
        return []
    return ["sample weights count in fitting alone; the scores weigh every image alike."]


def _score(
    candidate: Candidate,
    part: Part,
    X: Array,
    y: Array,
    codes: Int,
    classes: Array,
    weights: Array | None,
) -> _Scored:
    """Fit on the part's training rows, predict its test rows."""
    fitted = fit(
        candidate,
        X[part.train],
        y[part.train],
        part.inner,
        across=part.across,
        sample_weight=None if weights is None else weights[part.train],
    )
    start = time.perf_counter()
    told = _outputs(fitted.estimator, X[part.test], classes)
    seconds = fitted.seconds + time.perf_counter() - start
    meter = Meter(codes[part.test], told.codes, told.scores, told.probability, len(classes))
    before = None
    if candidate.calibrate:
        own = _uncalibrated(fitted.estimator)
        raw = _outputs(own, X[part.test], classes)
        if raw.probability is not None:
            before = Meter(meter.y, raw.codes, None, raw.probability, len(classes))
    # The fitted estimator stays behind: only numbers travel back from a worker.
    return _Scored(part, replace(fitted, estimator=None, seconds=seconds), told, meter, before)


def _outputs(estimator: Any, X: Array, classes: Array) -> Outputs:
    """Return what a fit, which may have lacked classes, says of rows, in columns of them all."""
    known = np.searchsorted(classes, estimator.classes_)
    return outputs(estimator, X).among(known, len(classes))


def _uncalibrated(estimator: Any) -> Any:
    """Return the head inside a calibrated one."""
    platt = getattr(estimator, "calibrated_classifiers_", None)
    return platt[0].estimator if platt else estimator.estimator


def _head_result(
    candidate: Candidate,
    scored: Sequence[_Scored],
    made: Plan,
    naive: Sequence[Part],
    data: Inputs,
    seed: int,
) -> HeadResult:
    own, further = scored[: len(made.parts)], scored[len(made.parts) :]
    torn = further[1 if made.clean else 0 :]
    before = [one.before for one in own if one.before is not None]
    chosen = tuple(one.fitted.best_params for one in own)
    predictions = Predictions(
        rows=np.concatenate([data.rows[one.part.test] for one in own]),
        fold=np.repeat(np.arange(len(own)), [len(one.part.test) for one in own]),
        y_true=np.concatenate([one.meter.y for one in own]),
        y_pred=np.concatenate([one.outputs.codes for one in own]),
        scores=_stacked([one.outputs.scores for one in own]),
        probability=_stacked([one.outputs.probability for one in own]),
        unit=np.concatenate([data.units[one.part.test] for one in own]),
    )
    confusion = np.zeros((len(data.classes), len(data.classes)), dtype=np.int64)
    np.add.at(confusion, (predictions.y_true, predictions.y_pred), 1)
    return HeadResult(
        head=candidate.name,
        metrics=_estimates(own, [one.meter for one in own], data.units, seed),
        best_params=most_common(chosen),
        fold_params=chosen,
        confusion=confusion,
        predictions=predictions,
        seconds=sum(one.fitted.seconds for one in own),
        without_duplicates=(
            _estimates(further[:1], [further[0].meter], data.units, seed) if made.clean else None
        ),
        calibrated=candidate.calibrate,
        uncalibrated=_calibration(_estimates(own, before, data.units, seed)) if before else None,
        naive=(
            _estimates(torn, [one.meter for one in torn], data.unbound().units, seed)
            if naive
            else None
        ),
        fold_learned=tuple(one.fitted.learned for one in own if one.fitted.learned),
        notes=(
            *dict.fromkeys(note for one in own for note in one.fitted.notes),
            *_undefined([one.meter for one in own]),
        ),
    )


def _undefined(meters: Sequence[Meter]) -> list[str]:
    """Say which metrics some parts have and others don't."""
    by_part = [set(meter()) for meter in meters]
    lacking = sorted({name for found in by_part for other in by_part for name in found - other})
    return [
        f"no {METRICS[name]}: {sum(name not in found for found in by_part)} of {len(by_part)} "
        "test parts hold one class only."
        for name in lacking
    ]


def _estimates(
    scored: Sequence[_Scored], meters: Sequence[Meter], units: Int, seed: int
) -> dict[str, Estimate]:
    parts = [one.part for one in scored]
    return estimates(meters, [units[p.test] for p in parts], ratio=ratio_of(parts), seed=seed)


def _calibration(found: dict[str, Estimate]) -> dict[str, Estimate]:
    return {name: found[name] for name in CALIBRATION if name in found}


def most_common(chosen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the parameters that most folds chose, the first of equal ones."""
    keys = [json.dumps(params, sort_keys=True, default=repr) for params in chosen]
    return chosen[keys.index(Counter(keys).most_common(1)[0][0])]


def _stacked(parts: Sequence[Array | None]) -> Array | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
