"""Folds: which rows are held out together, so that nothing that belongs together is parted.

A *unit* is the smallest set of rows that never straddles a fold: rows of one group, rows of equal
bytes, and what hangs together through either.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["deal", "hold_out", "units_per_class"]

Array = npt.NDArray[Any]
Int = npt.NDArray[np.intp]


def units_per_class(y: Int, units: Int) -> Int:
    """Return in how many units each class occurs."""
    pairs = np.unique(np.column_stack([y, units]), axis=0)
    return np.bincount(pairs[:, 0], minlength=int(y.max()) + 1)


def deal(y: Int, units: Int, k: int, random: np.random.Generator) -> Int:
    """Deal rows to `k` folds, by class, keeping units whole.

    Units of several rows go first, the largest ahead, each to the fold that has least of its
    classes; then single rows bring every class level. With single rows only this is stratified
    k-fold: a class's counts differ by one row at most.

    Returns
    -------
    ndarray of shape (n,)
        The fold of each row, 0 to k - 1.
    """
    fold = np.full(len(y), -1, dtype=np.intp)
    total = np.bincount(y)
    load = np.zeros((k, len(total)))
    for rows in _large_units(units, random):
        counts = np.bincount(y[rows], minlength=len(total))
        present = counts > 0
        filled = (load[:, present] / total[present] * counts[present]).sum(axis=1)
        chosen = np.lexsort((random.random(k), load.sum(axis=1), filled))[0]
        fold[rows] = chosen
        load[chosen] += counts
    for c in random.permutation(len(total)):
        rows = random.permutation(np.flatnonzero((fold < 0) & (y == c)))
        sizes = load.sum(axis=1)
        heap = [(load[f, c], sizes[f], random.random(), f) for f in range(k)]
        heapq.heapify(heap)
        for row in rows:
            filled_c, size, tie, f = heap[0]
            heapq.heapreplace(heap, (filled_c + 1, size + 1, tie, f))
            fold[row] = f
            load[f, c] += 1
    return fold


def hold_out(y: Int, units: Int, fraction: float, random: np.random.Generator) -> Array:
    """Choose about `fraction` of each class's rows, keeping units whole.

    Returns
    -------
    ndarray of shape (n,), bool
        True where a row is held out. Of each class at least one row stays.
    """
    held = np.zeros(len(y), dtype=bool)
    total = np.bincount(y)
    left = np.clip(np.rint(fraction * total), 1, np.maximum(total - 1, 1))
    single = np.ones(len(y), dtype=bool)
    # Not the largest first: then units that are a little smaller would never be held out.
    large = _large_units(units, random)
    for rows in (large[i] for i in random.permutation(len(large))):
        single[rows] = False
        counts = np.bincount(y[rows], minlength=len(total))
        if np.abs(left - counts).sum() < np.abs(left).sum() and np.all(counts < total):
            held[rows] = True
            left = left - counts
    for c in range(len(total)):
        rows = random.permutation(np.flatnonzero(single & (y == c)))
        held[rows[: max(0, int(left[c]))]] = True
    return held


def _large_units(units: Int, random: np.random.Generator) -> list[Int]:
    """Return the rows of each unit of several rows, the largest first, equal ones shuffled."""
    order = np.argsort(units, kind="stable")
    starts = np.flatnonzero(np.diff(units[order], prepend=-1))
    large = [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]
    shuffled = [large[i] for i in random.permutation(len(large))]
    return sorted(shuffled, key=len, reverse=True)
