"""Inputs of predict: image files, folders of images, and tables that name images."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from featbank.data.sequences import read_sequence
from featbank.data.sources import find_images
from featbank.data.tables import TABLES, Table, read_csv
from featbank.data.walk import shown
from featbank.errors import DataError

__all__ = ["named_images"]


def named_images(
    images: Any,
    *,
    root: str | bytes | os.PathLike[str] | None = None,
    columns: Mapping[str, str | None] | None = None,
    delimiter: str | None = None,
) -> dict[str, bytes]:
    """Return the images that a caller names: each name as given, and its path.

    Parameters
    ----------
    images : path, sequence of paths, or DataFrame
        Image files, folders, and tables, which are files that end in ``.csv``, ``.tsv``, ``.tab``
        or ``.txt``. A name that occurs twice counts once.
    root : path, optional
        Folder that the paths of a table are relative to: by default the table's own folder, for a
        DataFrame the current one.
    columns : mapping, optional
        Name of the column of paths where it is not ``path``: ``{"path": "file"}``.
    delimiter : str, optional
        Delimiter of a table, where it is none of comma, semicolon and tab.

    Raises
    ------
    SourceNotFound
        A file or folder does not exist.
    DataError
        There are no images, no image of a table exists, or an option has no table to apply to.
    """
    pandas = sys.modules.get("pandas")  # a DataFrame exists only once pandas is imported
    if pandas is not None and isinstance(images, pandas.DataFrame):
        _, table = read_sequence(images, None, columns or {})
        return _listed(table, "." if root is None else root, "the DataFrame")
    one = isinstance(images, str | bytes | os.PathLike)
    try:
        given = [os.fsdecode(path) for path in ([images] if one else images)]
    except TypeError:
        given = []
        find_images(images)  # raises
    tables = {path for path in given if path.lower().endswith(TABLES) and os.path.isfile(path)}
    if not tables and (root is not None or columns or delimiter is not None):
        raise DataError(
            "root, the column of paths and the delimiter are for tables, and no table was given; "
            "leave them out."
        )
    found: dict[str, bytes] = {}
    for is_table, some in groupby(given, key=tables.__contains__):
        if not is_table:
            found |= {os.fsdecode(path): path for path in find_images(some)}
            continue
        for path in some:
            table, _ = read_csv(path, columns=columns or {}, delimiter=delimiter)
            top = os.path.dirname(path) if root is None else root
            found |= _listed(table, top, shown(path))
    if not given:
        find_images(given)  # raises
    return found


def _listed(table: Table, root: str | bytes | os.PathLike[str], where: str) -> dict[str, bytes]:
    top = os.path.expanduser(os.fsencode(root))
    found = {name: os.path.join(top, os.fsencode(name)) for name in table.path}
    if not any(map(os.path.exists, found.values())):
        raise DataError(
            f"none of the {len(found)} images that {where} lists exists, for instance "
            f"{shown(next(iter(found.values())))}; give the folder that its paths are relative to "
            "as root."
        )
    return found
