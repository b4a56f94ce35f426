"""Comparison: the difference of two heads on the same rows, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featbank.errors import EvaluationError, nearest
from featbank.evaluation.intervals import (
    HIGHEST,
    ROUNDING,
    Estimate,
    corrected_t,
    percentiles,
    resampled,
    wilson,
)
from featbank.evaluation.metrics import Meter
from featbank.evaluation.multilabel.meter import LabelMeter

if TYPE_CHECKING:
    from featbank.evaluation.result import EvaluationResult, HeadResult

__all__ = ["COMPARED", "differences"]

COMPARED = ("map", "accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "roc_auc")
"""What the table and the JSON tell of; `EvaluationResult.compare` knows every metric."""


def differences(
    result: EvaluationResult, first: HeadResult, second: HeadResult, metrics: Sequence[str]
) -> dict[str, Estimate]:
    """Return by how much metrics of the first head are above the second's.

    Over folds and repeats the interval is `corrected_t` of the differences fold by fold; with a
    single scored part that of the differences in the same 1,000 resamples. Where the differences
    are all alike, an accuracy's interval is as wide as heads that agree on every image leave room
    for, `wilson` of no disagreement, and other metrics have none.

    Raises
    ------
    EvaluationError
        One of the heads has no such metric.
    """
    for head in (first, second):
        for name in metrics:
            if name not in head.metrics:
                raise EvaluationError(
                    f"head {head.head!r} has no {name!r}: {nearest(name, head.metrics)}"
                )
    found = {}
    drawn = None
    for name in metrics:
        pairs = zip(first.metrics[name].values, second.metrics[name].values, strict=True)
        values = tuple(one - other for one, other in pairs)
        mean = float(np.mean(values))
        if len(values) > 1:
            low, high = corrected_t(values, result.ratio)
        else:
            drawn = drawn or [_drawn(head, result.random_state) for head in (first, second)]
            if name in drawn[0] and name in drawn[1]:
                low, high = percentiles(drawn[0][name] - drawn[1][name])
            else:
                low = high = float("nan")
        if high - low <= ROUNDING:
            room = float("nan")
            if name == "accuracy":
                room = wilson(0.0, len(np.unique(first.predictions.unit)))[1]
            low, high = mean - room, mean + room
        end = HIGHEST.get(name, 1.0)
        low, high = (float(np.clip(one, -end, end)) for one in (low, high))
        found[name] = Estimate(mean, low, high, values)
    return found


def _drawn(head: HeadResult, seed: int) -> dict[str, np.ndarray]:
    told = head.predictions
    if told.y_true.ndim == 2 and told.scores is not None:
        return resampled(
            LabelMeter(told.y_true, told.y_pred, told.scores, told.weight), told.unit, seed=seed
        )
    meter = Meter(
        told.y_true, told.y_pred, told.scores, told.probability, len(head.confusion), told.weight
    )
    return resampled(meter, told.unit, seed=seed)
