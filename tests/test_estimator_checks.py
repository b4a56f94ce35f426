from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn import config_context
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import SkipTestWarning
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from sklearn.utils.validation import has_fit_parameter

from featbank.errors import HeadError
from featbank.estimator import FeatureExtractor, FineTuneClassifier, TransferClassifier
from featbank.heads import list_heads, make_head

EQUIVALENCE = "check_sample_weight_equivalence_on_dense_data"
HEADS = list(list_heads())


def expected_failures(estimator: Any) -> dict[str, str]:
    """Name the checks that fail, each with a reason that was verified."""
    if not isinstance(estimator, TransferClassifier):
        return {}
    if estimator.tune:
        # GridSearchCV over make_head("logreg"), too.
        return {EQUIVALENCE: "folds are dealt by rows, so rows given twice lie otherwise"}
    if estimator.head == "mlp":
        # So MLPClassifier with Adam and early stopping; scikit-learn checks L-BFGS alone.
        return {EQUIVALENCE: "batches and the held-out part are drawn by rows"}
    return {}


# Results of weights are held to 1e-7, beyond libsvm's tolerance.
UNTUNED = [make_head("svm", tol=1e-10) if head == "svm" else head for head in HEADS]


@parametrize_with_checks(
    [
        *(TransferClassifier("precomputed", head, random_state=0) for head in UNTUNED),
        *(TransferClassifier("precomputed", head, tune=True, random_state=0) for head in HEADS),
        FeatureExtractor("precomputed"),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_takes_it_for_one_of_its_own(estimator: Any, check: Any) -> None:
    check(estimator)


def test_scikit_learn_has_no_checks_for_classifiers_of_images() -> None:
    with pytest.warns(SkipTestWarning, match="one_d_array=True"):
        check_estimator(FineTuneClassifier("squeezenet1_1", weights="none"))


@pytest.mark.parametrize("head", HEADS)
def test_fit_shows_weights_where_the_head_takes_them(head: str) -> None:
    classifier = TransferClassifier("precomputed", head)

    takes = head in ("logreg", "svm", "linear-svm", "mlp", "ridge")
    assert has_fit_parameter(classifier, "sample_weight") == takes
    assert has_fit_parameter(classifier.set_params(head=make_head(head)), "sample_weight") == takes
    assert has_fit_parameter(classifier.set_params(head="nothing"), "sample_weight")
    assert has_fit_parameter(TransferClassifier, "sample_weight")
    pickle.loads(pickle.dumps(classifier))


@pytest.mark.parametrize("head", ["knn", "lda", "centroid", "logreg"])
def test_bagging_and_calibration_take_heads_without_weights(head: str) -> None:
    X, y = load_iris(return_X_y=True)
    classifier = TransferClassifier("precomputed", head)

    bagged = BaggingClassifier(classifier, n_estimators=3, random_state=0).fit(X, y)
    calibrated = CalibratedClassifierCV(classifier, cv=3).fit(X, y)

    assert bagged.score(X, y) > 0.8
    assert calibrated.score(X, y) > 0.8
    if head != "logreg":
        named = BaggingClassifier(make_head(head), n_estimators=3, random_state=0).fit(X, y)
        np.testing.assert_array_equal(bagged.predict(X), named.predict(X))
        with pytest.raises(HeadError, match="takes no sample_weight"):
            classifier.fit(X, y, sample_weight=np.ones(len(y)))
        with pytest.raises(HeadError, match="takes no sample_weight"):
            classifier.fit(X, y, np.ones(len(y)))


def grouped() -> tuple[Any, Any, Any]:
    """Return noise in which the rows of a group are alike and share a label."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 4)
    X = rng.normal(size=(40, 5))[groups] + rng.normal(scale=0.01, size=(160, 5))
    return X, rng.integers(0, 2, 40)[groups], groups


def test_tuning_keeps_groups_together() -> None:
    X, y, groups = grouped()
    neighbours = "kneighborsclassifier__n_neighbors"
    classifier = TransferClassifier("precomputed", "knn", tune=True, random_state=0)

    assert classifier.fit(X, y).best_params_[neighbours] <= 3  # the others of the group
    assert classifier.fit(X, y, groups=groups).best_params_[neighbours] > 3


def test_groups_reach_the_folds_of_tuning_inside_a_search() -> None:
    X, y, groups = grouped()
    neighbours = "kneighborsclassifier__n_neighbors"
    with config_context(enable_metadata_routing=True):
        classifier = TransferClassifier("precomputed", tune=True, random_state=0)
        classifier.set_fit_request(groups=True)
        search = GridSearchCV(classifier, {"head": ["knn"]}, cv=GroupKFold(3))
        search.fit(X, y, groups=groups)
    assert search.best_estimator_.best_params_[neighbours] > 3


def test_groups_of_another_length_are_refused() -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="groups"):
        TransferClassifier("precomputed", tune=True).fit(X, y, groups=[1, 2])
