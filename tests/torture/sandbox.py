"""The sandbox: what is tried in it may crash, hang or eat memory, and the rest goes on.

Trials run one after another in a forked child, under a limit of address space and of time each. A
child that dies or hangs is known by the number of the trial that it was at; another one goes on
behind it. `Canary` tells whether a folder's files were touched, by whatever code.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["MEMORY", "Canary", "Result", "attempts", "check_refusal"]

MEMORY = 1 << 30
"""Bytes that a trial may take beyond what the process had."""

_BATCH = 400  # trials a child


@dataclass(frozen=True)
class Result:
    """How a trial ended.

    Attributes
    ----------
    number : int
    ok : bool
        Whether it returned; else it raised, died or hung, as `words` say.
    words : str
    found : object
        What it returned, by way of JSON.
    """

    number: int
    ok: bool
    words: str = ""
    found: Any = None


def attempts(
    count: int,
    work: Callable[[int], Any],
    *,
    seconds: float = 10.0,
    memory: int = MEMORY,
) -> Iterator[Result]:
    """Yield the result of ``work(0)`` to ``work(count - 1)``, each tried in a child.

    Parameters
    ----------
    count : int
    work : callable
        Takes a number, returns plain data; an exception is a failure.
    seconds : float
        That one of them may take.
    memory : int
        Bytes beyond those that the child starts with.
    """
    start = 0
    while start < count:
        for result in _one_child(start, min(count, start + _BATCH), work, seconds, memory):
            start = result.number + 1
            yield result


def _one_child(
    start: int, stop: int, work: Callable[[int], Any], seconds: float, memory: int
) -> Iterator[Result]:
    """Try some in one child; end with the one that it dies of."""
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _child(write, start, stop, work, memory)
    os.close(write)
    try:
        yield from _results(pid, read, start, stop, seconds)
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _child(write: int, start: int, stop: int, work: Callable[[int], Any], memory: int) -> None:
    """Try one after another and say how each ended; never return."""
    try:
        limit = _address_space() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open(os.devnull, "r+b") as nothing:  # what libraries print is of no interest
            for stream in (0, 1, 2):
                os.dup2(nothing.fileno(), stream)
        with open(write, "wb", buffering=0) as pipe:
            for number in range(start, stop):
                try:
                    said = {"ok": True, "found": work(number)}
                except BaseException as error:
                    said = {"ok": False, "words": _words(error)}
                pipe.write(json.dumps(said).encode() + b"\n")
        os._exit(0)
    finally:
        os._exit(1)


def _words(error: BaseException) -> str:
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}: {str(error)[:300]} ({place})"


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _results(pid: int, read: int, start: int, stop: int, seconds: float) -> Iterator[Result]:
    number, rest = start, b""
    while number < stop:
        end = time.monotonic() + seconds
        while b"\n" not in rest:
            ready, _, _ = select.select([read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                yield Result(number, ok=False, words=f"hung: over {seconds:g} s")
                return
            data = os.read(read, 1 << 16)
            if not data:
                _, how = os.waitpid(pid, 0)
                code = os.waitstatus_to_exitcode(how)
                name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
                yield Result(number, ok=False, words=f"crashed: {name}")
                return
            rest += data
        line, _, rest = rest.partition(b"\n")
        yield Result(number, **json.loads(line))
        number += 1


def check_refusal(error: BaseException) -> str:
    """Return a refusal's message, if it is one and was not due to memory that had run out."""
    words = str(error)
    assert 10 < len(words) < 3000, f"no message: {words[:300]}"
    assert words.count("\n") < 3, f"no sentence: {words[:300]}"
    cause: BaseException | None = error
    while cause is not None:
        assert not isinstance(cause, MemoryError), f"memory ran out: {words[:300]}"
        cause = cause.__cause__
    return words


_OPENED, _READ, _WRITTEN = 0x20, 0x01, 0x02 | 0x04 | 0x08 | 0x40 | 0x80 | 0x100 | 0x200
_NAMES = {
    0x01: "read", 0x02: "written", 0x04: "changed in its attributes", 0x08: "closed after writing",
    0x20: "opened", 0x40: "moved away", 0x80: "moved in", 0x100: "created", 0x200: "deleted",
}  # fmt: skip


@dataclass
class Canary:
    """A folder of files that nobody may touch; the kernel (inotify) tells who did.

    It sees what C code opens as well as what Python opens, in whatever process.

    Attributes
    ----------
    folder : Path
        With ``secret`` (text), ``secret.h5`` (features that no bank here has, under the names that
        a shard has), and ``pipe``: who opens that to read waits for ever.
    """

    folder: Path
    _descriptor: int = field(init=False, default=-1)
    _before: dict[str, tuple[str, int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._before = self._state()  # before the watch: this opens them
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        wanted = _OPENED | _READ | _WRITTEN
        if libc.inotify_add_watch(self._descriptor, os.fsencode(self.folder), wanted) < 0:
            raise OSError(ctypes.get_errno(), "inotify can't watch the canary's folder")

    def _state(self) -> dict[str, tuple[str, int]]:
        return {
            path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            for path in sorted(self.folder.iterdir())
            if path.is_file()
        }

    def touched(self) -> list[str]:
        """Return what was done to the folder's files since the last call."""
        seen = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, 1 << 16):
                at = 0
                while at < len(data):
                    _, mask, _, length = struct.unpack_from("iIII", data, at)
                    name = os.fsdecode(data[at + 16 : at + 16 + length].rstrip(b"\0"))
                    words = [word for bit, word in _NAMES.items() if mask & bit]
                    seen.add(f"{name or 'the folder'} was {' and '.join(words)}")
                    at += 16 + length
        return sorted(seen)

    def changed(self) -> list[str]:
        """Return which files no longer hold what they held; the watch is over."""
        os.close(self._descriptor)
        after = self._state()
        names = sorted(self._before.keys() | after.keys())
        return [name for name in names if self._before.get(name) != after.get(name)]
