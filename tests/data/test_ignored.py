"""What a walk passes over is counted by kind, and images without an extension are noticed once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from featbank.data import ignored
from featbank.data.ignored import Ignored, extension_of, look_inside
from featbank.data.selection import by_split
from featbank.data.walk import walk
from tests.data.files import encode, gradient

PNG = encode(gradient(), "PNG")


def make(folder: Path, **files: bytes) -> bytes:
    for name, data in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return os.fsencode(folder)


def test_a_walk_counts_what_it_passes_over(tmp_path: Path) -> None:
    root = make(
        tmp_path / "data",
        **{"a__1.png": PNG, "a__2.svg": b"<", "b__3.SVG": b"<", "b__notes": b"-", "4.txt": b"-"},
        **{".hidden.png": PNG, ".git__config": b"-"},
    )
    (tmp_path / "data" / "link").symlink_to(tmp_path / "data" / "a")
    found = walk(root).ignored
    assert found.formats == {".svg": 2, "": 1, ".txt": 1}
    assert (found.hidden, found.linked, found.unlisted, found.outside) == (2, 1, 0, 0)
    assert [name for name, _, _ in found.unsure] == [b"b/notes"]
    assert walk(root, hidden=True, follow_links=True).ignored.hidden == 0
    assert walk(root, follow_links=True).ignored.linked == 0


def test_images_beside_the_folders_of_splits_are_counted(tmp_path: Path) -> None:
    names = ("train__a__1.png", "test__a__2.png", "extra__a__3.png", "4.png")
    listing = by_split(walk(make(tmp_path, **dict.fromkeys(names, PNG))))
    assert (len(listing), listing.ignored.outside) == (2, 2)


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        (b"a/b.SVG", ".svg"),
        (b"a.b/c", ""),
        (b".bashrc", ""),
        (b"1.2.840.10008", ""),
        (b"x.averyveryverylongword", ""),
        (b"x.a b", ""),
        (b"x.\xff\xfe", ""),
        (b"x.", ""),
    ],
)
def test_an_extension_is_a_short_word_behind_a_dot(name: bytes, extension: str) -> None:
    assert extension_of(name) == extension


def test_only_files_of_unknown_kinds_are_looked_into_and_each_of_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path, **{"1": PNG, "2.dat": PNG, "3.dat": b"-", "4.heic": PNG, "5.png": PNG})
    opened = []
    true = ignored.open_regular
    monkeypatch.setattr(
        ignored, "open_regular", lambda path, **how: opened.append(path) or true(path, **how)
    )
    listed = walk(root).ignored
    first = look_inside(root, listed, {})
    assert {name: kind for name, (_, _, kind) in first.items()} == {
        b"1": "PNG",
        b"2.dat": "PNG",
        b"3.dat": "",
    }
    assert len(opened) == 3
    assert look_inside(root, walk(root).ignored, first) == first
    assert len(opened) == 3
    (tmp_path / "3.dat").write_bytes(PNG)
    assert look_inside(root, walk(root).ignored, first)[b"3.dat"][2] == "PNG"
    assert len(opened) == 4


def test_no_more_than_a_thousand_files_are_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ignored, "MAX_LOOKED_AT", 3)
    found = walk(make(tmp_path, **{f"image{number}": PNG for number in range(5)})).ignored
    assert (len(found.unsure), found.more, found.formats[""]) == (3, 2, 5)


def test_what_can_t_be_opened_is_no_image(tmp_path: Path) -> None:
    gone = Ignored(unsure=[(b"gone", 1, 1)])
    assert look_inside(os.fsencode(tmp_path), gone, {}) == {b"gone": (1, 1, "")}
