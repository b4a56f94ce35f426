"""Writers: four processes fill one bank, are killed and start again; readers read all the while."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import random
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from featbank import durable
from featbank.bank import bank as bank_module
from featbank.bank import maintenance
from featbank.bank.bank import Bank
from featbank.bank.maintenance import verify
from featbank.data.index import RACY_NANOSECONDS
from featbank.data.sources import open_source
from featbank.errors import BankNotFound
from featbank.extraction.run import Settings
from featbank.workflows import extract as workflow
from tests.torture import job
from tests.torture.harness import Harness, Mutation, Trials, in_child
from tests.torture.kills import BOTH, ONE, torn_index

WRITERS, READERS = 4, 2
PATIENCE = 120.0  # seconds for writers that nobody kills any more


@dataclass(frozen=True)
class World:
    """Folders of images, what each writer takes of them, and what comes of it.

    Attributes
    ----------
    folders : list of Path
        All of the same base name, so that writers want the same name in the bank.
    tasks : list of (list of int, str)
        Of each writer: numbers of folders, and layers.
    rows, index : dict
        What a single writer of everything makes.
    features : dict
        Path to row, for each layer.
    """

    folders: list[Path]
    tasks: list[tuple[list[int], str]]
    rows: dict[tuple[str, str, bytes], str]
    index: dict[bytes, list[Any]]
    features: dict[str, dict[str, np.ndarray]]


def write(bank: Path, world_folders: list[Path], layers: str) -> None:
    """Extract folders into a bank."""
    workflow._SAVE_SECONDS = 0.1
    workflow.extract_to(
        bank,
        [open_source(folder) for folder in world_folders],
        workflow.open_model(job.network()),
        workflow.parse_columns(layers),
        settings=Settings(workers=0, batch_size=1, shard_rows=job.ROWS),
    )


def make_world(folder: Path, rng: random.Random) -> World:
    folders = []
    for i in range(WRITERS + 1):
        place = folder / f"place {i}" / "images"
        job.make_folder(place, 6, rng)
        folders.append(place)
    # Each has one of its own, shares the last with all, and one with its neighbour; and half of
    # the images of each folder are in the next one too.
    for first, second in itertools.pairwise(folders):
        for path in sorted(first.rglob("*.png"))[:3]:
            shutil.copy2(path, second / "a" / f"copy of {path.name}")
    last = WRITERS
    tasks = [([i, (i + 1) % WRITERS, last], BOTH if i % 2 else ONE) for i in range(WRITERS)]
    # What one process finds out of a file, another believes only of one that has been at rest.
    time.sleep(RACY_NANOSECONDS / 1e9 + 0.1)
    bank = folder / "truth"
    run_to_the_end(bank, folders, BOTH)
    opened = Bank(bank)
    features = {
        layer: dict(zip(opened.paths, opened.features(layer=layer), strict=True))
        for layer in BOTH.split(",")
    }
    return World(folders, tasks, job.rows_of(bank), index_of(opened), features)


def run_to_the_end(bank: Path, folders: list[Path], layers: str) -> None:
    ended = in_child(lambda: write(bank, folders, layers))
    assert ended.status == 0, ended


def index_of(bank: Bank) -> dict[bytes, list[Any]]:
    """Return by folder what the index says of its images, apart from names of sources and times."""
    found = {}
    for source in bank.index.sources.values():
        assert source.root not in found, "a folder is in the index twice"
        found[source.root] = [
            (name, label, digest.tobytes() if known else None)
            for name, label, digest, known in zip(
                source.listing.names,
                source.listing.label.tolist(),
                source.digest,
                source.known,
                strict=True,
            )
        ]
    return found


class Board:
    """What writers and readers of one round know of one another, in memory that all see."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def over(self) -> bool:
        """Whether readers are to end."""
        return self._memory[0] == 1

    @over.setter
    def over(self, over: bool) -> None:
        self._memory[0] = over

    @property
    def finished(self) -> list[int]:
        """Writers that have said that they are done."""
        return [i for i in range(WRITERS) if self._memory[1 + i]]

    def finish(self, writer: int) -> None:
        self._memory[1 + writer] = 1

    def looked(self, reader: int) -> None:
        at = 32 + 8 * reader
        n = int.from_bytes(self._memory[at : at + 8], "little") + 1
        self._memory[at : at + 8] = n.to_bytes(8, "little")

    def looks_of(self, reader: int) -> int:
        at = 32 + 8 * reader
        return int.from_bytes(self._memory[at : at + 8], "little")


def check_features(bank: Bank, world: World, writers: list[int]) -> None:
    """Raise unless the bank has, rightly, all that these writers have brought."""
    roots = {os.fsdecode(s.root): s for s in bank.index.sources.values()}
    for writer in writers:
        numbers, layers = world.tasks[writer]
        for folder in (world.folders[i] for i in numbers):
            source = roots.get(str(folder))
            assert source is not None, f"{folder} of a finished writer is not in the index"
            for layer in layers.split(","):
                expected = world.features[layer]
                chosen = bank.select(layer=layer, source=source.name)
                wanted = sum(path.startswith(f"{folder}/") for path in expected)
                assert len(chosen.paths) == wanted, f"{len(chosen.paths)} of {wanted} of {folder}"
                for path, row in zip(chosen.paths, chosen.X, strict=True):
                    assert np.array_equal(row, expected[path]), f"{path} has other numbers"


def read(path: Path, world: World, board: Board, number: int) -> None:
    """Open a bank, read and verify it again and again; raise if anything of it is not right."""
    there, kept = False, None
    while not board.over:
        finished = board.finished
        try:
            opened = Bank(path)
        except BankNotFound:
            assert not there, "the bank is gone"
            continue
        there = True
        kept = kept or opened
        rows = job.rows_of(path)
        odd = [name for name, digest in rows.items() if world.rows.get(name) != digest]
        assert not odd, f"{len(odd)} rows are wrong"
        found = verify(opened)
        assert found.ok, found.damaged
        for bank in (opened, kept):  # one opened now, and one that was there all the time
            check_features(bank, world, finished)
        board.looked(number)
        time.sleep(0.02)


@dataclass
class Round:
    """One bank, from the first writer to the last check."""

    bank: Path
    world: World
    limit: int
    board: Board = field(default_factory=Board)
    writers: dict[int, int] = field(default_factory=dict)  # number: process
    readers: dict[int, int] = field(default_factory=dict)
    kills: int = 0

    def begin(self) -> None:
        for number in range(WRITERS):
            self.begin_writer(number)
        for number in range(READERS):
            self.readers[number] = start(
                lambda number=number: read(self.bank, self.world, self.board, number),
                self.words("reader", number),
            )

    def begin_writer(self, number: int) -> None:
        folders, layers = self.world.tasks[number]

        def work() -> None:
            write(self.bank, [self.world.folders[i] for i in folders], layers)
            self.board.finish(number)

        self.writers[number] = start(work, self.words("writer", number))

    def words(self, kind: str, number: int) -> Path:
        """Return the file in which a process leaves what it died of."""
        return self.bank.with_name(f"{kind} {number}.txt")

    def look(self) -> None:
        """Take note of who has ended; raise if one has ended badly."""
        for kind, processes in (("writer", self.writers), ("reader", self.readers)):
            for number, pid in list(processes.items()):
                gone, status = os.waitpid(pid, os.WNOHANG)
                if gone:
                    del processes[number]
                    said = self.words(kind, number)
                    if status:
                        text = said.read_text() if said.exists() else ""
                        raise AssertionError(f"{kind} {number} ended with {status}: {text}")

    def kill(self, number: int) -> bool:
        """Kill a writer and start it again; return whether it was still there to be killed."""
        pid = self.writers[number]
        os.kill(pid, signal.SIGKILL)
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT).si_code != os.CLD_KILLED:
            return False  # it had come to its end; `look` says how
        os.waitpid(pid, 0)
        self.kills += 1
        self.begin_writer(number)
        return True

    def finish(self, figures: Counter[str]) -> None:
        """Let everybody come to the end; then the bank has everything, once and rightly."""
        end = time.monotonic() + PATIENCE
        while self.writers:
            self.look()
            assert time.monotonic() < end, "the writers do not come to an end"
            time.sleep(0.005)
        self.board.over = True
        while self.readers:
            self.look()
            assert time.monotonic() < end, "the readers do not come to an end"
            time.sleep(0.005)
        opened = Bank(self.bank)
        found = verify(opened)
        assert found.ok, found.damaged
        assert job.rows_of(self.bank) == self.world.rows, "not the rows of a single writer"
        assert index_of(opened) == self.world.index, "not the index of a single writer"
        assert opened.sources.keys() == opened.index.sources.keys()
        check_features(opened, self.world, list(range(WRITERS)))
        for layer in BOTH.split(","):
            column = workflow.parse_columns(layer)[0]
            table = opened.rows(opened.recipes[0].fingerprint, column)
            keys = {key for _, name, key in self.world.rows if name == column.name}
            assert len(table) == len(keys), "a key is read more than once"
        figures["banks brought to the end"] += 1
        figures["rows compared"] += len(self.world.rows)
        figures["rows in more than one shard"] += found.rows - len(
            {key for _, _, key in self.world.rows}
        )
        figures["looks of readers"] += sum(map(self.board.looks_of, range(READERS)))

    def abandon(self) -> None:
        """End every process that is left."""
        for pid in (*self.writers.values(), *self.readers.values()):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.writers, self.readers = {}, {}


def start(work: Callable[[], None], words: Path) -> int:
    """Fork a child that works; an exception is exit status 70 and goes to the file `words`."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            work()
            status = 0
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{os.path.basename(where.filename)}:{where.lineno}"
            words.write_text(f"{type(error).__name__}: {error} ({place})")
        finally:
            os._exit(status)
    return pid


def many(trials: Trials) -> None:
    """Kill a writer at random, again and again, until all of a round have done their work."""
    world = make_world(trials.folder, trials.rng)
    rounds = itertools.count()
    running: Round | None = None

    def begin() -> Round:
        folder = trials.folder / f"round {next(rounds)}"
        folder.mkdir()
        begun = Round(folder / "bank", world, trials.rng.randrange(8, 25))
        begun.begin()
        return begun

    try:
        for number in trials:
            with trials.checking(f"kill {number}"):
                killed = False
                while not killed:
                    running = running or begin()
                    time.sleep(trials.rng.uniform(0, 0.2))
                    running.look()
                    if running.writers and running.kills < running.limit:
                        killed = running.kill(trials.rng.choice(sorted(running.writers)))
                        continue
                    running.finish(trials.figures)
                    shutil.rmtree(running.bank.parent)
                    running = None
                continue
            if running is not None:  # something was not right: begin again
                running.abandon()
                running = None
        with trials.checking("the end of the last round"):
            if running is not None:
                running.finish(trials.figures)
    finally:
        if running is not None:
            running.abandon()


def no_lock(*args: Any, **options: Any) -> Any:
    return contextlib.nullcontext()


def unlocked() -> Any:
    """Let writers change the index without waiting for one another."""
    return mock.patch.object(durable, "lock", side_effect=no_lock)


@contextlib.contextmanager
def counted_names() -> Iterator[None]:
    """Name shards by numbers, each process from the first one on that it finds free; trust them."""
    free: dict[int, int] = {}

    def named(path: str, data: Any) -> bool:
        part = os.path.join(os.path.dirname(path), os.pardir, "00")
        durable.make_directory(part)
        number = free.setdefault(os.getpid(), len(os.listdir(part)))
        free[os.getpid()] += 1
        durable.write_file(os.path.join(part, f"{number:064d}.h5"), data)
        return True

    with (
        mock.patch.object(durable, "publish_file", named),
        mock.patch.object(bank_module, "check_digest"),
        mock.patch.object(maintenance, "check_digest"),
    ):
        yield


HARNESSES = (
    Harness(
        "many-writers",
        "four writers of one bank, killed and started again, lose and repeat nothing; readers read",
        "kills",
        many,
        short=10,
        long=250,
        mutations=(
            Mutation("index changed without the lock", unlocked),
            Mutation("shards named by a counter", counted_names),
            Mutation("index written in place", torn_index),
        ),
    ),
)
