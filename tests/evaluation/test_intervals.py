import numpy as np
import pytest
from scipy.stats import t

from featbank.evaluation.intervals import (
    bootstrap,
    corrected_t,
    estimates,
    resampled,
    wilson,
)
from featbank.evaluation.metrics import Meter


def made(n):
    """Return three classes' codes, and a guess that is right three times of four."""
    random = np.random.default_rng(0)
    y = random.integers(0, 3, n)
    return y, np.where(random.random(n) < 0.75, y, (y + 1) % 3)


def test_corrected_interval_by_hand():
    values = [0.8, 0.9, 0.85, 0.95]
    low, high = corrected_t(values, 1 / 3)
    half = t.ppf(0.975, 3) * np.sqrt((1 / 4 + 1 / 3) * np.var(values, ddof=1))
    assert (low, high) == pytest.approx((0.875 - half, 0.875 + half))
    assert corrected_t([0.7, 0.7], 0.25) == pytest.approx((0.7, 0.7))


def test_bootstrap_agrees_with_the_binomial_error_and_follows_its_seed():
    y, predicted = made(400)
    meter = Meter(y, predicted, None, None, 3)
    ends = bootstrap(meter, np.arange(400), seed=0)
    accuracy = meter()["accuracy"]
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 400)
    assert ends["accuracy"] == pytest.approx((accuracy - half, accuracy + half), abs=0.01)
    assert ends == bootstrap(meter, np.arange(400), seed=0)
    assert ends != bootstrap(meter, np.arange(400), seed=1)


def test_bootstrap_draws_units_whole_so_that_copies_narrow_nothing():
    y, predicted = made(200)
    alone = bootstrap(Meter(y, predicted, None, None, 3), np.arange(200), seed=0)["accuracy"]
    thrice = [np.repeat(v, 3) for v in (y, predicted, np.arange(200))]
    copies = bootstrap(Meter(*thrice[:2], None, None, 3), thrice[2], seed=0)["accuracy"]
    assert copies == pytest.approx(alone)


def test_one_image_has_no_interval():
    meter = Meter(np.array([0]), np.array([0]), None, None, 2)
    assert bootstrap(meter, np.array([0]), seed=0) == {}


def test_the_interval_of_the_calibration_error_holds_what_more_images_would_show():
    """Resamples alone would say that well calibrated probabilities are not."""
    random = np.random.default_rng(0)
    p = random.uniform(0.5, 1, size=2000)
    y = (random.random(2000) < p).astype(int)
    probability = np.column_stack([1 - p, p])
    meter = Meter(y, (p > 0.5).astype(int), None, probability, 2)
    low, high = bootstrap(meter, np.arange(2000), seed=0)["ece"]
    found = meter()["ece"]
    assert np.median(resampled(meter, np.arange(2000), seed=0)["ece"]) > 1.5 * found
    assert low < 0.3 * found
    assert found < high


def test_the_ends_of_resamples_leave_out_those_without_the_metric():
    y = np.array([0] * 30 + [1])
    scores = np.column_stack([-np.arange(31.0), np.arange(31.0)])
    meter = Meter(y, y, scores, None, 2)
    drawn = resampled(meter, np.arange(31), seed=0)["roc_auc"]
    assert 0.2 < np.isnan(drawn).mean() < 0.5  # those that miss the one image of class 1
    assert bootstrap(meter, np.arange(31), seed=0)["roc_auc"] == (1, 1)


def given(**metrics):
    return lambda weights=None: metrics


def test_parts_have_the_metrics_that_all_have_with_ends_where_the_metrics_end():
    parts = [given(accuracy=0.9, log_loss=3.0, roc_auc=0.5), given(accuracy=1.0, log_loss=1.0)]
    found = estimates(parts, [np.arange(10)] * 2, ratio=0.25, seed=0)
    low, high = corrected_t([0.9, 1.0], 0.25)
    assert list(found) == ["accuracy", "log_loss"]
    assert found["accuracy"].values == (0.9, 1.0)
    assert (found["accuracy"].low, found["accuracy"].high) == (max(low, 0.0), 1.0)
    assert high > 1
    assert found["log_loss"].high == corrected_t([3.0, 1.0], 0.25)[1]
    assert found["log_loss"].low == 0


def test_shares_that_are_all_alike_have_the_room_that_their_units_leave_and_others_no_interval():
    units = [np.array([0, 0, 1]), np.array([2, 3, 3])]
    found = estimates([given(accuracy=1.0, macro_f1=1.0)] * 2, units, ratio=0.25, seed=0)
    assert (found["accuracy"].low, found["accuracy"].high) == wilson(1.0, 4)
    assert np.isnan([found["macro_f1"].low, found["macro_f1"].high]).all()


def test_a_single_part_is_resampled():
    y, predicted = made(80)
    meter = Meter(y, predicted, None, None, 3)
    found = estimates([meter], [np.arange(80)], ratio=9.0, seed=1)
    for name, ends in bootstrap(meter, np.arange(80), seed=1).items():
        assert (found[name].low, found[name].high) == ends
