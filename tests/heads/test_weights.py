import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from featbank.errors import EvaluationError, HeadError
from featbank.heads import make_head
from featbank.heads.weights import by_step, checked_weights, of_classes, weigh_classes


def test_every_step_that_takes_weights_gets_them():
    weights = np.ones(3)
    assert set(by_step(make_head("svm"), "svm", weights)) == {
        "standardscaler__sample_weight",
        "svc__sample_weight",
    }
    assert set(by_step(RandomForestClassifier(), "forest", weights)) == {"sample_weight"}


@pytest.mark.parametrize("head", ["knn", "centroid", "lda"])
def test_a_head_that_takes_no_weights_names_those_that_do(head):
    taking = "linear-svm, logreg, mlp, ridge, svm"
    with pytest.raises(HeadError, match=f"{head!r} takes no sample_weight.*: {taking}"):
        by_step(make_head(head), head, np.ones(3))
    with pytest.raises(HeadError, match=f"{head!r} takes no class_weight.*: {taking}"):
        weigh_classes(make_head(head), head, "balanced")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0, 2.0], r"shape \(2,\)"),
        ([1.0, -1.0, 1.0], "row 1 is -1"),
        ([1.0, 1.0, np.nan], "row 2 is nan"),
        ([1.0, np.inf, 1.0], "row 1 is inf"),
        ([0.0, 0.0, 0.0], "all sample weights are 0"),
        (["a", "b", "c"], "something else than numbers"),
    ],
)
def test_weights_that_can_not_be_used_are_named(weights, said):
    with pytest.raises(EvaluationError, match=said):
        checked_weights(weights, 3)


def test_class_weights_are_completed_and_keep_the_kind_of_the_classes():
    assert of_classes({"b": 2}, np.array(["a", "b"])) == {"a": 1.0, "b": 2.0}
    assert of_classes({"1": 3}, np.array([0, 1])) == {0: 1.0, 1: 3.0}
    assert of_classes("balanced", np.array([0, 1])) == "balanced"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"anx": 2}, "'anx', which is no class; did you mean ant"),
        ({"ant": -1}, "weight of class 'ant' is -1"),
        ({"ant": "much"}, "weight of class 'ant' is 'much'"),
        ([1, 2], "'balanced' or a number for each class"),
    ],
)
def test_class_weights_that_can_not_be_used_are_named(given, said):
    with pytest.raises(EvaluationError, match=said):
        of_classes(given, np.array(["ant", "bee"]))
