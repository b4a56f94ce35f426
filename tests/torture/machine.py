"""The state machine: a bank beside a plain dictionary, through many thousands of random steps.

Files are added, edited, renamed, swapped, relabelled and ruined; runs are made, killed and made
again. After every run the bank must say of each file what the network says of its bytes, beside
the label that it has, and must have computed what was missing and nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from featbank import durable
from featbank.backbones import recipe as recipes
from featbank.backbones.preprocess import apply
from featbank.backbones.recipe import Column, Preprocess, Recipe
from featbank.bank.bank import Bank
from featbank.bank.maintenance import compact, verify
from featbank.bank.merge import merge
from featbank.bank.prune import prune
from featbank.bank.recipes import shard_paths
from featbank.bank.repair import repair
from featbank.bank.shard import read_shard
from featbank.data import index
from featbank.data.decode import DecodePolicy, decode
from featbank.data.sources import open_source
from featbank.errors import BankDamaged, BankError, DataError, FeaturesMissing
from featbank.extraction.run import Settings
from featbank.workflows.extract import ExtractionResult, Model, extract_to
from featbank.workflows.status import status
from tests.torture.harness import Harness, Mutation, Trials, in_child
from tests.torture.world import SECOND, World, picture

PREPROCESS = Preprocess(8, "squash", (8, 8), "bilinear", (0.5,) * 3, (0.5,) * 3)
RECIPES = tuple(Recipe("tiny", "module", word * 64, PREPROCESS) for word in "01")
COLUMNS = (Column(), Column("early"))
CLASSES = ("a", "b", "c")
SOURCES = ("data", "table")
MOST = 12  # images
FILE = st.integers(-3, MOST - 1)
NAMES = st.sampled_from([("data",), ("table",), SOURCES])
SOME_COLUMNS = st.sampled_from([COLUMNS[:1], COLUMNS[1:], COLUMNS])
KILL = st.one_of(st.none(), st.none(), st.none(), st.integers(0, 25))
MOSTLY = st.sampled_from([True, True, True, False])


@dataclass(frozen=True)
class Network:
    """A network of one layer, another one for each recipe and column; also its own loader."""

    seed: int

    def load(self, device: str) -> Network:
        return self

    def layers(self) -> list[str]:
        return [column.layer for column in COLUMNS]

    def run(self, batch: Any, columns: Sequence[Column]) -> dict[Column, npt.NDArray[Any]]:
        flat = batch.reshape(len(batch), -1).astype(np.float32) / 255
        return {column: flat @ weights(self.seed, column) for column in columns}


@functools.cache
def weights(seed: int, column: Column) -> npt.NDArray[Any]:
    rng = np.random.default_rng([seed, *column.name.encode()])
    return rng.normal(size=(8 * 8 * 3, 3)).astype(np.float32)


@functools.lru_cache(10_000)
def truth(number: int, column: Column, data: bytes) -> npt.NDArray[Any] | None:
    """Return what a network says of a file's bytes; None if they are no image."""
    if not data.startswith(b"\x89PNG"):
        return None
    pixels = apply(PREPROCESS, decode(data, DecodePolicy()))
    return Network(number).run(pixels[None], [column])[column][0]


def model(number: int) -> Model:
    return Model(RECIPES[number], Network(number), {}, DecodePolicy(), PREPROCESS)


class _Unsynced(durable.FileSystem):
    """Syncs nothing: here processes die, and never the machine."""

    def sync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: str) -> None:
        pass


class _Killed(_Unsynced):
    """Ends its process in the middle of one of its calls."""

    def __init__(self, at: int) -> None:
        self._left = at

    def _step(self) -> bool:
        self._left -= 1
        return self._left < 0

    def write(self, fd: int, data: memoryview) -> int:
        if self._step():
            super().write(fd, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(fd, data)

    def replace(self, source: str, target: str) -> None:
        if self._step():
            os.kill(os.getpid(), signal.SIGKILL)
        super().replace(source, target)

    def link(self, source: str, target: str) -> None:
        if self._step():
            os.kill(os.getpid(), signal.SIGKILL)
        super().link(source, target)

    def unlink(self, path: str) -> None:
        if self._step():
            os.kill(os.getpid(), signal.SIGKILL)
        super().unlink(path)


@dataclass(frozen=True)
class Row:
    """What an index says of one path; without bytes where there is no file."""

    data: bytes | None
    label: str | None
    split: str | None = None

    @property
    def readable(self) -> bool:
        return self.data is not None and truth(0, COLUMNS[0], self.data) is not None

    @property
    def key(self) -> bytes:
        assert self.data is not None
        return hashlib.sha256(self.data).digest()


Snapshot = dict[str, Row]
Cell = tuple[int, Column, bytes]
"""A row of features: the number of its recipe, its column, the digest of its image."""


@dataclass
class Dictionary:
    """What the bank must say.

    Attributes
    ----------
    snapshots : dict of str to list of Snapshot
        What the index may say of a source: one thing, or several after a run that was killed.
    sure, maybe : set of Cell
        What has been sealed, and what may have been.
    """

    snapshots: dict[str, list[Snapshot | None]] = field(default_factory=dict)
    sure: set[Cell] = field(default_factory=set)
    maybe: set[Cell] = field(default_factory=set)


class Machine(RuleBasedStateMachine):
    """The rules, and the dictionary that they are checked against."""

    trials: Trials
    count = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).count += 1
        self.folder = self.trials.folder / str(self.count)
        self.folder.mkdir()
        self.bank = self.folder / "bank"
        self.said = Dictionary()
        self.steps: list[str] = []
        self.seed = 0
        self.last = ""
        self.words: tuple[Any, ...] = (SOURCES[:1], 0, COLUMNS[:1], {})
        self.world: World

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def step(self, *words: Any) -> Iterator[None]:
        """Count a step; a failure tells all that led to it."""
        self.steps.append(" ".join(map(str, words)))
        self.trials.done += 1
        try:
            with self.world.clock(), mock.patch.object(durable, "fs", _Unsynced()):
                yield
        except Exception as error:
            if not self.trials.failed:
                self.trials.fail(
                    f"{type(error).__name__}: {error}"[:800] + f"; after {'; '.join(self.steps)}"
                )
            raise

    # Files

    def fresh(self, side: int = 8) -> bytes:
        """Return a picture that was never there; those of one side have one size."""
        self.seed += 1
        return picture(self.seed, side)

    def garbage(self, like: bytes) -> bytes:
        """Return bytes that are no image, as many as another file has."""
        self.seed += 1
        return f"not an image {self.seed} ".encode().ljust(len(like), b"-")[: len(like)]

    def name(self, number: int) -> str:
        """Return a file's name; -1 is the one that was edited last."""
        if number < 0 and self.last in self.world.files:
            return self.last
        return sorted(self.world.files)[number % len(self.world.files)]

    def unused(self, label: str) -> str:
        self.seed += 1
        return f"{label}/{self.seed}.png"

    @initialize(grain=st.sampled_from([1, SECOND // 100, SECOND, 2 * SECOND]))
    def begin(self, grain: int) -> None:
        self.world = World(self.folder, grain)
        for number in range(4):
            self.world.write(f"{CLASSES[number % 2]}/{number}.png", self.fresh())
        self.world.listed = {"a/0.png": ("x", "train"), "b/1.png": ("y", "test")}
        self.world.write_table(None)
        self.steps.append(f"begin with times in steps of {grain} ns")

    @precondition(lambda self: len(self.world.files) < MOST)
    @rule(n=st.integers(1, 3), label=st.sampled_from(CLASSES))
    def add(self, n: int, label: str) -> None:
        with self.step("add", n, label):
            for _ in range(n):
                self.world.write(self.unused(label), self.fresh())

    @rule(i=FILE, image=MOSTLY, fresh=st.booleans(), keep_time=st.booleans(), keep_size=MOSTLY)
    def edit(self, i: int, image: bool, fresh: bool, keep_time: bool, keep_size: bool) -> None:
        """Write other bytes, as many or more, an image or not; in place, or as a new file."""
        name = self.name(i)
        words = {"image": image, "fresh": fresh, "keep time": keep_time, "keep size": keep_size}
        with self.step("edit", name, *(word for word, said in words.items() if said)):
            old = self.world.files[name]
            data = self.fresh(side=8 if keep_size else 9) if image else self.garbage(old)
            self.world.write(name, data, fresh=fresh, keep_time=keep_time)
            self.last = name

    @rule(i=FILE, label=st.sampled_from(CLASSES), own_name=st.booleans())
    def move(self, i: int, label: str, own_name: bool) -> None:
        """Move a file to a class folder, under its own name where that is free, or another."""
        name = self.name(i)
        new = f"{label}/{Path(name).name}"
        if not own_name or new in self.world.files:
            new = self.unused(label)
        with self.step("move", name, new):
            self.world.rename(name, new)

    @rule(i=FILE, j=FILE)
    def swap(self, i: int, j: int) -> None:
        one, other = self.name(i), self.name(j)
        with self.step("swap", one, other):
            if one != other:
                self.world.swap(one, other)

    @precondition(lambda self: len(self.world.files) > 3)
    @rule(i=FILE)
    def delete(self, i: int) -> None:
        with self.step("delete", self.name(i)):
            self.world.delete(self.name(i))

    @precondition(lambda self: len(self.world.files) < MOST)
    @rule(i=FILE, label=st.sampled_from(CLASSES), link=st.booleans())
    def duplicate(self, i: int, label: str, link: bool) -> None:
        name, new = self.name(i), self.unused(label)
        with self.step("link" if link else "duplicate", name, new):
            if link:
                self.world.link(name, new)
            else:
                self.world.write(new, self.world.files[name])

    @rule(i=FILE, age=st.sampled_from([-3600, 0, 1, 1000, 10**9]))
    def touch(self, i: int, age: int) -> None:
        with self.step("touch", self.name(i), age):
            self.world.touch(self.name(i), age)

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.5, 2.5, 60]))
    def wait(self, seconds: float) -> None:
        with self.step("wait", seconds):
            self.world.wait(seconds)

    @rule(
        i=FILE,
        label=st.sampled_from(["x", "y", "z"]),
        split=st.sampled_from(["train", "valid", "test"]),
        again=MOSTLY,
        backwards=st.booleans(),
    )
    def edit_table(self, i: int, label: str, split: str, again: bool, backwards: bool) -> None:
        """List a file, or list one otherwise; the order of the rows means nothing."""
        listed = sorted(self.world.listed)
        name = listed[i % len(listed)] if again else self.name(i)
        with self.step("table", name, label, split, f"{backwards=}"):
            self.world.listed[name] = (label, split)
            if len(self.world.listed) > MOST:
                del self.world.listed[next(iter(self.world.listed))]
            self.world.write_table(lambda row: row[::-1] if backwards else row)

    # Runs

    def snapshot(self, source: str) -> Snapshot:
        """Return what an index of a source must say now."""
        if source == "data":
            return {n: Row(data, n.split("/")[0]) for n, data in self.world.files.items()}
        return {
            f"data/{n}": Row(self.world.files.get(n), label, split)
            for n, (label, split) in self.world.listed.items()
        }

    def usable(self, names: Sequence[str]) -> Sequence[str]:
        """Return the sources that can be scanned: a table of which no file is there is refused."""
        there = any(name in self.world.files for name in self.world.listed)
        return names if there else ("data",)

    def cells(
        self, snapshots: Iterable[Snapshot], number: int, columns: Sequence[Column]
    ) -> set[Cell]:
        """Return the rows of features that belong to all readable images."""
        rows = [row for snapshot in snapshots for row in snapshot.values() if row.readable]
        return {(number, column, row.key) for column in columns for row in rows}

    def unsure(self, snapshots: dict[str, Snapshot], cells: set[Cell]) -> None:
        """Note what may hold after something that was killed: the old, or the new."""
        for name, snapshot in snapshots.items():
            self.said.snapshots.setdefault(name, [None]).append(snapshot)
        self.said.maybe |= cells - self.said.sure

    @property
    def settled(self) -> bool:
        """Whether there is a bank, and all is known of its index."""
        which = self.said.snapshots.values()
        return bool(which) and all(len(one) == 1 and one[0] is not None for one in which)

    def sources(self, names: Sequence[str]) -> list[Any]:
        places = {"data": self.world.data, "table": self.world.table}
        return [open_source(places[name]) for name in names]

    def extract(
        self,
        names: Sequence[str],
        number: int,
        columns: Sequence[Column],
        *,
        bank: Path | None = None,
        **plan: bool,
    ) -> ExtractionResult:
        return extract_to(
            bank or self.bank,
            self.sources(names),
            model(number),
            columns,
            settings=Settings(workers=0, batch_size=3, shard_rows=4),
            **plan,
        )

    @rule(
        names=NAMES,
        number=st.integers(0, 1),
        columns=SOME_COLUMNS,
        how=st.sampled_from([{}, {}, {}, {"paranoid": True}, {"retry_failed": True}]),
        kill=KILL,
    )
    def run(
        self,
        names: Sequence[str],
        number: int,
        columns: Sequence[Column],
        how: dict[str, bool],
        kill: int | None,
    ) -> None:
        """Extract, perhaps to be killed; what is computed is what was missing."""
        self.words = (names, number, columns, how)
        words = (*names, number, *(c.layer for c in columns), *how)
        with self.step("extract", *words, *(() if kill is None else ("killed at", kill))):
            names = self.usable(names)
            now = {name: self.snapshot(name) for name in names}
            rows = [row for snapshot in now.values() for row in snapshot.values()]
            cells = self.cells(now.values(), number, columns)
            needed = {key for _, _, key in cells - self.said.sure}
            if kill is not None:
                if not self.killed(kill, lambda: self.extract(names, number, columns, **how)):
                    self.unsure(now, cells)
                    return
            else:
                if len(self.steps) % 2:
                    self.look(names, number, columns, now, needed)
                done = self.extract(names, number, columns, **how)
                missing = {key for _, _, key in cells - self.said.sure - self.said.maybe}
                same(done.images, len(rows), "images")
                same(done.failed, sum(not row.readable for row in rows), "failed")
                same(done.reused, len(rows) - done.failed - done.computed, "reused")
                if not len(missing) <= done.computed <= len(needed):
                    same(done.computed, len(needed), "computed")
                self.trials.figures["images computed"] += done.computed
            self.said.snapshots.update({name: [snapshot] for name, snapshot in now.items()})
            self.said.sure |= cells
            self.said.maybe -= cells
            self.compare(self.bank, number, columns)

    @rule(rested=st.booleans(), kill=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 25)))
    def again(self, rested: bool, kill: int | None) -> None:
        """Run the last run again: at once, or when the files' times have become old."""
        if rested:
            self.wait(10)
        self.run(*self.words, kill)

    @rule(i=FILE, keep_time=st.booleans())
    def hurry(self, i: int, keep_time: bool) -> None:
        """Edit a file in place right after a run has read it, within the tick of most clocks."""
        for _ in range(2):
            self.edit(i, image=True, fresh=False, keep_time=keep_time, keep_size=True)
            self.run(*self.words, None)

    def killed(self, at: int, work: Callable[[], object]) -> bool:
        """Do it in a process that is killed at one of its writes; return whether it got through.

        Its clock goes on where this one is; whatever it does takes less than a second of it.
        """

        def until_killed() -> None:
            with mock.patch.object(durable, "fs", _Killed(at)):
                work()

        ended = in_child(until_killed)
        self.world.wait(1)
        if ended.status == 0:
            return True
        same(ended.signal, signal.SIGKILL, "signal")
        self.trials.figures["kills"] += 1
        return False

    def look(
        self,
        names: Sequence[str],
        number: int,
        columns: Sequence[Column],
        now: dict[str, Snapshot],
        needed: set[bytes],
    ) -> None:
        """Check that `status` foretells the run that follows."""
        found = status(self.bank, self.sources(names), model(number), columns)
        rows = [row for snapshot in now.values() for row in snapshot.values()]
        same(found.images, sum(map(len, now.values())), "images of status")
        if self.said.maybe or any(len(self.said.snapshots.get(n, [1])) > 1 for n in names):
            return
        unreadable = [row for row in rows if not row.readable]
        # It reads no image that can't have been known: two of these may be one, or none.
        more = len(unreadable) - len(found.failed)
        more += sum(row.readable for row in rows) - len({row.key for row in rows if row.readable})
        if not len(needed) <= found.to_compute <= len(needed) + more:
            same(found.to_compute, len(needed), "to_compute of status")
        roots = {"data": self.world.data, "table": self.world.folder}
        gone, other = set(), set()
        for name, snapshot in now.items():
            (before,) = self.said.snapshots.get(name, [None])
            for path, row in (before or {}).items():
                place = str(roots[name] / path)
                if path not in snapshot:
                    gone.add(place)
                elif snapshot[path].data != row.data:
                    other.add(place)
        same(set(found.removed), gone, "removed")
        if not set(found.changed) <= other:
            same(set(found.changed), other, "changed")

    # Reading

    @precondition(lambda self: self.said.snapshots)
    @rule(number=st.integers(0, 1), column=st.sampled_from(COLUMNS))
    def read(self, number: int, column: Column) -> None:
        with self.step("read", number, column.layer):
            self.compare(self.bank, number, [column])

    def compare(self, path: Path, number: int, columns: Sequence[Column]) -> None:
        """Compare what a bank says with the dictionary: all of it, a source, or a split of it."""
        if not self.settled and not (self.bank / "bank.json").exists():
            return  # the very first run was killed at its very first write
        turn = len(self.steps)
        parts = [(None, None), ("data", None), ("table", None), ("table", "train")]
        source, split = parts[turn // 2 % len(parts)] if turn % 2 else parts[0]
        if source not in self.said.snapshots:
            source, split = parts[0]
        self.compare_one(Bank(path), number, columns[turn % len(columns)], source, split)

    def compare_one(
        self, bank: Bank, number: int, column: Column, source: str | None, split: str | None
    ) -> None:
        names = sorted(self.said.snapshots) if source is None else [source]
        allowed = {name: self.said.snapshots[name] for name in names}
        roots = {"data": self.world.data, "table": self.world.folder}

        def rows_of(name: str, snapshot: Snapshot | None) -> list[tuple[Any, ...]]:
            return [
                (name, str(roots[name] / path), row.label, row.split, row.data)
                for path, row in sorted((snapshot or {}).items())
                if row.readable and split in (None, row.split)
            ]

        sure = all(len(which) == 1 for which in allowed.values())
        expected = [row for n, which in allowed.items() for row in rows_of(n, which[-1])]
        cells = {(number, column, hashlib.sha256(row[4]).digest()) for row in expected}
        try:
            found = bank.select(RECIPES[number], column.name, source=source, split=split)
        except FeaturesMissing:
            if sure and expected and cells <= self.said.sure:
                raise
            return
        except Exception as error:
            if not sure and "has no source" in str(error):
                return
            raise
        if sure and not cells <= self.said.sure | self.said.maybe:
            raise AssertionError("features were found that nobody has computed")
        self.trials.figures["rows checked"] += len(found.paths)
        at = 0
        for name in names:
            n = found.sources.count(name)
            given = [
                column_[at : at + n]
                for column_ in (found.paths, found.labels, found.splits, found.digests, found.X)
            ]
            at += n
            if not any(
                same_rows(given, rows_of(name, one), number, column) for one in allowed[name]
            ):
                raise AssertionError(
                    f"the rows of {name} are not those of the files, for {column.layer} of "
                    f"recipe {number}: {list(zip(*given[:3], strict=True))}, expected "
                    f"{[row[1:4] for row in rows_of(name, allowed[name][-1])]}"
                )
        same(at, len(found.paths), "rows of the sources asked for")

    @precondition(lambda self: self.bank.exists())
    @rule()
    def verify(self) -> None:
        with self.step("verify"):
            if (self.bank / "bank.json").exists():
                same(verify(Bank(self.bank)).damaged, (), "damaged")

    @precondition(lambda self: self.said.sure)
    @rule()
    def compact(self) -> None:
        """A packed bank says what the bank says."""
        with self.step("compact"):
            packed = Path(compact(Bank(self.bank), self.folder / "packed.h5"))
            same(verify(Bank(packed)).damaged, (), "damaged")
            self.compare(packed, *self.known())
            packed.unlink()

    def known(self) -> tuple[int, list[Column]]:
        """Return a recipe and a column that the bank has for sure."""
        number, column, _ = min(self.said.sure)
        return number, [column]

    @precondition(lambda self: self.settled)
    @rule(names=NAMES, number=st.integers(0, 1), columns=SOME_COLUMNS, kill=KILL)
    def merge(
        self, names: Sequence[str], number: int, columns: Sequence[Column], kill: int | None
    ) -> None:
        """Merge a bank that was extracted elsewhere: what this one says of a path holds."""
        with self.step("merge", *names, number, *(c.layer for c in columns), "killed at", kill):
            other = self.folder / "other"
            names = self.usable(names)
            self.extract(names, number, columns, bank=other)
            theirs = {name: self.snapshot(name) for name in names}
            both = {
                name: {**snapshot, **(self.said.snapshots.get(name, [{}])[0] or {})}
                for name, snapshot in theirs.items()
            }
            cells = self.cells(theirs.values(), number, columns)
            if kill is None or self.killed(kill, lambda: merge(self.bank, [other])):
                if kill is None:
                    merge(self.bank, [other])
                self.said.snapshots.update({name: [snapshot] for name, snapshot in both.items()})
                self.said.sure |= cells
                self.said.maybe -= cells
            else:
                self.unsure(both, cells)
            shutil.rmtree(other)
            self.compare(self.bank, number, columns)

    @precondition(lambda self: self.said.sure)
    @rule(kill=KILL)
    def prune(self, kill: int | None) -> None:
        """Rows of images that no source has go; of those that one may have, none for sure."""
        with self.step("prune", "killed at", kill):
            whole = self.settled
            every = [
                {row.key for snapshot in which for row in (snapshot or {}).values() if row.data}
                for which in self.said.snapshots.values()
            ]
            certain = [
                {row.key for row in which[0].values() if row.data}
                for which in self.said.snapshots.values()
                if len(which) == 1 and which[0] is not None
            ]
            named, surely = set().union(*every), set().union(*certain)

            def attempt() -> None:
                try:
                    prune(self.bank)
                except BankError:
                    if (
                        self.settled
                    ):  # else files that nobody has read, and that are gone, forbid it
                        raise

            if kill is None:
                attempt()
            else:
                whole = self.killed(kill, attempt) and whole
            rows = self.said.sure | self.said.maybe
            if whole:
                self.said.maybe = {cell for cell in self.said.maybe if cell[2] in named}
            else:
                self.said.maybe |= {cell for cell in rows if cell[2] not in surely}
            self.said.sure = {cell for cell in self.said.sure if cell[2] in surely}
            self.said.maybe -= self.said.sure
            if self.said.sure:
                self.compare(self.bank, *self.known())

    @precondition(lambda self: self.settled and self.said.sure)
    @rule(what=st.sampled_from(["shard", "index", "lost index"]), at=st.integers(0, 10**6))
    def damage(self, what: str, at: int) -> None:
        """Flip a bit, or lose the index: it is seen, and mended without computing anything."""
        with self.step("damage", what, at):
            folders = Bank(self.bank).recipe_folders()
            shards = [Path(path) for folder in folders for path in shard_paths(folder)]
            victim = shards[at % len(shards)] if what == "shard" else self.bank / "index.h5"
            if what == "shard":
                lost = {key.tobytes() for key in read_shard(str(victim)).keys}
            if what == "lost index":
                victim.unlink()
            else:
                data = bytearray(victim.read_bytes())
                data[at % len(data)] ^= 1 << at % 8
                victim.write_bytes(data)
                same(len(verify(Bank(self.bank)).damaged), 1, "damaged files")
            number, columns = self.known()
            with contextlib.suppress(BankDamaged, FeaturesMissing, DataError):
                self.compare_one(Bank(self.bank), number, columns[0], None, None)
            done = repair(self.bank)
            same(len(done.quarantined), int(what != "lost index"), "files set aside")
            same(done.index, "whole" if what == "shard" else "rebuilt", "index")
            same(verify(Bank(self.bank)).damaged, (), "damaged files after a repair")
            if what == "shard":
                gone = {cell for cell in self.said.sure if cell[2] in lost}
                self.said.sure -= gone
                self.said.maybe |= gone
            else:  # which does not tell images from what else there is until a run has decoded them
                for name in self.said.snapshots:
                    self.said.snapshots[name] = [None, self.snapshot(name)]
            self.trials.figures["repairs"] += 1
            self.compare(self.bank, number, columns)


def same(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: {found}, expected {expected}")


def same_rows(
    given: Sequence[Any], rows: Sequence[tuple[Any, ...]], number: int, column: Column
) -> bool:
    paths, labels, splits, digests, X = given
    if [row[1:4] for row in rows] != list(zip(paths, labels, splits, strict=True)):
        return False
    for row, digest, features in zip(rows, digests, X, strict=True):
        true = truth(number, column, row[4])
        if hashlib.sha256(row[4]).digest() != digest.tobytes():
            return False
        if not np.allclose(features, true, rtol=1e-5, atol=1e-5):
            return False
    return True


def attack(trials: Trials) -> None:
    """Let hypothesis choose sequences of rules until there were enough steps."""
    while trials.more:
        Machine.trials = trials
        settings = hypothesis.settings(
            max_examples=max(1, min(20, (trials.wanted - trials.done) // 40)),
            stateful_step_count=50,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
            print_blob=False,
            report_multiple_bugs=False,
        )
        with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
            try:
                run_state_machine_as_test(
                    hypothesis.seed(trials.rng.getrandbits(32))(Machine), settings=settings
                )
            except Exception:
                if not trials.failed:
                    raise


def by_name_alone() -> Any:
    """Carry digests over by name, whatever size, times and inode say."""
    nothing = property(lambda listing: np.zeros((len(listing), 4), np.int64))
    return mock.patch.object(index.Listing, "stat", nothing)


def by_size_and_mtime() -> Any:
    """Compare neither ctime nor inode, as most tools do."""

    def stat(listing: index.Listing) -> Any:
        return np.stack([listing.size, listing.mtime], axis=1)

    return mock.patch.object(index.Listing, "stat", property(stat))


def without_weights() -> Any:
    """Leave the weights out of the key."""

    def fingerprint(recipe: Recipe) -> str:
        plain = {k: v for k, v in recipe.to_dict().items() if k != "weights"}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    return mock.patch.object(recipes.Recipe, "fingerprint", property(fingerprint))


def with_labels_by_position() -> Any:
    """Match labels with rows by their order, not by their names."""
    true = index.IndexedSource.carried_to

    def carried_to(old: Any, root: bytes, listing: index.Listing) -> Any:
        was, now = old.listing.label.tolist(), listing.label.tolist()
        label = index.Text.of([*was[: len(now)], *now[len(was) :]])
        return true(old, root, dataclasses.replace(listing, label=label))

    return mock.patch.object(index.IndexedSource, "carried_to", carried_to)


HARNESSES = (
    Harness(
        "state-machine",
        "a bank says of each file what its bytes and labels are; a run computes what is missing",
        "steps",
        attack,
        short=400,
        long=20_000,
        mutations=(
            Mutation("digests carried over by name alone", by_name_alone, 2000),
            Mutation("neither ctime nor inode compared", by_size_and_mtime, 2000),
            Mutation(
                "times within two seconds of the scan trusted",
                lambda: mock.patch.object(index, "RACY_NANOSECONDS", -(10**18)),
                2000,
            ),
            Mutation("a key without the weights", without_weights, 500),
            Mutation("labels matched with rows by their order", with_labels_by_position, 2000),
        ),
        seconds=1800,
    ),
)
