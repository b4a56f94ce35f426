import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import SVC, LinearSVC

from featbank.errors import EvaluationError, HeadError
from featbank.evaluation import cross_validate, fit_final
from featbank.evaluation.adjustment import (
    THRESHOLDS,
    best_temperature,
    best_threshold,
    fit_adjusted,
)
from featbank.evaluation.fitting import Candidate
from featbank.heads.adjusted import AdjustedHead
from tests.evaluation import spy


def made(n_classes=3, n=240, **options):
    X, y = make_classification(
        n, 12, n_informative=8, n_classes=n_classes, random_state=0, **options
    )
    return X.astype(np.float32), y


FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("head", [LogisticRegression(C=100), LinearSVC(), SVC(), GaussianNB()])
def test_a_temperature_gives_the_probabilities_of_scikit_learns_scaling(n_classes, head):
    X, y = made(n_classes)
    X = X.astype(np.float64)  # in float32 scikit-learn's 1 - p loses small probabilities
    folds = list(FOLDS.split(X, y))
    ours = fit_adjusted(head, X, y, folds, temperature=True, threshold=None)
    theirs = CalibratedClassifierCV(head, method="temperature", cv=folds, ensemble=False).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=2e-4)
    np.testing.assert_array_equal(ours.predict(X), ours.estimator.predict(X))


def test_whole_numbers_that_are_no_codes_are_classes_like_others():
    X, y = made(2)
    folds = list(FOLDS.split(X, y))
    words = {"temperature": True, "threshold": "f1"}
    one, other = (fit_adjusted(LinearSVC(), X, v, folds, **words) for v in (y, 7 * y + 3))
    assert one.learned == other.learned
    np.testing.assert_array_equal(7 * one.predict(X) + 3, other.predict(X))


def test_temperature_one_leaves_the_probabilities_of_logistic_regression():
    for n_classes in (2, 3):
        X, y = made(n_classes)
        head = LogisticRegression().fit(X, y)
        adjusted = AdjustedHead(head, temperature=1.0)
        np.testing.assert_allclose(adjusted.predict_proba(X), head.predict_proba(X), atol=1e-6)


def test_no_other_temperature_has_a_lower_loss():
    random = np.random.default_rng(0)
    y = random.integers(4, size=400)
    logits = 6 * (np.eye(4)[y] + random.normal(size=(400, 4)))  # far too certain
    found = best_temperature(logits, y)

    def loss(temperature):
        p = np.exp(logits / temperature)
        return log_loss(y, p / p.sum(axis=1, keepdims=True))

    assert found > 2
    assert loss(found) <= min(loss(found * (1 + step)) for step in (-0.1, -1e-3, 1e-3, 0.1))


METRICS = {
    "accuracy": accuracy_score,
    "balanced_accuracy": balanced_accuracy_score,
    "macro_f1": lambda y, p: f1_score(y, p, average="macro"),
    "f1": lambda y, p: f1_score(y, p, pos_label=int(np.bincount(y).argmin())),
}


@pytest.mark.parametrize("metric", THRESHOLDS)
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_no_other_threshold_is_better_and_none_as_good_is_nearer_to_0(metric, share):
    random = np.random.default_rng(1)
    y = (random.random(120) < share).astype(int)
    margin = (random.normal(size=120) + 2 * y).round(1)  # with ties
    found = best_threshold(margin, y, metric)
    ends = np.unique(margin)
    cuts = (ends[1:] + ends[:-1]) / 2
    scores = np.array([METRICS[metric](y, (margin > cut).astype(int)) for cut in cuts])
    best = cuts[scores >= scores.max() - 1e-12]
    assert found == best[np.abs(best).argmin()]


def test_where_nothing_tells_cuts_apart_the_heads_own_stays():
    assert best_threshold(np.ones(6), np.array([0, 1] * 3), "accuracy") == 0
    assert best_threshold(np.arange(6.0), np.ones(6, int), "accuracy") == 0


def test_calibration_and_threshold_never_see_the_scored_rows(monkeypatch):
    spy.FITS.clear()
    monkeypatch.setattr(spy.Spy, "predict_proba", lambda self, X: self.dummy_.predict_proba(X),
                        raising=False)  # fmt: skip
    monkeypatch.setattr(Candidate, "grid", lambda self, n_samples=None: {"C": [1.0, 2.0]})
    X = np.column_stack([np.arange(120), np.random.default_rng(0).normal(size=120)])
    y = ["a", "b"] * 60
    result = cross_validate(X, y, spy.Spy(), calibrate="temperature", threshold="accuracy")
    told = result.heads[0].predictions
    each = 2 * 3 + 3 + 1
    assert len(spy.FITS) == 5 * each
    for number, (_, seen) in enumerate(spy.FITS):
        assert not seen & set(told.rows[told.fold == number // each])


def test_a_threshold_for_balanced_accuracy_raises_it_where_classes_differ_in_size():
    X, y = made(2, n=900, weights=[0.9], flip_y=0.05, class_sep=0.7)
    words = {"cv": 3, "tune": False}
    plain = cross_validate(X, y, "logreg", **words)["logreg"]
    moved = cross_validate(X, y, "logreg", threshold="balanced_accuracy", **words)["logreg"]
    name = "balanced_accuracy"
    assert moved.metrics[name].mean > plain.metrics[name].mean + 0.02
    assert moved.metrics["roc_auc"] == plain.metrics["roc_auc"]
    assert len({found["threshold"] for found in moved.fold_learned}) == 3


def test_calibration_stands_beside_what_was_before_it():
    X, y = made(3, n=300, flip_y=0.3)
    words = {"tune": False, "cv": 3}
    options = {"params": {"C": 1e3}, **words}
    plain = cross_validate(X, y, "logreg", **options)["logreg"]
    scaled = cross_validate(X, y, "logreg", calibrate="temperature", **options)["logreg"]
    assert scaled.uncalibrated == {n: plain.metrics[n] for n in ("log_loss", "brier", "ece")}
    assert scaled.metrics["log_loss"].mean < plain.metrics["log_loss"].mean
    assert scaled.metrics["accuracy"] == plain.metrics["accuracy"]
    assert all(found["temperature"] > 1 for found in scaled.fold_learned)
    svm = cross_validate(X, y, "svm", calibrate="temperature", **words)
    assert svm["svm"].uncalibrated is None
    assert "svm, temperature" in svm.table()
    assert svm["svm"].predictions.probability is not None


def test_the_final_fit_learns_from_valid_where_there_is_one():
    X, y = made(2)
    splits = np.repeat(["train", "valid", "test"], 80)
    final = fit_final(X, y, "ridge", splits=splits, tune=False, calibrate="temperature")
    folds = [(np.arange(80), np.arange(80, 160))]
    by_hand = fit_adjusted(
        fit_unfitted("ridge"), X[:160], y[:160], folds, temperature=True, threshold=None
    )
    assert final.learned == by_hand.learned
    np.testing.assert_array_equal(final.estimator.predict_proba(X), by_hand.predict_proba(X))


def fit_unfitted(name):
    from featbank import make_head

    return make_head(name, random_state=0)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"threshold": "f2"}, EvaluationError, "threshold 'f2' is unknown"),
        ({"threshold": "f1", "classes": 3}, EvaluationError, "parts two classes, and there are 3"),
        ({"threshold": "f1", "calibrate": True}, EvaluationError, "choose one of the two"),
        ({"calibrate": "isotonic"}, EvaluationError, "not 'isotonic'"),
        ({"calibrate": "temperature", "head": spy.Spy()}, HeadError, "neither a decision function"),
    ],
)
def test_what_can_not_be_adjusted_is_said(options, error, words):
    X, y = made(options.pop("classes", 2), n=60)
    with pytest.raises(error, match=words):
        cross_validate(X, y, **{"head": "ridge", "tune": False, "cv": 2, **options})


def test_too_few_images_to_learn_a_temperature_from_are_refused():
    with pytest.raises(HeadError, match="too few images to calibrate or choose a threshold"):
        cross_validate(np.eye(4), ["a", "a", "b", "b"], "ridge", calibrate="temperature")
