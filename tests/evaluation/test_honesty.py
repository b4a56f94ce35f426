"""What binds rows, what a naive split would have claimed, and how heads are compared."""

import json

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import accuracy_score, f1_score

from featbank import make_head
from featbank.errors import EvaluationError
from featbank.evaluation import cross_validate, fit_final, near_duplicates
from featbank.evaluation.choice import choose
from featbank.evaluation.comparison import adjusted, judged_parts
from featbank.evaluation.intervals import LONE, estimates, wilson
from featbank.evaluation.result import HeadResult, Predictions
from tests.evaluation import spy

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.normal(size=(100, 20))
COINS = RANDOM.integers(2, size=100)
SPLITS = np.repeat(["train", "valid", "test"], [60, 20, 20])
UNTUNED = {"tune": False, "n_jobs": 1}
NEAREST = {"head": "knn", "params": {"n_neighbors": 1}, **UNTUNED}


def photographed_twice():
    """Noise with coin labels, each row once more with a little noise added."""
    return np.vstack([NOISE, NOISE + 0.01 * RANDOM.normal(size=NOISE.shape)]), np.tile(COINS, 2)


def near(X, y, **options):
    return cross_validate(X, y, **{**NEAREST, "near_duplicates": 0.99, **options})


# Near-duplicates.


def test_planted_near_duplicates_raise_no_score():
    X, y = photographed_twice()
    naive = cross_validate(X, y, **NEAREST)["knn"].metrics["accuracy"].mean
    honest = near(X, y)
    assert naive > 0.8
    assert honest["knn"].metrics["accuracy"].mean < 0.65
    assert honest.near_duplicates.clusters == 100
    assert "200 near-duplicates in 100 clusters of at most 2 (from 0.99)" in honest.table()
    found = {"threshold": 0.99, "clusters": 100, "images": 200}
    assert honest.to_dict()["near_duplicates"] == found


def test_near_duplicates_never_straddle_folds_nor_inner_ones():
    spy.FITS.clear()
    X, y = photographed_twice()
    X[:, 0] = np.arange(200)  # what the spy notes
    found = near_duplicates(photographed_twice()[0], 0.99)
    cross_validate(X, y, spy.Spy(), calibrate=False, near_duplicates=found, cv=3, **UNTUNED)
    fit_final(X, y, spy.Spy(), near_duplicates=found)
    assert len(spy.FITS) == 4
    for _, seen in spy.FITS:
        assert all((i in seen) == (i + 100 in seen) for i in range(100))


def test_clusters_that_were_found_before_give_the_same_result():
    X, y = photographed_twice()
    y = [None if i % 7 == 0 else str(v) for i, v in enumerate(y)]
    first = near(X, y)
    again = near(X, y, near_duplicates=first.near_duplicates)
    assert len(first.near_duplicates.cluster) == 200
    assert again["knn"].metrics == first["knn"].metrics
    np.testing.assert_array_equal(again.near_duplicates.cluster, first.near_duplicates.cluster)


def test_near_duplicates_across_given_splits_are_reported_with_the_score_without_them():
    X, y = NOISE.copy(), COINS.copy()
    X[80:], y[80:] = X[:20] + 0.01, y[:20]
    result = near(X, y, splits=SPLITS)
    assert result["knn"].metrics["accuracy"].mean == 1
    assert result["knn"].without_duplicates["accuracy"].mean < 0.8
    assert any("20 images to learn from are copies or near-dupl" in n for n in result.notes)


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (COINS, "join 60 of 100 images (60%) in one cluster; raise the threshold"),
        (np.where(np.arange(100) < 40, 2, COINS), "join all 40 images of class '2'"),
    ],
)
def test_a_threshold_that_joins_what_is_to_be_told_apart_is_refused(y, said):
    X = NOISE.copy()
    alike = 60 if y is COINS else 40
    X[:alike] = X[0] + 0.01 * RANDOM.normal(size=(alike, 20))
    with pytest.raises(EvaluationError, match=said.replace("(", r"\(").replace(")", r"\)")):
        near(X, y)


# What a naive split would have claimed.


def test_the_leak_is_shown_beside_the_honest_score():
    X, y = np.tile(NOISE, (2, 1)), np.tile(COINS, 2)
    digests = np.tile(np.arange(100), 2)
    kept = {"digests": digests, "keep_copies": True}
    result = cross_validate(X, y, show_leak=True, **kept, **NEAREST)
    head = result["knn"]
    assert head.naive == cross_validate(X, y, **NEAREST)["knn"].metrics
    assert head.naive["accuracy"].mean > 0.8 > head.metrics["accuracy"].mean + 0.1
    assert head.metrics == cross_validate(X, y, **kept, **NEAREST)["knn"].metrics
    assert "naive folds" in result.table()
    assert result.to_dict()["heads"][0]["naive"]["accuracy"]["mean"] > 0.8
    assert result.folds == 5


def test_the_naive_folds_are_as_many_as_the_honest_ones():
    groups = np.arange(100) % 3
    result = cross_validate(NOISE, COINS, "centroid", groups=groups, show_leak=True, **UNTUNED)
    assert len(result["centroid"].naive["accuracy"].values) == result.folds == 3
    held = {"cv": 0.25, "repeats": 4, "groups": np.arange(100) // 2}
    result = cross_validate(NOISE, COINS, "centroid", show_leak=True, **held, **UNTUNED)
    assert len(result["centroid"].naive["accuracy"].values) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "no image is bound to another"), ({"splits": SPLITS}, "stand as they are")],
)
def test_where_nothing_can_leak_a_note_says_so(options, said):
    result = cross_validate(NOISE, COINS, "centroid", show_leak=True, **options, **UNTUNED)
    assert result["centroid"].naive is None
    assert any("no naive score" in note and said in note for note in result.notes)


# Heads side by side.


def two_heads(**options):
    X = NOISE + COINS[:, None] * 0.4
    return cross_validate(X, COINS, ["centroid", "knn", "ridge"], **options, **UNTUNED)


@pytest.mark.parametrize("options", [{}, {"cv": 3, "repeats": 2}])
def test_the_difference_is_paired(options):
    result = two_heads(**options)
    found = result.compare("centroid", "knn", "macro_f1")
    values = []
    for fold in range(result.folds):
        scores = []
        for head in ("centroid", "knn"):
            told = result[head].predictions
            rows = told.fold == fold
            scores.append(f1_score(told.y_true[rows], told.y_pred[rows], average="macro"))
        values.append(scores[0] - scores[1])
    assert found.values == pytest.approx(values)
    assert found.low < found.mean < found.high
    told = [result[head].predictions for head in ("centroid", "knn")]
    repeats = options.get("repeats", 1)
    gaps = np.zeros(len(COINS))
    for one, sign in zip(told, (1, -1), strict=True):
        np.add.at(gaps, one.rows, sign * (one.y_true == one.y_pred) / repeats)
    found = result.compare("centroid", "knn")
    squares = np.zeros(len(COINS))  # of each repeat's differences, image by image
    for repeat in range(repeats):
        own = np.zeros(len(COINS))
        for one, sign in zip(told, (1, -1), strict=True):
            rows = one.fold // (result.folds // repeats) == repeat
            np.add.at(own, one.rows[rows], sign * (one.y_true == one.y_pred)[rows])
        squares += (own - own.mean()) ** 2 / repeats
    error = np.sqrt(squares.sum() / 100 / 99) * (LONE if repeats == 1 else 1)
    assert found.mean == pytest.approx(gaps.mean(), abs=2e-3)
    assert found.high - found.low == pytest.approx(2 * 1.984 * error, rel=0.1)


def test_with_one_test_set_both_heads_are_paired_by_group():
    units = np.arange(100) // 2
    result = two_heads(splits=SPLITS, groups=units)
    found = result.compare("centroid", "knn", "balanced_accuracy")
    assert found.values == (found.mean,)
    told = [result[head].predictions for head in ("centroid", "knn")]
    gaps = np.zeros(50)
    for one, sign in zip(told, (1, -1), strict=True):
        hit = (one.y_true == one.y_pred).astype(float)
        for c in (0, 1):
            own = one.y_true == c
            effect = sign * (hit[own] - hit[own].mean()) / own.sum() / 2
            np.add.at(gaps, units[one.rows[own]], effect)
    error = np.sqrt((gaps**2).sum() * 10 / 9)
    half = t.ppf(0.975, 9) * error
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))


def test_a_head_does_not_differ_from_itself_beyond_what_agreement_leaves_room_for():
    result = cross_validate(NOISE, COINS, ["lda", "lda"], **UNTUNED)
    found = result.compare("lda", "lda (2)")
    end = wilson(0, 100, t.ppf(0.975, 99))[1]
    assert found.mean == 0
    assert (found.low, found.high) == pytest.approx((-end, end))


def test_the_paired_interval_is_narrower_than_the_two_side_by_side():
    X = np.column_stack([NOISE + COINS[:, None] * 0.4, RANDOM.normal(size=100)])
    heads = ["ridge", "lda"]
    result = cross_validate(X, COINS, heads, cv=5, repeats=3, **UNTUNED)
    alone = [result[head].metrics["accuracy"] for head in heads]
    found = result.compare(*heads)
    assert found.high - found.low < sum(e.high - e.low for e in alone) / 2


def test_the_table_and_the_json_compare_each_head_with_the_best():
    result = two_heads()
    best = max(result.heads, key=lambda head: head.metrics["accuracy"].mean)
    others = [head.head for head in result.heads if head is not best]
    assert result.best is best
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["best"] == best.head
    assert list(data["differences"]) == others
    told = data["differences"][others[0]]["accuracy"]
    assert told == result.compare(others[0], best.head).to_dict()
    assert f"difference to {best.head}, on the same images" in result.table()
    one = cross_validate(NOISE, COINS, "centroid", **UNTUNED)
    assert "difference" not in one.table()
    assert one.to_dict()["differences"] == {}


def test_what_can_not_be_compared_is_said():
    result = two_heads()
    with pytest.raises(KeyError, match="centroid, knn, ridge"):
        result.compare("centroid", "svm")
    with pytest.raises(EvaluationError, match="has no 'top5_accuracy'"):
        result.compare("knn", "ridge", "top5_accuracy")


# Classes of very different size.


def test_balanced_metrics_stand_first_where_classes_differ_tenfold():
    y = np.where(np.arange(100) < 9, "few", "many")
    result = cross_validate(NOISE, y, ["ridge", "centroid"], cv=3)
    header = result.table().splitlines()[3]
    order = [header.index(title) for title in ("balanced", "macro F1", "accuracy")]
    assert order == sorted(order)
    (note,) = (note for note in result.notes if "tenfold" in note)
    assert "'many' has 91 images" in note
    assert "scoring balanced_accuracy" in note
    assert result.best.head == max(
        result.heads, key=lambda head: head.metrics["balanced_accuracy"].mean
    ).head  # fmt: skip
    assert result.to_dict()["class_sizes"] == [9, 91]
    untuned = cross_validate(NOISE, y, "ridge", cv=3, **UNTUNED)
    assert not any("scoring" in note for note in untuned.notes)


def test_classes_of_like_size_have_accuracy_first():
    y = np.where(np.arange(100) < 10, "few", "many")
    result = cross_validate(NOISE, y, "ridge", cv=3, **UNTUNED)
    header = result.table().splitlines()[3]
    assert header.index("accuracy") < header.index("balanced")
    assert not any("tenfold" in note for note in result.notes)


# Small data, groups.


@pytest.mark.parametrize(
    ("groups", "cv", "said"),
    [
        (np.arange(100) % 3, 5, "5 folds can't be had: class '0' has 3 groups"),
        (np.where(COINS == 1, 99, np.arange(100)), None, r"class '1' has too few groups \(1\)"),
    ],
)
def test_too_few_groups_are_refused_in_one_line(groups, cv, said):
    with pytest.raises(EvaluationError, match=said) as caught:
        cross_validate(NOISE, COINS, "ridge", groups=groups, cv=cv, **UNTUNED)
    assert "\n" not in str(caught.value)


def test_fewer_groups_than_the_default_folds_shrink_them_with_a_note():
    result = cross_validate(NOISE, COINS, "ridge", groups=np.arange(100) % 3, **UNTUNED)
    assert result.folds == 3
    assert "3 folds instead of 5: class '0' has 3 groups." in result.notes


def test_folds_without_one_of_the_classes_still_score_the_others():
    y = np.array([0] * 90 + [1] * 10)
    groups = np.array([*range(90), *[90] * 5, *[91] * 5])
    result = cross_validate(NOISE, y, "ridge", groups=groups, cv=2, **UNTUNED)
    told = result["ridge"].predictions
    assert "roc_auc" in result["ridge"].metrics
    for fold in (0, 1):
        rows = told.fold == fold
        accuracy = accuracy_score(told.y_true[rows], told.y_pred[rows])
        assert result["ridge"].metrics["accuracy"].values[fold] == pytest.approx(accuracy)


def test_a_metric_that_some_folds_lack_is_left_out_with_a_note():
    splits = np.array([f"fold{min(i // 20, 3)}" for i in range(100)])
    y = np.where(np.arange(100) % 3 == 0, "a", "b")
    y[:20] = "a"  # the first fold holds one class only
    head = cross_validate(NOISE, y, "ridge", splits=splits, **UNTUNED)["ridge"]
    assert "roc_auc" not in head.metrics
    assert head.notes == ("no ROC AUC: 1 of 4 test parts hold one class only.",)


# The best of several heads.


def equal_heads(n, k, seed):
    """Return results of `k` heads that are right as often as a coin, each for itself."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % 2
    heads = []
    for i in range(k):
        told = Predictions(
            rows=np.arange(n), fold=np.arange(n) // 2 % 5, y_true=y,
            y_pred=random.integers(0, 2, n), scores=None, probability=None, unit=np.arange(n),
        )  # fmt: skip
        meters, tested = judged_parts(HeadResult(str(i), {}, {}, (), np.eye(2), told, 0.0))
        heads.append(HeadResult(str(i), estimates(meters, tested), {}, (), np.eye(2), told, 0.0))
    return heads


def test_the_best_of_heads_that_do_not_differ_is_corrected_for_the_choice():
    found = [choose(equal_heads(100, 8, seed), "accuracy", seed=0) for seed in range(20)]
    assert np.mean([one.naive for one in found]) > 0.55
    assert np.mean([one.score.mean for one in found]) == pytest.approx(0.5, abs=0.02)
    assert all(one.score.low < one.score.mean < one.score.high for one in found)
    assert all(sum(one.times.values()) == pytest.approx(1) for one in found)
    within = [one.score.low < 0.5 < one.score.high for one in found]
    assert np.mean(within) > 0.8


def test_heads_that_do_not_differ_are_seldom_told_apart_by_any_of_many_comparisons():
    alarms = []
    for seed in range(40):
        heads = equal_heads(100, 6, seed)
        best = max(heads, key=lambda head: head.metrics["accuracy"].mean).head
        p = adjusted(heads, best, ["accuracy", "balanced_accuracy"])
        assert len(p) == 5
        alarms.append(min(one["accuracy"] for one in p.values()) < 0.05)
    assert np.mean(alarms) < 0.15


def test_one_head_has_no_choice_and_several_print_it():
    assert cross_validate(NOISE, COINS, "centroid", **UNTUNED).choice is None
    result = two_heads()
    assert f"accuracy {result.choice.score.mean:.3f} [" in result.table()
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["choice"]["best"] == result.best.head
    assert data["p_values"] == result.p_values
    assert set(data["p_values"]) == set(data["differences"])
    assert data["interval"] in result.table()


def test_few_groups_are_noted():
    result = cross_validate(NOISE, COINS, "centroid", groups=np.arange(100) % 12, **UNTUNED)
    assert any("12 groups" in note for note in result.notes)
    many = cross_validate(NOISE, COINS, "centroid", groups=np.arange(100) // 2, **UNTUNED)
    assert not any("groups" in note for note in many.notes)


@pytest.mark.parametrize(
    ("heads", "options", "repeats"),
    [
        (["ridge"], {}, 5),
        (["ridge", "centroid"], {}, 5),
        (["ridge"], {"cv": 5}, 1),
        (["ridge"], {"splits": SPLITS}, 1),
        (["ridge", "lda"], {}, 1),
        ([make_head("ridge")], {}, 1),
    ],
)
def test_folds_are_drawn_five_times_where_nobody_says_and_that_is_cheap(heads, options, repeats):
    result = cross_validate(NOISE, COINS, heads, repeats=None, **options, **UNTUNED)
    assert result.repeats == repeats
    assert result.folds == (1 if "splits" in options else 5 * repeats)
    assert ("folds are drawn once" in result.table()) == (result.folds == 5)


def test_many_numbers_are_not_cheap(monkeypatch):
    monkeypatch.setattr("featbank.evaluation.crossval.CHEAP_NUMBERS", NOISE.size)
    assert cross_validate(NOISE, COINS, "centroid", repeats=None, **UNTUNED).repeats == 5
    two = cross_validate(NOISE, COINS, ["centroid", "ridge"], repeats=None, **UNTUNED)
    assert two.repeats == 1
