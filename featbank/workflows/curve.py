"""Curve: what more labels would bring, from the features of a bank."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featbank.bank.bank import Bank
from featbank.workflows.rows import check_jobs, select_rows
from featbank.workflows.views import checked_combination, how_many, note_on_views, seeing

if TYPE_CHECKING:
    from featbank.evaluation.curves import LearningCurve

__all__ = ["curve"]


def curve(
    bank: Bank | str | os.PathLike[str] = "bank",
    head: Any = "logreg",
    *,
    recipe: str | None = None,
    layers: str | Sequence[str] | None = None,
    views: str | None = None,
    combine: str | None = None,
    source: str | Sequence[str] | None = None,
    label: str | None = None,
    positive: str | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    split: str | None = None,
    group: str | None = None,
    metric_weight: str | None = None,
    keep_copies: bool = False,
    sizes: Sequence[int] | None = None,
    draws: int = 10,
    uneven: bool = False,
    metric: str = "accuracy",
    worth: float = 0.01,
    cv: int | float | None = None,
    near_duplicates: float | None = None,
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    class_weight: Any = None,
    scoring: str = "accuracy",
    random_state: int = 0,
    n_jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LearningCurve:
    """Score heads that learned from 1, 2, 4, ... labels a class of a bank's images.

    Parameters
    ----------
    bank, head, recipe, layers, views, combine, source, label, positive, classes, exclude
        As in `featbank.fit`.
    split, keep_copies, group, metric_weight
        As in `featbank.fit`.
    sizes, draws, uneven, metric, worth, cv, near_duplicates, tune, params, class_weight, scoring
        As in `featbank.learning_curve`.
    random_state, n_jobs, progress
        As there.

    Returns
    -------
    LearningCurve

    Raises
    ------
    FeaturesMissing, AmbiguousFeatures, DataError, EvaluationError, HeadError

    Examples
    --------
    >>> import featbank
    >>> print(featbank.curve("bank", ["logreg", "svm"]))  # doctest: +SKIP
    """
    from featbank.evaluation.curves import learning_curve
    from featbank.evaluation.curves.run import check_curve

    check_jobs(n_jobs)
    check_curve(sizes=sizes, draws=draws, metric=metric, worth=worth)
    heads = head if isinstance(head, list | tuple) else [head]
    options: dict[str, Any] = {
        "cv": cv,
        "near_duplicates": near_duplicates,
        "tune": tune,
        "params": params,
        "class_weight": class_weight,
        "scoring": scoring,
        "random_state": random_state,
    }
    rows = select_rows(
        bank,
        recipe=recipe,
        layers=layers,
        views=views,
        combine=combine,
        source=source,
        label=label,
        positive=positive,
        classes=classes,
        exclude=exclude,
        split=split,
        random_state=random_state,
        group=group,
        metric_weight=metric_weight,
        keep_copies=keep_copies,
        check=lambda rows: rows.check(heads, **options),
    )
    n_views, combine = how_many(rows.selection, views), checked_combination(views, combine)
    result = rows.score(
        learning_curve,
        rows.selection.X,
        [seeing(one, n_views, combine) for one in heads],
        sizes=sizes,
        draws=draws,
        uneven=uneven,
        metric=metric,
        worth=worth,
        n_jobs=n_jobs,
        progress=progress,
        **options,
    )
    told = note_on_views(n_views, combine)
    return dataclasses.replace(result, notes=(*told, *result.notes))
