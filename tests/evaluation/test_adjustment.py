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


# SVC of three classes is left out: scikit-learn scales its votes.
NEARLY_ALIKE = [
    *((head, k) for head in (LogisticRegression(C=100), LinearSVC(), GaussianNB()) for k in (2, 3)),
    (SVC(), 2),
]


@pytest.mark.parametrize(("head", "n_classes"), NEARLY_ALIKE)
def test_a_temperature_gives_nearly_the_probabilities_of_scikit_learns_scaling(head, n_classes):
    """Nearly, because each row counts as its own class in part only."""
    X, y = made(n_classes)
    X = X.astype(np.float64)  # in float32 scikit-learn's 1 - p loses small probabilities
    folds = list(FOLDS.split(X, y))
    ours = fit_adjusted(head, X, y, folds, temperature=True, threshold=None)
    theirs = CalibratedClassifierCV(head, method="temperature", cv=folds, ensemble=False).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=0.03)
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
        p = np.log(p / p.sum(axis=1, keepdims=True))
        aim = np.where(np.eye(4)[y], 401 / 402, 1 / 402 / 3)
        return -(aim * p).sum(axis=1).mean()

    assert found > 2
    assert loss(found) <= min(loss(found * (1 + step)) for step in (-0.1, -1e-3, 1e-3, 0.1))


def test_a_few_rows_that_are_all_right_leave_room_for_doubt():
    logits = 5 * np.eye(2)[[0, 0, 0, 1, 1, 1]]
    p = 1 / (1 + np.exp(-5 / best_temperature(logits, np.array([0, 0, 0, 1, 1, 1]))))
    assert p == pytest.approx(7 / 8)


def test_rows_of_weight_0_do_not_count_for_the_temperature():
    logits = np.random.default_rng(0).normal(size=(90, 3))
    y = np.repeat([0, 1, 2], 30)
    weights = np.tile([0.0, 2.0], 45)
    assert best_temperature(logits, y, weights) == pytest.approx(
        best_temperature(logits[1::2], y[1::2])
    )


def test_the_probabilities_of_an_svc_of_several_classes_tell_sure_rows_from_unsure_ones():
    X, y = made(5, n=600, class_sep=1.5)
    folds = list(FOLDS.split(X[:300], y[:300]))
    head = fit_adjusted(SVC(), X[:300], y[:300], folds, temperature=True, threshold=None)
    p = head.predict_proba(X[300:])
    np.testing.assert_array_equal(p.argmax(axis=1), head.estimator.predict(X[300:]))
    of_votes = [
        AdjustedHead(head.estimator, temperature=t, votes=True) for t in np.geomspace(0.05, 5, 30)
    ]
    others = [log_loss(y[300:], one.predict_proba(X[300:])) for one in of_votes]
    assert log_loss(y[300:], p) < min(others) - 0.05


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
    effect = moved.threshold
    assert effect.before == plain.metrics[name]
    assert effect.after == moved.metrics[name]
    p = [1 / (1 + np.exp(-found["threshold"])) for found in moved.fold_learned]
    assert effect.probability == pytest.approx(np.mean(p))


@pytest.mark.parametrize(("calibrate", "unit"), [(None, "probability"), (False, "margin")])
def test_a_threshold_is_shown_with_its_metric_before_and_after(calibrate, unit):
    X, y = made(2, n=300, weights=[0.8], flip_y=0.1)
    words = {"cv": 3, "tune": False, "calibrate": calibrate}
    plain = cross_validate(X, y, "ridge", **words)["ridge"]
    result = cross_validate(X, y, "ridge", threshold="f1", **words)
    effect = result["ridge"].threshold
    told = plain.predictions
    by_hand = [
        f1_score(told.y_true[told.fold == k], told.y_pred[told.fold == k], pos_label=1)
        for k in range(3)
    ]
    assert effect.before.values == pytest.approx(by_hand)
    assert (effect.probability is None) == (unit == "margin")
    lines = result.table().splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("threshold by F1"))
    assert lines[at].split()[-4:] == ["before", "after", "1", "from"]
    assert f"{effect.before.mean:.3f} [" in lines[at + 1]
    assert f"{effect.after.mean:.3f} [" in lines[at + 1]
    value = effect.margin if effect.probability is None else effect.probability
    assert lines[at + 1].split()[-2] == unit
    assert float(lines[at + 1].split()[-1]) == pytest.approx(value, abs=0.01)
    json = result.to_dict()["heads"][0]["threshold"]
    assert (json["metric"], json["probability"]) == ("f1", effect.probability)


@pytest.mark.parametrize("head", ["svm", "linear-svm", "ridge"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_heads_with_margins_get_probabilities_and_keep_their_predictions(head, n_classes):
    X, y = made(n_classes)
    words = {"tune": False, "cv": 3}
    (plain,) = cross_validate(X, y, head, calibrate=False, **words).heads
    (found,) = cross_validate(X, y, head, **words).heads
    assert (plain.calibrated, found.calibrated) == (None, "temperature")
    assert plain.predictions.probability is None
    np.testing.assert_array_equal(plain.predictions.y_pred, found.predictions.y_pred)
    np.testing.assert_array_equal(
        found.predictions.probability.argmax(axis=1), found.predictions.y_pred
    )
    assert found.metrics["log_loss"].mean < np.log(n_classes)
    final = fit_final(X, y, head, tune=False)
    np.testing.assert_allclose(final.estimator.predict_proba(X).sum(axis=1), 1)


def test_heads_with_probabilities_keep_their_own():
    X, y = made(2)
    (found,) = cross_validate(X, y, "logreg", tune=False, cv=3).heads
    assert found.calibrated is None
    assert found.fold_learned == ()


def test_with_too_few_images_margins_stay_and_a_note_says_so():
    X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    y = ["a", "b"] * 2 + ["a", "c"]
    final = fit_final(X, y, "svm", tune=False)
    assert not hasattr(final.estimator, "predict_proba")
    assert any("too few images to calibrate" in note for note in final.notes)


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
        ({"calibrate": "isotonic"}, EvaluationError, "'isotonic' is unknown"),
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
