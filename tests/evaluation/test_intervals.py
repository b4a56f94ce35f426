import numpy as np
import pytest
from scipy.stats import t

from featbank.evaluation.intervals import (
    LONE,
    Effects,
    bootstrap,
    corrected_t,
    estimates,
    resampled,
    seed_estimates,
    wilson,
)
from featbank.evaluation.metrics import Meter
from featbank.evaluation.multilabel.meter import LabelMeter


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


def numbers(meter, n):
    """Return the derivatives of every metric by the weight of each row, from differences."""
    step = 1e-6
    found = {}
    for i in range(n):
        up, down = (meter(np.ones(n) + sign * step * (np.arange(n) == i)) for sign in (1, -1))
        for name in up:
            found.setdefault(name, []).append((up[name] - down[name]) / (2 * step))
    return found


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_effects_are_the_derivatives_of_the_metrics(classes):
    random = np.random.default_rng(0)
    y = random.integers(0, classes, 90)
    odds = random.dirichlet(np.ones(classes), 90) + 0.3 * np.eye(classes)[y]
    odds = np.round(odds, 2) + 0.005  # some of equal score
    weight = random.uniform(0.5, 2, 90)
    meter = Meter(y, odds.argmax(axis=1), odds, odds, classes, weight)
    effects = meter.effects()
    assert set(effects) == set(meter())
    for name, values in numbers(meter, 90).items():
        assert effects[name] == pytest.approx(values, abs=1e-8)


def test_effects_of_several_labels_are_the_derivatives_of_the_metrics():
    random = np.random.default_rng(0)
    y = random.random((80, 4)) < 0.3
    scores = np.round(random.normal(size=(80, 4)) + y, 1)
    meter = LabelMeter(y, scores > 0.5, scores, random.uniform(0.5, 2, 80))
    effects = meter.effects()
    assert set(effects) == set(meter())
    for name, values in numbers(meter, 80).items():
        assert effects[name] == pytest.approx(values, abs=1e-8)


def judged(n=200, seed=0, classes=2):
    """Return a meter of rows with scores, right four times of five."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, n)
    scores = random.normal(size=(n, classes)) + 1.2 * np.eye(classes)[y]
    return Meter(y, scores.argmax(axis=1), scores, None, classes)


def split_in(k, meter):
    """Return the meters of a meter's rows in `k` folds, and their rows."""
    rows = np.array_split(np.random.default_rng(0).permutation(len(meter.y)), k)
    across = np.column_stack([-meter._across[1], meter._across[1]])
    parts = [Meter(meter.y[r], meter.predicted[r], across[r], None, 2) for r in rows]
    return parts, rows


def test_a_share_of_one_test_set_has_wilsons_interval():
    meter = judged()
    found = estimates([meter], [np.arange(200)])
    one = found["accuracy"]
    assert one.mean == meter()["accuracy"]
    assert (one.low, one.high) == pytest.approx(wilson(one.mean, 199, t.ppf(0.975, 199)))
    assert found["roc_auc"].low < found["roc_auc"].mean < found["roc_auc"].high < 1


def test_folds_without_repeats_are_one_test_set_a_fifth_wider():
    meter = judged()
    parts, rows = split_in(5, meter)
    alone = estimates([meter], [np.arange(200)])
    folds = estimates(parts, rows)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc"):
        width = (folds[name].high - folds[name].low) / (alone[name].high - alone[name].low)
        assert width == pytest.approx(LONE, rel=0.05), name


def test_repeats_bring_no_new_images():
    """The same predictions five times are worth what they are worth once."""
    parts, rows = split_in(5, judged())
    once, often = Effects.of(parts, rows), Effects.of(parts * 5, rows * 5)
    assert once.lone
    assert not often.lone
    for name in once.by_name:
        assert often.error(name) == pytest.approx(once.error(name) / LONE)


def test_copies_and_groups_are_one_observation():
    meter, rows = judged(), np.arange(200)
    thrice = Meter(np.repeat(meter.y, 3), np.repeat(meter.predicted, 3), None, None, 2)
    alone = estimates([meter], [rows])["accuracy"]
    copies = estimates([thrice], [np.repeat(rows, 3)])["accuracy"]
    assert (copies.low, copies.high) == pytest.approx((alone.low, alone.high))


def test_few_groups_have_students_quantile():
    meter = judged()
    groups = np.arange(200) % 4
    effects = Effects.of([meter], [groups])
    assert effects.quantile == pytest.approx(t.ppf(0.975, 3))
    hits = (meter.y == meter.predicted).astype(float)
    sums = np.bincount(groups, hits - hits.mean()) / 200
    assert effects.error("accuracy") == pytest.approx(np.sqrt((sums**2).sum() * 4 / 3))


def test_ends_stay_where_the_metrics_end():
    y = np.repeat([0, 1], 5)
    odds = np.clip(np.column_stack([1 - y, y]) * 0.98 + 0.01, 0, 1)
    odds[0] = [0.001, 0.999]
    meter = Meter(y, odds.argmax(axis=1), odds, odds, 2)
    found = estimates([meter], [np.arange(10)])
    for name, one in found.items():
        assert one.low >= 0, name
        assert one.high <= 1 or name == "log_loss"
    assert found["log_loss"].low == 0


def test_shares_that_are_all_alike_have_the_room_that_their_units_leave_and_others_no_interval():
    y = np.array([0, 0, 1, 1])
    meters = [Meter(y, y, None, None, 2)] * 2
    found = estimates(meters, [np.array([0, 0, 1, 1]), np.array([2, 2, 3, 3])])
    assert (found["accuracy"].low, found["accuracy"].high) == wilson(1.0, 4, t.ppf(0.975, 3))
    assert np.isnan([found["macro_f1"].low, found["macro_f1"].high]).all()


def test_parts_have_the_metrics_that_all_have():
    y = np.array([0, 1, 1])
    some = Meter(y, y, np.column_stack([1 - y, y]), None, 2)
    one_class = Meter(y[1:], y[1:], np.ones((2, 2)), None, 2)
    found = estimates([some, one_class], [np.arange(3), np.arange(3, 5)])
    assert "roc_auc" in some()
    assert "roc_auc" not in found
    assert found["accuracy"].values == (1, 1)


def test_the_end_of_the_calibration_error_leaves_room_for_what_chance_adds():
    """Right probabilities have an error above 0 in so few rows, and 0 is within."""
    random = np.random.default_rng(0)
    p = random.uniform(0.5, 1, size=300)
    y = (random.random(300) < p).astype(int)
    meter = Meter(y, (p > 0.5).astype(int), None, np.column_stack([1 - p, p]), 2)
    one = estimates([meter], [np.arange(300)])["ece"]
    assert one.low == 0 < 0.03 < one.mean < one.high


def test_one_test_set_of_a_protocol_is_resampled_and_seeds_have_students_interval():
    meter = judged(80)
    found = seed_estimates([meter], [np.arange(80)], seed=1)
    for name, ends in bootstrap(meter, np.arange(80), seed=1).items():
        assert (found[name].low, found[name].high) == ends
    several = seed_estimates([judged(80, seed) for seed in range(3)], [np.arange(80)] * 3, seed=1)
    one = several["accuracy"]
    half = t.ppf(0.975, 2) * np.std(one.values, ddof=1) / np.sqrt(3)
    assert one.low == pytest.approx(one.mean - half)
