"""Outputs: what a fitted head says of features, in one shape whatever the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.heads.streaming import Blocks

__all__ = ["Outputs", "decisions", "gives_votes", "outputs"]

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
    labels : ndarray of shape (n, K), bool, or None
        Where a row may have several labels, those that it has; `codes` are of its highest score.
    """

    codes: Array
    scores: Array | None
    probability: Array | None
    labels: Array | None = None

    def among(self, known: Array, n_classes: int) -> Outputs:
        """Return the same in columns of `n_classes`, of which the head knew those at `known`.

        The others have a score of minus infinity and a probability of 0.
        """
        if len(known) == n_classes:
            return self

        def widened(values: Array | None, fill: float) -> Array | None:
            if values is None:
                return None
            wide = np.full((len(values), n_classes), fill, dtype=values.dtype)
            wide[:, known] = values
            return wide

        return Outputs(
            known[self.codes], widened(self.scores, -np.inf), widened(self.probability, 0.0)
        )


def outputs(head: Any, X: Array | Blocks) -> Outputs:
    """Run a fitted scikit-learn classifier on features of shape (n, d)."""
    if isinstance(X, Blocks):
        parts = [outputs(head, block) for block in X]
        return Outputs(
            np.concatenate([part.codes for part in parts]),
            _joined([part.scores for part in parts]),
            _joined([part.probability for part in parts]),
            _joined([part.labels for part in parts]),
        )
    if type(head).__name__ == "AdjustedHead":
        adjusted: Outputs = head.outputs(X)
        return adjusted
    classes = np.asarray(head.classes_)
    if _knows_no_spread(head):
        return Outputs(np.searchsorted(classes, np.asarray(head.predict(X))), None, None)
    probability = None
    if hasattr(head, "predict_proba"):
        probability = np.asarray(head.predict_proba(X))  # its precision says where it ends
    scores = decisions(head, X)
    if scores is None:
        scores = probability
    told = np.asarray(head.predict(X))
    if told.ndim == 2:
        ranked = told if scores is None else scores
        return Outputs(ranked.argmax(axis=1), scores, probability, told.astype(bool))
    codes = np.searchsorted(classes, told)
    return Outputs(codes, scores, probability)


def decisions(head: Any, X: Array) -> Array | None:
    """Return the decision function, shape (n, K), for two classes d as -d and d; None without."""
    if not hasattr(head, "decision_function"):
        return None
    scores = np.asarray(head.decision_function(X), dtype=np.float64)
    if scores.ndim == 1:
        scores = np.column_stack([-scores, scores])
    # An SVC's one-against-one votes fit no class.
    return scores if scores.shape[1] == len(head.classes_) else None


def gives_votes(head: Any) -> bool:
    """Tell whether scores are votes between each two classes, as those of an SVC of several."""
    steps = getattr(head, "steps", None) or [("", head)]
    shape = getattr(steps[-1][1], "decision_function_shape", None)
    # A head on several views has the mean of their votes, from which margins can't be told.
    return shape == "ovr" and len(head.classes_) > 2 and not hasattr(head, "views")


def _knows_no_spread(head: Any) -> bool:
    """Tell whether scikit-learn's centroids are of one row each: its scores are NaN then."""
    steps = getattr(head, "steps", None) or [("", head)]
    if not type(steps[-1][1]).__module__.startswith("sklearn."):
        return False
    spread = getattr(steps[-1][1], "within_class_std_dev_", None)
    return spread is not None and bool(np.isnan(spread).all())


def _joined(parts: list[Array | None]) -> Array | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None
