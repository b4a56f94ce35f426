"""Durable files: a file's final name means that it is complete and on the disk.

Every file that featbank keeps is written here: to a temporary in the same directory, synced, given
its name in one step, and the directory synced. A process that is killed, or a machine that loses
power, leaves the old file or the new one, whole, and at worst a temporary that
`remove_temporaries` sweeps. A sync that fails is final: the temporary is deleted and the error
raised, for a second sync may report success for pages that the kernel has dropped.

A process may be killed between giving a name and syncing the directory, and the next one finds the
name. Before it relies on it, it syncs that directory itself: `make_directory` does so for the name
of a directory that is there already, `remove_temporaries` for every directory with a temporary in
it, and a published file's temporary goes only when the name is on the disk.

`fs` is the seam: all system calls that change the disk go through it, so that a test can record
them, leave them out or let them fail.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import secrets
import time
from collections.abc import Iterator
from typing import Any

__all__ = [
    "NO_LOCKS",
    "Spool",
    "fs",
    "lock",
    "make_directory",
    "move_file",
    "publish_file",
    "remove_folder",
    "remove_temporaries",
    "replacing",
    "temporary",
    "try_writing",
    "write_cache",
    "write_file",
]

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

log = logging.getLogger(__name__)

_PREFIX = ".featbank-tmp-"
_STALE_SECONDS = 3600.0
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""What ``flock`` says on a file system that has no locks."""


class FileSystem:
    """The system calls that change the disk."""

    def create(self, path: str) -> int:
        """Create a new file and return its descriptor."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def open_lock(self, path: str) -> int:
        """Open an empty file, made if it is missing, and return its descriptor."""
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            # Another user's lock may be readable only, and that is enough to hold it.
            if error.errno in (errno.EACCES, errno.EROFS):
                with contextlib.suppress(OSError):
                    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            raise

    def write(self, fd: int, data: memoryview) -> int:
        """Write some of `data`, return how many bytes."""
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        """Cut a file off at `size` bytes, or fill it up with zeros."""
        os.ftruncate(fd, size)

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

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        os.rmdir(path)

    def sync_directory(self, path: str) -> None:
        """Bring a directory's names to the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            # Some network file systems know no sync of a directory; they have no better to offer.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
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
        self._guard(fs.truncate, self._fd, size)
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
        fd, self._fd = self._fd, -1  # first: an interrupt must not let it be closed twice
        if fd >= 0:
            os.close(fd)

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


def _write_temporary(directory: str, data: bytes | memoryview, *, sync: bool = True) -> str:
    path = temporary(directory)
    fd = fs.create(path)
    try:
        try:
            _write_all(fd, memoryview(data).cast("B"))
            if sync:
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
    _replace(target, _write_temporary(directory, data))
    fs.sync_directory(directory)


def try_writing(directory: Path) -> None:
    """Make a file in a directory and remove it again: permissions alone don't tell.

    Raises
    ------
    OSError
        The directory is missing or can't be written.
    """
    _discard(_write_temporary(os.fsdecode(directory), b"", sync=False))


def write_cache(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` in one step but not durably, for what can be found out again.

    After a power loss the file may hold anything; whoever reads it must stand that.

    Raises
    ------
    OSError
        It could not be written; the old file stands.
    """
    target = os.fsdecode(path)
    _replace(target, _write_temporary(os.path.dirname(target) or ".", data, sync=False))


def _replace(target: str, written: str) -> None:
    """Give a temporary its name, or remove it."""
    try:
        fs.replace(written, target)
    except BaseException:
        _discard(written)
        raise


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
        try:
            fs.link(written, target)
        except FileExistsError:
            fresh = False
        except OSError:
            # Some network and FAT file systems have no links; a rename of equal bytes does no harm.
            fs.replace(written, target)
    except BaseException:
        _discard(written)
        raise
    fs.sync_directory(directory)
    _discard(written)  # until now it says that the name may not be on the disk
    return fresh


def move_file(source: Path, target: Path) -> None:
    """Give a file another name, in another folder too; durably, the new name before the old goes.

    Raises
    ------
    OSError
        It could not be moved.
    """
    old, new = (os.path.abspath(os.fsdecode(path)) for path in (source, target))
    make_directory(os.path.dirname(new))
    fs.replace(old, new)
    fs.sync_directory(os.path.dirname(new))
    fs.sync_directory(os.path.dirname(old))


def make_directory(path: Path) -> None:
    """Make a directory and its missing parents, each durable; one that exists is fine.

    Its name is on the disk afterwards, whoever made it.
    """
    target = os.path.abspath(os.fsdecode(path))
    parent = os.path.dirname(target)
    if os.path.isdir(target):
        # Whoever may not read the parent has not made anything in it either.
        with contextlib.suppress(PermissionError):
            fs.sync_directory(parent)
        return
    make_directory(parent)
    with contextlib.suppress(FileExistsError):
        fs.mkdir(target)
    if not os.path.isdir(target):
        raise NotADirectoryError(f"{target} is not a folder.")
    fs.sync_directory(parent)


def remove_folder(path: Path) -> None:
    """Remove a folder with all that is in it; its name is gone at once and durably.

    A process that is killed over it leaves a temporary at worst.
    """
    folder = os.path.abspath(os.fsdecode(path))
    parent = os.path.dirname(folder)
    doomed = temporary(parent)
    fs.replace(folder, doomed)
    fs.sync_directory(parent)
    _remove_tree(doomed)


def _remove_tree(path: str) -> None:
    """Remove a folder piece by piece; what stays is swept some day."""
    for folder, subfolders, names in os.walk(path, topdown=False):
        for name in names:
            _discard(os.path.join(folder, name))
        for name in subfolders:
            with contextlib.suppress(OSError):
                fs.rmdir(os.path.join(folder, name))
    with contextlib.suppress(OSError):
        fs.rmdir(path)


def remove_temporaries(directory: Path, *, seconds: float = _STALE_SECONDS) -> int:
    """Remove temporaries that a dead process left in `directory` over an hour ago.

    Who knows that no process writes there can give a shorter time than an hour in `seconds`.

    Where there is any temporary, its writer may have been killed before it came to syncing a name
    that it had given. So the directory is synced: all names in it hold from now on.
    """
    directory = os.fsdecode(directory)
    with os.scandir(directory) as entries:
        found = [entry for entry in entries if entry.name.startswith(_PREFIX)]
    if found:
        fs.sync_directory(directory)
    removed = 0
    for entry in found:
        with contextlib.suppress(OSError):  # another process sweeps too, or it is not ours
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > seconds:
                if entry.is_dir(follow_symlinks=False):
                    _remove_tree(entry.path)
                else:
                    fs.unlink(entry.path)
                removed += 1
    return removed


@contextlib.contextmanager
def lock(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`; a process that dies lets go of it.

    Where the file system has no locks (some network drives), a lock that waits is not held and a
    warning says so; one that does not wait is for what must know itself alone, and is refused.

    Parameters
    ----------
    path : path
        Made if it is missing.
    shared : bool
        Hold it beside others that share it, rather than alone.
    wait : bool
        Wait until it is free.

    Raises
    ------
    BlockingIOError
        It is held, and `wait` is false.
    OSError
        The file can't be made, or the file system has no locks and `wait` is false.
    """
    name = os.fsdecode(path)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        fd = fs.open_lock(name)
        try:
            try:
                fcntl.flock(fd, kind if wait else kind | fcntl.LOCK_NB)
            except OSError as error:
                if not wait or error.errno not in NO_LOCKS:
                    raise
                log.warning(
                    "%s can't be locked (%s): let one process at a time write there",
                    name,
                    error.strerror,
                )
            # Whoever held it may have removed it with its folder; then it keeps nobody out.
            if not _bears(fd, name):
                continue
            yield
            return
        finally:
            os.close(fd)


def _bears(fd: int, name: str) -> bool:
    """Tell whether the open file bears this name."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(name))
    except FileNotFoundError:
        return False
