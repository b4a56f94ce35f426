"""Scoring of answers that no estimator stands behind, by scikit-learn's names of metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer
from sklearn.utils.metaestimators import available_if

__all__ = ["Answers", "OverViews", "held_out_loss", "judge", "loss_like", "scorer"]

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


@dataclass(frozen=True)
class OverViews:
    """A metric of images, of whose views there are answers one behind the other.

    Attributes
    ----------
    scoring : str, callable or None
        As in scikit-learn; None is accuracy.
    views : int
    """

    scoring: Any
    views: int

    def averaged(self, answers: Answers) -> Answers:
        """Return one answer an image, from the mean of its views.

        That is of probabilities, else of decisions, else of votes.
        """
        classes = answers.classes_
        if answers.probability is not None:
            mean = mean_of_views(answers.probability(), self.views)
            return Answers(classes, mean.argmax(axis=1), None, lambda: mean)
        if answers.decision is not None and answers.decision.shape[1:] in ((), (len(classes),)):
            return Answers.by(classes, mean_of_views(answers.decision, self.views))
        votes = np.eye(len(classes))[answers.codes]
        return Answers(classes, mean_of_views(votes, self.views).argmax(axis=1), None)

    def __call__(self, estimator: Any, X: Array, y: Array) -> float:
        """Score an estimator as scikit-learn's search does."""
        probability = None
        if hasattr(estimator, "predict_proba"):
            found = estimator.predict_proba(X)
            probability = lambda: found  # noqa: E731
        decision = None
        if probability is None and hasattr(estimator, "decision_function"):
            decision = estimator.decision_function(X)
        classes = estimator.classes_
        codes = np.searchsorted(classes, estimator.predict(X))
        answers = self.averaged(Answers(classes, codes, decision, probability))
        own = scorer(self.scoring, y[:: self.views])
        return own(answers, np.arange(len(y) // self.views))


def mean_of_views(values: Array, views: int) -> Array:
    """Return the mean over each `views` rows, shape (n / views, ...)."""
    mean: Array = values.reshape(-1, views, *values.shape[1:]).mean(axis=1)
    return mean


def scorer(scoring: Any, y: Array) -> Callable[[Answers, Array], float]:
    """Return the score of answers about some of the rows.

    Parameters
    ----------
    scoring : str, callable or None
        As in scikit-learn; None is accuracy.
    y : ndarray of shape (n,)
        Labels of all rows.
    """
    if isinstance(scoring, OverViews):
        own = scorer(scoring.scoring, y)
        views = scoring.views
        return lambda answers, rows: own(scoring.averaged(answers), rows[::views])
    if scoring is None or scoring == "accuracy":
        return lambda answers, rows: float(np.mean(answers.predict(None) == y[rows]))
    score = get_scorer(scoring) if isinstance(scoring, str) else scoring
    return lambda answers, rows: float(score(answers, np.zeros((len(rows), 1)), y[rows]))


def held_out_loss(estimator: Any, X: Array, y: Array) -> float:
    """Return the log loss of an estimator's probabilities, a scorer; NaN where it has none.

    A probability below float32's precision, or that is no number, counts as that precision.
    """
    if not hasattr(estimator, "predict_proba"):
        return np.nan
    probability = np.nan_to_num(estimator.predict_proba(X))
    own = np.zeros(len(y))
    if probability.shape == (len(y), len(estimator.classes_)):
        own = (probability * (np.asarray(y)[:, None] == estimator.classes_)).sum(axis=1)
    return float(-np.log(np.maximum(own, np.finfo(np.float32).eps)).mean())


def loss_like(scoring: Any) -> Callable[[Any, Array, Array], float]:
    """Return `held_out_loss`, of images where `scoring` is of images."""
    if isinstance(scoring, OverViews):
        return OverViews(held_out_loss, scoring.views)
    return held_out_loss


def judge(scoring: Any, y: Array) -> Callable[[Answers, Array], tuple[float, float]]:
    """Return a function to the score and the log loss of answers about some of the rows."""
    score, loss = scorer(scoring, y), scorer(loss_like(scoring), y)
    return lambda answers, rows: (score(answers, rows), loss(answers, rows))
