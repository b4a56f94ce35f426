"""Reading: from the columns that a bank holds to the features that heads are given.

Everything that learns or predicts goes through `as_features`, so that both see the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.backbones.covariance import power_of
from featbank.backbones.recipe import Column
from featbank.errors import BankDamaged

__all__ = ["as_features", "dtype_of"]

Array = npt.NDArray[Any]


def as_features(
    read: Callable[[int], Array], columns: Sequence[Column], *, averaged: int = 1
) -> Array:
    """Return the features of some images, the columns' side by side.

    Parameters
    ----------
    read : callable
        Takes a column's position, and returns its rows, (N, D), as they are stored.
    columns : sequence of Column
    averaged : int
        So many views, one behind the other among the columns, are read as their mean.

    Returns
    -------
    ndarray of shape (N, sum of D) of `dtype_of`
        Covariances are raised to a power (see `featbank.backbones.covariance`): those of averaged
        views their mean, others each by itself.

    Raises
    ------
    BankDamaged
        What a column holds is not what its name says.
    """
    each = len(columns) // averaged
    blocks = [_block(read, columns, range(i, len(columns), each)) for i in range(each)]
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


def dtype_of(columns: Sequence[Column], averaged: int = 1) -> np.dtype[Any]:
    """Return what numbers features are: as they are stored, and float32 where that is reckoned."""
    own = [np.dtype("float32" if c.pooling == "cov" else c.dtype) for c in columns]
    return np.result_type(*own, *([np.float32] if averaged > 1 else []))


def _block(read: Callable[[int], Array], columns: Sequence[Column], views: range) -> Array:
    """Return the features of one column, or of the mean of its views."""
    column, block = columns[views[0]], read(views[0])
    if len(views) > 1:
        block = block.astype(np.float32)
        for view in views[1:]:
            block += read(view)
        block /= len(views)
    if column.pooling != "cov":
        return block
    try:
        return power_of(block)
    except ValueError as error:
        raise BankDamaged(f"{column.name} holds no covariances: {error}.") from error
