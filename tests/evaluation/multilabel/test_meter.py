import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from featbank.evaluation.multilabel.meter import LabelMeter, average_precision

RANDOM = np.random.default_rng(0)
Y = RANDOM.random((80, 4)) < 0.3
SCORES = np.round(Y + RANDOM.normal(size=Y.shape), 1)  # with ties
CALLED = SCORES > 0.5


def by_scikit_learn(y, called, scores):
    return {
        "map": average_precision_score(y, scores, average="macro"),
        "macro_f1": f1_score(y, called, average="macro"),
        "micro_f1": f1_score(y, called, average="micro"),
        "subset_accuracy": accuracy_score(y, called),
    }


def test_the_metrics_are_scikit_learns():
    assert LabelMeter(Y, CALLED, SCORES)() == pytest.approx(by_scikit_learn(Y, CALLED, SCORES))


def test_weights_are_repetitions():
    times = RANDOM.integers(0, 4, len(Y))
    rows = np.repeat(np.arange(len(Y)), times)
    found = LabelMeter(Y, CALLED, SCORES)(times.astype(float))
    assert found == pytest.approx(by_scikit_learn(Y[rows], CALLED[rows], SCORES[rows]))


def test_a_label_that_does_not_occur_has_no_average_precision():
    absent = Y.copy()
    absent[:, 2] = False
    meter = LabelMeter(absent, CALLED, SCORES)
    areas = meter.average_precision()
    assert np.isnan(areas[2])
    assert meter()["map"] == pytest.approx(np.mean(areas[[0, 1, 3]]))
    assert np.isnan(average_precision(absent[:, 2], SCORES[:, 2]))


def test_without_any_label_only_the_share_of_right_rows_is_defined():
    nothing = np.zeros_like(Y)
    assert LabelMeter(nothing, nothing, SCORES)() == {"subset_accuracy": 1.0}
