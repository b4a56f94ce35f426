"""Near-duplicates: images whose features point the same way, joined into clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError
from featbank.evaluation.folds import Int

__all__ = ["NearDuplicates", "check_similarity", "near_duplicates"]

Array = npt.NDArray[Any]

BLOCK = 2048  # rows: a tile of similarities has 16 MiB
ROUNDING = 2e-6  # of a cosine in float32
WAITING = 1 << 22  # pairs, before they are joined into clusters


@dataclass(frozen=True)
class NearDuplicates:
    """Clusters of rows that are alike.

    Attributes
    ----------
    threshold : float
    cluster : ndarray of shape (n,), intp
        The cluster of each row, counted from 0; -1 for a row without a neighbour.
    """

    threshold: float
    cluster: Int

    @property
    def clusters(self) -> int:
        """How many there are."""
        return int(self.cluster.max(initial=-1)) + 1

    @property
    def largest(self) -> int:
        """How many rows the largest has."""
        return int(np.bincount(self.cluster[self.cluster >= 0], minlength=1).max())

    @property
    def images(self) -> int:
        """How many rows are in one."""
        return int((self.cluster >= 0).sum())

    def take(self, rows: Int) -> NearDuplicates:
        """Return the clusters of some rows; one with a single row left is none."""
        found, at, count = np.unique(self.cluster[rows], return_inverse=True, return_counts=True)
        kept = (count > 1) & (found >= 0)
        number = np.where(kept, np.cumsum(kept) - 1, -1)
        return NearDuplicates(self.threshold, number[at])

    def spread(self, rows: Int, n: int) -> NearDuplicates:
        """Return the same for `n` rows, of which these are at the places `rows`."""
        cluster = np.full(n, -1, dtype=np.intp)
        cluster[rows] = self.cluster
        return NearDuplicates(self.threshold, cluster)


def check_similarity(threshold: Any) -> None:
    """Refuse what is no cosine similarity from which images could count as one.

    Raises
    ------
    EvaluationError
    """
    if not (isinstance(threshold, int | float | np.number) and 0 < threshold <= 1):
        raise EvaluationError(
            f"near_duplicates is {threshold!r}; give a cosine similarity in (0, 1], such as 0.98."
        )


def near_duplicates(X: Any, threshold: float) -> NearDuplicates:
    """Join rows whose cosine similarity is `threshold` or more, and what hangs together by them.

    Rows of features that are all zero have no direction and join nothing. Similarities are computed
    in float32, a tile at a time: memory grows with the rows, not with their pairs.

    Labels take no part, so that clusters of all rows tell a fold nothing of what it is scored on:
    they only keep rows together, or out of its training part.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Features, as the network gave them.
    threshold : float
        In (0, 1]. How alike different images are depends on the network; where a cluster holds what
        you would tell apart, raise it.

    Raises
    ------
    EvaluationError
        The threshold is outside (0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> near_duplicates(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.01]]), 0.98).cluster
    array([ 0, -1,  0])
    """
    check_similarity(threshold)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    unit = np.asarray(X)
    if unit.dtype not in (np.float32, np.float64):
        unit = unit.astype(np.float32)
    # Squares of larger numbers overflow.
    largest = np.maximum(unit.max(axis=1, keepdims=True), -unit.min(axis=1, keepdims=True))
    unit = (unit / np.where(largest > 0, largest, 1)).astype(np.float32, copy=False)
    length = np.sqrt(np.einsum("ij,ij->i", unit, unit))[:, None]
    unit /= np.where(length > 0, length, 1)
    n = len(unit)
    cluster = np.arange(n)
    pairs: list[tuple[Int, Int]] = []

    def joined() -> Int:
        ends = [*pairs, (np.arange(n), cluster)]  # a row and any row of its cluster
        row, column = (np.concatenate(side) for side in zip(*ends, strict=True))
        graph = coo_array((np.ones(len(row), dtype=bool), (row, column)), shape=(n, n))
        found = connected_components(graph, directed=False)[1]
        return np.unique(found, return_index=True)[1][found]

    waiting = 0
    for top in range(0, n, BLOCK):
        for left in range(top, n, BLOCK):
            tile = unit[top : top + BLOCK] @ unit[left : left + BLOCK].T
            row, column = np.nonzero(tile >= threshold - ROUNDING)
            row, column = row + top, column + left
            apart = cluster[row] != cluster[column]
            if apart.any():
                pairs.append((row[apart], column[apart]))
                waiting += int(apart.sum())
            if waiting > WAITING:
                cluster, waiting = joined(), 0
                pairs.clear()
    return NearDuplicates(float(threshold), joined()).take(np.arange(n))
