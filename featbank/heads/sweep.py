"""The sweep: every value of a head's grid scored on folds, the work that values share done once.

========== =========================================================================== =============
head       what is shared                                                              module
========== =========================================================================== =============
logreg     one matrix for all folds and values, ascending C from the last solution     linear
linear-svm the same, one class against the rest                                        linear
svm        one Gram matrix a fold for all values of C                                  kernel
ridge      Gram matrices of all folds from a few products, a factorisation an alpha    ridge
knn        the neighbours of the largest k, found once a fold
lda        one pooled covariance a fold, a factorisation a shrinkage
========== =========================================================================== =============

Any other estimator, grid or parameter goes through scikit-learn's `GridSearchCV`, and so it gets
the same answer. The problem that is solved is scikit-learn's in any case, each fold scaled by its
own rows; what is handed on are scores, and the chosen head is fitted by itself afterwards.

**Coarse to fine.** A grid of C with `COARSE` or more values is not tried in full by `logreg` and
`linear-svm`: first values about a decade apart, in ascending order, until two are worse than the
best by more than one standard error of the difference over folds, or three are no better; then the
gaps around the best are halved until its neighbours are known (as CLIP's linear probe does, Radford
et al. 2021, A.3). That finds the best value where the score has one peak; where it has several, it
may find a lower one. Values that were not tried have NaN for scores. Shorter grids are tried in
full, but for this: where a score can't be above 1, ascending values end at a perfect one. That
costs nothing, for a later one could at best be equal, and the first of equals is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.heads.choice import LAYER

__all__ = ["COARSE", "Sweep", "Task", "as_task", "grid_search", "sweep", "takes_views"]

Array = npt.NDArray[Any]
Fold = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]

COARSE = 10
"""Values of C from which on a grid is searched from coarse to fine."""


@dataclass(frozen=True)
class Sweep:
    """Scores of a grid.

    Attributes
    ----------
    params : list of dict
        One combination of values an entry, in the order of the grid.
    scores : ndarray of shape (n_params, n_folds), float64
        NaN where an entry was not tried.
    best : int
        The entry with the highest mean, the first of equal ones.
    """

    params: list[dict[str, Any]]
    scores: Array
    best: int

    @property
    def means(self) -> Array:
        """Their mean score over the folds, -inf where an entry was not tried."""
        whole: Array = np.where(np.isnan(self.scores), -np.inf, self.scores).mean(axis=1)
        return whole

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
    last : estimator
        The classifier, unfitted.
    key : str
        The parameter, without its prefix.
    values : list
    X : ndarray of shape (n, d)
    y, codes, classes : ndarray
    folds : sequence of (ndarray, ndarray)
    scaling, weights : ndarray of shape (n,), float64, or None
        Weights of rows for the scaler and for the last step.
    score : callable
        Takes `featbank.heads.scoring.Answers` and the rows that they are about.
    bounded : bool
        Whether no score is above 1.
    """

    scaler: Any
    last: Any
    key: str
    values: list[Any]
    X: Array
    y: Array
    codes: Array
    classes: Array
    folds: Sequence[Fold]
    scaling: Array | None
    weights: Array | None
    score: Callable[[Any, Array], float]
    bounded: bool


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
        Handed to `fit`; arrays with one entry a row are cut to the fold.

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
    task = as_task(estimator, values, X, y, folds, scoring, fit_params)
    if task is None:
        return grid_search(estimator, values, X, y, folds, scoring=scoring, **fit_params)
    from featbank.heads.paths import PATHS

    (key,) = values
    scores = PATHS[type(task.last).__name__](task)
    found = Sweep([{key: value} for value in task.values], scores, 0)
    return replace(found, best=int(found.means.argmax()))


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
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(
        estimator, values, scoring=scoring, cv=list(folds), refit=False, error_score="raise"
    ).fit(X, y, **fit_params)
    found = search.cv_results_
    scores = np.column_stack([found[f"split{i}_test_score"] for i in range(len(folds))])
    return Sweep(list(found["params"]), scores, int(search.best_index_))


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
    if len(values) != 1 or not isinstance(X, np.ndarray) or X.ndim != 2 or X.dtype.kind != "f":
        return None
    if takes_views(estimator):
        return None
    steps = getattr(estimator, "steps", None) or [("", estimator)]
    scalers, (name, last) = steps[:-1], steps[-1]
    (key,) = values
    step, _, parameter = key.rpartition("__")
    if len(scalers) > 1 or step != name or not _is_plain(last, parameter):
        return None
    scaler_name: str = scalers[0][0] if scalers else ""
    scaler: Any = scalers[0][1] if scalers else None
    if type(scaler).__name__ == "Normalizer":  # of a row alone: it learns nothing
        X, scaler = scaler.fit_transform(X), None
    elif scaler is not None and not _is_standard(scaler):
        return None
    kind = type(last).__name__
    if scaler is None and kind == "RidgeClassifier":
        return None
    if kind == "LinearDiscriminantAnalysis" and not all(v == "auto" or v for v in values[key]):
        return None  # without shrinkage a covariance may be singular
    known = [f"{part}__sample_weight" if part else "sample_weight" for part in (scaler_name, name)]
    if any(k not in known or v is None or len(v) != len(X) for k, v in fit_params.items()):
        return None
    if fit_params and kind not in ("LogisticRegression", "LinearSVC", "SVC"):
        return None
    weights = {k: np.asarray(v, dtype=np.float64) for k, v in fit_params.items()}
    if any(w.min() < 0 for w in weights.values()):
        return None  # what to say of such weights is scikit-learn's
    from featbank.heads.scoring import scorer

    y = np.asarray(y)
    classes, codes = np.unique(y, return_inverse=True)
    seen = np.all([np.ones(len(X)), *weights.values()], axis=0)
    if len(classes) < 2 or any(
        len(np.unique(codes[rows][seen[rows]])) < len(classes) for rows, _ in folds
    ):
        return None
    score, bounded = scorer(scoring, y)
    return Task(
        scaler=scaler,
        last=last,
        key=parameter,
        values=list(values[key]),
        X=X,
        y=y,
        codes=codes,
        classes=classes,
        folds=folds,
        scaling=weights.get(known[0]) if scaler is not None else None,
        weights=weights.get(known[1]),
        score=score,
        bounded=bounded,
    )


def takes_views(estimator: Any) -> bool:
    """Tell whether a head takes several views of an image: no plain pipeline, though it is one."""
    return type(estimator).__name__ == "ViewsHead"


_PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "LogisticRegression": ("C", {"solver": "lbfgs", "fit_intercept": True, "warm_start": False}),
    "LinearSVC": (
        "C",
        {"loss": "squared_hinge", "penalty": "l2", "fit_intercept": True, "intercept_scaling": 1},
    ),
    "SVC": ("C", {"decision_function_shape": "ovr", "break_ties": False}),
    "RidgeClassifier": ("alpha", {"fit_intercept": True, "positive": False, "class_weight": None}),
    "KNeighborsClassifier": ("n_neighbors", {"weights": "uniform"}),
    "LinearDiscriminantAnalysis": (
        "shrinkage",
        {"solver": "lsqr", "priors": None, "covariance_estimator": None},
    ),
}
"""The parameter that a path sweeps, and what others have to be for it to solve the same problem."""


def _is_plain(last: Any, parameter: str) -> bool:
    kind = type(last).__name__
    if kind not in _PLAIN or not type(last).__module__.startswith("sklearn."):
        return False
    wanted, fixed = _PLAIN[kind]
    has = last.get_params(deep=False)
    if parameter != wanted or any(has.get(name) != value for name, value in fixed.items()):
        return False
    if kind == "LogisticRegression" and has.get("l1_ratio") not in (0, 0.0, None):
        return False
    if kind == "LogisticRegression" and has.get("penalty") not in ("deprecated", "l2"):
        return False
    if kind == "SVC":
        from featbank.heads.kernel import suits

        return suits(last)
    return True


def _is_standard(scaler: Any) -> bool:
    return type(scaler).__name__ == "StandardScaler" and scaler.with_mean and scaler.with_std
