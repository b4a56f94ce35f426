"""Assembly: from what was predicted of each part to results with intervals, whoever predicted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.evaluation.folds import Int
from featbank.evaluation.inputs import Inputs
from featbank.evaluation.intervals import Estimate, Judged, estimates, few_groups
from featbank.evaluation.metrics import CALIBRATION, METRICS, Meter
from featbank.evaluation.multilabel.meter import LabelMeter
from featbank.evaluation.plan import Part, Plan
from featbank.evaluation.result import (
    EvaluationResult,
    HeadResult,
    Predictions,
    ThresholdEffect,
)
from featbank.evaluation.text import counted
from featbank.heads.outputs import Outputs

__all__ = [
    "Scored",
    "evaluation_result",
    "head_result",
    "most_common",
    "never_predicted",
    "weighted_by",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Scored:
    """One part that was learned from and predicted.

    Attributes
    ----------
    part : Part
    outputs : Outputs
        Of its test rows, in columns of all classes.
    meter : Meter
        Of these.
    seconds : float
        Of learning and predicting.
    best_params : dict
        What was chosen inside.
    notes : tuple of str
    learned : dict of str to float
        See `featbank.heads.adjusted.AdjustedHead.learned`.
    before : Meter or None
        Of predictions and probabilities before calibration and a threshold.
    """

    part: Part
    outputs: Outputs
    meter: Meter
    seconds: float
    best_params: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    learned: dict[str, float] = field(default_factory=dict)
    before: Meter | None = None

    @classmethod
    def of(cls, part: Part, told: Outputs, data: Inputs, seconds: float, **more: Any) -> Scored:
        """Judge what was said of a part's test rows."""
        meter = Meter(
            data.codes[part.test],
            told.codes,
            told.scores,
            told.probability,
            len(data.classes),
            data.weight_of(part.test),
        )
        return cls(part, told, meter, seconds, **more)


def head_result(
    name: str,
    scored: Sequence[Scored],
    made: Plan,
    data: Inputs,
    *,
    naive: Sequence[Part] = (),
    calibrated: str | None = None,
    threshold: str | None = None,
) -> HeadResult:
    """Put one head's parts together.

    Parameters
    ----------
    name : str
    scored : sequence of Scored
        In the order of ``made.parts``, ``made.clean`` where there is one, and `naive`.
    made : Plan
    data : Inputs
    naive : sequence of Part
    calibrated : str, optional
        How probabilities were.
    threshold : str, optional
        Metric that thresholds were chosen by.
    """
    own, further = scored[: len(made.parts)], scored[len(made.parts) :]
    torn = further[1 if made.clean else 0 :]
    chosen = tuple(one.best_params for one in own)
    predictions = Predictions(
        rows=np.concatenate([data.rows[one.part.test] for one in own]),
        fold=np.repeat(np.arange(len(own)), [len(one.part.test) for one in own]),
        y_true=np.concatenate([one.meter.y for one in own]),
        y_pred=np.concatenate([one.outputs.codes for one in own]),
        scores=_stacked([one.outputs.scores for one in own]),
        probability=_stacked([one.outputs.probability for one in own]),
        unit=np.concatenate([data.units[one.part.test] for one in own]),
        weight=data.weight_of(np.concatenate([one.part.test for one in own])),
    )
    return HeadResult(
        head=name,
        metrics=_estimates(own, [one.meter for one in own], data.units),
        best_params=most_common(chosen),
        fold_params=chosen,
        confusion=predictions.confusion(len(data.classes)),
        predictions=predictions,
        seconds=sum(one.seconds for one in own),
        without_duplicates=(
            _estimates(further[:1], [further[0].meter], data.units) if made.clean else None
        ),
        calibrated=calibrated,
        uncalibrated=_uncalibrated(own, data) if calibrated else None,
        threshold=None if threshold is None else _threshold(threshold, own, data),
        naive=(
            _estimates(torn, [one.meter for one in torn], data.unbound().units) if naive else None
        ),
        fold_learned=tuple(one.learned for one in own if one.learned),
        notes=(
            *dict.fromkeys(note for one in own for note in one.notes),
            *_undefined([one.meter for one in own]),
            *never_predicted(
                data.classes,
                np.eye(len(data.classes), dtype=bool)[predictions.y_true],
                np.eye(len(data.classes), dtype=bool)[predictions.y_pred],
                predictions.rows,
            ),
        ),
    )


def evaluation_result(
    heads: Sequence[HeadResult],
    made: Plan,
    data: Inputs,
    *,
    n: int,
    notes: Sequence[str] = (),
    chosen_by: str | None = None,
    repeats: int = 1,
    seed: int = 0,
) -> EvaluationResult:
    """Put the heads of one plan together.

    Parameters
    ----------
    heads : sequence of HeadResult
    made : Plan
    data : Inputs
    n : int
        Rows that were given, with a label or without.
    notes : sequence of str
        Beyond those of the data and the plan.
    chosen_by : str, optional
        What settings were chosen by inside the folds, where any were.
    repeats, seed : int
    """
    tested = np.unique(np.concatenate([part.test for part in made.parts]))
    return EvaluationResult(
        heads=tuple(heads),
        protocol=made.protocol,
        folds=len(made.parts),
        images=len(np.unique(np.concatenate([np.append(p.train, p.test) for p in made.parts]))),
        classes=tuple(str(c) for c in data.classes),
        duplicates=data.duplicates,
        groups=data.groups,
        notes=(
            *data.notes,
            *made.notes,
            *_imbalance(data, chosen_by),
            *few_groups(data.units[tested]),
            *notes,
        ),
        near_duplicates=data.near and data.near.spread(data.rows, n),
        class_sizes=tuple(np.bincount(data.codes).tolist()),
        repeats=repeats,
        random_state=seed,
        metric_weight=weighted_by(data),
    )


def weighted_by(data: Inputs) -> str | None:
    """Return the name of the metric weights, if any two scored rows differ in theirs."""
    weights = data.metric_weight
    if weights is None:
        return None
    scored = weights[weights > 0]
    return "metric_weight" if scored.min() < scored.max() else None


def most_common(chosen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the parameters that most folds chose, the first of equal ones."""
    keys = [json.dumps(params, sort_keys=True, default=repr) for params in chosen]
    return chosen[keys.index(Counter(keys).most_common(1)[0][0])]


def never_predicted(
    classes: Sequence[str] | Array, true: Array, predicted: Array, rows: Array
) -> list[str]:
    """Return a note that names the classes of scored images that are predicted for no image.

    Parameters
    ----------
    classes : sequence of length K
    true, predicted : ndarray of shape (m, K), bool
    rows : ndarray of shape (m,)
        Which image each of the predictions is about; repeats predict one several times.
    """
    _, first = np.unique(rows, return_index=True)
    images = true[first].sum(axis=0)
    lacking = np.flatnonzero((images > 0) & ~predicted.any(axis=0))
    if not len(lacking):
        return []
    some = ", ".join(
        f"{str(classes[c])!r} ({counted(int(images[c]), 'image')})" for c in lacking[:5]
    )
    more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
    advice = "choose settings by balanced_accuracy, weigh the classes, or try another head."
    return [f"never predicted: {some}{more}; {advice}"]


def _imbalance(data: Inputs, chosen_by: str | None) -> list[str]:
    sizes = np.bincount(data.codes)
    most, least = int(sizes.argmax()), int(sizes.argmin())
    if sizes[most] < 10 * sizes[least]:
        return []
    large, small = (f"{str(data.classes[c])!r} has {sizes[c]} images" for c in (most, least))
    note = f"classes differ tenfold or more ({large}, {small}): go by balanced metrics"
    if chosen_by == "accuracy":
        note += "; settings are chosen by accuracy, but with scoring balanced_accuracy by that"
    return [note + "."]


def _undefined(meters: Sequence[Meter]) -> list[str]:
    """Say which metrics some parts have and others don't."""
    by_part = [set(meter()) for meter in meters]
    lacking = sorted({name for found in by_part for other in by_part for name in found - other})
    return [
        f"no {METRICS[name]}: {sum(name not in found for found in by_part)} of {len(by_part)} "
        "test parts hold one class only."
        for name in lacking
    ]


def _estimates(
    scored: Sequence[Scored], meters: Sequence[Judged], units: Int
) -> dict[str, Estimate]:
    return estimates(meters, [units[one.part.test] for one in scored])


def _uncalibrated(own: Sequence[Scored], data: Inputs) -> dict[str, Estimate] | None:
    """Return how good the heads' own probabilities were, None where they have none."""
    before = [one.before for one in own if one.before is not None]
    if len(before) < len(own):
        return None
    found = _estimates(own, before, data.units)
    return {name: found[name] for name in CALIBRATION if name in found} or None


def _threshold(metric: str, own: Sequence[Scored], data: Inputs) -> ThresholdEffect:
    """Return what the thresholds of all parts did to the metric that they were chosen by."""
    rare = int(np.bincount(data.codes).argmin())

    def estimate(meters: Sequence[Meter]) -> Estimate:
        if metric != "f1":
            return _estimates(own, meters, data.units)[metric]
        found = _estimates(own, [_of_class(meter, rare) for meter in meters], data.units)
        return found.get("macro_f1", Estimate(0.0, float("nan"), float("nan"), (0.0,) * len(own)))

    def mean(name: str) -> float | None:
        values = [one.learned[name] for one in own if name in one.learned]
        return float(np.mean(values)) if len(values) == len(own) else None

    margin = mean("threshold")
    assert margin is not None
    return ThresholdEffect(
        metric=metric,
        before=estimate([one.before for one in own if one.before is not None]),
        after=estimate([one.meter for one in own]),
        margin=margin,
        probability=mean("threshold_probability"),
    )


def _of_class(meter: Meter, c: int) -> LabelMeter:
    """Return the meter of one class alone, whose macro F1 is that class's F1."""
    true, told = (values[:, None] == c for values in (meter.y, meter.predicted))
    return LabelMeter(true, told, told.astype(np.float64), meter.weight)


def _stacked(parts: Sequence[Array | None]) -> Array | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
