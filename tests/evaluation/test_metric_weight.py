"""Weighted metrics: every metric, its interval and the confusion matrix, beside scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.datasets import make_classification

from featbank.errors import EvaluationError
from featbank.evaluation import cross_validate
from featbank.evaluation.curves import learning_curve
from featbank.evaluation.intervals import trials_of
from featbank.evaluation.select import rank_features
from featbank.evaluation.stored import packed, unpacked

X, Y = make_classification(150, 6, n_informative=3, flip_y=0.2, random_state=1)
W = np.random.default_rng(0).choice([1 / 3, 2 / 3, 1.0], len(Y))


def scored(y=Y, head="logreg", **options):
    return cross_validate(X, y, head, tune=False, **{"metric_weight": W, **options})


def test_every_metric_is_scikit_learns_with_the_same_weights():
    result = scored()
    head = result.heads[0]
    told = head.predictions
    for f in range(result.folds):
        of = told.fold == f
        y, p, w = told.y_true[of], told.probability[of, 1], W[told.rows[of]]
        assert np.array_equal(told.weight[of], w)
        hard = {"y_true": y, "y_pred": told.y_pred[of], "sample_weight": w}
        wanted = {
            "accuracy": sk.accuracy_score(**hard),
            "balanced_accuracy": sk.balanced_accuracy_score(**hard),
            "macro_f1": sk.f1_score(**hard, average="macro"),
            "roc_auc": sk.roc_auc_score(y, p, sample_weight=w),
            "log_loss": sk.log_loss(y, p, sample_weight=w),
        }
        for name, value in wanted.items():
            assert head.metrics[name].values[f] == pytest.approx(value, abs=1e-6), name
        square = np.average(np.sum((told.probability[of] - np.eye(2)[y]) ** 2, axis=1), weights=w)
        assert head.metrics["brier"].values[f] in (
            pytest.approx(square, abs=1e-6),
            pytest.approx(square / 2, abs=1e-6),
        )
    matrix = sk.confusion_matrix(told.y_true, told.y_pred, sample_weight=told.weight)
    assert np.allclose(head.confusion, matrix)
    assert head.per_class.support.sum() == pytest.approx(W.sum())


def test_the_ece_of_whole_weights_is_that_of_repeated_rows():
    w = np.random.default_rng(1).integers(1, 4, len(Y))
    split = ["train" if i < 100 else "test" for i in range(len(Y))]
    again = np.concatenate([np.arange(100), np.repeat(np.arange(100, 150), w[100:])])
    one = scored(metric_weight=w, splits=split).heads[0].metrics
    several = cross_validate(
        X[again], Y[again], "logreg", tune=False, splits=[split[i] for i in again]
    )
    for name, estimate in several.heads[0].metrics.items():
        assert one[name].mean == pytest.approx(estimate.mean, abs=1e-9), name


def test_the_bootstrap_multiplies_the_weights():
    split = ["train" if i < 100 else "test" for i in range(len(Y))]
    alike = scored(metric_weight=np.full(len(Y), 0.5), splits=split).heads[0].metrics
    plain = scored(metric_weight=None, splits=split).heads[0].metrics
    for name, estimate in plain.items():
        assert alike[name].low == pytest.approx(estimate.low)
        assert alike[name].high == pytest.approx(estimate.high)
    heavy = np.where(np.arange(len(Y)) == 120, 100.0, 1.0)
    wide = scored(metric_weight=heavy, splits=split).heads[0].metrics["accuracy"]
    assert wide.high - wide.low > plain["accuracy"].high - plain["accuracy"].low


def test_rows_of_weight_0_are_fitted_on_and_not_scored():
    w = np.where(np.arange(len(Y)) % 3 == 0, 1.0, 0.0)
    told = scored(metric_weight=w).heads[0].predictions
    assert sorted(told.rows.tolist()) == np.flatnonzero(w).tolist()
    assert set(np.bincount(told.fold)) <= {9, 10, 11}, "each fold has its share of them"
    labels = np.where(w > 0, Y, 1 - Y)  # fitted on, wrong labels do harm
    assert (
        scored(labels, metric_weight=w).heads[0].metrics["accuracy"].mean
        < scored(metric_weight=w).heads[0].metrics["accuracy"].mean
    )
    with pytest.raises(EvaluationError, match=r"every image in 2 of 5 test parts"):
        scored(metric_weight=np.arange(len(Y)) < 3)
    with pytest.raises(EvaluationError, match=r"nothing is left to score"):
        scored(metric_weight=np.zeros(len(Y)))
    with pytest.raises(EvaluationError, match=r"the metric weight of row 0 is -1"):
        scored(metric_weight=-np.ones(len(Y)))


def test_the_table_and_the_json_say_that_metrics_are_weighted():
    result = scored(sample_weight=W)
    assert "every metric is weighted by metric_weight" in result.table()
    assert not any("weigh every image alike" in note for note in result.notes)
    assert result.to_dict()["metric_weight"] == "metric_weight"
    assert "weighted" not in scored(metric_weight=(np.arange(len(Y)) > 9) * 1.0).table()


def test_differences_are_of_weighted_metrics():
    result = scored(head=["logreg", "centroid"])
    ours = result.compare("logreg", "centroid")
    one, other = (result[name].metrics["accuracy"].values for name in ("logreg", "centroid"))
    assert ours.values == tuple(np.subtract(one, other))


def test_selection_and_curves_are_weighted():
    heavy = np.where(Y == 1, 1.0, 0.01)  # nearly the recall of class 1
    curve = learning_curve(
        X, Y, "centroid", sizes=[1, 4], draws=3, tune=False, metric_weight=heavy
    )["centroid"]
    plain = learning_curve(X, Y, "centroid", sizes=[1, 4], draws=3, tune=False)["centroid"]
    assert curve.points[0].metrics["accuracy"].mean != plain.points[0].metrics["accuracy"].mean
    balanced = [one.points[1].metrics["balanced_accuracy"].mean for one in (curve, plain)]
    assert balanced[0] == pytest.approx(balanced[1]), (
        "classes count alike however they are weighted"
    )
    ranking = rank_features({"all": X, "half": X[:, :3]}, Y, "lda", metric_weight=heavy)
    own = cross_validate(X, Y, "lda", tune=False, metric_weight=heavy)
    found = {one.name: one.accuracy.mean for one in ranking.features}
    assert found["all"] == pytest.approx(own.heads[0].metrics["accuracy"].mean)


def test_labels_of_several_an_image_are_weighted():
    y = np.column_stack([Y, X[:, 0] > 0, X[:, 1] > 0])
    result = scored(y)
    told = result.heads[0].predictions
    right = (told.y_true == told.y_pred).all(axis=1)
    for f in range(result.folds):
        of = told.fold == f
        value = result.heads[0].metrics["subset_accuracy"].values[f]
        assert value == pytest.approx(np.average(right[of], weights=W[told.rows[of]]))


def test_a_stored_result_keeps_its_weights():
    head = scored().heads[0]
    assert unpacked(*packed(head), classes=2).to_dict() == head.to_dict()


def test_weights_make_fewer_trials():
    units = [np.arange(10), np.arange(10)]
    assert trials_of(units) == 10
    assert trials_of(units, [np.ones(10), np.ones(10)]) == pytest.approx(10)
    uneven = np.r_[9.0, np.ones(9)]
    assert trials_of(units, [uneven, uneven]) == pytest.approx(18**2 / 90)
