import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from featbank import cross_validate, make_head, rank_features
from featbank.errors import EvaluationError
from tests.evaluation import spy

N = 200
Y = np.arange(N) % 2


def block(d, signal=0.0, seed=0, y=Y):
    random = np.random.default_rng(seed)
    values = random.normal(size=(len(y), d))
    values[:, 0] += signal * (2 * y - 1)
    return values.astype(np.float32)


NOISY = {"early": block(6, seed=1), "signal": block(4, 1.0, 2), "late": block(9, seed=3)}


def test_the_block_with_the_signal_is_first_by_every_measure():
    ranking = rank_features(NOISY, Y, repeats=2)

    assert ranking.best.name == "signal"
    assert ranking.best.difference is None
    assert ranking.chosen == {"signal": 10}
    for other in ("early", "late"):
        assert ranking[other].difference.high < 0
        assert ranking[other].logme < ranking["signal"].logme
        for name, estimate in ranking[other].quick.items():
            assert estimate.mean < ranking["signal"].quick[name].mean
    assert [one.width for one in ranking.features] == [
        NOISY[one.name].shape[1] for one in ranking.features
    ]
    assert ranking["late"].bytes == 9 * 4


def test_figures_are_those_of_cross_validation_on_the_same_folds():
    ranking = rank_features(NOISY, Y, "ridge", params={"alpha": 3.0}, cv=4)
    heads = [make_head("ridge", alpha=3.0), "ridge", make_head("knn", n_neighbors=1)]
    plain = {n: cross_validate(X, Y, heads, tune=False, cv=4).heads for n, X in NOISY.items()}

    for name, found in plain.items():
        one = ranking[name]
        assert one.accuracy == found[0].metrics["accuracy"]
        assert one.quick["ridge"] == found[1].metrics["accuracy"]
        assert one.quick["1-nn"] == found[2].metrics["accuracy"]
    values = [np.array(ranking[name].accuracy.values) for name in ("late", "signal")]
    gap = ranking["late"].difference
    assert gap.mean == pytest.approx(np.mean(values[0] - values[1]))
    assert gap.low < gap.mean < gap.high < 0


def test_nearest_neighbours_are_those_of_a_plain_statement():
    ranking = rank_features(NOISY, Y, splits=np.where(np.arange(N) % 4, "train", "test"))
    train = np.arange(N) % 4 > 0
    X = normalize(NOISY["signal"])
    for k in (1, 5):
        plain = KNeighborsClassifier(k).fit(X[train], Y[train]).predict(X[~train])
        found = ranking["signal"].quick[f"{k}-nn"].mean
        assert found == pytest.approx(accuracy_score(Y[~train], plain))


def test_the_nested_score_does_not_profit_from_much_noise():
    y = np.arange(40) % 2
    noise = {f"noise{i}": block(3, seed=50 + i, y=y) for i in range(15)}
    ranking = rank_features(noise, y, "centroid")

    assert ranking.best.accuracy.mean > 0.6  # the best of 15 by chance
    assert ranking.nested.low < 0.5 < ranking.nested.high
    assert ranking.nested.mean < ranking.best.accuracy.mean - 0.05
    assert sum(ranking.chosen.values()) == 5


def test_nested_values_are_those_of_the_block_that_inner_folds_prefer():
    blocks = {"one": block(3, 0.25, 1), "other": block(3, 0.25, 2)}
    ranking = rank_features(blocks, Y, "centroid", random_state=4)

    for i, value in enumerate(ranking.nested.values):
        assert value in {ranking[name].accuracy.values[i] for name in blocks}
    assert min(ranking.nested.values) < max(
        max(pair) for pair in zip(*(r.accuracy.values for r in ranking.features), strict=True)
    )


def test_no_choice_sees_the_rows_that_score_it():
    spy.FITS.clear()
    rows = {"a": np.arange(90.0), "b": np.arange(90.0)}
    blocks = {n: np.column_stack([v, np.sin(v)]) for n, v in rows.items()}
    groups = np.arange(90) // 3
    rank_features(blocks, np.arange(90) // 3 % 2, spy.Spy(), groups=groups, cv=3)
    outer = {seen for _, seen in spy.FITS if len(seen) == 60}
    inner = {seen for _, seen in spy.FITS if len(seen) < 60}
    spy.FITS.clear()

    assert len(outer) == 3
    assert len(inner) == 9
    assert all(any(seen < own for own in outer) for seen in inner)
    for seen in outer | inner:
        assert {i // 3 * 3 + j for i in seen for j in range(3)} == seen


def test_joined_blocks_that_complement_one_another_come_first():
    blocks = {"left": block(3, 0.8, 1), "wide": block(60, 0.8, 2)}
    ranking = rank_features(blocks, Y, joins=[["left", "wide"]])

    names = [one.name for one in ranking.features]
    assert set(names) == {"left", "wide", "left + wide", "left + wide, weighted",
                          "left + wide, reduced"}  # fmt: skip
    joined = ranking["left + wide, weighted"]
    assert joined.accuracy.mean >= max(ranking[n].accuracy.mean for n in blocks)
    assert (joined.width, joined.bytes, joined.logme, joined.quick) == (63, 63 * 4, None, {})
    plain = cross_validate(np.hstack(list(blocks.values())), Y, "logreg", tune=False)
    assert ranking["left + wide"].accuracy == plain["logreg"].metrics["accuracy"]


def test_costs_stand_beside_and_add_up_in_joins():
    ranking = rank_features(NOISY, Y, "centroid", joins=[["early", "late"]],
                            costs={"early": 2.0, "late": 3.0})  # fmt: skip

    assert ranking["early"].cost == 2.0
    assert ranking["signal"].cost is None
    assert ranking["early + late"].cost == 5.0


def test_the_result_is_plain_json_and_a_table():
    ranking = rank_features(NOISY, [["ant", "bee"][c] for c in Y], joins=[list(NOISY)])
    data = json.loads(json.dumps(ranking.to_dict(), allow_nan=False))

    assert data["best"] == data["features"][0]["features"]
    assert data["features"][0]["difference"] is None
    assert {"nested", "chosen", "protocol", "classes"} <= set(data)
    text = str(ranking)
    for words in ("columns", "to the best", "LogME", "all, weighted", "is optimistic", "5-nn"):
        assert words in text


def test_one_block_alone_has_nothing_to_choose():
    ranking = rank_features({"only": NOISY["signal"]}, Y)

    assert (ranking.nested, ranking.chosen) == (None, {})
    assert "optimistic" not in str(ranking)


def test_classes_too_small_to_choose_on_are_said():
    ranking = rank_features({n: X[:4] for n, X in NOISY.items()}, [0, 0, 1, 1], "ridge")

    assert ranking.nested is None
    assert "too small to choose features" in ranking.notes[-1]


@pytest.mark.parametrize(
    ("blocks", "options", "words"),
    [
        ({}, {}, "no features to rank"),
        (NOISY, {"joins": [["early", "lat"]]}, "did you mean late"),
        (NOISY, {"joins": [["early", "early"]]}, "two or more"),
    ],
)
def test_bad_input_is_refused(blocks, options, words):
    with pytest.raises(EvaluationError, match=words):
        rank_features(blocks, Y, **options)
