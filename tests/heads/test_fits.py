"""A fitted head predicts as the sweep that chose it scored it: one tolerance, one precision."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featbank.heads import grid, list_heads, make_head
from featbank.heads.choice import LayerChoice
from featbank.heads.fits import fit_head
from featbank.heads.sweep import sweep

HELD = 120
SWEPT = [head for head in list_heads() if grid(head)]


def data(k, n, d, dtype):
    X, y = make_classification(
        n,
        d,
        n_informative=8,
        n_classes=k,
        weights=[0.7, 0.15][: k - 1],
        class_sep=0.8,
        random_state=1,
    )
    X = X * np.exp(np.arange(d) / d * 3)
    return X.astype(dtype), np.array(["a", "b", "c"])[y]


def fitted(estimator, params, X, y, **fit_params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return fit_head(clone(estimator).set_params(**params), X, y, **fit_params)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 320, 40), (3, 320, 40), (2, 200, 150)])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("head", SWEPT)
def test_held_out_rows_are_predicted_as_they_were_scored(head, class_weight, shape, dtype):
    estimator = make_head(head, random_state=0)
    if class_weight is not None:
        name = f"{estimator.steps[-1][0]}__class_weight"
        if name not in estimator.get_params():
            pytest.skip("takes no class weights")
        estimator.set_params(**{name: class_weight})
    X, y = data(*shape, dtype)
    rows, held = np.arange(len(X) - HELD), np.arange(len(X) - HELD, len(X))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = sweep(estimator, grid(head, n_samples=len(rows)), X, y, [(rows, held)])

    for params, (score,) in zip(found.params, found.scores, strict=True):
        if np.isnan(score):
            continue
        again = fitted(estimator, params, X[rows], y[rows]).score(X[held], y[held])
        # One row may lie on the boundary, within the tolerance of the solver.
        assert abs(again - score) <= 1.5 / HELD, params


def test_strong_penalties_with_balanced_classes_are_solved() -> None:
    """L-BFGS at scikit-learn's tolerance stops before the intercept has moved."""
    X, y = data(2, 320, 40, np.float64)
    head = make_head("logreg", C=1e-5, class_weight="balanced")
    exact = make_head("logreg", C=1e-5, class_weight="balanced", tol=1e-12).fit(X, y)

    found = fit_head(clone(head), X, y)

    scale = np.abs(exact.decision_function(X)).max()
    wanted = exact.decision_function(X)
    np.testing.assert_allclose(found.decision_function(X), wanted, atol=1e-3 * scale)
    assert np.abs(clone(head).fit(X, y).decision_function(X) - wanted).max() > 1e-2 * scale


@pytest.mark.parametrize("head", ["logreg", "linear-svm"])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_estimator_is_scikit_learns_to_a_tighter_tolerance(head, k, weighted):
    X, y = data(k, 320, 40, np.float64)
    estimator = make_head(head, random_state=0, class_weight="balanced")
    weights = {}
    if weighted:
        w = np.random.default_rng(0).integers(0, 4, len(y)).astype(float)
        weights = {f"{name}__sample_weight": w for name, _ in estimator.steps}
    last = estimator.steps[-1][0]
    limit = 10**6 if head == "linear-svm" else 10**4
    tight = clone(estimator).set_params(**{f"{last}__tol": 1e-10, f"{last}__max_iter": limit})
    wanted = tight.fit(X, y, **weights)

    found = fit_head(clone(estimator), X, y, **weights)

    assert found[-1].coef_.shape == wanted[-1].coef_.shape
    assert found[-1].coef_.dtype == wanted[-1].coef_.dtype
    assert set(vars(found[-1])) == set(vars(wanted[-1]))
    scale = np.abs(wanted.decision_function(X)).max()
    np.testing.assert_allclose(
        found.decision_function(X), wanted.decision_function(X), atol=2e-3 * scale
    )
    single = fit_head(clone(estimator), X.astype(np.float32), y, **weights)
    assert single[-1].coef_.dtype == np.float32 or head == "linear-svm"


@pytest.mark.parametrize("last", [LogisticRegression(), LinearSVC()])
def test_features_far_from_0_need_no_scaling(last) -> None:
    X, y = data(2, 320, 10, np.float64)
    X = X * 50 + 3000
    wanted = clone(last).set_params(tol=1e-10, max_iter=10**6).fit(X, y)

    found = fit_head(clone(last), X, y)

    if isinstance(last, LogisticRegression):  # liblinear doesn't come to an end here
        np.testing.assert_allclose(found.predict_proba(X), wanted.predict_proba(X), atol=1e-3)
    else:
        hinge = lambda one: (  # noqa: E731
            (one.coef_**2).sum() / 2
            + (one.intercept_**2).sum() / 2
            + (np.maximum(0, 1 - np.where(y == "b", 1, -1) * one.decision_function(X)) ** 2).sum()
        )
        assert hinge(found) <= hinge(wanted) * (1 + 1e-4)


def test_the_limit_of_iterations_and_the_tolerance_of_a_caller_hold() -> None:
    X, y = data(3, 320, 40, np.float32)
    with pytest.warns(ConvergenceWarning):
        fit_head(make_head("logreg", C=1e3, max_iter=1), X, y)
    loose = make_head("logreg", tol=1e-2)
    found, own = fit_head(clone(loose), X, y), clone(loose).fit(X, y)
    assert np.array_equal(found[-1].coef_, own[-1].coef_)


def test_one_block_of_columns_is_fitted_as_it_would_be_alone() -> None:
    X, y = data(2, 320, 40, np.float32)
    choice = LayerChoice("logreg", {"first": (0, 15), "second": (15, 40)})
    head = make_head(choice).set_params(columns__layer="second")

    found = fit_head(head, X, y)

    alone = fit_head(make_pipeline(StandardScaler(), make_head("logreg")[-1]), X[:, 15:], y)
    assert np.array_equal(found[-1].coef_, alone[-1].coef_)
    assert np.array_equal(found.predict(X), alone.predict(X[:, 15:]))
