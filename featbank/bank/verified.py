"""Verified files: which of a bank's files have been compared with their digests.

A file is known again by size, mtime, ctime and inode: the first read after any of them changed
compares its bytes with its digest once more. What is known is kept as a cache (``verified.json``)
in the bank, or, of packed banks, in the user's cache directory; losing it costs one comparison.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable

from featbank import durable
from featbank.backbones.memo import Stat
from featbank.data.index import RACY_NANOSECONDS
from featbank.regular import open_regular

__all__ = ["Verified"]


class Verified:
    """Remembers which files hold the bytes that were sealed.

    Parameters
    ----------
    folder : str
        File names are remembered relative to it.
    kept : str, optional
        The folder where this is remembered, made when it is needed; the same if not given.
    """

    def __init__(self, folder: str, kept: str | None = None) -> None:
        self._folder = folder
        self._path = os.path.join(kept or folder, "verified.json")
        self._known: dict[str, list[int]] | None = None
        self._fresh = False

    def ensure(self, path: str, check: Callable[[str], None]) -> Stat | None:
        """Call ``check(path)``, which raises if it finds damage, unless the file is known.

        Returns
        -------
        Stat or None
            What the file was before the check; None if it may change without a trace in that.
        """
        known = self._load()
        name = os.path.relpath(path, self._folder)
        try:
            info = os.stat(path)
        except OSError:
            if os.path.islink(path):  # to nothing, or to itself: the check says it better
                check(path)
            raise
        state = (info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
        if known.get(name) != [*state]:
            looked = time.time_ns()
            check(path)
            # One that changed just now may change again within the clock's tick: look again then.
            if info.st_ctime_ns > looked - RACY_NANOSECONDS:
                return None
            known[name] = [*state]
            self._fresh = True
        return state

    def save(self) -> None:
        """Keep what was learned, if the bank can be written."""
        if not self._fresh or self._known is None:
            return
        present = {n: s for n, s in self._known.items() if os.path.exists(self._join(n))}
        with contextlib.suppress(OSError):  # a cache: a read-only bank is read all the same
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
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
