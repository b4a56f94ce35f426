from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from featbank.errors import EvaluationError
from featbank.evaluation.advice import Advice, Figures, decide, measure
from featbank.evaluation.intervals import Estimate

Array = np.ndarray[Any, np.dtype[Any]]


def estimate(mean: float, half: float) -> Estimate:
    return Estimate(mean, mean - half, mean + half, (mean,))


FIGURES = Figures(
    class_sizes=(300, 300),
    score=estimate(0.85, 0.02),
    balanced=(estimate(0.85, 0.02),),
    gain=estimate(0.02, 0.03),
    earlier={"early": estimate(0.0, 0.02), "middle": estimate(0.01, 0.02)},
    choice=estimate(0.01, 0.02),
)
AHEAD = {"early": estimate(-0.05, 0.02), "middle": estimate(-0.03, 0.02)}
BEHIND = {"early": estimate(0.0, 0.02), "middle": estimate(0.04, 0.02)}


@pytest.mark.parametrize(
    ("size", "earlier", "choice", "action"),
    [
        (300, AHEAD, estimate(0.0, 0.01), "head"),
        (300, BEHIND, estimate(0.04, 0.03), "layers"),
        (300, FIGURES.earlier, FIGURES.choice, "layers"),
        (300, {}, None, "head"),
        (1000, AHEAD, estimate(0.0, 0.01), "finetune"),
        (1000, FIGURES.earlier, FIGURES.choice, "finetune"),
        (1000, {}, None, "finetune"),
        (1000, BEHIND, estimate(0.04, 0.03), "train"),
    ],
)
def test_each_case_of_the_rule_has_its_recommendation(
    size: int, earlier: dict[str, Estimate], choice: Estimate | None, action: str
) -> None:
    figures = dataclasses.replace(FIGURES, class_sizes=(size, size), earlier=earlier, choice=choice)

    decision = decide(figures)

    assert decision.action == action
    assert decision.size == ("small" if size < 1000 else "large")
    if not earlier:
        assert decision.likeness == "unknown"


def test_a_difference_whose_interval_holds_0_is_never_claimed() -> None:
    best_by_chance = dataclasses.replace(FIGURES, earlier=BEHIND)
    assert decide(best_by_chance).likeness == "open"  # the choice's interval holds 0
    one_level = {**AHEAD, "middle": estimate(-0.01, 0.02)}
    assert decide(dataclasses.replace(FIGURES, earlier=one_level)).likeness == "open"
    nan = float("nan")
    unknown = Estimate(0.2, nan, nan, ())
    figures = dataclasses.replace(FIGURES, earlier={"early": unknown}, choice=unknown, gain=unknown)
    decision = decide(figures)
    assert (decision.size, decision.likeness) == ("small", "open")
    assert any("no difference can be told" in reason for reason in decision.reasons)
    assert any("whether more labels help can't be told" in r for r in decision.reasons)


def test_labels_that_no_longer_help_make_a_hundred_images_many() -> None:
    flat = dataclasses.replace(FIGURES, gain=estimate(0.002, 0.005))

    assert decide(flat).size == "large"
    assert decide(dataclasses.replace(flat, class_sizes=(300, 99))).size == "small"
    assert decide(dataclasses.replace(flat, class_sizes=(99, 300, 300))).size == "large"
    assert "more labels hardly help" in decide(flat).reasons[1]
    rising = dataclasses.replace(FIGURES, gain=estimate(0.05, 0.01))
    assert "more labels should help" in decide(rising).reasons[1]


def test_what_is_solved_or_no_better_than_chance_comes_before_the_cases() -> None:
    solved = dataclasses.replace(FIGURES, class_sizes=(5000, 5000), score=estimate(0.997, 0.002))
    assert decide(solved).action == "head"
    chance = dataclasses.replace(FIGURES, balanced=(estimate(0.52, 0.03), estimate(0.5, 0.02)))
    decision = decide(chance)
    assert decision.action == "check"
    assert "0.520 (0.490 to 0.550), and chance is 0.500" in decision.reasons[1]


def test_a_score_without_an_interval_is_itself_compared_with_chance() -> None:
    nan = float("nan")
    perfect = Estimate(1.0, nan, nan, (1.0,))
    third = Estimate(1 / 3, nan, nan, (1 / 3,))
    figures = dataclasses.replace(FIGURES, class_sizes=(60, 60, 60))

    assert decide(dataclasses.replace(figures, balanced=(perfect,))).action == "layers"
    decision = decide(dataclasses.replace(figures, balanced=(third,)))
    assert decision.action == "check"
    assert "a layer is 0.333, and chance is 0.333" in decision.reasons[1]


def test_a_given_split_with_every_image_right_is_no_chance() -> None:
    y = np.arange(48) % 2
    splits = np.where(np.arange(48) < 12, "test", "train")
    blocks = {"early": features(clear, 3, 1, 48) + 20.0 * y[:, None], "last": 20.0 * y[:, None]}
    found = measure(blocks, y, "ridge", last="last", tune=False, splits=splits)

    assert found["last"].balanced.mean == 1
    assert np.isnan(found["last"].balanced.low)
    assert found.decision.action != "check"
    assert "nan" not in found.table()


def test_centroids_of_draws_without_spread_are_advised_by() -> None:
    y = np.arange(64) % 2
    X = np.zeros((64, 5))
    X[:, 0] = y
    X[::9, 1:] = np.random.default_rng(0).normal(size=(8, 4))
    splits = np.where(np.arange(64) < 16, "test", "train")
    found = measure({"last": X}, y, "centroid", last="last", splits=splits)

    assert [point.images for point in found.labels] == [6, 12, 24, 48]


N = 240


def features(signal: Callable[[Array], Array], width: int, seed: int, n: int = N) -> Array:
    """Return noise in which one column tells the class as well as `signal` lets it."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(n, width))
    values[:, 0] += signal(np.arange(n) % 2)
    return values.astype(np.float32)


def clear(y: Array) -> Array:
    return 3.0 * (2 * y - 1)


def strong(y: Array) -> Array:
    return 1.8 * (2 * y - 1)


def faint(y: Array) -> Array:
    return 0.6 * (2 * y - 1)


def advice(early: Callable[[Array], Array], last: Callable[[Array], Array], n: int) -> Advice:
    blocks = {"early": features(early, 6, 1, n), "last": features(last, 8, 2, n)}
    return measure(blocks, np.arange(n) % 2, "ridge", last="last", tune=False, cv=6)


@pytest.mark.parametrize(
    ("early", "last", "n", "action", "likeness"),
    [
        (faint, strong, 198, "head", "similar"),
        (strong, faint, 198, "layers", "different"),
        (faint, strong, 2000, "finetune", "similar"),
        (strong, faint, 2000, "train", "different"),
    ],
)
def test_features_made_for_each_case_are_advised_as_it(
    early: Callable[[Array], Array],
    last: Callable[[Array], Array],
    n: int,
    action: str,
    likeness: str,
) -> None:
    found = advice(early, last, n)

    assert (found.decision.action, found.decision.likeness) == (action, likeness)
    difference = found["early"].difference
    assert difference is not None
    assert (difference.high < 0) == (likeness == "similar")
    if likeness == "different":
        assert found.chosen is not None
        assert found.chosen.times == {"early": 6}
        assert found.chosen.score == found["early"].score


def test_equal_layers_are_told_apart_about_as_rarely_as_intervals_promise() -> None:
    y = np.arange(N) % 2
    told = []
    for seed in range(10):
        blocks = {f"layer{i}": features(faint, 5, 100 * seed + i) for i in range(2)}
        found = measure(blocks, y, "ridge", last="layer1", tune=False, cv=4, random_state=seed)
        told.append(found.decision.likeness)
    assert told.count("open") >= 9


def test_figures_are_those_of_cross_validation_and_of_draws_within_draws() -> None:
    from featbank import cross_validate, make_head

    found = advice(faint, clear, N)
    y = np.arange(N) % 2
    heads = ["ridge", make_head("knn", n_neighbors=1)]
    plain = cross_validate(features(faint, 6, 1), y, heads, tune=False, cv=6).heads

    assert found["early"].score == plain[0].metrics["accuracy"]
    assert found["early"].quick["1-nn"] == plain[1].metrics["accuracy"]
    assert [point.share for point in found.labels] == [1 / 8, 1 / 4, 1 / 2, 1]
    assert [point.images for point in found.labels] == [26, 50, 100, 200]
    assert found.labels[-1].score.values == pytest.approx(found["last"].score.values)
    assert found.gain.mean == pytest.approx(
        found.labels[-1].score.mean - found.labels[-2].score.mean
    )


def test_labels_that_mean_nothing_are_to_be_checked() -> None:
    nothing = advice(lambda y: 0.0 * y, lambda y: 0.0 * y, 120)

    assert nothing.decision.action == "check"
    assert "chance" in nothing.recommendation


def test_one_layer_leaves_likeness_unknown_and_no_last_layer_too() -> None:
    y = np.arange(N) % 2
    one = measure({"last": features(faint, 5, 1)}, y, "ridge", last="last", tune=False, cv=3)
    assert (one.decision.likeness, one.chosen, one["last"].difference) == ("unknown", None, None)
    blocks = {"a": features(faint, 5, 1), "b": features(clear, 5, 2)}
    no_last = measure(blocks, y, "ridge", tune=False, cv=3)
    assert (no_last.decision.likeness, no_last.labels_of) == ("unknown", "b")
    assert no_last.chosen is None


def test_classes_that_differ_tenfold_go_by_balanced_accuracy() -> None:
    y = (np.arange(N) % 12 == 0).astype(int)
    X = np.random.default_rng(0).normal(size=(N, 4)) + 2.0 * y[:, None]
    found = measure({"last": X}, y, "ridge", last="last", tune=False, cv=3)

    assert found.metric == "balanced_accuracy"
    assert found["last"].score == found["last"].balanced
    assert "balanced accuracy [95 % confidence interval]" in found.table()


def test_a_given_split_is_scored_without_copies_and_has_intervals() -> None:
    y = np.arange(N) % 2
    splits = np.where(np.arange(N) % 3 == 0, "test", "train")
    digests = np.arange(N)
    digests[1] = 0  # a copy of a test image
    digests[4] = 6
    blocks = {"early": features(faint, 5, 1), "last": features(clear, 5, 2)}
    found = measure(blocks, y, "ridge", last="last", tune=False, splits=splits, digests=digests)

    assert any("they were not learned from" in note for note in found.notes)
    assert found.labels[-1].images == int((splits == "train").sum()) - 2
    assert found["early"].difference is not None
    assert found["early"].difference.high < 0
    assert found.gain.low <= found.gain.mean <= found.gain.high


def test_settings_and_layers_are_chosen_inside_training_parts() -> None:
    y = np.arange(120) % 2
    blocks = {f"noise{i}": features(lambda y: 0.0 * y, 3, 50 + i, 120) for i in range(8)}
    found = measure(blocks, y, "ridge", last="noise7", cv=4)

    best = max(found.layers, key=lambda one: one.score.mean)
    assert found.chosen is not None
    assert found.chosen.score.mean < best.score.mean
    assert found.chosen.score.low < 0.5 < found.chosen.score.high


def test_the_table_and_the_json_tell_the_same() -> None:
    found = advice(faint, clear, N)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    table = str(found)

    assert data["recommendation"] == found.recommendation
    assert " ".join(table.split()).count(data["recommendation"]) == 1
    assert [one["layer"] for one in data["layers"]] == ["early", "last"]
    assert data["last"] == data["labels_of"] == "last"
    assert data["class_sizes"] == {"0": 120, "1": 120}
    assert "chosen inside" in table
    assert max(map(len, table.splitlines())) <= 100


@pytest.mark.parametrize(
    ("blocks", "last", "said"),
    [({}, None, "no features to measure"), ({"one": 1}, "on", "no features 'on'")],
)
def test_what_can_not_be_measured_is_said(
    blocks: dict[str, Any], last: str | None, said: str
) -> None:
    with pytest.raises(EvaluationError, match=said):
        measure(blocks, [0, 1], last=last)
