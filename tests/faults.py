"""Faults: a file system whose calls can be made to fail, behind the seam `featbank.durable.fs`."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from featbank import durable


class FaultyFileSystem(durable.FileSystem):
    """Records its calls; the one numbered `at` fails, and with `lasting` all that need space after.

    Parameters
    ----------
    at : int or None
    number : int
        The error's ``errno``.
    only : str or None
        Count only calls of this name.
    lasting : bool
        Whether later creations, writes and syncs fail too, as on a full disk.
    """

    def __init__(
        self,
        at: int | None = None,
        *,
        number: int = errno.ENOSPC,
        only: str | None = None,
        lasting: bool = False,
    ) -> None:
        self.calls: list[str] = []
        self.failed: str | None = None
        self._at, self._number, self._only, self._lasting = at, number, only, lasting
        self._counted = 0

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if self.failed and self._lasting and name in ("create", "write", "sync", "mkdir"):
            raise OSError(self._number, os.strerror(self._number))
        if self._only in (None, name):
            if self._counted == self._at:
                self._counted += 1
                self.failed = name
                raise OSError(self._number, os.strerror(self._number))
            self._counted += 1


def _recorded(name: str) -> Any:
    def method(self: FaultyFileSystem, *args: Any) -> Any:
        self._step(name)
        return getattr(durable.FileSystem, name)(self, *args)

    return method


for _name in ("create", "write", "sync", "replace", "link", "unlink", "mkdir", "sync_directory"):
    setattr(FaultyFileSystem, _name, _recorded(_name))


@contextmanager
def faulty(*args: Any, **options: Any) -> Iterator[FaultyFileSystem]:
    """Put a `FaultyFileSystem` behind the seam meanwhile."""
    before, durable.fs = durable.fs, FaultyFileSystem(*args, **options)
    try:
        yield durable.fs
    finally:
        durable.fs = before


def error_of(operation: Callable[..., Any], *args: Any) -> OSError | None:
    """Return the `OSError` that a call ends in, if it does."""
    try:
        operation(*args)
    except OSError as error:
        return error
    return None
