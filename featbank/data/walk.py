"""The walk: every image file below a folder, with its ``stat``, streamed and in the end sorted."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from featbank.data.formats import is_image_name
from featbank.data.ignored import Ignored
from featbank.data.index import Listing, Names, Text

__all__ = ["FileStats", "numbers_of", "shown", "walk"]

logger = logging.getLogger(__name__)

_MISSING = SimpleNamespace(st_size=-1, st_mtime_ns=0, st_ctime_ns=0, st_ino=0)


def shown(path: str | bytes) -> str:
    """Return a path as text that can be printed anywhere; bytes that are no text are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def numbers_of(state: os.stat_result) -> tuple[int, int, int, int]:
    """Return size, mtime, ctime and inode, each of which fits 64 bits with a sign."""
    # Some file systems number inodes beyond 2**63: only equality matters.
    inode = state.st_ino
    return (
        state.st_size,
        state.st_mtime_ns,
        state.st_ctime_ns,
        (inode if inode < 1 << 63 else inode - (1 << 64)),
    )


@dataclass(frozen=True)
class FileStats:
    """Five columns of ``stat``; see `Listing` for what they mean."""

    size: array[int] = field(default_factory=lambda: array("q"))
    mtime: array[int] = field(default_factory=lambda: array("q"))
    ctime: array[int] = field(default_factory=lambda: array("q"))
    inode: array[int] = field(default_factory=lambda: array("Q"))
    scanned: array[int] = field(default_factory=lambda: array("q"))

    def add(self, states: Iterable[os.stat_result | None], scanned: int) -> None:
        """Append files that were looked at together; None for one that is not there."""
        rows = [_MISSING if state is None else state for state in states]
        self.size.extend([row.st_size for row in rows])
        self.mtime.extend([row.st_mtime_ns for row in rows])
        self.ctime.extend([row.st_ctime_ns for row in rows])
        self.inode.extend([row.st_ino for row in rows])
        self.scanned.extend(itertools.repeat(scanned, len(rows)))

    def listing(
        self,
        names: list[bytes],
        *,
        label: Text,
        split: Text | None = None,
        group: Text | None = None,
        extra: dict[str, Text] | None = None,
    ) -> Listing:
        """Return all of it as a `Listing`, sorted by name; the columns come in `names`' order."""
        places = sorted(range(len(names)), key=names.__getitem__)
        order = np.array(places, np.intp)
        columns: dict[str, Any] = {
            name: np.frombuffer(getattr(self, name), dtype=np.int64)[order]
            if len(names)
            else np.empty(0, dtype=np.int64)
            for name in ("size", "mtime", "ctime", "inode", "scanned")
        }

        def ordered(text: Text | None) -> Text:
            if text is None:
                return Text.empty(len(names))
            return Text(text.codes[order], text.vocabulary)

        return Listing(
            names=Names.of(names[i] for i in places),
            **columns,
            label=ordered(label),
            split=ordered(split),
            group=ordered(group),
            extra={name: ordered(text) for name, text in (extra or {}).items()},
        )


def walk(root: bytes, *, hidden: bool = False, follow_links: bool = False) -> Listing:
    """List the image files below a folder, nested ones too.

    Parameters
    ----------
    root : bytes
    hidden : bool, optional
        Take files and folders whose name starts with a dot as well.
    follow_links : bool, optional
        Descend into symbolic links to folders. Each folder is visited once, so that no loop is
        possible; where both a link and a true path lead to it, the true path counts. Links to
        files are always taken.

    Returns
    -------
    Listing
        Names relative to `root`. `label` is the first folder of the name, None for files that lie
        directly in `root`. A link to nothing has size -1. `ignored` says what was passed over.

    Raises
    ------
    OSError
        Where `root` itself can't be listed. A folder below it that can't be is logged and left out.
    """
    names: list[bytes] = []
    codes: array[int] = array("i")
    folders: dict[bytes, int] = {b"": -1}
    stats, ignored = FileStats(), Ignored()
    for folder, files, scanned in _folders(root, ignored, hidden=hidden, follow_links=follow_links):
        code = folders.setdefault(folder.partition(b"/")[0], len(folders) - 1)
        prefix = folder + b"/" if folder else b""
        names += [prefix + name for name in files]
        codes.extend(itertools.repeat(code, len(files)))
        stats.add(_states(os.path.join(root, folder), files), scanned)
    listing = stats.listing(names, label=_label(codes, folders))
    return dataclasses.replace(listing, ignored=ignored)


def _states(folder: bytes, names: list[bytes]) -> Iterator[os.stat_result | None]:
    """Yield the state of each of a folder's files; the folder's own path is looked up only once."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # it has just gone
        yield from itertools.repeat(None, len(names))
        return
    try:
        for name in names:
            try:
                yield os.stat(name, dir_fd=opened)
            except OSError:  # a link to nothing, or a file that has just gone
                yield None
    finally:
        os.close(opened)


def _label(codes: array[int], folders: dict[bytes, int]) -> Text:
    """Return the column of labels, given each folder's code in order of discovery."""
    found = np.array(codes, dtype=np.int32)
    used = np.flatnonzero(np.bincount(found[found >= 0])).tolist()
    named = {code: os.fsdecode(name) for name, code in folders.items()}
    vocabulary = sorted((named[code], code) for code in used)
    place = np.full(len(folders) + 1, -1, dtype=np.int32)  # its last entry is what -1 finds
    for rank, (_, code) in enumerate(vocabulary):
        place[code] = rank
    return Text(place[found], tuple(name for name, _ in vocabulary))


def _folders(
    root: bytes, ignored: Ignored, *, hidden: bool, follow_links: bool
) -> Iterator[tuple[bytes, list[bytes], int]]:
    """Yield each folder's relative name, the names of its images, and the time before all that.

    What is passed over is added to `ignored`.
    """
    seen: set[tuple[int, int]] = set()
    stack, links = [b""], list[bytes]()
    while stack or links:
        if not stack:  # links come last: a true path to the same folder has had its turn
            links.sort(reverse=True)
            stack.append(links.pop())
        folder = stack.pop()
        path = os.path.join(root, folder) if folder else root
        scanned = time.time_ns()
        try:
            if follow_links:
                state = os.stat(path)
                if (state.st_dev, state.st_ino) in seen:
                    continue
                seen.add((state.st_dev, state.st_ino))
            with os.scandir(path) as listed:
                entries = list(listed)
        except OSError as error:
            if not folder:
                raise
            logger.warning("%s is left out: %s.", shown(path), error.strerror or error)
            ignored.unlisted += 1
            continue
        files, folders = [], []
        for entry in entries:
            name = entry.name
            if name[:1] == b"." and not hidden:
                ignored.hidden += 1
                continue
            if entry.is_file(follow_symlinks=False):  # most are, and one question is enough
                if is_image_name(name):
                    files.append(name)
                else:
                    ignored.add(folder + b"/" + name if folder else name, entry)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(folder + b"/" + name if folder else name)
            elif _is_linked_folder(entry):
                if follow_links:
                    links.append(folder + b"/" + name if folder else name)
                else:
                    ignored.linked += 1
            elif is_image_name(name):
                files.append(name)
        # In the order of their names, as all of them will be: sorting runs is quick.
        stack += sorted(folders, reverse=True)
        if files:
            yield folder, sorted(files), scanned


def _is_linked_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
