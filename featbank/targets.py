"""Targets: files that results go to, tried before the work that brings them."""

from __future__ import annotations

import os

from featbank import durable
from featbank.errors import DataError

__all__ = ["prepare_target"]


def prepare_target(path: str | os.PathLike[str]) -> str:
    """Make the folder of a file that will be written, and try whether it can be written to.

    Returns
    -------
    str
        The path.

    Raises
    ------
    DataError
        The file can't be written there.
    """
    path = os.fspath(path)
    if not os.path.basename(path):
        raise DataError(f"{path!r} names no file; name one.")
    if os.path.exists(path) and (not os.path.isfile(path) or path.startswith("/dev/")):
        what = "a folder" if os.path.isdir(path) else "no plain file"
        raise DataError(f"{path} is {what}; name a file instead; an existing one is replaced.")
    folder = os.path.dirname(path) or "."
    try:
        durable.make_directory(folder)
        durable.try_writing(folder)
    except OSError as error:
        raise DataError(
            f"{path} can't be written ({error.strerror or error}); name a file in a folder that "
            "can be written."
        ) from None
    return path
