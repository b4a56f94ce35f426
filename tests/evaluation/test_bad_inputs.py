"""What can't be had from small or odd data: a score that is right, or one clear message."""

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from featbank import make_head
from featbank.errors import EvaluationError, HeadError
from featbank.evaluation import cross_validate, fit_final

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 5)).astype(np.float32)
Y = np.arange(60) % 3
WORDS = np.array(["a", "b", "c"])[Y]


def test_centroids_of_one_image_each_predict_and_score():
    y = np.array([0, 0, 1, 1])
    result = cross_validate(X[:4], y, "centroid")["centroid"]
    told = result.predictions
    for fold in range(2):
        tested = told.rows[told.fold == fold]
        train = np.setdiff1d(np.arange(4), tested)
        scaler = StandardScaler().fit(X[train])
        with np.errstate(invalid="ignore"):
            plain = NearestCentroid().fit(scaler.transform(X[train]), y[train])
        np.testing.assert_array_equal(
            told.y_pred[told.fold == fold], plain.predict(scaler.transform(X[tested]))
        )
    assert np.isfinite(told.scores).all()
    np.testing.assert_array_equal(told.scores.argmax(axis=1), told.y_pred)
    assert "roc_auc" in result.metrics
    assert not any("invalid value" in note for note in result.notes)
    with pytest.raises(HeadError, match="must be more than the number of classes"):
        cross_validate(X[:4], y, "centroid", params={"shrink_threshold": 1.0})


@pytest.mark.parametrize("head", ["centroid", "lda"])
def test_heads_of_the_spread_in_classes_choose_nothing_from_one_image_each(head):
    result = cross_validate(X[:6], [0, 0, 0, 1, 1, 1], head)[head]
    assert result.best_params == {}
    assert any("too small to choose" in note for note in result.notes)
    assert not any("reshape" in note for note in result.notes)


def test_neighbours_are_no_more_than_the_images():
    few = cross_validate(X[:6], Y[:6], make_head("knn"), tune=False, cv=2)["KNeighborsClassifier"]
    assert any("fewer images than neighbours" in note for note in few.notes)
    same = cross_validate(X[:6], Y[:6], "knn", params={"n_neighbors": 3}, cv=2)["knn"]
    np.testing.assert_array_equal(few.confusion, same.confusion)
    with pytest.raises(HeadError, match="n_neighbors is 5, and there are 3 images"):
        cross_validate(X[:6], Y[:6], "knn", params={"n_neighbors": 5}, cv=2)


@pytest.mark.parametrize("head", ["ridge", "svm", "logreg"])
def test_classes_named_by_numbers_have_weights_of_their_own(head):
    numbers = np.array(["-1", "1", "2"])[Y]
    options = {"tune": False, "cv": 3}
    named = cross_validate(X, WORDS, head, class_weight={"b": 50.0}, **options)
    found = cross_validate(X, numbers, head, class_weight={"1": 50.0}, **options)
    np.testing.assert_array_equal(found.heads[0].confusion, named.heads[0].confusion)
    plain = cross_validate(X, WORDS, head, **options)
    assert (plain.heads[0].confusion != named.heads[0].confusion).any()


def test_one_number_has_one_weight():
    words = np.array(["1", "01", "2"])[Y]
    with pytest.raises(EvaluationError, match="two classes read as the number 1"):
        cross_validate(X, words, "ridge", class_weight={"01": 2.0})


@pytest.mark.parametrize(
    ("y", "head", "scoring", "said"),
    [
        (WORDS, "ridge", "neg_log_loss", "'ridge' has no probabilities to be chosen by"),
        (WORDS, "svm", "roc_auc_ovr", "'svm' has no probabilities to be chosen by"),
        (WORDS, "ridge", "roc_auc", "'roc_auc' can't judge 3 classes such as 'a'"),
        (WORDS, "ridge", "r2", "'r2' can't judge"),
        (WORDS[Y < 2], "logreg", "f1", "'f1' can't judge 2 classes such as 'a'"),
        (WORDS, "logreg", None, "scoring None is unknown"),
    ],
)
def test_a_scoring_that_judges_something_else_is_refused(y, head, scoring, said):
    rows = X[: len(y)]
    for evaluate in (cross_validate, fit_final):
        with pytest.raises((EvaluationError, HeadError), match=said):
            evaluate(rows, y, head, scoring=scoring)


def test_scorings_of_probabilities_and_of_numbers_are_taken():
    for y, head, scoring in ((WORDS, "logreg", "neg_log_loss"), (Y[Y < 2], "ridge", "f1")):
        result = cross_validate(X[: len(y)], y, head, scoring=scoring, cv=2)
        assert result.heads[0].best_params


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"params": [1]}, r"params are a mapping of names to values, not \[1\]"),
        ({"repeats": 1.5}, "repeats is at least 1, a whole number, not 1.5"),
        ({"n_jobs": 0}, "n_jobs is 0"),
        ({"n_jobs": "two"}, "n_jobs is 'two'"),
        ({"splits": ["train", "test"] * 30, "cv": 3}, "--split none"),
    ],
)
def test_words_of_another_kind_are_one_message(words, said):
    with pytest.raises(EvaluationError, match=said):
        cross_validate(X, Y, "ridge", tune=False, **words)


def test_what_no_fold_shows_to_vary_has_no_interval_but_the_accuracy():
    X = np.repeat(np.eye(2, dtype=np.float32) * 9, 20, axis=0)
    X += np.random.default_rng(0).normal(size=X.shape).astype(np.float32)
    result = cross_validate(X, np.repeat([0, 1], 20), ["ridge", "lda"], tune=False)
    found = result["ridge"].metrics
    assert found["accuracy"].mean == found["macro_f1"].mean == 1.0
    assert 0.8 < found["accuracy"].low < 1.0
    assert np.isnan([found[name].low for name in ("balanced_accuracy", "macro_f1")]).all()
    assert found["macro_f1"].to_dict()["ci95"] == [None, None]
    line = next(line for line in result.table().splitlines() if line.startswith("ridge"))
    assert line.split() == ["ridge", "1.000", "[0.907,", "1.000]", *["1.000"] * 3]
    gap = result.differences["lda"]["macro_f1"]
    assert gap.mean == 0.0
    assert np.isnan(gap.low)


def test_a_difference_stays_within_what_metrics_can_differ_by():
    result = cross_validate(X[:8], [0, 1] * 4, ["ridge", "knn"], tune=False, cv=2)
    ends = [(e.low, e.high) for found in result.differences.values() for e in found.values()]
    assert np.nanmin(ends) >= -1
    assert np.nanmax(ends) <= 1


def test_classes_that_the_test_lacks_are_named():
    splits = ["train"] * 30 + ["test"] * 30
    y = [word if i < 30 or word == "a" else "b" for i, word in enumerate(WORDS)]
    notes = cross_validate(X, y, "ridge", tune=False, splits=splits).notes
    assert "class 'c' has no image in test to be scored on." in notes
    y = [word if i < 30 else "a" for i, word in enumerate(WORDS)]
    notes = cross_validate(X, y, "ridge", tune=False, splits=splits).notes
    assert "2 classes have no image in test to be scored on: 'b', 'c'." in notes


def test_a_note_of_several_heads_stands_once():
    rows = np.concatenate([np.flatnonzero(c == Y)[:2] for c in range(3)])
    table = cross_validate(X[rows], Y[rows], ["ridge", "knn"]).table()
    assert table.count("defaults were used") == 1
    assert "note: ridge, knn: a class is too small" in table


def test_near_duplicates_are_counted_with_the_largest_cluster():
    twins = np.concatenate([X, X[:1], X[:1], X[5:6]])
    y = np.concatenate([Y, Y[:1], Y[:1], Y[5:6]])
    result = cross_validate(twins, y, "ridge", tune=False, near_duplicates=0.9999)
    assert "5 near-duplicates in 2 clusters of at most 3 (from 0.9999)" in result.table()
    none = cross_validate(X, Y, "ridge", tune=False, near_duplicates=1.0).table()
    assert "no near-duplicates (from 1)" in none
