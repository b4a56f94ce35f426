from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

from featbank.data.index import Text
from featbank.data.walk import FileStats, numbers_of, walk


def test_every_number_of_a_file_fits():
    """Some file systems number inodes beyond 2**63; both ways to read them agree."""
    state = SimpleNamespace(st_size=3, st_mtime_ns=4, st_ctime_ns=5, st_ino=(1 << 64) - 7)
    stats = FileStats()
    stats.add([state, None], scanned=9)
    listing = stats.listing([b"b", b"a"], label=Text.empty(2))
    assert listing.names == [b"a", b"b"]
    assert listing.stat.tolist() == [[-1, 0, 0, 0], list(numbers_of(state))]
    assert listing.scanned.tolist() == [9, 9]


def test_files_that_go_while_their_folder_is_walked_are_not_there(tmp_path, monkeypatch):
    for name in ("a/1.png", "b/2.png", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"image")

    def taken(name: bytes) -> bool:  # asked between the listing and the files' states
        if name == b"1.png":
            shutil.rmtree(tmp_path / "a")
        if name == b"2.png":
            (tmp_path / "b" / "2.png").unlink()
        return True

    monkeypatch.setattr("featbank.data.walk.is_image_name", taken)
    listing = walk(os.fsencode(tmp_path))
    assert listing.names == [b"a/1.png", b"b/2.png", b"b/3.png"]
    assert listing.size.tolist() == [-1, -1, 5]
