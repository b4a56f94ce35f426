from __future__ import annotations

import errno
import os
import time

import h5py
import numpy as np
import pytest

from featbank import hdf5
from featbank.backbones.recipe import Column
from featbank.bank import shard
from featbank.bank.shard import file_digest, read_shard, seal_shard
from featbank.errors import BankDamaged, BankVersionError
from tests.bank.builders import COLUMN, LAYER, RECIPE, features, keys
from tests.faults import error_of, faulty

WORDS = ["a", "b", "c", "d", "e"]


def sealed(folder, words=WORDS, columns=(COLUMN, LAYER)):
    return seal_shard(str(folder), RECIPE, keys(words), {c: features(words, c) for c in columns})


def test_rows_come_back_to_the_bit(tmp_path):
    found = read_shard(sealed(tmp_path))
    assert found.fingerprint == RECIPE.fingerprint
    np.testing.assert_array_equal(found.keys, keys(WORDS))
    for column in (COLUMN, LAYER):
        values = found.features(column)
        assert values.dtype == column.dtype
        np.testing.assert_array_equal(values, features(WORDS, column))


def test_it_is_named_by_its_bytes_and_the_same_content_is_the_same_file(tmp_path):
    first = sealed(tmp_path)
    time.sleep(0.01)
    assert sealed(tmp_path) == first
    assert os.path.basename(first) == f"{file_digest(first)}.h5"
    assert os.path.basename(os.path.dirname(first)) == os.path.basename(first)[:2]
    assert sealed(tmp_path, WORDS[::-1]) != first


def test_a_user_of_h5py_finds_names_and_attributes(tmp_path):
    with h5py.File(sealed(tmp_path), "r") as file:
        assert set(file) == {"keys", COLUMN.name, LAYER.name}
        assert file.attrs["fingerprint"] == RECIPE.fingerprint.encode()
        assert file.attrs["count"] == len(WORDS)
        assert file.attrs["version"] == 1
        assert file[LAYER.name].attrs["layer"] == b"stage"
        assert file[LAYER.name].attrs["pooling"] == b"max"
        assert file["keys"].attrs["description"]
        np.testing.assert_array_equal(file[COLUMN.name][:], features(WORDS))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_of_the_disk_publishes_nothing(tmp_path, number):
    for step in range(20):
        folder = tmp_path / str(step)
        folder.mkdir()
        with faulty(step, number=number) as fs:
            error = error_of(sealed, folder)
        assert error is None or error.errno == number
        found = [n for _, _, names in os.walk(folder) for n in names if n.endswith(".h5")]
        if fs.failed in ("mkdir", "create", "write", "sync"):
            assert found == []
        for name in found:  # what has a name is whole
            assert file_digest(str(folder / name[:2] / name)) == name.removesuffix(".h5")
        if fs.failed is None:
            break
    assert fs.failed is None


def test_a_later_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shard, "SHARD_VERSION", 2)
    path = sealed(tmp_path)
    monkeypatch.undo()
    with pytest.raises(BankVersionError, match="install a newer featbank"):
        read_shard(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.attrs.__delitem__("version"),
        lambda file: file.attrs.__setitem__("version", np.bytes_(b"1")),
        lambda file: file.attrs.__setitem__("count", np.int64(4)),
        lambda file: file.attrs.__setitem__("fingerprint", np.bytes_(b"\xff")),
        lambda file: file.__delitem__("keys"),
        lambda file: file.move(COLUMN.name, "no:such:column:at:all"),
        lambda file: file.move(COLUMN.name, Column(dtype="float16").name),
        lambda file: file.move("keys", "keys2"),
        lambda file: file.create_group("stage2:avg:identity:float32"),
        lambda file: hdf5.put(file, "wide:avg:identity:float32", np.zeros((5, 2, 2), "f4")),
        lambda file: hdf5.put(file, "short:avg:identity:float32", np.zeros((4, 2), "f4")),
        lambda file: hdf5.put(file, "swapped:avg:identity:float32", np.zeros((5, 2), ">f4")),
    ],
)
def test_a_shard_that_contradicts_itself_is_refused(tmp_path, change):
    path = sealed(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(BankDamaged):
        read_shard(path)


def test_what_is_no_row_of_keys_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="keys"):
        seal_shard(str(tmp_path), RECIPE, np.zeros((0, 32), np.uint8), {})
    with pytest.raises(ValueError, match="array"):
        seal_shard(str(tmp_path), RECIPE, keys(WORDS), {COLUMN: features(WORDS[:2])})
    with pytest.raises(ValueError, match="array"):
        seal_shard(str(tmp_path), RECIPE, keys(WORDS), {LAYER: features(WORDS)})
    assert os.listdir(tmp_path) == []
