"""Outputs: what a fitted head says of features, in one shape whatever the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Outputs", "outputs"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Outputs:
    """Predictions for n rows and K classes, columns in the order of the head's ``classes_``.

    Attributes
    ----------
    codes : ndarray of shape (n,), intp
        Positions of the predicted classes in ``classes_``.
    scores : ndarray of shape (n, K), float64, or None
        The higher, the likelier: the decision function (for two classes d, as -d and d), else
        probabilities; None where the head has neither.
    probability : ndarray of shape (n, K), float, or None
        None where the head has none.
    """

    codes: Array
    scores: Array | None
    probability: Array | None


def outputs(head: Any, X: Array) -> Outputs:
    """Run a fitted scikit-learn classifier on features of shape (n, d)."""
    classes = np.asarray(head.classes_)
    probability = None
    if hasattr(head, "predict_proba"):
        probability = np.asarray(head.predict_proba(X))  # its precision says where it ends
    scores = probability
    if hasattr(head, "decision_function"):
        scores = np.asarray(head.decision_function(X), dtype=np.float64)
        if scores.ndim == 1:
            scores = np.column_stack([-scores, scores])
        if scores.shape[1] != len(classes):  # an SVC's one-against-one votes fit no class
            scores = probability
    codes = np.searchsorted(classes, np.asarray(head.predict(X)))
    return Outputs(codes, scores, probability)
