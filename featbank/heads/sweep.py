"""The sweep: every value of a head's grid scored on folds, the work that values share done once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Sweep", "sweep"]

Array = npt.NDArray[Any]
Fold = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


@dataclass(frozen=True)
class Sweep:
    """Scores of a grid.

    Attributes
    ----------
    params : list of dict
        One combination of values an entry, in the order of the grid.
    scores : ndarray of shape (n_params, n_folds), float64
        NaN where an entry was given up before this fold.
    best : int
        The entry with the highest mean, the first of equal ones.
    """

    params: list[dict[str, Any]]
    scores: Array
    best: int

    @property
    def best_params(self) -> dict[str, Any]:
        """The parameters that scored best."""
        return self.params[self.best]

    @property
    def best_score(self) -> float:
        """Their mean score over the folds."""
        return float(self.scores[self.best].mean())


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
    """
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(
        estimator, values, scoring=scoring, cv=list(folds), refit=False, error_score="raise"
    ).fit(X, y, **fit_params)
    found = search.cv_results_
    scores = np.column_stack([found[f"split{i}_test_score"] for i in range(len(folds))])
    return Sweep(list(found["params"]), scores, int(search.best_index_))
