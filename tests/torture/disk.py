"""Disks that fail: every call of a command that writes, with every error, and a file system filled
up for real; each through the command line, as a user meets it.

Whatever fails, the command ends with exit status 1 and one message; what was sealed is whole, no
name stands for a torn file, no file whose sync failed is synced again, and the same command run
again ends as if nothing had been.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from featbank import Bank, Classifier, durable
from featbank.backbones.recipe import Recipe
from featbank.bank.maintenance import verify
from featbank.bank.recipes import shard_paths
from featbank.bank.shard import file_digest
from featbank.cli import cli, main
from featbank.data import index
from featbank.workflows import extract as workflow
from tests.faults import FaultyFileSystem, faulty
from tests.torture.harness import Ended, Harness, Mutation, Trials, in_child
from tests.torture.job import make_folder, rows_of
from tests.torture.power import exact_model, spread

Rows = dict[tuple[str, str, bytes], str]

EXTRACT = ("extract", "{data}", "--workers", "0", "--batch-size", "2", "--shard-rows", "4")
FIT = ("--head", "centroid", "--no-tune", "--jobs", "1", "--cv", "2")
BANK = ("--bank", "{bank}")


@dataclass(frozen=True)
class Command:
    """What a user runs.

    Attributes
    ----------
    words : tuple of str
        ``{bank}`` is the bank, ``{data}`` the images, ``{out}`` a folder for what else is
        written, ``{other}`` another bank.
    start : str
        The bank that it starts from: "none"; "half", of half of the images; "stale", of all and
        of some that have gone; "damaged", with a flipped bit in a shard and without an index.
    writes : tuple of str
        Names in ``{out}``, where older ones stand.
    """

    words: tuple[str, ...]
    start: str
    writes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.words[0]} ({self.start})"


COMMANDS = (
    Command((*EXTRACT, *BANK), "none"),
    Command((*EXTRACT, *BANK), "half"),
    Command((*EXTRACT, "--bank", "{out}/codes.h5"), "none", ("codes.h5",)),
    Command(("compact", "{out}/codes.h5", *BANK), "stale", ("codes.h5",)),
    Command(
        ("fit", *FIT, *BANK, "--out", "{out}"),
        "stale",
        ("centroid.skops",),
    ),
    Command(("merge", "{other}", *BANK), "half"),
    Command(("prune", *BANK), "stale"),
    Command(("repair", *BANK), "damaged"),
    Command(("export", "{out}/X.npy", "--force", *BANK), "stale", ("X.npy", "X.csv")),
)

STARTS = ("none", "half", "stale", "damaged")


class World:
    """Banks to start from, made once, and what each command makes of its own without a fault."""

    def __init__(self, folder: Path, trials: Trials) -> None:
        self.folder = folder
        self.data = folder / "data"
        paths = make_folder(self.data, 14, trials.rng)
        away = folder / "away"
        away.mkdir()
        for path in paths[6:]:
            os.rename(path, away / path.name)
        bank = ("--bank", str(folder / "making"))
        data = [word.format(data=self.data) for word in EXTRACT]

        def keep(name: str) -> None:
            shutil.copytree(folder / "making", folder / name)

        (folder / "none").mkdir()
        self._do(*data, *bank)
        keep("half")
        self._do("compact", str(folder / "old" / "codes.h5"), *bank)
        self._do("export", str(folder / "old" / "X.npy"), *bank)
        self._do("fit", *FIT, *bank, "--out", folder / "old")
        for path in paths[6:]:
            os.rename(away / path.name, path)
        self._do(*data, *bank)
        for path in paths[11:]:
            path.unlink()
        self._do(*data, *bank)
        keep("stale")
        keep("damaged")
        (folder / "damaged" / "index.h5").unlink()
        shard = shards_of(folder / "damaged")[0]
        content = bytearray(shard.read_bytes())
        content[-5] ^= 4
        shard.write_bytes(content)
        self.starts = [self._start(command) for command in COMMANDS]
        self.clean = [self._clean(command) for command in COMMANDS]

    def _do(self, *words: str | Path) -> None:
        with contextlib.redirect_stdout(None):
            cli.main(list(map(str, words)), prog_name="featbank", standalone_mode=False)

    def _start(self, command: Command) -> Start:
        place = self.folder / f"start{COMMANDS.index(command)}"
        self.lay_out(command, place)
        bank = place / "bank"
        whole = bank.exists() and command.start != "damaged"
        return Start(rows_of(bank) if whole else {}, sound_shards(bank), outputs(command, place))

    def _clean(self, command: Command) -> Clean:
        place = self.folder / f"clean{COMMANDS.index(command)}"
        self.lay_out(command, place)
        done = self.run(command, place, {})
        assert done.ended.status == 0, f"{command.name}: {done.ended} {done.said}"
        return Clean(rows_of(bank_of(command, place)), outputs(command, place), done.calls)

    def lay_out(self, command: Command, place: Path) -> None:
        place.mkdir()
        if command.start != "none":
            shutil.copytree(self.folder / command.start, place / "bank")
        (place / "out").mkdir()
        for name in command.writes:
            shutil.copy(self.folder / "old" / name, place / "out" / name)

    def run(self, command: Command, place: Path, fault: dict[str, Any]) -> Done:
        """Run a command as its own process, with a faulty disk."""
        where = {"bank": place / "bank", "data": self.data, "out": place / "out"}
        words = [w.format(**where, other=self.folder / "stale") for w in command.words]
        told, said = self.folder / "told", self.folder / "said"

        def work() -> None:
            with open(said, "wb") as file:
                os.dup2(file.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.argv = ["featbank", *words]
            sealed: list[tuple[str, str, str, str]] = []
            seal = Bank.seal

            def reported(self: Bank, recipe: Recipe, keys: Any, columns: Any) -> str:
                path = seal(self, recipe, keys, columns)
                for column, values in columns.items():
                    for key, row in zip(keys, values, strict=True):
                        digest = hashlib.sha256(row.tobytes()).hexdigest()
                        name = key.tobytes().hex()
                        sealed.append((recipe.fingerprint, column.name, name, digest))
                return path

            with faulty(**fault) as fs, mock.patch.object(Bank, "seal", reported):
                try:
                    main()
                finally:
                    found = [fs.calls, fs.failed, fs.cached, fs.errors, fs.syncs, sealed]
                    told.write_text(json.dumps(found))

        told.unlink(missing_ok=True)
        ended = in_child(work)
        if not told.exists():
            raise AssertionError(f"{ended}: {said.read_text(errors='replace')[-500:]}")
        return Done(ended, said.read_text(), *json.loads(told.read_text()))


@dataclass(frozen=True)
class Start:
    """What there is before a command runs."""

    rows: Rows
    shards: set[str]
    outputs: dict[str, Any]


@dataclass(frozen=True)
class Clean:
    """What a command makes without a fault."""

    rows: Rows
    outputs: dict[str, Any]
    calls: list[str]


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it did to the disk."""

    ended: Ended
    said: str
    calls: list[str]
    failed: str | None
    cached: bool
    errors: list[str]
    syncs: list[tuple[int, bool]]
    sealed: list[tuple[str, str, str, str]]


def bank_of(command: Command, place: Path) -> Path:
    """Return the bank that a command leaves behind."""
    packed = place / "out" / "codes.h5"
    return (
        packed if str(packed).endswith(command.words[-1].removeprefix("{out}/")) else place / "bank"
    )


def shards_of(bank: Path) -> list[Path]:
    with os.scandir(bank) as entries:
        folders = [e.path for e in entries if e.is_dir() and e.name != "quarantine"]
    return [Path(path) for folder in folders for path in shard_paths(folder)]


def sound_shards(bank: Path) -> set[str]:
    """Return the shards that hold the bytes of their names."""
    if not bank.is_dir():
        return set()
    return {path.stem for path in shards_of(bank) if file_digest(str(path)) == path.stem}


def outputs(command: Command, place: Path) -> dict[str, Any]:
    """Read what a command has written; raise if it is not whole."""
    return {name: _READERS[Path(name).suffix](place / "out" / name) for name in command.writes}


def _packed(path: Path) -> Rows:
    found = verify(Bank(path))
    assert found.ok, found.damaged
    return rows_of(path)


def _classifier(path: Path) -> list[float]:
    head = Classifier.load(path).head
    return np.asarray(head[-1].centroids_ if hasattr(head, "steps") else head.centroids_).tolist()


_READERS: dict[str, Callable[[Path], Any]] = {
    ".h5": _packed,
    ".skops": _classifier,
    ".npy": lambda path: np.load(path).tolist(),
    ".csv": lambda path: path.read_text().splitlines(),
}

# Calls whose failure a command may survive: a temporary that stays is swept some day, a name that
# can't be linked is given by renaming, a lock of a bank that can't be written is done without.
SURVIVED = ("unlink", "rmdir", "link", "open_lock")


def check_failure(world: World, number: int, fault: dict[str, Any], trials: Trials) -> None:
    """Run one command with a fault; what is left must be right, and a second run complete it."""
    command, clean = COMMANDS[number], world.clean[number]
    place = trials.folder / f"trial{trials.done}"
    world.lay_out(command, place)
    try:
        done = world.run(command, place, fault)
        check_end(done, fault.get("number", 0))
        check_left(command, place, done, clean, world.starts[number])
        again = world.run(command, place, {})
        assert again.ended.status == 0, again.said
        assert rows_of(bank_of(command, place)) == clean.rows, "not what an unhindered run makes"
        assert outputs(command, place) == clean.outputs, "not what an unhindered run writes"
        if done.ended.status == 1:
            trials.figures["runs that failed and were made again"] += 1
        else:
            trials.figures["runs that did without"] += 1
    finally:
        shutil.rmtree(place)


def check_end(done: Done, number: int, *, real: bool = False) -> None:
    """Check what a command said of an error, injected or real, and that it did not hide it."""
    ended, said = done.ended, done.said
    assert not ended.hung, "it hangs"
    assert ended.signal is None, f"signal {ended.signal}: {said}"
    assert "Traceback" not in said, said[-1000:]
    failed = [file for file, good in done.syncs if not good]
    synced = [file for file, _ in done.syncs]
    assert all(synced.count(file) == 1 for file in failed), "a failed sync is tried again"
    if ended.status == 0:
        # A folder that may not even be opened, above the bank, is nobody's who writes there.
        unopened = done.failed == "sync_directory" and number == errno.EACCES
        survived = real or unopened or done.cached or done.failed in (None, *SURVIVED)
        assert survived, f"{done.failed} failed unsaid"
        return
    assert ended.status == 1, f"exit status {ended.status}: {said}"
    assert real or done.failed is not None, said
    lines = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, said
    assert os.strerror(number) in lines[0], said
    assert ".featbank-tmp" not in said, said


def check_left(command: Command, place: Path, done: Done, clean: Clean, start: Start) -> None:
    bank = place / "bank"
    if command.words[0] != "prune":
        assert start.shards <= sound_shards(bank), "a shard has gone"
    if command.start != "damaged":
        rows: Rows = {}
        for path in (bank, place / "out" / "codes.h5", place / "out" / "codes.h5.shards"):
            if (path / "bank.json").exists() or path.is_file():
                found = verify(Bank(path))
                assert found.ok, found.damaged
                rows |= rows_of(path)
        kept = {(f, column, bytes.fromhex(key)): row for f, column, key, row in done.sealed}
        kept |= dict(clean.rows.items() & start.rows.items())
        assert kept.items() <= rows.items(), f"{len(kept.items() - rows.items())} rows are lost"
    if all((place / "out" / name).exists() for name in command.writes):
        found = outputs(command, place)
        assert found in (start.outputs, clean.outputs), "neither the old file nor the new one"
    else:
        assert command.words[0] == "export", "the old file is gone"
    temporaries = [n for _, _, names in os.walk(place) for n in names if ".featbank-tmp" in n]
    if done.failed not in (*SURVIVED, "sync_directory") and "unlink" not in done.errors:
        assert not temporaries, temporaries


ERRORS = (errno.ENOSPC, errno.EIO)
OTHERS = (errno.EDQUOT, errno.EROFS, errno.EINTR, errno.EACCES)


def cases(world: World) -> list[tuple[int, dict[str, Any]]]:
    """Return every call of every command with `ERRORS`, and a choice of others, of errors that
    last, and of short writes.
    """
    found: list[tuple[int, dict[str, Any]]] = []
    for number, clean in enumerate(world.clean):
        for at in range(len(clean.calls)):
            found += [(number, {"at": at, "number": error}) for error in ERRORS]
            if at % 4 == 0:
                error = ERRORS[at // 4 % 2]
                found.append((number, {"at": at, "number": error, "lasting": True}))
            elif at % 4 == 2:
                found.append((number, {"at": at, "number": OTHERS[at // 4 % len(OTHERS)]}))
        found.append((number, {"most": 100}))
    return found


def run_errors(trials: Trials) -> None:
    with prepared(trials) as world:
        every = cases(world)
        trials.figures["cases"] = len(every)
        for number in trials:
            exhaustive = trials.wanted >= len(every)
            which, fault = every[number % len(every) if exhaustive else spread(number, len(every))]
            name = errno.errorcode.get(fault.get("number", 0), "short writes")
            call = fault.get("at", "every")
            what = f"{COMMANDS[which].name}, {name} at call {call} {fault}"
            with trials.checking(what):
                check_failure(world, which, fault, trials)


_worlds: list[World] = []


@contextlib.contextmanager
def prepared(trials: Trials) -> Iterator[World]:
    """Give what the trials start from; the command line finds the exact network there."""
    with (
        mock.patch.object(workflow, "open_model", return_value=exact_model()),
        # The images were made this moment, and every run would read them once more.
        mock.patch.object(index, "RACY_NANOSECONDS", 0),
    ):
        if not _worlds:  # once a process: trials under a mutation start from the same
            folder = tempfile.mkdtemp(dir=os.environ.get("FEATBANK_CACHE", trials.folder))
            _worlds.append(World(Path(folder), trials))
        yield _worlds[0]


# A file system that is really full

_LIBC = ctypes.CDLL(None, use_errno=True)
_RDONLY, _REMOUNT, _REC, _PRIVATE, _DETACH = 1, 32, 1 << 14, 1 << 18, 2
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
PAGE = 4096


def _mount(place: Path | str, kind: bytes | None, flags: int, options: str = "") -> None:
    if _LIBC.mount(b"none", os.fsencode(place), kind, flags, options.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(place))


def may_mount() -> str:
    """Give this process mounts of its own, which go with it; return why it can't have any."""
    user, group = os.getuid(), os.getgid()
    try:
        if _LIBC.unshare(_NEW_MOUNTS):
            if _LIBC.unshare(_NEW_MOUNTS | _NEW_USER):
                return f"no mount namespace: {os.strerror(ctypes.get_errno())}"
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _mount("/", None, _REC | _PRIVATE)
    except (OSError, AttributeError) as error:
        return f"no mounts of its own: {error}"
    return ""


@dataclass
class TinyDisk:
    """A tmpfs of a given size."""

    place: Path

    @contextlib.contextmanager
    def mounted(self) -> Iterator[TinyDisk]:
        self.place.mkdir(exist_ok=True)
        _mount(self.place, b"tmpfs", 0, "size=64m,nr_inodes=10000")
        try:
            yield self
        finally:
            _LIBC.umount2(os.fsencode(self.place), _DETACH)

    def limit(self, *, pages: int = 16384, inodes: int = 10000, read_only: bool = False) -> None:
        flags = _REMOUNT | (_RDONLY if read_only else 0)
        _mount(self.place, b"tmpfs", flags, f"size={pages * PAGE},nr_inodes={inodes}")

    @property
    def used(self) -> tuple[int, int]:
        """Pages and inodes."""
        found = os.statvfs(self.place)
        return found.f_blocks - found.f_bfree, found.f_files - found.f_ffree


def run_full(trials: Trials) -> None:
    reason = may_mount()
    if reason:
        trials.skip(reason)
        return
    with prepared(trials) as world:
        spans = [_span(world, number) for number in range(len(COMMANDS))]
        disk = TinyDisk(trials.folder / "disk")
        for number in trials:
            if number % 10 == 9:
                with trials.checking("a bank that can only be read"), disk.mounted():
                    check_read_only(world, disk, trials)
                continue
            which = number % len(COMMANDS)
            what = ("pages", "inodes")[number // len(COMMANDS) % 2]
            low, high = spans[which][what]
            limit = low + spread(number, high - low + 1)
            tried = f"{COMMANDS[which].name} on a disk of {limit} {what} of {high}"
            with trials.checking(tried), disk.mounted():
                check_full(world, which, disk, {what: limit}, trials)


def _span(world: World, number: int) -> dict[str, tuple[int, int]]:
    """Return what a command's start takes, in pages and inodes, and what is room for all of it."""
    disk = TinyDisk(world.folder / "disk")
    with disk.mounted():
        world.lay_out(COMMANDS[number], disk.place / "place")
        pages, inodes = disk.used
        world.run(COMMANDS[number], disk.place / "place", {})
        more_pages, more_inodes = disk.used
    return {
        "pages": (max(1, pages), max(pages, more_pages) + 4),  # of size 0 is without limit
        "inodes": (inodes, max(inodes, more_inodes) + 2),
    }


def check_full(
    world: World, number: int, disk: TinyDisk, limit: dict[str, int], trials: Trials
) -> None:
    """Run one command until the disk is full, enlarge it, and run it again."""
    command, clean = COMMANDS[number], world.clean[number]
    place = disk.place / "place"
    world.lay_out(command, place)
    used = dict(zip(("pages", "inodes"), disk.used, strict=True))
    disk.limit(**{what: max(many, used[what]) for what, many in limit.items()})
    done = world.run(command, place, {})
    check_end(done, errno.ENOSPC, real=True)
    check_left(command, place, done, clean, world.starts[number])
    disk.limit()
    again = world.run(command, place, {})
    assert again.ended.status == 0, again.said
    assert rows_of(bank_of(command, place)) == clean.rows, "not what an unhindered run makes"
    assert outputs(command, place) == clean.outputs, "not what an unhindered run writes"
    trials.figures["runs that ended on a full disk"] += done.ended.status == 1
    trials.figures["runs that had room enough"] += done.ended.status == 0


READ = (
    ("info", *BANK),
    ("verify", *BANK),
    ("status", "{data}", *BANK),
    ("fit", *FIT, *BANK, "--no-save"),
    (*EXTRACT, *BANK),  # there is nothing to do
)


def check_read_only(world: World, disk: TinyDisk, trials: Trials) -> None:
    """Read a bank that can't be written, and not even keep what was verified."""
    place = disk.place / "place"
    world.lay_out(Command((), "stale"), place)
    (place / "bank" / "verified.json").unlink()
    disk.limit(read_only=True)
    for words in READ:
        done = world.run(Command(words, "stale"), place, {})
        assert done.ended.status == 0, f"{words[0]}: {done.said}"
    assert rows_of(place / "bank") == rows_of(world.folder / "stale")
    done = world.run(Command(("prune", *BANK), "stale"), place, {})
    check_end(done, errno.EROFS, real=True)
    assert done.ended.status == 1, "a bank that can't be written was pruned"
    trials.figures["banks that could only be read"] += 1


# Faults in featbank that these must see


def _swallowing(fd: int, data: memoryview) -> None:
    with contextlib.suppress(OSError):
        while data:
            data = data[durable.fs.write(fd, data) :]


def _ignored(call: str) -> Callable[..., None]:
    """Return a call of the seam whose error nobody hears of."""
    original = getattr(FaultyFileSystem, call)

    def method(self: FaultyFileSystem, *args: Any) -> None:
        with contextlib.suppress(OSError):
            original(self, *args)

    return method


def _sync_again(self: FaultyFileSystem, fd: int) -> None:
    try:
        _sync(self, fd)
    except OSError:
        _sync(self, fd)


_sync = FaultyFileSystem.sync


def _in_place(path: Any, data: Any) -> None:
    with contextlib.suppress(FileNotFoundError):
        durable.fs.unlink(os.fspath(path))
    fd = durable.fs.create(os.fspath(path))
    try:
        durable._write_all(fd, memoryview(data).cast("B"))
        durable.fs.sync(fd)
    finally:
        os.close(fd)


def _mutations(*names: str) -> tuple[Mutation, ...]:
    patch = mock.patch.object
    every = {
        "an error of a write is swallowed": lambda: patch(durable, "_write_all", _swallowing),
        "a failed sync is tried again": lambda: patch(FaultyFileSystem, "sync", _sync_again),
        "an error of a sync is ignored": lambda: patch(FaultyFileSystem, "sync", _ignored("sync")),
        "an error of a folder's sync is ignored": lambda: patch(
            FaultyFileSystem, "sync_directory", _ignored("sync_directory")
        ),
        "files are written in place": lambda: patch(durable, "write_file", _in_place),
    }
    return tuple(Mutation(name, every[name], 150) for name in names)


HARNESSES = (
    Harness(
        "io-errors",
        "any error at any call: one message, exit status 1, nothing lost or torn; a run goes on",
        "errors",
        run_errors,
        short=40,
        long=1300,
        mutations=_mutations(
            "an error of a write is swallowed",
            "a failed sync is tried again",
            "an error of a sync is ignored",
            "an error of a folder's sync is ignored",
            "files are written in place",
        ),
    ),
    Harness(
        "tiny-disk",
        "the same on a file system that is really full, of bytes or of inodes",
        "runs",
        run_full,
        short=16,
        long=60,
        mutations=_mutations("an error of a write is swallowed", "files are written in place"),
    ),
)
