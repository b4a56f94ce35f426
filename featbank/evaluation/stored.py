"""Stored results: one head's result as plain data and arrays, to be kept and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from featbank.evaluation.intervals import Estimate
from featbank.evaluation.result import HeadResult, Predictions

__all__ = ["packed", "unpacked"]

Array = npt.NDArray[Any]

_ARRAYS = ("rows", "fold", "y_true", "y_pred", "scores", "probability", "unit", "weight")
_WORDS = (
    *("head", "best_params", "fold_params", "seconds", "without_duplicates", "calibrated"),
    *("fold_learned", "notes"),
)


def packed(head: HeadResult) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return what a result holds as data for JSON, and the arrays of its predictions.

    Of results without threshold or `show_leak`, calibrated by default if at all, and of one label
    an image.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from featbank import cross_validate
    >>> X, y = load_iris(return_X_y=True)
    >>> lda = cross_validate(X, y, "lda", tune=False)["lda"]
    >>> unpacked(*packed(lda), classes=3).to_dict() == lda.to_dict()
    True
    """
    told = head.to_dict()
    about = {name: told[name] for name in _WORDS}
    about["metrics"] = {name: told[name] for name in head.metrics}
    arrays = {name: getattr(head.predictions, name) for name in _ARRAYS}
    return about, {name: values for name, values in arrays.items() if values is not None}


def unpacked(about: Mapping[str, Any], arrays: Mapping[str, Array], *, classes: int) -> HeadResult:
    """Return the result that `packed` was given.

    Parameters
    ----------
    about, arrays : mapping
    classes : int
        How many there are.

    Raises
    ------
    LookupError, TypeError, ValueError, AttributeError
        This is no such result.
    """
    told = Predictions(**{name: arrays.get(name) for name in _ARRAYS})  # type: ignore[arg-type]
    clean = about["without_duplicates"]
    return HeadResult(
        head=about["head"],
        metrics=_estimates(about["metrics"]),
        best_params=dict(about["best_params"]),
        fold_params=tuple(dict(chosen) for chosen in about["fold_params"]),
        confusion=told.confusion(classes),
        predictions=told,
        seconds=float(about["seconds"]),
        without_duplicates=None if clean is None else _estimates(clean),
        calibrated=about.get("calibrated"),
        fold_learned=tuple(about.get("fold_learned", ())),
        notes=tuple(about["notes"]),
    )


def _estimates(found: Mapping[str, Any]) -> dict[str, Estimate]:
    estimates = {}
    for name, one in found.items():
        low, high = (float("nan") if end is None else end for end in one["ci95"])
        estimates[name] = Estimate(one["mean"], low, high, tuple(one["values"]))
    return estimates
