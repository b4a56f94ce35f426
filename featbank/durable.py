"""Durable files: a file's final name means that it is complete and on the disk.

Every file that featbank keeps is written here: to a temporary in the same directory, synced, given
its name in one step, and the directory synced. A process that is killed, or a machine that loses
power, leaves the old file or the new one, whole, and at worst a temporary that
`remove_temporaries` sweeps. A sync that fails is final: the temporary is deleted and the error
raised, for a second sync may report success for pages that the kernel has dropped.

`fs` is the seam: all system calls that change the disk go through it, so that a test can record
them, leave them out or let them fail.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import secrets
import time
from collections.abc import Iterator
from typing import Any

__all__ = [
    "Spool",
    "fs",
    "lock",
    "make_directory",
    "publish_file",
    "remove_temporaries",
    "replacing",
    "temporary",
    "write_file",
]

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_PREFIX = ".featbank-tmp-"
_STALE_SECONDS = 3600.0


class FileSystem:
    """The system calls that change the disk."""

    def create(self, path: str) -> int:
        """Create a new file and return its descriptor."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, fd: int, data: memoryview) -> int:
        """Write some of `data`, return how many bytes."""
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        """Bring the file's bytes to the disk."""
        os.fsync(fd)

    def replace(self, source: str, target: str) -> None:
        """Give `source` the name `target`, whatever bore it."""
        os.replace(source, target)

    def link(self, source: str, target: str) -> None:
        """Give `source` the further name `target`, which must be free."""
        os.link(source, target)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        """Make a directory."""
        os.mkdir(path)

    def sync_directory(self, path: str) -> None:
        """Bring a directory's names to the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


fs = FileSystem()


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[fs.write(fd, data) :]


def temporary(directory: str) -> str:
    """Return a name for a temporary in `directory` that `remove_temporaries` knows again."""
    return os.path.join(directory, f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}")


class Spool(io.RawIOBase):
    """A temporary file that is written at will and remembers its first error.

    HDF5 crashes the process when a write fails under it. So the first `OSError` is kept in
    `error`, later writes are swallowed, and whoever finishes the file raises it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.error: OSError | None = None
        self._fd = fs.create(path)

    def readable(self) -> bool:  # noqa: D102
        return True

    def writable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:  # noqa: D102
        return os.lseek(self._fd, offset, whence)

    def tell(self) -> int:  # noqa: D102
        return os.lseek(self._fd, 0, os.SEEK_CUR)

    def readinto(self, buffer: Any) -> int:  # noqa: D102
        return os.readv(self._fd, [buffer])

    def truncate(self, size: int | None = None) -> int:  # noqa: D102
        size = self.tell() if size is None else size
        self._guard(os.ftruncate, self._fd, size)
        return size

    def write(self, data: Any) -> int:  # noqa: D102
        view = memoryview(data).cast("B")
        self._guard(_write_all, self._fd, view)
        return len(view)

    def finish(self) -> None:
        """Sync and close; raise the first error that writing met."""
        try:
            if self.error is None:
                fs.sync(self._fd)
        finally:
            self.abandon()
        if self.error is not None:
            raise self.error

    def abandon(self) -> None:
        """Close without syncing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _guard(self, call: Any, *args: Any) -> None:
        if self.error is None:
            try:
                call(*args)
            except OSError as error:
                self.error = error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Spool]:
    """Give a `Spool` that takes the name `path` when the block ends without an error.

    Raises
    ------
    OSError
        The first error that writing met, whatever the block made of it; the old file stands.
    """
    target = os.fsdecode(path)
    directory = os.path.dirname(target) or "."
    spool = Spool(temporary(directory))
    try:
        yield spool
        spool.finish()
        fs.replace(spool.path, target)
    except BaseException as error:
        spool.abandon()
        _discard(spool.path)
        # HDF5 stumbles over what was never written, and its words hide that the disk is full.
        if isinstance(error, Exception) and spool.error not in (None, error):
            raise spool.error from error
        raise
    fs.sync_directory(directory)


def _discard(path: str) -> None:
    """Remove a temporary; one that stays is swept some day."""
    with contextlib.suppress(OSError):
        fs.unlink(path)


def _write_temporary(directory: str, data: bytes | memoryview) -> str:
    path = temporary(directory)
    fd = fs.create(path)
    try:
        try:
            _write_all(fd, memoryview(data).cast("B"))
            fs.sync(fd)
        finally:
            os.close(fd)
    except BaseException:
        _discard(path)
        raise
    return path


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, replacing what was there; all or nothing, and durably.

    Raises
    ------
    OSError
        The disk is full, the directory is missing or can't be written; the old file stands.
    """
    target = os.fsdecode(path)
    directory = os.path.dirname(target) or "."
    written = _write_temporary(directory, data)
    try:
        fs.replace(written, target)
    except BaseException:
        _discard(written)
        raise
    fs.sync_directory(directory)


def publish_file(path: Path, data: bytes | memoryview) -> bool:
    """Write `data` to `path` unless a file stands there already; durable either way.

    For names that are digests of the bytes: whoever comes second has nothing to add. It still
    syncs the directory, for the first may not have come so far.

    Returns
    -------
    bool
        Whether this call brought the file.
    """
    target = os.fsdecode(path)
    directory = os.path.dirname(target) or "."
    written = _write_temporary(directory, data)
    fresh = True
    try:
        fs.link(written, target)
    except FileExistsError:
        fresh = False
    except OSError:
        # Some network and FAT file systems have no links; a rename of equal bytes does no harm.
        fs.replace(written, target)
    finally:
        _discard(written)
    fs.sync_directory(directory)
    return fresh


def make_directory(path: Path) -> None:
    """Make a directory and its missing parents, each durable; one that exists is fine."""
    target = os.path.abspath(os.fsdecode(path))
    if os.path.isdir(target):
        return
    parent = os.path.dirname(target)
    make_directory(parent)
    with contextlib.suppress(FileExistsError):
        fs.mkdir(target)
    if not os.path.isdir(target):
        raise NotADirectoryError(f"{target} is not a folder.")
    fs.sync_directory(parent)


def remove_temporaries(directory: Path) -> int:
    """Remove temporaries that a dead process left in `directory` over an hour ago."""
    removed = 0
    with os.scandir(os.fsdecode(directory)) as entries:
        for entry in entries:
            if not entry.name.startswith(_PREFIX):
                continue
            with contextlib.suppress(OSError):  # another process sweeps too, or it is not ours
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_SECONDS:
                    fs.unlink(entry.path)
                    removed += 1
    return removed


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` alone; a process that dies lets go of it."""
    fd = os.open(os.fsdecode(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
