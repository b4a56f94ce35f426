"""The result of an evaluation with several labels a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.evaluation.result import EvaluationResult, HeadResult, PerClass, quotients

__all__ = ["LabelFigures", "LabelHeadResult", "LabelResult"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LabelFigures(PerClass):
    """Figures of each label, arrays of shape (K,); NaN where one is not defined.

    The average precision is the mean over folds, the others are of all predictions together.
    """

    average_precision: Array


@dataclass(frozen=True)
class LabelHeadResult(HeadResult):
    """How one head did where a row may have several labels.

    Attributes
    ----------
    metrics : dict of str to Estimate
        map, macro_f1, micro_f1, and subset_accuracy: the share of images whose labels are all
        right. See `featbank.evaluation.multilabel.meter.LabelMeter`.
    predictions : Predictions
        `y_true` and `y_pred` are indicator matrices of shape (m, K), bool.
    confusion : ndarray of shape (0, 0)
        There is none; in JSON it is null.
    average_precision : ndarray of shape (folds, K)
        NaN where no image of a fold has the label.
    """

    average_precision: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)

    @property
    def per_class(self) -> LabelFigures:
        """Average precision, precision, recall, F1 and support of each label."""
        true, called = self.predictions.y_true, self.predictions.y_pred
        w = self.predictions.weights
        hit, support, told = (w @ counted for counted in (true & called, true, called))
        defined = ~np.isnan(self.average_precision)
        return LabelFigures(
            precision=quotients(hit, told),
            recall=quotients(hit, support),
            f1=quotients(2 * hit, told + support),
            support=support if self.predictions.weight is not None else support.astype(np.int64),
            average_precision=quotients(
                np.where(defined, self.average_precision, 0.0).sum(axis=0), defined.sum(axis=0)
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        areas = self.per_class.average_precision
        told = super().to_dict()
        told["confusion"] = None
        told["per_class"]["average_precision"] = [None if np.isnan(a) else float(a) for a in areas]
        return told


@dataclass(frozen=True, repr=False)
class LabelResult(EvaluationResult):
    """How several heads did on the same folds, where a row may have several labels."""

    @property
    def imbalanced(self) -> bool:
        """False: each label is judged by itself."""
        return False

    @property
    def criterion(self) -> str:
        """The metric that heads are ranked by: mAP."""
        return "map"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, as ``featbank fit --json`` prints it."""
        return {**super().to_dict(), "multilabel": True}
