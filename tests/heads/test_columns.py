import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featbank.heads import grid, make_head
from featbank.heads.choice import LAYER, LayerChoice
from featbank.heads.columns import Join, joined_head, sweep_blocks
from featbank.heads.registry import head_name

RANDOM = np.random.default_rng(0)
Y = np.arange(120) % 3
X = RANDOM.normal(size=(120, 10)) * RANDOM.uniform(1, 9, size=10) + RANDOM.normal(size=10)
X[:, 4:7] += 20 * np.eye(3)[Y]
BLOCKS = {"a": (0, 4), "b": (4, 7), "c": (7, 10)}


def test_a_head_chooses_the_block_with_its_other_settings():
    choice = LayerChoice("logreg", BLOCKS)
    assert head_name(choice) == "logreg"
    values = grid(choice)
    assert values[LAYER] == ["a", "b", "c"]
    assert values["logisticregression__C"] == grid("logreg")["logisticregression__C"]
    search = GridSearchCV(make_head(choice, random_state=0), values, cv=StratifiedKFold(3))
    search.fit(X, Y)

    assert search.best_params_[LAYER] == "b"
    plain = make_head("logreg", C=search.best_params_["logisticregression__C"]).fit(X[:, 4:7], Y)
    np.testing.assert_array_equal(search.predict(X), plain.predict(X[:, 4:7]))


def test_without_tuning_only_the_block_is_chosen():
    assert grid(LayerChoice("svm", BLOCKS, tune=False)) == {LAYER: ["a", "b", "c"]}
    estimator = make_head(LayerChoice(LogisticRegression(), BLOCKS), C=3.0)
    assert estimator.get_params()["logisticregression__C"] == 3.0


@pytest.mark.parametrize("tune", [True, False])
def test_a_sweep_over_blocks_is_that_of_the_whole_grid(tune):
    choice = LayerChoice("ridge", BLOCKS, tune=tune)
    folds = list(StratifiedKFold(3).split(X, Y))
    found = sweep_blocks(make_head(choice), grid(choice), X, Y, folds, scoring="accuracy")
    whole = GridSearchCV(make_head(choice), grid(choice), cv=folds, scoring="accuracy").fit(X, Y)

    assert found.params == whole.cv_results_["params"]
    assert found.best_params == whole.best_params_
    assert found.best_score == pytest.approx(whole.best_score_)
    columns = [whole.cv_results_[f"split{i}_test_score"] for i in range(3)]
    known = ~np.isnan(found.scores)
    np.testing.assert_allclose(found.scores[known], np.column_stack(columns)[known])


def test_joined_blocks_have_equal_variance_whatever_their_width():
    out = Join(BLOCKS).fit(X).transform(X)

    sums = [np.square(out[:, start:stop]).sum() / len(X) for start, stop in BLOCKS.values()]
    assert sums == pytest.approx([10 / 3] * 3)
    np.testing.assert_allclose(Join({"all": (0, 10)}).fit_transform(X),
                               StandardScaler().fit_transform(X))  # fmt: skip


def test_reduced_blocks_are_their_principal_components():
    out = Join(BLOCKS, components=2).fit(X).transform(X)

    start = 0
    for first, last in BLOCKS.values():
        plain = PCA(2).fit_transform(StandardScaler().fit_transform(X[:, first:last]))
        plain *= np.sqrt(2 / (np.square(plain).sum() / len(X)))
        np.testing.assert_allclose(np.abs(out[:, start : start + 2]), np.abs(plain), atol=1e-9)
        start += 2
    assert start == out.shape[1]


def test_float32_stays_and_a_constant_block_weighs_nothing():
    flat = X.astype(np.float32)
    flat[:, :4] = 7
    out = Join(BLOCKS).fit(flat).transform(flat)

    assert out.dtype == np.float32
    assert not out[:, :4].any()
    assert np.isfinite(out).all()


def test_a_joined_head_scales_in_the_join_alone():
    joined = joined_head(make_head("logreg"), BLOCKS)
    assert [name for name, _ in joined.steps] == ["join", "logisticregression"]
    plain = make_pipeline(Join(BLOCKS), LogisticRegression(C=0.01, max_iter=2000)).fit(X, Y)
    np.testing.assert_array_equal(joined.fit(X, Y).predict(X), plain.predict(X))
    assert [name for name, _ in joined_head(make_head("knn"), BLOCKS).steps][1] == "normalizer"
