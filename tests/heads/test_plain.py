from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from featbank.errors import ClassifierError
from featbank.heads import list_heads, make_head
from featbank.heads.adjusted import AdjustedHead
from featbank.heads.archive import dump_head, load_head
from featbank.heads.outputs import outputs
from featbank.heads.plain import PlainHead, softmax

PLAIN = ("lda", "linear-svm", "logreg", "mlp", "ridge", "svm")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(150, 8)).astype(np.float32)
NEW = np.vstack([X, 30 * RANDOM.normal(size=(200, 8))]).astype(np.float32)
SIDES = (X[:, 0] > 0) * 2 + (X[:, 1] > 0)  # four classes
LABELS = {
    "two": np.array(["left", "right"])[SIDES // 2],
    "four": np.array(["a", "b", "c", "d"])[SIDES],
    "many": SIDES * 5 + RANDOM.integers(5, size=150),
}


def fitted(name, y, **params):
    options = {"max_epochs": 3, "hidden": [6, 5]} if name == "mlp" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three epochs don't converge
        return make_head(name, random_state=0, **options, **params).fit(X, y)


def read(head, *, plain=True):
    text, found, notes = load_head(dump_head("{}", head), "x.skops", plain=plain)
    assert (text, notes) == ("{}", [])
    return found


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", list(LABELS))
@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_head_says_what_the_estimator_says(name, classes, dtype):
    head = fitted(name, LABELS[classes])
    rows = NEW.astype(dtype)

    plain = read(head)

    assert isinstance(plain, PlainHead)
    told, expected = outputs(plain, rows), outputs(head, rows)
    np.testing.assert_array_equal(told.codes, expected.codes)
    np.testing.assert_allclose(told.scores, expected.scores, rtol=1e-6, atol=1e-9)
    if expected.probability is None:
        assert told.probability is None
    else:
        assert told.probability.dtype == expected.probability.dtype or dtype == np.float16
        np.testing.assert_allclose(told.probability, expected.probability, atol=3e-7)
    np.testing.assert_array_equal(plain.predict(rows), head.predict(rows))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_plain_svm_standardises_where_that_was_chosen(dtype):
    head = fitted("svm", LABELS["four"], standardscaler=StandardScaler())
    rows = np.vstack([NEW, np.zeros_like(NEW[:1])]).astype(dtype)
    plain = read(head)
    assert isinstance(plain, PlainHead)
    told, expected = outputs(plain, rows), outputs(head, rows)
    np.testing.assert_array_equal(told.codes, expected.codes)
    np.testing.assert_allclose(told.scores, expected.scores, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("classes", ["two", "four"])
@pytest.mark.parametrize("name", list_heads())
def test_a_head_with_a_temperature_and_a_threshold_is_read_as_it_was(name, classes):
    threshold = 0.3 if classes == "two" else None
    head = AdjustedHead(fitted(name, LABELS[classes]), temperature=2.5, threshold=threshold)

    for plain in (False, True):
        found = read(head, plain=plain)
        assert isinstance(found.estimator, PlainHead) == (plain and name in PLAIN)
        told, expected = outputs(found, NEW), outputs(head, NEW)
        np.testing.assert_array_equal(told.codes, expected.codes)
        np.testing.assert_allclose(told.probability, expected.probability, atol=3e-7)


def test_a_plain_head_with_a_temperature_can_not_be_saved_either():
    head = AdjustedHead(fitted("ridge", LABELS["two"]), temperature=2.5)
    with pytest.raises(ClassifierError, match="copy its file"):
        dump_head("{}", read(head))


def test_every_head_is_read_one_way_or_the_other():
    for name in list_heads():
        assert isinstance(read(fitted(name, LABELS["two"])), PlainHead) == (name in PLAIN)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("svm", {"kernel": "linear"}),
        ("svm", {"kernel": "poly"}),
        ("svm", {"decision_function_shape": "ovo"}),
        ("svm", {"break_ties": True}),
        ("logreg", {"standardscaler__with_mean": False}),
        ("logreg", {"standardscaler__with_std": False}),
        ("ridge", {"fit_intercept": False}),
    ],
)
def test_a_head_of_another_make_stays_an_estimator(name, params):
    head = fitted(name, LABELS["four"], **params)

    found = read(head)

    assert not isinstance(found, PlainHead)
    np.testing.assert_array_equal(found.decision_function(NEW), head.decision_function(NEW))


def test_a_tie_between_two_classes_falls_as_in_libsvm():
    head = fitted("svm", LABELS["two"], gamma=1e6)
    head[-1]._intercept_[:] = 0.0
    far = np.array([[1, -1] * 4], np.float32)  # no support vector is near: the decision is 0
    assert head.decision_function(far) == 0

    assert read(head).predict(far) == head.predict(far)


def test_many_rows_are_taken_in_parts(monkeypatch):
    head = fitted("svm", LABELS["four"])
    monkeypatch.setattr("featbank.heads.plain._CELLS", 1000)  # a few rows at a time

    told = read(head).decision_function(NEW)

    np.testing.assert_allclose(told, head.decision_function(NEW), rtol=1e-9)


@pytest.mark.parametrize("name", PLAIN)
def test_what_an_estimator_refuses_a_plain_head_refuses(name):
    plain = read(fitted(name, LABELS["four"]))
    holes = [np.where(NEW > 50, np.float32(hole), NEW) for hole in (np.nan, np.inf)]
    for wrong in (NEW[:, :5], NEW[0], *holes):
        with pytest.raises(ValueError, match="X "):
            plain.predict(wrong)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_head_leaves_the_rows_as_they_are(name):
    rows = NEW.copy()
    outputs(read(fitted(name, LABELS["four"])), rows)
    np.testing.assert_array_equal(rows, NEW)


def test_softmax_knows_large_logits():
    np.testing.assert_allclose(softmax(np.array([[1000.0, 0.0], [3.0, 3.0]])), [[1, 0], [0.5, 0.5]])
