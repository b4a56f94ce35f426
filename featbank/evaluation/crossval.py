"""Cross-validation of heads on features: `cross_validate`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError
from featbank.evaluation.assembly import Scored, evaluation_result, head_result, weighted_by
from featbank.evaluation.fitting import Candidate, candidates, check_scoring, fit
from featbank.evaluation.inputs import Inputs, checked
from featbank.evaluation.metrics import Meter
from featbank.evaluation.multilabel.sets import are_label_sets
from featbank.evaluation.neighbours import NearDuplicates
from featbank.evaluation.parallel import Progress, run
from featbank.evaluation.plan import Part, plan, plan_naive
from featbank.evaluation.result import EvaluationResult
from featbank.heads.adjusted import AdjustedHead
from featbank.heads.outputs import Outputs, outputs
from featbank.heads.streaming import Blocks
from featbank.heads.weights import by_step, checked_weights, of_classes

__all__ = ["check_plain", "cross_validate", "notes_on", "prepared"]

Array = npt.NDArray[Any]

REPEATS = 5
CHEAP = ("logreg", "linear-svm", "svm", "ridge", "knn", "centroid")
"""Heads whose folds are drawn five times where nobody says; the time of lda grows with the square
of the columns."""

CHEAP_NUMBERS = 1_000_000
"""Numbers in the features, times heads, up to which this takes seconds; with more images repeats
make less of a difference."""


def cross_validate(
    X: Any,
    y: Any,
    head: Any = "logreg",
    *,
    classes: Sequence[str] | None = None,
    cv: int | float | None = None,
    repeats: int | None = 1,
    splits: Any = None,
    groups: Any = None,
    digests: Any = None,
    keep_copies: bool = False,
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    class_weight: Any = None,
    sample_weight: Any = None,
    metric_weight: Any = None,
    calibrate: bool | str | None = None,
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
    repeats : int or None, default=1
        Number of times that the folds are drawn. None is 5 where that is cheap, else 1: no `cv` or
        `splits` are given, all heads are built-in ones other than mlp and lda, and features times
        heads are at most a million numbers. `featbank.fit` has None as its default.
    splits : sequence of {"train", "valid", "test", "fold<i>", None}, optional
        Given splits, which stand as they are. With train, valid and test, hyper-parameters are
        chosen on valid, the head is fitted on both and scored once on test. With train and one
        other, they are chosen by cross-validation inside train, and the other is scored once.
        Folds are held out in turn. Rows of None are left out; train alone is cross-validated.
    groups : sequence of shape (n,), optional
        Patient, video, session, ...; None binds a row to no other.
    digests : sequence of shape (n,), or ndarray of bytes of shape (n, b), optional
        What is equal for identical images. Of those with one label, in one split, the first counts
        and the others are left out, with a note.
    keep_copies : bool, default=False
        Keep all identical images; they never straddle folds that are made here.
    tune : bool, default=True
        Choose hyper-parameters by `grid`, for heads that have one, in 3 inner folds.
    params : mapping, optional
        Parameters of the head, where there is one; what is set here is not chosen.
    class_weight : {"balanced"} or mapping, optional
        A mapping gives a class its weight; classes that it leaves out have 1.
    sample_weight : array-like of shape (n,), optional
        Numbers from 0 up: how much a row counts when a head is fitted and when its
        hyper-parameters' fits are. Metrics have weights of their own.
    metric_weight : array-like of shape (n,), optional
        Numbers from 0 up: how much a row counts in every metric, in the intervals and in the
        confusion matrix. Rows of weight 0 are trained on and not scored. Settings are chosen inside
        the folds without them.
    calibrate : {"temperature", "platt"} or bool, optional
        How probabilities are calibrated inside the fold: by one temperature, which leaves
        predictions as they are, or by Platt's method (also True). None gives heads that have
        margins only (svm, linear-svm, ridge) a temperature, where every class has images enough,
        and leaves the probabilities of the others as they are. False calibrates nothing. Results
        hold the scores of a head's own probabilities too.
    threshold : {"accuracy", "balanced_accuracy", "macro_f1", "f1"}, optional
        Choose where two classes part by this metric inside the fold; f1 is that of the class with
        fewer images.
    scoring : str, default="accuracy"
        What hyper-parameters are chosen by; a name of scikit-learn's.
    near_duplicates : float, optional
        Cosine similarity from which images count as one, such as 0.98; see
        `featbank.near_duplicates`, whose result is taken too.
    show_leak : bool, default=False
        Also score folds that tear apart what belongs together, to tell what these would claim; with
        `keep_copies`, identical images too.
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
    Intervals are of 95 %, over images or the groups that they belong to, by one method for folds,
    repeats and test sets: see `featbank.evaluation.intervals.Effects`. Repeats spare the heads the
    luck of one draw of folds; without them the interval is 1.2 times as wide. Differences of heads:
    see `featbank.evaluation.comparison.differences` and `adjusted` beside it. The best head's
    score, corrected for having been chosen: see `featbank.evaluation.choice.choose`.

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
        "keep_copies": keep_copies,
        "near_duplicates": near_duplicates,
        "tune": tune,
        "params": params,
        "class_weight": class_weight,
        "sample_weight": sample_weight,
        "metric_weight": metric_weight,
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
            repeats=1 if repeats is None else repeats,
            n_jobs=n_jobs,
            progress=progress,
            show_leak=show_leak,
            **options,
        )
    data, found, weights = prepared(X, y, head, device=device, **options)
    if repeats is None:
        repeats = _cheap_repeats(data, found) if cv is None else 1
    made = plan(data, cv=cv, repeats=repeats, seed=random_state)
    naive: tuple[Part, ...] = ()
    told = ""
    if show_leak:
        naive, told = plan_naive(data, made, repeats=repeats, seed=random_state)
    parts = [*made.parts, *([made.clean] if made.clean else []), *naive]
    tasks = [(candidate, part, data, weights) for candidate in found for part in parts]
    size = data.X.shape[0] * data.X.shape[1]
    # One process reads what is streamed; one has the device.
    features: Any = data.X
    jobs = 1 if isinstance(features, Blocks) or device is not None else n_jobs
    scored = list(run(_score, tasks, n_jobs=jobs, work=size * len(tasks), progress=progress))
    per_head = [scored[i : i + len(parts)] for i in range(0, len(scored), len(parts))]
    return evaluation_result(
        [
            head_result(
                candidate.name,
                ones,
                made,
                data,
                naive=naive,
                calibrated=_calibrated(candidate, ones),
                threshold=candidate.threshold,
            )
            for candidate, ones in zip(found, per_head, strict=True)
        ],
        made,
        data,
        n=len(X),
        notes=(
            *([f"no naive score: {told}"] if told else []),
            *notes_on(weights, weighted_by(data)),
        ),
        chosen_by=scoring if any(candidate.grid() for candidate in found) else None,
        repeats=repeats,
        seed=random_state,
    )


def _cheap_repeats(data: Inputs, found: Sequence[Candidate]) -> int:
    """Return how often five folds are drawn where nobody says, decided by the input alone."""
    reserved = data.splits is not None and set(data.splits) - {"train", None}
    plain = all(isinstance(c.head, str) and c.head in CHEAP and c.device is None for c in found)
    features: Any = data.X
    if reserved or not plain or isinstance(features, Blocks):
        return 1
    return REPEATS if data.X.shape[0] * data.X.shape[1] * len(found) <= CHEAP_NUMBERS else 1


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
    keep_copies: bool,
    near_duplicates: float | NearDuplicates | None,
    class_weight: Any,
    sample_weight: Any,
    metric_weight: Any = None,
    threshold: str | None,
    random_state: int,
    **words: Any,
) -> tuple[Inputs, list[Candidate], Array | None]:
    """Check what was given; build candidates, and return the weights of the labelled rows."""
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


def notes_on(weights: Array | None, metric_weight: str | None) -> list[str]:
    """Say what sample weights mean, where there are any."""
    if weights is None:
        return []
    if metric_weight is not None:
        return []
    return ["sample weights count in fitting alone; the scores weigh every image alike."]


def _score(candidate: Candidate, part: Part, data: Inputs, weights: Array | None) -> Scored:
    """Fit on the part's training rows, predict its test rows."""
    fitted = fit(
        candidate,
        data.X[part.train],
        data.y[part.train],
        part.inner,
        across=part.across,
        sample_weight=None if weights is None else weights[part.train],
    )
    start = time.perf_counter()
    told = _outputs(fitted.estimator, data.X[part.test], data.classes)
    seconds = fitted.seconds + time.perf_counter() - start
    before = None
    own = _unadjusted(candidate, fitted.estimator)
    if own is not None and (candidate.threshold or hasattr(own, "predict_proba")):
        raw = _outputs(own, data.X[part.test], data.classes)
        y, weight = data.codes[part.test], data.weight_of(part.test)
        before = Meter(y, raw.codes, None, raw.probability, len(data.classes), weight)
    # The fitted estimator stays behind: only numbers travel back from a worker.
    return Scored.of(
        part,
        told,
        data,
        seconds,
        best_params=fitted.best_params,
        notes=fitted.notes,
        learned=fitted.learned,
        before=before,
    )


def _calibrated(candidate: Candidate, scored: Sequence[Scored]) -> str | None:
    """Return how the probabilities of all parts were calibrated."""
    able = candidate.calibrate != "temperature" or all("temperature" in s.learned for s in scored)
    return candidate.calibrate if able else None


def _outputs(estimator: Any, X: Array, classes: Array) -> Outputs:
    """Return what a fit, which may have lacked classes, says of rows, in columns of them all."""
    known = np.searchsorted(classes, estimator.classes_)
    return outputs(estimator, X).among(known, len(classes))


def _unadjusted(candidate: Candidate, estimator: Any) -> Any:
    """Return the head inside one that is calibrated or has a threshold; None if it has neither."""
    if isinstance(estimator, AdjustedHead):
        return estimator.estimator
    if candidate.calibrate == "platt":
        return estimator.calibrated_classifiers_[0].estimator
    return None
