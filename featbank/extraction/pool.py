"""The pool: worker processes under a watchdog.

A worker marks which image it begins with. One that spends too long on an image, takes too much
memory for it or dies over it is ended and replaced, and the image is named as the cause.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from featbank.errors import ExtractionError
from featbank.extraction.mark import Mark
from featbank.extraction.messages import (
    Crashed,
    Decoded,
    Failed,
    Sealed,
    Stop,
    Task,
    WorkerSpec,
)

__all__ = ["Died", "Pool", "Watch", "Worker"]

_TICK = 0.1  # seconds between two looks of the watchdog
_END_SECONDS = 5.0  # for a process that has said its last word to end
_MAX_LOSSES = 3  # deaths in a row that no image explains


@dataclass(frozen=True)
class Watch:
    """What one image may cost before its worker is ended.

    Attributes
    ----------
    seconds : float
        From the beginning of its reading, and again of its decoding.
    bytes : int
        Memory beyond what the worker held before it. Watched on Linux only.
    """

    seconds: float = 60.0
    bytes: int = 4 << 30


@dataclass(frozen=True)
class Died:
    """A worker is gone.

    Attributes
    ----------
    item : int or None
        The image that it was busy with.
    reason : str
    ended : bool
        Whether the watchdog ended it; otherwise it ended by itself, or something else ended it.
    """

    item: int | None
    reason: str
    ended: bool


@dataclass(eq=False)
class Worker:
    """One process of the pool, as its parent sees it."""

    process: subprocess.Popen[bytes]
    connection: Connection
    mark: Mark
    busy: bool = False
    state: int = 0  # of the mark when it was last looked at
    since: float = 0.0  # when it was first seen so
    resident: int = 0  # bytes, when it was last looked at
    held_before: int = 0  # bytes, before it was so
    stopping: bool = False
    held: set[int] = field(default_factory=set)


class Pool:
    """Keeps `size` workers alive.

    Parameters
    ----------
    spec : WorkerSpec
    size : int
    watch : Watch
    """

    def __init__(self, spec: WorkerSpec, size: int, watch: Watch) -> None:
        self._spec = spec
        self._size = size
        self._watch = watch
        self._losses = 0
        self._looked = 0.0
        self.workers: list[Worker] = []

    def fill(self, size: int | None = None) -> None:
        """Start workers until there are `size`, at most the pool's."""
        size = self._size if size is None else min(size, self._size)
        while len(self.workers) < size:
            self.workers.append(self._start())

    def _start(self) -> Worker:
        ours, theirs = Pipe()
        mark = Mark()
        handles = theirs.fileno(), mark.handle
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        # The worker must import the same featbank, and unpickle what the caller can import; -P, for
        # a folder of images that is the current one may well hold a file called random.py.
        environment["PYTHONPATH"] = os.pathsep.join([p or os.getcwd() for p in sys.path])
        try:
            process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                [sys.executable, "-P", "-m", "featbank.extraction.worker", *map(str, handles)],
                pass_fds=handles,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the parent's may be JSON for another program
                process_group=0,  # a Ctrl-C is for the parent, also while a worker starts
                env=environment,
            )
        except OSError as error:
            ours.close()
            mark.close()
            raise ExtractionError(
                f"a worker process could not be started ({error.strerror or error}); try fewer "
                "--workers, or 0 to do everything in one process."
            ) from error
        finally:
            theirs.close()
        worker = Worker(process, ours, mark)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # Not send(): once torch is imported that passes tensors by way of a server in this
            # process, for which a worker of ours has no key.
            ours.send_bytes(pickle.dumps(self._spec))
        return worker

    def give(self, worker: Worker, task: Task) -> None:
        """Give a free worker a task."""
        worker.busy = True
        worker.held.update(task.items)
        self.send(worker, task)

    def send(self, worker: Worker, message: Any) -> None:
        """Send a worker a message; one that is gone shows in the next `events`."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(message)

    def stop(self, worker: Worker) -> None:
        """Tell a worker to seal what it has and end."""
        if not worker.stopping:
            worker.stopping = True
            self.send(worker, Stop())

    def events(self, timeout: float = _TICK) -> Iterator[tuple[Worker, Any]]:
        """Yield what workers report, after at most `timeout` seconds; `Died` for the dead."""
        ready = wait([w.connection for w in self.workers], min(timeout, _TICK))
        for worker in [w for w in self.workers if w.connection in ready]:
            while True:
                try:
                    message = worker.connection.recv()
                except Exception:  # the end, or half a message where an interrupt cut its reading
                    yield worker, self._bury(worker, None)
                    break
                if isinstance(message, Stop):
                    self._remove(worker)
                    yield worker, message
                    break
                elif isinstance(message, Crashed):
                    raise message.error
                else:
                    if isinstance(message, Sealed | Failed | Decoded):
                        self._losses = 0
                    yield worker, message
                if not worker.connection.poll():
                    break
        now = time.monotonic()
        if now - self._looked > _TICK / 2:
            self._looked = now
            yield from self._watch_over(now)

    def _watch_over(self, now: float) -> Iterator[tuple[Worker, Any]]:
        for worker in list(self.workers):
            state, item = worker.mark.look()
            before, worker.resident = worker.resident, _resident_bytes(worker.process.pid)
            if state != worker.state:
                worker.state, worker.since = state, now
                worker.held_before = min(before, worker.resident) or worker.resident
            if item is None:
                continue
            if now - worker.since > self._watch.seconds:
                reason = f"it took longer than {self._watch.seconds:g} seconds."
            elif worker.resident - worker.held_before > self._watch.bytes:
                reason = f"it took more than {self._watch.bytes >> 20} MiB of memory."
            else:
                continue
            worker.process.kill()
            yield worker, self._bury(worker, reason)

    def _bury(self, worker: Worker, reason: str | None) -> Died:
        _, item = worker.mark.look()
        status = self._remove(worker)
        ended = reason is not None
        if reason is None:
            number = -status
            known = number in set(signal.Signals)
            cause = f"signal {signal.Signals(number).name}" if known else f"exit status {status}"
            reason = f"reading it ended the worker process ({cause})."
        if item is None:
            self._losses += 1
            if self._losses >= _MAX_LOSSES:
                raise ExtractionError(
                    f"{self._losses} worker processes in a row ended without a result "
                    f"(exit status {status}); if memory is short, try --workers 1 or a smaller "
                    "--batch-size."
                )
        return Died(item, reason, ended)

    def _remove(self, worker: Worker) -> int:
        """Forget a worker that has ended or is about to; return its exit status."""
        worker.connection.close()
        worker.mark.close()
        self.workers.remove(worker)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return worker.process.wait(_END_SECONDS)
        worker.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: leave it there
            return worker.process.wait(_END_SECONDS)
        return -signal.SIGKILL

    def kill(self) -> None:
        """End all workers at once."""
        for worker in list(self.workers):
            worker.process.kill()
        for worker in list(self.workers):
            self._remove(worker)


def _resident_bytes(pid: int) -> int:
    """Return a process's resident memory; 0 where there is no /proc."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
