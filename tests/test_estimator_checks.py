from __future__ import annotations

from typing import Any

from sklearn.utils.estimator_checks import parametrize_with_checks

from featbank import make_head
from featbank.estimator import FeatureExtractor, TransferClassifier


def expected_failures(estimator: Any) -> dict[str, str]:
    """Name the check that fails, with the reason; scikit-learn has the same of its own."""
    check = "check_sample_weight_equivalence_on_dense_data"
    if getattr(estimator, "tune", False):
        return {check: "folds are dealt by rows, so rows given twice lie otherwise (GridSearchCV)"}
    return {}


@parametrize_with_checks(
    [
        TransferClassifier("precomputed"),
        TransferClassifier("precomputed", make_head("svm", tol=1e-10)),  # weights are held to 1e-7
        TransferClassifier("precomputed", "logreg", tune=True),
        FeatureExtractor("precomputed"),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_takes_it_for_one_of_its_own(estimator: Any, check: Any) -> None:
    check(estimator)
