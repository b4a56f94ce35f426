import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from featbank.heads import make_head
from featbank.heads.fits import fit_head
from featbank.heads.kernel import gamma_of, gram, squared_distances
from featbank.heads.soundness import is_sound_svc


def data(k=2, n=200):
    X, y = make_classification(n, 40, n_informative=12, n_classes=k, random_state=0)
    return X.astype(np.float32), y


def test_a_gram_matrix_is_that_of_the_kernel():
    X, _ = data()
    distance = squared_distances(X, X[:50])
    np.testing.assert_allclose(gram(distance, 0.02), rbf_kernel(X, X[:50], gamma=0.02), rtol=2e-5)
    np.testing.assert_array_equal(np.diag(gram(squared_distances(X, X), 0.02)), 1)


@pytest.mark.parametrize("gamma", ["scale", "auto", 0.3])
def test_gamma_is_what_the_estimator_would_take(gamma):
    X, y = data()
    svc = SVC(gamma=gamma).fit(X, y)
    assert gamma_of(gamma, X) == pytest.approx(svc._gamma, rel=1e-6)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"class_weight": "balanced"}, {"gamma": 0.01, "standardscaler": StandardScaler()}],
)
def test_an_svm_fitted_by_its_gram_matrix_is_the_rbf_svm(k, options):
    X, y = data(k)
    ours = fit_head(make_head("svm", **options), X, y)
    theirs = make_head("svm", **options).fit(X, y)
    ours_svc, theirs_svc = ours[-1], theirs[-1]
    assert ours_svc.kernel == "rbf"
    assert vars(ours_svc).keys() == vars(theirs_svc).keys()
    for name, value in vars(theirs_svc).items():
        mine = getattr(ours_svc, name)
        assert type(mine) is type(value), name
        if isinstance(value, np.ndarray):
            assert mine.dtype == value.dtype, name
    np.testing.assert_allclose(
        ours.decision_function(X), theirs.decision_function(X), atol=5 * ours_svc.tol
    )
    assert (ours.predict(X) == theirs.predict(X)).mean() >= 0.99
    assert is_sound_svc(ours_svc)
    assert clone(ours).get_params()["svc__kernel"] == "rbf"


def test_weights_of_rows_count_in_both_steps():
    X, y = data()
    weights = np.random.default_rng(0).uniform(0.1, 3, len(y))
    steps = {"standardscaler__sample_weight": weights, "svc__sample_weight": weights}
    ours = fit_head(make_head("svm"), X, y, **steps)
    theirs = make_head("svm").fit(X, y, **steps)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=5e-3)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_rows_of_weight_zero_take_no_part_in_a_gram_matrix(k, class_weight):
    X, y = data(k)
    weights = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    steps = {"standardscaler__sample_weight": weights, "svc__sample_weight": weights}
    made = make_head("svm", class_weight=class_weight)
    ours, theirs = fit_head(clone(made), X, y, **steps), clone(made).fit(X, y, **steps)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=5e-3)
    assert (weights[ours[-1].support_] > 0).all()
    np.testing.assert_allclose(
        ours[-1].support_vectors_, ours[:-1].transform(X)[ours[-1].support_], rtol=1e-6
    )
    assert is_sound_svc(ours[-1])


def test_class_weights_by_name_serve_a_fit():
    X, y = data(2)
    names = np.array(["b", "a"])[y]
    made = make_head("svm", class_weight={"a": 5.0, "b": 1.0})
    ours, theirs = fit_head(clone(made), X, names), clone(made).fit(X, names)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=5e-3)
    assert ours.classes_.tolist() == ["a", "b"]


def test_an_svm_whose_gram_matrix_does_not_fit_is_fitted_without(monkeypatch):
    from featbank.heads import kernel, memory

    X, y = data()
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    monkeypatch.setattr(kernel, "fit_by_gram", None)
    fitted = fit_head(make_head("svm"), X, y)
    np.testing.assert_array_equal(fitted.predict(X), make_head("svm").fit(X, y).predict(X))


def test_other_heads_are_fitted_as_they_are():
    X, y = data()
    ours = fit_head(make_head("lda"), X, y)
    np.testing.assert_array_equal(ours.predict(X), make_head("lda").fit(X, y).predict(X))
