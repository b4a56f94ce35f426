"""Places for results are tried before the work, and their folders are made."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from featbank import durable
from featbank.errors import DataError
from featbank.targets import prepare_target


def test_the_folder_is_made_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "x.csv"
    assert prepare_target(path) == str(path)
    assert os.listdir(path.parent) == []
    path.write_text("old")
    prepare_target(path)
    assert path.read_text() == "old"


def test_a_name_without_a_folder_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepare_target("x.csv") == "x.csv"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "names no file"),
        ("folder/", "names no file"),
        (".", "is a folder"),
        ("/dev/null", "is no plain file"),
        ("/proc/nowhere/x.csv", "can't be written"),
        ("/dev/null/x.csv", "can't be written"),
    ],
)
def test_what_can_not_be_written_is_refused(path: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        prepare_target(path)


def test_a_read_only_file_system_is_found_out_by_trying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(path: str) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(durable.fs, "create", create)  # whatever the permissions and the user
    with pytest.raises(DataError, match="Read-only file system"):
        prepare_target(tmp_path / "x.csv")
