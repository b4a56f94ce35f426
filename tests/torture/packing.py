"""Packing: kill -9 over all that writes beside an extraction into a folder.

Extraction into a packed file, `compact` onto an old file, `merge`, `prune`, `repair` and `export`:
after a kill there is the old file or the new one, whole, and nothing that was committed is lost;
made again, each comes to its right end. Readers of the packed file never fail meanwhile.
"""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from featbank import Bank, compact, durable, export, merge, prune, repair, verify
from featbank.bank import export as exporting
from featbank.bank import packed
from featbank.bank.layered import LayeredBank
from tests.torture import job
from tests.torture.harness import Harness, Mutation, Trials, in_child
from tests.torture.kills import reported_in, reporting
from tests.torture.strike import Blow, Progress

IMAGES = 12
GONE = 4
LAST = 40
READ_EVERY = 3
"""Every so many trials on a packed file, another process reads it all the while."""

PACKED, REPORT = "codes.h5", "report"
READS, FAILED = "reads", "failed"


@dataclass(frozen=True)
class Scene:
    """Something that writes.

    Attributes
    ----------
    name : str
    before : Path
        A folder that is copied for each trial.
    work : callable
        Takes the copy.
    check : callable
        Raises if the copy is not as it must be after a kill.
    ended : callable
        Raises if it is not as it must be when the work was made again.
    readable : bool
        Whether the packed file in it is read meanwhile.
    """

    name: str
    before: Path
    work: Callable[[Path], Any]
    check: Callable[[Path], None]
    ended: Callable[[Path], None]
    readable: bool = False


def extract(data: Path, bank: Path) -> Any:
    # One image a batch: a row's last bits may depend on what shares its batch.
    return job.extract(data, bank, batch_size=1, shard_rows=2)


def state_of(bank: Path) -> tuple[Any, ...]:
    """Return all that a user reads of a bank, as values that compare."""
    chosen = Bank(bank).select()
    return (tuple(chosen.paths), tuple(chosen.labels), chosen.X.tobytes())


def wanted(found: Any, *allowed: Any) -> None:
    assert any(found == one for one in allowed), "neither the old content nor the new"


def lost(before: dict[Any, str], after: dict[Any, str]) -> None:
    missing = [row for row, digest in before.items() if after.get(row) != digest]
    assert not missing, f"{len(missing)} rows of {len(before)} are lost or changed"


def is_whole(bank: Path) -> None:
    damaged = verify(Bank(bank)).damaged
    assert not damaged, damaged[0]


def make_scenes(folder: Path, rng: Any) -> list[Scene]:
    """Make the banks, and what each of them must become."""
    data = folder / "data"
    job.make_folder(data, IMAGES, rng)
    half, whole = folder / "half", folder / "whole"
    extract(data / "a", half / "bank")
    compact(half / "bank", half / PACKED)
    shutil.copytree(half / "bank", whole / "bank")
    extract(data, whole / "bank")
    compact(whole / "bank", whole / PACKED)
    old, new = state_of(half / PACKED), state_of(whole / PACKED)
    old_rows, new_rows = job.rows_of(half / "bank"), job.rows_of(whole / "bank")

    def packed_is_whole(place: Path) -> None:
        is_whole(place / PACKED)
        wanted(state_of(place / PACKED), old, new)

    def packed_is_new(place: Path) -> None:
        assert state_of(place / PACKED) == new, "the content is not what it must become"
        assert job.rows_of(place / PACKED) == new_rows, "the rows are not what they must become"
        assert not Path(packed.shards_folder(str(place / PACKED))).exists()

    def extracted(place: Path) -> None:
        packed_is_whole(place)
        rows = job.rows_of(place / PACKED)
        beside = packed.unfinished(str(place / PACKED))
        if beside is not None:
            is_whole(Path(beside))
            rows |= job.rows_of(Path(beside))
        lost(old_rows, rows)
        lost(reported_in(place / REPORT), rows)

    def merged(place: Path) -> None:
        is_whole(place / "bank")
        lost(old_rows, job.rows_of(place / "bank"))
        assert {"a"} <= set(Bank(place / "bank").index.sources)

    def merge_ended(place: Path) -> None:
        assert state_of(place / "bank") == new
        assert job.rows_of(place / "bank") == new_rows

    # Images that are gone, and rows that are there twice.
    fat = folder / "fat"
    shutil.copytree(whole / "bank", fat / "bank")
    extra = folder / "extra"
    job.make_folder(extra, GONE, rng)
    extract(extra, fat / "bank")
    for path in extra.glob("*/*"):
        path.unlink()
    job.make_folder(extra, 1, rng)
    extract(extra, fat / "bank")
    slim = folder / "slim"
    shutil.copytree(fat / "bank", slim / "bank")
    prune(slim / "bank")
    live, live_rows = state_of(fat / "bank"), job.rows_of(slim / "bank")
    assert state_of(slim / "bank") == live
    assert len(live_rows) < len(job.rows_of(fat / "bank"))

    def pruned(place: Path) -> None:
        is_whole(place / "bank")
        lost(live_rows, job.rows_of(place / "bank"))
        assert state_of(place / "bank") == live

    def prune_ended(place: Path) -> None:
        pruned(place)
        assert job.rows_of(place / "bank") == live_rows, "there are rows that should be gone"

    # A damaged shard, and no index.
    broken = folder / "broken"
    shutil.copytree(whole / "bank", broken / "bank")
    (broken / "bank" / "index.h5").unlink()
    bad = sorted(broken.glob("bank/tiny*/??/*.h5"))[0]
    content = bytearray(bad.read_bytes())
    content[len(content) // 2] ^= 1
    bad.write_bytes(content)
    good = {path.name for path in broken.glob("bank/tiny*/??/*.h5")} - {bad.name}

    def repairing(place: Path) -> None:
        there = {path.name for path in place.glob("bank/tiny*/??/*.h5")}
        assert good <= there, "a whole shard is gone"
        assert list(place.glob(f"bank/**/*{bad.name}")), "the damaged shard was deleted"

    def repair_ended(place: Path) -> None:
        repairing(place)
        is_whole(place / "bank")
        extract(data / "a", place / "bank")
        extract(data, place / "bank")
        assert job.rows_of(place / "bank") == new_rows
        assert state_of(place / "bank") == new

    # An older export under the same name.
    out = folder / "out"
    shutil.copytree(whole / "bank", out / "bank")
    for ending in ("npz", "npy"):
        export(out / "bank", out / f"out.{ending}", source="a")
    tables = [rows_of_table(out)]
    with np.load(out / "out.npz") as file:
        arrays = [dict(file)]
    for ending in ("npz", "npy"):
        export(out / "bank", folder / f"out.{ending}")
    tables.append(rows_of_table(folder))
    with np.load(folder / "out.npz") as file:
        arrays.append(dict(file))

    def export_both(place: Path) -> None:
        for ending in ("npz", "npy"):
            export(place / "bank", place / f"out.{ending}", force=True)

    def exported(place: Path) -> None:
        with np.load(place / "out.npz") as file:
            found = dict(file)
        same = [all(np.array_equal(found[name], one[name]) for name in one) for one in arrays]
        wanted(True, *same)
        if (place / "out.npy").exists():
            wanted(rows_of_table(place), *tables)

    def export_ended(place: Path) -> None:
        assert rows_of_table(place) == tables[1]
        with np.load(place / "out.npz") as found:
            assert all(np.array_equal(found[name], arrays[1][name]) for name in found.files)

    def into_packed(place: Path) -> None:
        merge(place / PACKED, [whole / "bank"])

    return [
        Scene("extract", half, lambda p: extract(data, p / PACKED), extracted, packed_is_new, True),
        Scene(
            "compact",
            half,
            lambda p: compact(whole / "bank", p / PACKED),
            packed_is_whole,
            packed_is_new,
            True,
        ),
        Scene("merge", half, lambda p: merge(p / "bank", [whole / PACKED]), merged, merge_ended),
        Scene("merge into a file", half, into_packed, packed_is_whole, packed_is_new, True),
        Scene("prune", fat, lambda p: prune(p / "bank"), pruned, prune_ended),
        Scene("repair", broken, lambda p: repair(p / "bank"), repairing, repair_ended),
        Scene("export", out, export_both, exported, export_ended),
    ]


def rows_of_table(place: Path) -> tuple[bytes, tuple[tuple[str, ...], ...]]:
    """Return the numbers of an exported .npy and the rows of the .csv beside it."""
    with open(place / "out.csv", newline="") as file:
        rows = tuple(map(tuple, csv.reader(file)))
    return np.load(place / "out.npy").tobytes(), rows


def read_on(place: Path, allowed: tuple[Any, ...]) -> int:
    """Fork a process that reads the packed file until it is killed; return its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        fd = os.open(place / READS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        while True:
            wanted(state_of(place / PACKED), *allowed)
            os.write(fd, b".")
    except BaseException as error:
        (place / FAILED).write_text(f"a reader failed: {type(error).__name__}: {error}")
    finally:
        os._exit(1)


def run(trials: Trials) -> None:
    progress = Progress()
    scenes = make_scenes(trials.folder, trials.rng)
    place = trials.folder / "place"
    calls: dict[str, int] = {}
    allowed = tuple(state_of(trials.folder / name / PACKED) for name in ("half", "whole"))

    def work(scene: Scene, *, read: bool) -> None:
        reader = read_on(place, allowed) if read else None
        with reporting(place / REPORT):
            progress.follow()
            scene.work(place)
        if reader is not None:
            time.sleep(0.02)
            os.kill(reader, 9)

    for scene in scenes:  # in peace, to see how long each is
        shutil.copytree(scene.before, place)
        progress.clear()
        with trials.checking(f"{scene.name}, without a kill"):
            assert in_child(lambda s=scene: work(s, read=False)).status == 0
            calls[scene.name] = progress.calls
            scene.check(place)
            scene.ended(place)
        shutil.rmtree(place)
    for number in trials:
        scene = scenes[number % len(scenes)]
        if scene.name not in calls:
            continue
        shutil.copytree(scene.before, place)
        progress.clear()
        n = calls[scene.name]
        blow = Blow.at_random(trials.rng, progress, n)
        if number % 2:  # where names are given and files go; before are hundreds of small writes
            blow.calls = trials.rng.randrange(max(n - LAST, 0), n)
        read = scene.readable and number // len(scenes) % READ_EVERY == 0
        what = f"trial {number}: {scene.name}, killed after {blow.calls} of {n}"
        with trials.checking(what):
            ended = in_child(lambda s=scene, r=read: work(s, read=r), watch=blow)
            assert not ended.hung, "it hung"
            assert ended.status in (None, 0), f"it ended with {ended.status}"
            trials.figures["killed" if ended.signal else "killed after the end"] += 1
            if (place / FAILED).exists():
                raise AssertionError((place / FAILED).read_text())
            if (place / READS).exists():
                trials.figures["reads meanwhile"] += (place / READS).stat().st_size
            scene.check(place)
            scene.work(place)
            scene.ended(place)
            trials.figures[f"{scene.name} made again"] += 1
        shutil.rmtree(place)


@contextlib.contextmanager
def written_in_place() -> Iterator[None]:
    """Files are written under their own names."""

    @contextlib.contextmanager
    def in_place(path: Any) -> Iterator[durable.Spool]:
        target = os.fsdecode(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        spool = durable.Spool(target)
        yield spool
        spool.finish()

    with mock.patch.object(durable, "replacing", in_place):
        yield


@contextlib.contextmanager
def folder_removed_first() -> Iterator[None]:
    """The folder with the sealed shards goes before the new file comes."""

    def finish(bank: LayeredBank) -> None:
        packed.pack(bank, f"{bank.file}.new")
        durable.remove_folder(bank.path)
        durable.fs.replace(f"{bank.file}.new", bank.file)

    with mock.patch.object(LayeredBank, "finish", finish):
        yield


@contextlib.contextmanager
def numbers_beside_another_table() -> Iterator[None]:
    """The new table comes while the old numbers stand."""

    def write(located: Any, path: str) -> None:
        with durable.replacing(f"{os.path.splitext(path)[0]}.csv") as text:
            exporting._write_csv(text, exporting._columns(located))
        with durable.replacing(path) as numbers:
            shape = exporting._shape(located)
            rows = (located.read(slice(row, row + 1)) for row in range(shape[0]))
            exporting._write_array(numbers, located.dtype, shape, rows)

    with mock.patch.object(exporting, "_write_npy", write):
        yield


HARNESSES = (
    Harness(
        "packing",
        "killed anywhere, a packed file is the old one or the new one, and no row is lost",
        "kills",
        run,
        short=28,
        long=350,
        mutations=(
            Mutation("files written in place", written_in_place, trials=60),
            Mutation("the folder goes before the file comes", folder_removed_first, trials=140),
            Mutation("old numbers beside a new table", numbers_beside_another_table, trials=210),
        ),
        seconds=1800.0,
    ),
)
