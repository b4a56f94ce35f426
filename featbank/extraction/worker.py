"""The worker: a process of its own that works tasks through, started by `featbank.extraction.pool`.

``python -m featbank.extraction.worker SOCKET MARK`` speaks over one socket: first comes a
`WorkerSpec`, then tasks; events go back. It does not import the caller's ``__main__``, so scripts
need no guard. In the decode mode it never imports torch, and starts in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import sys
import time
from multiprocessing.connection import Connection

from featbank.errors import ExtractionError
from featbank.extraction.mark import Mark
from featbank.extraction.messages import (
    Began,
    Crashed,
    Event,
    Network,
    Reading,
    Started,
    Stop,
    Task,
    WorkerSpec,
)
from featbank.extraction.task import TaskRunner

__all__ = ["main", "serve"]

log = logging.getLogger(__name__)


def serve(connection: Connection, mark: Mark) -> None:
    """Work until told to stop, or until the parent is gone."""
    spec: WorkerSpec = pickle.loads(connection.recv_bytes())  # noqa: S301  (our parent's own)
    network: Network | None = None
    sealer = None

    def load() -> Network:
        nonlocal network
        if network is None:
            assert spec.loader is not None
            start = time.monotonic()
            network = spec.loader.load("cpu")
            connection.send(Started(time.monotonic() - start))
        return network

    if spec.loader is not None:
        from featbank.bank.bank import Bank
        from featbank.extraction.sealing import BankStore, Sealer

        assert spec.bank is not None
        assert spec.recipe is not None
        store = BankStore(Bank(spec.bank), spec.recipe)
        sealer = Sealer(store, rows=spec.shard_rows, seconds=spec.shard_seconds)

    stopped = False

    def claim(readings: list[Reading]) -> list[tuple[int, ...]]:
        nonlocal stopped
        begin(None)
        connection.send(readings)
        reply = connection.recv()
        if isinstance(reply, Stop):  # interrupted: take no more images, seal what is there
            stopped = True
            return [()] * len(readings)
        wanted: list[tuple[int, ...]] = reply
        return wanted

    def begin(item: int | None) -> None:
        mark.set(item)
        # Nothing stops an alarm but the end of the image: not even a decoder that hangs.
        signal.setitimer(signal.ITIMER_REAL, 0 if item is None else spec.patience)

    def report(event: Event) -> None:
        if isinstance(event, Began):
            begin(event.item)
        else:
            begin(None)
            connection.send(event)

    runner = TaskRunner(
        spec.task, report, claim, network=load if spec.loader else None, sealer=sealer
    )
    try:
        while not stopped:
            message = connection.recv()
            if isinstance(message, Task):
                runner.run(message)
            else:
                break
    except EOFError:
        pass  # the parent is gone; what was computed is not lost
    runner.finish()
    connection.send(Stop())


def main() -> None:
    """Serve on the socket whose number the command line gives."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent's to handle: it says Stop
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends the process
    connection, mark = Connection(int(sys.argv[1])), Mark(int(sys.argv[2]))
    from featbank.extraction.allocator import keep_large_blocks

    keep_large_blocks()
    try:
        serve(connection, mark)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the parent is gone, and nobody is left to tell
    except BaseException as error:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(Crashed(_portable(error)))
        os._exit(1)


def _portable(error: BaseException) -> Exception:
    """Return the error, or one with its words where it would not come out of a pickle again."""
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own, of this moment)
        if isinstance(copy, Exception):
            return copy
    except Exception:
        log.debug("an error that can't be pickled travels as its words", exc_info=True)
    return ExtractionError(f"a worker process ended with {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
