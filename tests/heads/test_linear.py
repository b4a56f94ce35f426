from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featbank.heads.linear import TOLERANCE, Design, Folds, Logistic, Softmax, SquaredHinge, solve

NEAR = 2 * TOLERANCE + float(np.finfo(np.float32).eps)
"""Of two objectives that were computed in float32."""


def data(k, n=300, d=40):
    X, y = make_classification(
        n, d, n_informative=12, n_classes=k, class_sep=0.8, flip_y=0.1, random_state=0
    )
    return (X @ np.diag(np.exp(np.arange(d) / 12))).astype(np.float32), y


def log_loss_of(W, b, Z, y, C, weights):
    """scikit-learn's objective of multinomial or binary logistic regression over C n, float64."""
    logits = Z @ W.T.astype(float) + b
    if logits.shape[1] == 1:
        logits = np.column_stack([np.zeros(len(Z)), logits[:, 0]])
    top = logits.max(axis=1)
    losses = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - logits[np.arange(len(y)), y]
    return weights @ losses / weights.sum() + (W.astype(float) ** 2).sum() / (2 * C * weights.sum())


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0, 100.0])
def test_the_objective_is_within_its_tolerance_of_the_minimum(k, C):
    X, y = data(k)
    design = Design(X)
    random = np.random.default_rng(0)
    masks = np.stack([random.random(len(X)) < 0.7 for _ in range(3)]).astype(float)
    weights = masks * random.uniform(0.5, 2, len(X))
    folds = Folds.of(design.Z, weights, masks)
    loss = Logistic(y) if k == 2 else Softmax(y)
    found = solve(design, loss, folds, np.full(3, C), outputs=1 if k == 2 else k)
    assert found.converged
    coef = found.coef(folds)
    for f in range(3):
        rows = masks[f] > 0
        Z = StandardScaler().fit(X[rows]).transform(X[rows].astype(float))
        tight = LogisticRegression(C=C, tol=1e-10, max_iter=20_000)
        tight.fit(Z, y[rows], sample_weight=weights[f, rows])
        least = log_loss_of(tight.coef_, tight.intercept_, Z, y[rows], C, weights[f, rows])
        ours = log_loss_of(coef[f], found.intercept[f], Z, y[rows], C, weights[f, rows])
        assert -1e-6 <= ours - least <= 1e-4
        assert found.objective[f] == pytest.approx(ours, abs=2e-6)


@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0])
def test_the_squared_hinge_is_that_of_linear_svc(C):
    X, y = data(3)
    design = Design(X)
    ones = np.ones((3, len(X)))
    folds = Folds.of(design.Z, ones, ones)
    loss = SquaredHinge(y == np.arange(3)[:, None])
    found = solve(design, loss, folds, np.full(3, C), outputs=1, tolerance=1e-6)
    Z = StandardScaler().fit_transform(X.astype(float))
    theirs = LinearSVC(C=C, tol=1e-10, max_iter=100_000, dual=True).fit(Z, y)

    def objective(w, b, sign):
        short = np.maximum(1 - sign * (Z @ w + b), 0)
        return (short**2).mean() + (w @ w + b * b) / (2 * C * len(Z))

    for c in range(3):
        sign = np.where(y == c, 1.0, -1.0)
        least = objective(theirs.coef_[c], theirs.intercept_[c], sign)
        ours = objective(found.coef(folds)[c, 0].astype(float), float(found.intercept[c, 0]), sign)
        assert -1e-6 <= ours - least <= 1e-5


def test_logits_of_rows_are_those_of_the_fold_scaled_by_itself():
    X, y = data(3)
    design = Design(X)
    mask = (np.arange(len(X)) % 3 > 0).astype(float)[None]
    folds = Folds.of(design.Z, mask, mask)
    found = solve(design, Softmax(y), folds, np.array([0.1]), outputs=3)
    Z = StandardScaler().fit(X[mask[0] > 0]).transform(X.astype(float))
    own = Z @ found.coef(folds)[0].T + found.intercept[0]
    np.testing.assert_allclose(found.logits[0].T, own, atol=2e-3)
    np.testing.assert_allclose(found.decide(design.Z[:7], folds)[0].T, own[:7], atol=2e-3)


def test_a_start_changes_the_way_and_not_the_end():
    X, y = data(2)
    design = Design(X)
    ones = np.ones((1, len(X)))
    folds = Folds.of(design.Z, ones, ones)
    first = solve(design, Logistic(y), folds, np.array([0.1]), outputs=1)
    cold = solve(design, Logistic(y), folds, np.array([1.0]), outputs=1)
    warm = solve(design, Logistic(y), folds, np.array([1.0]), outputs=1, start=first)
    assert warm.iterations < cold.iterations
    assert abs(warm.objective[0] - cold.objective[0]) <= NEAR


def test_two_starts_lead_further_than_one_to_the_same_end():
    X, y = data(5)
    design = Design(X)
    ones = np.ones((1, len(X)))
    folds = Folds.of(design.Z, ones, ones)

    def at(C, **starts):
        return solve(design, Softmax(y), folds, np.array([C]), outputs=5, **starts)

    first = at(0.1)
    second = at(1.0, start=first)
    one = at(10.0, start=second)
    two = at(10.0, start=second, before=first)
    kept = replace(second, logits=None), replace(first, logits=None)
    let_go = at(10.0, start=kept[0], before=kept[1])
    assert two.iterations < one.iterations
    assert let_go.iterations == two.iterations
    assert abs(one.objective[0] - two.objective[0]) <= 2 * NEAR


def test_problems_of_different_penalties_are_solved_side_by_side():
    X, y = data(2)
    design = Design(X)
    ones = np.ones((2, len(X)))
    folds = Folds.of(design.Z, ones, ones)
    both = solve(design, Logistic(y), folds, np.array([0.01, 1.0]), outputs=1)
    for i, C in enumerate((0.01, 1.0)):
        one = Folds(folds.weights[:1], folds.total[:1], folds.mean[:1], folds.scale[:1])
        alone = solve(design, Logistic(y), one, np.array([C]), outputs=1)
        assert abs(both.objective[i] - alone.objective[0]) <= NEAR
