"""What a run rests on is on the disk, also what a process wrote that was killed before syncing."""

from __future__ import annotations

import os

import pytest

from featbank import durable
from featbank.bank.bank import Bank
from featbank.bank.prune import prune
from tests.bank.builders import COLUMN, RECIPE, features, filled, keys, source


class Killed(BaseException):
    """The process is no more."""


class Recording(durable.FileSystem):
    """Notes which directories are synced, and before which removals of shards."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.removed: dict[str, list[str]] = {}

    def sync_directory(self, path: str) -> None:
        self.synced.append(path)
        super().sync_directory(path)

    def unlink(self, path: str) -> None:
        if path.endswith(".h5"):
            self.removed[path] = list(self.synced)
        super().unlink(path)


class Dying(durable.FileSystem):
    """Dies when a folder for shards is to be synced: a shard has its name, which is not durable."""

    dead = False

    def sync_directory(self, path: str) -> None:
        self.dead = self.dead or len(os.path.basename(path)) == 2
        if self.dead:
            raise Killed
        super().sync_directory(path)

    def unlink(self, path: str) -> None:
        if self.dead:
            raise Killed
        super().unlink(path)


@pytest.fixture
def disk(monkeypatch):
    def put(fs):
        monkeypatch.setattr(durable, "fs", fs)
        return fs

    return put


def parts(bank):
    """Return the folders for shards."""
    folder = os.path.join(bank.path, RECIPE.slug)
    return {os.path.join(folder, name) for name in os.listdir(folder) if len(name) == 2}


def test_a_bank_that_is_there_has_its_own_name_and_those_in_it_synced(tmp_path, disk):
    filled(tmp_path / "bank")
    fs = disk(Recording())
    Bank.create(tmp_path / "bank")
    assert {str(tmp_path), str(tmp_path / "bank")} <= set(fs.synced)


def test_a_shard_of_a_killed_process_is_settled_before_a_run_counts_on_it(tmp_path, disk):
    bank = filled(tmp_path / "bank")
    before = parts(bank)
    disk(Dying())
    with pytest.raises(Killed):
        bank.seal(RECIPE, keys(["killed"]), {COLUMN: features(["killed"])})
    fs = disk(Recording())
    bank.settle(RECIPE)
    assert set(fs.synced) == parts(bank) - before


@pytest.mark.parametrize("word", ["a", "b", "c", "d", "e"])  # either shard may be read first
def test_prune_settles_the_row_that_stays_before_it_removes_its_double(tmp_path, disk, word):
    bank = Bank.create(tmp_path / "bank")
    bank.update(
        [source("one", {"x.png": word})],
        documents=[{"name": "one", "kind": "flat", "root": "/images"}],
    )
    bank.register(RECIPE, {})
    bank.seal(RECIPE, keys([word, "gone"]), {COLUMN: features([word, "gone"])})
    (old,) = parts(bank)
    disk(Dying())
    with pytest.raises(Killed):  # when it has published what stays
        prune(bank)
    (new,) = parts(bank) - {old}
    fs = disk(Recording())
    prune(bank)
    ((path, synced),) = fs.removed.items()
    assert os.path.dirname(path) == old
    assert new in synced
