from __future__ import annotations

import os

import numpy as np
import pytest

from featbank.bank.rows import Rows
from featbank.bank.shard import read_shard, seal_shard
from featbank.errors import BankDamaged
from tests.bank.builders import COLUMN, LAYER, RECIPE, features, keys


def shard(folder, words, columns, width=3):
    values = {c: features(words, c, width) for c in columns}
    return read_shard(seal_shard(str(folder), RECIPE, keys(words), values))


def test_rows_of_many_shards_are_found_in_any_order(tmp_path):
    words = [f"word {i}" for i in range(50)]
    shards = [shard(tmp_path, words[i : i + 7], [COLUMN]) for i in range(0, 50, 7)]
    rows = Rows.of(COLUMN, shards)
    assert len(rows) == 50
    wanted = [words[i] for i in np.random.default_rng(0).integers(0, 50, 200)]
    at = rows.find(keys(wanted))
    assert (at >= 0).all()
    np.testing.assert_array_equal(rows.read(at), features(wanted))


def test_rows_are_the_same_however_small_the_pieces(tmp_path, monkeypatch):
    words = [f"word {i}" for i in range(40)]
    rows = Rows.of(LAYER, [shard(tmp_path, words[i : i + 20], [LAYER]) for i in (0, 20)])
    at = rows.find(keys(words[3:17] + words[30:] + words[5:8] * 3))
    whole = rows.read(at)
    np.testing.assert_array_equal(whole[:14], features(words[3:17], LAYER))
    for size in (1, 3, 7):
        monkeypatch.setattr("featbank.bank.rows._PIECE_ROWS", size)
        np.testing.assert_array_equal(rows.read(at), whole)


def test_a_shard_that_no_row_is_wanted_of_is_not_opened(tmp_path):
    shards = [shard(tmp_path, [word], [COLUMN]) for word in "abc"]
    rows = Rows.of(COLUMN, shards)
    at = rows.find(keys(["c", "a"]))
    os.unlink(shards[1].path)
    np.testing.assert_array_equal(rows.read(at), features(["c", "a"]))
    with pytest.raises(FileNotFoundError):
        rows.read(rows.find(keys(["b", "a"])))


def test_missing_keys_are_minus_one(tmp_path):
    rows = Rows.of(COLUMN, [shard(tmp_path, ["a", "b"], [COLUMN])])
    found = rows.find(keys(["a", "nobody", "b"])) >= 0
    assert found.tolist() == [True, False, True]
    assert Rows.of(LAYER, rows.shards).find(keys(["a"])).tolist() == [-1]
    assert rows.read(rows.find(keys(["b"]))[:0]).shape == (0, 3)


def test_keys_that_end_in_zeros_are_told_apart():
    # NumPy's fixed-length bytes drop trailing zeros on the way out.
    rows = np.zeros((3, 32), np.uint8)
    rows[1, 0] = rows[2, 30] = 1
    table = Rows(
        COLUMN,
        (),
        np.sort(np.ascontiguousarray(rows).view("S32").reshape(3)),
        np.zeros(3, np.int64),
        np.arange(3),
    )
    assert sorted(table.find(rows).tolist()) == [0, 1, 2]


def test_a_key_in_several_shards_counts_once(tmp_path):
    shards = [shard(tmp_path, words, [COLUMN]) for words in (["a", "b"], ["b", "c"], ["c", "a"])]
    rows = Rows.of(COLUMN, shards)
    assert len(rows) == 3
    np.testing.assert_array_equal(
        rows.read(rows.find(keys(["c", "b", "a"]))), features(["c", "b", "a"])
    )


def test_rows_of_different_lengths_are_damage(tmp_path):
    shards = [shard(tmp_path, ["a"], [COLUMN]), shard(tmp_path, ["b"], [COLUMN], width=4)]
    with pytest.raises(BankDamaged, match="different lengths"):
        Rows.of(COLUMN, shards)


def test_keys_with_one_beginning_are_told_apart(tmp_path):
    """SHA-256 gives no such keys; a stranger's bank may hold them."""
    many = np.zeros((6, 32), np.uint8)
    many[:, 31] = [5, 3, 9, 2, 3, 1]
    values = np.arange(6, dtype=np.float32)[:, None]
    shards = [
        read_shard(seal_shard(str(tmp_path), RECIPE, many[part], {COLUMN: values[part]}))
        for part in (slice(0, 3), slice(3, 6))
    ]
    rows = Rows.of(COLUMN, shards)
    assert len(rows) == 5
    at = rows.find(many)
    assert (at >= 0).all()
    assert rows.read(at)[:, 0].tolist() == [0, 1, 2, 3, 1, 5]
    other = many.copy()
    other[:, 30] = 1
    assert (rows.find(other) == -1).all()
