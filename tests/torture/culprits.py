"""Culprits: a decoder that does what the first word of a file says, and what each is to end as.

Worker processes import this module by name; it loads in a fraction of a second.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from PIL import Image

from featbank.data.decode import DecodePolicy, decode

__all__ = ["HUNGRY", "INSTANT", "REASONS", "SLOW", "VICTIM", "decode_or_die"]

_TIME, _MEMORY = "it took longer than [0-9.]+ seconds", "it took more than [0-9]+ MiB of memory"
_GONE = "reading it ended the worker process"

SLOW = {
    "sleeps": _TIME,
    "spins": _TIME,
    "stops": _TIME,
    "eats fast": f"{_MEMORY}|{_TIME}",
    "eats slowly": f"{_MEMORY}|{_TIME}",
}
"""Kinds that the watchdog ends, and the reason that is to stand in the ledger."""

INSTANT = {
    "exits": rf"{_GONE} \(exit status 3\)",
    "exits well": rf"{_GONE} \(exit status 0\)",
    "aborts": rf"{_GONE} \(signal SIGABRT\)",
    "faults": rf"{_GONE} \(signal SIGSEGV\)",
    "kills itself": rf"{_GONE} \(signal SIGKILL\)",
    "is short of memory": "more memory than there is",
}
"""Kinds that end their worker themselves, or only fail."""

REASONS = SLOW | INSTANT
VICTIM = b"victim "
"""Before the path of a mark, the end of the line, and an image that can be decoded."""

HUNGRY = b"hungry "
"""Before a number of MiB that are taken and given back, the end of the line, and such an image."""

_MOST = 2 << 30  # that an eater takes where nobody ends it
_PATIENCE = 20.0  # seconds that a victim waits for its murderer


def decode_or_die(data: bytes, policy: DecodePolicy, **options: Any) -> Image.Image:
    """Do what the first line of a file says; decode what is an image."""
    line, _, rest = data.partition(b"\n")
    if data.startswith(VICTIM):
        return _victim(Path(os.fsdecode(line.removeprefix(VICTIM))), rest, policy, **options)
    if data.startswith(HUNGRY):
        _dine(int(line.removeprefix(HUNGRY)) << 20)
        return decode(rest, policy, **options)
    word = line.decode("latin-1").partition(",")[0]
    if word in REASONS:
        _misbehave(word)
    return decode(data, policy, **options)


def _victim(mark: Path, data: bytes, policy: DecodePolicy, **options: Any) -> Image.Image:
    """Be an innocent image over which something from outside kills the process, once."""
    if not mark.exists():
        written = mark.with_suffix(".new")
        written.write_text(str(os.getpid()))
        written.rename(mark)
        time.sleep(_PATIENCE)
    return decode(data, policy, **options)


def _misbehave(word: str) -> None:
    match word:
        case "sleeps":
            time.sleep(600)
        case "spins":  # in C, and without ever giving up the interpreter's lock
            re.match(r"(a+)+$", "a" * 60 + "b")
        case "stops":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "eats fast":
            _eat(64 << 20, 0.0)
        case "eats slowly":
            _eat(16 << 20, 0.03)
        case "exits":
            os._exit(3)
        case "exits well":
            os._exit(0)
        case "aborts":
            os.abort()
        case "faults":
            ctypes.string_at(0)
        case "kills itself":
            os.kill(os.getpid(), signal.SIGKILL)
        case "is short of memory":
            raise MemoryError


def _eat(bite: int, pause: float) -> None:
    eaten = []
    while bite * len(eaten) < _MOST:
        eaten.append(b"x" * bite)
        time.sleep(pause)
    time.sleep(600)


def _dine(most: int) -> None:
    """Take memory in blocks of many sizes, and give it back."""
    eaten, size = [], 64 << 10
    while most > 0:
        eaten.append(b"x" * min(size, most))
        most -= size
        size = size * 3 // 2 if size < 16 << 20 else 64 << 10
    del eaten
