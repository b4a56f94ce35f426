"""Curve: what more labels would bring, from the features of a bank."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featbank.bank.bank import Bank
from featbank.errors import EvaluationError
from featbank.workflows.fit import splits_of
from featbank.workflows.labels import chosen_labels, label_column

if TYPE_CHECKING:
    from featbank.evaluation.curves import LearningCurve

__all__ = ["curve"]


def curve(
    bank: Bank | str | os.PathLike[str] = "bank",
    head: Any = "logreg",
    *,
    recipe: str | None = None,
    layers: str | Sequence[str] | None = None,
    source: str | Sequence[str] | None = None,
    label: str | None = None,
    positive: str | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    split: str | None = None,
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
    bank, head, recipe, layers, source, label, positive, classes, exclude, split
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

    if n_jobs == 0:
        raise EvaluationError("n_jobs is 0; give the number of fits at a time, or -1: one a core.")
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    column = label_column(label, positive)
    chosen = bank.select(
        recipe,
        layers.split(",") if isinstance(layers, str) else layers,
        source=source,
        label=column,
    )
    found = chosen_labels(
        chosen.labels,
        chosen.paths,
        column=column,
        positive=positive,
        classes=classes,
        exclude=exclude,
    )
    result = learning_curve(
        chosen.X,
        found.y,
        head,
        sizes=sizes,
        draws=draws,
        uneven=uneven,
        metric=metric,
        worth=worth,
        cv=cv,
        splits=splits_of(chosen, found.strata, split, random_state),
        groups=chosen.groups if any(word is not None for word in chosen.groups) else None,
        digests=chosen.digests,
        near_duplicates=near_duplicates,
        tune=tune,
        params=params,
        class_weight=class_weight,
        scoring=scoring,
        random_state=random_state,
        n_jobs=n_jobs,
        progress=progress,
    )
    return dataclasses.replace(result, notes=(*found.notes, *result.notes))
