"""The regular file, opened for reading: never a pipe, a device or a folder under its name.

To open a pipe is to wait for whoever writes to it, and some devices have no end. What strangers
send is therefore opened here, and looked at before it is read.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import BinaryIO

__all__ = ["NotRegular", "check_regular", "fits_in_memory", "open_regular"]

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class NotRegular(OSError):
    """What bears the name is no regular file, or a link where none may be.

    Its ``strerror`` goes on from the name: "is not a regular file".
    """


def open_regular(path: Path, *, follow: bool = True) -> io.BufferedReader:
    """Open a file for reading, if it is one.

    Parameters
    ----------
    path : path-like
    follow : bool
        Whether the name may be a link to the file.

    Raises
    ------
    NotRegular
        It is something else than a regular file, or a link where none may be.
    OSError
        It can't be opened.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # which changes nothing on a regular file
    try:
        handle = os.open(path, flags | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP and not follow and os.path.islink(path):
            raise _refused(
                path, "is a link to another file; put a copy of that in its place"
            ) from None
        if error.errno == errno.ENXIO:  # a socket
            raise _refused(path, "is not a regular file") from None
        raise
    try:
        _check_mode(os.fstat(handle).st_mode, path)
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def check_regular(path: Path, *, follow: bool = True) -> None:
    """Raise what `open_regular` would raise, for those who open the file themselves."""
    open_regular(path, follow=follow).close()


def fits_in_memory(file: BinaryIO) -> bool:
    """Tell whether a file could be read whole on this machine; a hole may declare terabytes."""
    return os.fstat(file.fileno()).st_size < os.sysconf("SC_PHYS_PAGES") * os.sysconf(
        "SC_PAGE_SIZE"
    )


def _check_mode(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise _refused(path, "is a folder")
    if not stat.S_ISREG(mode):
        raise _refused(path, "is not a regular file")


def _refused(path: Path, words: str) -> NotRegular:
    return NotRegular(errno.EINVAL, words, os.fsdecode(path))
