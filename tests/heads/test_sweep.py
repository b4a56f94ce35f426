import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, ParameterGrid, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from featbank.heads import grid, kernel, make_head, paths
from featbank.heads.sweep import COARSE, as_task, best_of, grid_search, sweep
from featbank.heads.weights import by_step


def data(k=3, n=240, d=30, seed=0):
    X, y = make_classification(
        n, d, n_informative=10, n_classes=k, class_sep=0.9, flip_y=0.05, random_state=seed
    )
    return (X * np.exp(np.arange(d) / 10)).astype(np.float32), np.array(["a", "b", "c"])[y % 3]


def folds_of(X, y, k=3):
    return list(StratifiedKFold(k, shuffle=True, random_state=0).split(X, y))


def search(estimator, values, X, y, folds, scoring=None, **fit_params):
    if isinstance(estimator, Pipeline) and isinstance(estimator[-1], LogisticRegression):
        # In float32 and at its own tolerance it stops early for the smallest and the largest C.
        estimator, X = clone(estimator).set_params(logisticregression__tol=1e-7), X.astype(float)
    found = GridSearchCV(estimator, values, cv=folds, refit=False, scoring=scoring)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = found.fit(X, y, **fit_params).cv_results_
    return np.column_stack([results[f"split{i}_test_score"] for i in range(len(folds))])


PARITY = [
    (head, k, scoring)
    for head in ("logreg", "linear-svm", "svm", "ridge", "knn", "lda")
    for k in (2, 3)
    for scoring in ("accuracy", "f1_macro")
]


@pytest.mark.parametrize(("head", "k", "scoring"), PARITY)
def test_scores_are_those_of_agrid_search(head, k, scoring):
    X, y = data(k)
    folds = folds_of(X, y)
    values = grid(head)
    found = sweep(make_head(head, random_state=0), values, X, y, folds, scoring=scoring)
    wanted = search(make_head(head, random_state=0), values, X, y, folds, scoring)
    # A row on the boundary may fall to either side within a solver's tolerance.
    assert np.abs(found.scores - wanted).max() <= 1.5 / 80
    assert np.abs(found.scores.mean(axis=1) - wanted.mean(axis=1)).max() <= 0.01
    assert found.params == list(ParameterGrid(values))
    assert found.best_params == found.params[found.best]


@pytest.mark.parametrize("head", ["logreg", "linear-svm", "svm", "ridge", "lda"])
def test_scores_with_fewer_rows_than_columns_are_those_of_agrid_search(head):
    X, y = data(3, n=90, d=150)
    folds = folds_of(X, y)
    found = sweep(make_head(head, random_state=0), grid(head), X, y, folds)
    wanted = search(make_head(head, random_state=0), grid(head), X, y, folds)
    assert np.abs(found.scores - wanted).max() <= 1.5 / 30


@pytest.mark.parametrize("head", ["logreg", "linear-svm", "svm"])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("weighted", ["classes", "named classes", "rows", "rows, some 0"])
def test_weights_mean_what_they_mean_in_agrid_search(head, k, weighted):
    X, y = data(k)
    keep = (y != "b") | (np.arange(len(y)) % 3 == 0)
    X, y = X[keep], y[keep]
    folds = folds_of(X, y)
    estimator, fit_params = make_head(head, random_state=0), {}
    if weighted == "classes":
        estimator = make_head(head, random_state=0, class_weight="balanced")
    elif weighted == "named classes":
        by_name = {name: 1.0 + (name == "b") for name in np.unique(y)}
        estimator = make_head(head, random_state=0, class_weight=by_name)
    else:
        rows = np.random.default_rng(0).uniform(0, 3, len(y))
        rows[rows < (1 if weighted == "rows, some 0" else 0)] = 0
        fit_params = by_step(estimator, head, rows)
    own = {key: values for key, values in grid(head).items() if "__" in key}
    assert as_task(estimator, own, X, y, folds, None, fit_params) is not None
    score = "balanced_accuracy"
    found = sweep(estimator, grid(head), X, y, folds, scoring=score, **fit_params)
    wanted = search(estimator, grid(head), X, y, folds, score, **fit_params)
    assert np.abs(found.scores.mean(axis=1) - wanted.mean(axis=1)).max() <= 0.02


def test_a_ranking_metric_ranks_by_decisions_and_a_probability_metric_by_probabilities():
    X, y = data(2)
    folds = folds_of(X, y)
    for scoring in ("roc_auc", "neg_log_loss"):
        found = sweep(make_head("logreg"), grid("logreg"), X, y, folds, scoring=scoring)
        wanted = search(make_head("logreg"), grid("logreg"), X, y, folds, scoring)
        np.testing.assert_allclose(found.scores, wanted, rtol=0.02, atol=0.002)
    found = sweep(make_head("knn"), grid("knn"), X, y, folds, scoring="roc_auc")
    wanted = search(make_head("knn"), grid("knn"), X, y, folds, "roc_auc")
    np.testing.assert_allclose(found.scores, wanted, atol=0.01)


def test_a_metric_of_probabilities_is_refused_for_a_head_without():
    X, y = data(2)
    with pytest.raises((AttributeError, ValueError), match="predict_proba"):
        sweep(make_head("svm"), grid("svm"), X, y, folds_of(X, y), scoring="neg_log_loss")


def test_validation_rows_need_not_be_a_fold():
    X, y = data(3)
    rows = np.arange(len(X))
    for head in ("logreg", "linear-svm", "svm", "ridge", "knn"):
        one = [(rows[:120], rows[150:])]
        found = sweep(make_head(head, random_state=0), grid(head), X, y, one)
        wanted = search(make_head(head, random_state=0), grid(head), X, y, one)
        assert np.abs(found.scores - wanted).max() <= 1.5 / 90, head


def test_nothing_is_learned_from_held_out_rows(monkeypatch):
    """What lies outside a fold's rows may be anything: the scores of fits don't move."""
    X, y = data(2)
    rows, held = folds_of(X, y)[0]
    beside = np.setdiff1d(np.arange(len(X)), [*rows, *held[:40]])
    wild = X.copy()
    wild[beside] = 1e3 * np.random.default_rng(0).standard_normal((len(beside), X.shape[1]))
    for head in ("logreg", "linear-svm", "svm", "ridge", "knn"):
        one = [(rows, held[:40])]
        plain = sweep(make_head(head, random_state=0), grid(head), X, y, one).scores
        moved = sweep(make_head(head, random_state=0), grid(head), wild, y, one).scores
        assert np.abs(plain - moved).max() <= 1.5 / 40, head


SLOW = {
    "another scaler": make_pipeline(MinMaxScaler(), LogisticRegression()),
    "scaling without a mean": make_pipeline(StandardScaler(with_mean=False), LogisticRegression()),
    "two steps before": make_pipeline(MinMaxScaler(), StandardScaler(), LogisticRegression()),
    "ridge without scaling": RidgeClassifier(),
    "another decomposition": make_pipeline(StandardScaler(), LinearDiscriminantAnalysis()),
    "another solver": make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cg")),
    "another penalty": make_pipeline(
        StandardScaler(), LogisticRegression(l1_ratio=0.5, solver="saga")
    ),
    "no intercept": make_pipeline(StandardScaler(), LogisticRegression(fit_intercept=False)),
    "another loss": make_pipeline(StandardScaler(), LinearSVC(loss="hinge")),
    "standardised, then unit rows": make_pipeline(
        StandardScaler(), Normalizer(), LogisticRegression()
    ),
    "another kernel": make_pipeline(StandardScaler(), SVC(kernel="poly")),
    "positive weights": make_pipeline(StandardScaler(), RidgeClassifier(positive=True)),
    "weighted classes": make_pipeline(StandardScaler(), RidgeClassifier(class_weight="balanced")),
    "another class": make_pipeline(StandardScaler(), RandomForestClassifier()),
}


@pytest.mark.parametrize("what", SLOW)
def test_what_is_not_known_goes_through_agrid_search(what):
    X, y = data(2)
    estimator = SLOW[what]
    prefix = f"{estimator.steps[-1][0]}__" if hasattr(estimator, "steps") else ""
    own = estimator.get_params()
    key = next(
        f"{prefix}{name}"
        for name in ("C", "alpha", "shrinkage", "max_depth")
        if f"{prefix}{name}" in own
    )
    folds = folds_of(X, y)
    assert as_task(estimator, {key: [1, 2]}, X, y, folds, None, {}) is None


BARE = [
    LogisticRegression(max_iter=5000),
    LinearSVC(max_iter=100_000, tol=1e-7, dual=True),
    LinearSVC(max_iter=100_000, tol=1e-7, dual=True, class_weight={"a": 2, "b": 1}),
    SVC(),
]


@pytest.mark.parametrize("estimator", BARE, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("normalized", [False, True])
def test_heads_without_scaling_are_swept_too(estimator, normalized):
    X, y = data(2)
    X = X / 20 + np.float32(0.3)
    folds = folds_of(X, y)
    key = "C"
    if normalized:
        estimator = make_pipeline(Normalizer(), estimator)
        key = f"{estimator.steps[-1][0]}__C"
    values = {key: [0.01, 0.1, 1.0, 10.0]}
    assert as_task(estimator, values, X, y, folds, None, {}) is not None
    found = sweep(estimator, values, X, y, folds)
    wanted = search(estimator, values, X, y, folds)
    assert np.abs(found.scores - wanted).max() <= 2.5 / 80


def test_parameters_that_no_path_sweeps_are_swept_around_it():
    X, y = data(2)
    values = {
        "svc__gamma": [1e-2, "scale", 1.0],
        "svc__C": [1.0, 10.0],
        "svc__class_weight": [None, "balanced"],
        "standardscaler": [StandardScaler(), StandardScaler(with_mean=False, with_std=False)],
    }
    found = sweep(make_head("svm"), values, X, y, folds_of(X, y))
    wanted = search(make_head("svm"), values, X, y, folds_of(X, y))
    np.testing.assert_allclose(found.scores, wanted, atol=1.5 / 80)
    assert found.params == list(ParameterGrid(values))


def test_one_distance_matrix_serves_all_settings_of_a_scaling(monkeypatch):
    X, y = data(2)
    made = []
    real = kernel.squared_distances
    monkeypatch.setattr(kernel, "squared_distances", lambda A, B: made.append(1) or real(A, B))
    sweep(make_head("svm"), grid("svm"), X, y, folds_of(X, y))
    assert len(made) == 2 * 2 * 3  # two scalings, rows among themselves and across, three folds


def test_a_step_that_a_grid_puts_in_has_the_weights_of_the_last_step():
    X, y = data(2)
    weights = np.random.default_rng(0).uniform(0, 3, len(y))
    head = make_pipeline(Normalizer(), SVC())
    folds = folds_of(X, y)
    found = sweep(
        head,
        {"normalizer": [Normalizer(), StandardScaler()]},
        X,
        y,
        folds,
        svc__sample_weight=weights,
    )
    both = {f"{name}__sample_weight": weights for name in ("standardscaler", "svc")}
    wanted = search(make_pipeline(StandardScaler(), SVC()), {"svc__C": [1.0]}, X, y, folds, **both)
    np.testing.assert_allclose(found.scores[1:], wanted, atol=1.5 / 80)


def test_a_grid_may_be_in_any_order():
    X, y = data(2)
    values = {"logisticregression__C": [10.0, 1e-9, 1e-10, 1.0]}
    found = sweep(make_head("logreg"), values, X, y, folds_of(X, y))
    assert [p["logisticregression__C"] for p in found.params] == values["logisticregression__C"]
    assert found.means[found.best] == found.means.max()


def test_ties_go_to_the_lowest_log_loss_and_then_to_the_middle_of_the_plateau():
    C = [{"C": c} for c in (0.1, 1.0, 10.0, 100.0, 1000.0)]
    means = np.array([0.8, 0.9, 0.9, 0.9, 0.7])
    unknown = np.full(5, np.nan)
    assert best_of(C, means, unknown) == 2
    assert best_of(C[::-1], means[::-1], unknown) == 2
    assert best_of(C, means, np.array([0.1, 0.5, 0.4, 0.3, 0.1])) == 3
    assert best_of(C, means, np.array([0.1, 0.3, 0.3, 0.3, 0.1])) == 2
    grid = list(ParameterGrid({"C": [1, 10, 100], "gamma": [0.1, 1, 10], "scaler": ["a", "b"]}))
    plateau = np.array([float(p["scaler"] == "b") for p in grid])
    chosen = grid[best_of(grid, plateau, np.full(len(grid), np.nan))]
    assert chosen == {"C": 10, "gamma": 1, "scaler": "b"}


def test_ties_leave_probabilities_that_say_something():
    """On separated classes every C scores 1; the strongest penalty would say a third for each."""
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 9)
    X = (4 * np.eye(3)[y] @ random.standard_normal((3, 200))).astype(np.float32)
    X += random.standard_normal(X.shape, dtype=np.float32)
    folds, head = folds_of(X, y), make_head("logreg")
    for search_ in (sweep, grid_search):
        found = search_(head, grid("logreg"), X, y, folds)
        assert found.best_score == 1.0
        chosen = clone(head).set_params(**found.best_params).fit(X, y)
        assert chosen.predict_proba(X).max(axis=1).min() > 0.9
    assert (
        sweep(head, grid("logreg"), X, y, folds).best_params
        == grid_search(head, grid("logreg"), X, y, folds).best_params
    )
    margins = sweep(make_head("linear-svm"), grid("linear-svm"), X, y, folds)
    tied = np.flatnonzero(margins.means == 1.0)
    assert margins.best == tied[(len(tied) - 1) // 2]


def test_a_long_grid_is_searched_from_coarse_to_fine_and_finds_the_peak():
    digits, y = load_digits(return_X_y=True)
    X = digits[:600].astype(np.float32) + np.random.default_rng(0).normal(0, 6, (600, 64))
    X, y = X.astype(np.float32), y[:600]
    values = {"logisticregression__C": list(np.logspace(-6, 5, 45))}
    folds = folds_of(X, y)
    found = sweep(make_head("logreg"), values, X, y, folds)
    tried = ~np.isnan(found.scores).any(axis=1)
    assert tried.sum() <= 20
    wanted = search(make_head("logreg"), values, X, y, folds).mean(axis=1)
    error = found.scores[found.best].std(ddof=1) / np.sqrt(3)
    assert wanted[found.best] >= wanted.max() - error


def test_a_grid_shorter_than_that_is_tried_in_full():
    X, y = data(2)
    values = {"logisticregression__C": list(np.logspace(-4, 4, COARSE - 1))}
    assert not np.isnan(sweep(make_head("logreg"), values, X, y, folds_of(X, y)).scores).any()


def test_a_long_grid_goes_on_where_scores_tie_and_log_loss_falls():
    X, y = data(2)
    X[:, 0] = 100 * (y == "a")
    values = {"logisticregression__C": list(np.logspace(-6, 4, 21))}
    found = sweep(make_head("logreg"), values, X, y, folds_of(X, y))
    assert found.best_score == 1.0
    first = int(np.argmax(found.means == 1.0))
    assert found.best > first
    assert found.losses[found.best].mean() < found.losses[first].mean() / 2


def test_many_classes_are_solved_a_fold_at_a_time(monkeypatch):
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(70), 6)
    X = (random.standard_normal((70, 20))[y] + 0.6 * random.standard_normal((420, 20))).astype(
        np.float32
    )
    folds = folds_of(X, y)
    for head in ("logreg", "linear-svm"):
        apart = sweep(make_head(head, random_state=0), grid(head), X, y, folds).scores
        monkeypatch.setattr(paths, "_COLUMNS", 10**6)
        together = sweep(make_head(head, random_state=0), grid(head), X, y, folds).scores
        monkeypatch.undo()
        assert np.abs(apart - together).max() <= 3 / 140
        wanted = search(make_head(head, random_state=0), grid(head), X, y, folds)
        assert np.abs(apart - wanted).mean() <= 0.01


def test_constant_features_and_copies_of_features_do_no_harm():
    X, y = data(2)
    X = np.column_stack([X, np.full(len(X), 7, np.float32), X[:, :5], np.zeros(len(X), np.float32)])
    X[:3, -1] = 1  # constant in some folds alone
    folds = folds_of(X, y)
    for head in ("logreg", "linear-svm", "svm", "ridge"):
        found = sweep(make_head(head, random_state=0), grid(head), X, y, folds).scores
        wanted = search(make_head(head, random_state=0), grid(head), X, y, folds)
        assert np.abs(found - wanted).max() <= 2.5 / 80, head


def test_features_that_no_class_varies_in_leave_lda_as_it_is_in_scikit_learn():
    X, y = data(3, n=18)
    X[:, :4] = X[0, :4]
    folds = folds_of(X, y)
    found = sweep(make_head("lda"), grid("lda"), X, y, folds).scores
    wanted = search(make_head("lda"), grid("lda"), X, y, folds)
    assert np.abs(found - wanted).max() <= 1.5 / 6


def test_a_fold_without_a_class_goes_through_agrid_search():
    X, y = data(3)
    order = np.argsort(y, kind="stable")
    X, y = X[order], y[order]
    folds = [(np.arange(0, 160), np.arange(160, 240)), (np.arange(80, 240), np.arange(80))]
    assert as_task(make_head("logreg"), grid("logreg"), X, y, folds, None, {}) is None


def test_a_normalizer_serves_an_svm_too():
    X, y = data(2)
    estimator = make_pipeline(Normalizer(), SVC())
    values = {"svc__C": [0.1, 1.0, 10.0]}
    found = sweep(estimator, values, X, y, folds_of(X, y))
    np.testing.assert_allclose(
        found.scores, search(estimator, values, X, y, folds_of(X, y)), atol=0.02
    )


def test_an_svm_that_does_not_fit_in_memory_says_so(monkeypatch):
    from featbank.errors import HeadError
    from featbank.heads import memory

    monkeypatch.setattr(memory, "available_memory", lambda: 100_000)
    X, y = data(2)
    with pytest.raises(HeadError, match=r"Gram matrix.* use linear-svm or logreg"):
        sweep(make_head("svm"), grid("svm"), X, y, folds_of(X, y))
