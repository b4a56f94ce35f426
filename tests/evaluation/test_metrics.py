import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from featbank.evaluation.metrics import Meter


def made(n_classes, n=300, seed=0):
    random = np.random.default_rng(seed)
    y = random.integers(n_classes, size=n)
    scores = random.normal(size=(n, n_classes)).round(1)  # rounding makes ties
    scores[np.arange(n), y] += 0.5
    probability = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return y, scores.argmax(axis=1), scores, probability, random.integers(0, 4, size=n) + 0.0


def brier(y, probability, w):
    return reference.brier_score_loss(y, probability, sample_weight=w, scale_by_half="auto")


def ece(y, probability, w):
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == y
    found = 0.0
    for low in range(15):
        rows = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if w[rows].sum():
            gap = np.average(right[rows] * 1.0 - confidence[rows], weights=w[rows])
            found += w[rows].sum() / w.sum() * abs(gap)
    return found


@pytest.mark.parametrize("n_classes", [2, 3, 12])
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_equal_scikit_learns(n_classes, weighted):
    y, predicted, scores, probability, w = made(n_classes)
    w = w if weighted else np.ones(len(y))
    found = Meter(y, predicted, scores, probability, n_classes)(w)
    k = {"sample_weight": w}
    if n_classes == 2:
        area = reference.roc_auc_score(y, scores[:, 1], **k)
    else:
        area = reference.roc_auc_score(y, probability, multi_class="ovr", **k)
    wanted = {
        "accuracy": reference.accuracy_score(y, predicted, **k),
        "balanced_accuracy": reference.balanced_accuracy_score(y, predicted, **k),
        "macro_f1": reference.f1_score(y, predicted, average="macro", **k),
        "log_loss": reference.log_loss(y, probability, **k),
        "brier": brier(y, probability, w),
        "ece": ece(y, probability, w),
        "roc_auc": area,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert ("top5_accuracy" in found) == (n_classes > 10)


def test_top5_equals_scikit_learns_and_counts_ties_against():
    y, predicted, scores, _, _ = made(12)
    scores = scores + np.random.default_rng(1).normal(size=scores.shape) * 1e-6
    found = Meter(y, predicted, scores, None, 12)()
    assert found["top5_accuracy"] == pytest.approx(reference.top_k_accuracy_score(y, scores, k=5))
    assert Meter(y, predicted, np.zeros((300, 12)), None, 12)()["top5_accuracy"] == 0


def test_what_is_not_defined_is_left_out():
    y, predicted, scores, _, _ = made(3)
    assert "log_loss" not in Meter(y, predicted, scores, None, 3)()
    basic = {"accuracy", "balanced_accuracy", "macro_f1"}
    assert set(Meter(y, predicted, None, None, 3)()) == basic
    one, predicted = y == 1, np.minimum(predicted, 1)
    assert set(Meter(y[one], predicted[one], scores[one][:, :2], None, 2)()) == basic


def test_a_certain_and_wrong_probability_costs_much_but_not_infinitely():
    loss = Meter(np.array([0]), np.array([1]), None, np.array([[0.0, 1.0]]), 2)()["log_loss"]
    assert 30 < loss < 40


def test_scores_of_classes_that_a_fit_did_not_know_are_ties():
    y = np.array([0, 1, 2, 2])
    scores = np.array([[1.0, 0.0, -np.inf]] * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Meter(y, np.zeros(4, int), scores, None, 3)()["roc_auc"] == 0.5


def test_several_classes_are_ranked_by_probability_for_logits_differ_from_row_to_row():
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 90)
    logits = 2.0 * np.eye(3)[y] + random.normal(size=(90, 3))
    shifted = logits + random.normal(scale=100, size=(90, 1))  # the same probabilities
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = Meter(y, logits.argmax(axis=1), shifted, probability, 3)()["roc_auc"]
    assert found == pytest.approx(reference.roc_auc_score(y, probability, multi_class="ovr"))


def test_log_loss_is_clipped_where_the_probabilities_end_as_scikit_learns_is():
    y = np.array([0, 1, 1])
    for dtype in (np.float32, np.float64):
        probability = np.array([[1, 0], [1, 0], [0, 1]], dtype=dtype)
        found = Meter(y, np.array([0, 0, 1]), None, probability, 2)()["log_loss"]
        assert found == pytest.approx(reference.log_loss(y, probability))


def test_probabilities_that_are_right_have_no_calibration_error_and_certain_wrong_ones_all_of_it():
    y = np.array([0, 0, 0, 1])
    right = np.tile([0.75, 0.25], (4, 1))
    assert Meter(y, np.zeros(4, int), None, right, 2)()["ece"] == pytest.approx(0)
    wrong = Meter(y, 1 - y, None, np.eye(2)[1 - y], 2)()
    assert (wrong["ece"], wrong["brier"]) == (1, 1)
