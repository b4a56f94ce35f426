"""Interrupts: Ctrl-C and SIGTERM at random instants of the command line."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pandas  # noqa: F401, ICN001  (loaded before the forks, as all below)
import skops.io  # noqa: F401
import timm  # noqa: F401
import torchvision  # noqa: F401
from sklearn.utils import all_estimators

import featbank.backbones.runtime
import featbank.classifier
import featbank.evaluation.crossval
import featbank.workflows.fit
import featbank.workflows.predict  # noqa: F401
from featbank import cli, durable
from featbank.bank.bank import Bank
from featbank.bank.maintenance import verify
from featbank.data.index import RACY_NANOSECONDS
from featbank.extraction import run as running
from featbank.extraction import sealing
from featbank.workflows import extract as workflow
from tests.torture import job
from tests.torture.harness import Ended, Harness, Mutation, Trials, in_child
from tests.torture.strike import (
    ENDED,
    START_UP,
    Blow,
    Progress,
    marked,
    wait_until_gone,
)

IMAGES = 24
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
REMAINS = re.compile(r"^(\d+) images computed and sealed, (\d+) remain; run the same", re.M)
AFTER = 12
"""Calls on the file system that a run may still make after an interrupt without heeding it."""


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    ended: Ended
    out: str
    err: str


def command(
    words: list[str],
    progress: Progress,
    place: Path,
    *,
    watch: Any = None,
    everywhere: bool = False,
) -> Said:
    """Run `featbank` in a child as a shell would, with its output in files."""
    out, err = place / "out.txt", place / "err.txt"
    group = cli.cli
    progress.clear()

    def begin() -> None:
        progress.begun = True  # the handlers are there
        group()

    def work() -> None:
        for number, path in ((1, out), (2, err)):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(fd, number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["featbank", *words]
        if everywhere:
            running.FEW = 0  # networks in the workers, also for few images
        progress.follow(save_seconds=0.2)
        progress.begun = False
        cli.cli = begin
        status: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
        except KeyboardInterrupt as interrupt:
            if interrupt.__traceback__ and interrupt.__traceback__.tb_next:
                raise
            # Otherwise it fell here, between the command's end and the next line.
        progress.phase = ENDED
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status or 0)

    ended = in_child(work, watch=watch, seconds=90)
    return Said(ended, out.read_text(errors="replace"), err.read_text(errors="replace"))


def extract_words(data: Path, bank: Path, workers: int) -> list[str]:
    words = "--model test_resnet --weights none --input-size 32 --batch-size 1 --shard-rows 8"
    return [
        *("extract", str(data), "--bank", str(bank), "--workers", str(workers)),
        *words.split(),
    ]


def draw_signals(rng: Any) -> tuple[tuple[float, int], ...]:
    """Draw Ctrl-C, SIGTERM, or one of them twice."""
    first = rng.choice((signal.SIGINT, signal.SIGTERM))
    if rng.random() < 0.3:
        return ((0.0, first), (rng.uniform(0, 0.02), first))
    return ((0.0, first),)


@dataclass
class Noted(Blow):
    """A blow that notes what it fell on."""

    phase: str = ENDED
    at: int = 0

    def __call__(self, pid: int, passed: float) -> None:
        before = self.fallen
        phase, at = self.progress.phase, self.progress.calls
        super().__call__(pid, passed)
        if self.fallen > before == 0:
            self.phase, self.at = phase, at


def rows(bank: Path) -> dict[Any, str]:
    return job.rows_of(bank) if (bank / "bank.json").exists() else {}


def known_to(bank: Path) -> set[bytes]:
    """Return the digests of the images that the index of a bank knows."""
    if not (bank / "bank.json").exists():
        return set()
    parts = Bank(bank).index.sources.values()
    return {digest.tobytes() for part in parts for digest in part.digest[part.known]}


def check_words(said: Said, status: int, *, insisted: bool = False) -> None:
    """Raise unless a command ended as an interrupted one does, or had come to its end before."""
    assert not said.ended.hung, "it hung"
    words = f"{said.ended}, standard error:\n{said.err[-400:]}"
    for odd in ("Traceback", "Exception ignored", "Aborted"):
        assert odd not in said.err, words
    if said.ended.signal is not None:  # a second one, when all was done but for the last words
        assert insisted, words
        assert 128 + said.ended.signal == status, words
        return
    assert said.ended.status in (0, status), words
    if said.ended.status == status:
        assert said.err.endswith("Interrupted.\n"), words


def interrupted_extractions(trials: Trials) -> None:
    """Interrupt extractions; a bank is interrupted up to three times before it is finished."""
    place, progress = trials.folder, Progress()
    data, truth, bank = place / "data", place / "truth", place / "bank"
    job.make_folder(data, IMAGES, trials.rng)
    time.sleep(RACY_NANOSECONDS / 1e9 + 0.1)  # files that are younger are read again in every run
    said = command(extract_words(data, truth, 0), progress, place)
    assert said.ended.status == 0, said
    calls, expected = progress.calls, rows(truth)
    there: dict[Any, str] = {}
    times = 0
    for number in trials:
        workers = 2 * (trials.rng.random() < 0.1)
        everywhere = workers > 0 and trials.rng.random() < 0.1
        signals = draw_signals(trials.rng)
        lacking = IMAGES - len(there)
        blow = Noted.at_random(
            trials.rng, progress, 4 + calls * lacking * 6 // (7 * IMAGES), signals=signals
        )
        what = f"interrupt {number}, {len(signals)} of {signals[0][1]} with {workers} workers"
        finished = False
        known = known_to(bank)
        indexed = {name for name in there if name[2] in known}
        with trials.checking(f"{what}, after call {blow.calls}"), marked(f"{os.getpid()} {number}"):
            said = command(
                extract_words(data, bank, workers),
                progress,
                place,
                watch=blow,
                everywhere=everywhere,
            )
            alive = wait_until_gone(f"{os.getpid()} {number}", 10.0)
            assert not alive, f"processes that outlive the run: {alive}"
            trials.figures[f"interrupts {blow.phase}"] += 1
            trials.figures["twice in a row"] += blow.fallen > 1
            trials.figures["with worker processes"] += workers > 0
            check_words(said, STATUS[signals[0][1]], insisted=blow.fallen > 1)
            now = rows(bank)
            new = len(now) - len(there)
            odd = [name for name, digest in now.items() if expected.get(name) != digest]
            assert not odd, f"{len(odd)} rows are wrong"
            assert there.keys() <= now.keys(), "rows are lost"
            if (bank / "bank.json").exists():
                found = verify(Bank(bank))
                assert found.ok, found.damaged
            if said.ended.status == 0:
                assert len(now) == IMAGES, f"exit 0 with {len(now)} of {IMAGES} images"
                assert not blow.fallen or progress.calls - blow.at <= AFTER, "it was not heeded"
            else:
                counted = REMAINS.search(said.err)
                if counted is None:
                    assert blow.phase == START_UP or blow.fallen > 1 or len(now) == IMAGES, (
                        f"{blow.phase}, and what remains is not said: {said.err}"
                    )
                else:
                    said_new, said_left = int(counted[1]), int(counted[2])
                    assert said_new == new, f"{counted[0]}: it is {new}"
                    # A file of which the index lost sight, by two interrupts at once, has to be
                    # read again to be told from what remains.
                    left = IMAGES - len(now)
                    assert said_left == left or (said_left > left and indexed < there.keys()), (
                        f"{counted[0]}: it is {left}"
                    )
                    trials.figures["counts of what remains compared"] += 1
                known = known_to(bank)
                assert blow.fallen > 1 or {key for _, _, key in now} <= known, (
                    f"{len(now)} rows, and the index knows {len(known)}"
                )
            if not everywhere:
                # What was in the network's hands, or on its way out of them, may be lost.
                assert blow.fallen > 1 or new >= progress.embedded - (2 if workers else 1), (
                    f"{progress.embedded} images embedded, and {new} sealed"
                )
            there = now
            times += 1
            if times == 3 or len(there) == IMAGES:
                finished = True
                said = command([*extract_words(data, bank, 0), "--json"], progress, place)
                assert said.ended.status == 0, said
                computed = int(re.search(r'"computed": (\d+)', said.out)[1])  # type: ignore[index]
                assert computed == IMAGES - len(there), f"{computed} computed, not the rest"
                assert rows(bank) == expected, "not the rows of an uninterrupted run"
                assert len(Bank(bank).features()) == IMAGES
                trials.figures["runs that went on to the end"] += 1
        if finished or trials.failed:
            shutil.rmtree(bank, ignore_errors=True)
            there, times = {}, 0


@contextlib.contextmanager
def dropped() -> Iterator[None]:
    """Let an interrupt end a run without sealing what waits for more rows."""
    rest = sealing.Sealer.rest

    def unless_interrupted(sealer: sealing.Sealer) -> list[int]:
        return [] if isinstance(sys.exc_info()[1], KeyboardInterrupt) else rest(sealer)

    with mock.patch.object(sealing.Sealer, "rest", unless_interrupted):
        yield


@contextlib.contextmanager
def nothing_held_back() -> Iterator[None]:
    """Let interrupts fall where they may."""
    with contextlib.ExitStack() as stack:
        for module in (sealing, running, workflow):
            stack.enter_context(mock.patch.object(module, "held_back", contextlib.nullcontext))
        yield


def slowly() -> Any:
    """Write files over the old ones, piece by piece, as a slow disk would."""

    def over(path: Any, data: Any) -> None:
        size = len(data) // 8 + 1
        with open(path, "wb", buffering=0) as file:
            for start in range(0, len(data), size):
                file.write(memoryview(data)[start : start + size])
                time.sleep(0.02)

    return mock.patch.object(durable, "write_file", over)


def left_to_click() -> Any:
    """Let what parses the command line say what it likes of an interrupt."""
    return mock.patch.object(cli, "_interrupts", contextlib.nullcontext)


@dataclass
class Timed:
    """A signal after so many seconds of work; pass it to `in_child` as `watch`."""

    progress: Progress
    after: float
    number: int
    fallen: int = 0
    since: float | None = None

    def __call__(self, pid: int, passed: float) -> None:
        if self.since is None and self.progress.begun:
            self.since = passed
        if not self.fallen and self.since is not None and passed >= self.since + self.after:
            os.kill(pid, self.number)
            self.fallen = 1


def interrupted_commands(trials: Trials) -> None:
    """Interrupt what comes after an extraction; what it writes is whole or not there."""
    all_estimators()  # brings, before the forks, all that skops imports to know types by name
    place, progress = trials.folder, Progress()
    data, bank = place / "data", place / "bank"
    job.make_folder(data, IMAGES, trials.rng)
    assert command(extract_words(data, bank, 0), progress, place).ended.status == 0
    new = place / "new"
    job.make_folder(new, 6, trials.rng)
    (place / "out").mkdir()
    written = {
        "fit": place / "out" / "centroid.skops",
        "predict": place / "out" / "out.csv",
        "compact": place / "out" / "packed.h5",
    }
    kept = place / "kept.skops"
    words = {
        "fit": [
            "fit",
            "--bank",
            str(bank),
            "--head",
            "centroid",
            "--no-tune",
            "--jobs",
            "1",
            "--cv",
            "2",
            "--out",
            str(written["fit"]),
        ],
        "predict": ["predict", str(kept), str(new), "--csv", str(written["predict"])],
        "compact": ["compact", "--bank", str(bank), str(written["compact"])],
    }
    seconds, truth = {}, {}
    for name in words:
        for _ in range(2):  # the second time, what is imported late is there
            written[name].unlink(missing_ok=True)
            began = Timed(progress, math.inf, 0)
            said = command(words[name], progress, place, watch=began)
            assert said.ended.status == 0, said
        seconds[name] = said.ended.seconds - (began.since or 0.0)
        truth[name] = content(written[name])
        if name == "fit":
            shutil.copy(written[name], kept)
    for number in trials:
        name = trials.rng.choice(sorted(words))
        signal_number = trials.rng.choice((signal.SIGINT, signal.SIGTERM))
        blow = Timed(progress, trials.rng.uniform(0, seconds[name]), signal_number)
        with trials.checking(f"{number}: {name}, {signal_number} after {blow.after:.3f} s"):
            old = trials.rng.random() < 0.5
            written[name].unlink(missing_ok=True)
            if old:
                written[name].write_bytes(truth[name][0])
            said = command(words[name], progress, place, watch=blow)
            check_words(said, STATUS[signal_number])
            if said.ended.status:
                lines = [
                    line for line in said.err.split("\n") if line and "random weights" not in line
                ]
                assert lines == ["Interrupted."], said.err
                trials.figures[f"{name} interrupted"] += 1
            there = written[name].exists()
            assert there or not old, "the old file is gone"
            if there:
                assert content(written[name])[1:] == truth[name][1:], "it is not whole"


def content(path: Path) -> tuple[bytes, Any]:
    """Return the bytes of a file that a command wrote, and what they mean; read as a user would."""
    data = path.read_bytes()
    if path.suffix == ".skops":
        from featbank.classifier import Classifier

        return data, Classifier.load(path).classes
    if path.suffix == ".h5":
        return data, sorted(job.rows_of(path).items())
    return data, data


HARNESSES = (
    Harness(
        "interrupts",
        "Ctrl-C and SIGTERM: what is finished is sealed, the rest is counted, no traceback",
        "interrupts",
        interrupted_extractions,
        short=20,
        long=300,
        mutations=(
            Mutation("what is not yet a whole shard is dropped", dropped),
            Mutation("interrupts fall into seals and saves", nothing_held_back),
        ),
    ),
    Harness(
        "interrupted-commands",
        "fit, predict and compact: the old file or the new one, whole, and one line",
        "interrupts",
        interrupted_commands,
        short=10,
        long=150,
        mutations=(
            Mutation("files written in place, and slowly", slowly),
            Mutation("interrupts left to click", left_to_click),
        ),
    ),
)
