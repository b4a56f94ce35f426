import json

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
)

from featbank import cross_validate, learning_curve
from featbank.evaluation.baselines import baseline_line, baselines, label_baselines
from featbank.evaluation.multilabel.meter import average_precision
from featbank.evaluation.select import rank_features


@pytest.mark.parametrize("sizes", [[30, 70], [20, 50, 30]])
def test_the_majority_scores_as_scikit_learns_dummy(sizes):
    y = np.repeat(np.arange(len(sizes)), sizes)
    dummy = DummyClassifier(strategy="prior").fit(y[:, None], y)
    told, odds = dummy.predict(y[:, None]), dummy.predict_proba(y[:, None])
    found = baselines(sizes)["majority"]
    assert found["accuracy"] == pytest.approx(accuracy_score(y, told))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, told))
    assert found["macro_f1"] == pytest.approx(f1_score(y, told, average="macro"))
    assert found["log_loss"] == pytest.approx(log_loss(y, odds))
    if len(sizes) == 2:
        odds = odds[:, 1]
    assert found["brier"] == pytest.approx(brier_score_loss(y, odds))


def test_chance_is_right_as_often_as_random_labels():
    y = np.repeat([0, 1, 2], [300, 600, 100])
    random = np.random.default_rng(0)
    hits = [np.mean(random.permutation(y) == y) for _ in range(300)]
    assert baselines(np.bincount(y))["chance"]["accuracy"] == pytest.approx(np.mean(hits), abs=0.01)


def test_a_random_rank_has_the_prevalence_as_its_average_precision():
    random = np.random.default_rng(0)
    y = random.random((2000, 3)) < [0.1, 0.4, 0.7]
    areas = [average_precision(own, random.random(2000)) for own in y.T]
    found = label_baselines(y)
    assert found["chance"]["map"] == pytest.approx(np.mean(areas), abs=0.03)
    sets = np.unique(y, axis=0, return_counts=True)[1]
    assert found["majority"]["subset_accuracy"] == pytest.approx(sets.max() / 2000)


def test_every_table_has_its_baselines():
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], [60, 30])
    X = random.normal(size=(90, 4)) + y[:, None]
    result = cross_validate(X, y, "lda", tune=False, cv=3)
    lines = {line.split()[0]: line.split() for line in result.table().splitlines() if line}
    assert lines["(majority)"][1:3] == ["0.667", "0.500"]
    assert lines["(chance)"][1] == "0.556"
    assert lines["(class"][2] == "0.637"
    assert json.loads(json.dumps(result.to_dict()))["baselines"] == result.baselines

    told = "baselines: majority accuracy 0.667; chance accuracy 0.556"
    assert baseline_line(result.baselines, ["accuracy"]) == told
    ranking = rank_features({"a": X, "b": X[:, :1]}, y, "lda", cv=3)
    assert told in ranking.table()
    assert set(ranking.p_values) == {ranking.features[1].name}
    curve = learning_curve(X, y, "centroid", tune=False, draws=2)
    assert told in curve.table()
    assert curve.to_dict()["baselines"] == curve.baselines


def test_average_precision_has_the_prevalence_beside_it():
    random = np.random.default_rng(0)
    y = random.random((80, 2)) < [0.25, 0.5]
    X = random.normal(size=(80, 4)) + y[:, :1]
    result = cross_validate(X, y, "logreg", classes=["a", "b"], tune=False, cv=2)
    (line,) = (s for s in result.table(details=True).splitlines() if s.startswith("a "))
    assert line.split()[2] == f"{y[:, 0].mean():.3f}"
    assert f"{y.mean(axis=0).mean():.3f}" in result.table()
