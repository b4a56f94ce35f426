"""`AdjustedHead`: a fitted head with a temperature for its probabilities, a threshold, or both."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.heads.outputs import outputs
from featbank.heads.plain import softmax

__all__ = ["AdjustedHead", "logits_of", "margin_of"]

Array = npt.NDArray[Any]

_EPS = 1e-12  # keeps the logarithm of a probability of 0 finite


class AdjustedHead:
    """A fitted classifier whose outputs are read anew.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    temperature : float, optional
        Probabilities are the softmax of the estimator's logits over it: 1 leaves the probabilities
        of logistic regression as they are, more makes them less certain. The estimator's own where
        None.
    threshold : float, optional
        Of two classes the second is predicted where the estimator's `margin_of` is above it. The
        estimator's own choice where None.

    References
    ----------
    C. Guo et al., "On calibration of modern neural networks", ICML (2017).
    """

    def __init__(
        self,
        estimator: Any,
        *,
        temperature: float | None = None,
        threshold: float | None = None,
    ) -> None:
        self.estimator = estimator
        self.temperature = temperature
        self.threshold = threshold

    @property
    def learned(self) -> dict[str, float]:
        """The temperature and the threshold, those that there are, by name."""
        found = {"temperature": self.temperature, "threshold": self.threshold}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def classes_(self) -> Array:
        """The classes, shape (K,)."""
        classes: Array = self.estimator.classes_
        return classes

    @property
    def n_features_in_(self) -> int:
        """The number of features."""
        return int(self.estimator.n_features_in_)

    @property
    def decision_function(self) -> Any:
        """The estimator's, where it has one."""
        return self.estimator.decision_function

    @property
    def predict_proba(self) -> Any:
        """The probabilities at the temperature; without one the estimator's, where it has any."""
        return self.estimator.predict_proba if self.temperature is None else self._scaled

    def predict(self, X: Array) -> Array:
        """Return the class of each row, shape (n,)."""
        if self.threshold is None:
            predicted: Array = np.asarray(self.estimator.predict(X))
            return predicted
        return self.classes_[(margin_of(self.estimator, X) > self.threshold).astype(np.intp)]

    def _scaled(self, X: Array) -> Array:
        return softmax(logits_of(self.estimator, X) / self.temperature)


def logits_of(estimator: Any, X: Array) -> Array:
    """Return what a softmax turns into probabilities, shape (n, K), float64.

    It is the decision function (for two classes d, as 0 and d), else the logarithm of the
    probabilities.

    Raises
    ------
    TypeError
        The estimator has neither.
    """
    told = outputs(estimator, X)
    if told.scores is None:
        raise TypeError("it has neither a decision function nor probabilities")
    if told.scores is told.probability:
        return np.log(told.scores.astype(np.float64) + _EPS)
    logits: Array = told.scores
    if logits.shape[1] == 2:
        logits = np.column_stack([np.zeros(len(logits)), logits[:, 1]])
    return logits


def margin_of(estimator: Any, X: Array) -> Array:
    """Return by how much the second of two classes leads, shape (n,): the difference of logits."""
    logits = logits_of(estimator, X)
    margin: Array = logits[:, 1] - logits[:, 0]
    return margin
