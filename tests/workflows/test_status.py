from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from featbank import from_module
from featbank.backbones import Column
from featbank.workflows.embed import embed_paths
from featbank.workflows.extract import (
    ExtractionResult,
    Model,
    extract_to,
    open_model,
    run_settings,
)
from featbank.workflows.status import Status, status
from featbank.workflows.survey import open_sources
from tests.tiny import PREPROCESS, TinyNet, make_images

COLUMNS = (Column(),)
SETTINGS = run_settings(workers=0, device="cpu", batch_size=2, shard_rows=2)


class Place:
    """A folder of images, and a bank beside it."""

    def __init__(self, folder: Path) -> None:
        self.data, self.bank = folder / "data", folder / "bank"
        self.paths = make_images(self.data)
        self.model = model()

    def look(self, *names: str) -> Status:
        sources = open_sources(tuple(self.data / name for name in names or (".",)))
        return status(self.bank, sources, self.model, COLUMNS)

    def extract(self, *names: str, stop_after: int | None = None) -> ExtractionResult:
        def progress(done: int, total: int) -> None:
            if stop_after is not None and done >= stop_after:
                raise KeyboardInterrupt

        sources = open_sources(tuple(self.data / name for name in names or (".",)))
        return extract_to(
            self.bank, sources, self.model, COLUMNS, settings=SETTINGS, progress=progress
        )

    def bad(self, name: str = "a/bad.jpg", data: bytes = b"not an image") -> Path:
        path = self.data / name
        path.write_bytes(data)
        return path


def model(version: str = "1") -> Model:
    return open_model(from_module(TinyNet(), transform=PREPROCESS, version=version))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_an_interrupted_run_did_not_reach_is_new_and_not_changed(place: Place) -> None:
    with pytest.raises(KeyboardInterrupt):
        place.extract(stop_after=4)

    found = place.look()

    assert (len(found.new), found.changed, found.failed) == (8, [], [])
    assert (found.reused, found.to_compute) == (4, 8)
    assert place.extract().computed == found.to_compute


def test_what_is_sealed_and_not_indexed_is_not_counted_again(place: Place) -> None:
    """A run that was killed leaves features of images that the index does not know."""
    with pytest.raises(KeyboardInterrupt):
        place.extract(stop_after=2)
    embed_paths(place.paths[:7], place.model, COLUMNS, bank=place.bank, settings=SETTINGS)

    found = place.look()

    assert (found.reused, found.to_compute, found.changed) == (7, 5, [])
    assert place.extract().computed == found.to_compute


@pytest.mark.parametrize("touch", [False, True])
def test_an_unreadable_image_is_not_called_changed(place: Place, touch: bool) -> None:
    bad = place.bad()
    link = place.data / "a" / "gone.png"
    link.symlink_to("nowhere.png")
    place.extract()
    if touch:
        os.utime(bad)

    found = place.look()

    assert (found.new, found.changed, found.to_compute, found.reused) == ([], [], 0, 12)
    assert dict(found.failed).keys() == {str(bad), str(link)}
    assert dict(found.failed)[str(bad)].startswith("not a JPEG")
    again = place.extract()
    assert (again.computed, again.failed) == (0, 2)


def test_a_copy_of_an_unreadable_image_would_fail_as_well(place: Place) -> None:
    bad = place.bad()
    place.extract()
    copy = shutil.copy(bad, place.data / "b" / "other.jpg")

    found = place.look()

    assert [path for path, _ in found.failed] == [str(bad), str(copy)]
    assert (found.new, found.renamed, found.to_compute) == ([], [], 0)
    assert place.extract().failed == 2


def test_an_unreadable_image_that_is_mended_is_changed(place: Place) -> None:
    bad = place.bad()
    place.extract()
    make_images(place.data.parent / "more", 1, seed=9)
    shutil.copy(place.data.parent / "more" / "a" / "000.png", bad)

    found = place.look()

    assert (found.changed, found.failed, found.to_compute) == ([str(bad)], [], 1)
    assert place.extract().computed == 1
    assert place.look().failed == []


def test_a_file_that_a_bank_knew_and_that_is_other_now_is_changed(place: Place) -> None:
    place.extract()
    place.paths[0].write_bytes(place.paths[0].read_bytes() + b"more")

    found = place.look()

    assert (found.changed, found.new, found.to_compute) == ([str(place.paths[0])], [], 1)


def test_an_unreadable_image_stays_so_under_another_network(place: Place) -> None:
    bad = place.bad()
    place.extract()
    place.model = model("2")

    found = place.look()

    assert ([path for path, _ in found.failed], found.to_compute) == ([str(bad)], 12)
    assert place.extract().computed == 12


def test_a_subfolder_of_a_known_source_is_a_source_of_its_own(place: Place) -> None:
    bad = place.bad()
    place.extract()

    found = place.look("a")

    here = len(os.listdir(place.data / "a"))
    assert (found.images, found.new, found.changed) == (here, [], [])
    assert (len(found.copied), found.renamed) == (here - 1, [])
    assert [path for path, _ in found.failed] == [str(bad)]
    assert (found.reused, found.to_compute) == (here - 1, 0)
    done = place.extract("a")
    assert (done.images, done.computed, done.failed) == (here, 0, 1)


def test_a_file_under_a_second_name_is_a_copy_and_under_another_name_renamed(place: Place) -> None:
    place.extract()
    second = shutil.copy(place.paths[0], place.data / "a" / "second.png")
    other = place.paths[1].rename(place.data / "b" / "other.png")
    twice = shutil.copy(other, place.data / "b" / "twice.png")

    found = place.look()

    assert (found.renamed, found.copied) == ([str(other)], [str(second), str(twice)])
    assert (found.new, found.to_compute, found.reused) == ([], 0, 14)


def test_a_copy_of_the_whole_folder_is_not_called_renamed(place: Place) -> None:
    place.extract()
    shutil.copytree(place.data, place.data.parent / "again")

    found = status(place.bank, open_sources(place.data.parent / "again"), place.model, COLUMNS)

    assert (len(found.copied), found.renamed, found.missing_sources) == (12, [], ())
