import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import ParameterGrid

from featbank.errors import FeatbankError, HeadError, UnknownHead
from featbank.heads import grid, list_heads, make_head
from featbank.heads.outputs import outputs

NAMES = ["centroid", "knn", "lda", "linear-svm", "logreg", "mlp", "ridge", "svm"]
X, Y = make_classification(60, 12, n_informative=6, n_classes=3, random_state=0)
X32 = X.astype(np.float32)


def test_lists_every_head_sorted_with_a_line():
    assert list(list_heads()) == NAMES
    assert all(line and "\n" not in line for line in list_heads().values())


def test_listing_heads_imports_neither_scikit_learn_nor_torch():
    code = (
        "import sys; from featbank.heads import list_heads; list_heads(); "
        "sys.exit(bool({'sklearn', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_head_fits_the_same_twice_and_has_a_grid_that_it_takes(name):
    first, second = (make_head(name, random_state=7) for _ in range(2))
    assert set(grid(name)) <= set(first.get_params())
    told = [outputs(head.fit(X32, Y), X32) for head in (first, second)]
    np.testing.assert_array_equal(told[0].scores, told[1].scores)
    assert told[0].scores.shape == (60, 3)
    assert first.score(X32, Y) > 0.5


def test_grids_of_support_vector_machines_hold_eight_settings_and_mlp_none():
    assert len(ParameterGrid(grid("svm"))) >= 8
    assert len(grid("linear-svm")["linearsvc__C"]) >= 8
    assert grid("mlp") == {}
    assert grid(make_head("svm")) == {}


def test_a_callers_change_to_a_grid_stays_theirs():
    grid("svm")["svc__C"].clear()
    grid("svm")["standardscaler"][1].set_params(with_std=False)
    assert grid("svm")["svc__C"]
    assert grid("svm")["standardscaler"][1].with_std


def test_parameters_reach_the_last_step_with_or_without_prefix():
    assert make_head("svm", C=5.0).get_params()["svc__C"] == 5.0
    assert make_head("svm", svc__C=5.0).get_params()["svc__C"] == 5.0
    assert make_head("mlp", hidden=8)[-1].hidden == 8
    assert make_head("logreg", class_weight="balanced")[-1].class_weight == "balanced"


def test_seeds_every_step_but_leaves_a_seed_that_was_set():
    assert make_head("logreg", random_state=3)[-1].random_state == 3
    assert make_head(RandomForestClassifier(random_state=5), random_state=3).random_state == 5


def test_takes_an_import_path_and_an_instance_which_it_clones():
    forest = make_head("sklearn.ensemble.RandomForestClassifier", n_estimators=3, random_state=1)
    assert (forest.n_estimators, forest.random_state) == (3, 1)
    given = RandomForestClassifier()
    assert make_head(given, n_estimators=2).n_estimators == 2
    assert given.n_estimators == 100


@pytest.mark.parametrize(
    ("head", "params", "error", "words"),
    [
        ("svn", {}, UnknownHead, "did you mean svm"),
        ("svm", {"c": 1}, HeadError, "takes no 'c'"),
        ("knn", {"class_weight": "balanced"}, HeadError, "class_weight"),
        ("no.such.Thing", {}, UnknownHead, "can't be imported"),
        ("sklearn.svm.Nope", {}, UnknownHead, "can't be imported"),
        ("sklearn.linear_model.LinearRegression", {}, HeadError, "no classifier"),
        ("sklearn.base.clone", {}, HeadError, "no class"),
        ("sklearn.ensemble.VotingClassifier", {}, HeadError, "needs arguments"),
        ("collections.OrderedDict", {}, HeadError, "no scikit-learn estimator"),
        (LinearRegression(), {}, HeadError, "no classifier"),
        (RandomForestClassifier, {}, HeadError, "no scikit-learn estimator"),
        (None, {}, HeadError, "no scikit-learn estimator"),
        ("", {}, UnknownHead, "valid names"),
    ],
)
def test_what_is_no_head_is_refused_in_one_clear_line(head, params, error, words):
    with pytest.raises(error, match=words) as caught:
        make_head(head, **params)
    assert isinstance(caught.value, FeatbankError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["svm", "knn", "logreg", "ridge"])
def test_two_classes_give_two_columns_of_scores(name):
    y = np.where(Y == 0, "no", "yes")
    head = make_head(name, random_state=0).fit(X, y)
    told = outputs(head, X)
    assert told.scores.shape == (60, 2)
    np.testing.assert_array_equal(head.classes_[told.codes], head.predict(X))
    assert (told.probability is None) == (name in ("svm", "ridge"))


def test_scaling_keeps_float32():
    assert make_head("logreg").fit(X32, Y)[0].transform(X32).dtype == np.float32
    assert make_head("logreg").fit(X32, Y)[-1].coef_.dtype == np.float32


def test_defaults_for_two_images_a_class_are_better_than_those_for_many():
    from featbank.estimator import TransferClassifier
    from featbank.evaluation import fit_final

    random = np.random.default_rng(0)
    means = random.normal(size=(6, 20))
    y = np.tile(np.arange(6), 60)
    X = means[y] + 0.8 * random.normal(size=(360, 20))
    for head, key, few in (("knn", "n_neighbors", 1), ("lda", "shrinkage", 0.9)):
        own = getattr(make_head(head)[-1], key)
        for images, wanted in ((12, few), (60, own)):
            fitted = fit_final(X[:images], y[:images], head, tune=False).estimator
            assert getattr(fitted[-1], key) == wanted
            same = TransferClassifier("precomputed", head).fit(X[:images], y[:images])
            assert getattr(same.head_[-1], key) == wanted
        before = make_head(head).fit(X[:12], y[:12]).score(X[60:], y[60:])
        after = fit_final(X[:12], y[:12], head, tune=False).estimator.score(X[60:], y[60:])
        assert after > before
        params = {key: own}
        kept = fit_final(X[:12], y[:12], head, tune=False, params=params).estimator
        assert getattr(kept[-1], key) == own
