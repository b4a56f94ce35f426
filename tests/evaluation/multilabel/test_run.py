import json

import numpy as np
import pytest
from sklearn.datasets import make_multilabel_classification
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier

from featbank.errors import EvaluationError, HeadError
from featbank.evaluation import cross_validate, fit_final
from featbank.evaluation.fitting import Candidate
from featbank.heads import grid, make_head
from tests.evaluation import spy

X, Y = make_multilabel_classification(200, 12, n_classes=4, n_labels=2, random_state=0)
CLASSES = np.array(["ant", "bee", "cat", "dog"])
SETS = [set(CLASSES[row]) for row in Y.astype(bool)]


def test_each_fold_is_one_vs_rest_of_scikit_learn():
    result = cross_validate(X, SETS, ["logreg", "ridge"], tune=False)
    assert result.classes == tuple(CLASSES)
    assert result.protocol == "5-fold cross-validation stratified by label"
    for head in result.heads:
        told = head.predictions
        assert sorted(told.rows) == list(range(200))
        areas = []
        for f in range(5):
            test = told.rows[told.fold == f]
            train = np.setdiff1d(np.arange(200), test)
            tight = {"tol": 1e-10} if head.head == "logreg" else {}
            plain = OneVsRestClassifier(make_head(head.head, **tight)).fit(X[train], Y[train])
            scores = plain.decision_function(X[test])
            assert np.allclose(scores, told.scores[told.fold == f], atol=1e-3)
            assert np.array_equal(plain.predict(X[test]), told.y_pred[told.fold == f])
            assert np.array_equal(Y[test], told.y_true[told.fold == f])
            areas.append(average_precision_score(Y[test], scores, average=None))
        assert head.metrics["map"].values == pytest.approx(np.mean(areas, axis=1))
        assert head.per_class.average_precision == pytest.approx(np.mean(areas, axis=0))


def test_sets_lists_and_matrices_give_the_same_scores():
    options = {"head": "ridge", "tune": False}
    by_sets = cross_validate(X, SETS, **options).to_dict()
    by_matrix = cross_validate(X, Y, classes=CLASSES, **options).to_dict()
    by_lists = cross_validate(X, [list(s) for s in SETS], **options).to_dict()
    for found in (by_sets, by_matrix, by_lists):
        found["heads"][0].pop("seconds")
    assert by_sets == by_matrix == by_lists


@pytest.mark.parametrize("head", ["logreg", "ridge", "knn"])
def test_one_setting_for_all_labels_is_chosen_by_map(head):
    splits = ["train"] * 100 + ["valid"] * 50 + ["test"] * 50
    result = cross_validate(X, SETS, head, splits=splits)
    ((key, values),) = grid(head).items()
    scores = []
    for value in values:
        plain = OneVsRestClassifier(make_head(head).set_params(**{key: value}))
        plain.fit(X[:100], Y[:100])
        told = plain.predict_proba if head == "knn" else plain.decision_function
        scores.append(average_precision_score(Y[100:150], told(X[100:150])))
    assert result[head].best_params == {key: values[int(np.argmax(scores))]}


class ScoringSpy(spy.Spy):
    def decision_function(self, X):
        return X[:, 1]


def test_choosing_never_sees_the_scored_rows(monkeypatch):
    spy.FITS.clear()
    monkeypatch.setattr(Candidate, "grid", lambda self, n_samples=None: {"C": [1.0, 2.0]})
    groups = np.arange(200) // 4
    numbered = np.column_stack([np.arange(200), np.random.default_rng(0).normal(size=200)])
    result = cross_validate(numbered, SETS, ScoringSpy(), groups=groups)
    told = result.heads[0].predictions
    held = [set(told.rows[told.fold == f]) for f in range(5)]
    units = [set(range(i, i + 4)) for i in range(0, 200, 4)]
    fits = 4 * (2 * 3 + 1)  # of four labels: two values in three inner folds, and the last one
    assert len(spy.FITS) == 5 * fits
    for number, (_, seen) in enumerate(spy.FITS):
        assert not seen & held[number // fits]
        assert all(not seen & unit or unit <= seen for unit in units)
    assert result.groups == 50


def test_rare_labels_are_left_out_and_rows_stay():
    sets = [labels | ({"rare"} if i in (3, 70, 150) else set()) for i, labels in enumerate(SETS)]
    result = cross_validate(X, sets, "ridge", tune=False)
    assert result.classes == tuple(CLASSES)
    assert result.images == 200
    assert any("label 'rare' was left out, for fewer than 5" in note for note in result.notes)
    assert "rare" in cross_validate(X, sets, "ridge", tune=False, cv=3).classes


def test_duplicates_across_given_splits_are_told_and_left_out_beside():
    splits = ["train"] * 150 + ["test"] * 50
    digests = [*range(199), 0]
    result = cross_validate(X, SETS, ["ridge", "logreg"], splits=splits, digests=digests)
    assert result.duplicates == 1
    assert result["ridge"].without_duplicates["map"].mean < 1
    low, high = result["ridge"].metrics["map"].low, result["ridge"].metrics["map"].high
    assert 0 < low < result["ridge"].metrics["map"].mean < high < 1
    assert set(result.to_dict()["differences"]) == {"ridge", "logreg"} - {result.best.head}


def test_near_duplicates_stay_together_though_all_images_of_a_set_are_alike():
    noisy = np.vstack([X, X[:3] * 1.0001])
    sets = [*SETS, *SETS[:3]]
    sets[0] = sets[200] = set(CLASSES) - {"bee"}
    result = cross_validate(noisy, sets, "ridge", tune=False, near_duplicates=0.99999)
    assert result.near_duplicates.clusters == 3
    told = result["ridge"].predictions
    fold = dict(zip(told.rows.tolist(), told.fold.tolist(), strict=True))
    assert all(fold[i] == fold[200 + i] for i in range(3))


def test_the_dict_is_json_and_the_table_names_labels():
    result = cross_validate(X, SETS, ["ridge", "knn"], tune=False)
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told["multilabel"] is True
    assert told["heads"][0]["confusion"] is None
    assert len(told["heads"][0]["per_class"]["average_precision"]) == 4
    assert {"map", "macro_f1", "micro_f1", "subset_accuracy"} <= told["heads"][0].keys()
    table = result.table(details=True)
    assert "mAP" in table
    assert [line.partition(" ")[0] for line in table.splitlines()].count("bee") == 2


def test_unlabelled_rows_are_left_out_but_rows_without_labels_are_not():
    sets = [None if i < 20 else set() if i < 40 else labels for i, labels in enumerate(SETS)]
    result = cross_validate(X, sets, "ridge", tune=False)
    assert result.images == 180
    assert result["ridge"].predictions.y_true.sum() == Y[40:].sum()


def test_the_final_fit_is_one_vs_rest_of_all_rows():
    final = fit_final(X, SETS, "ridge", params={"alpha": 10.0})
    plain = OneVsRestClassifier(make_head("ridge", alpha=10.0)).fit(X, Y)
    assert np.allclose(final.estimator.decision_function(X), plain.decision_function(X))
    assert final.classes == tuple(CLASSES)
    assert final.best_params == {}


def test_weights_count():
    weights = np.random.default_rng(0).uniform(0.1, 3, 200)
    plain, weighted = (
        fit_final(X, SETS, "ridge", tune=False, sample_weight=w).estimator.decision_function(X)
        for w in (None, weights)
    )
    assert not np.allclose(plain, weighted)
    with pytest.raises(HeadError, match="'knn' takes no sample_weight"):
        cross_validate(X, SETS, "knn", sample_weight=weights)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"calibrate": True}, "calibrate is not there for several labels an image"),
        ({"threshold": "f1"}, "threshold is not there for several labels an image"),
        ({"device": "cuda"}, "learned on the CPU"),
        ({"show_leak": True}, "show_leak is not there for several labels an image"),
        ({"class_weight": {"ant": 2}}, "class_weight is 'balanced'"),
        ({"cv": 150}, "150 folds can't be had: no label has 150"),
        ({"cv": 1}, "cv is at least 2 folds"),
        ({"cv": 1.5}, "a share in \\(0, 1\\)"),
        ({"repeats": 0}, "repeats is at least 1"),
        ({"splits": ["test"] * 200}, "needs rows of train"),
    ],
)
def test_what_can_not_be_had_is_said(words, said):
    with pytest.raises(EvaluationError, match=said):
        cross_validate(X, SETS, "ridge", tune=False, **words)


def test_labels_that_are_alike_in_all_training_rows_are_left_out():
    splits = ["train"] * 100 + ["test"] * 100
    sets = [labels | {"all"} if i < 100 else labels for i, labels in enumerate(SETS)]
    result = cross_validate(X, sets, "ridge", tune=False, splits=splits)
    assert result.classes == tuple(CLASSES)
    assert any("'all' was left out" in note for note in result.notes)
    with pytest.raises(EvaluationError, match="all 200 labelled images are of one class"):
        cross_validate(X, [{"ant"}] * 200, "ridge")
