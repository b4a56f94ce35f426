"""The final fit: one head on all rows that no split reserves, for use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from featbank.evaluation.crossval import check_plain, prepared
from featbank.evaluation.fitting import fit
from featbank.evaluation.multilabel.sets import are_label_sets
from featbank.evaluation.neighbours import NearDuplicates
from featbank.evaluation.plan import plan_final

__all__ = ["FinalFit", "fit_final"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FinalFit:
    """A head fitted for use.

    Attributes
    ----------
    head : str
    estimator : estimator
        Fitted on the labels as given.
    classes : tuple of str
        In the order of the estimator's ``classes_``.
    best_params : dict
        What was chosen; empty where nothing was.
    rows : ndarray of intp
        Positions of the rows it was fitted on.
    seconds : float
    notes : tuple of str
    learned : dict of str to float
        See `featbank.heads.adjusted.AdjustedHead.learned`.
    """

    head: str
    estimator: Any
    classes: tuple[str, ...]
    best_params: dict[str, Any]
    rows: Array
    seconds: float
    notes: tuple[str, ...]
    learned: dict[str, float] = field(default_factory=dict)


def fit_final(
    X: Any,
    y: Any,
    head: Any = "logreg",
    *,
    classes: Sequence[str] | None = None,
    splits: Any = None,
    groups: Any = None,
    digests: Any = None,
    keep_copies: bool = False,
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    class_weight: Any = None,
    sample_weight: Any = None,
    calibrate: bool | str | None = None,
    threshold: str | None = None,
    scoring: str = "accuracy",
    near_duplicates: float | NearDuplicates | None = None,
    random_state: int = 0,
    device: str | None = None,
) -> FinalFit:
    """Fit one head for use, on all labelled rows that no split ``test`` reserves.

    Hyper-parameters are chosen by cross-validation on these rows (with train, valid and test: on
    valid), as `cross_validate` does inside a fold; see there for the arguments and errors.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> fit_final(X, y, "ridge", params={"alpha": 1.0}).estimator.predict(X[:2])
    array([0, 0])
    """
    options: dict[str, Any] = {
        "splits": splits,
        "groups": groups,
        "digests": digests,
        "keep_copies": keep_copies,
        "near_duplicates": near_duplicates,
        "tune": tune,
        "params": params,
        "class_weight": class_weight,
        "sample_weight": sample_weight,
        "calibrate": calibrate,
        "threshold": threshold,
        "scoring": scoring,
        "random_state": random_state,
    }
    if classes is not None or are_label_sets(y):
        check_plain(X, device)
        from featbank.evaluation.multilabel.run import fit_final_sets

        return fit_final_sets(X, y, head, classes=classes, **options)
    data, (candidate,), weights = prepared(X, y, [head], device=device, **options)
    part = plan_final(data, seed=random_state)
    fitted = fit(
        candidate,
        data.X[part.train],
        data.y[part.train],
        part.inner,
        across=part.across,
        sample_weight=None if weights is None else weights[part.train],
    )
    return FinalFit(
        head=candidate.name,
        estimator=fitted.estimator,
        classes=tuple(str(c) for c in fitted.estimator.classes_),
        best_params=fitted.best_params,
        rows=data.rows[part.train],
        seconds=fitted.seconds,
        notes=fitted.notes,
        learned=fitted.learned,
    )
