"""Digests: files read whole, with the ``stat`` that belongs to the bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from featbank.data.decode import DecodeLimits, read_bytes, unreadable
from featbank.data.index import IndexedSource
from featbank.data.pages import file_of
from featbank.data.walk import numbers_of
from featbank.errors import ImageError

__all__ = ["Stat", "learned", "read_file"]

Stat = tuple[int, int, int, int, int]
"""Size, mtime, ctime, inode, and when they were looked at; as in a `Listing`."""


def read_file(path: bytes, limits: DecodeLimits) -> tuple[bytes, Stat]:
    """Read a file's bytes with the ``stat`` that belongs to them.

    Raises
    ------
    ImageError
        It can't be read, or changed meanwhile.
    """
    before = _stat(path)
    data = read_bytes(path, limits)
    if _stat(path)[:4] != before[:4]:
        raise ImageError("it changed while it was read; run again when nothing writes to it.")
    return data, before


def _stat(path: bytes) -> Stat:
    scanned = time.time_ns()
    try:
        info = os.stat(file_of(path))
    except OSError as error:
        raise ImageError(unreadable(error)) from error
    return (*numbers_of(info), scanned)


def learned(
    source: IndexedSource,
    progress: Callable[[int], None] | None = None,
    *,
    rows: npt.NDArray[np.bool_] | None = None,
) -> IndexedSource:
    """Return a source with the digest of every file whose bytes were unknown.

    Files in the ledger are left alone, and one that can't be read stays unknown.

    Parameters
    ----------
    source : IndexedSource
    progress : callable, optional
        Called with 1 for every file that was looked at.
    rows : ndarray of shape (N,), bool, optional
        Look at these alone.
    """
    listing = source.listing
    columns = {
        n: getattr(listing, n).copy() for n in ("size", "mtime", "ctime", "inode", "scanned")
    }
    digest, known = source.digest.copy(), source.known.copy()
    unknown = ~source.known & ~source.failed
    for row in np.flatnonzero(unknown if rows is None else unknown & rows).tolist():
        try:
            data, stat = read_file(source.path(row), DecodeLimits())
        except ImageError:
            continue
        finally:
            if progress is not None:
                progress(1)
        for column, value in zip(columns.values(), stat, strict=True):
            column[row] = value
        digest[row] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
        known[row] = True
    return dataclasses.replace(
        source,
        listing=dataclasses.replace(listing, **columns),
        digest=digest,
        known=known,
    )
