from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import hdf5
from featbank.bank import packed
from featbank.bank.bank import Bank
from featbank.bank.maintenance import compact, verify
from featbank.errors import BankDamaged, BankError, BankVersionError
from tests.bank.builders import LAYER, OTHER, RECIPE, features, filled, keys
from tests.faults import error_of, faulty


def test_a_whole_bank_is_counted(tmp_path):
    found = verify(filled(tmp_path / "bank", shards=3))
    assert (found.ok, found.shards, found.rows) == (True, 3, 5)


def test_a_bank_killed_before_its_first_shard_is_whole_and_empty(tmp_path):
    bank = Bank.create(tmp_path / "bank")
    bank.register(RECIPE, {})
    found = verify(bank)
    assert (found.ok, found.shards, found.rows) == (True, 0, 0)


def test_every_flipped_bit_and_truncation_of_a_shard_is_found(tmp_path):
    bank = filled(tmp_path / "bank")
    path = bank.shard_paths(RECIPE.fingerprint)[0]
    data = Path(path).read_bytes()
    rng = np.random.default_rng(0)
    for bit in rng.integers(0, len(data) * 8, 80):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        Path(path).write_bytes(damaged)
        found = verify(bank)
        assert len(found.damaged) == 1
        assert path in found.damaged[0]
        assert found.shards == 1
    for length in (0, 8, len(data) - 1):
        Path(path).write_bytes(data[:length])
        assert not verify(bank).ok
    Path(path).write_bytes(data)
    assert verify(bank).ok


def test_each_damaged_part_is_named(tmp_path):
    bank = filled(tmp_path / "bank")
    bank.register(OTHER, {})
    for name in ("index.h5", "sources.json", f"{OTHER.slug}/recipe.json"):
        with open(os.path.join(bank.path, name), "r+b") as file:
            file.truncate(20)
    found = verify(bank)
    assert len(found.damaged) == 3
    assert found.shards == 2  # the other recipe's are looked at all the same


def test_shards_whose_recipe_is_lost_are_named(tmp_path):
    bank = filled(tmp_path / "bank")
    os.unlink(os.path.join(bank.path, RECIPE.slug, "recipe.json"))
    assert "recipe.json is missing" in verify(bank).damaged[0]
    bank.register(RECIPE, {})
    assert verify(bank).ok


def test_damage_of_a_packed_bank_is_found_by_verify_and_by_reading(tmp_path):
    path = compact(filled(tmp_path / "bank"))
    data = Path(path).read_bytes()
    rng = np.random.default_rng(0)
    for bit in rng.integers(0, len(data) * 8, 100):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        Path(path).write_bytes(damaged)
        assert not verify(Bank(path)).ok
        with pytest.raises(BankDamaged):
            Bank(path).features(layer="stage")
    Path(path).write_bytes(data[:-1])
    assert not verify(Bank(path)).ok


def test_a_packed_bank_that_was_changed_while_open_is_looked_at_again(tmp_path):
    path = compact(filled(tmp_path / "bank"))
    bank = Bank(path)
    bank.features(layer="stage")
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    with pytest.raises(BankDamaged):
        bank.features(layer="stage")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_compacting_leaves_the_old_file_or_the_new_one(tmp_path, number):
    bank = filled(tmp_path / "bank")
    target = tmp_path / "out" / "packed.h5"
    compact(bank, target)
    old = target.read_bytes()
    words = ["a", "b", "c"]
    bank.seal(RECIPE, keys(words), {LAYER: features(words, LAYER)})
    failures = 0
    for step in range(0, 10_000, 7):
        with faulty(step, number=number) as fs:
            error = error_of(compact, bank, target)
        failures += error is not None
        assert error is None or error.errno == number
        assert os.listdir(target.parent) == ["packed.h5"] or fs.failed == "unlink"
        if fs.failed is None:
            break
        if error is None:  # a cache could not be written, or a temporary not be removed
            target.write_bytes(old)
        elif fs.failed != "sync_directory":
            assert target.read_bytes() == old
    assert failures
    assert verify(Bank(target)).ok
    assert target.read_bytes() != old


def test_a_damaged_shard_is_never_packed(tmp_path):
    bank = filled(tmp_path / "bank")
    with open(bank.shard_paths(RECIPE.fingerprint)[0], "r+b") as file:
        file.truncate(1000)
    with pytest.raises(BankDamaged):
        compact(bank, tmp_path / "packed.h5")
    assert not (tmp_path / "packed.h5").exists()


def test_compact_says_what_it_can_not_write(tmp_path):
    bank = filled(tmp_path / "bank")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(BankError, match="folder"):
        compact(bank, tmp_path / "folder.h5")
    with pytest.raises(BankError, match=r"ends in \.h5"):
        compact(bank, tmp_path / "packed.hdf")
    assert compact(bank) == f"{bank.path}.h5"
    with pytest.raises(BankError, match="packed already"):
        compact(Bank(f"{bank.path}.h5"))


def test_an_empty_bank_can_be_packed(tmp_path):
    packed_bank = Bank(compact(Bank.create(tmp_path / "bank")))
    assert (packed_bank.recipes, packed_bank.paths, packed_bank.sources) == ([], [], {})
    assert verify(packed_bank).ok


def test_a_packed_bank_of_a_later_version_is_refused(tmp_path, monkeypatch):
    bank = filled(tmp_path / "bank")
    monkeypatch.setattr(packed, "UNTUNED_VERSION", packed.PACKED_VERSION + 1)
    path = compact(bank)
    monkeypatch.undo()
    with pytest.raises(BankVersionError, match="install a newer"):
        Bank(path).features()


def test_a_strangers_packed_bank_is_refused_or_read(tmp_path):
    """Bytes changed under a valid seal: one clear error or an answer, never anything else."""
    path = compact(filled(tmp_path / "bank"))
    data = Path(path).read_bytes()
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        for at in rng.integers(hdf5.USER_BLOCK, len(data), 4):
            damaged[at] = rng.integers(256)
        Path(path).write_bytes(hdf5.seal(damaged))
        bank = Bank(path)
        try:
            bank.features(layer="stage")
            _ = bank.paths, bank.labels, bank.sources, verify(bank)
        except BankError:
            refused += 1
    assert 0 < refused < 60


def test_compacting_does_not_overwrite_what_is_no_packed_bank(tmp_path):
    bank = filled(tmp_path / "bank")
    precious = tmp_path / "precious.h5"
    with h5py.File(precious, "w") as file:
        file["x"] = 1
    before = precious.read_bytes()
    with pytest.raises(BankError, match="is no packed bank"):
        compact(bank, precious)
    assert precious.read_bytes() == before
