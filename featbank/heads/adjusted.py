"""`AdjustedHead`: a fitted head with a temperature for its probabilities, a threshold, or both."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.heads.outputs import Outputs, decisions, gives_votes, outputs
from featbank.heads.plain import softmax

__all__ = ["AdjustedHead", "logits_of"]

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
        Of two classes the second is predicted where its logit, as of `logits_of`, is above that of
        the first by more than this. The estimator's own choice where None.
    votes : bool, default=False
        Whether the logits of an SVC of several classes are its votes, as in files of format 1, and
        not its margins; see `logits_of`.

    References
    ----------
    C. Guo et al., "On calibration of modern neural networks", ICML (2017).
    """

    votes = True  # files of format 1 don't say

    def __init__(
        self,
        estimator: Any,
        *,
        temperature: float | None = None,
        threshold: float | None = None,
        votes: bool = False,
    ) -> None:
        self.estimator = estimator
        self.temperature = temperature
        self.threshold = threshold
        self.votes = votes

    @property
    def learned(self) -> dict[str, float]:
        """The temperature and the threshold, those that there are, by name.

        ``threshold_probability`` is the threshold as a probability of the second class, where there
        are probabilities.
        """
        found = {"temperature": self.temperature, "threshold": self.threshold}
        if self.threshold is not None and hasattr(self, "predict_proba"):
            ends = np.array([[0.0, self.threshold / (self.temperature or 1.0)]])
            found["threshold_probability"] = float(softmax(ends)[0, 1])
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
        return self.classes_[self.outputs(X).codes]

    def outputs(self, X: Array) -> Outputs:
        """Return predictions, scores and probabilities, for which the estimator runs once."""
        told = outputs(self.estimator, X)
        codes, probability = told.codes, told.probability
        logits = _logits(self.estimator, told, votes=self.votes)
        if self.temperature is not None:
            probability = softmax(logits / self.temperature)
        if self.threshold is not None:
            codes = (logits[:, 1] - logits[:, 0] > self.threshold).astype(np.intp)
        own = told.scores is not told.probability
        return Outputs(codes, told.scores if own else probability, probability)

    def _scaled(self, X: Array) -> Array:
        probability = self.outputs(X).probability
        assert probability is not None
        return probability


def logits_of(estimator: Any, X: Array, *, votes: bool = False) -> Array:
    """Return what a softmax turns into probabilities, shape (n, K), float64.

    It is the decision function (for two classes d, as 0 and d), else the logarithm of the
    probabilities. The decision function of an SVC of several classes is votes, which hardly differ
    between sure and unsure rows: unless `votes`, each class has the sum of its margins over the
    others instead. The class with the most votes, the predicted one, has the highest.

    Raises
    ------
    TypeError
        The estimator has neither.
    """
    if not gives_votes(estimator):
        scores = decisions(estimator, X)  # predictions, which take as long, aren't needed
        if scores is not None:
            return _logits(estimator, Outputs(np.empty(0, np.intp), scores, None), votes=votes)
    return _logits(estimator, outputs(estimator, X), votes=votes)


def _logits(estimator: Any, told: Outputs, *, votes: bool) -> Array:
    if told.scores is None:
        raise TypeError("it has neither a decision function nor probabilities")
    if told.scores is told.probability:
        return np.log(told.scores.astype(np.float64) + _EPS)
    logits: Array = told.scores
    if gives_votes(estimator) and not votes:
        return _margins(logits, told.codes)
    if logits.shape[1] == 2:
        logits = np.column_stack([np.zeros(len(logits)), logits[:, 1]])
    return logits


def _margins(votes: Array, codes: Array) -> Array:
    """Return the margins that scikit-learn adds to votes, as ``t / (3 (|t| + 1))`` each."""
    added = 3 * (votes - np.rint(votes))
    margins: Array = added / np.maximum(1 - np.abs(added), _EPS)
    rows = np.arange(len(margins))
    highest = margins.argmax(axis=1)
    own = margins[rows, codes]
    margins[rows, codes] = margins[rows, highest]
    margins[rows, highest] = np.where(highest == codes, margins[rows, highest], own)
    return margins
