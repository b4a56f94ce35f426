"""The plan of an evaluation with several labels a row: its parts, and the labels it can score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError
from featbank.evaluation.inputs import Inputs
from featbank.evaluation.multilabel.sets import deal_sets, units_per_label
from featbank.evaluation.plan import FOLDS, INNER_FOLDS, Part, Plan, plan, plan_final, scorable

__all__ = ["LabelData", "plan_final_sets", "plan_sets"]

Array = npt.NDArray[Any]

_ALIKE = "all images to learn from are alike in it"


@dataclass(frozen=True)
class LabelData:
    """Rows whose labels are known.

    Attributes
    ----------
    inputs : Inputs
        Its classes are sets of labels.
    indicator : ndarray of shape (n, K), bool
    classes : tuple of str
    weights : ndarray of shape (n,), or None
    notes : tuple of str
        What was left out.
    """

    inputs: Inputs
    indicator: Array
    classes: tuple[str, ...]
    weights: Array | None
    notes: tuple[str, ...] = ()

    def keep(self, kept: Array, why: str) -> LabelData:
        """Leave out labels, and say so."""
        if kept.all():
            return self
        names = [name for name, stays in zip(self.classes, kept, strict=True) if not stays]
        shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
        what = f"label {shown} was" if len(names) == 1 else f"{len(names)} labels were"
        note = f"{what} left out, for {why}" + ("." if len(names) == 1 else f": {shown}.")
        classes = tuple(name for name in self.classes if name not in names)
        return replace(
            self, indicator=self.indicator[:, kept], classes=classes, notes=(*self.notes, note)
        )


def plan_sets(
    data: LabelData, *, cv: int | float | None, repeats: int, seed: int
) -> tuple[LabelData, Plan]:
    """Decide the parts, and leave out labels that can't be scored on them; see `plan`.

    Raises
    ------
    EvaluationError
        What was asked for can't be had from these rows.
    """
    given = {word for word in data.inputs.splits or () if word}
    if given - {"train"}:
        made = plan(_neutral(data.inputs), cv=cv, repeats=repeats, seed=seed)
    else:
        data, made = _made(data, cv, repeats, seed)
        made = scorable(made, data.inputs)
    parts = [*made.parts, *([made.clean] if made.clean else [])]
    data = data.keep(_told_apart(data.indicator, parts), _ALIKE)
    clean = _with_inner(made.clean, data, seed) if made.clean else None
    return data, replace(
        made, parts=tuple(_with_inner(part, data, seed) for part in made.parts), clean=clean
    )


def plan_final_sets(data: LabelData, *, seed: int) -> tuple[LabelData, Part]:
    """Decide what the classifier for use is fitted on, and which labels it knows."""
    part = plan_final(_neutral(data.inputs), seed=seed)
    data = data.keep(_told_apart(data.indicator, [part]), _ALIKE)
    return data, _with_inner(part, data, seed)


def _neutral(inputs: Inputs) -> Inputs:
    """Return the same with classes that ask nothing of a plan."""
    codes = np.arange(len(inputs.rows)) % 2
    return replace(inputs, codes=codes, y=codes, classes=np.arange(2))


def _made(
    data: LabelData, cv: int | float | None, repeats: int, seed: int
) -> tuple[LabelData, Plan]:
    if repeats < 1:
        raise EvaluationError(f"repeats is at least 1, not {repeats}.")
    units = data.inputs.units
    share = cv if isinstance(cv, float) and not cv.is_integer() else None
    if share is not None and not 0 < share < 1:
        raise EvaluationError(f"cv is a number of folds or a share in (0, 1), not {cv}.")
    counts = np.minimum(
        units_per_label(data.indicator, units), units_per_label(~data.indicator, units)
    )
    most = int(counts.max(initial=0))
    k = 2 if share is not None else min(FOLDS, max(most, 2)) if cv is None else int(cv)
    if k < 2:
        raise EvaluationError(f"cv is at least 2 folds, not {k}.")
    if most < k:
        raise EvaluationError(
            f"{k} folds can't be had: no label has {k} different images with it and {k} without "
            f"it, but at most {most}; ask for fewer folds, or add images."
        )
    data = data.keep(counts >= k, f"fewer than {k} different images have it, or lack it")
    notes = []
    if cv is None and k < FOLDS:
        notes.append(f"{k} folds instead of {FOLDS}: no label has more different images.")
    parts = []
    for repeat in range(repeats):
        random = np.random.default_rng([seed, repeat])
        shares = [1.0] * k if share is None else [share, 1 - share]
        fold = deal_sets(data.indicator, units, shares, random)
        for f in range(k if share is None else 1):
            parts.append(Part(np.flatnonzero(fold != f), np.flatnonzero(fold == f), ()))
    protocol = f"{k}-fold cross-validation stratified by label"
    if share is not None:
        protocol = f"{share:.0%} of each label held out"
    if repeats > 1:
        protocol += f", {repeats} repeats"
    made_cv: int | float = k if share is None else share
    return data, Plan(protocol, tuple(parts), notes=tuple(notes), cv=made_cv)


def _told_apart(indicator: Array, parts: Sequence[Part]) -> Array:
    """Return which labels some images have and others lack in every training part."""
    kept = np.ones(indicator.shape[1], dtype=bool)
    for part in parts:
        own = indicator[part.train]
        kept &= own.any(axis=0) & ~own.all(axis=0)
    if not kept.any():
        raise EvaluationError(
            "no label tells the images to learn from apart; give other splits or other labels."
        )
    return kept


def _with_inner(part: Part, data: LabelData, seed: int) -> Part:
    """Stratify the inner folds by label, unless the splits gave them."""
    given = set(data.inputs.splits or ())
    if {"train", "valid", "test"} <= given or any(str(word).startswith("fold") for word in given):
        return part
    units = data.inputs.units[part.train]
    if len(np.unique(units)) < INNER_FOLDS:
        return replace(part, inner=())
    random = np.random.default_rng([seed, len(part.train)])
    fold = deal_sets(data.indicator[part.train], units, [1.0] * INNER_FOLDS, random)
    inner = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(INNER_FOLDS)]
    return replace(part, inner=tuple(inner))
