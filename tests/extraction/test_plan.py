from __future__ import annotations

import dataclasses

import numpy as np

from featbank.bank.rows import Rows
from featbank.data.index import IndexedSource
from featbank.extraction.plan import plan_source
from featbank.extraction.sealing import MemoryStore
from tests.bank.builders import COLUMN, LAYER, features, keys, source


def stored(*words: str, column=COLUMN) -> Rows:
    store = MemoryStore()
    store.seal(keys(words), {column: features(words, column)})
    return store.rows(column)


def planned(images, *tables, **options):
    plan = plan_source(images, tables, **options)
    masks = [plan.unknown, plan.compute, plan.reused, plan.failed]
    assert (np.sum(masks, axis=0) == 1).all()  # each row is just one of these
    np.testing.assert_array_equal(plan.read, plan.unknown | plan.compute)
    return {
        name: np.flatnonzero(getattr(plan, name)).tolist()
        for name in ("unknown", "compute", "reused", "failed")
    }


IMAGES = source("s", {"0": "a", "1": "b", "2": None, "3": "c"})


def test_what_the_bank_lacks_is_computed_and_the_rest_is_not():
    assert planned(IMAGES, stored("a", "c"), causes=["policy"]) == {
        "unknown": [], "compute": [1], "reused": [0, 3], "failed": [2]
    }  # fmt: skip


def test_a_missing_column_is_enough():
    tables = stored("a", "b", "c"), stored("b", column=LAYER)
    assert planned(IMAGES, *tables, causes=["policy"])["compute"] == [0, 3]


def test_a_failure_under_another_policy_or_on_request_is_tried_again():
    for options in ({}, {"causes": ["another"]}, {"causes": ["policy"], "retry_failed": True}):
        assert planned(IMAGES, stored("a", "b", "c"), **options)["unknown"] == [2]


def test_paranoia_reads_everything_even_what_could_not_be_read():
    found = planned(IMAGES, stored("a", "b", "c"), causes=["policy"], paranoid=True)
    assert found == {"unknown": [0, 1, 2, 3], "compute": [], "reused": [], "failed": []}


def test_new_files_are_unknown():
    fresh = IndexedSource.new("s", b"/images", IMAGES.listing)
    assert planned(fresh, stored("a"))["unknown"] == [0, 1, 2, 3]
    assert planned(dataclasses.replace(fresh, known=np.ones(4, bool)), stored("a"))["unknown"] == []
