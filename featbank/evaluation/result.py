"""The result of an evaluation: scores with intervals, and all that they were computed from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featbank.evaluation.baselines import baselines, label_baselines
from featbank.evaluation.intervals import LONE, Estimate
from featbank.evaluation.metrics import METRICS
from featbank.evaluation.neighbours import NearDuplicates
from featbank.frames import data_frame

if TYPE_CHECKING:
    from featbank.evaluation.choice import Choice

__all__ = [
    "EvaluationResult",
    "HeadResult",
    "PerClass",
    "Predictions",
    "ThresholdEffect",
    "quotients",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """Predictions for rows that their fit had not seen; with repeats, a row occurs in each.

    Attributes
    ----------
    rows : ndarray of shape (m,), intp
        Positions in the features that were given.
    fold : ndarray of shape (m,), intp
        Which fit predicted.
    y_true, y_pred : ndarray of shape (m,), intp
        Positions in the result's `classes`.
    scores, probability : ndarray of shape (m, K), or None
    unit : ndarray of shape (m,), intp
        Rows of equal unit are one observation: duplicates, near-duplicates, a group.
    weight : ndarray of shape (m,), float64, or None
        Metric weights, where they were given.
    """

    rows: Array
    fold: Array
    y_true: Array
    y_pred: Array
    scores: Array | None
    probability: Array | None
    unit: Array
    weight: Array | None = None

    @property
    def weights(self) -> Array:
        """How much each prediction counts in metrics, shape (m,)."""
        return np.ones(len(self.rows)) if self.weight is None else self.weight

    def confusion(self, n_classes: int) -> Array:
        """Return how often each class was predicted as each, or the sum of metric weights."""
        counts = np.zeros((n_classes, n_classes))
        np.add.at(counts, (self.y_true, self.y_pred), self.weights)
        return counts.astype(np.int64) if self.weight is None else counts


@dataclass(frozen=True)
class PerClass:
    """Figures of each class, arrays of shape (K,); NaN where one is not defined."""

    precision: Array
    recall: Array
    f1: Array
    support: Array

    @classmethod
    def of(cls, confusion: Array) -> PerClass:
        """Compute them from a confusion matrix, rows the true classes."""
        hit = np.diag(confusion).astype(np.float64)
        called, support = confusion.sum(axis=0), confusion.sum(axis=1)
        return cls(
            precision=quotients(hit, called),
            recall=quotients(hit, support),
            f1=quotients(2 * hit, called + support),
            support=support,
        )


@dataclass(frozen=True)
class ThresholdEffect:
    """A threshold between two classes, and what it did to the metric that it was chosen by.

    Attributes
    ----------
    metric : {"accuracy", "balanced_accuracy", "macro_f1", "f1"}
        f1 is that of the class with fewer images.
    before, after : Estimate
        The metric with the head's own predictions, and with those of the threshold.
    margin : float
        The second class is predicted where its margin is above this; the mean over folds.
    probability : float or None
        The same in terms of the second class's probability, where the head has probabilities.
    """

    metric: str
    before: Estimate
    after: Estimate
    margin: float
    probability: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "metric": self.metric,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "margin": self.margin,
            "probability": self.probability,
        }


@dataclass(frozen=True)
class HeadResult:
    """How one head did.

    Attributes
    ----------
    head : str
    metrics : dict of str to Estimate
        accuracy, balanced_accuracy, macro_f1, and where defined roc_auc, top5_accuracy, log_loss,
        brier, ece; see `featbank.evaluation.metrics.Meter`.
    best_params : dict
        What was chosen: by most folds, until a final fit's choice stands in its place.
    fold_params : tuple of dict
        What each fold chose.
    confusion : ndarray of shape (K, K), int64, or float64 with metric weights
        Rows are true classes, columns predicted ones, of all predictions together.
    predictions : Predictions
    seconds : float
        Time of fitting, choosing and predicting, summed over folds.
    without_duplicates : dict of str to Estimate, or None
        With given splits: the metrics of a fit without the images whose bytes are scored on.
    calibrated : {"platt", "temperature"} or None
        How probabilities were calibrated.
    uncalibrated : dict of str to Estimate, or None
        Where they were: log_loss, brier and ece of the head's own, where it has any.
    naive : dict of str to Estimate, or None
        With `show_leak`: the metrics in folds that tear duplicates and groups apart.
    fold_learned : tuple of dict
        The temperature and the threshold of each fold, where there are any; see
        `featbank.heads.adjusted.AdjustedHead.learned`.
    threshold : ThresholdEffect or None
        Where a threshold was asked for.
    notes : tuple of str
    classifier : str or None
        Path of the file, once one is written.
    """

    head: str
    metrics: dict[str, Estimate]
    best_params: dict[str, Any]
    fold_params: tuple[dict[str, Any], ...] = field(repr=False)
    confusion: Array = field(repr=False)
    predictions: Predictions = field(repr=False)
    seconds: float
    without_duplicates: dict[str, Estimate] | None = None
    calibrated: str | None = None
    uncalibrated: dict[str, Estimate] | None = None
    naive: dict[str, Estimate] | None = None
    fold_learned: tuple[dict[str, float], ...] = ()
    threshold: ThresholdEffect | None = None
    notes: tuple[str, ...] = ()
    classifier: str | None = None

    @property
    def per_class(self) -> PerClass:
        """Precision, recall, F1 and support of each class."""
        return PerClass.of(self.confusion)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        per_class = self.per_class
        return {
            "head": self.head,
            **{name: estimate.to_dict() for name, estimate in self.metrics.items()},
            "best_params": {key: _plain(value) for key, value in self.best_params.items()},
            "fold_params": [
                {key: _plain(value) for key, value in chosen.items()} for chosen in self.fold_params
            ],
            "seconds": self.seconds,
            "classifier": self.classifier,
            "per_class": {
                name: [_plain(v) for v in getattr(per_class, name)]
                for name in ("precision", "recall", "f1", "support")
            },
            "confusion": self.confusion.tolist(),
            "without_duplicates": _estimates(self.without_duplicates),
            "calibrated": self.calibrated,
            "uncalibrated": _estimates(self.uncalibrated),
            "naive": _estimates(self.naive),
            "fold_learned": list(self.fold_learned),
            "threshold": None if self.threshold is None else self.threshold.to_dict(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """How several heads did on the same folds.

    Attributes
    ----------
    heads : tuple of HeadResult
    protocol : str
        What was done, in a few words.
    folds : int
        Fits that were scored, a head: folds times repeats, or 1 for a given split.
    images : int
        Labelled rows that were learned from or scored.
    classes : tuple of str
    duplicates : int
        Images whose bytes another image before them has.
    groups : int or None
        How many groups were kept together; None where none were given.
    notes : tuple of str
        What a reader of the scores should know.
    near_duplicates : NearDuplicates or None
        What was found, where it was asked for; of all rows that were given.
    class_sizes : tuple of int
        Labelled rows of each class.
    repeats : int
    random_state : int
    metric_weight : str or None
        What every metric is weighted by: the name of a column, or "metric_weight".
    """

    heads: tuple[HeadResult, ...]
    protocol: str
    folds: int
    images: int
    classes: tuple[str, ...]
    duplicates: int = 0
    groups: int | None = None
    notes: tuple[str, ...] = ()
    near_duplicates: NearDuplicates | None = None
    class_sizes: tuple[int, ...] = ()
    repeats: int = 1
    random_state: int = 0
    metric_weight: str | None = None

    def __getitem__(self, head: str) -> HeadResult:
        """Return the result of the head of this name."""
        for found in self.heads:
            if found.head == head:
                return found
        raise KeyError(f"{head!r} is none of {', '.join(h.head for h in self.heads)}")

    @property
    def imbalanced(self) -> bool:
        """Whether the largest class has ten times the images of the smallest, or more."""
        return bool(self.class_sizes) and max(self.class_sizes) >= 10 * min(self.class_sizes)

    def compare(self, a: str, b: str, metric: str = "accuracy") -> Estimate:
        """Return by how much a metric of head `a` is above that of head `b`.

        Both were scored on the same rows, so that the difference is taken image by image. Its 95 %
        interval is narrower than two intervals side by side would suggest; where it leaves out 0,
        the heads differ. It is of one comparison: see `p_values` for several at once. Of log_loss,
        brier and ece the lower one is the better.

        Raises
        ------
        KeyError
            No head bears this name.
        EvaluationError
            One of the heads has no such metric.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from featbank import cross_validate
        >>> X, y = load_iris(return_X_y=True)
        >>> found = cross_validate(X, y, ["ridge", "lda"], tune=False).compare("lda", "ridge")
        >>> found.low > 0
        True
        """
        from featbank.evaluation.comparison import differences

        return differences(self[a], self[b], [metric])[metric]

    @property
    def criterion(self) -> str:
        """The metric that heads are ranked by: accuracy, where `imbalanced` balanced accuracy."""
        return "balanced_accuracy" if self.imbalanced else "accuracy"

    @cached_property
    def best(self) -> HeadResult:
        """The head with the highest score by `criterion`."""
        return max(self.heads, key=lambda head: head.metrics[self.criterion].mean)

    @cached_property
    def choice(self) -> Choice | None:
        """The best head's score, corrected for its having been chosen; None for a single head."""
        from featbank.evaluation.choice import choose

        return choose(self.heads, self.criterion, seed=self.random_state)

    @property
    def _compared(self) -> list[str]:
        """Metrics by which heads are compared: those that all of them have."""
        from featbank.evaluation.comparison import COMPARED

        return [name for name in COMPARED if all(name in head.metrics for head in self.heads)]

    @cached_property
    def differences(self) -> dict[str, dict[str, Estimate]]:
        """Of each head but the best: by how much its metrics are above those of the best."""
        from featbank.evaluation.comparison import differences

        others = (head for head in self.heads if head is not self.best)
        return {head.head: differences(head, self.best, self._compared) for head in others}

    @cached_property
    def p_values(self) -> dict[str, dict[str, float]]:
        """Of each head but the best: p-values of its differences, for all pairs of heads at once.

        See `featbank.evaluation.comparison.adjusted`.
        """
        from featbank.evaluation.comparison import adjusted

        return adjusted(self.heads, self.best.head, self._compared)

    @cached_property
    def baselines(self) -> dict[str, dict[str, float]]:
        """What the majority class and chance score on the same images, by metric."""
        told = self.heads[0].predictions
        if told.y_true.ndim == 2:
            return label_baselines(told.y_true, told.weight)
        return baselines(np.bincount(told.y_true, told.weight, minlength=len(self.classes)))

    @property
    def method(self) -> str:
        """How intervals were made, in a line."""
        told = self.heads[0].predictions
        n = len(np.unique(told.unit))
        what = "images" if n == len(np.unique(told.rows)) else "groups of images"
        found = f"intervals over {n} {what}: Wilson's for shares, t for losses"
        lone = self.folds > 1 and self.repeats == 1
        return f"{found}; x {LONE:g}, as folds are drawn once" if lone else found

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, as ``featbank fit --json`` prints it."""
        near = self.near_duplicates
        return {
            "heads": [head.to_dict() for head in self.heads],
            "protocol": self.protocol,
            "folds": self.folds,
            "images": self.images,
            "classes": list(self.classes),
            "duplicates": self.duplicates,
            "groups": self.groups,
            "near_duplicates": near
            and {"threshold": near.threshold, "clusters": near.clusters, "images": near.images},
            "class_sizes": list(self.class_sizes),
            "repeats": self.repeats,
            "metric_weight": self.metric_weight,
            "best": self.best.head,
            "choice": self.choice and self.choice.to_dict(),
            "interval": self.method,
            "baselines": self.baselines,
            "p_values": self.p_values,
            "differences": {head: _estimates(found) for head, found in self.differences.items()},
            "notes": list(self.notes),
        }

    def records(self) -> list[dict[str, Any]]:
        """Return one flat dict a head, for a table with a column each.

        Each metric has three: ``accuracy``, and the ends of its 95 % confidence interval,
        ``accuracy_low`` and ``accuracy_high``. Then follow ``seconds``, ``calibrated``,
        ``best_params`` and ``classifier``.
        """
        found = []
        for head in self.heads:
            record: dict[str, Any] = {"head": head.head}
            for name in METRICS:
                if name in head.metrics:
                    record |= head.metrics[name].columns(name)
            found.append(
                {
                    **record,
                    "seconds": head.seconds,
                    "calibrated": head.calibrated,
                    "best_params": head.best_params,
                    "classifier": head.classifier,
                }
            )
        return found

    def to_frame(self) -> Any:
        """Return `records` as a pandas DataFrame, one row a head.

        Raises
        ------
        MissingDependency
            pandas is not installed.
        """
        return data_frame(self.records())

    def table(self, *, details: bool = False) -> str:
        """Return the scores as plain text; with `details` also by class, and the confusions."""
        from featbank.evaluation.table import render

        return render(self, details=details)

    def __repr__(self) -> str:
        return self.table()


def _estimates(found: dict[str, Estimate] | None) -> dict[str, Any] | None:
    return None if found is None else {name: one.to_dict() for name, one in found.items()}


def quotients(part: Array, whole: Array) -> Array:
    """Return part over whole, NaN where that is 0."""
    nothing = np.full(len(part), np.nan)
    return np.divide(part, whole, out=nothing, where=whole > 0)


def _plain(value: Any) -> Any:
    """Return a scalar of JSON: NumPy's become Python's, NaN None, all else text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
