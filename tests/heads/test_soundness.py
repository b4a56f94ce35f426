from __future__ import annotations

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from featbank.heads import list_heads, make_head
from featbank.heads.adjusted import AdjustedHead
from featbank.heads.soundness import complaint

X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
Y = np.array(["a", "b", "c"])[np.arange(30) % 3]


@pytest.mark.parametrize("name", sorted(set(list_heads()) - {"mlp"}))
def test_our_own_heads_are_sound(name):
    assert complaint(make_head(name)) == ""
    assert complaint(make_head(name).fit(X, Y)) == ""


def test_a_head_that_is_run_many_times_over_is_refused():
    head = make_head("ridge").fit(X, Y)
    for _ in range(40):  # each level runs the one below it twice
        head = Pipeline([("a", head), ("b", head)])
    assert "more than a head of ours" in complaint(head)


def test_a_head_that_contains_itself_is_refused():
    head = make_head("ridge").fit(X, Y)
    head.steps.append(("again", head))
    assert "contains itself" in complaint(head)


def test_lists_in_lists_without_end_are_refused():
    head = make_head("ridge").fit(X, Y)
    head.more_ = []
    for _ in range(40):
        head.more_ = [head.more_, head.more_]
    assert complaint(head)


@pytest.mark.parametrize("classes", [["b", "a"], ["a", "a"], [[1, 2]], [1.0, np.nan], []])
def test_classes_that_are_not_sorted_and_distinct_are_refused(classes):
    head = make_head("ridge").fit(X, Y)
    head[-1].__dict__["classes_"] = np.array(classes)
    assert complaint(head)


@pytest.mark.parametrize("name", ["svm", "knn"])
def test_a_type_that_the_caller_vouches_for_may_be_as_it_likes(name):
    head = make_head(name).fit(X, Y)
    last = head[-1]
    setattr(last, "kernel" if name == "svm" else "_fit_method", "x")
    assert complaint(head)
    assert complaint(head, (f"{type(last).__module__}.{type(last).__name__}",)) == ""


def test_a_temperature_and_a_threshold_are_numbers_that_can_be():
    two = make_head("ridge").fit(X, Y == "a")
    assert complaint(AdjustedHead(two, temperature=0.5, threshold=-1.0)) == ""
    nonsense = [0.0, -1.0, np.inf, np.nan, "hot", 1]
    for temperature in nonsense:
        assert "AdjustedHead" in complaint(AdjustedHead(two, temperature=temperature))
    for threshold in nonsense[3:]:
        assert "AdjustedHead" in complaint(AdjustedHead(two, threshold=threshold))
    assert complaint(AdjustedHead(make_head("ridge").fit(X, Y), threshold=0.0))
    assert complaint(AdjustedHead(["ridge"], threshold=0.0))
