"""Verified files: which of a bank's files have been compared with their digests.

A file is known again by size, mtime, ctime and inode: the first read after any of them changed
compares its bytes with its digest once more. What is known is kept in the bank as a cache
(``verified.json``); losing it costs one more comparison.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable

from featbank import durable
from featbank.data.index import RACY_NANOSECONDS
from featbank.regular import open_regular

__all__ = ["Verified"]


class Verified:
    """Remembers, under a bank's folder, which files hold the bytes that were sealed.

    Parameters
    ----------
    folder : str
        File names are remembered relative to it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._path = os.path.join(folder, "verified.json")
        self._known: dict[str, list[int]] | None = None
        self._fresh = False

    def ensure(self, path: str, check: Callable[[str], None]) -> None:
        """Call ``check(path)``, which raises if it finds damage, unless the file is known."""
        known = self._load()
        name = os.path.relpath(path, self._folder)
        try:
            info = os.stat(path)
        except OSError:
            if os.path.islink(path):  # to nothing, or to itself: the check says it better
                check(path)
            raise
        signature = [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
        if known.get(name) != signature:
            looked = time.time_ns()
            check(path)
            # One that changed just now may change again within the clock's tick: look again then.
            if info.st_ctime_ns <= looked - RACY_NANOSECONDS:
                known[name] = signature
                self._fresh = True

    def save(self) -> None:
        """Keep what was learned, if the bank can be written."""
        if not self._fresh or self._known is None:
            return
        present = {n: s for n, s in self._known.items() if os.path.exists(self._join(n))}
        with contextlib.suppress(OSError):  # a cache: a read-only bank is read all the same
            durable.write_cache(self._path, json.dumps(present).encode("ascii"))
        self._fresh = False

    def _join(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _load(self) -> dict[str, list[int]]:
        if self._known is None:
            self._known = {}
            with (
                contextlib.suppress(OSError, ValueError, RecursionError),
                open_regular(self._path, follow=False) as file,
            ):
                known = json.load(file)
                if isinstance(known, dict):
                    self._known = known
        return self._known
