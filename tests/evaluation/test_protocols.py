"""Each protocol against a plain re-statement of its published steps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featbank import ProtocolResult, list_protocols, run_protocol
from featbank.errors import EvaluationError
from featbank.evaluation.protocols.fewshot import fewshot_logreg
from featbank.evaluation.protocols.registry import PROTOCOLS
from featbank.evaluation.protocols.task import Task
from featbank.evaluation.protocols.voc import PrecisionMeter
from featbank.heads.registry import grid

Array = npt.NDArray[Any]

# As published, some fits end at their limit of iterations; a note of the result says how many.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def made(
    n: int, d: int = 6, k: int = 3, *, noise: float = 1.5, seed: int = 0
) -> tuple[Array, Array]:
    """Return features and class codes that overlap, so that penalties and choices matter."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % k
    means = random.normal(size=(k, d))
    return (means[y] + noise * random.normal(size=(n, d))).astype(np.float32), y


def parted(n: int, *shares: float) -> Array:
    """Return train, valid, test in blocks; with one share train and test."""
    ends = [round(share * n) for share in np.cumsum(shares)]
    names = ["train", "valid", "test"] if len(shares) == 2 else ["train", "test"]
    return np.repeat(names, np.diff([0, *ends, n]))


def scores_of(result: ProtocolResult, head: str) -> Array:
    scores = result[head].scores
    assert scores is not None
    return scores


def test_clip_linear_searches_coarse_to_fine_and_refits_with_valid() -> None:
    X, y = made(300)
    splits = parted(300, 0.5, 0.2)
    train, valid, test = (splits == name for name in ("train", "valid", "test"))
    scores = []  # of all 97 values: what the search may look at
    for i in range(97):
        head = LogisticRegression(C=10 ** (-6 + i / 8), max_iter=1000).fit(X[train], y[train])
        scores.append(head.score(X[valid], y[valid]))
    seen = [0, 16, 32, 48, 64, 80, 96]
    for step in (8, 4, 2, 1):
        peak = max(sorted(seen), key=lambda i: scores[i])
        seen += [i for i in (peak - step, peak + step) if 0 <= i <= 96]
    best = max(sorted(set(seen)), key=lambda i: scores[i])
    final = LogisticRegression(C=10 ** (-6 + best / 8), max_iter=1000).fit(X[~test], y[~test])

    found = run_protocol(X, y, "clip-linear", splits=splits)["logreg"]

    assert found.chosen[0]["C"] == pytest.approx(10 ** (-6 + best / 8), rel=1e-12)
    np.testing.assert_array_equal(found.predicted[0], final.predict(X[test]))
    assert found.metrics["accuracy"].mean == pytest.approx(final.score(X[test], y[test]))


def test_dinov2_knn_votes_with_a_softmax_over_the_most_neighbours() -> None:
    X, y = made(330)
    splits = parted(330, 0.7)
    train, test = (splits == name for name in ("train", "test"))
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    similar = unit[test] @ unit[train].T

    result = run_protocol(X, y, "dinov2-knn", splits=splits)

    assert [one.head for one in result.settings] == [f"knn, k = {k}" for k in (10, 20, 100, 200)]
    for k in (10, 20, 100, 200):
        votes = np.zeros((test.sum(), 3))
        for row, line in enumerate(similar):
            near = np.argsort(-line, kind="stable")[:200]
            weights = np.exp(line[near].astype(float) / 0.07)
            for column, weight in zip(near[:k], weights[:k] / weights.sum(), strict=True):
                votes[row, y[train][column]] += weight
        np.testing.assert_allclose(scores_of(result, f"knn, k = {k}")[0], votes, atol=1e-6)


def test_dinov2_knn_leaves_out_more_neighbours_than_there_are() -> None:
    X, y = made(160)

    result = run_protocol(X, y, "dinov2-knn", splits=parted(160, 0.7))

    assert [one.head for one in result.settings] == [f"knn, k = {k}" for k in (10, 20, 100)]
    assert "k = 200 left out: there are 112 images to learn from." in result.notes


def test_dinov2_logreg_chooses_among_45_values_and_refits_on_all() -> None:
    X, y = made(160, d=4, k=2, noise=2.5)
    splits = parted(160, 0.5, 0.25)
    train, valid, test = (splits == name for name in ("train", "valid", "test"))
    X64 = X.astype(np.float64)
    values = 10 ** np.linspace(-6, 5, 45)
    heads = [LogisticRegression(C=C, tol=1e-12, max_iter=1000) for C in values]
    tried = [head.fit(X64[train], y[train]).score(X64[valid], y[valid]) for head in heads]
    best = heads[int(np.argmax(tried))].fit(X64[~test], y[~test])

    result = run_protocol(X, y, "dinov2-logreg", splits=splits)
    found, scores = result["logreg"], scores_of(result, "logreg")[0]

    assert found.chosen[0]["C"] == pytest.approx(best.C)
    np.testing.assert_array_equal(found.predicted[0], best.predict(X64[test]))
    np.testing.assert_allclose(scores[:, 1], best.decision_function(X64[test]), rtol=1e-4)


def test_dinov2_logreg_takes_the_first_of_values_that_are_all_perfect() -> None:
    X, y = made(160, noise=0.02)
    splits = parted(160, 0.5, 0.25)

    found = run_protocol(X, y, "dinov2-logreg", splits=splits)["logreg"]

    values = 10 ** np.linspace(-6, 5, 45)
    tried = [
        LogisticRegression(C=C, tol=1e-12, max_iter=1000)
        .fit(X.astype(np.float64)[splits == "train"], y[splits == "train"])
        .score(X[splits == "valid"], y[splits == "valid"])
        for C in values
    ]
    assert tried.count(1.0) > 10
    assert found.chosen[0]["C"] == pytest.approx(values[tried.index(1.0)])


def test_dinov2_logreg_holds_a_tenth_of_train_out_where_there_is_no_valid() -> None:
    X, y = made(160, d=3, k=2, noise=2.5)

    notes = run_protocol(X, y, "dinov2-logreg", splits=parted(160, 0.75)).notes

    assert "no split valid: C is chosen on 12 images of train, drawn by chance." in notes


def test_voc07_svm_chooses_c_for_each_class_by_average_precision() -> None:
    X, y = made(240, d=5)
    splits = parted(240, 0.7)
    train, test = (splits == name for name in ("train", "test"))
    unit = X.astype(np.float64)
    unit = unit / (np.linalg.norm(unit, axis=1) + 1e-5)[:, None]
    chosen, scores = {}, []
    for k in range(3):
        sign = np.where(y == k, 1, -1)
        tried = []
        for C in (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000):
            head = LinearSVC(
                C=C, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=0
            )
            folds = {"cv": 3, "scoring": "average_precision"}
            tried.append((cross_val_score(head, unit[train], sign[train], **folds).mean(), C, head))
        _, chosen[str(k)], head = max(tried, key=lambda one: one[0])
        scores.append(head.fit(unit[train], sign[train]).decision_function(unit[test]))

    result = run_protocol(X, y, "voc07-svm", splits=splits)
    found = result["linear-svm"]

    assert found.chosen == ({"C": chosen},)
    np.testing.assert_allclose(
        scores_of(result, "linear-svm")[0], np.column_stack(scores), rtol=1e-6
    )
    areas = [envelope(y[test] == k, scores[k]) for k in range(3)]
    assert list(found.per_class.values()) == pytest.approx(areas)
    assert found.metrics["voc_map"].mean == pytest.approx(np.mean(areas))


def envelope(positive: Array, scores: Array) -> float:
    """Return the area under the precision, raised to the best at that recall or above."""
    ranked = positive[np.argsort(-scores)]
    precision = [ranked[: i + 1].mean() for i in range(len(ranked))]
    return float(sum(max(precision[i:]) for i in np.flatnonzero(ranked)) / ranked.sum())


def test_an_image_may_have_several_classes_in_voc07_svm() -> None:
    X, y = made(240, d=5)
    matrix = np.column_stack([y == 0, y == 1, (y == 2) | (X[:, 0] > 0)]).astype(int)
    sets = [{"abc"[k] for k in np.flatnonzero(row)} for row in matrix]
    splits = parted(240, 0.7)

    by_matrix = run_protocol(X, matrix, "voc07-svm", splits=splits)
    by_sets = run_protocol(X, sets, "voc07-svm", splits=splits)

    assert (by_matrix.classes, by_sets.classes) == (("0", "1", "2"), ("a", "b", "c"))
    np.testing.assert_array_equal(by_sets.y_true, matrix[splits == "test"])
    assert list(by_sets.settings[0].metrics) == ["voc_map"]
    assert by_sets.settings[0].metrics["voc_map"].mean > 0.5
    np.testing.assert_array_equal(by_matrix.settings[0].scores, by_sets.settings[0].scores)
    digests = [str(row % 239) for row in range(240)]  # the last row copies the first
    copied = run_protocol(X, sets, "voc07-svm", splits=splits, digests=digests)
    assert copied.settings[0].without_duplicates is not None
    with pytest.raises(EvaluationError, match="voc07-svm takes them"):
        run_protocol(X, sets, "clip-linear", splits=splits)


def test_average_precision_leaves_out_rows_without_weight() -> None:
    random = np.random.default_rng(0)
    targets, scores = random.random((40, 3)) < 0.4, random.normal(size=(40, 3))
    kept = random.random(40) < 0.5
    targets[kept, 2] = False
    meter = PrecisionMeter(targets, scores)

    found = meter.per_class(2.0 * kept)

    assert found[:2] == pytest.approx([envelope(targets[kept, k], scores[kept, k]) for k in (0, 1)])
    assert np.isnan(found[2])
    assert meter(2.0 * kept) == {"voc_map": pytest.approx(found[:2].mean())}
    plain = [average_precision_score(targets[:, k], scores[:, k]) for k in range(3)]
    assert (meter.per_class() >= plain).all()  # the envelope lies above


def test_fewshot_ridge_is_ridge_regression_on_the_drawn_rows() -> None:
    X, y = made(200, d=30)
    splits = parted(200, 0.6)
    train, test = (np.flatnonzero(splits == name) for name in ("train", "test"))

    result = run_protocol(X, y, "fewshot-ridge", splits=splits)

    assert [one.head for one in result.settings] == [
        *("ridge, 1 shot", "ridge, 5 shots", "ridge, 10 shots", "ridge, 25 shots")
    ]
    for name, shots in zip(
        ("1 shot", "5 shots", "10 shots", "25 shots"), (1, 5, 10, 25), strict=True
    ):
        for seed in range(3):
            random = np.random.default_rng(seed)
            rows = np.concatenate(
                [random.permutation(train[y[train] == k])[:shots] for k in range(3)]
            )
            drawn = X[rows].astype(np.float64)
            scaled = (X - drawn.mean(axis=0)) / (drawn.std(axis=0) + 1e-5)
            ready = np.column_stack([scaled, np.full(len(X), 100.0)])
            ridge = Ridge(alpha=1024.0, fit_intercept=False)
            ridge.fit(ready[rows], np.where(y[rows][:, None] == np.arange(3), 1.0, -1.0))
            scores = scores_of(result, f"ridge, {name}")[seed]
            np.testing.assert_allclose(scores, ridge.predict(ready[test]), atol=1e-8)


def test_fewshot_logreg_bisects_c_on_a_few_rows_of_valid() -> None:
    X, y = made(180, d=40)
    splits = parted(180, 0.4, 0.2)
    rows = {name: np.flatnonzero(splits == name) for name in ("train", "valid", "test")}
    task = Task(
        X=X,
        y=y,
        targets=y[:, None] == np.arange(3),
        classes=("0", "1", "2"),
        units=np.arange(180),
        **rows,
        seed=0,
        tick=lambda done, total: None,
    )
    constants = {**PROTOCOLS["fewshot-logreg"].constants, "seeds": [1, 2]}

    trials = fewshot_logreg(task, constants).trials

    assert len(trials) == 10
    for trial, (shots, seed) in zip(
        trials, ((n, s) for n in (1, 2, 4, 8, 16) for s in (1, 2)), strict=True
    ):
        C, told = bisected(X, y, rows, shots, {1: 1, 2: 2, 4: 4, 8: 4, 16: 4}[shots], seed)
        assert trial.chosen["C"] == pytest.approx(C)
        np.testing.assert_array_equal(trial.told.codes, told)


def bisected(
    X: Array, y: Array, rows: dict[str, Array], shots: int, few: int, seed: int
) -> tuple[float, Array]:
    random = np.random.RandomState(seed)
    drawn = {}
    for name, n in (("train", shots), ("valid", few)):
        own = [rows[name][y[rows[name]] == k] for k in range(3)]
        drawn[name] = np.concatenate([random.choice(one, n, replace=False) for one in own])
    fit, choose, X64 = drawn["train"], drawn["valid"], X.astype(np.float64)

    def tried(C: float) -> tuple[float, LogisticRegression]:
        head = LogisticRegression(C=C, max_iter=1000).fit(X64[fit], y[fit])
        return head.score(X64[choose], y[choose]), head

    coarse = [1e6, 1e4, 1e2, 1, 1e-2, 1e-4, 1e-6]
    peak = coarse[int(np.argmax([tried(C)[0] for C in coarse]))]
    low, high = np.log10(peak) - 1, np.log10(peak) + 1
    for _ in range(8):
        left, right = tried(10**low), tried(10**high)
        middle = (low + high) / 2
        if left[0] < right[0]:
            low, final = middle, right[1]
        else:
            high, final = middle, left[1]
    return final.C, final.predict(X64[rows["test"]])


def test_vtab1k_chooses_on_200_after_800_and_refits_on_both() -> None:
    X, y = made(1500, d=4)
    splits = parted(1500, 0.8)
    order = np.argsort(np.random.default_rng(0).permutation(1200))[:1000]  # train lies first
    test = splits == "test"
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        grid("logreg"),
        cv=PredefinedSplit(np.repeat([-1, 0], [800, 200])),
    ).fit(X[order], y[order])

    found = run_protocol(X, y, "vtab1k", splits=splits)["logreg"]

    assert found.chosen == (search.best_params_,)
    np.testing.assert_array_equal(found.predicted[0], search.predict(X[test]))


def test_vtab1k_takes_another_head_and_no_other_protocol_does() -> None:
    X, y = made(1100, d=4)

    result = run_protocol(X, y, "vtab1k", splits=parted(1100, 0.95), head="ridge")

    assert result.settings[0].head == "ridge"
    assert result.constants["head"] == "ridge"
    with pytest.raises(EvaluationError, match="clip-linear says what is fitted"):
        run_protocol(X, y, "clip-linear", cv=0.2, head="ridge")


@pytest.mark.parametrize("name", sorted(set(PROTOCOLS) - {"vtab1k", "fewshot-logreg"}))
def test_the_test_part_chooses_nothing(name: str) -> None:
    X, y = made(200, d=3, k=2, noise=2.0)
    splits = parted(200, 0.7)
    test = np.flatnonzero(splits == "test")
    other_X, other_y = X.copy(), y.copy()
    other_y[test] = 1 - y[test]
    other_X[test[30:]] = 0

    first, second = (
        run_protocol(*both, name, splits=splits) for both in ((X, y), (other_X, other_y))
    )

    for one, other in zip(first.settings, second.settings, strict=True):
        assert one.chosen == other.chosen
        np.testing.assert_array_equal(one.predicted[:, :30], other.predicted[:, :30])


@pytest.mark.parametrize("name", ["clip-linear", "dinov2-knn", "fewshot-ridge"])
def test_copies_of_test_images_are_reported_with_the_score_without_them(name: str) -> None:
    X, y = made(200, noise=3.0)
    splits = parted(200, 0.7)
    train, test = (np.flatnonzero(splits == part) for part in ("train", "test"))
    copied = train[:9]
    X[copied], y[copied] = X[test[:9]], y[test[:9]]
    digests = np.arange(200)
    digests[copied] = digests[test[:9]]
    kept = ~np.isin(np.arange(200), copied)

    result = run_protocol(X, y, name, splits=splits, digests=digests)
    alone = run_protocol(X[kept], y[kept], name, splits=splits[kept])

    assert any(note.startswith("9 images to learn from are copies") for note in result.notes)
    metric = result.constants["metric"]
    for with_copies, without in zip(result.settings, alone.settings, strict=True):
        assert with_copies.without_duplicates is not None
        assert with_copies.without_duplicates[metric] == without.metrics[metric]


def test_splits_that_are_made_here_keep_groups_together() -> None:
    X, y = made(240)
    groups = [f"{row // 6}" for row in range(240)]

    result = run_protocol(X, y, "dinov2-knn", cv=0.25, groups=groups)

    held = {groups[row] for row in result.rows}
    assert len(result.rows) == sum(group in held for group in groups) == 60
    assert "test is 25% of each class, held out by chance with seed 0." in result.notes


def test_without_test_valid_is_scored_and_chooses_nothing() -> None:
    X, y = made(200)
    splits = np.where(parted(200, 0.7) == "test", "valid", "train")

    result = run_protocol(X, y, "clip-linear", splits=splits)

    assert (result.train, result.valid, result.test) == (140, 0, 60)
    assert "there is no split test: the 60 images of valid are what is scored." in result.notes


def test_few_shots_of_small_classes_are_said() -> None:
    X, y = made(90, d=4, k=3)
    y[(y == 2) & (np.arange(90) >= 12) & (np.arange(90) < 60)] = 1  # train: 20, 36, 4

    result = run_protocol(X, y, "fewshot-ridge", splits=parted(90, 2 / 3))

    assert len(result.settings) == 4
    assert any("give all they have: '0' (20), '2' (4)" in note for note in result.notes)
    fewer = run_protocol(X, y, "fewshot-ridge", splits=parted(90, 1 / 3))
    assert [one.head for one in fewer.settings][-1] == "ridge, 10 shots"
    assert any("25 shots left out: no class has more than 16" in note for note in fewer.notes)


def test_intervals_over_seeds_are_students() -> None:
    from scipy.stats import t

    X, y = made(200)
    found = run_protocol(X, y, "fewshot-ridge", cv=0.3)["ridge, 5 shots"].metrics["macro_f1"]

    low, high = t.interval(
        0.95, 2, np.mean(found.values), np.std(found.values, ddof=1) / np.sqrt(3)
    )
    assert len(found.values) == 3
    assert (found.low, found.high) == pytest.approx((max(low, 0), min(high, 1)))


def test_every_constant_is_printed_and_recorded() -> None:
    X, y = made(120)

    result = run_protocol(X, y, "fewshot-ridge", cv=0.3)
    table, data = result.table(details=True), json.loads(json.dumps(result.to_dict()))

    assert data["constants"] == PROTOCOLS["fewshot-ridge"].constants
    assert data["random_state"] == 0
    for name in data["constants"]:
        assert f"  {name} " in table
    assert "big_vision/evaluators/fewshot_lsr.py" in table
    assert data["source"] in table
    assert [one["head"] for one in data["heads"]] == [one.head for one in result.settings]


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_protocol_is_described_in_three_lines_of_a_terminal(name: str) -> None:
    lines = list_protocols()[name].splitlines()

    assert len(lines) == 3
    assert all(len(line) <= 100 for line in lines)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("clip", {"cv": 0.2}, "there is no protocol 'clip': valid names are clip-linear"),
        ("clip-linear", {}, "there are none; make them with --split random:80/20 or --cv 0.25"),
        ("clip-linear", {"cv": 5}, "not 5: a protocol has one test part and no folds"),
        ("clip-linear", {"splits": ["fold0", "fold1"] * 30}, "there is 'fold0'"),
        ("clip-linear", {"splits": ["test"] * 60}, "needs rows of train"),
        ("clip-linear", {"splits": ["train", "test"] * 30, "cv": 0.2}, "ask for no cv"),
        ("vtab1k", {"cv": 0.2}, "learns from 800 images and chooses on 200 others, and there are"),
        ("dinov2-knn", {"cv": 0.2, "random_state": -1}, "a whole number from 0 up, not -1"),
        ("dinov2-knn", {"cv": 0.9}, "asks 10 neighbours at least"),
        ("voc07-svm", {"cv": 0.9}, "2 images to learn from are with class '0'"),
        ("clip-linear", {"splits": ["train"] + ["test"] * 59}, "class '1', '2' has images, and"),
    ],
    ids=str,
)
def test_what_a_protocol_cannot_do_is_said(name: str, words: dict[str, Any], said: str) -> None:
    X, y = made(60)

    with pytest.raises(EvaluationError, match=said.replace("(", r"\(")):
        run_protocol(X, y, name, **words)
