import numpy as np
import pytest

from featbank.data.units import codes_of, units_of
from featbank.evaluation.folds import deal, hold_out, units_per_class


def rng(seed=0):
    return np.random.default_rng(seed)


def test_equal_values_get_equal_codes_and_none_gets_none():
    np.testing.assert_array_equal(codes_of(["b", None, "a", "b"]), [0, -1, 1, 0])
    np.testing.assert_array_equal(codes_of([b"\0", b"", float("nan")]), [0, 1, -1])
    digests = np.array([[1, 0], [1, 1], [1, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(codes_of(digests), [0, 1, 0])


def test_units_hang_together_through_groups_and_digests():
    groups = np.array([0, 0, 1, 1, -1, -1])
    digests = np.array([0, 1, 1, 2, 3, 4])  # row 1 equals row 2 and so binds the two groups
    units = units_of(6, groups, digests)
    assert len(set(units[:4])) == 1
    assert len(set(units)) == 3


def test_without_labelings_every_row_is_its_own():
    np.testing.assert_array_equal(units_of(3, None), [0, 1, 2])


@pytest.mark.parametrize("k", [2, 3, 5, 7])
def test_single_rows_are_dealt_evenly_in_each_class_and_in_all(k):
    y = np.repeat([0, 1, 2, 3], [53, 20, 9, 8])
    fold = deal(y, np.arange(len(y)), k, rng())
    per_class = np.array([np.bincount(y[fold == f], minlength=4) for f in range(k)])
    assert np.ptp(per_class, axis=0).max() <= 1
    assert np.ptp(per_class.sum(axis=1)) <= 1


def test_units_stay_whole_and_classes_nearly_level():
    random = rng(1)
    groups = random.integers(0, 60, size=600)
    y = (groups % 3 == 0).astype(int)
    fold = deal(y, groups, 5, rng())
    for group in range(60):
        assert len(set(fold[groups == group])) == 1
    shares = [y[fold == f].mean() for f in range(5)]
    assert np.ptp(shares) < 0.1
    assert np.ptp(np.bincount(fold)) < 40


def test_as_many_units_as_folds_put_each_class_in_every_fold():
    y = np.repeat([0, 1], [50, 50])
    units = np.concatenate([np.repeat(np.arange(5), 10), 5 + np.arange(50)])
    fold = deal(y, units, 5, rng())
    assert all(set(y[fold == f]) == {0, 1} for f in range(5))


def test_dealing_follows_the_seed():
    y = np.repeat([0, 1], 30)
    first, same, other = (deal(y, np.arange(60), 3, rng(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_holds_out_the_share_of_each_class():
    y = np.repeat([0, 1, 2], [80, 40, 2])
    held = hold_out(y, np.arange(122), 0.25, rng())
    np.testing.assert_array_equal(np.bincount(y[held]), [20, 10, 1])


def test_holds_out_whole_units():
    groups = np.repeat(np.arange(40), 5)
    y = groups % 2
    held = hold_out(y, groups, 0.25, rng())
    assert all(len(set(held[groups == g])) == 1 for g in range(40))
    np.testing.assert_array_equal(np.bincount(y[held]), [25, 25])


def test_counts_the_units_in_which_a_class_occurs():
    np.testing.assert_array_equal(
        units_per_class(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])), [1, 2]
    )


def test_groups_of_any_size_are_held_out():
    sizes = [59] * 20 + [60] * 20
    units = np.repeat(np.arange(40), sizes)
    y = np.arange(len(units)) % 2
    times = np.zeros(40)
    for seed in range(40):
        held = hold_out(y, units, 0.25, np.random.default_rng(seed))
        times[np.unique(units[held])] += 1
    assert times[:20].sum() > 0.35 * times.sum(), "not the larger ones alone"
    assert abs(held.mean() - 0.25) < 0.02
