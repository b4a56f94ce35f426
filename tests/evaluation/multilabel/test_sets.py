import numpy as np
import pytest

from featbank.errors import EvaluationError
from featbank.evaluation.multilabel.sets import (
    are_label_sets,
    deal_sets,
    label_sets,
    units_per_label,
)

RANDOM = np.random.default_rng(0)
Y = RANDOM.random((400, 6)) < np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.02])


def deal(indicator, units=None, shares=(1,) * 5, seed=0):
    units = np.arange(len(indicator)) if units is None else units
    return deal_sets(indicator, units, shares, np.random.default_rng(seed))


def test_each_label_and_the_rows_are_dealt_evenly():
    fold = deal(Y)
    counts = np.array([Y[fold == f].sum(axis=0) for f in range(5)])
    assert np.abs(counts - Y.sum(axis=0) / 5).max() <= 3
    assert np.abs(np.bincount(fold) - 80).max() <= 2


def test_rare_labels_are_in_every_fold_where_chance_would_miss_some():
    rare = np.zeros((100, 2), dtype=bool)
    rare[:5, 0] = True
    rare[5:, 1] = True
    for seed in range(20):
        fold = deal(rare, seed=seed)
        assert sorted(fold[:5]) == [0, 1, 2, 3, 4]


def test_units_stay_whole():
    units = np.arange(400) // 3
    fold = deal(Y, units)
    assert all(len(set(fold[units == u])) == 1 for u in range(units.max() + 1))
    counts = np.array([Y[fold == f].sum(axis=0) for f in range(5)])
    assert np.abs(counts - Y.sum(axis=0) / 5).max() <= 6


def test_shares_are_kept():
    fold = deal(Y, shares=(1, 3))
    assert abs((fold == 0).sum() - 100) <= 3
    assert np.abs(Y[fold == 0].sum(axis=0) - Y.sum(axis=0) / 4).max() <= 3


def test_the_same_seed_deals_the_same():
    assert np.array_equal(deal(Y, seed=1), deal(Y, seed=1))
    assert not np.array_equal(deal(Y, seed=1), deal(Y, seed=2))


def test_rows_without_labels_fill_the_folds_up():
    fold = deal(np.zeros((50, 3), dtype=bool))
    assert np.bincount(fold).tolist() == [10] * 5


def test_labels_are_counted_by_unit():
    indicator = np.array([[1, 0], [1, 1], [0, 1]], dtype=bool)
    assert units_per_label(indicator, np.array([0, 0, 1])).tolist() == [1, 2]


def test_sets_lists_and_matrices_say_the_same():
    sets = [{"bee"}, None, set(), {"ant", "bee"}]
    found = label_sets(sets)
    assert found.classes == ("ant", "bee")
    assert found.known.tolist() == [True, False, True, True]
    assert found.words() == ["bee", None, "no label", "ant;bee"]
    matrix = label_sets(np.array([[0, 1], [0, 0], [1, 1]]), classes=["ant", "bee"])
    assert np.array_equal(matrix.indicator, found.indicator[found.known])
    assert label_sets(sets, ["bee"]).indicator[:, 0].tolist() == [True, False, False, True]


def test_a_data_frames_columns_are_the_classes():
    pandas = pytest.importorskip("pandas")
    assert label_sets(pandas.DataFrame({"ant": [0, 1], "bee": [1, 1]})).classes == ("ant", "bee")


@pytest.mark.parametrize(
    ("y", "several"),
    [
        (["a", "b"], False),
        ([0, 1], False),
        (np.array(["a", "b"]), False),
        ([None, {"a"}], True),
        ([("a",), ()], True),
        (np.zeros((2, 2)), True),
        ("ab", False),
        (3, False),
    ],
)
def test_several_labels_a_row_are_told_from_one(y, several):
    assert are_label_sets(y) is several


@pytest.mark.parametrize(
    ("y", "classes", "said"),
    [
        ([{"a"}, "b"], None, "row 1 has the label 'b', and others have several"),
        (np.array([[0, 2]]), None, "neither one class a row nor a matrix of 0 and 1"),
        (np.array([[0, 1]]), ["a"], "has 2 columns, and classes names 1"),
        (np.array([[0, 1]]), ["a", "a"], "has 2 columns, and classes names 1"),
    ],
)
def test_what_is_no_indicator_is_said(y, classes, said):
    with pytest.raises(EvaluationError, match=said):
        label_sets(y, classes)
