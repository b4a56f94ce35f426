"""The rows of a protocol: which classes each has, and which are train, valid and test."""

from __future__ import annotations

from typing import Any

import numpy as np

from featbank.errors import EvaluationError
from featbank.evaluation.folds import Int, hold_out, units_per_class
from featbank.evaluation.inputs import Inputs
from featbank.evaluation.multilabel.sets import LabelSets, are_label_sets, label_sets
from featbank.evaluation.protocols.registry import PROTOCOLS

__all__ = ["labels_of", "parts_of", "with_split"]


def with_split(labels: Any, splits: Any) -> tuple[Any, int]:
    """Return the labels of rows that have a split, None for others, and how many those are."""
    if splits is None or not hasattr(labels, "__len__") or len(splits) != len(labels):
        return labels, 0
    kept = [bool(split) and split == split for split in splits]
    pairs = list(zip(labels, kept, strict=True))
    apart = sum(label is not None and not one for label, one in pairs)
    return [label if one else None for label, one in pairs], apart


def labels_of(y: Any, protocol: str) -> tuple[Any, LabelSets | None]:
    """Return one label a row, and all labels where a row may have several.

    The one label of several is the rarest, by which a part that is held out is stratified.
    """
    if not are_label_sets(y):
        return y, None
    sets = label_sets(y)
    if not PROTOCOLS[protocol].multilabel:
        several = ", ".join(name for name, entry in PROTOCOLS.items() if entry.multilabel)
        raise EvaluationError(
            f"{protocol} takes one class a row, and several were given; {several} takes them."
        )
    rank = np.argsort(sets.indicator[sets.known].sum(axis=0), kind="stable")
    names = [sets.classes[k] for k in rank]
    one = [
        names[row.argmax()] if row.any() else "" if known else None
        for row, known in zip(sets.indicator[:, rank], sets.known, strict=True)
    ]
    return one, sets


def parts_of(
    data: Inputs, protocol: str, cv: float | None, seed: int
) -> tuple[Int, Int | None, Int, list[str]]:
    """Return the rows of train, valid and test, and notes.

    Raises
    ------
    EvaluationError
        There is nothing to learn from or to score on.
    """
    names = np.array(["train" if s is None else s for s in data.splits or [None] * len(data.codes)])
    given = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
    for name in given:
        if name not in ("train", "valid", "test"):
            raise EvaluationError(
                f"{protocol} goes by one split into train, valid and test, and there is {name!r}; "
                "give such a split (--split random:80/20)."
            )
    if "train" not in given:
        raise EvaluationError(
            f"the labelled rows are in {', '.join(given)}; {protocol} needs rows of train."
        )
    train, valid, test = (given.get(name) for name in ("train", "valid", "test"))
    assert train is not None
    if test is None and valid is None:
        if cv is None:
            raise EvaluationError(
                f"{protocol} scores rows of test, and there are none; make them with --split "
                "random:80/20 or --cv 0.25, in Python with splits= or cv=0.25."
            )
        told = f"test is {100 * cv:.3g}% of each class, held out by chance with seed {seed}."
        return (*_held_out(data, cv, seed), [told])
    if cv is not None:
        raise EvaluationError(
            f"the rows have splits ({', '.join(sorted(given))}), which stand as they are; ask for "
            "no cv, or pass no splits (--split none)."
        )
    if test is None:
        assert valid is not None
        told = f"there is no split test: the {len(valid)} images of valid are what is scored."
        return train, None, valid, [told]
    return train, valid, test, []


def _held_out(data: Inputs, cv: float, seed: int) -> tuple[Int, None, Int]:
    if not 0 < cv < 1:
        raise EvaluationError(
            f"cv is the share that is held out as test, above 0 and below 1, not {cv}: a protocol "
            "has one test part and no folds."
        )
    per_class = units_per_class(data.codes, data.units)
    least = int(per_class.argmin())
    if per_class[least] < 2:
        raise EvaluationError(
            f"class {str(data.classes[least])!r} has too few different images or groups "
            f"({per_class[least]}) to be both learned from and scored on; add some or leave the "
            "class out."
        )
    held = hold_out(data.codes, data.units, cv, np.random.default_rng(seed))
    return np.flatnonzero(~held), None, np.flatnonzero(held)
