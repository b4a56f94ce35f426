"""Options: what can be refused before any features are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from featbank.evaluation.crossval import prepared
from featbank.evaluation.fitting import candidates
from featbank.evaluation.multilabel.sets import are_label_sets
from featbank.evaluation.neighbours import NearDuplicates, check_similarity
from featbank.evaluation.plan import check_folds

__all__ = ["check_options"]


def check_options(
    y: Any,
    head: Any,
    *,
    cv: int | float | None = None,
    repeats: int = 1,
    near_duplicates: float | NearDuplicates | None = None,
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    class_weight: Any = None,
    calibrate: bool | str = False,
    threshold: str | None = None,
    scoring: str = "accuracy",
    random_state: int = 0,
    device: str | None = None,
) -> None:
    """Raise what `featbank.cross_validate` would raise for these options, whatever the features.

    Raises
    ------
    EvaluationError, HeadError
    """
    check_folds(cv, repeats)
    if near_duplicates is not None and not isinstance(near_duplicates, NearDuplicates):
        check_similarity(near_duplicates)
    words: dict[str, Any] = {
        "tune": tune,
        "params": params,
        "calibrate": calibrate,
        "scoring": scoring,
        "device": device,
    }
    if are_label_sets(y):
        candidates(head, class_weight=None, seed=random_state, threshold=threshold, **words)
        return
    prepared(
        np.arange(len(y), dtype=np.float32)[:, None],  # any features that are not constant
        y,
        head,
        splits=None,
        groups=None,
        digests=None,
        near_duplicates=None,
        keep_copies=True,  # which takes no look at them
        class_weight=class_weight,
        sample_weight=None,
        threshold=threshold,
        random_state=random_state,
        **words,
    )
