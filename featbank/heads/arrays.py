"""Heads on a GPU: scikit-learn's own estimators fitted on torch tensors, through its array API."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import HeadError
from featbank.heads.registry import head_name

__all__ = ["choose_on", "fit_on", "takes_tensors"]

Array = npt.NDArray[Any]
Fold = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]

_VARIABLE = "SCIPY_ARRAY_API"


def takes_tensors(estimator: Any) -> bool:
    """Tell whether scikit-learn fits all steps of an estimator on tensors.

    These are `LogisticRegression`, `RidgeClassifier` and `LinearDiscriminantAnalysis` with
    ``solver="svd"``, after `StandardScaler` and `PCA`.

    Examples
    --------
    >>> from featbank.heads import make_head
    >>> takes_tensors(make_head("logreg")), takes_tensors(make_head("svm"))
    (True, False)
    """
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.preprocessing import StandardScaler

    *before, last = [step for _, step in getattr(estimator, "steps", [("", estimator)])]
    if not all(type(step) in (StandardScaler, PCA) for step in before):
        return False
    if type(last) is LinearDiscriminantAnalysis:
        return bool(last.solver == "svd")
    return type(last) in (LogisticRegression, RidgeClassifier)


def fit_on(device: str, estimator: Any, X: Array, y: Array, **fit_params: Any) -> Any:
    """Fit an estimator on tensors of a device, and bring back what it learned.

    Parameters
    ----------
    device : str
        Of torch: ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"cpu"``.
    estimator : estimator
        `takes_tensors` says yes to it. It is not changed.
    X : ndarray of shape (n, d)
    y : ndarray of shape (n,)
    **fit_params
        Handed to `fit`.

    Returns
    -------
    estimator
        A fitted copy that holds NumPy arrays alone.

    Raises
    ------
    HeadError
        scikit-learn can't fit this estimator so, or its array API is not switched on.
    """
    from sklearn import config_context
    from sklearn.base import clone

    _check(device, estimator)
    import torch

    estimator = clone(estimator)
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    solver = getattr(last, "solver", None)
    if type(last).__name__ == "RidgeClassifier":
        last.set_params(solver="svd")  # the one that runs on tensors; all find the same solution
    classes, codes = np.unique(y, return_inverse=True)
    # Discriminant analysis wants tensors; the others take labels as they are.
    target = torch.asarray(codes, device=device) if hasattr(last, "priors") else y
    with config_context(array_api_dispatch=True):
        estimator.fit(torch.asarray(X, device=device), target, **fit_params)
    _bring_back(estimator)
    if hasattr(last, "priors"):
        last.classes_ = classes
    elif solver is not None:
        last.set_params(solver=solver)
    return estimator


def choose_on(
    device: str,
    estimator: Any,
    values: dict[str, list[Any]],
    X: Array,
    y: Array,
    folds: Sequence[Fold],
    *,
    scoring: Any = None,
    **fit_params: Any,
) -> dict[str, Any]:
    """Return the best of `values` on the folds, as `best_of` chooses, fitting as `fit_on` does.

    `fit_params` have one entry a row.
    """
    from sklearn.base import clone
    from sklearn.metrics import check_scoring
    from sklearn.model_selection import ParameterGrid

    from featbank.heads.scoring import held_out_loss
    from featbank.heads.sweep import best_of

    scorer = check_scoring(estimator, scoring=scoring)
    grid = list(ParameterGrid(values))
    scores, losses = np.zeros(len(grid)), np.zeros(len(grid))
    for learned, scored in folds:
        own = {name: np.asarray(value)[learned] for name, value in fit_params.items()}
        for i, params in enumerate(grid):
            fitted = clone(estimator).set_params(**params)
            fitted = fit_on(device, fitted, X[learned], y[learned], **own)
            scores[i] += scorer(fitted, X[scored], y[scored])
            losses[i] += held_out_loss(fitted, X[scored], y[scored])
    return dict(grid[best_of(grid, scores / len(folds), losses / len(folds))])


def _check(device: str, estimator: Any) -> None:
    if not takes_tensors(estimator):
        raise HeadError(
            f"head {head_name(estimator)} can't be fitted on {device}; use logreg, ridge, mlp, or "
            "lda with solver svd and no shrinkage there, or leave the device out."
        )
    if os.environ.get(_VARIABLE, "").lower() not in ("1", "true"):
        raise HeadError(
            f"fitting on {device} needs scikit-learn's array API; set {_VARIABLE}=1 before Python "
            "is started."
        )


def _bring_back(part: Any) -> None:
    """Turn tensors into arrays, in an estimator and in those that it holds."""
    for name, value in vars(part).items():
        if hasattr(value, "detach"):
            setattr(part, name, value.detach().cpu().numpy())
        elif hasattr(value, "get_params") and not isinstance(value, type):
            _bring_back(value)
        elif name == "steps":
            for _, step in value:
                _bring_back(step)
