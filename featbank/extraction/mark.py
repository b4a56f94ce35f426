"""The mark: which image a worker is at, in memory that its parent reads; it needs no message."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile

__all__ = ["Mark"]

_SIZE = 8  # bytes: one number, which is written and read in one step
_LOW = (1 << 32) - 1


class Mark:
    """A number that one process sets and another looks at.

    Parameters
    ----------
    handle : int, optional
        A file descriptor of another process's mark; without one, a new mark is made.

    Attributes
    ----------
    handle : int
    """

    def __init__(self, handle: int | None = None) -> None:
        self.handle = _new_file() if handle is None else handle
        self._map = mmap.mmap(self.handle, _SIZE)
        self._cell = memoryview(self._map).cast("Q")

    def set(self, item: int | None) -> None:
        """Say that work on an image begins; None: on no image in particular."""
        count = (self._cell[0] >> 32) + 1 & _LOW
        self._cell[0] = count << 32 | (0 if item is None else item + 1)

    def look(self) -> tuple[int, int | None]:
        """Return a number that is another after each `set`, and the image that was set."""
        state = self._cell[0]
        low = state & _LOW
        return state, low - 1 if low else None

    def close(self) -> None:
        """Give the memory back."""
        self._cell.release()
        self._map.close()
        with contextlib.suppress(OSError):
            os.close(self.handle)


def _new_file() -> int:
    """Return the descriptor of a file of zeros that has no name."""
    if hasattr(os, "memfd_create"):  # of Linux, and never on a disk that is full
        handle = os.memfd_create("featbank")
    else:
        with tempfile.TemporaryFile(buffering=0) as file:
            handle = os.dup(file.fileno())
    os.write(handle, bytes(_SIZE))
    return handle
