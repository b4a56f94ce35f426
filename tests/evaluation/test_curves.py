import json
from itertools import pairwise

import numpy as np
import pytest
from sklearn.base import clone

from featbank import learning_curve
from featbank.errors import EvaluationError, HeadError
from featbank.evaluation.curves import HeadCurve
from featbank.evaluation.curves.law import Law, fit_law
from featbank.evaluation.intervals import corrected_t
from featbank.heads import make_head
from tests.evaluation import spy


def made(n=400, d=8, seed=0, noise=1.0, classes=2):
    random = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return random.normal(scale=noise, size=(n, d)) + 1.5 * np.eye(d)[y], y


def numbered(n):
    return np.column_stack([np.arange(n), np.random.default_rng(0).normal(size=n)]).astype(float)


@pytest.fixture
def fits():
    spy.FITS.clear()
    yield spy.FITS
    spy.FITS.clear()


X, Y = made()


# What is drawn.


def test_draws_are_balanced_and_hold_the_smaller_ones(fits):
    y = np.repeat([0, 1, 2], [100, 30, 20])
    curve = learning_curve(numbered(150), y, spy.Spy(), draws=2)

    assert [p.labels for p in curve.heads[0].points] == [1, 2, 4, 8, 16]
    assert "class '2' has 16 to draw from" in curve.notes[-1]
    for draw in range(2):
        rows = [seen for _, seen in fits[5 * draw : 5 * draw + 5]]
        for n, seen in zip([1, 2, 4, 8, 16], rows, strict=True):
            np.testing.assert_array_equal(np.bincount(y[list(seen)]), [n, n, n])
        assert all(a < b for a, b in pairwise(rows))


def test_no_draw_holds_a_copy_a_group_or_a_row_that_is_scored_on(fits):
    y = np.arange(120) % 2
    digests = np.arange(120) // 4  # copies of four, in both classes
    groups = np.arange(120) // 12
    scored = []

    class Noted(spy.Spy):
        def predict(self, X):
            scored.append(frozenset(X[:, 0].astype(int)))
            return super().predict(X)

    words = {"digests": digests, "groups": groups, "keep_copies": True}
    learning_curve(numbered(120), y, Noted(), draws=5, sizes=[4], **words)
    assert len(fits) == len(scored) == 5
    for (_, seen), tested in zip(fits, scored, strict=True):
        assert not {groups[i] for i in seen} & {groups[i] for i in tested}
        assert len({digests[i] for i in seen}) == len(seen)
    assert sorted(row for tested in scored for row in tested) == list(range(120))


def test_what_is_tuned_is_tuned_inside_the_draw(monkeypatch, fits):
    class Tuned(spy.Spy):
        pass

    from featbank.evaluation import fitting

    monkeypatch.setattr(fitting, "grid", lambda head, n_samples=None: {"C": [1.0, 2.0]})
    learning_curve(numbered(100), np.arange(100) % 2, Tuned(), draws=2, sizes=[6])
    drawn = [seen for _, seen in fits if len(seen) == 12]
    inner = [seen for _, seen in fits if len(seen) < 12]
    assert len(drawn) == 2
    assert len(inner) == 2 * 2 * 3  # draws, values, inner folds
    assert all(any(seen < own for own in drawn) for seen in inner)


def test_a_given_test_part_is_all_that_is_scored_and_never_drawn(fits):
    splits = np.array(["train", "train", "test"])[np.arange(150) % 3]
    curve = learning_curve(
        numbered(150), np.arange(150) // 3 % 2, spy.Spy(), splits=splits, draws=3, sizes=[1, 8]
    )
    assert all(splits[i] == "train" for _, seen in fits for i in seen)
    assert len({seen for _, seen in fits if len(seen) == 16}) == 3
    assert "scored on 50 of test" in curve.protocol


def test_copies_of_test_rows_are_not_drawn_from_a_given_train_part(fits):
    splits = np.repeat(["train", "test"], 60)
    digests = np.concatenate([np.arange(60), np.arange(30), 100 + np.arange(30)])
    learning_curve(
        numbered(120), np.arange(120) % 2, spy.Spy(), splits=splits, digests=digests, sizes=[15]
    )
    assert all(seen == set(range(30, 60)) for _, seen in fits)


def test_uneven_draws_take_all_of_a_small_class(fits):
    y = np.repeat([0, 1], [100, 15])
    curve = learning_curve(numbered(115), y, spy.Spy(), draws=2, uneven=True)

    assert [p.labels for p in curve.heads[0].points] == [1, 2, 4, 8, 16, 32, 64]
    assert curve.heads[0].points[-1].images == 64 + 12
    assert "'1' gives all that it has" in curve.notes[-1]


# What comes out.


def test_scores_are_those_of_the_head_on_the_draw(fits):
    tested = []

    class Noted(spy.Spy):
        def fit(self, X, y):
            super().fit(X, y)
            self.real_ = clone(make_head("centroid")).fit(X, y)
            return self

        def predict(self, X):
            tested.append((self.real_.predict(X), X[:, 0].astype(int)))
            return tested[-1][0]

    y = np.arange(90) % 3
    X = np.column_stack([np.arange(90), made(90, 6, classes=3)[0]])
    curve = learning_curve(X, y, Noted(), sizes=[8], draws=4)
    wanted = [np.mean(predicted == y[rows]) for predicted, rows in tested]
    found = curve.heads[0].points[0].metrics
    assert found["accuracy"].values == pytest.approx(wanted)
    low, high = corrected_t(wanted, 18 / 72)
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx(
        (max(low, 0), min(high, 1))
    )
    balanced = [
        np.mean([np.mean(predicted[y[rows] == c] == c) for c in range(3)])
        for predicted, rows in tested
    ]
    assert found["balanced_accuracy"].values == pytest.approx(balanced)


def test_a_curve_rises_and_is_the_same_again_in_parallel():
    curve = learning_curve(X, Y, ["lda", "centroid"], sizes=[2, 8, 32, 128], tune=False)

    for head in curve.heads:
        means = [p.metrics["accuracy"].mean for p in head.points]
        assert means[0] < means[-1] - 0.05
        assert len(head.points[0].metrics["accuracy"].values) == 10
    again = learning_curve(X, Y, ["lda", "centroid"], sizes=[2, 8, 32, 128], tune=False, n_jobs=2)
    assert [h.points for h in again.heads] == [h.points for h in curve.heads]


def test_gains_are_paired_over_draws():
    curve = learning_curve(X, Y, "centroid", sizes=[4, 8, 32], tune=False, random_state=3)
    head = curve["centroid"]

    values = [np.array(p.metrics["accuracy"].values) for p in head.points]
    (gain,) = head.gains  # 8 to 32 is no doubling
    low, high = corrected_t(values[1] - values[0], 80 / 320)
    assert (gain.labels, gain.mean) == (4, pytest.approx(np.mean(values[1] - values[0])))
    assert (gain.low, gain.high) == pytest.approx((low, high))


def test_one_given_test_part_adds_its_own_uncertainty():
    splits = np.where(np.arange(400) % 4 == 0, "test", "train")
    y = np.arange(400) // 4 % 2
    X = made(400)[0] + 1.5 * np.eye(8)[y]
    found = learning_curve(X, y, "centroid", tune=False, splits=splits, sizes=[128])
    accuracy = found.heads[0].points[0].metrics["accuracy"]

    binomial = np.sqrt(accuracy.mean * (1 - accuracy.mean) / 100)
    assert accuracy.high - accuracy.mean > 1.9 * 0.8 * binomial


@pytest.mark.parametrize(
    ("head", "options"), [("knn", {}), ("knn", {"tune": False}), ("ridge", {"groups": None})]
)
def test_heads_cope_with_one_label_a_class(head, options):
    curve = learning_curve(X, Y, head, sizes=[1, 2, 4], draws=2, **options)

    assert len(curve.heads[0].points) == 3


def test_the_result_is_plain_json_a_table_and_rows():
    curve = learning_curve(X, Y, ["centroid", "ridge"], tune=False, draws=3)
    data = json.loads(json.dumps(curve.to_dict(), allow_nan=False))

    assert [p["labels"] for p in data["heads"][0]["points"]] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert {"law", "next_gain", "verdict", "pays_until", "reading"} <= set(data["heads"][0])
    text = str(curve)
    for words in (
        "labels a class",
        "centroid",
        "95 % confidence",
        "the last doubling (64 to 128 a class)",
    ):
        assert words in text
    rows = curve.rows()
    assert len(rows) == 1 + 2 * 8
    assert all(len(row) == len(rows[0]) for row in rows)


# The law and what it says.


def test_a_law_is_found_again():
    n = 2 ** np.arange(9)
    law = Law(0.08, 0.5, 0.6)
    found = fit_law(n, np.array([law.score(k) for k in n]), np.full(9, 1e-4))

    assert (found.floor, found.scale, found.exponent) == pytest.approx((0.08, 0.5, 0.6), abs=1e-9)
    assert found.gain(16) == pytest.approx(found.score(32) - found.score(16))
    until = found.pays_until(0.01)
    assert found.gain(until) == pytest.approx(0.01)


def test_a_law_never_falls_nor_passes_one():
    n = [1, 2, 4, 8, 16]
    assert fit_law(n, np.linspace(0.9, 0.5, 5), np.ones(5)).scale == 0
    rising = fit_law(n, np.array([0.2, 0.4, 0.6, 0.8, 0.99]), np.ones(5))
    assert rising.score(1e9) <= 1


def test_a_law_that_pays_for_ever_says_so_without_an_error():
    assert Law(0.0, 1.0, 0.02).pays_until(1e-10) == float("inf")
    assert Law(0.3, 0.0, 1.0).pays_until(0.01) == 0


def test_points_that_are_better_known_count_more():
    n = 2 ** np.arange(6)
    scores = 0.9 - 0.4 * n**-0.5
    scores[0] -= 0.2
    known = fit_law(n, scores, np.array([1.0, *[1e-6] * 5]))
    assert known.gain(32) == pytest.approx(0.4 * (32**-0.5 - 64**-0.5), rel=0.01)


@pytest.mark.parametrize(
    ("noise", "worth", "verdict", "said"),
    [(0.3, 0.02, "stops", "more labels stop paying"), (2.5, 0.001, "pays", "more labels pay")],
)
def test_the_reading_says_where_labels_stop_paying(noise, worth, verdict, said):
    X, y = made(2000, 40 if noise > 1 else 8, noise=noise)
    curve = learning_curve(X, y, "lda", tune=False, sizes=[4, 8, 16, 32, 64], worth=worth, draws=10)

    assert curve.heads[0].verdict == verdict
    assert said in curve.heads[0].reading()


def test_too_few_points_have_no_law():
    head = learning_curve(X, Y, "centroid", sizes=[1, 2, 4], tune=False)["centroid"]

    assert isinstance(head, HeadCurve)
    assert (head.law, head.next_gain, head.verdict) == (None, None, "open")
    assert "needs 4 sizes" in head.reading()


# What can't be had.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draws": 1}, "at least 2"),
        ({"metric": "auc"}, "accuracy or balanced_accuracy"),
        ({"worth": 0.0}, "between 0 and 1"),
        ({"sizes": []}, "1 or more"),
        ({"sizes": [0, 4]}, "1 or more"),
        ({"sizes": [500]}, "class '0' has 160 to draw from"),
        ({"sizes": [500], "uneven": True}, "at most 160"),
    ],
)
def test_bad_input_is_refused_in_one_clear_line(options, words):
    with pytest.raises(EvaluationError, match=words) as caught:
        learning_curve(X, Y, "centroid", tune=False, **options)
    assert "\n" not in str(caught.value)


def test_a_head_that_needs_more_rows_says_so():
    with pytest.raises(HeadError, match=r"'lda' could not be fitted on 2 images.*sizes"):
        learning_curve(X, Y, "lda", tune=False, sizes=[1, 4])


def test_a_class_whose_images_are_all_scored_on_can_not_be_drawn():
    splits = np.repeat(["fold0", "fold1"], 20)
    digests = np.concatenate([np.arange(20), np.arange(20)])
    with pytest.raises(EvaluationError, match="no image to draw from"):
        learning_curve(X[:40], Y[:40], "centroid", splits=splits, digests=digests)


def test_centroids_that_a_draw_can_not_shrink_are_scored_as_they_are():
    y = np.arange(64) % 2
    sparse = np.zeros((64, 5))
    sparse[:, 0] = y
    sparse[::16, 1:] = np.random.default_rng(0).normal(size=(4, 4))
    words = {"sizes": [2, 4], "draws": 3, "cv": 2}
    found = learning_curve(sparse, y, "centroid", **words)["centroid"]

    assert all(0.5 < point.metrics["accuracy"].mean <= 1 for point in found.points)
    assert any("centroids were not shrunk" in note for note in found.notes)
    assert not any("divide" in note for note in found.notes)
    shrunk = {"tune": False, "params": {"shrink_threshold": 0.1}}
    with pytest.raises(HeadError, match=r"can't be shrunk; leave draws so small out .*--sizes"):
        learning_curve(sparse, y, "centroid", **words, **shrunk)
