"""The world: images in class folders and a table of them, under a clock that is set by hand.

What featbank reads of a file's times, and of the time itself, comes from this clock; so a coarse
clock, an edit within its tick and a time put back cost no waiting, and happen again the same way.
Sizes, inodes and bytes are the file system's own.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from featbank.data import digests, tables, walk

__all__ = ["SECOND", "World", "picture"]

SECOND = 1_000_000_000


def picture(seed: int, side: int = 8) -> bytes:
    """Return a PNG of random pixels: all of one side are of one size, and no two are the same."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png", compress_level=0)
    return stream.getvalue()


class World:
    """Files and their times.

    Parameters
    ----------
    folder : Path
        Empty; images go to ``data/<class>/``, the table is ``table.csv``.
    grain : int
        Nanoseconds: files are stamped with multiples of it, as coarse file systems do.

    Attributes
    ----------
    files : dict of str to bytes
        What is on the disk, by the path below ``data``.
    listed : dict of str to (label, split)
        The rows of the table.
    """

    def __init__(self, folder: Path, grain: int) -> None:
        self.folder, self.grain = folder, grain
        self.data, self.table = folder / "data", folder / "table.csv"
        self.files: dict[str, bytes] = {}
        self.listed: dict[str, tuple[str, str]] = {}
        self._now = 1_700_000_000 * SECOND
        self._stamps: dict[int, tuple[int, int]] = {}  # inode: mtime, ctime
        self.data.mkdir()

    # Time

    def time_ns(self) -> int:
        """Return the time; to look takes a millisecond."""
        self._now += SECOND // 1000
        return self._now

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._now += int(seconds * SECOND)

    def _tick(self) -> int:
        return self.time_ns() // self.grain * self.grain

    def _numbers(self, state: os.stat_result) -> tuple[int, int, int, int]:
        return (state.st_size, *self._stamps[state.st_ino], state.st_ino)

    def _stamped(self, state: os.stat_result) -> Any:
        size, mtime, ctime, inode = self._numbers(state)
        return SimpleNamespace(st_size=size, st_mtime_ns=mtime, st_ctime_ns=ctime, st_ino=inode)

    @contextlib.contextmanager
    def clock(self) -> Iterator[None]:
        """Let featbank live in this world's time meanwhile."""
        plain_add = walk.FileStats.add

        def add(
            stats: walk.FileStats, states: Iterable[os.stat_result | None], scanned: int
        ) -> None:
            plain_add(stats, (state and self._stamped(state) for state in states), scanned)

        with contextlib.ExitStack() as stack:
            for module in (walk, tables, digests):
                stack.enter_context(mock.patch.object(module, "time", self))
            stack.enter_context(mock.patch.object(walk.FileStats, "add", add))
            stack.enter_context(mock.patch.object(digests, "numbers_of", self._numbers))
            yield

    # Files

    def path(self, name: str) -> Path:
        """Return where a file lies."""
        return self.data / name

    def write(self, name: str, data: bytes, *, fresh: bool = True, keep_time: bool = False) -> None:
        """Write a file: in place or, `fresh`, by renaming a new one over it.

        With `keep_time` its mtime is put back afterwards, as ``touch -r`` and ``cp -p`` do.
        """
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        old = self._stamps[path.stat().st_ino][0] if path.exists() else None
        written = [name]
        if fresh:
            temporary = self.folder / "writing"
            temporary.write_bytes(data)
            temporary.replace(path)
        else:
            path.write_bytes(data)
            written += [other for other in self.files if path.samefile(self.path(other))]
        tick = self._tick()
        mtime = old if keep_time and old is not None else tick
        self._stamps[path.stat().st_ino] = (mtime, tick)
        self.files.update(dict.fromkeys(written, data))

    def touch(self, name: str, age: float) -> None:
        """Set a file's mtime to so many seconds ago (or ahead), and so its ctime to now."""
        self._stamps[self.path(name).stat().st_ino] = (
            self._now - int(age * SECOND),
            self._tick(),
        )

    def rename(self, old: str, new: str) -> None:
        """Rename a file; its times stay, as on some file systems even ctime does."""
        self.path(new).parent.mkdir(parents=True, exist_ok=True)
        self.path(old).replace(self.path(new))
        self.files[new] = self.files.pop(old)

    def swap(self, one: str, other: str) -> None:
        """Let two files change names."""
        spare = "spare.png"
        self.rename(one, spare)
        self.rename(other, one)
        self.rename(spare, other)

    def link(self, old: str, new: str) -> None:
        """Give a file one more name: whoever writes in place writes to both."""
        self.path(new).parent.mkdir(parents=True, exist_ok=True)
        os.link(self.path(old), self.path(new))
        self.files[new] = self.files[old]

    def delete(self, name: str) -> None:
        """Delete a file."""
        self.path(name).unlink()
        del self.files[name]

    def write_table(self, order: Any) -> None:
        """Write the table, its rows as `order` sorts them."""
        rows = [f"data/{name},{label},{split}" for name, (label, split) in self.listed.items()]
        text = "\n".join(["path,label,split", *sorted(rows, key=order)]) + "\n"
        self.table.write_text(text)
