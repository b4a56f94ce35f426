"""The sweep: a grid of settings scored on folds, the work that settings share done once.

========== =========================================================================== =============
head       what is shared                                                              module
========== =========================================================================== =============
logreg     one matrix for all folds and values, ascending C from the last solution     linear
linear-svm the same, one class against the rest                                        linear
svm        one matrix of distances a fold for all values of gamma and C                kernel
ridge      Gram matrices of all folds from a few products, a factorisation an alpha    ridge
knn        the neighbours of the largest k, found once a fold
lda        one pooled covariance a fold, a factorisation a shrinkage
========== =========================================================================== =============

These are the parameters that a path sweeps by itself. A grid may name others too, such as the step
that scales: each combination of these is set on the head, and swept by its path. A combination that
no path knows goes through scikit-learn's `GridSearchCV`, and so it gets the same answer. The
problem that is solved is scikit-learn's in any case, each fold scaled by its own rows. The results
are scores; `featbank.heads.fits` fits the chosen head to the same tolerance, in the same precision.

**The choice** (`best_of`, the one rule for all paths). The highest mean score over folds wins.
Settings that tie go to the lowest log loss of the held-out probabilities, where the head has
probabilities: on a few images most settings score alike, and the strongest regularisation among
them would leave probabilities that say nothing. Settings that still tie, and all ties of a head
without probabilities, go to the middle of the plateau: the setting with the least total distance to
the others, in steps of the grid. It is the furthest from where the score falls on either side.

**Coarse to fine.** A grid of C with `COARSE` or more values is not tried in full by `logreg` and
`linear-svm`: first values about a decade apart, in ascending order, until two are worse than the
best by more than one standard error of the difference over folds, or three are no better in score
or log loss; then the gaps around the best are halved until its neighbours are known (as CLIP's
linear probe does, Radford et al. 2021, A.3). That finds the best value where the score has one
peak; where it has several, it may find a lower one. Values that were not tried have NaN for scores.
Shorter grids are tried in full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.heads.choice import LAYER

__all__ = [
    "COARSE",
    "Sweep",
    "Task",
    "as_task",
    "best_of",
    "grid_search",
    "sweep",
    "takes_views",
]

Array = npt.NDArray[Any]
Fold = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]

COARSE = 10
"""Values of C from which on a grid is searched from coarse to fine."""


_TIE = 1e-9
"""Means and losses nearer than this are equal: sums of the same terms in another order differ."""


@dataclass(frozen=True)
class Sweep:
    """Scores of a grid.

    Attributes
    ----------
    params : list of dict
        One combination of values an entry, in the order of the grid.
    scores, losses : ndarray of shape (n_params, n_folds), float64
        Score and log loss of the held-out rows; NaN where an entry was not tried, and for losses
        where the head has no probabilities.
    """

    params: list[dict[str, Any]]
    scores: Array
    losses: Array

    @property
    def means(self) -> Array:
        """Their mean score over the folds, -inf where an entry was not tried."""
        whole: Array = np.where(np.isnan(self.scores), -np.inf, self.scores).mean(axis=1)
        return whole

    @cached_property
    def best(self) -> int:
        """The entry that `best_of` chooses."""
        return best_of(self.params, self.means, self.losses.mean(axis=1))

    @property
    def best_params(self) -> dict[str, Any]:
        """The parameters that scored best."""
        return self.params[self.best]

    @property
    def best_score(self) -> float:
        """Their mean score over the folds."""
        return float(self.means[self.best])


@dataclass(frozen=True)
class Task:
    """A sweep that a path of ours can do.

    Attributes
    ----------
    scaler : StandardScaler or None
        Unfitted; None where there is no scaling, or none that learns.
    normalizer : Normalizer or None
        What scales rows after that.
    last : estimator
        The classifier, unfitted.
    grid : dict of str to list
        Values of each parameter that the path sweeps, without prefixes.
    X : ndarray of shape (n, d)
    y, codes, classes : ndarray
    folds : sequence of (ndarray, ndarray)
    scaling, weights : ndarray of shape (n,), float64, or None
        Weights of rows for the scaler and for the last step.
    judge : callable
        Takes `featbank.heads.scoring.Answers` and the rows that they are about; returns their score
        and log loss.
    """

    scaler: Any
    normalizer: Any
    last: Any
    grid: dict[str, list[Any]]
    X: Array
    y: Array
    codes: Array
    classes: Array
    folds: Sequence[Fold]
    scaling: Array | None
    weights: Array | None
    judge: Callable[[Any, Array], tuple[float, float]]

    @property
    def values(self) -> list[Any]:
        """The values of a path that sweeps one parameter."""
        (values,) = self.grid.values()
        return values


def best_of(params: Sequence[dict[str, Any]], means: Array, losses: Array) -> int:
    """Return which setting to take: the rule is in the docstring of this module.

    Parameters
    ----------
    params : sequence of dict
    means, losses : ndarray of shape (n_params,)
        Mean score, the higher the better, and mean log loss; losses that are not known are NaN.
    """
    tied = np.flatnonzero(means >= means.max() - _TIE)
    if not np.isnan(losses[tied]).any():
        tied = tied[losses[tied] <= losses[tied].min() + _TIE]
    steps = np.zeros((len(tied), len(tied)))
    for key in params[0]:
        place = _places([one[key] for one in params])[tied]
        steps += np.abs(place[:, None] - place)
    return int(tied[steps.sum(axis=1).argmin()])


def _places(values: list[Any]) -> Array:
    """Return each value's place among all: numbers in ascending order, others as they come."""
    kinds = list(dict.fromkeys(values))
    if all(isinstance(kind, int | float) for kind in kinds):
        kinds.sort()
    return np.array([kinds.index(value) for value in values])


def sweep(
    estimator: Any,
    values: dict[str, list[Any]],
    X: Array,
    y: Array,
    folds: Sequence[Fold],
    *,
    scoring: Any = None,
    **fit_params: Any,
) -> Sweep:
    """Score every combination of `values` on `folds`.

    Parameters
    ----------
    estimator : estimator
        Unfitted.
    values : dict of str to list
    X : ndarray of shape (n, d)
    y : ndarray of shape (n,)
    folds : sequence of (ndarray, ndarray)
        Rows to fit on and rows to score.
    scoring : str, callable or None
        As in scikit-learn; None is the estimator's own score.
    **fit_params
        Handed to `fit`; arrays with one entry a row are cut to the fold. A step that `values` puts
        in has the weights of the last step.

    Returns
    -------
    Sweep

    Raises
    ------
    HeadError
        The Gram matrices of an SVM would not fit in memory.
    """
    if takes_views(estimator):
        from featbank.heads.views import sweep_views

        return sweep_views(estimator, values, X, y, folds, scoring=scoring, **fit_params)
    if LAYER in values:
        from featbank.heads.columns import sweep_blocks

        return sweep_blocks(estimator, values, X, y, folds, scoring=scoring, **fit_params)
    from sklearn.base import clone
    from sklearn.model_selection import ParameterGrid

    values = {key: list(choices) for key, choices in values.items()}
    swept = _swept(estimator)
    own = {key: choices for key, choices in values.items() if key in swept}
    around = {key: choices for key, choices in values.items() if key not in swept}
    if not around:
        return _sweep(estimator, own, X, y, folds, scoring, fit_params)
    params = list(ParameterGrid(values))
    scores, losses = (np.full((len(params), len(folds)), np.nan) for _ in range(2))
    for combination in ParameterGrid(around):
        one = clone(estimator).set_params(**combination)
        weights = _weights_of(one, fit_params)
        found = _sweep(one, own, X, y, folds, scoring, weights)
        rows = [i for i, p in enumerate(params) if all(p[k] is v for k, v in combination.items())]
        scores[rows], losses[rows] = found.scores, found.losses
    return Sweep(params, scores, losses)


def _swept(estimator: Any) -> list[str]:
    """Return the full names of the parameters that a head's path sweeps."""
    name, last = (getattr(estimator, "steps", None) or [("", estimator)])[-1]
    wanted, _ = _PLAIN.get(type(last).__name__, ((), {}))
    return [f"{name}__{key}" if name else key for key in wanted]


def _weights_of(estimator: Any, fit_params: dict[str, Any]) -> dict[str, Any]:
    """Return fit parameters for the steps that an estimator has now."""
    steps = getattr(estimator, "steps", None) or [("", estimator)]
    weights = fit_params.get(f"{steps[-1][0]}__sample_weight")
    if weights is None:
        return fit_params
    return {f"{name}__sample_weight": weights for name, step in steps if _takes_weights(step)}


def _takes_weights(step: Any) -> bool:
    from sklearn.utils.validation import has_fit_parameter

    return has_fit_parameter(step, "sample_weight")


def _sweep(
    estimator: Any,
    values: dict[str, list[Any]],
    X: Array,
    y: Array,
    folds: Sequence[Fold],
    scoring: Any,
    fit_params: dict[str, Any],
) -> Sweep:
    """Sweep parameters that a path knows, by this path where it suits."""
    from sklearn.model_selection import ParameterGrid

    task = as_task(estimator, values, X, y, folds, scoring, fit_params)
    if task is None:
        return grid_search(estimator, values, X, y, folds, scoring=scoring, **fit_params)
    from featbank.heads.paths import PATHS

    found = PATHS[type(task.last).__name__](task)
    return Sweep(list(ParameterGrid(values)), found[..., 0], found[..., 1])


def grid_search(
    estimator: Any,
    values: dict[str, list[Any]],
    X: Array,
    y: Array,
    folds: Sequence[Fold],
    *,
    scoring: Any = None,
    **fit_params: Any,
) -> Sweep:
    """Do what `sweep` does by scikit-learn's `GridSearchCV`, whatever the estimator."""
    from sklearn.metrics import check_scoring
    from sklearn.model_selection import GridSearchCV

    from featbank.heads.scoring import loss_like

    judges = {"score": check_scoring(estimator, scoring)}
    if hasattr(estimator, "predict_proba"):
        judges["loss"] = loss_like(scoring)
    search = GridSearchCV(
        estimator, values, scoring=judges, cv=list(folds), refit=False, error_score="raise"
    )
    found = search.fit(X, y, **fit_params).cv_results_
    unknown = np.full(len(found["params"]), np.nan)
    scores, losses = (
        np.column_stack([found.get(f"split{i}_test_{w}", unknown) for i in range(len(folds))])
        for w in ("score", "loss")
    )
    return Sweep(list(found["params"]), scores, losses)


def as_task(
    estimator: Any,
    values: dict[str, list[Any]],
    X: Any,
    y: Any,
    folds: Sequence[Fold],
    scoring: Any,
    fit_params: dict[str, Any],
) -> Task | None:
    """Return the sweep as a task, or None where it isn't one for the paths of this module."""
    if not isinstance(X, np.ndarray) or X.ndim != 2 or X.dtype.kind != "f":
        return None
    if takes_views(estimator):
        return None
    steps = getattr(estimator, "steps", None) or [("", estimator)]
    scalers, (name, last) = steps[:-1], steps[-1]
    scalers = [(word, step) for word, step in scalers if not _is_idle(step)]
    if not set(values) <= set(_swept(estimator)):
        return None
    kind = type(last).__name__
    if kind not in _PLAIN:
        return None
    grid = {
        key: list(values.get(f"{name}__{key}" if name else key, [getattr(last, key)]))
        for key in _PLAIN[kind][0]
    }
    if not _is_plain(last, grid):
        return None
    scaler, normalizer = None, None
    if scalers and type(scalers[-1][1]).__name__ == "Normalizer":
        normalizer = scalers.pop()[1]
    if scalers:
        scaler = scalers.pop()[1]
        if scalers or not _is_standard(scaler) or (normalizer is not None and kind in _LINEAR):
            return None
    elif normalizer is not None:  # of a row alone: no fold has another
        X, normalizer = normalizer.fit_transform(X), None
    if scaler is None and kind == "RidgeClassifier":
        return None
    own = f"{name}__sample_weight" if name else "sample_weight"
    known = [own, *(f"{word}__sample_weight" for word, step in steps if _takes_weights(step))]
    if any(k not in known or v is None or len(v) != len(X) for k, v in fit_params.items()):
        return None
    if fit_params and kind not in ("LogisticRegression", "LinearSVC", "SVC"):
        return None
    weights = {k: np.asarray(v, dtype=np.float64) for k, v in fit_params.items()}
    if any(w.min() < 0 for w in weights.values()):
        return None  # what to say of such weights is scikit-learn's
    from featbank.heads.scoring import judge

    y = np.asarray(y)
    classes, codes = np.unique(y, return_inverse=True)
    seen = np.all([np.ones(len(X)), *weights.values()], axis=0)
    if len(classes) < 2 or any(
        len(np.unique(codes[rows][seen[rows]])) < len(classes) for rows, _ in folds
    ):
        return None
    return Task(
        scaler=scaler,
        normalizer=normalizer,
        last=last,
        grid=grid,
        X=X,
        y=y,
        codes=codes,
        classes=classes,
        folds=folds,
        scaling=next((weights.get(f"{w}__sample_weight") for w, s in steps if s is scaler), None),
        weights=weights.get(own),
        judge=judge(scoring, y),
    )


def takes_views(estimator: Any) -> bool:
    """Tell whether a head takes several views of an image: no plain pipeline, though it is one."""
    return type(estimator).__name__ == "ViewsHead"


_PLAIN: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "LogisticRegression": (("C",), {"solver": "lbfgs", "fit_intercept": True, "warm_start": False}),
    "LinearSVC": (
        ("C",),
        {"loss": "squared_hinge", "penalty": "l2", "fit_intercept": True, "intercept_scaling": 1},
    ),
    "SVC": (("C", "gamma"), {"decision_function_shape": "ovr", "break_ties": False}),
    "RidgeClassifier": (
        ("alpha",),
        {"fit_intercept": True, "positive": False, "class_weight": None},
    ),
    "KNeighborsClassifier": (("n_neighbors",), {"weights": "uniform"}),
    "LinearDiscriminantAnalysis": (
        ("shrinkage",),
        {"solver": "lsqr", "priors": None, "covariance_estimator": None},
    ),
}
"""The parameters that a path sweeps, and what others have to be for it to solve the same problem.

Parameters are in the order of `sklearn.model_selection.ParameterGrid`: sorted by name.
"""


_LINEAR = ("LogisticRegression", "LinearSVC", "RidgeClassifier")
"""Paths that share one matrix of features between folds, which each fold may standardise."""


def _is_plain(last: Any, grid: dict[str, list[Any]]) -> bool:
    kind = type(last).__name__
    if not type(last).__module__.startswith("sklearn."):
        return False
    has = last.get_params(deep=False)
    if any(has.get(name) != value for name, value in _PLAIN[kind][1].items()):
        return False
    if kind == "LogisticRegression" and has.get("l1_ratio") not in (0, 0.0, None):
        return False
    if kind == "LogisticRegression" and has.get("penalty") not in ("deprecated", "l2"):
        return False
    if kind == "LinearDiscriminantAnalysis":  # without shrinkage a covariance may be singular
        return all(v == "auto" or v for v in grid["shrinkage"])
    if kind == "SVC":
        from featbank.heads.kernel import suits

        return suits(last, grid["gamma"])
    return True


def _is_idle(scaler: Any) -> bool:
    return type(scaler).__name__ == "StandardScaler" and not (scaler.with_mean or scaler.with_std)


def _is_standard(scaler: Any) -> bool:
    return type(scaler).__name__ == "StandardScaler" and scaler.with_mean and scaler.with_std
