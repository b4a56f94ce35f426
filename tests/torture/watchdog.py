"""The watchdog: files that hang, crash or eat memory are named and left behind; the run goes on.

Each trial is one run of real worker processes over good images and some culprits. All runs are made
by one process, so that what a run leaves behind shows in the next one.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from featbank.bank.maintenance import verify
from featbank.extraction import pool
from featbank.extraction import run as running
from featbank.extraction.claims import Claims
from featbank.extraction.pool import Died, Pool, Watch, Worker
from featbank.workflows.extract import ExtractionResult
from tests.extraction.fakes import expected, extract
from tests.torture.culprits import HUNGRY, INSTANT, REASONS, SLOW, VICTIM, decode_or_die
from tests.torture.harness import Harness, Mutation, Trials
from tests.torture.job import image_bytes

WATCH = Watch(seconds=1.5, bytes=200 << 20)

LATE = 5.0
"""Seconds after its limit by which a culprit must be dead, on a machine that has other work."""

LARGEST = 1 << 30
"""Bytes that a worker may have taken when the watchdog looks at it, whatever it began with."""

_STARTING = 5.0  # seconds that a new worker may take where others compete


class HungError(Exception):
    """A run took longer than its culprits explain."""


@dataclass(frozen=True)
class Plan:
    """One run: its files in the order in which they are read, and how the work is shared.

    Attributes
    ----------
    embeds : bool
        Whether the workers embed; otherwise they decode only.
    kinds : tuple of str
        A word of `REASONS` with a number that tells two of a kind apart, "victim", "hungry", or
        nothing for a good image.
    copies : dict
        Position of a file to that of the one whose bytes it has.
    """

    embeds: bool
    workers: int
    batch: int
    kinds: tuple[str, ...]
    copies: dict[int, int]

    def kind(self, position: int) -> str:
        """Return what a file does, a copy too."""
        return self.kinds[self.copies.get(position, position)]

    @property
    def culprits(self) -> dict[int, str]:
        """Positions of what must fail, and the pattern of its reason."""
        kinds = {i: self.kind(i).partition(",")[0] for i in range(len(self.kinds))}
        return {i: REASONS[kind] for i, kind in kinds.items() if kind in REASONS}

    @property
    def seconds(self) -> float:
        """How long the run may take, each culprit being tried twice at most."""
        deaths = sum(kind not in ("", "hungry") for kind in self.kinds)
        return 2 * _STARTING + deaths * (WATCH.seconds + _STARTING / 2)

    def __str__(self) -> str:
        files = ", ".join(self.kind(i) or "good" for i in range(len(self.kinds)))
        how = "embed" if self.embeds else "decode"
        return f"{self.workers} workers that {how}, batches of {self.batch}: {files}"


def _plan(number: int, rng: random.Random) -> Plan:
    embeds, workers = number % 2 == 1, (1, 2, 4)[number // 2 % 3]
    if number < 2:  # what every mutation shows in
        return Plan(embeds, 1, 3, ("", "sleeps,0", "", "victim", "exits,0", ""), {})
    good = [""] * rng.choice((0, 1, 4, 9))
    bad = [f"{rng.choice([*INSTANT])},{i}" for i in range(rng.choice((0, 1, 1, 2, 4)))]
    bad += [f"{rng.choice([*SLOW])},{i}" for i in range(rng.choice((0, 1, 1, 2)))]
    bad += ["victim"] * (rng.random() < 0.3)
    bad += ["hungry"] * rng.choice((0, 0, 0, 3, 6))
    where = rng.choice(("first", "last", "anywhere"))
    kinds = good + bad if where == "last" else bad + good
    if where == "anywhere":
        rng.shuffle(kinds)
    kinds = kinds or ["exits,0"]
    copies = {}
    for _ in range(rng.choice((0, 0, 1, 3))):
        original = rng.randrange(len(kinds))
        if kinds[original] and original not in copies:
            copies[len(kinds)] = original
            kinds.append("")
    return Plan(embeds, workers, rng.choice((1, 2, 3, 16)), tuple(kinds), copies)


def _make(plan: Plan, folder: Path, marks: Path, rng: random.Random) -> list[Path]:
    """Write the files of a plan."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "a").mkdir(parents=True)
    shutil.rmtree(marks, ignore_errors=True)
    marks.mkdir()
    paths = []
    for i in range(len(plan.kinds)):
        path = folder / "a" / f"{i:03d}.png"
        kind = plan.kinds[i]
        if i in plan.copies:
            shutil.copyfile(paths[plan.copies[i]], path)
        elif kind == "victim":
            path.write_bytes(VICTIM + os.fsencode(marks / str(i)) + b"\n" + image_bytes(rng))
        elif kind == "hungry":
            most = rng.randrange(WATCH.bytes >> 21, WATCH.bytes * 7 // 10 >> 20)
            path.write_bytes(HUNGRY + b"%d\n" % most + image_bytes(rng))
        else:
            path.write_bytes(kind.encode() if kind else image_bytes(rng))
        paths.append(path)
    return paths


@contextlib.contextmanager
def _murderer(marks: Path) -> Iterator[list[int]]:
    """Kill, from outside, whatever process writes its number into the folder; once each."""
    killed: list[int] = []
    over = threading.Event()

    def work() -> None:
        seen = set()
        while not over.wait(0.02):
            for mark in marks.iterdir():
                if mark.suffix or mark in seen:
                    continue
                seen.add(mark)
                pid = int(mark.read_text())
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise HungError(f"the run took more than {seconds:.0f} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Costs:
    """What the watchdog saw its workers take."""

    late: float = 0.0  # seconds over the limit
    resident: int = 0  # bytes of the largest


@contextlib.contextmanager
def _costs() -> Iterator[Costs]:
    found = Costs()
    bury, resident_bytes = Pool._bury, pool._resident_bytes

    def burying(workers: Pool, worker: Worker, reason: str | None) -> Died:
        if reason is not None and "seconds" in reason:
            found.late = max(found.late, time.monotonic() - worker.since - WATCH.seconds)
        return bury(workers, worker, reason)

    def looking(pid: int) -> int:
        resident = resident_bytes(pid)
        found.resident = max(found.resident, resident)
        return resident

    with (
        mock.patch.object(Pool, "_bury", burying),
        mock.patch.object(pool, "_resident_bytes", looking),
    ):
        yield found


def _children() -> list[str]:
    """Return the processes, the dead ones too, whose parent this one is."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                name, _, rest = (folder / "stat").read_text().rpartition(")")
                if rest.split()[1] == str(os.getpid()):
                    found.append(f"{name}) {rest.split()[0]}")
    return found


def _check(plan: Plan, result: ExtractionResult, paths: list[Path]) -> None:
    reasons = {Path(path): reason for path, reason in result.errors}
    for i, pattern in plan.culprits.items():
        reason = reasons.pop(paths[i], None)
        assert reason is not None, f"file {i}, which {plan.kind(i)}, is not in the ledger"
        assert re.search(pattern, reason), f"file {i}, which {plan.kind(i)}: {reason}"
    assert not reasons, f"in the ledger without cause: {reasons}"
    good = [path for i, path in enumerate(paths) if i not in plan.culprits]
    counts = (result.computed + result.reused, result.failed, result.remaining)
    assert counts == (len(good), len(plan.culprits), 0), f"done, failed, left: {counts}"
    assert verify(result.bank).ok
    if good:
        assert [Path(path) for path in result.bank.paths] == sorted(good)
        rows = {os.fspath(path): row for path, row in zip(good, _rows(good), strict=True)}
        for path, row in zip(result.bank.paths, result.bank.features(), strict=True):
            np.testing.assert_allclose(row, rows[path], rtol=1e-5, atol=1e-5)
    hidden = {path.name for path in Path(result.bank.path).rglob(".*")} - {".lock", ".use"}
    assert not hidden, f"left in the bank: {hidden}"


def _rows(paths: list[Path]) -> np.ndarray[Any, Any]:
    """Return the features of good images; that of some stands behind a first line."""
    plain = []
    for path in paths:
        data = path.read_bytes()
        if data.startswith((VICTIM, HUNGRY)):
            path = path.with_suffix(".plain")
            path.write_bytes(data.partition(b"\n")[2])
        plain.append(path)
    return expected(plain)


def run(trials: Trials) -> None:
    """Run over good images and culprits, and look at what came of them and what was left behind."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    images, marks, bank = (trials.folder / name for name in ("images", "marks", "bank"))
    before: tuple[int, int] | None = None
    for number in trials:
        plan = _plan(number, trials.rng)
        with trials.checking(f"{plan} (seed {trials.seed}, number {number})"):
            shutil.rmtree(bank, ignore_errors=True)
            paths = _make(plan, images, marks, trials.rng)
            with (
                mock.patch.object(running, "FEW", 0 if plan.embeds else 10**9),
                _murderer(marks) as killed,
                _costs() as costs,
                _limit(plan.seconds),
            ):
                result = extract(
                    bank,
                    images,
                    decode=decode_or_die,
                    watch=WATCH,
                    workers=plan.workers,
                    batch_size=plan.batch,
                    shard_rows=3,
                )
            _check(plan, result, paths)
            victims = sum(kind == "victim" for kind in plan.kinds)
            assert len(killed) == victims, f"{len(killed)} of {victims} victims were killed"
            trials.figures["culprits"] += len(plan.culprits)
            trials.figures["victims"] += victims
            trials.figures["hungry"] += plan.kinds.count("hungry")
            trials.figures["images computed"] += result.computed
            _keep_largest(trials, "ms over the limit", int(1000 * costs.late))
            _keep_largest(trials, "largest worker, MiB", costs.resident >> 20)
            assert costs.late < LATE, f"ended {costs.late:.1f} seconds over the limit"
            assert costs.resident < LARGEST, f"a worker took {costs.resident >> 20} MiB"
        with trials.checking(f"what is left of {plan} (seed {trials.seed}, number {number})"):
            assert not _children(), f"processes are left: {_children()}"
            now = len(os.listdir("/proc/self/fd")), threading.active_count()
            before = before or now  # the first run opens what all others share
            assert now == before, f"descriptors and threads were {before}, and are {now}"


def _keep_largest(trials: Trials, figure: str, value: int) -> None:
    trials.figures[figure] = max(trials.figures[figure], value)


# Faults


@contextlib.contextmanager
def _nobody_watches() -> Iterator[None]:
    with mock.patch.object(Pool, "_watch_over", return_value=()):
        yield


@contextlib.contextmanager
def _no_second_try() -> Iterator[None]:
    died = running._Run.died

    def at_once(job: Any, worker: Worker, event: Died) -> None:
        died(job, worker, replace(event, ended=True))

    with mock.patch.object(running._Run, "died", at_once):
        yield


@contextlib.contextmanager
def _lost_with_their_worker() -> Iterator[None]:
    released = Claims.released

    def none(claims: Claims, items: Any) -> list[int]:
        released(claims, items)
        return []

    with mock.patch.object(Claims, "released", none):
        yield


@contextlib.contextmanager
def _never_buried() -> Iterator[None]:
    def forget(workers: Pool, worker: Worker) -> int:
        worker.connection.close()
        workers.workers.remove(worker)
        return -signal.SIGKILL

    with mock.patch.object(Pool, "_remove", forget):
        yield


HARNESSES = (
    Harness(
        "watchdog",
        "a file that hangs, crashes or eats memory ends in the ledger, and nothing else does",
        "runs",
        run,
        short=6,
        long=30,
        mutations=(
            Mutation("nobody watches", _nobody_watches, 1),
            Mutation("no second try for a suspect", _no_second_try, 1),
            Mutation("images lost with their worker", _lost_with_their_worker, 1),
            Mutation("dead workers never waited for", _never_buried, 1),
        ),
        seconds=1800,
    ),
)
