"""Units: rows that belong together, through a group, equal bytes, or both."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["codes_of", "units_of"]

Int = npt.NDArray[np.intp]


def codes_of(values: Any) -> Int:
    """Return a number for each distinct value, shape (n,), -1 where a value is None.

    `values` is a sequence of strings, bytes, numbers or None, or an array of bytes of shape (n, b).
    """
    if isinstance(values, np.ndarray) and values.ndim == 2:
        rows = np.ascontiguousarray(values)
        values = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
        values = [value.tobytes() for value in values]
    seen: dict[Any, int] = {}
    numbers = (-1 if v is None or v != v else seen.setdefault(v, len(seen)) for v in values)
    return np.fromiter(numbers, dtype=np.intp)


def units_of(n: int, *labelings: Int | None) -> Int:
    """Return the unit of each of `n` rows: connected through equal codes in any labeling.

    A code of -1 connects nothing.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends: list[tuple[Int, Int]] = []
    nodes = n
    for labeling in labelings:
        if labeling is None:
            continue
        rows = np.flatnonzero(labeling >= 0)
        ends.append((rows, labeling[rows] + nodes))
        nodes += int(labeling.max(initial=-1)) + 1
    if not ends:
        return np.arange(n)
    row, column = (np.concatenate(side) for side in zip(*ends, strict=True))
    graph = coo_array((np.ones(len(row), dtype=bool), (row, column)), shape=(nodes, nodes))
    found = connected_components(graph, directed=False)[1][:n]
    return np.unique(found, return_inverse=True)[1]
