"""Frames: plain columns as a pandas DataFrame, where pandas is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featbank.errors import MissingDependency

__all__ = ["data_frame"]


def data_frame(columns: Mapping[str, Sequence[Any]]) -> Any:
    """Return a DataFrame of columns of equal length, in their order.

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
    return pd.DataFrame(dict(columns))
