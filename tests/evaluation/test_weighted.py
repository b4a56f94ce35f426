"""Weights of samples and classes, from the call down to each fit."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featbank.errors import EvaluationError, HeadError
from featbank.evaluation import cross_validate, fit_final
from featbank.heads import grid, make_head
from featbank.heads.weights import by_step

X, Y = make_classification(120, 8, n_informative=5, random_state=0)
NAMES = np.array(["no", "yes"])[Y]
WEIGHTS = np.random.default_rng(0).uniform(0.1, 3.0, len(Y))


def test_weights_reach_the_scaler_and_the_classifier_of_each_fold():
    result = cross_validate(X, NAMES, "logreg", tune=False, sample_weight=WEIGHTS)
    told = result["logreg"].predictions
    for f in range(5):
        test = told.rows[told.fold == f]
        train = np.setdiff1d(np.arange(len(Y)), test)
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        head.fit(
            X[train],
            NAMES[train],
            standardscaler__sample_weight=WEIGHTS[train],
            logisticregression__sample_weight=WEIGHTS[train],
        )
        assert np.allclose(head.predict_proba(X[test]), told.probability[told.fold == f], atol=1e-4)
    assert any("scores weigh every image alike" in note for note in result.notes)


@pytest.mark.parametrize(
    ("head", "params"),
    [
        ("logreg", {"tol": 1e-9}),
        ("ridge", {}),
        ("svm", {"tol": 1e-9, "gamma": 0.1}),  # "scale" counts rows
        ("linear-svm", {"tol": 1e-9}),
    ],
)
def test_a_row_of_weight_two_is_as_good_as_two_rows(head, params):
    twice = np.arange(0, len(Y), 3)
    weights = np.ones(len(Y))
    weights[twice] = 2.0
    rows = np.concatenate([np.arange(len(Y)), twice])
    options = {"tune": False, "params": params}
    weighted = fit_final(X, NAMES, head, sample_weight=weights, **options).estimator
    repeated = fit_final(X[rows], NAMES[rows], head, **options).estimator
    assert np.allclose(
        weighted.decision_function(X), repeated.decision_function(X), rtol=1e-3, atol=1e-3
    )


def test_choosing_with_weights_is_a_grid_search_with_weights():
    splits = ["train"] * 60 + ["valid"] * 30 + ["test"] * 30
    result = cross_validate(X, Y, "logreg", splits=splits, sample_weight=WEIGHTS)
    values = grid("logreg")
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = [(np.arange(60), np.arange(60, 90))]
    scoring = {"score": "accuracy", "loss": "neg_log_loss"}
    search = GridSearchCV(head, values, cv=folds, scoring=scoring, refit=False).fit(
        X[:90],
        Y[:90],
        standardscaler__sample_weight=WEIGHTS[:90],
        logisticregression__sample_weight=WEIGHTS[:90],
    )
    found = search.cv_results_
    order = np.lexsort([found["mean_test_loss"], found["mean_test_score"]])
    assert result["logreg"].best_params == found["params"][order[-1]]


def test_unlabelled_rows_take_their_weights_with_them():
    labels = [None if i % 4 == 0 else name for i, name in enumerate(NAMES)]
    kept = np.arange(len(Y)) % 4 != 0
    some = fit_final(X, labels, "ridge", tune=False, sample_weight=WEIGHTS).estimator
    cut = fit_final(X[kept], NAMES[kept], "ridge", tune=False, sample_weight=WEIGHTS[kept])
    assert np.array_equal(some.decision_function(X), cut.estimator.decision_function(X))


def test_a_head_without_weights_is_refused_before_any_fit():
    told = []
    with pytest.raises(HeadError, match="'knn' takes no sample_weight"):
        cross_validate(
            X, Y, ["ridge", "knn"], sample_weight=WEIGHTS, progress=lambda *n: told.append(n)
        )
    assert not told
    with pytest.raises(EvaluationError, match="one number for each of the 120 rows"):
        cross_validate(X, Y, "ridge", sample_weight=WEIGHTS[:5])


def test_class_weights_are_scikit_learns():
    final = fit_final(X, NAMES, "logreg", tune=False, class_weight={"yes": 5})
    head = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=0.01, tol=1e-10, class_weight={"no": 1, "yes": 5}),
    ).fit(X, NAMES)
    assert np.allclose(final.estimator.predict_proba(X), head.predict_proba(X), atol=1e-4)
    assert (final.estimator.predict(X) == "yes").sum() > (NAMES == "yes").sum()
    with pytest.raises(EvaluationError, match="'maybe', which is no class"):
        cross_validate(X, NAMES, "logreg", class_weight={"maybe": 2})


@pytest.mark.parametrize("calibrate", ["platt", "temperature"])
def test_calibrated_heads_take_weights(calibrate):
    plain = fit_final(X, Y, "ridge", tune=False, calibrate=calibrate).estimator
    weighted = fit_final(
        X, Y, "ridge", tune=False, calibrate=calibrate, sample_weight=WEIGHTS**4
    ).estimator
    assert not np.allclose(plain.predict_proba(X), weighted.predict_proba(X), atol=1e-2)


def test_one_weight_of_zero_leaves_an_svm_as_good_as_scikit_learns():
    X, y = load_breast_cancer(return_X_y=True)
    weights = np.ones(len(y))
    weights[7] = 0
    (found,) = cross_validate(X, y, "svm", tune=False, sample_weight=weights).heads
    predictions = found.predictions
    for fold in np.unique(predictions.fold):
        test = predictions.rows[predictions.fold == fold]
        train = np.setdiff1d(np.arange(len(y)), test)
        head = make_head("svm", random_state=0)
        theirs = head.fit(X[train], y[train], **by_step(head, "svm", weights[train]))
        same = theirs.predict(X[test]) == predictions.y_pred[predictions.fold == fold]
        assert same.mean() > 0.98
    assert found.metrics["accuracy"].mean > 0.9
