"""Frames: plain records as a pandas DataFrame, where pandas is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featbank.errors import MissingDependency

__all__ = ["data_frame"]


def data_frame(records: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Any:
    """Return a DataFrame with one row a record; what a record lacks is NaN.

    Parameters
    ----------
    records : sequence of mapping
    columns : sequence of str, optional
        Names of the columns; by default the keys of the records, in their order.

    Raises
    ------
    MissingDependency
        pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingDependency(
            "to_frame() requires pandas, which is not installed; "
            "install it with pip install 'featbank[pandas]'."
        ) from error
    return pd.DataFrame(list(records), columns=None if columns is None else list(columns))
