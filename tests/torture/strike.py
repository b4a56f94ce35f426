"""Striking: what a child has come to, in memory that its parent sees, so that a blow falls at a
random instant of its work however busy the machine is.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featbank import durable
from featbank.bank.bank import Bank
from featbank.extraction import sealing, task
from featbank.workflows import extract

__all__ = ["Blow", "Progress", "marked", "processes_with", "wait_until_gone"]

START_UP, EMBEDDING, IN_A_SEAL, IN_A_SAVE, ENDED = PHASES = (
    "before the first seal",
    "between seals",
    "in a seal",
    "in a save of the index",
    "after the end",
)


class Progress:
    """How often a child has called upon the file system, and what it is doing.

    Made before the fork; the child counts and the parent reads.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def begun(self) -> bool:
        """Whether the child has come to its work; before, no blow falls."""
        return self._memory[9] == 1

    @begun.setter
    def begun(self, begun: bool) -> None:
        self._memory[9] = begun

    @property
    def calls(self) -> int:
        """Calls that change the disk so far."""
        return int.from_bytes(self._memory[:8], "little")

    @calls.setter
    def calls(self, n: int) -> None:
        self._memory[:8] = n.to_bytes(8, "little")

    @property
    def phase(self) -> str:
        """What the child is doing."""
        return PHASES[self._memory[8]]

    @phase.setter
    def phase(self, phase: str) -> None:
        self._memory[8] = PHASES.index(phase)

    @property
    def embedded(self) -> int:
        """Images that went through the network in this process."""
        return int.from_bytes(self._memory[16:24], "little")

    @embedded.setter
    def embedded(self, n: int) -> None:
        self._memory[16:24] = n.to_bytes(8, "little")

    def clear(self) -> None:
        """Begin again."""
        self.begun, self.calls, self.phase, self.embedded = False, 0, START_UP, 0

    @contextlib.contextmanager
    def during(self, phase: str, after: str | None = None) -> Iterator[None]:
        """Say what the child is doing meanwhile, and what it does `after`, if not the same."""
        before, self.phase = self.phase, phase
        yield
        self.phase = after or before

    def follow(self, *, save_seconds: float = 0.1) -> None:
        """Count from now on, in this process; and save the index so often that saves are hit."""
        durable.fs = _Counting(durable.fs, self)  # type: ignore[assignment]
        self.begun = True
        extract._SAVE_SECONDS = save_seconds
        seal, revise = sealing.BankStore.seal, Bank.revise

        def marked_seal(store: sealing.BankStore, *args: Any) -> None:
            with self.during(IN_A_SEAL, EMBEDDING):
                seal(store, *args)

        def marked_revise(bank: Bank, *args: Any, **words: Any) -> None:
            with self.during(IN_A_SAVE):
                revise(bank, *args, **words)

        def counted_batch(*args: Any) -> Any:
            outcome = embed(*args)
            self.embedded += len(outcome.good)
            return outcome

        embed = task.Embedder.embed
        sealing.BankStore.seal = marked_seal  # type: ignore[method-assign]
        Bank.revise = marked_revise  # type: ignore[method-assign]
        task.Embedder.embed = counted_batch  # type: ignore[method-assign]


class _Counting:
    """A file system that counts its calls."""

    def __init__(self, inner: Any, progress: Progress) -> None:
        self._inner, self._progress = inner, progress

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._inner, name)

        def counted(*args: Any, **options: Any) -> Any:
            self._progress.calls += 1
            return call(*args, **options)

        return counted


@dataclass
class Blow:
    """A signal, or several, that fall once so many calls are over and some time has passed.

    Pass it to `in_child` as `watch`.

    Attributes
    ----------
    progress : Progress
    calls : int
    delay : float
        Seconds.
    signals : tuple of (float, int)
        Seconds after the first one, and the signal.
    fallen : int
        How many have fallen.
    """

    progress: Progress
    calls: int
    delay: float
    signals: tuple[tuple[float, int], ...] = ((0.0, signal.SIGKILL),)
    fallen: int = 0
    _since: float | None = field(default=None, repr=False)

    @classmethod
    def at_random(cls, rng: random.Random, progress: Progress, calls: int, **options: Any) -> Blow:
        """Draw an instant of a run that makes so many calls: one of them, and a moment after."""
        at = rng.randrange(calls + 1)
        # Before the first call lies all that goes before the bank is written to.
        # After a call comes the next one of its kind, or the network: some milliseconds, or more.
        delay = rng.uniform(0, rng.choice((0.0, 0.004, 0.04)) if at else 0.03)
        return cls(progress, at, delay, **options)

    def __call__(self, pid: int, passed: float) -> None:
        if self.fallen == len(self.signals) or not self.progress.begun:
            return
        if self.progress.calls < self.calls:
            return
        now = time.monotonic()
        if self._since is None:
            self._since = now
        after, number = self.signals[self.fallen]
        if now - self._since >= self.delay + after:
            os.kill(pid, number)
            self.fallen += 1


_MARK = "FEATBANK_TORTURE"


@contextlib.contextmanager
def marked(word: str) -> Iterator[None]:
    """Mark all processes that are started meanwhile, by their environment."""
    before = os.environ.get(_MARK)
    os.environ[_MARK] = word
    try:
        yield
    finally:
        os.environ.pop(_MARK)
        if before is not None:
            os.environ[_MARK] = before


def processes_with(word: str) -> list[int]:
    """Return the processes that were started under a mark and are not over; none without /proc."""
    wanted = f"{_MARK}={word}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def wait_until_gone(word: str, seconds: float) -> list[int]:
    """Wait until no process with a mark is left; return those that are left all the same."""
    end = time.monotonic() + seconds
    while (left := processes_with(word)) and time.monotonic() < end:
        time.sleep(0.02)
    return left
