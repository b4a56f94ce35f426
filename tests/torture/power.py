"""Modelled power loss: what a disk may hold when the power fails at any instant of a real run.

Every call behind `featbank.durable.fs` is done and recorded, and so is the instant at which
featbank reported something as committed: `Bank.seal`, `Bank.revise` (of the index) or a whole
command returned. A state is a prefix of that record and a choice of what the disk kept of it. It is
compared with what had been reported, laid out in memory, opened with featbank, and completed by a
further extraction.

The model is harsher than ext4 or XFS, and holds to what POSIX leaves open:

- A file's bytes are there as of its last sync. Of what was written after it anything may be there:
  nothing (a name with an empty or an old file), all, a piece that ends at any byte or block, blocks
  in any order with zeros or foreign bytes between them, at the old size or at the new one.
- A directory's names are there as of its last sync. Of the operations since then any subset
  survives, each whole or not at all, in whatever order they were made; or a prefix of all of them,
  as a journal keeps it.
- Syncing a file does not bring its name to the disk, nor syncing a directory the directory's own.
- A rename is one operation: the target is the old file or the new one, never missing. Between two
  directories it survives when either has been synced. The old name may stay beside the new one.
- What was synced stays: lying drives and damage are for `damage`.

Some runs are killed at a call, and another one goes on before the power fails: it finds names that
nobody has synced, and must not report what rests on them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from featbank import Bank, durable
from featbank.backbones.preprocess import apply
from featbank.backbones.recipe import Column, Preprocess, Recipe
from featbank.bank.layered import look
from featbank.bank.maintenance import compact, verify
from featbank.bank.merge import merge
from featbank.bank.prune import prune
from featbank.bank.recipes import QUARANTINE
from featbank.bank.repair import repair
from featbank.data import index
from featbank.data.decode import DecodePolicy
from featbank.errors import DataError, FeaturesMissing
from featbank.extraction.run import Settings
from featbank.workflows.extract import ExtractionResult, Model, extract_to
from featbank.workflows.survey import open_sources
from tests.torture.harness import Harness, Mutation, Trials
from tests.torture.job import make_folder, rows_of

SHARD_ROWS = 4
COLUMN, LAYER = Column(), Column("early")
CACHES = ("verified.json",)
"""Files that nobody misses: their content is found out again."""

Rows = dict[tuple[str, str, bytes], str]

_PREPROCESS = Preprocess(4, "squash", (4, 4), "bilinear", (0.5,) * 3, (0.5,) * 3)
_RECIPE = Recipe("exact", "module", "0" * 64, _PREPROCESS)


# The run that is recorded: real but for the network, whose features are exact in every batch


class ExactNetwork:
    """Gives the pixels themselves as features, so that equal means equal to the bit."""

    def prepare(self, image: Image.Image) -> np.ndarray:
        return apply(_PREPROCESS, image)

    def run(self, batch: np.ndarray, columns: Any) -> dict[Column, np.ndarray]:
        flat = batch.reshape(len(batch), -1)
        return {c: (flat + (c == LAYER)).astype(c.dtype) for c in columns}


class ExactLoader:
    def load(self, device: str) -> ExactNetwork:
        return ExactNetwork()

    def layers(self) -> list[str]:
        return [LAYER.layer]


def exact_model() -> Model:
    return Model(_RECIPE, ExactLoader(), {"module": "exact"}, DecodePolicy(), _PREPROCESS)


def extract(
    bank: Path, *sources: Path, columns: tuple[Column, ...] = (COLUMN,)
) -> ExtractionResult:
    settings = Settings(workers=0, batch_size=2, shard_rows=SHARD_ROWS)
    return extract_to(bank, open_sources(tuple(sources)), exact_model(), columns, settings=settings)


# The record


@dataclass(frozen=True)
class Step:
    """One call behind the seam, or a report.

    Attributes
    ----------
    call : str
        As `durable.FileSystem` has it, or "report", or "forget".
    path, other : str
        Relative to the recorded folder; `other` is the second name of a link or a rename.
    file : int
        Number of the file that is created, written or synced.
    offset : int
        Of a write; the size, of a truncation.
    data : bytes
    site : str
        Of a sync: the function that asked for it.
    rows : dict
        Of a report: rows that are committed from now on; of "forget": rows that may go.
    """

    call: str
    path: str = ""
    other: str = ""
    file: int = -1
    offset: int = 0
    data: bytes = b""
    site: str = ""
    rows: Mapping[tuple[str, str, bytes], str] = field(default_factory=dict)


class Killed(BaseException):
    """The recorded process is no more."""


class Recorder(durable.FileSystem):
    """Does every call below `folder`, and records it; dies at the call numbered `last`."""

    def __init__(self, folder: str, steps: list[Step], last: int | None = None) -> None:
        self.steps = steps
        self._folder = folder
        self._last = last
        self.calls: list[str] = []
        self.number: dict[int, int] = {}  # of the call that a step was
        self._file: dict[int, int] = {}

    def create(self, path: str) -> int:
        self._alive("create")
        fd = super().create(path)
        self._file.pop(fd, None)
        if self._below(path):
            self._file[fd] = len(self.steps)
            self._add("create", path, file=len(self.steps))
        return fd

    def open_lock(self, path: str) -> int:
        self._alive("open_lock")
        return super().open_lock(path)  # an empty file; its name matters to nobody

    def write(self, fd: int, data: memoryview) -> int:
        self._alive("write")
        offset = os.lseek(fd, 0, os.SEEK_CUR)
        count = super().write(fd, data)
        if fd in self._file:
            written = bytes(data[:count])
            self._add("write", file=self._file[fd], offset=offset, data=written)
        return count

    def truncate(self, fd: int, size: int) -> None:
        self._alive("truncate")
        super().truncate(fd, size)
        if fd in self._file:
            self._add("truncate", file=self._file[fd], offset=size)

    def sync(self, fd: int) -> None:
        self._alive("sync")
        if fd in self._file:
            self._add("sync", file=self._file[fd], site=_site())

    def replace(self, source: str, target: str) -> None:
        self._alive("replace")
        super().replace(source, target)
        self._add("replace", source, target)

    def link(self, source: str, target: str) -> None:
        self._alive("link")
        super().link(source, target)
        self._add("link", source, target)

    def unlink(self, path: str) -> None:
        self._alive("unlink")
        super().unlink(path)
        self._add("unlink", path)

    def mkdir(self, path: str) -> None:
        self._alive("mkdir")
        super().mkdir(path)
        self._add("mkdir", path, file=len(self.steps))

    def rmdir(self, path: str) -> None:
        self._alive("rmdir")
        super().rmdir(path)
        self._add("unlink", path)

    def sync_directory(self, path: str) -> None:
        self._alive("sync_directory")
        self._add("sync_directory", path, site=_site())

    def forget(self, rows: Mapping[tuple[str, str, bytes], str]) -> None:
        """Note that these rows may go from now on."""
        self.steps.append(Step("forget", rows=rows))

    def lose(self, path: Path) -> None:
        """Remove a file for good, as a user or a bad disk does."""
        os.unlink(path)
        self._add("unlink", str(path))
        self._add("sync_directory", str(path.parent), site="as found")

    def report(self, rows: Mapping[tuple[str, str, bytes], str]) -> None:
        """Note that featbank has said that these rows, and all files as they are, will stay."""
        self.steps.append(Step("report", rows=rows))

    def _alive(self, call: str) -> None:
        if self._last is not None and len(self.calls) >= self._last:
            raise Killed
        self.calls.append(call)

    def _add(self, call: str, path: str = "", other: str = "", **more: Any) -> None:
        """Record a call on something below the folder; what lies elsewhere stays."""
        names = [os.path.relpath(p, self._folder) if p else "" for p in (path, other)]
        if not any(name.startswith("..") for name in names):
            self.number[len(self.steps)] = len(self.calls) - 1
            self.steps.append(Step(call, *("" if name == "." else name for name in names), **more))

    def _below(self, path: str) -> bool:
        return not os.path.relpath(path, self._folder).startswith("..")


def _site() -> str:
    """Return which function of featbank asked for a sync."""
    frame = sys._getframe(2)
    while frame.f_code.co_name in ("finish", "_write_temporary"):
        frame = frame.f_back  # type: ignore[assignment]
    return frame.f_code.co_name


@contextlib.contextmanager
def recording(folder: Path, steps: list[Step], *, last: int | None = None) -> Iterator[Recorder]:
    """Record what happens below `folder`, and what `Bank` reports."""
    recorder = Recorder(str(folder), steps, last)
    seal, revise = Bank.seal, Bank.revise

    def reported_seal(self: Bank, recipe: Recipe, keys: Any, columns: Any) -> str:
        path = seal(self, recipe, keys, columns)
        rows = {
            (recipe.fingerprint, column.name, key.tobytes()): _digest(row)
            for column, values in columns.items()
            for key, row in zip(keys, values, strict=True)
        }
        recorder.report(rows)
        return path

    def reported_revise(self: Bank, *args: Any, **words: Any) -> None:
        revise(self, *args, **words)
        recorder.report({})

    with (
        mock.patch.object(durable, "fs", recorder),
        mock.patch.object(Bank, "seal", reported_seal),
        mock.patch.object(Bank, "revise", reported_revise),
    ):
        yield recorder


def _digest(row: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest()


# Which syncs there are

BANK, PACKED = (os.path.join("above", "it", name) for name in ("bank", "codes.h5"))
ABOVE = 2  # folders above the bank

KINDS = (
    "shard by publish_file",
    "shards' folder by publish_file",
    "shards' folder by remove_temporaries",
    "recipe's folder by make_directory",
    "recipe.json by write_file",
    "bank's folder by make_directory",
    "bank's folder by write_file",
    "bank's folder by mark",
    "bank's folder by repair",
    "bank's folder by prune",
    "bank.json by write_file",
    "sources.json by write_file",
    "index.h5 by write_file",
    "folder above the bank by make_directory",
    "folder above the bank by replacing",
    "bank.h5 by replacing",
    "codes.h5 by replacing",
    "folder above the bank by remove_folder",
    "shards' folder by _carry_out",
)
"""Every sync of a run: of what, and by which function. A mutation leaves out each in turn; a run
that makes one of another kind fails, so that the list can't fall behind."""

IDLE = (
    "recipe's folder by write_file",
    "bank's folder by remove_temporaries",
    "recipe's folder by remove_temporaries",
    "folder above the bank by remove_temporaries",
    "bank's folder by remove_folder",
    "recipe's folder by remove_folder",
    "recipe's folder by _carry_out",
)
"""Syncs whose absence loses nothing. The recipe's folder, with the description's name in it, is
synced when a folder for shards is made there, before any row is reported. `remove_temporaries`
syncs any folder that has a temporary; the names in these three hold already, for `Bank.mark` has
just synced the bank's folder and the one above. Empty folders, and the description of a recipe
without shards, may come back after `prune` removed them."""

_left_out: set[str] = set()


def kinds(steps: list[Step]) -> list[str]:
    """Return of each step which sync it is, "" where it is none, or of a file that got no name."""
    final = {}
    files: dict[str, int] = {}
    for step in steps:
        if step.call == "create":
            files[step.path] = step.file
        elif step.call in ("link", "replace") and step.path in files:
            final.setdefault(files[step.path], step.other)
    found = []
    for step in steps:
        if step.site == "as found":
            found.append("")
        elif step.call == "sync" and step.file in final:
            found.append(f"{_what(final[step.file])} by {step.site}")
        elif step.call == "sync_directory":
            found.append(f"{_what_folder(step.path)} by {step.site}")
        else:
            found.append("")
    return found


def _what(path: str) -> str:
    folder, name = os.path.split(path)
    return "shard" if len(os.path.basename(folder)) == 2 and len(name) == 67 else name


def _what_folder(path: str) -> str:
    parts = path.split(os.sep)[ABOVE:]
    if not parts:
        return "folder above the bank"
    if parts[-1] == QUARANTINE:
        return "quarantine"
    return ("bank's folder", "recipe's folder", "shards' folder")[len(parts) - 1]


# The disk


@dataclass
class Change:
    """What one operation does to names: (directory, name) to the number of a file, None: away."""

    names: dict[tuple[int, str], int | None]
    durable: bool = False


ROOT = -1


class Disk:
    """What a prefix of the record has left: what is on the disk, and what may be."""

    def __init__(self, steps: list[Step]) -> None:
        self.solid: dict[int, bytes] = {}
        self.pending: dict[int, list[Step]] = {}
        self.changes: list[Change] = []
        self.folders = {ROOT}
        self._now: dict[tuple[int, str], int] = {}
        for step in steps:
            self.do(step)

    def do(self, step: Step) -> None:
        if step.call in ("create", "mkdir"):
            if step.call == "mkdir":
                self.folders.add(step.file)
            else:
                self.solid[step.file] = b""
            self._change({self.place(step.path): step.file})
        elif step.call in ("write", "truncate"):
            self.pending.setdefault(step.file, []).append(step)
        elif step.call == "sync":
            self.solid[step.file] = self.content(step.file)
            self.pending.pop(step.file, None)
        elif step.call == "link":
            self._change({self.place(step.other): self._now[self.place(step.path)]})
        elif step.call == "replace":
            source, target = self.place(step.path), self.place(step.other)
            self._change({target: self._now[source], source: None})
        elif step.call == "unlink":
            self._change({self.place(step.path): None})
        elif step.call == "sync_directory":
            folder = self._folder(step.path)
            for change in self.changes:
                if any(parent == folder for parent, _ in change.names):
                    change.durable = True

    def _change(self, names: dict[tuple[int, str], int | None]) -> None:
        self.changes.append(Change(names))
        apply_change(self._now, names)

    def place(self, path: str) -> tuple[int, str]:
        folder, name = os.path.split(path)
        return self._folder(folder), name

    def _folder(self, path: str) -> int:
        at = ROOT
        for name in path.split(os.sep) if path else ():
            at = self._now[at, name]
        return at

    def content(self, file: int) -> bytes:
        """Return a file's bytes as a process sees them."""
        pending = self.pending.get(file)
        return _written(self.solid[file], pending) if pending else self.solid[file]

    def tree(
        self, names: Mapping[tuple[int, str], int] | None = None
    ) -> tuple[dict[str, int], list[str]]:
        """Return the files by path, and the folders, parents first."""
        names = self._now if names is None else names
        inside: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), file in names.items():
            inside.setdefault(folder, []).append((name, file))
        files, folders = {}, []
        waiting = [(ROOT, "")]
        while waiting:
            folder, path = waiting.pop()
            for name, file in inside.get(folder, ()):
                full = os.path.join(path, name)
                if file in self.folders:
                    folders.append(full)
                    waiting.append((file, full))
                else:
                    files[full] = file
        return files, folders


def apply_change(
    names: dict[tuple[int, str], int], change: Mapping[tuple[int, str], int | None]
) -> None:
    for place, file in change.items():
        if file is None:
            names.pop(place, None)
        else:
            names[place] = file


def _written(content: bytes, steps: Any) -> bytes:
    data = bytearray(content)
    for step in steps:
        if step.call == "truncate":
            data = data[: step.offset].ljust(step.offset, b"\0")
        else:
            data = data.ljust(step.offset, b"\0")
            data[step.offset : step.offset + len(step.data)] = step.data
    return bytes(data)


# What the disk kept

NAMES = ("none", "all", "journal", "any")
CONTENTS = ("none", "all", "zeros", "foreign", "torn", "blocks", "writes")


def surviving_names(disk: Disk, how: str, rng: random.Random) -> dict[tuple[int, str], int]:
    """Choose which of the un-synced changes to names survive."""
    open_changes = [change for change in disk.changes if not change.durable]
    upto = rng.randrange(len(open_changes) + 1)
    chance = rng.choice((0.2, 0.5, 0.8))
    kept = {
        "none": lambda i: False,
        "all": lambda i: True,
        "journal": lambda i: i < upto,
        "any": lambda i: rng.random() < chance,
    }[how]
    survives = {id(change) for i, change in enumerate(open_changes) if kept(i)}
    names: dict[tuple[int, str], int] = {}
    for change in disk.changes:
        if change.durable or id(change) in survives:
            apply_change(names, change.names)
            if len(change.names) == 1 or change.durable or how != "any":
                continue
            target, source = change.names
            if names[target] not in disk.folders and rng.random() < 0.1:
                names[source] = names[target]
    return names


def surviving_content(disk: Disk, file: int, how: str, rng: random.Random) -> bytes:
    """Choose what of a file's un-synced bytes survives."""
    solid, pending = disk.solid[file], disk.pending.get(file)
    if not pending or how == "none":
        return solid
    if how == "writes":
        return _written(solid, [step for step in pending if rng.random() < 0.5])
    new = disk.content(file)
    if how == "all":
        return new
    if how == "torn":
        end = rng.randrange(len(new) + 1)
        return new[: end - end % rng.choice((1, 512, 4096))]
    old = solid[: len(new)].ljust(len(new), b"\0")
    if how == "zeros":
        return old
    if how == "foreign":
        return rng.randbytes(len(new))
    block = rng.choice((512, 4096))
    out = bytearray(old)
    for start in range(0, len(new), block):
        size = len(new[start : start + block])
        sort = rng.random()
        if sort < 0.6:
            out[start : start + size] = new[start : start + size]
        elif sort < 0.7:
            out[start : start + size] = rng.randbytes(size)
    return bytes(out)


# A story: what was done, and what may be found


@dataclass
class Story:
    """A record, and what holds of it.

    Attributes
    ----------
    name : str
    steps : list of Step
    home : str
        Where the bank lies.
    world : World
    first : int
        The power does not fail before this step.
    """

    name: str
    steps: list[Step]
    home: str
    world: World
    first: int = 0
    versions: dict[str, list[tuple[int, bytes | None]]] = field(init=False)

    def __post_init__(self) -> None:
        found = kinds(self.steps)
        unknown = sorted(set(found) - {"", *KINDS, *IDLE})
        assert not unknown, f"syncs that no mutation leaves out: {unknown}"
        self.versions = _versions(self.steps)
        self.steps = [
            Step("nothing") if kind in _left_out else step
            for step, kind in zip(self.steps, found, strict=True)
        ]

    @property
    def reported(self) -> list[int]:
        """The steps before which something has just been reported."""
        after = range(self.first + 1, len(self.steps) + 1)
        return [end for end in after if self.steps[end - 1].call == "report"]

    @functools.cached_property
    def loosest(self) -> list[int]:
        """The steps before which most changes of names were un-synced, one of 30."""
        disk, loose = Disk([]), []
        for step in self.steps:
            loose.append(sum(not change.durable for change in disk.changes))
            disk.do(step)
        after = range(self.first, len(self.steps))
        return sorted(after, key=lambda end: -loose[end])[: len(after) // 30 + 1]

    def allowed(self, path: str, reported: int, end: int) -> list[bytes | None]:
        """Return what may stand at `path`: what stood there at the last report, or came since."""
        history = [(-1, None), *self.versions.get(path, ())]
        base = max(i for i, (at, _) in enumerate(history) if at <= reported)
        while base and history[base][1] is None:  # what was removed may come back as it was
            base -= 1
        return [content for at, content in history[base:] if at < end]


def _versions(steps: list[Step]) -> dict[str, list[tuple[int, bytes | None]]]:
    """Return for each lasting name what it has stood for, and from which step on."""
    disk = Disk([])
    found: dict[str, list[tuple[int, bytes | None]]] = {}
    before: dict[str, bytes] = {}
    for number, step in enumerate(steps):
        disk.do(step)
        if step.call not in ("link", "replace", "unlink", "report"):
            continue
        files, _ = disk.tree()
        now = {path: disk.content(file) for path, file in files.items() if lasting(path)}
        for path in before.keys() | now.keys():
            if before.get(path) != now.get(path):
                found.setdefault(path, []).append((number, now.get(path)))
        before = now
    return found


def lasting(path: str) -> bool:
    """Tell whether a file is missed when it is gone: it is no temporary, lock or cache."""
    parts = path.split(os.sep)
    return not any(part.startswith(".") for part in parts) and parts[-1] not in CACHES


# Checking one state


Opened = dict[bytes, Rows]
"""The rows of the banks that have been opened, by a digest of their lasting files."""


def check_state(
    story: Story, end: int, names: str, contents: str, trials: Trials, opened: Opened
) -> None:
    """Fail the power before step `end`; what is left must be right, and be completed.

    Many states differ in nothing but temporaries and caches. One of each kind is opened and
    completed, and one of ten of the others.
    """
    rng = trials.rng
    disk = Disk(story.steps[:end])
    reported = max((i for i in range(end) if story.steps[i].call == "report"), default=-1)
    files, folders = disk.tree(surviving_names(disk, names, rng))
    chosen = {file: surviving_content(disk, file, contents, rng) for file in set(files.values())}
    left = {path: chosen[file] for path, file in files.items()}
    for path in sorted({*story.versions, *filter(lasting, left)}):
        found = left.get(path)
        if found not in story.allowed(path, reported, end):
            what = "missing" if found is None else f"{len(found)} other bytes"
            raise AssertionError(f"{path} is {what}")
    trials.figures["states with something un-synced"] += bool(
        disk.pending or not all(change.durable for change in disk.changes)
    )
    kind = _digest_of({path: data for path, data in left.items() if lasting(path)})
    if kind not in opened or rng.random() < 0.1:
        opened.pop(kind, None)
        with laid_out(trials.folder, left, folders) as folder:
            opened[kind] = check_bank(story, folder / story.home, trials)
    committed: Rows = {}
    for step in story.steps[:end]:
        if step.call == "report":
            committed.update(step.rows)
        elif step.call == "forget":
            for row in step.rows:
                committed.pop(row, None)
    lost = len(committed.items() - opened[kind].items())
    assert not lost, f"{lost} of {len(committed)} committed rows are lost"
    trials.figures["committed rows checked"] += len(committed)


def _digest_of(files: Mapping[str, bytes]) -> bytes:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0{len(files[path])}\0".encode() + files[path])
    return digest.digest()


@contextlib.contextmanager
def laid_out(folder: Path, files: Mapping[str, bytes], folders: list[str]) -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(dir=folder))
    try:
        for name in folders:
            os.mkdir(root / name)
        for name, data in files.items():
            with open(root / name, "wb") as file:
                file.write(data)
        yield root
    finally:
        shutil.rmtree(root)


def check_bank(story: Story, bank: Path, trials: Trials) -> Rows:
    """Open what is left of a bank and go on from it; return the rows that it had."""
    world = story.world
    there: Rows = {}
    opened = look(bank)
    if opened is not None:
        found = verify(opened)
        assert found.ok, found.damaged
        there = rows_of(opened)
    assert there.items() <= world.rows.items(), "rows that nobody computed"
    result = world.finish(bank)
    now = Bank(bank)
    rows = rows_of(now)
    assert world.complete.items() <= rows.items() <= world.rows.items(), "not completed"
    lacked = {key for _, _, key in world.complete.keys() - there.keys()}
    assert result.computed == len(lacked), f"{result.computed} computed and {len(lacked)} lacked"
    labels = dict(zip(now.paths, now.labels, strict=True))
    assert world.labels.items() <= labels.items(), "labels are not those of the folder"
    trials.figures["banks opened and completed"] += 1
    return there


# The stories


@dataclass(frozen=True)
class Act:
    """What is killed and done again.

    Attributes
    ----------
    name : str
    home : str
        Where the bank lies.
    do : callable
        Takes the bank's path.
    base : str
        Folder of the bank that it starts from, "" where there is none.
    """

    name: str
    home: str
    do: Callable[[Path], Any]
    base: str = ""


class World:
    """Images, what a bank of them holds in the end, and the stories about it."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        self.data, self.more, self.other = folder / "data", folder / "more", folder / "other"
        make_folder(self.data, 9, rng)
        make_folder(self.data / "later", 3, rng, classes=1)
        make_folder(self.more, 5, rng, classes=1)
        make_folder(self.other, 4, rng)
        for i in (2, 4):  # of the same bytes, under another label
            shutil.copy(self.data / "a" / f"000{i}.png", self.data / "b" / f"copy{i}.png")
        self.rows: Rows = {}
        extract(folder / "others", self.other, columns=(COLUMN, LAYER))
        self._lived, self._packed = self._lives(), self._packs()
        clean, unindexed = folder / "clean", folder / "unindexed"
        self.finish(clean)
        self.complete = rows_of(clean)
        bank = Bank(clean)
        self.labels = dict(zip(bank.paths, bank.labels, strict=True))
        shutil.copytree(clean, unindexed)
        (unindexed / "index.h5").unlink()
        self.acts = [
            Act("extract", BANK, self.finish),
            Act("extract into one file", PACKED, self.finish),
            Act("merge", BANK, lambda bank: merge(bank, [folder / "others"]), str(clean)),
            Act("prune", BANK, prune, str(folder / "stale")),
            Act("prune a recipe", BANK, prune_all, str(clean)),
            Act("prune a source", BANK, prune_source, str(clean)),
            Act("repair", BANK, repair, str(unindexed)),
        ]

    def stories(self) -> list[Story]:
        """Return the stories of those who are not killed."""
        return [
            Story("all of a bank's life", self._lived, BANK, self),
            Story("a packed bank", self._packed, PACKED, self),
        ]

    def finish(self, bank: Path) -> ExtractionResult:
        """Go on from whatever there is of a bank, to the end."""
        return extract(bank, self.data, self.more, columns=(COLUMN, LAYER))

    def killed(self, act: Act, last: int) -> Story:
        """Kill an act at its call numbered `last`, and do it again."""
        place = self.place(act)
        steps = as_found(place)
        before = rows_of(place / act.home) if act.base else {}
        steps.append(Step("report", rows=before))
        found = len(steps)
        with contextlib.suppress(Killed):
            self.record(act, steps, place, last)
        first = len(steps) + 1
        self.record(act, steps, place)
        gone = before.items() - steps[-1].rows.items()
        steps.insert(found, Step("forget", rows=dict(gone)))
        shutil.rmtree(place)
        return Story(f"{act.name}, killed at call {last}", steps, act.home, self, first)

    def record(self, act: Act, steps: list[Step], place: Path, last: int | None = None) -> Recorder:
        """Do an act and record it."""
        with recording(place, steps, last=last) as recorder:
            act.do(place / act.home)
            recorder.report(rows_of(place / act.home))
        return recorder

    def place(self, act: Act | None = None) -> Path:
        place = Path(tempfile.mkdtemp(dir=self.folder))
        if act is not None and act.base:
            shutil.copytree(act.base, place / act.home)
        return place

    def _lives(self) -> list[Step]:
        """Record all that can be done to a bank, one after the other."""
        place = self.place()
        bank = place / BANK
        both = (COLUMN, LAYER)
        steps: list[Step] = []
        with recording(place, steps) as recorder:

            def report() -> None:
                rows = rows_of(bank)
                self.rows |= rows
                recorder.report(rows)

            extract(bank, self.data)
            report()
            os.rename(self.data / "a" / "0000.png", self.data / "b" / "0000.png")
            shutil.rmtree(self.data / "later")
            extract(bank, self.data)
            report()
            compact(Bank(bank))
            report()
            extract(bank, self.data, self.more, columns=both)
            report()
            merge(bank, [self.folder / "others"])
            report()
            compact(Bank(bank))
            report()
        pruned = Path(shutil.copytree(bank, self.folder / "pruned"))
        shutil.copytree(bank, self.folder / "stale")
        prune(pruned)
        with recording(place, steps) as recorder:
            recorder.forget(dict(rows_of(bank).items() - rows_of(pruned).items()))
            prune(bank)
            recorder.report(rows_of(bank))
            recorder.lose(bank / "index.h5")
            repair(bank)
            recorder.report(rows_of(bank))
            self.finish(bank)
            recorder.report(rows_of(bank))
        return steps

    def _packs(self) -> list[Step]:
        """Record extractions into a packed bank."""
        place = self.place()
        bank = place / PACKED
        steps: list[Step] = []
        with recording(place, steps) as recorder:
            for columns in ((COLUMN,), (COLUMN, LAYER), (COLUMN, LAYER)):
                extract(bank, self.data, columns=columns)
                recorder.report(rows_of(bank))
            self.finish(bank)
            recorder.report(rows_of(bank))
        return steps


def prune_all(bank: Path) -> None:
    """Remove the one recipe, unless that was done."""
    with contextlib.suppress(FeaturesMissing):
        prune(bank, [_RECIPE.backbone])


def prune_source(bank: Path) -> None:
    """Remove one of the sources, or what is left of it where that was cut short."""
    try:
        prune(bank, sources="more")
    except DataError:
        prune(bank)


def as_found(place: Path) -> list[Step]:
    """Return the record of a tree that has been on the disk for long."""
    steps: list[Step] = []
    for folder, folders, names in os.walk(place):
        base = os.path.relpath(folder, place)
        base = "" if base == "." else base
        for name in folders:
            steps.append(Step("mkdir", os.path.join(base, name), file=len(steps)))
        for name in names:
            file = len(steps)
            steps.append(Step("create", os.path.join(base, name), file=file))
            steps.append(Step("write", file=file, data=Path(folder, name).read_bytes()))
            steps.append(Step("sync", file=file, site="as found"))
        steps.append(Step("sync_directory", base, site="as found"))
    return steps


def spread(number: int, n: int) -> int:
    """Return the position, of `n`, of one of many trials: evenly, however many there will be."""
    return int(n * (number * 0.6180339887498949 % 1))


_worlds: list[World] = []


def run(trials: Trials) -> None:
    combinations = [(names, contents) for names in NAMES for contents in CONTENTS]
    # The images were made this moment, and every run would read them once more.
    trusted = mock.patch.object(index, "RACY_NANOSECONDS", 0)
    with in_memory(trials), trusted:
        if not _worlds:  # once a process: trials under a mutation tell the same stories
            folder = tempfile.mkdtemp(dir=os.environ.get("FEATBANK_CACHE", trials.folder))
            _worlds.append(World(Path(folder), trials.rng))
        world = _worlds[0]
        stories = world.stories()
        attempts = [killing(world, act) for act in world.acts]
        opened: Opened = {}
        for number in trials:
            names, contents = combinations[number // 4 % len(combinations)]
            if number % 4 == 0:
                killed = next(attempts[number // 4 % len(attempts)])
            story = killed if number % 2 else stories[number % 16 in (0, 2, 8)]
            ends = range(story.first, len(story.steps) + 1)
            if number % 8 == 0:
                ends, names = story.loosest, "any"
            elif number % 4 > 1:  # the worst instant: something has just been reported
                ends = story.reported
            if number % 4 == 3:  # and nothing survives that was not synced
                names, contents = "none", "all"
            end = ends[spread(number // 4, len(ends))]
            what = f"power lost before step {end}, names {names}, contents {contents}"
            with trials.checking(f"trial {number}: {story.name}, {what}"):
                check_state(story, end, names, contents, trials, opened)


def killing(world: World, act: Act) -> Iterator[Story]:
    """Kill an act over and over: at a sync of a folder, of each kind in turn, and anywhere."""
    steps: list[Step] = []
    recorder = world.record(act, steps, world.place(act))
    places: dict[str, list[int]] = {}
    for number, kind in reversed([*enumerate(kinds(steps))]):
        if steps[number].call == "sync_directory":
            places.setdefault(kind, []).append(recorder.number[number])
    for number in itertools.count():
        for of_kind in places.values():
            yield world.killed(act, of_kind[number % len(of_kind)])
        yield world.killed(act, spread(number, len(recorder.calls)))


@contextlib.contextmanager
def in_memory(trials: Trials) -> Iterator[None]:
    """Give the trials a folder in memory, where there is one: states are many, and short-lived."""
    room = os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 1 << 28
    before = trials.folder
    trials.folder = Path(
        tempfile.mkdtemp(prefix="featbank-power-", dir="/dev/shm" if room else before)
    )
    try:
        yield
    finally:
        shutil.rmtree(trials.folder, ignore_errors=True)
        trials.folder = before


@contextlib.contextmanager
def leaving_out(kind: str) -> Iterator[None]:
    _left_out.add(kind)
    try:
        yield
    finally:
        _left_out.discard(kind)


HARNESSES = (
    Harness(
        "power-loss",
        "after a power loss nothing reported is missing, nothing torn is read, and a run goes on",
        "states",
        run,
        short=300,
        long=4000,
        mutations=tuple(
            Mutation(f"no sync of the {kind}", lambda kind=kind: leaving_out(kind), 2000)
            for kind in KINDS
        ),
    ),
)
