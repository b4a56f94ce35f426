"""Faults: a file system whose calls can be made to fail, behind the seam `featbank.durable.fs`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from featbank import durable

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NEEDS_SPACE = ("create", "open_lock", "write", "truncate", "sync", "mkdir")


class FaultyFileSystem(durable.FileSystem):
    """Records its calls; the one numbered `at` fails, and with `lasting` those after it.

    Parameters
    ----------
    at : int or None
    number : int
        The error's ``errno``.
    only : str or None
        Count only calls of this name.
    lasting : bool
        Whether later calls fail too: on a full disk those that need space, else all.
    most : int or None
        A write takes so many bytes at most.

    Attributes
    ----------
    calls : list of str
    failed : str or None
        The call that failed first.
    cached : bool
        Whether that call was on a file that nobody misses.
    errors : list of str
        All calls that failed.
    syncs : list of (int, bool)
        Which file each sync was for, and whether it succeeded.
    """

    def __init__(
        self,
        at: int | None = None,
        *,
        number: int = errno.ENOSPC,
        only: str | None = None,
        lasting: bool = False,
        most: int | None = None,
    ) -> None:
        self.calls: list[str] = []
        self.failed: str | None = None
        self.cached = False
        self.errors: list[str] = []
        self.syncs: list[tuple[int, bool]] = []
        self._at, self._number, self._only, self._lasting = at, number, only, lasting
        self._most = most
        self._counted = 0
        self._files: dict[int, int] = {}  # descriptor to number; descriptors are used again

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if self.failed and self._lasting:
            if self._number not in _FULL or name in _NEEDS_SPACE:
                self._fail(name)
        elif self._only in (None, name):
            self._counted += 1
            if self._counted - 1 == self._at:
                self.failed = name
                self.cached = _within("write_cache")
                self._fail(name)

    def _fail(self, name: str) -> None:
        self.errors.append(name)
        raise OSError(self._number, os.strerror(self._number))

    def create(self, path: str) -> int:
        self._step("create")
        fd = super().create(path)
        self._files[fd] = len(self.calls)
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        self._step("write")
        return super().write(fd, data[: self._most])

    def sync(self, fd: int) -> None:
        self.syncs.append((self._files[fd], False))
        self._step("sync")
        super().sync(fd)
        self.syncs[-1] = (self._files[fd], True)


def _within(function: str) -> bool:
    """Tell whether one of the callers bears this name."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == function:
            return True
    return False


def _recorded(name: str) -> Any:
    def method(self: FaultyFileSystem, *args: Any) -> Any:
        self._step(name)
        return getattr(durable.FileSystem, name)(self, *args)

    return method


for _name in vars(durable.FileSystem).keys() - vars(FaultyFileSystem).keys():
    if not _name.startswith("_"):
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
