"""The harness: a claim, many trials of it, and faults that prove that it sees.

A harness module has `HARNESSES`, a tuple of `Harness`. Each runs in a process of its own, forked
from a parent that has loaded torch and the network, and may fork its trials in turn.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Ended", "Harness", "Mutation", "Outcome", "Trials", "in_child"]

_KEPT = 20  # failures whose words are kept


class Trials:
    """Counts trials and failures of one harness, and says when it is enough.

    Parameters
    ----------
    wanted : int
        How many trials are to be done.
    seconds : float
        After this time no further one begins.
    seed : int
        Of `rng`, from which everything random must come.
    folder : Path
        An empty folder of the harness's own; it is deleted afterwards.
    first : bool
        Whether to stop at the first failure, as the check of a mutation does.

    Attributes
    ----------
    done, failed : int
    failures : list of str
        What was seen, the first few.
    figures : Counter
        What else is worth saying: rows checked, runs resumed.
    """

    def __init__(
        self, wanted: int, seconds: float, seed: int, folder: Path, *, first: bool = False
    ) -> None:
        self.wanted, self.seconds, self.seed, self.folder = wanted, seconds, seed, folder
        self.rng = random.Random(seed)
        self.done = self.failed = 0
        self.failures: list[str] = []
        self.figures: Counter[str] = Counter()
        self.skipped = ""
        self._first = first
        self._end = time.monotonic() + seconds

    @property
    def more(self) -> bool:
        """Whether another trial is wanted."""
        if self._first and self.failed:
            return False
        return self.done < self.wanted and time.monotonic() < self._end

    def __iter__(self) -> Iterator[int]:
        """Give the number of each trial, and count it when it is over."""
        while self.more:
            yield self.done
            self.done += 1

    def skip(self, why: str) -> None:
        """Say why this can't be tried here; it has then not been passed."""
        self.skipped = why

    def fail(self, what: str) -> None:
        """Note a failure."""
        self.failed += 1
        if len(self.failures) < _KEPT:
            self.failures.append(what)

    def keep(self, name: str, data: bytes) -> str:
        """Keep the bytes that made a failure, and say where; not those of a deliberate fault."""
        if self._first:
            return "not kept"
        folder = Path(tempfile.gettempdir()) / "featbank-torture-found"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_bytes(data)
        return str(path)

    @contextlib.contextmanager
    def checking(self, what: str) -> Iterator[None]:
        """Turn whatever is raised in the block into a failure that says `what` was tried."""
        try:
            yield
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {error}".strip()
            self.fail(f"{what}: {said[:600]} ({Path(where.filename).name}:{where.lineno})")


@dataclass(frozen=True)
class Mutation:
    """A deliberate fault in the product, under which the harness must fail.

    Attributes
    ----------
    name : str
        What is broken, in a few words: "no fsync of a shard".
    fault : callable
        Gives a context manager that breaks it meanwhile.
    trials : int
        Within how many the harness must have seen it.
    """

    name: str
    fault: Callable[[], AbstractContextManager[Any]]
    trials: int = 100


@dataclass(frozen=True)
class Harness:
    """One claim and the way to attack it.

    Attributes
    ----------
    name : str
        One word or two, with hyphens; `--only` takes it.
    claim : str
        What holds if no trial fails, in one line.
    unit : str
        What one trial is: "kills", "states", "files".
    run : callable
        Takes a `Trials`, and makes trials while it wants more.
    short, long : int
        Trials in CI, and in the run that README quotes.
    mutations : tuple of Mutation
    seconds : float
        After which no further trial begins, nor under a mutation; then some are missing, and the
        claim is not shown.
    """

    name: str
    claim: str
    unit: str
    run: Callable[[Trials], None]
    short: int
    long: int
    mutations: tuple[Mutation, ...] = ()
    seconds: float = 1800.0


@dataclass
class Outcome:
    """What came of a harness; plain data, for JSON."""

    name: str
    claim: str
    unit: str
    wanted: int
    trials: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)
    mutations: dict[str, bool] = field(default_factory=dict)  # name: whether it was seen
    seconds: float = 0.0
    skipped: str = ""

    @property
    def ok(self) -> bool:
        """Whether every trial was made, none failed, and every mutation was seen."""
        return self.trials >= self.wanted and not self.failed and all(self.mutations.values())

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    status: int | None  # exit status
    signal: int | None
    seconds: float
    hung: bool = False


def in_child(
    work: Callable[[], None],
    *,
    seconds: float = 60.0,
    kill_after: float | None = None,
    watch: Callable[[int, float], None] | None = None,
) -> Ended:
    """Run `work` in a forked child in a process group of its own; kill the group if it must be.

    Parameters
    ----------
    work : callable
        An exception of it is exit status 70, its traceback on standard error.
    seconds : float
        A child that takes longer hangs: it is killed and `hung` is set.
    kill_after : float, optional
        Send SIGKILL to the child alone after so many seconds, if it is still there.
    watch : callable, optional
        Called again and again while the child is there, with its process and the seconds passed.
    """
    began = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.setpgid(0, 0)
            work()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    hung = killed = False
    while True:
        gone, how = os.waitpid(pid, os.WNOHANG)
        if gone:
            break
        passed = time.monotonic() - began
        if kill_after is not None and passed >= kill_after and not killed:
            os.kill(pid, signal.SIGKILL)
            killed = True
        elif watch is not None and passed < seconds:
            watch(pid, passed)
        elif passed >= seconds:
            hung = True
            os.killpg(pid, signal.SIGKILL)
            _, how = os.waitpid(pid, 0)
            break
        time.sleep(0.0005 if passed < 2 else 0.01)
    with contextlib.suppress(OSError):  # whatever the child has started
        os.killpg(pid, signal.SIGKILL)
    taken = time.monotonic() - began
    if os.WIFSIGNALED(how):
        return Ended(None, os.WTERMSIG(how), taken, hung)
    return Ended(os.WEXITSTATUS(how), None, taken, hung)
