"""Label sets: several labels a row as an indicator matrix, and folds stratified by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError
from featbank.evaluation.folds import Int

__all__ = ["LabelSets", "are_label_sets", "deal_sets", "label_sets", "units_per_label"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LabelSets:
    """Labels of n rows.

    Attributes
    ----------
    indicator : ndarray of shape (n, K), bool
    classes : tuple of str
        Names of the columns.
    known : ndarray of shape (n,), bool
        False where a row has no labels given, which is not the same as having none of them.
    """

    indicator: Array
    classes: tuple[str, ...]
    known: Array

    def words(self) -> list[str | None]:
        """Return each row's labels as one text, ``"cat;dog"``, None where they are not known."""
        names = np.array(self.classes)
        return [
            ";".join(names[row]) or "no label" if known else None
            for row, known in zip(self.indicator, self.known, strict=True)
        ]


def are_label_sets(y: Any) -> bool:
    """Tell whether labels are several a row: a matrix, or sets, lists or tuples."""
    if getattr(y, "ndim", 1) == 2:
        return True
    if isinstance(y, str) or not np.iterable(y):
        return False
    first = next((row for row in y if row is not None), None)
    return isinstance(first, set | frozenset | list | tuple)


def label_sets(y: Any, classes: Sequence[str] | None = None) -> LabelSets:
    """Bring labels to an indicator matrix.

    Parameters
    ----------
    y : sequence of set, or array-like of shape (n, K)
        Sets, lists or tuples of words, None where a row's labels are not known; or a matrix of 0
        and 1.
    classes : sequence of str, optional
        Names of a matrix's columns (by default those of a data frame, else their numbers); with
        sets, the labels that count (by default all, sorted).

    Raises
    ------
    EvaluationError
    """
    matrix = np.asarray(y) if getattr(y, "ndim", 1) == 2 else None
    if matrix is not None:
        names = classes if classes is not None else getattr(y, "columns", range(matrix.shape[1]))
        names = tuple(str(name) for name in names)
        if len(names) != matrix.shape[1] or len(set(names)) < len(names):
            raise EvaluationError(
                f"the indicator matrix has {matrix.shape[1]} columns, and classes names "
                f"{len(set(names))}; give one name for each."
            )
        if matrix.dtype.kind not in "biuf" or not np.isin(matrix, [0, 1]).all():
            raise EvaluationError(
                f"labels of shape {matrix.shape} are neither one class a row nor a matrix of 0 and "
                "1, with a column for each label; give one or the other."
            )
        return LabelSets(matrix.astype(bool), names, np.ones(len(matrix), dtype=bool))
    rows = list(y)
    for i, row in enumerate(rows):
        if row is not None and not isinstance(row, set | frozenset | list | tuple):
            raise EvaluationError(
                f"row {i} has the label {row!r}, and others have several; give every row a set of "
                "labels, or None."
            )
    found = [None if row is None else {str(label) for label in row} for row in rows]
    names = tuple(classes or sorted({label for row in found if row for label in row}))
    place = {name: i for i, name in enumerate(names)}
    indicator = np.zeros((len(rows), len(names)), dtype=bool)
    for i, own in enumerate(found):
        indicator[i, [place[label] for label in own or () if label in place]] = True
    return LabelSets(indicator, names, np.array([row is not None for row in found], dtype=bool))


def units_per_label(indicator: Array, units: Int) -> Int:
    """Return in how many units each label occurs, shape (K,)."""
    return (_per_unit(indicator, units) > 0).sum(axis=0)


def deal_sets(
    indicator: Array, units: Int, shares: Sequence[float], random: np.random.Generator
) -> Int:
    """Deal rows to folds of these shares by iterative stratification, keeping units whole.

    The label with the fewest rows left goes first; each of its units goes to the fold that lacks
    most of the label, of equal ones to the fold with most room. Rows without labels fill up.

    Returns
    -------
    ndarray of shape (n,)
        The fold of each row, 0 to ``len(shares) - 1``.

    References
    ----------
    K. Sechidis, G. Tsoumakas and I. Vlahavas, "On the stratification of multi-label data", ECML
    PKDD (2011), algorithm 1; here with units in the place of rows, the largest first.
    """
    unit = np.unique(units, return_inverse=True)[1]
    counts, sizes = _per_unit(indicator, units), np.bincount(unit)
    part = np.asarray(shares, dtype=np.float64) / np.sum(shares)
    lacking = part[:, None] * counts.sum(axis=0)
    room = part * len(unit)
    fold = np.full(len(sizes), -1, dtype=np.intp)

    def place(one: int, wish: Array) -> None:
        chosen = int(np.lexsort((random.random(len(part)), -room, -wish))[0])
        fold[one] = chosen
        lacking[chosen] -= counts[one]
        room[chosen] -= sizes[one]

    while (left := (counts[fold < 0] > 0).sum(axis=0)).any():
        label = int(np.where(left > 0, left, len(unit) + 1).argmin())
        members = random.permutation(np.flatnonzero((fold < 0) & (counts[:, label] > 0)))
        for one in members[np.argsort(-counts[members, label], kind="stable")]:
            place(one, lacking[:, label])
    rest = random.permutation(np.flatnonzero(fold < 0))
    for one in rest[np.argsort(-sizes[rest], kind="stable")]:
        place(one, room)
    return fold[unit]


def _per_unit(indicator: Array, units: Int) -> Int:
    """Return how many rows of each unit have each label, shape (units, K)."""
    unit = np.unique(units, return_inverse=True)[1]
    counts = np.zeros((int(unit.max()) + 1, indicator.shape[1]), dtype=np.intp)
    np.add.at(counts, unit, indicator)
    return counts
