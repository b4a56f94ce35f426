from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.base import clone

from featbank.errors import HeadError
from featbank.evaluation import cross_validate, fit_final
from featbank.heads import make_head
from featbank.heads.mlp import MLPHead
from featbank.heads.streaming import Blocks, can_stream, fit_streamed

Array = npt.NDArray[Any]


def data(k: int = 3, n: int = 1500, d: int = 12) -> tuple[Array, Array]:
    """Rows in the order of their classes, as folders of images are."""
    random = np.random.default_rng(k)
    codes = np.sort(random.integers(0, k, n))
    X = 3 + 5 * random.normal(size=(n, d)) @ random.normal(size=(d, d))
    X += 6 * random.normal(size=(k, d))[codes]
    return X.astype(np.float32), np.array(list("abcdef"))[codes]


def blocks(X: Array, rows: int = 200) -> Blocks:
    return Blocks(X.__getitem__, len(X), X.shape[1], block_bytes=4 * X.shape[1] * rows)


def objective(head: Any, X: Array, y: Array) -> float:
    """The mean loss plus the penalty, as scikit-learn has it, divided by n C."""
    last = head[-1]
    own = head.predict_proba(X)[np.arange(len(y)), np.searchsorted(head.classes_, y)]
    weights = np.ones(len(y))
    if isinstance(last.class_weight, dict):
        weights = np.array([last.class_weight[c] for c in y])
    penalty = float((last.coef_.astype(float) ** 2).sum()) / (2 * last.C * len(y))
    return float(-(weights * np.log(own)).mean()) + penalty


def test_a_pass_reads_every_row_once_and_mixes_neighbours() -> None:
    X = np.arange(1000, dtype=np.float32)[:, None]
    read: list[int] = []

    def reader(rows: Array) -> Array:
        read.append(len(rows))
        return X[rows]

    some = Blocks(reader, 1000, 1, block_bytes=4 * 256)[np.arange(100, 1000)]
    given = list(some.shuffled(50, np.random.default_rng(0)))

    positions = np.concatenate([at for at, _ in given])
    np.testing.assert_array_equal(np.sort(positions), np.arange(900))
    np.testing.assert_array_equal(np.concatenate([v for _, v in given])[:, 0], positions + 100)
    assert max(read) <= 256
    # A batch's rows come from all over, not from one stretch of the bank.
    assert np.ptp(given[0][0]) > 300
    np.testing.assert_array_equal(np.concatenate(list(some)), X[100:])


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("C", [1e-3, 0.1])
@pytest.mark.parametrize("class_weight", [None, {"a": 3.0, "b": 1.0, "c": 0.5, "d": 1.0}])
def test_logistic_regression_reaches_scikit_learns_objective(
    k: int, C: float, class_weight: dict[str, float] | None
) -> None:
    X, y = data(k)
    weight = class_weight and {c: class_weight[c] for c in np.unique(y)}
    head = make_head("logreg", C=C, class_weight=weight, random_state=0)
    exact = clone(head).fit(X, y)
    fit_streamed(head, blocks(X), y)

    assert objective(head, X, y) <= objective(exact, X, y) * (1 + 2e-4)
    assert np.mean(head.predict(X) == exact.predict(X)) > 0.98
    for name in ("coef_", "intercept_", "classes_"):
        assert getattr(head[-1], name).shape == getattr(exact[-1], name).shape
    np.testing.assert_allclose(head[0].mean_, exact[0].mean_, rtol=1e-4)


def test_sample_weights_are_those_of_the_fit_in_memory() -> None:
    X, y = data(3)
    weights = np.random.default_rng(0).random(len(y)) * (y != "b") + 0.01
    head = make_head("logreg", C=0.01, random_state=0)
    steps = {f"{name}__sample_weight": weights for name, _ in head.steps}
    exact = clone(head).fit(X, y, **steps)
    fit_streamed(head, blocks(X), y, sample_weight=weights)
    assert np.mean(head.predict(X) == exact.predict(X)) > 0.99
    np.testing.assert_allclose(head[0].mean_, exact[0].mean_, rtol=1e-4)


def test_c_is_chosen_on_the_held_out_part_alone() -> None:
    X, y = data(2)
    learned, scored = np.arange(0, len(y), 2), np.arange(1, len(y), 2)
    lying = y.copy()
    head = make_head("logreg", random_state=0)
    values = {"logisticregression__C": [1e-9, 0.1]}
    assert fit_streamed(head, blocks(X), y, values, (learned, scored)) == {
        "logisticregression__C": 0.1
    }
    assert head[-1].C == 0.1
    # Where the held-out labels are the opposite, the value that learns least is the best one.
    lying[scored] = np.where(y[scored] == "a", "b", "a")
    assert fit_streamed(head, blocks(X), lying, values, (learned, scored))[
        "logisticregression__C"
    ] == (1e-9)


def test_streamed_scores_are_within_half_a_point_of_those_in_memory() -> None:
    X, y = data(3, n=1200)
    heads = [make_head("logreg", C=0.1), make_head("mlp", max_epochs=40)]
    whole, streamed = (cross_validate(given, y, heads, cv=3) for given in (X, blocks(X)))
    for one, other in zip(whole.heads, streamed.heads, strict=True):
        assert other.metrics["accuracy"].mean == pytest.approx(
            one.metrics["accuracy"].mean, abs=0.005
        )
        np.testing.assert_array_equal(one.predictions.rows, other.predictions.rows)


def test_the_final_fit_of_blocks_leaves_out_rows_without_a_label() -> None:
    X, y = data(2, n=600)
    labels = [None if i % 10 == 0 else word for i, word in enumerate(y)]
    final = fit_final(blocks(X), labels, "logreg", tune=False)
    assert len(final.rows) == 540
    assert final.estimator.score(X, y) == pytest.approx(
        fit_final(X, labels, "logreg", tune=False).estimator.score(X, y), abs=0.005
    )


def test_bad_rows_are_found_in_blocks_too() -> None:
    X, y = data(2, n=600)
    X[333, 2] = np.nan
    with pytest.raises(ValueError, match=r"1 of 600 rows .* row 333"):
        cross_validate(blocks(X), y, "logreg", tune=False)


@pytest.mark.parametrize(
    ("head", "options", "said"),
    [
        ("svm", {}, "SVC needs the features in memory"),
        (make_head("logreg", fit_intercept=False), {}, "needs the features in memory"),
        ("logreg", {"calibrate": True}, "can't be learned from blocks"),
        ("logreg", {"near_duplicates": 0.99}, "near-duplicates are looked for in memory"),
    ],
    ids=["svm", "no intercept", "calibration", "near-duplicates"],
)
def test_what_needs_memory_says_so(head: Any, options: dict[str, Any], said: str) -> None:
    X, y = data(2, n=300)
    with pytest.raises((HeadError, ValueError), match=said):
        cross_validate(blocks(X), y, head, tune=False, **options)


def test_only_a_scaled_logistic_regression_or_mlp_can_stream() -> None:
    assert can_stream(make_head("mlp"))
    assert not can_stream(MLPHead())
    assert not can_stream(make_head("ridge"))
