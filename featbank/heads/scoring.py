"""Scoring of answers that no estimator stands behind, by scikit-learn's names of metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer
from sklearn.utils.metaestimators import available_if

__all__ = ["Answers", "scorer"]

Array = npt.NDArray[Any]


class Answers(ClassifierMixin, BaseEstimator):
    """A classifier that has said all it will about some rows: scorers ask it and get that.

    Parameters
    ----------
    classes : ndarray of shape (k,)
    codes : ndarray of shape (m,)
        Positions in `classes`.
    decision : ndarray of shape (m,) for two classes, else (m, k), or None
    probability : callable, optional
        Returns probabilities, (m, k); left out where the head has none.
    """

    def __init__(
        self,
        classes: Array,
        codes: Array,
        decision: Array | None,
        probability: Callable[[], Array] | None = None,
    ) -> None:
        self.classes_ = classes
        self.codes = codes
        self.decision = decision
        self.probability = probability

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: Any) -> Array:
        """Return the classes."""
        found: Array = self.classes_[self.codes]
        return found

    # Scorers look whether a method is there, and refuse a head that lacks it.

    @available_if(lambda self: self.decision is not None)  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Array | None:
        """Return the decision."""
        return self.decision

    @available_if(lambda self: self.probability is not None)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities."""
        assert self.probability is not None
        return self.probability()

    @classmethod
    def by(
        cls, classes: Array, decision: Array, probability: Callable[[Array], Array] | None = None
    ) -> Answers:
        """Answer with the class of the highest decision."""
        codes = decision.argmax(axis=1) if decision.ndim == 2 else (decision > 0).astype(np.intp)
        return cls(classes, codes, decision, probability and (lambda: probability(decision)))


def scorer(scoring: Any, y: Array) -> tuple[Callable[[Answers, Array], float], bool]:
    """Return the score of answers about some of the rows, and whether it can't be above 1.

    Parameters
    ----------
    scoring : str, callable or None
        As in scikit-learn; None is accuracy.
    y : ndarray of shape (n,)
        Labels of all rows.
    """
    if scoring is None or scoring == "accuracy":
        return lambda answers, rows: float(np.mean(answers.predict(None) == y[rows])), True
    score = get_scorer(scoring) if isinstance(scoring, str) else scoring

    def of(answers: Answers, rows: Array) -> float:
        return float(score(answers, np.zeros((len(rows), 1)), y[rows]))

    return of, isinstance(scoring, str) and not scoring.startswith(("neg_", "d2_"))
