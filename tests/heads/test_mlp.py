import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits, make_classification
from sklearn.utils.estimator_checks import parametrize_with_checks

from featbank.heads.mlp import MLPHead

EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": (
        "rows are held out and put into batches at random, so a repeated row is not the same as "
        "a row of twice the weight"
    ),
}


@parametrize_with_checks(
    [MLPHead(hidden=16, max_epochs=60, learning_rate=0.02, batch_size=16, random_state=0)],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
)
def test_is_a_scikit_learn_classifier(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X[:900] / 16).astype(np.float32), y[:900]


def test_learns_digits_and_stops_early(digits):
    X, y = digits
    head = MLPHead(random_state=0, learning_rate=5e-3, patience=3).fit(X[:600], y[:600])
    assert head.score(X[600:], y[600:]) > 0.85
    assert head.n_iter_ < head.max_epochs
    assert head.n_held_out_ == 60


def test_keeps_the_weights_of_the_lowest_held_out_loss():
    X, y = make_classification(120, 30, n_informative=4, flip_y=0.3, random_state=0)
    settings = {"learning_rate": 0.02, "patience": 4, "random_state": 3, "batch_size": 32}
    head = MLPHead(**settings).fit(X, y)
    losses = head.history_["valid_loss"]
    best = int(np.argmin(losses)) + 1
    assert best < len(losses)
    at_best = MLPHead(**settings, max_epochs=best).fit(X, y)
    for kept, wanted in zip(head.coefs_, at_best.coefs_, strict=True):
        np.testing.assert_array_equal(kept, wanted)


def test_same_seed_same_network_and_the_global_generator_untouched(digits):
    X, y = digits[0][:200], digits[1][:200]
    np.random.seed(7)  # noqa: NPY002
    after = np.random.RandomState(7).random_sample()
    first, second, other = (MLPHead(max_epochs=3, random_state=s).fit(X, y) for s in (1, 1, 2))
    assert np.random.random_sample() == after  # noqa: NPY002
    np.testing.assert_array_equal(first.coefs_[0], second.coefs_[0])
    assert not np.array_equal(first.coefs_[0], other.coefs_[0])


def test_predictions_are_those_of_the_layers(digits):
    X, y = digits[0][:200], digits[1][:200]
    head = MLPHead(hidden=(32, 16), max_epochs=5, random_state=0).fit(X, y)
    values = X.astype(np.float64)
    for coef, intercept in zip(head.coefs_[:-1], head.intercepts_[:-1], strict=True):
        values = np.maximum(values @ coef + intercept, 0)
    logits = values @ head.coefs_[-1] + head.intercepts_[-1]
    np.testing.assert_allclose(head.predict_proba(X), softmax(logits, axis=1), atol=1e-5)
    assert [c.shape for c in head.coefs_] == [(64, 32), (32, 16), (16, 10)]
    assert all(c.dtype == np.float32 for c in head.coefs_)


def test_too_few_rows_to_hold_out_by_class_trains_all_epochs():
    X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    head = MLPHead(max_epochs=4, random_state=0).fit(X, ["a", "a", "a", "a", "b", "b", "c"])
    assert head.n_held_out_ == 0
    assert head.n_iter_ == 4
    assert list(head.history_) == ["train_loss"]


def test_class_weights_move_the_decision_towards_the_rare_class():
    X, y = make_classification(400, 10, weights=[0.9], class_sep=0.5, flip_y=0, random_state=0)
    plain = MLPHead(random_state=0).fit(X, y)
    balanced = MLPHead(random_state=0, class_weight="balanced").fit(X, y)
    assert balanced.predict(X).sum() > plain.predict(X).sum()


def test_rows_of_no_weight_teach_nothing():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    wrong = np.arange(200) % 2 == 0
    labels = np.where(wrong, 1 - y, y)
    head = MLPHead(random_state=0, learning_rate=0.01).fit(X, labels, (~wrong).astype(float))
    assert head.score(X, y) > 0.9


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"there is .* cuda device"):
        MLPHead(device="cuda:99").fit(np.eye(4), [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden", 0), ("dropout", 1.0), ("learning_rate", 0), ("batch_size", 0), ("patience", 0),
     ("max_epochs", 0), ("validation_fraction", 1.0), ("weight_decay", -1)],
)  # fmt: skip
def test_a_parameter_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        MLPHead(**{name: value}).fit(np.eye(4), [0, 1, 0, 1])
