"""Fitting of one head on one training part elsewhere: out of blocks on disk, or on a GPU."""

from __future__ import annotations

import time
from typing import Any

import numpy.typing as npt

from featbank.errors import HeadError
from featbank.evaluation.fitting import Candidate, Fitted, watched
from featbank.evaluation.plan import Fold
from featbank.heads.arrays import choose_on, fit_on
from featbank.heads.streaming import Blocks, fit_streamed
from featbank.heads.sweep import takes_views
from featbank.heads.weights import by_step

__all__ = ["fit_elsewhere"]


def fit_elsewhere(
    candidate: Candidate,
    X: npt.NDArray[Any] | Blocks,
    y: npt.NDArray[Any],
    inner: tuple[Fold, ...],
    sample_weight: npt.NDArray[Any] | None,
) -> Fitted:
    """Fit on these rows and nothing else, as `featbank.evaluation.fitting.fit` does.

    What is read in blocks is chosen on the first of the `inner` folds alone.

    Raises
    ------
    HeadError
        The head can't be fitted so, or calibration or a threshold was asked for.
    """
    from sklearn.base import clone

    where = "from blocks" if isinstance(X, Blocks) else f"on {candidate.device}"
    if candidate.calibrate or candidate.threshold:
        raise HeadError(
            f"calibration and a threshold can't be learned {where}; leave them out: logreg and mlp "
            "have probabilities of their own."
        )
    if takes_views(candidate.estimator):
        raise HeadError(
            f"decisions about views can't be averaged {where}; average their features (--combine "
            "features)."
        )
    start = time.perf_counter()
    estimator = clone(candidate.estimator)
    least = min((len(rows) for rows, _ in inner), default=len(y))
    values = candidate.grid(n_samples=least)
    weights = {}
    if sample_weight is not None:
        weights = by_step(estimator, candidate.name, sample_weight)
    best: dict[str, Any] = {}
    with watched(candidate.name, len(y), f"{where} ") as notes:
        if values and not inner:
            notes.append("a class is too small to choose parameters on; defaults were used.")
        if isinstance(X, Blocks):
            best = fit_streamed(
                estimator,
                X,
                y,
                values,
                inner[0] if inner else None,
                sample_weight=sample_weight,
                scoring=candidate.scoring,
            )
        else:
            device = str(candidate.device)
            if values and inner:
                best = choose_on(
                    device, estimator, values, X, y, inner, scoring=candidate.scoring, **weights
                )
            estimator = fit_on(device, estimator.set_params(**best), X, y, **weights)
    return Fitted(estimator, best, time.perf_counter() - start, tuple(notes))
