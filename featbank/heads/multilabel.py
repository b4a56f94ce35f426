"""`OneVsRestHead`: several labels a row, each told from the rest by a head of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from featbank.heads.fits import fit_head

__all__ = ["OneVsRestHead", "one_vs_rest"]

Array = npt.NDArray[Any]


def _has(method: str) -> Any:
    def tells(self: OneVsRestHead) -> bool:
        fitted = getattr(self, "estimators_", None)
        return hasattr(fitted[0] if fitted else self.estimator, method)

    return tells


class OneVsRestHead(ClassifierMixin, BaseEstimator):
    """One binary classifier for each label.

    It is scikit-learn's `OneVsRestClassifier` on an indicator matrix, with the labels' names, and
    weights of samples.

    Parameters
    ----------
    estimator : estimator
        A classifier of two classes, cloned for each label.
    classes : sequence of str, optional
        Names of the labels, in the order of the columns; by default their numbers.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    estimators_ : list of estimator
        Fitted on 0 and 1, one a label.
    n_features_in_ : int

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, Y = np.array([[0.0], [1.0], [2.0]]), np.array([[1, 0], [1, 1], [0, 1]])
    >>> OneVsRestHead(LogisticRegression(C=1e3)).fit(X, Y).predict(X).astype(int).tolist()
    [[1, 0], [1, 1], [0, 1]]
    """

    multilabel = True

    def __init__(self, estimator: Any, *, classes: Sequence[str] | None = None) -> None:
        self.estimator = estimator
        self.classes = classes

    def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> OneVsRestHead:
        """Fit on features of shape (n, d) and an indicator matrix of shape (n, K).

        Raises
        ------
        ValueError
            `y` is of another shape, or all rows have a label or none has it.
        """
        y = np.asarray(y)
        if y.ndim != 2 or len(y) != len(X):
            raise ValueError(f"y is an indicator matrix of {len(X)} rows, not of shape {y.shape}.")
        names = np.arange(y.shape[1]) if self.classes is None else np.array(self.classes)
        weights = {}
        if sample_weight is not None and has_fit_parameter(self.estimator, "sample_weight"):
            weights["sample_weight"] = sample_weight
        fitted = []
        for name, column in zip(names, y.T, strict=True):
            codes = column.astype(np.int64)
            if codes.min() == codes.max():
                raise ValueError(
                    f"label {str(name)!r} is on {'all' if codes[0] else 'none'} of the "
                    f"{len(codes)} rows, so that nothing can be learned of it"
                )
            fitted.append(fit_head(clone(self.estimator), X, codes, **weights))
        self.classes_ = names
        self.estimators_ = fitted
        self.n_features_in_ = int(X.shape[1])
        return self

    @available_if(_has("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Array) -> Array:
        """Return the score of each label, shape (n, K), above 0 where it is predicted."""
        check_is_fitted(self)
        return np.column_stack([one.decision_function(X) for one in self.estimators_])

    @available_if(_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Array) -> Array:
        """Return the probability of each label, shape (n, K); a row's do not sum to 1."""
        check_is_fitted(self)
        return np.column_stack([one.predict_proba(X)[:, 1] for one in self.estimators_])

    def predict(self, X: Array) -> Array:
        """Return the labels as an indicator matrix of shape (n, K), bool."""
        check_is_fitted(self)
        if hasattr(self, "decision_function"):
            told: Array = self.decision_function(X) > 0
        elif hasattr(self, "predict_proba"):
            told = self.predict_proba(X) > 0.5
        else:
            told = np.column_stack([one.predict(X) == 1 for one in self.estimators_])
        return told


def one_vs_rest(head: Any, classes: Sequence[str]) -> Any:
    """Return an unfitted head for several labels a row, its steps before the last one shared.

    Steps that learn nothing of `y`, as scaling does, are the same for every label.
    """
    from sklearn.pipeline import Pipeline

    steps = getattr(head, "steps", None)
    if not steps:
        return OneVsRestHead(clone(head), classes=list(classes))
    *before, (name, last) = ((name, clone(step)) for name, step in steps)
    return Pipeline([*before, (name, OneVsRestHead(last, classes=list(classes)))])
