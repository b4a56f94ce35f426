"""Sequences: images named by an object in memory, read into a `Table`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from featbank.data.tables import Table, table_of
from featbank.errors import DataError

__all__ = ["read_sequence"]


def read_sequence(
    location: Any, labels: Iterable[Any] | None, columns: Mapping[str, str | None]
) -> tuple[str, Table]:
    """Read the images that an object in memory names.

    Parameters
    ----------
    location : sequence, DataFrame or data set
        Paths; pairs of path and label; a pandas DataFrame; an object with ``samples`` (pairs of
        path and class number) and perhaps ``classes`` and ``root``, as torchvision's ImageFolder.
    labels : iterable or None
        One a path, where `location` is a sequence of paths.
    columns : mapping
        For a DataFrame; see `featbank.data.tables.table_of`.

    Returns
    -------
    root : str
        What relative paths are relative to, by default.
    table : Table

    Raises
    ------
    DataError
        For anything else, and for a path or a label too many.
    """
    pandas = sys.modules.get("pandas")  # whoever has a DataFrame has imported it
    if pandas is not None and isinstance(location, pandas.DataFrame):
        if labels is not None:
            raise DataError("labels go with a sequence of paths; a DataFrame has its own column.")
        header = [str(column) for column in location.columns]
        cells = location.itertuples(index=False, name=None)
        rows = [[_text(cell) for cell in row] for row in cells]
        table = table_of(header, rows, columns=columns, where="the DataFrame")
        return ".", _with_paths(table)
    if columns:
        raise DataError("columns are for tables; give the labels of a sequence as labels.")
    root = "."
    if hasattr(location, "samples"):
        names = getattr(location, "classes", None)
        root = os.fsdecode(getattr(location, "root", "."))
        pairs = [(_from_here(path, root), names[y] if names else y) for path, y in location.samples]
    else:
        try:
            items = list(location)
        except TypeError:
            raise DataError(
                f"a {type(location).__name__} is no source; expected a folder, a table, a list of "
                "paths, a DataFrame or a data set with samples."
            ) from None
        paired = [isinstance(item, tuple | list) and len(item) == 2 for item in items]
        if any(paired) and (labels is not None or not all(paired)):
            raise DataError("expected either paths (with labels beside them) or pairs, not both.")
        pairs = items if any(paired) else [(item, None) for item in items]
        if labels is not None:
            values = list(labels)
            if len(values) != len(items):
                raise DataError(
                    f"there are {len(items)} paths and {len(values)} labels; give one label a path."
                )
            pairs = list(zip(items, values, strict=True))
    nothing: tuple[None, ...] = (None,) * len(pairs)
    try:
        paths = tuple(os.fsdecode(path) for path, _ in pairs)
    except TypeError as error:
        raise DataError(f"expected paths: {error}.") from None
    table = Table(paths, tuple(_text(label) for _, label in pairs), nothing, nothing)
    return root, _with_paths(table)


def _from_here(path: Any, root: str) -> Any:
    """Return a data set's path whole if it begins with a relative root, as torchvision's do."""
    if os.path.isabs(root) or not isinstance(path, str | bytes | os.PathLike):
        return path
    inside = os.path.join(os.path.normpath(root), "")
    begins = os.path.normpath(os.fsdecode(path)).startswith(inside)
    return os.path.abspath(path) if begins else path


def _with_paths(table: Table) -> Table:
    if not table.path:
        raise DataError("the list of images is empty; give at least one path.")
    if "" in table.path:
        raise DataError(f"row {table.path.index('') + 1} has no path.")
    return table


def _text(value: Any) -> str | None:
    """Return a cell as text; None for what pandas and NumPy take for missing."""
    if value is None or value != value or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, bytes | os.PathLike):
        return os.fsdecode(value)
    return str(value) or None
