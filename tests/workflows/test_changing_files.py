"""Whatever happens to files, features and labels are those of the bytes and names now there."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featbank import Bank
from featbank.data import digests, index, tables, walk
from featbank.data.decode import decode
from featbank.data.index import RACY_NANOSECONDS
from featbank.extraction.run import Settings
from featbank.workflows.extract import ExtractionResult, extract_to
from featbank.workflows.status import status
from featbank.workflows.survey import open_sources
from tests.extraction.fakes import PENULTIMATE, expected, model
from tests.tiny import make_images
from tests.torture.world import SECOND, World, picture

LONG_AGO = 1_000_000_000


class Place:
    """Nine images of three classes with old times, and a bank of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.bank = folder / "data", folder / "bank"
        self.a, *_, self.b = make_images(self.data, 9)
        for path in self.paths():
            os.utime(path, (LONG_AGO, LONG_AGO))
        self.extract()

    def paths(self) -> list[Path]:
        return sorted(path for path in self.data.rglob("*.*"))

    def extract(self, source: Any = None, **words: Any) -> ExtractionResult:
        settings = Settings(workers=0, **{k: words.pop(k) for k in ("decode",) if k in words})
        sources = open_sources(self.data if source is None else source)
        return extract_to(self.bank, sources, model(), [PENULTIMATE], settings=settings, **words)

    def check(self, computed: int, **words: Any) -> None:
        """Extract, and compare all that the bank says with the files."""
        found = status(self.bank, open_sources(self.data), model(), [PENULTIMATE])
        done = self.extract(**words)
        assert (done.computed, done.failed) == (computed, 0)
        assert found.to_compute == computed or words
        self.agree()

    def agree(self) -> None:
        bank, paths = Bank(self.bank), self.paths()
        assert bank.paths == [str(path) for path in paths]
        assert list(bank.labels) == [path.parent.name for path in paths]
        np.testing.assert_allclose(bank.features(), expected(paths), rtol=1e-5)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(index, "RACY_NANOSECONDS", 0)  # the ctime of a test's file is young
    return Place(tmp_path)


def same_size(path: Path) -> bytes:
    """Return another image in as many bytes."""
    data = path.read_bytes()
    height, width = decode(data).size[::-1]
    for seed in range(200):
        other = _png(height, width, seed)
        if len(other) <= len(data):
            return other.ljust(len(data), b"\0")  # what follows the end of a PNG means nothing
    raise AssertionError("no image of this size was found")


def _png(height: int, width: int, seed: int) -> bytes:
    pixels = np.full((height, width, 3), np.random.default_rng(seed).integers(0, 256, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def run(*words: str | Path) -> None:
    subprocess.run(words, check=True)


# Other bytes under the same size and time


def touch_r(path: Path, other: Path) -> None:
    times = other.with_name("times")
    run("touch", "-r", path, times)
    path.write_bytes(other.read_bytes())
    run("touch", "-r", times, path)


def cp_p(path: Path, other: Path) -> None:
    run("touch", "-r", path, other)
    run("cp", "-p", other, path)


def cp_p_and_mv(path: Path, other: Path) -> None:
    run("touch", "-r", path, other)
    run("cp", "-p", other, path.with_name(".new"))
    run("mv", path.with_name(".new"), path)


@pytest.mark.parametrize("replace", [touch_r, cp_p, cp_p_and_mv])
def test_other_bytes_of_the_same_size_and_time_are_seen(
    place: Place, replace: Callable[[Path, Path], None]
) -> None:
    other = place.folder / "other.png"
    other.write_bytes(same_size(place.a))
    was = place.a.stat()

    replace(place.a, other)

    now = place.a.stat()
    assert (now.st_size, now.st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    place.check(computed=1)


@pytest.mark.parametrize("when", [0, LONG_AGO + 1, 4_000_000_000])
def test_any_mtime_is_only_a_number(place: Place, when: int) -> None:
    place.a.write_bytes(same_size(place.a))
    os.utime(place.a, (when, when))
    place.check(computed=1)
    place.a.write_bytes(place.b.read_bytes())
    os.utime(place.a, (when, when))
    place.check(computed=0)


def hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no change of a file show in its size, times and inode."""
    alike = SimpleNamespace(st_size=1, st_mtime_ns=1, st_ctime_ns=1, st_ino=1)
    monkeypatch.setattr(walk, "_states", lambda folder, names: [alike] * len(names))
    monkeypatch.setattr(digests, "numbers_of", lambda state: (1, 1, 1, 1))


def test_paranoia_finds_what_size_times_and_inode_hide(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch)
    place.extract()
    place.a.write_bytes(same_size(place.a))

    assert place.extract().reused == 9  # which is why there is such a thing as paranoia
    place.check(computed=1, paranoid=True)


def test_paranoia_finds_an_image_that_was_mended(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch)
    good = place.a.read_bytes()
    place.a.write_bytes(b"no image")
    assert place.extract(paranoid=True).failed == 1
    place.a.write_bytes(good)

    assert place.extract().failed == 1
    place.check(computed=0, paranoid=True)


# Clocks


def in_world(world: World, bank: Path) -> Bank:
    with world.clock():
        extract_to(
            bank, open_sources(world.data), model(), [PENULTIMATE], settings=Settings(workers=0)
        )
    return Bank(bank)


@pytest.mark.parametrize("grain", [1, SECOND, 2 * SECOND])
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("keep_time", [False, True])
def test_edits_right_after_a_run_are_seen_under_clocks_of_any_grain(
    tmp_path: Path, grain: int, fresh: bool, keep_time: bool
) -> None:
    world = World(tmp_path, grain)
    world.write("a/1.png", picture(0))
    world.write("a/2.png", picture(1))
    for step in range(6):
        world.write("a/1.png", picture(2 + step), fresh=fresh, keep_time=keep_time)
        bank = in_world(world, tmp_path / "bank")
        np.testing.assert_allclose(
            bank.features(), expected([world.path("a/1.png"), world.path("a/2.png")]), rtol=1e-5
        )
        world.wait(0.3 * (step % 3))


def test_times_of_the_future_are_never_trusted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that was put back by an hour: all files are younger than the time."""
    monkeypatch.setattr(index, "RACY_NANOSECONDS", RACY_NANOSECONDS)
    true = walk.time.time_ns

    class Behind:
        @staticmethod
        def time_ns() -> int:
            return true() - 3600 * 10**9

    for module in (walk, digests, tables):
        monkeypatch.setattr(module, "time", Behind)
    place.extract()
    source = Bank(place.bank).index.sources["data"]
    assert source.listing.racy.all()
    place.a.write_bytes(same_size(place.a))
    os.utime(place.a, (LONG_AGO, LONG_AGO))
    place.check(computed=1)


# Names


def test_two_files_that_swap_names_swap_features(place: Place) -> None:
    place.a.rename(place.folder / "spare")
    place.b.rename(place.a)
    (place.folder / "spare").rename(place.b)
    place.check(computed=0)


def test_a_label_that_moves_takes_its_feature_along(place: Place) -> None:
    place.a.rename(place.data / "c" / "moved.png")
    place.check(computed=0)


def test_a_class_folder_that_is_renamed_is_another_label(place: Place) -> None:
    (place.data / "a").rename(place.data / "z")
    place.check(computed=0)


def test_two_class_folders_that_swap_names_swap_labels(place: Place) -> None:
    (place.data / "a").rename(place.data / "spare")
    (place.data / "b").rename(place.data / "a")
    (place.data / "spare").rename(place.data / "b")
    place.check(computed=0)


def test_a_name_in_other_case_is_another_name(place: Place) -> None:
    place.a.rename(place.a.with_name("UPPER.PNG"))
    place.check(computed=0)
    (place.data / "a").rename(place.data / "A")
    place.check(computed=0)


def test_what_is_deleted_is_gone_and_costs_nothing_when_it_comes_back(place: Place) -> None:
    data = place.a.read_bytes()
    place.a.unlink()
    place.check(computed=0)
    assert str(place.a) not in Bank(place.bank).paths
    place.a.write_bytes(data)
    place.check(computed=0)


def test_a_deleted_file_that_comes_back_with_other_bytes_is_computed(place: Place) -> None:
    other = same_size(place.a)
    place.a.unlink()
    place.extract()
    place.a.write_bytes(other)
    os.utime(place.a, (LONG_AGO, LONG_AGO))
    place.check(computed=1)


def test_a_link_that_leads_elsewhere_is_another_image(place: Place) -> None:
    outside = place.folder / "outside"
    for number in (1, 2):
        make_images(outside / str(number), 1, seed=number + 10)
        os.utime(outside / str(number) / "a" / "000.png", (LONG_AGO, LONG_AGO))
    link = place.data / "a" / "link.png"
    link.symlink_to(outside / "1" / "a" / "000.png")
    place.check(computed=1)
    link.unlink()
    link.symlink_to(outside / "2" / "a" / "000.png")
    place.check(computed=1)


def test_what_is_written_through_one_name_is_seen_under_the_other(place: Place) -> None:
    os.link(place.a, place.data / "b" / "linked.png")
    place.check(computed=0)
    times = place.a.stat()
    place.a.write_bytes(same_size(place.a))
    os.utime(place.a, ns=(times.st_atime_ns, times.st_mtime_ns))
    place.check(computed=1)


def test_a_folder_that_is_renamed_is_a_source_whose_features_are_there(place: Place) -> None:
    moved = place.folder / "moved"
    place.data.rename(moved)

    done = place.extract(moved)

    assert (done.computed, done.reused) == (0, 9)
    bank = Bank(place.bank)
    paths = sorted(moved.rglob("*.*"))
    found = bank.select(source="moved")
    assert found.paths == [str(path) for path in paths]
    assert found.labels == [path.parent.name for path in paths]
    np.testing.assert_allclose(found.X, expected(paths), rtol=1e-5)


# While a run goes on


@pytest.mark.parametrize("how", ["renamed over", "grown", "cut off", "same size"])
def test_the_bytes_that_were_hashed_are_the_bytes_that_are_decoded(place: Place, how: str) -> None:
    """Between reading and decoding, the file becomes another one."""
    other = same_size(place.a)
    place.a.write_bytes(same_size(place.b))
    read = place.folder / "as it was read.png"
    read.write_bytes(place.a.read_bytes())

    def swapping(data: bytes, policy: Any, **options: Any) -> Any:
        if how == "renamed over":
            (place.folder / "new").write_bytes(other)
            (place.folder / "new").replace(place.a)
        elif how == "same size":
            place.a.write_bytes(other)
        elif how == "grown":
            place.a.write_bytes(data + b"more")
        else:
            place.a.write_bytes(data[:40])
        return decode(data, policy, **options)

    done = place.extract(decode=swapping)

    assert done.computed == 1
    bank = Bank(place.bank)
    np.testing.assert_allclose(bank.features()[0], expected([read])[0], rtol=1e-5)
    if how == "cut off":  # it is no image any more
        assert place.extract().failed == 1
    else:
        place.extract()
        place.agree()


@pytest.mark.parametrize("how", ["renamed over", "grown", "cut off", "same size"])
def test_a_file_that_changes_while_it_is_read_is_not_taken(
    place: Place, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    first, second = same_size(place.a), same_size(place.b)
    place.a.write_bytes(first)
    reading = digests.read_bytes

    def changing(path: bytes, limits: Any) -> bytes:
        data = reading(path, limits)
        if os.fsdecode(path) == str(place.a):
            if how == "renamed over":
                (place.folder / "new").write_bytes(second)
                (place.folder / "new").replace(place.a)
            else:
                place.a.write_bytes(
                    {"grown": first + b"more", "cut off": first[:-1], "same size": second}[how]
                )
        return data

    with monkeypatch.context() as patch:
        patch.setattr(digests, "read_bytes", changing)
        done = place.extract()
    assert (done.computed, done.failed) == (0, 1)
    assert "changed while it was read" in done.errors[0][1]
    assert place.extract().failed == (how == "cut off" and False)
    place.agree()


# Tables


class Listed(Place):
    """The same images, by a table beside their folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.table = folder / "table.csv"
        self.bank = folder / "bank of the table"
        self.labels = {path: f"label {i % 2}" for i, path in enumerate(self.paths())}
        self.write()
        self.extract(self.table)

    def write(self, rows: list[Path] | None = None, header: str = "path,label") -> None:
        lines = [f"{p.relative_to(self.folder)},{self.labels[p]}" for p in rows or self.labels]
        self.table.write_text("\n".join([header, *lines]) + "\n")

    def check_table(self, computed: int, **options: Any) -> None:
        done = extract_to(
            self.bank,
            open_sources(self.table, **options),
            model(),
            [PENULTIMATE],
            settings=Settings(workers=0),
        )
        assert (done.computed, done.failed) == (computed, 0)
        found = Bank(self.bank).select(source=self.table.stem)
        paths = sorted(self.labels)
        assert found.paths == [str(path) for path in paths]
        assert found.labels == [self.labels[path] for path in paths]
        np.testing.assert_allclose(found.X, expected(paths), rtol=1e-5)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listed:
    monkeypatch.setattr(index, "RACY_NANOSECONDS", 0)
    return Listed(tmp_path)


def test_the_order_of_a_table_means_nothing(listed: Listed) -> None:
    listed.write(list(reversed(listed.labels)))
    listed.check_table(computed=0)


def test_a_path_that_is_listed_twice_is_one_row(listed: Listed) -> None:
    listed.write([*listed.labels, listed.a, listed.b])
    listed.check_table(computed=0)


def test_a_label_that_is_edited_changes_the_label_alone(listed: Listed) -> None:
    listed.labels[listed.a] = "another"
    listed.write()
    listed.check_table(computed=0)


def test_a_row_that_goes_takes_its_label_and_feature_along(listed: Listed) -> None:
    del listed.labels[listed.a]
    listed.write()
    listed.check_table(computed=0)


def test_a_column_may_be_renamed(listed: Listed) -> None:
    listed.write(header="file,species")
    listed.check_table(computed=0, columns={"path": "file", "label": "species"})


def test_an_image_that_changes_behind_its_table_is_seen(listed: Listed) -> None:
    times = listed.a.stat()
    listed.a.write_bytes(same_size(listed.a))
    os.utime(listed.a, ns=(times.st_atime_ns, times.st_mtime_ns))
    listed.check_table(computed=1)


def test_a_table_that_moves_is_a_source_whose_features_are_there(listed: Listed) -> None:
    listed.table = listed.table.rename(listed.folder / "moved.csv")
    listed.check_table(computed=0)
