"""Tables of an evaluation as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featbank.evaluation.metrics import METRICS, Estimate
from featbank.evaluation.result import EvaluationResult, HeadResult

__all__ = ["render"]

WIDEST_CONFUSION = 12
MOST_CONFUSED = 10


def render(result: EvaluationResult, *, details: bool) -> str:
    """Return the table of heads, and with `details` each head's classes and confusions."""
    blocks = [_summary(result)]
    if details:
        for head in result.heads:
            blocks += [_classes(result, head), _confusion(result, head)]
    notes = [*result.notes, *(f"{h.head}: {note}" for h in result.heads for note in h.notes)]
    if notes:
        blocks.append("\n".join(f"note: {note}" for note in notes))
    return "\n\n".join(blocks)


def _summary(result: EvaluationResult) -> str:
    held = [f"{result.images} images", f"{len(result.classes)} classes"]
    if result.groups is not None:
        held.append(f"{result.groups} groups kept together")
    if result.duplicates:
        held.append(f"{result.duplicates} duplicate" + "s" * (result.duplicates > 1))
    word = "mean" if result.folds > 1 else "score"
    names = [name for name in METRICS if any(name in h.metrics for h in result.heads)]
    rows = [["head", *(METRICS[name] for name in names), "seconds", "chosen"]]
    for head in result.heads:
        chosen = ", ".join(f"{k.rpartition('__')[2]}={v}" for k, v in head.best_params.items())
        rows.append(_line(head.head, head.metrics, names, f"{head.seconds:.1f}", chosen))
        if head.without_duplicates is not None:
            rows.append(_line("  no duplicates", head.without_duplicates, names, "", ""))
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return "\n".join(
        [
            f"{result.protocol}: {', '.join(held)}",
            f"{word} ± the 95 % confidence interval (its wider side)",
            "",
            *_aligned(rows),
        ]
    )


def _line(
    title: str, metrics: dict[str, Estimate], names: Sequence[str], seconds: str, chosen: str
) -> list[str]:
    cells = [_estimate(metrics[name]) if name in metrics else "-" for name in names]
    return [title, *cells, seconds, chosen]


def _estimate(estimate: Estimate) -> str:
    half = max(estimate.mean - estimate.low, estimate.high - estimate.mean)
    return f"{estimate.mean:.3f}" + ("" if np.isnan(half) else f" ±{half:.3f}")


def _classes(result: EvaluationResult, head: HeadResult) -> str:
    figures = head.per_class
    rows = [[head.head, "precision", "recall", "F1", "images"]]
    columns = zip(figures.precision, figures.recall, figures.f1, figures.support, strict=True)
    for name, (precision, recall, f1, support) in zip(result.classes, columns, strict=True):
        ratios = ["-" if np.isnan(v) else f"{v:.3f}" for v in (precision, recall, f1)]
        rows.append([name, *ratios, str(support)])
    return "\n".join(_aligned(rows))


def _confusion(result: EvaluationResult, head: HeadResult) -> str:
    """Return the matrix, or for many classes its largest entries off the diagonal."""
    if len(result.classes) <= WIDEST_CONFUSION:
        rows = [["true \\ predicted", *result.classes]]
        for name, counts in zip(result.classes, head.confusion, strict=True):
            rows.append([name, *map(str, counts)])
        return "\n".join(_aligned(rows))
    wrong = head.confusion * (1 - np.eye(len(result.classes), dtype=head.confusion.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSED]
    rows = [["true", "taken for", "images"]]
    for true, called in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[true, called]:
            rows.append([result.classes[true], result.classes[called], str(wrong[true, called])])
    return "\n".join(_aligned(rows))


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return lines of columns two spaces apart, the first to the left, figures to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = {0} | {i for i, title in enumerate(rows[0]) if title in ("chosen", "taken for")}
    return [
        "  ".join(
            cell.ljust(width) if i in text else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
