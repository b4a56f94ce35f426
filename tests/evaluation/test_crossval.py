import json
import math

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.svm import SVC

from featbank.errors import EvaluationError, HeadError
from featbank.evaluation import cross_validate, fit_final
from featbank.evaluation.fitting import Candidate
from tests.evaluation import spy

X, Y = make_classification(150, 10, n_informative=6, n_classes=3, random_state=0)
X = X.astype(np.float32)
NAMES = np.array(["ant", "bee", "cat"])[Y]


@pytest.fixture
def fits(monkeypatch):
    """Give the spy a grid and empty its notebook."""
    spy.FITS.clear()
    monkeypatch.setattr(Candidate, "grid", lambda self, n_samples=None: {"C": [1.0, 2.0]})
    return spy.FITS


def numbered(n):
    return np.column_stack([np.arange(n), np.random.default_rng(0).normal(size=n)])


# Leaks: nothing that is scored on has been learned from.


def test_choosing_never_sees_the_scored_rows(fits):
    result = cross_validate(numbered(150), NAMES, spy.Spy())
    held = [
        set(result.heads[0].predictions.rows[result.heads[0].predictions.fold == f])
        for f in range(5)
    ]
    assert set().union(*held) == set(range(150))
    assert len(fits) == 5 * (2 * 3 + 1)
    for number, (_, seen) in enumerate(fits):
        assert not seen & held[number // 7]


def test_duplicates_and_groups_never_straddle_folds(fits):
    digests = [f"bytes {i}" for i in range(150)]
    groups = [None] * 150
    for i in range(0, 60, 2):
        digests[i + 1] = digests[i]
    for i in range(60, 150):
        groups[i] = f"patient {i // 6}"
    digests[149] = digests[0]  # binds a pair of duplicates to a patient
    words = {"groups": groups, "digests": digests, "keep_copies": True}
    result = cross_validate(numbered(150), NAMES, spy.Spy(), cv=3, **words)
    assert result.duplicates == 31
    assert result.groups == 15
    pairs = [{i, i + 1} for i in range(2, 60, 2)]
    patients = [set(range(i, i + 6)) for i in range(60, 144, 6)]
    bound = [*pairs, *patients, {0, 1, *range(144, 150)}]
    assert len(fits) == 3 * (2 * 3 + 1)
    for _, seen in fits:  # of inner folds too: a fit saw all of a unit or nothing
        assert all(not seen & unit or unit <= seen for unit in bound)


def test_planted_duplicates_raise_no_score():
    random = np.random.default_rng(0)
    noise = random.normal(size=(100, 20))
    y = random.integers(2, size=100)
    doubled, labels = np.vstack([noise, noise]), np.concatenate([y, y])
    options = {"head": "knn", "params": {"n_neighbors": 1}, "keep_copies": True}
    naive = cross_validate(doubled, labels, **options)["knn"].metrics["accuracy"].mean
    honest = cross_validate(doubled, labels, digests=[*range(100)] * 2, **options)
    assert naive > 0.8
    assert honest["knn"].metrics["accuracy"].mean < 0.65
    assert honest.duplicates == 100


def test_scaling_is_learned_inside_the_fold():
    """A row that is scored on, moved far away, changes the prediction of no other row."""
    splits = ["train"] * 100 + ["test"] * 50
    moved = X.copy()
    moved[149] = 1e6
    scores = [
        cross_validate(values, NAMES, "logreg", splits=splits, tune=False)["logreg"]
        .predictions.scores[:-1]
        for values in (X, moved)
    ]  # fmt: skip
    np.testing.assert_array_equal(*scores)


# The numbers are those of a plain re-statement.


def test_nested_scores_equal_a_plain_loop():
    result = cross_validate(X, NAMES, "svm", random_state=4)["svm"]
    assert len(result.fold_params) == 5
    for f, params in enumerate(result.fold_params):
        test = result.predictions.rows[result.predictions.fold == f]
        train = np.setdiff1d(np.arange(150), test)
        own = {key.removeprefix("svc__"): value for key, value in params.items()}
        scaler = clone(own.pop("standardscaler"))
        plain = make_pipeline(scaler, Normalizer(), SVC(**own))
        accuracy = plain.fit(X[train], NAMES[train]).score(X[test], NAMES[test])
        assert result.metrics["accuracy"].values[f] == pytest.approx(accuracy)


def test_out_of_fold_predictions_confusion_and_classes_fit_together():
    result = cross_validate(X, NAMES, "logreg")
    head = result["logreg"]
    assert sorted(head.predictions.rows) == list(range(150))
    np.testing.assert_array_equal(
        np.array(result.classes)[head.predictions.y_true], NAMES[head.predictions.rows]
    )
    assert head.confusion.sum() == 150
    assert head.per_class.support.tolist() == np.bincount(Y).tolist()
    accuracy = np.diag(head.confusion).sum() / 150
    assert head.metrics["accuracy"].mean == pytest.approx(accuracy, abs=0.01)
    assert head.predictions.probability.shape == (150, 3)


def test_same_seed_same_result_whatever_the_number_of_jobs():
    one, two = (cross_validate(X, NAMES, ["svm", "ridge"], n_jobs=n, cv=2) for n in (1, 2))
    for a, b in zip(one.heads, two.heads, strict=True):
        assert a.metrics == b.metrics
        np.testing.assert_array_equal(a.predictions.scores, b.predictions.scores)


def test_several_heads_share_their_folds():
    result = cross_validate(X, NAMES, ["ridge", LogisticRegression(), LogisticRegression(C=9)])
    names = ["ridge", "LogisticRegression", "LogisticRegression (2)"]
    assert [head.head for head in result.heads] == names
    rows = [h.predictions.rows for h in result.heads]
    np.testing.assert_array_equal(rows[0], rows[2])


def test_a_share_held_out_several_times():
    result = cross_validate(X, NAMES, "ridge", cv=0.25, repeats=4, tune=False)
    assert result.folds == 4
    np.testing.assert_array_equal(np.bincount(result["ridge"].predictions.fold), [37] * 4)
    assert len(result["ridge"].metrics["accuracy"].values) == 4


def test_ten_by_five_fold_has_fifty_values_and_other_folds_each_time():
    result = cross_validate(X, NAMES, "centroid", cv=5, repeats=10, tune=False)
    assert len(result["centroid"].metrics["macro_f1"].values) == 50
    predictions = result["centroid"].predictions
    first, second = (set(predictions.rows[predictions.fold == f]) for f in (0, 5))
    assert first != second


def test_what_is_set_is_not_chosen():
    fixed = cross_validate(X, NAMES, "svm", params={"C": 2.0})["svm"]
    assert set(fixed.best_params) == {"standardscaler", "svc__gamma"}
    untuned = cross_validate(X, NAMES, "svm", tune=False)["svm"]
    assert untuned.best_params == {}
    assert "svc__C" in cross_validate(X, NAMES, "svm", params={"gamma": 0.1})["svm"].best_params


def test_calibration_gives_probabilities():
    plain = cross_validate(X, NAMES, "svm", tune=False, calibrate=False)["svm"]
    calibrated = cross_validate(X, NAMES, "svm", tune=False, calibrate=True)["svm"]
    assert "log_loss" not in plain.metrics
    assert calibrated.metrics["log_loss"].mean < math.log(3)
    np.testing.assert_allclose(calibrated.predictions.probability.sum(axis=1), 1)


class Certain(spy.Spy):
    def predict_proba(self, X):
        return self.dummy_.predict_proba(X)


def test_calibration_with_a_given_valid_parts_no_duplicates(fits):
    X, y = numbered(60), np.tile([0, 1], 30)
    digests = [f"image {i // 4}-{i % 2}" for i in range(60)]  # pairs: 0 and 2, 1 and 3, ...
    splits = np.repeat(["train", "valid", "test"], 20)
    fit_final(X, y, Certain(), splits=splits, digests=digests, keep_copies=True, calibrate="platt")
    learned = [rows for _, rows in fits]
    assert list(map(len, learned[:2])) == [20, 20]  # a fit on train for each value
    assert len(learned) == 2 + 3 + 1
    assert frozenset(range(40)) in learned
    for rows in learned:
        assert {row ^ 2 for row in rows} == rows


def test_class_weights_are_passed_on_or_refused():
    cross_validate(X, NAMES, ["svm", "logreg"], class_weight="balanced", tune=False)
    with pytest.raises(HeadError, match=r"knn.*class_weight"):
        cross_validate(X, NAMES, ["svm", "knn"], class_weight="balanced")


def test_more_than_ten_classes_have_a_top5():
    digits, y = load_digits(return_X_y=True)
    y = np.where((y == 9) & (np.arange(len(y)) % 2 == 0), 10, y)
    found = cross_validate(digits[:400], y[:400], "lda", tune=False, cv=2)["lda"].metrics
    assert found["top5_accuracy"].mean > found["accuracy"].mean


def test_progress_counts_every_fit():
    seen = []
    cross_validate(X, NAMES, ["ridge", "lda"], cv=2, tune=False, progress=lambda *a: seen.append(a))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_fit_that_does_not_converge_is_a_note_and_no_warning():
    result = cross_validate(X, NAMES, "logreg", params={"C": 1e3, "max_iter": 1}, cv=2)
    assert result["logreg"].notes == (
        "1 fits stopped at their limit of iterations before converging.",
    )


# Splits that are given.

SPLITS = np.array(["train"] * 80 + ["valid"] * 30 + ["test"] * 40)


def test_train_valid_test_chooses_on_valid_and_fits_on_both(fits):
    cross_validate(numbered(150), NAMES, spy.Spy(), splits=SPLITS)
    assert [seen for _, seen in fits] == [set(range(80))] * 2 + [set(range(110))]


@pytest.mark.parametrize("scored", ["valid", "test"])
def test_train_and_one_other_chooses_inside_train(fits, scored):
    splits = np.where(SPLITS == "train", "train", scored)
    result = cross_validate(numbered(150), NAMES, spy.Spy(), splits=splits)
    assert len(fits) == 2 * 3 + 1
    assert all(seen <= set(range(80)) for _, seen in fits)
    assert fits[-1][1] == set(range(80))
    assert sorted(result.heads[0].predictions.rows) == list(range(80, 150))
    assert result.folds == 1


def test_given_folds_are_held_out_in_turn_and_chosen_on(fits):
    splits = np.array([f"fold{i % 4}" for i in range(150)])
    result = cross_validate(numbered(150), NAMES, spy.Spy(), splits=splits)
    assert result.folds == 4
    assert len(fits) == 4 * (2 * 3 + 1)
    assert fits[0][1] == set(np.flatnonzero(np.isin(splits, ["fold2", "fold3"])))
    assert fits[6][1] == set(np.flatnonzero(splits != "fold0"))


def test_a_given_split_has_a_bootstrap_interval():
    accuracy = cross_validate(X, NAMES, "ridge", splits=SPLITS)["ridge"].metrics["accuracy"]
    assert len(accuracy.values) == 1
    assert accuracy.low < accuracy.mean < accuracy.high


def test_duplicates_across_given_splits_are_reported_with_the_score_without_them():
    noise = np.random.default_rng(0).normal(size=(150, 10))
    noise[110:150] = noise[:40]
    y = np.random.default_rng(1).integers(2, size=150)
    y[110:150] = y[:40]
    digests = [*range(110), *range(40)]
    result = cross_validate(
        noise, y, "knn", params={"n_neighbors": 1}, splits=SPLITS, digests=digests
    )
    assert result["knn"].metrics["accuracy"].mean == 1
    assert result["knn"].without_duplicates["accuracy"].mean < 0.8
    assert any("40 images to learn from" in note for note in result.notes)
    assert "no duplicates" in result.table()


def test_unlabelled_rows_are_left_out_and_a_test_without_labels_is_not_scored():
    labels = [*NAMES[:110], *[None] * 40]
    result = cross_validate(X, labels, "ridge", splits=SPLITS, tune=False)
    assert result.images == 110
    assert "valid" in result.protocol
    assert any("40 rows without a label" in note for note in result.notes)


def test_train_alone_is_cross_validated():
    result = cross_validate(X, NAMES, "ridge", splits=["train"] * 150, cv=3, tune=False)
    assert result.folds == 3


# Data that allow no honest score.


def with_value(value, *, everywhere=False):
    bad = X.copy()
    bad[..., 3 if everywhere else (7, 3)[0]] = value if everywhere else bad[..., 7]
    if not everywhere:
        bad[7, 3] = value
    return bad


@pytest.mark.parametrize(
    ("features", "labels", "options", "words"),
    [
        (with_value(np.nan), NAMES, {}, "row 7"),
        (with_value(np.inf), NAMES, {}, "1 of 150 rows"),
        (np.ones((150, 4)), NAMES, {}, "all 4 features are constant"),
        (X[:, 0], NAMES, {}, "shape"),
        (X.astype(str), NAMES, {}, "numeric"),
        (X[:0], [], {}, "empty"),
        (X, NAMES[:-1], {}, "149 labels"),
        (X, NAMES, {"groups": ["a"]}, "1 groups"),
        (X, NAMES, {"digests": ["a"]}, "1 digests"),
        (X, ["ant"] * 150, {}, "of one class, 'ant'"),
        (X, [None] * 150, {}, "no row has a label"),
        (X, np.linspace(0, 1, 150), {}, "fractions"),
        (X, [*NAMES[:-1], 3], {}, "int"),
        (X, NAMES, {"cv": 1}, "at least 2 folds"),
        (X, NAMES, {"cv": 1.5}, "share"),
        (X, NAMES, {"cv": 400}, "400 folds can't be had: class"),
        (X, NAMES, {"repeats": 0}, "repeats"),
        (X, NAMES, {"groups": NAMES}, "too few groups"),
        (X, NAMES, {"splits": ["trian"] * 150}, "did you mean train"),
        (X, NAMES, {"splits": [None] * 150}, "no labelled row has one"),
        (X, NAMES, {"splits": ["test"] * 150}, "needs rows of train"),
        (X, NAMES, {"splits": ["fold0"] * 150}, "at least two"),
        (X, NAMES, {"splits": ["fold0", "train"] * 75}, "mix"),
        (X, NAMES, {"splits": SPLITS, "cv": 5}, "ask for no cv"),
        (X, NAMES, {"splits": np.where(Y == 1, "test", "train")}, "none to learn from"),
        (X, NAMES, {"head": []}, "no head"),
        (X, None, {}, "one class a row"),
        (X, NAMES[:, None], {}, "neither one class a row nor a matrix"),
        ([[1, 2], [3]], ["a", "b"], {}, "differ in length"),
        (X, NAMES, {"scoring": "acuracy"}, "did you mean accuracy"),
        (X, NAMES, {"random_state": None}, "whole number"),
        (X, NAMES, {"head": ["svm", "knn"], "params": {"C": 1}}, "one head"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_clear_line(features, labels, options, words):
    with pytest.raises(EvaluationError, match=words) as caught:
        cross_validate(features, labels, **options)
    assert "\n" not in str(caught.value)


def test_a_head_that_refuses_the_data_is_named():
    with pytest.raises(HeadError, match=r"'svm' could not be fitted on 120 images.*C"):
        cross_validate(X, NAMES, "svm", params={"C": -1})


def test_few_images_shrink_the_default_folds_with_a_note_and_refuse_explicit_ones():
    y = np.array(["a"] * 12 + ["b"] * 3)
    result = cross_validate(X[:15], y, "ridge")
    assert result.folds == 3
    assert "class 'b' has 3" in result.notes[0]
    with pytest.raises(EvaluationError, match="at most 3"):
        cross_validate(X[:15], y, "ridge", cv=5)


def test_two_images_a_class_are_scored_with_defaults_and_say_so():
    result = cross_validate(X[:4], ["a", "a", "b", "b"], "svm")
    assert result.folds == 2
    assert "too small to choose" in result["svm"].notes[0]


def test_one_image_of_a_class_is_refused():
    with pytest.raises(EvaluationError, match=r"'b' has too few different images \(1\)"):
        cross_validate(X[:5], ["a", "a", "a", "a", "b"], "ridge")


def test_knn_never_asks_for_more_neighbours_than_there_are():
    rows = np.concatenate([np.flatnonzero(c == Y)[:4] for c in range(3)])
    result = cross_validate(X[rows], NAMES[rows], "knn", cv=2)
    assert result["knn"].best_params["kneighborsclassifier__n_neighbors"] <= 3


def test_contradicting_labels_of_equal_images_are_noted():
    one, other = np.flatnonzero(Y == 0)[0], np.flatnonzero(Y == 1)[0]
    digests = np.arange(150)
    digests[other] = digests[one]
    result = cross_validate(X, NAMES, "ridge", digests=digests, tune=False)
    assert result.duplicates == 1
    words = " and ".join(sorted(map(repr, map(str, NAMES[[one, other]]))))
    where = f"{words} (rows {min(one, other)}, {max(one, other)})."
    assert f"1 image stands under more than one class with equal bytes: {where}" in result.notes


def test_half_precision_and_whole_numbers_are_taken():
    for values in (X.astype(np.float16), (X * 10).astype(int)):
        assert cross_validate(values, Y, "lda", tune=False)["lda"].metrics["accuracy"].mean > 0.4


# What comes out.


def test_the_result_is_plain_json_in_the_promised_shape():
    result = cross_validate(X, NAMES, ["svm", "logreg"], cv=2)
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert (data["folds"], data["images"], data["classes"]) == (2, 150, ["ant", "bee", "cat"])
    head = data["heads"][0]
    assert head["head"] == "svm"
    assert head["accuracy"]["ci95"][0] <= head["accuracy"]["mean"] <= head["accuracy"]["ci95"][1]
    assert {"macro_f1", "best_params", "seconds", "classifier"} <= set(head)


def test_the_table_names_heads_metrics_and_what_was_chosen():
    text = cross_validate(X, NAMES, ["svm", "logreg"], cv=2).table(details=True)
    for word in ("svm", "logreg", "accuracy", "C=", "precision", "bee", "true \\ predicted", "["):
        assert word in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_an_unknown_head_of_a_result_is_a_key_error():
    with pytest.raises(KeyError, match="ridge"):
        cross_validate(X, NAMES, "ridge", cv=2, tune=False)["svm"]


# The final fit.


def test_the_final_fit_takes_all_rows_and_keeps_the_labels():
    final = fit_final(X, NAMES, "svm", calibrate=False)
    assert final.classes == ("ant", "bee", "cat")
    assert final.estimator.predict(X[:3]).dtype.kind == "U"
    assert final.estimator.n_features_in_ == 10
    assert final.estimator.get_params()["svc__C"] == final.best_params["svc__C"]
    assert len(final.rows) == 150


@pytest.mark.parametrize(
    ("splits", "words"),
    [(["test"] * 150, "in split test"), (np.where(Y == 1, "train", "test"), "of one class")],
)
def test_a_final_fit_without_rows_or_classes_is_refused(splits, words):
    with pytest.raises(EvaluationError, match=words):
        fit_final(X, NAMES, "ridge", splits=splits)


def test_calibration_of_too_few_images_is_refused():
    with pytest.raises(HeadError, match="too few images to calibrate"):
        cross_validate(X[:4], ["a", "a", "b", "b"], "svm", calibrate=True)


def test_the_final_fit_leaves_test_alone(fits):
    final = fit_final(numbered(150), NAMES, spy.Spy(), splits=SPLITS)
    assert all(seen <= set(range(110)) for _, seen in fits)
    assert sorted(final.rows) == list(range(110))


def test_scores_that_are_all_alike_still_have_an_interval():
    X = np.repeat([[-1.0], [1.0]], 15, axis=0)
    y = np.repeat(["a", "b"], 15)
    for cv in (5, 0.2):
        accuracy = cross_validate(X, y, "centroid", tune=False, cv=cv).heads[0].metrics["accuracy"]
        assert accuracy.mean == 1.0
        assert accuracy.low < 0.95
        assert accuracy.high == 1.0


def test_a_class_that_is_never_predicted_is_named():
    y = np.where(np.arange(150) % 15 == 0, "rare", NAMES)
    noise = np.random.default_rng(0).normal(size=(150, 4))
    (found,) = cross_validate(noise, y, "logreg", params={"C": 1e-6}, repeats=2).heads
    predicted = np.unique(found.predictions.y_pred)
    (note,) = (note for note in found.notes if "never predicted" in note)
    assert "'rare' (10 images)" in note
    classes = np.unique(y)
    assert [str(c) in note for c in classes] == [c not in predicted for c in range(len(classes))]
    every = cross_validate(X, NAMES, "logreg").heads[0].notes
    assert not any("never predicted" in note for note in every)


def test_the_table_says_in_words_whether_an_svm_standardises():
    X, y = load_digits(n_class=2, return_X_y=True)
    table = cross_validate(X, y, "svm").table()
    assert "standardise=yes" in table or "standardise=no" in table
    assert "StandardScaler(" not in table
