"""Baselines: what scores are worth that know nothing but how frequent classes are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.evaluation.metrics import METRICS

__all__ = ["baseline_line", "baselines", "label_baselines"]

Array = npt.NDArray[Any]

Baselines = dict[str, dict[str, float]]


def baselines(counts: Sequence[float] | Array) -> Baselines:
    """Return what the majority class, and chance, score on classes of these sizes.

    ``majority`` always predicts the largest class; its probabilities, which log loss and Brier
    score judge, are the classes' shares. ``chance`` predicts each class as often as it occurs.

    Examples
    --------
    >>> found = baselines([75, 25])
    >>> found["majority"]["accuracy"], found["chance"]["accuracy"]
    (0.75, 0.625)
    """
    sizes = np.asarray(counts, dtype=np.float64)
    share = sizes[sizes > 0] / sizes.sum()
    k, most = len(share), float(share.max())
    squares = float(share @ share)
    return {
        "majority": {
            "accuracy": most,
            "balanced_accuracy": 1 / k,
            "macro_f1": 2 * most / (1 + most) / k,
            "roc_auc": 0.5,
            "log_loss": float(-(share @ np.log(share))),
            "brier": (1 - squares) / (2 if len(sizes) == 2 else 1),
        },
        "chance": {"accuracy": squares, "balanced_accuracy": 1 / k, "macro_f1": 1 / k,
                   "roc_auc": 0.5},
    }  # fmt: skip


def label_baselines(y: Array, weight: Array | None = None) -> Baselines:
    """Return what is had without looking, of indicators of shape (m, K).

    ``majority`` predicts the most frequent set of labels; ``chance`` ranks images at random, which
    gives each label an average precision of its prevalence.
    """
    w = np.ones(len(y)) if weight is None else weight
    prevalence = w @ y / w.sum()
    place = np.unique(y, axis=0, return_inverse=True)[1].ravel()
    return {
        "majority": {"subset_accuracy": float(np.bincount(place, w).max() / w.sum())},
        "chance": {"map": float(prevalence[prevalence > 0].mean())},
    }


def baseline_line(found: Baselines, metrics: Sequence[str]) -> str:
    """Return the baselines of some metrics in a line.

    Examples
    --------
    >>> baseline_line(baselines([75, 25]), ["accuracy", "roc_auc"])
    'baselines: majority accuracy 0.750, ROC AUC 0.500; chance accuracy 0.625'
    """
    told: list[str] = []
    seen: dict[str, float] = {}
    for name, values in found.items():
        own = [m for m in metrics if m in values and seen.get(m) != values[m]]
        seen |= {m: values[m] for m in own}
        if own:
            told.append(
                f"{name} " + ", ".join(f"{METRICS.get(m, 'mAP')} {values[m]:.3f}" for m in own)
            )
    return f"baselines: {'; '.join(told)}" if told else ""
