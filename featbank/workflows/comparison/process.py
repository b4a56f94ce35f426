"""The row process: work done in a Python process of its own, so that its memory is its own.

``python -m featbank.workflows.comparison.process SOCKET`` takes one pickled callable, calls it and
sends back what it returns. It does not import the caller's ``__main__``, so scripts need no guard.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from featbank.errors import EvaluationError
from featbank.extraction.allocator import keep_large_blocks

__all__ = ["Tell", "peak_bytes", "run_apart"]

_MODULE = "featbank.workflows.comparison.process"

Result = TypeVar("Result")
Tell = Callable[[str], None]
"""Takes a few words on how far the work is."""


def run_apart(name: str, work: Callable[[Tell], Result], tell: Tell) -> Result:
    """Return what `work` returns in a new process, which ends with this call, however it ends.

    Parameters
    ----------
    name : str
        Of the work, for messages.
    work : callable
        Picklable; takes `tell`.
    tell : callable

    Raises
    ------
    EvaluationError
        The process could not be started, or died.
    Exception
        What `work` raises.
    """
    ours, theirs = Pipe()
    # The same featbank; -P, for the current folder may well hold a file called random.py.
    path = os.pathsep.join([p or os.getcwd() for p in sys.path])
    try:
        process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
            [
                sys.executable,
                "-P",
                "-m",
                "featbank.workflows.comparison.process",
                str(theirs.fileno()),
            ],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # ours may be JSON for another program
            process_group=0,  # a Ctrl-C is for this process, which ends that one
            env={**os.environ, "PYTHONPATH": path},
        )
    except OSError as error:
        ours.close()
        raise EvaluationError(
            f"no process could be started for {name} ({error.strerror or error}); free some "
            "memory and run again: finished rows are kept."
        ) from error
    finally:
        theirs.close()
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # Not send(): once torch is imported that passes tensors by way of a server here.
            ours.send_bytes(pickle.dumps(work))
        while True:
            kind, content = pickle.loads(ours.recv_bytes())  # noqa: S301  (our own process)
            if kind == "told":
                tell(content)
            elif kind == "raised":
                raise content
            else:
                result: Result = content
                return result
    except (EOFError, ConnectionResetError):
        status = process.wait()
        cause = f"exit status {status}"
        if -status in set(signal.Signals):
            cause = f"signal {signal.Signals(-status).name}"
        raise EvaluationError(
            f"the process of {name} died ({cause}), most likely for want of memory; run again with "
            "less in it: finished rows are kept."
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started
        process.wait()
        ours.close()


def peak_bytes() -> int | None:
    """Return the most memory that this process has held so far, None where that is not known.

    Linux counts it since the program began (VmHWM); ``ru_maxrss`` would bring along what the
    process was started from.
    """
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def main() -> None:
    """Work on the socket whose number the command line gives."""
    connection = Connection(int(sys.argv[1]))
    work = pickle.loads(connection.recv_bytes())  # noqa: S301  (our parent's own)

    def end_with_parent() -> None:
        with contextlib.suppress(EOFError, OSError):
            connection.recv_bytes()
        os._exit(1)

    def send(kind: str, content: Any) -> None:
        connection.send_bytes(pickle.dumps((kind, content)))

    threading.Thread(target=end_with_parent, daemon=True).start()
    logging.getLogger("featbank").setLevel(logging.ERROR)  # the parent has said it, or notes do
    warnings.simplefilter("ignore")
    keep_large_blocks()
    try:
        send("done", work(lambda words: send("told", words)))
    except Exception as error:
        send("raised", _portable(error))


def _portable(error: Exception) -> Exception:
    """Return the error, or its words where it would not come out of a pickle again."""
    with contextlib.suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own, of this moment)
        if isinstance(copy, Exception):
            return copy
    return EvaluationError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
