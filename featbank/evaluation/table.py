"""Tables of an evaluation as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featbank.evaluation.intervals import Estimate
from featbank.evaluation.metrics import CALIBRATION, METRICS
from featbank.evaluation.multilabel.result import LabelFigures, LabelResult
from featbank.evaluation.result import EvaluationResult, HeadResult
from featbank.evaluation.text import CONFIDENCE, aligned, counted, interval, points

__all__ = ["render"]

WIDEST_CONFUSION = 12
MOST_CONFUSED = 10


def render(result: EvaluationResult, *, details: bool) -> str:
    """Return the table of heads, and with `details` each head's classes and confusions."""
    blocks = [
        _summary(result),
        *_differences(result),
        *_calibration(result),
        *_thresholds(result),
        _chosen(result),
    ]
    if details:
        for head in result.heads:
            blocks.append(_classes(result, head))
            if head.confusion.size:
                blocks.append(_confusion(result, head))
    owners: dict[str, list[str]] = {}
    for head in result.heads:
        for note in head.notes:
            owners.setdefault(note, []).append(head.head)
    notes = [*result.notes, *(f"{', '.join(names)}: {note}" for note, names in owners.items())]
    if notes:
        blocks.append("\n".join(f"note: {note}" for note in notes))
    return "\n\n".join(blocks)


def _summary(result: EvaluationResult) -> str:
    kind = "label" if isinstance(result, LabelResult) else "class"
    held = [f"{result.images} images", counted(len(result.classes), kind)]
    if result.groups is not None:
        held.append(f"{counted(result.groups, 'group')} kept together")
    if result.duplicates:
        held.append(counted(result.duplicates, "duplicate"))
    near = result.near_duplicates
    if near is not None and near.clusters:
        held.append(
            f"{near.images} near-duplicates in {counted(near.clusters, 'cluster')} of at most "
            f"{near.largest} (from {near.threshold:g})"
        )
    elif near is not None:
        held.append(f"no near-duplicates (from {near.threshold:g})")
    word = "mean" if result.folds > 1 else "score"
    names = [name for name in METRICS if any(name in h.metrics for h in result.heads)]
    names = [name for name in names if name not in CALIBRATION]
    if result.imbalanced:
        names.sort(key="accuracy".__eq__)
        names.sort(key=lambda name: name not in ("balanced_accuracy", "macro_f1"))
    rows = [["head", *(METRICS[name] for name in names)]]
    for head in result.heads:
        rows.append(_line(head.head, head.metrics, names))
        if head.without_duplicates is not None:
            rows.append(_line("  no duplicates", head.without_duplicates, names))
        if head.naive is not None:
            rows.append(_line("  naive folds", head.naive, names))
    about = [f"{result.protocol}: {', '.join(held)}", f"{word} {CONFIDENCE}"]
    if result.metric_weight:
        about.append(f"every metric is weighted by {result.metric_weight}")
    for name, known in result.baselines.items():
        rows.append([f"({name})", *_bare(known, names)])
    return "\n".join([*about, "", *aligned(rows), "", result.method])


def _bare(known: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """Return values without intervals, below the means of those that have one."""
    width = len(interval(Estimate(0.5, 0.4, 0.6, ())))
    return [f"{known[name]:.3f}".ljust(width) if name in known else "-" for name in names]


def _chosen(result: EvaluationResult) -> str:
    """Return the block of seconds and of the settings that were chosen."""
    rows = [["head", "seconds", "chosen"]]
    for head in result.heads:
        settings = [_setting(key, value) for key, value in head.best_params.items()]
        rows.append([head.head, f"{head.seconds:.1f}", ", ".join(settings)])
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return "\n".join(aligned(rows, left={0, 2}))


def _setting(key: str, value: Any) -> str:
    """Return a setting as text; that of a scaler says whether columns are standardised."""
    if key == "standardscaler":
        return f"standardise={'yes' if value.with_std else 'no'}"
    return f"{key.rpartition('__')[2]}={value}"


def _learned(head: HeadResult, name: str) -> list[float]:
    """Return the mean over folds of a temperature or a threshold, if there is one."""
    values = [found[name] for found in head.fold_learned if name in found]
    return [float(np.mean(values))] if values else []


def _differences(result: EvaluationResult) -> list[str]:
    """Return the block that compares every head with the best one, where there are several."""
    if len(result.heads) < 2:
        return []
    names = list(next(iter(result.differences.values())))
    own = result.criterion
    rows = [["head", *(METRICS[name] for name in names), "p"]]
    for head, found in result.differences.items():
        rows.append([head, *(points(found[name]) for name in names),
                     f"{result.p_values[head][own]:.3f}"])  # fmt: skip
    test = "McNemar's exact test" if own == "accuracy" else "Student's t"
    legend = (
        f"p: {METRICS[own]}, {test}, for all pairs of heads at once (Holm); under 0.05 they differ"
    )
    return [
        f"difference to {result.best.head}, on the same images, in points {CONFIDENCE}",
        "\n".join(aligned(rows)),
        "\n".join([legend, *([str(result.choice)] if result.choice else [])]),
    ]


def _calibration(result: EvaluationResult) -> list[str]:
    """Return the block of probabilities: how good they are, and were before calibration."""
    rows = [["probabilities", *(METRICS[name] for name in CALIBRATION)]]
    for head in result.heads:
        own = head.metrics if head.calibrated is None else head.uncalibrated
        if own is not None and any(name in own for name in CALIBRATION):
            rows.append(_line(head.head, own, CALIBRATION))
        if head.calibrated is not None:
            how = head.calibrated.replace("platt", "Platt")
            how += "".join(f" {value:.2f}" for value in _learned(head, "temperature"))
            rows.append(_line(f"{head.head}, {how}", head.metrics, CALIBRATION))
    if len(rows) == 1:
        return []
    rows.append(["(class shares)", *_bare(result.baselines["majority"], CALIBRATION)])
    return ["\n".join(aligned(rows))]


def _thresholds(result: EvaluationResult) -> list[str]:
    """Return the block of thresholds, with the metric that they were chosen by before and after."""
    effects = {head.head: head.threshold for head in result.heads if head.threshold is not None}
    if not effects:
        return []
    metric = next(iter(effects.values())).metric
    title = "F1 of the smaller class" if metric == "f1" else metric.replace("_", " ")
    rows = [[f"threshold by {title}", "before", "after", f"{result.classes[1]} from"]]
    for head, effect in effects.items():
        start = f"margin {effect.margin:.2g}"
        if effect.probability is not None:
            start = f"probability {effect.probability:.3f}"
        rows.append([head, interval(effect.before), interval(effect.after), start])
    return ["\n".join(aligned(rows))]


def _line(title: str, metrics: dict[str, Estimate], names: Sequence[str]) -> list[str]:
    cells = [interval(metrics[name]) if name in metrics else "-" for name in names]
    return [title, *cells]


def _classes(result: EvaluationResult, head: HeadResult) -> str:
    figures = head.per_class
    columns = {"precision": figures.precision, "recall": figures.recall, "F1": figures.f1}
    if isinstance(figures, LabelFigures):
        told = head.predictions
        prevalence = told.weights @ told.y_true / told.weights.sum()
        columns = {"AP": figures.average_precision, "prevalence": prevalence, **columns}
    # With repeats each image was predicted in every one.
    counts = "images" if result.repeats == 1 else "predictions"
    rows = [[head.head, *columns, "weight" if result.metric_weight else counts]]
    for c, name in enumerate(result.classes):
        ratios = ["-" if np.isnan(v[c]) else f"{v[c]:.3f}" for v in columns.values()]
        rows.append([name, *ratios, _count(figures.support[c])])
    return "\n".join(aligned(rows))


def _count(images: float) -> str:
    """Return a number of images, or a sum of their weights."""
    return f"{images:.10g}" if images == round(images) else f"{images:.1f}"


def _confusion(result: EvaluationResult, head: HeadResult) -> str:
    """Return the matrix, or for many classes its largest entries off the diagonal."""
    if len(result.classes) <= WIDEST_CONFUSION:
        rows = [["true \\ predicted", *result.classes]]
        for name, counts in zip(result.classes, head.confusion, strict=True):
            rows.append([name, *map(_count, counts)])
        return "\n".join(aligned(rows))
    wrong = head.confusion * (1 - np.eye(len(result.classes), dtype=head.confusion.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSED]
    rows = [["true", "taken for", "images"]]
    for true, called in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[true, called]:
            rows.append([result.classes[true], result.classes[called], _count(wrong[true, called])])
    return "\n".join(aligned(rows, left=(0, 1)))
