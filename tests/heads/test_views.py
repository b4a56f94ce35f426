from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold

from featbank.errors import HeadError
from featbank.heads import grid, make_head
from featbank.heads.archive import dump_head, load_head
from featbank.heads.choice import LAYER, LayerChoice, ViewChoice
from featbank.heads.registry import head_name
from featbank.heads.soundness import complaint
from featbank.heads.sweep import grid_search, sweep

RANDOM = np.random.default_rng(0)
N, V, D = 90, 3, 6
Y = np.array(["a", "b", "c"])[np.arange(N) % 3]
OWN = RANDOM.normal(size=(N, 1, D)) + 1.5 * np.eye(3, D)[np.arange(N) % 3][:, None]
X = (OWN + 0.8 * RANDOM.normal(size=(N, V, D))).reshape(N, V * D).astype(np.float32)
FOLDS = list(StratifiedKFold(3).split(X, Y))
PROBABLE, DECIDING = ["logreg", "knn", "lda"], ["svm", "linear-svm", "ridge"]


def viewed(head: Any, combine: str) -> Any:
    return make_head(ViewChoice(head, V, combine), random_state=0)


def by_hand(head: str, combine: str, labels: np.ndarray) -> np.ndarray:
    """Predict X by a head that learned from its first two thirds, with loops."""
    train, classes = slice(0, 60), np.unique(labels)
    views = X.reshape(N, V, D)
    if combine == "decisions":
        plain = make_head(head, random_state=0).fit(views[train, 0], labels[train])
    else:
        rows = np.concatenate([views[train, v] for v in range(V)])
        plain = make_head(head, random_state=0).fit(rows, np.tile(labels[train], V))
    said = plain.predict_proba if hasattr(plain, "predict_proba") else plain.decision_function
    mean = sum(said(views[:, v]) for v in range(V)) / V
    return classes[mean.argmax(axis=1) if mean.ndim == 2 else (mean > 0).astype(int)]


@pytest.mark.parametrize("combine", ["decisions", "train"])
@pytest.mark.parametrize("head", [*PROBABLE, *DECIDING])
@pytest.mark.parametrize("classes", [2, 3])
def test_views_are_combined_as_by_hand(head: str, combine: str, classes: int) -> None:
    labels = Y if classes == 3 else np.where(Y == "a", "a", "b")
    fitted = viewed(head, combine).fit(X[:60], labels[:60])

    np.testing.assert_array_equal(fitted.predict(X), by_hand(head, combine, labels))
    assert fitted.n_features_in_ == V * D
    assert hasattr(fitted, "predict_proba") == (head in PROBABLE)
    if head in PROBABLE:
        told = fitted.predict_proba(X)
        np.testing.assert_allclose(told.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(fitted.classes_[told.argmax(axis=1)], fitted.predict(X))
    else:
        assert fitted.decision_function(X).shape == ((N,) if classes == 2 else (N, 3))


@pytest.mark.parametrize("combine", ["decisions", "train"])
@pytest.mark.parametrize("head", [*PROBABLE, *DECIDING])
def test_a_sweep_scores_what_a_search_over_images_would(head: str, combine: str) -> None:
    estimator, values = viewed(head, combine), grid(ViewChoice(head, V, combine), n_samples=60)
    values = {key: choices[-4:] for key, choices in values.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = sweep(estimator, values, X, Y, FOLDS, scoring="accuracy")
        whole = grid_search(clone(estimator), values, X, Y, FOLDS, scoring="accuracy")

    known = ~np.isnan(found.scores)
    assert known.any()
    np.testing.assert_allclose(found.scores[known], whole.scores[known], atol=1 / 30 + 1e-9)
    assert np.abs(found.scores[known] - whole.scores[known]).mean() < 0.005


@pytest.mark.parametrize("scoring", ["accuracy", "f1_macro", "roc_auc_ovr", "neg_log_loss"])
def test_a_sweep_by_any_metric_takes_the_fast_way_and_the_slow_one_to_one_score(
    scoring: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator, values = viewed("logreg", "train"), {"logisticregression__C": [1e-3, 1e-1]}
    fast = sweep(estimator, values, X, Y, FOLDS, scoring=scoring)
    monkeypatch.setattr("featbank.heads.sweep.as_task", lambda *args: None)
    slow = sweep(estimator, values, X, Y, FOLDS, scoring=scoring)

    np.testing.assert_allclose(fast.scores, slow.scores, atol=2e-3)


def test_weights_of_images_count_for_their_views() -> None:
    weights = np.arange(N) % 2 + 0.0
    names = {"standardscaler__sample_weight": weights, "logisticregression__sample_weight": weights}
    kept = weights > 0
    for combine in ("decisions", "train"):
        weighed = viewed("logreg", combine).fit(X, Y, **names)
        alone = viewed("logreg", combine).fit(X[kept], Y[kept])
        np.testing.assert_allclose(weighed.predict_proba(X), alone.predict_proba(X), atol=1e-3)
        values = {"logisticregression__C": [0.01]}
        found = sweep(viewed("logreg", combine), values, X, Y, FOLDS, **names)
        folds = [(rows[kept[rows]], held) for rows, held in FOLDS]
        assert found.scores == pytest.approx(
            sweep(viewed("logreg", combine), values, X, Y, folds).scores
        )


class Voter(ClassifierMixin, BaseEstimator):
    """Says the class of the largest of the first three features, and no more."""

    def fit(self, X: Any, y: Any) -> Voter:
        self.classes_, self.n_features_in_ = np.unique(y), X.shape[1]
        return self

    def predict(self, X: Any) -> Any:
        return self.classes_[X[:, :3].argmax(axis=1)]


def test_a_head_without_probabilities_and_decisions_lets_views_vote() -> None:
    fitted = viewed(Voter(), "decisions").fit(X, Y)

    votes = X.reshape(N, V, D)[:, :, :3].argmax(axis=2)
    counts = np.stack([(votes == k).sum(axis=1) for k in range(3)], axis=1)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[counts.argmax(axis=1)])
    assert not hasattr(fitted, "predict_proba")


def test_a_layer_is_chosen_among_views() -> None:
    blocks = {"noise": (3, 6), "signal": (0, 3)}
    choice = ViewChoice(LayerChoice("ridge", blocks), V, "train")

    assert head_name(choice) == "ridge"
    found = sweep(make_head(choice), grid(choice), X, Y, FOLDS, scoring="accuracy")
    assert found.best_params[LAYER] == "signal"
    parts = X.reshape(N, V, D)[:, :, :3].reshape(N, -1)
    alone = sweep(viewed("ridge", "train"), grid("ridge"), parts, Y, FOLDS, scoring="accuracy")
    assert found.best_score == alone.best_score


@pytest.mark.parametrize("combine", ["decisions", "train"])
def test_a_saved_head_answers_as_before_without_pickle(combine: str) -> None:
    fitted = viewed("svm", combine).fit(X, Y)

    text, again, _ = load_head(dump_head("{}", fitted), "svm.skops", plain=True)

    assert text == "{}"
    np.testing.assert_array_equal(again.decision_function(X), fitted.decision_function(X))
    again.views = 0
    assert "contradicts itself" in complaint(again)


def test_an_unknown_combination_is_refused() -> None:
    with pytest.raises(HeadError, match="by decisions or train, not by 'mean'"):
        viewed("svm", "mean")
    fitted = viewed("svm", "train").fit(X, Y)
    with pytest.raises(ValueError, match="rows of 3 views side by side"):
        fitted.predict(X[:, :-1])
