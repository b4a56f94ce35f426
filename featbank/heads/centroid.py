"""The nearest class mean, with scores that agree with its predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import neighbors
from sklearn.metrics import euclidean_distances
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from featbank.heads.plain import softmax

__all__ = ["NearestCentroid"]

Array = npt.NDArray[Any]


def _is_euclidean(head: NearestCentroid) -> bool:
    return bool(head.metric == "euclidean")


class NearestCentroid(neighbors.NearestCentroid):
    """scikit-learn's `NearestCentroid`, whose scores are the distances that it predicts by.

    scikit-learn's own predicts by the distance to the centroids, but divides each column by its
    spread within classes for `decision_function`, so that the highest score may be of another class
    than the predicted one.

    Examples
    --------
    >>> X = np.array([[0.0, 0.0], [2.0, 2.0], [3.0, 1.0], [5.0, 3.0]])
    >>> NearestCentroid().fit(X, [0, 0, 1, 1]).decision_function([[1.0, 1.0], [4.0, 2.0]])
    array([-5.,  5.])
    """

    def predict(self, X: Any) -> Array:
        """Return the class of each row, shape (n,)."""
        if not _is_euclidean(self):
            told: Array = super().predict(X)
            return told
        codes = self._scores(X).argmax(axis=1)
        predicted: Array = self.classes_[codes]
        return predicted

    @available_if(_is_euclidean)  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Array:
        """Return scores of shape (n, K), or for two classes (n,), the second's advantage."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    @available_if(_is_euclidean)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, of normal distributions of unit variance."""
        return softmax(self._scores(X))

    @available_if(_is_euclidean)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Array:
        """Return logarithms of the probabilities."""
        scores = self._scores(X)
        scores -= scores.max(axis=1, keepdims=True)
        found: Array = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return found

    def _scores(self, X: Any) -> Array:
        """Return minus half the squared distance to each centroid, plus the log of its prior."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        distances = euclidean_distances(X, self.centroids_.astype(np.float64), squared=True)
        scores: Array = np.log(self.class_prior_) - distances / 2
        return scores
