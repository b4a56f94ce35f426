from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from featbank.errors import BankDamaged, ExtractionError
from featbank.extraction import sealing
from featbank.extraction.sealing import MemoryStore, Sealer, writing
from tests.bank.builders import COLUMN, LAYER, features, key, keys


def add(sealer, first, words, *columns):
    items = range(first, first + len(words))
    return sealer.add(
        items, [key(w).tobytes() for w in words], {c: features(words, c) for c in columns}
    )


def test_rows_wait_until_they_are_many_enough_for_a_shard():
    store = MemoryStore()
    sealer = Sealer(store, rows=4, seconds=1000)
    assert add(sealer, 0, ["a", "b", "c"], COLUMN) == []
    assert add(sealer, 3, ["d"], LAYER) == []  # another set of columns, another shard
    assert len(store.rows(COLUMN)) == 0
    assert add(sealer, 4, ["e", "f"], COLUMN) == [0, 1, 2, 4, 5]
    assert sealer.rest() == [3]
    assert sealer.rest() == []
    words = ["f", "a", "e"]
    rows = store.rows(COLUMN)
    np.testing.assert_array_equal(rows.read(rows.find(keys(words))), features(words))


def test_rows_that_have_waited_too_long_are_sealed(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(sealing.time, "monotonic", lambda: now[0])
    sealer = Sealer(MemoryStore(), rows=100, seconds=30)
    now[0] += 1000
    assert add(sealer, 0, ["a"], COLUMN) == []  # the age is the first row's, not the sealer's
    now[0] += 29
    add(sealer, 1, ["b"], COLUMN)
    assert sealer.due() == []
    now[0] += 1
    assert sealer.due() == [0, 1]
    assert sealer.due() == []


def test_an_error_of_the_disk_says_what_to_do():
    with pytest.raises(ExtractionError, match=r"No space left.*run again"), writing():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(BankDamaged, match="as it is"), writing():
        raise BankDamaged("as it is")
