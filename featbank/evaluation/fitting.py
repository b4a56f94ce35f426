"""Fitting of one head on one training part: choose, calibrate, fit, and say what went wrong."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.backbones.device import likely_device
from featbank.errors import EvaluationError, FeatbankError, HeadError, nearest
from featbank.evaluation.adjustment import THRESHOLDS, can_adjust, fit_adjusted
from featbank.evaluation.plan import Fold
from featbank.heads.fits import fit_head
from featbank.heads.registry import defaults_for, full_name, grid, head_name, make_head
from featbank.heads.streaming import Blocks
from featbank.heads.sweep import sweep
from featbank.heads.weights import by_step, weigh_classes

__all__ = [
    "Candidate",
    "Fitted",
    "candidates",
    "check_scoring",
    "choose",
    "fit",
    "noted",
    "watched",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Candidate:
    """A head as it enters an evaluation.

    Attributes
    ----------
    name : str
        Unique among the heads of a call.
    estimator : estimator
        Unfitted, seeded.
    head : str or estimator
        As given; what the grid is looked up by.
    tune : bool
    fixed : frozenset of str
        Full names of parameters that the caller set, and that are not chosen.
    calibrate : {"platt", "temperature"} or None
    if_possible : bool
        Whether the head is fitted without calibration where that needs more images.
    scoring : str
        scikit-learn's name of what is maximised when choosing.
    threshold : str or None
        One of `featbank.evaluation.adjustment.THRESHOLDS`.
    device : str or None
        What scikit-learn fits it on, through torch tensors; None is NumPy.
    """

    name: str
    estimator: Any
    head: Any
    tune: bool
    fixed: frozenset[str]
    calibrate: str | None
    scoring: str
    threshold: str | None = None
    device: str | None = None
    if_possible: bool = False

    def grid(self, n_samples: int | None = None) -> dict[str, list[Any]]:
        """Return the values to choose from; empty where nothing is chosen."""
        if not self.tune:
            return {}
        found = grid(self.head, n_samples=n_samples)
        return {key: values for key, values in found.items() if key not in self.fixed}


@dataclass(frozen=True)
class Fitted:
    """A head fitted on one training part.

    Attributes
    ----------
    estimator : estimator
    best_params : dict
        What was chosen; empty where nothing was.
    seconds : float
    notes : tuple of str
    learned : dict of str to float
        See `featbank.heads.adjusted.AdjustedHead.learned`.
    """

    estimator: Any
    best_params: dict[str, Any]
    seconds: float
    notes: tuple[str, ...]
    learned: dict[str, float] = field(default_factory=dict)


def candidates(
    heads: Any,
    *,
    params: Mapping[str, Any] | None,
    tune: bool,
    class_weight: Any,
    calibrate: bool | str | None,
    scoring: str,
    seed: int,
    threshold: str | None = None,
    device: str | None = None,
) -> list[Candidate]:
    """Build one candidate for each head; `heads` is one or a list of names or estimators."""
    from sklearn.metrics import get_scorer_names

    device = None if device is None else likely_device(device)
    if scoring not in get_scorer_names():
        raise EvaluationError(
            f"scoring {scoring!r} is unknown: {nearest(str(scoring), get_scorer_names())}"
        )
    method = "platt" if calibrate is True else calibrate
    if method not in (None, False, "platt", "temperature"):
        raise EvaluationError(
            f"calibrate={calibrate!r} is unknown; give None, 'temperature', 'platt' (or True) or "
            "False."
        )
    if threshold is not None and threshold not in THRESHOLDS:
        raise EvaluationError(
            f"threshold {threshold!r} is unknown: {nearest(str(threshold), THRESHOLDS)}"
        )
    if threshold is not None and method == "platt":
        raise EvaluationError(
            "a threshold goes with calibrate='temperature', not with Platt's method, which moves "
            "the threshold itself; choose one of the two."
        )
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise EvaluationError(f"random_state is a whole number from 0 up, not {seed!r}.")
    several = list(heads) if isinstance(heads, Sequence) and not isinstance(heads, str) else [heads]
    if not several:
        raise EvaluationError("there is no head to be scored; name at least one.")
    if params is not None and not isinstance(params, Mapping):
        raise EvaluationError(f"params are a mapping of names to values, not {params!r}.")
    if params and len(several) > 1:
        raise EvaluationError(
            f"params (--set) belong to one head, and {len(several)} were given; score them one by "
            "one, or build each with make_head(name, ...) and pass the estimators."
        )
    chosen = dict(params or {})
    names = [head_name(head) for head in several]
    found, used = [], Counter[str]()
    for name, head in zip(names, several, strict=True):
        used[name] += 1
        estimator = make_head(head, random_state=seed, **chosen)
        weigh_classes(estimator, name, class_weight)
        own = full_name(estimator, "device")
        takes_word = device is not None and own in estimator.get_params()
        if takes_word:
            estimator.set_params(**{own: device})
        elsewhere = None if takes_word or device == "cpu" else device
        own_method = method or None
        if method is None and elsewhere is None and _has_margins_only(estimator):
            own_method = "temperature"
        found.append(
            Candidate(
                name=name if used[name] == 1 else f"{name} ({used[name]})",
                estimator=estimator,
                head=head,
                tune=tune,
                fixed=frozenset(full_name(estimator, key) for key in chosen),
                calibrate=own_method,
                scoring=scoring,
                threshold=threshold,
                device=elsewhere,
                if_possible=method is None,
            )
        )
    return found


def _has_margins_only(estimator: Any) -> bool:
    return hasattr(estimator, "decision_function") and not hasattr(estimator, "predict_proba")


def check_scoring(scoring: str, classes: Array, found: Sequence[Candidate]) -> None:
    """Find out before the work whether settings can be chosen by `scoring`.

    Raises
    ------
    EvaluationError
        It doesn't judge such classes.
    HeadError
        It judges probabilities, and a head has none.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.metrics import get_scorer

    if scoring == "accuracy" or not any(candidate.tune for candidate in found):
        return
    scorer: Any = get_scorer(scoring)
    y = np.repeat(classes, 2)
    X = np.zeros((len(y), 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scorer(DummyClassifier().fit(X, y), X, y)
        except (ValueError, TypeError) as error:
            raise EvaluationError(
                f"scoring {scoring!r} can't judge {len(classes)} classes such as "
                f"{str(classes[0])!r}; name another, such as balanced_accuracy, f1_macro, "
                "roc_auc_ovr or neg_log_loss."
            ) from error
    for candidate in found:
        judged = getattr(scorer, "_response_method", None)
        if judged == "predict_proba" and not hasattr(candidate.estimator, judged):
            raise HeadError(
                f"head {candidate.name!r} has no probabilities to be chosen by, which scoring "
                f"{scoring!r} judges; name another scoring, or another head."
            )


def fit(
    candidate: Candidate,
    X: Array | Blocks,
    y: Array,
    inner: tuple[Fold, ...],
    *,
    across: tuple[Fold, ...] = (),
    sample_weight: Array | None = None,
) -> Fitted:
    """Fit on these rows and nothing else.

    Hyper-parameters are chosen on the `inner` folds, as `featbank.heads.sweep` says; then the head
    is fitted on all rows. Calibration and a threshold are learned from predictions out of the inner
    folds; Platt's method, which wants one of every row, from those out of the folds `across`, where
    there are any.

    Raises
    ------
    HeadError
        The head refuses the data.
    """
    from sklearn.base import clone

    if isinstance(X, Blocks) or candidate.device is not None:
        from featbank.evaluation.elsewhere import fit_elsewhere

        if candidate.if_possible:
            candidate = replace(candidate, calibrate=None)
        return fit_elsewhere(candidate, X, y, inner, sample_weight)
    start = time.perf_counter()
    estimator = clone(candidate.estimator)
    best: dict[str, Any] = {}
    learned: dict[str, float] = {}
    if not _can_learn(estimator, y, inner):
        inner = ()
    least = min((len(rows) for rows, _ in inner), default=len(y))
    values = candidate.grid(n_samples=least)
    weights = {}
    if sample_weight is not None:
        weights = by_step(estimator, candidate.name, sample_weight)
    with watched(candidate.name, len(y)) as notes, _spread_or_none(estimator):
        if values and inner:
            best, said = _choose(candidate, estimator, values, X, y, inner, weights)
            estimator.set_params(**deepcopy(best))
            notes += said
        elif values:
            notes.append("a class is too small to choose parameters on; defaults were used.")
        if not best:
            few = defaults_for(candidate.head, y)
            estimator.set_params(**{k: v for k, v in few.items() if k not in candidate.fixed})
        notes += _with_few_neighbours(estimator, len(y), candidate.fixed)
        calibrate = candidate.calibrate
        if calibrate and candidate.if_possible and not can_adjust(y, inner):
            calibrate = None
            notes.append(
                "a class has too few images to calibrate probabilities on; scores are margins."
            )
        if calibrate == "temperature" or candidate.threshold:
            estimator = fit_adjusted(
                estimator,
                X,
                y,
                inner,
                temperature=calibrate == "temperature",
                threshold=candidate.threshold,
                sample_weight=sample_weight,
                **weights,
            )
            learned = estimator.learned
        else:
            if calibrate:
                estimator = _calibrated(estimator, across or inner, len(y))
            fit_head(estimator, X, y, **weights)
            _check_centroids(estimator)
    return Fitted(estimator, best, time.perf_counter() - start, tuple(notes), learned)


def choose(
    estimator: Any,
    values: dict[str, list[Any]],
    X: Array,
    y: Array,
    inner: tuple[Fold, ...],
    *,
    scoring: str | None = None,
    **fit_params: Any,
) -> dict[str, Any]:
    """Return the best of `values` on the inner folds."""
    return sweep(estimator, values, X, y, inner, scoring=scoring, **fit_params).best_params


def _choose(
    candidate: Candidate,
    estimator: Any,
    values: dict[str, list[Any]],
    X: Array,
    y: Array,
    inner: tuple[Fold, ...],
    weights: dict[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """Choose, and leave centroids as they are where an inner fold can't shrink them, with a note.

    How far to shrink goes by the spread within classes, and few images may have none in most
    features: centroids would be NaN.
    """
    words = {"scoring": candidate.scoring, **weights}
    shrinking = full_name(estimator, "shrink_threshold")
    try:
        return choose(estimator, values, X, y, inner, **words), []
    except ValueError as error:
        if "NaN" not in str(error) or None not in values.get(shrinking, ()):
            raise
    note = "most features don't vary within classes in so few images; centroids were not shrunk."
    return choose(estimator, {**values, shrinking: [None]}, X, y, inner, **words), [note]


def _spread_or_none(estimator: Any) -> contextlib.AbstractContextManager[Any]:
    """Let NumPy divide by the spread within classes, though it be 0, where a head has centroids."""
    if type(_last(estimator)).__name__ != "NearestCentroid":
        return contextlib.nullcontext()
    return np.errstate(divide="ignore", invalid="ignore")


def _last(estimator: Any) -> Any:
    steps = getattr(estimator, "steps", None)
    return steps[-1][1] if steps else estimator


def _check_centroids(estimator: Any) -> None:
    """Raise a ValueError where shrinking left centroids that are no numbers."""
    centroids = getattr(_last(estimator), "centroids_", None)
    if centroids is not None and np.isnan(centroids).any():
        raise ValueError(
            "most features don't vary within classes, so that its centroids can't be shrunk."
        )


def _with_few_neighbours(estimator: Any, n: int, fixed: frozenset[str]) -> list[str]:
    """Ask for no more neighbours than there are images, and return a note that says so."""
    name = full_name(estimator, "n_neighbors")
    asked = estimator.get_params().get(name)
    if not isinstance(asked, int) or asked <= n:
        return []
    if name in fixed:
        raise HeadError(f"n_neighbors is {asked}, and there are {n} images to learn from.")
    estimator.set_params(**{name: n})
    return ["there are fewer images than neighbours asked for; all of them were asked."]


def _can_learn(estimator: Any, y: Array, inner: tuple[Fold, ...]) -> bool:
    """Tell whether inner folds have more images than classes, for heads of the spread in these."""
    if type(_last(estimator)).__name__ not in ("NearestCentroid", "LinearDiscriminantAnalysis"):
        return True
    return all(len(rows) > len(np.unique(y[rows])) for rows, _ in inner)


def _calibrated(estimator: Any, folds: tuple[Fold, ...], n: int) -> Any:
    from sklearn.calibration import CalibratedClassifierCV

    if sum(len(rows) for _, rows in folds) < n:
        raise HeadError("a class has too few images to calibrate probabilities on; leave it out.")
    return CalibratedClassifierCV(estimator, cv=list(folds), ensemble=False)


@contextlib.contextmanager
def watched(name: str, n: int, where: str = "") -> Iterator[list[str]]:
    """Gather notes about a fit of a head on `n` images, to which its warnings are added.

    Raises
    ------
    HeadError
        In the place of what the head raises.
    """
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield notes
        except FeatbankError:
            raise
        except (ValueError, TypeError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise HeadError(
                f"head {name!r} could not be fitted {where}on {n} images: {reason}"
            ) from error
    notes += noted(caught)


def noted(caught: list[warnings.WarningMessage]) -> list[str]:
    """Turn Python warnings into one line for each kind."""
    from sklearn.exceptions import ConvergenceWarning

    stopped = sum(issubclass(w.category, ConvergenceWarning) for w in caught)
    notes = []
    if stopped:
        notes.append(f"{stopped} fits stopped at their limit of iterations before converging.")
    others = (
        str(w.message).strip().splitlines()[0]
        for w in caught
        if not issubclass(w.category, ConvergenceWarning)
    )
    # NearestCentroid says so of every feature that is constant within classes, and LDA's shrinkage
    # of a class with one image; both cope.
    told = (
        line
        for line in others
        if "within_class_std_dev_" not in line and "Only one sample available" not in line
    )
    return notes + list(dict.fromkeys(told))
