"""Heads on torch tensors. scipy reads SCIPY_ARRAY_API when it is imported: hence the processes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from featbank.errors import HeadError
from featbank.evaluation import cross_validate
from featbank.heads import make_head
from featbank.heads.arrays import fit_on, takes_tensors
from tests.conftest import PATIENCE

SCRIPT = """
import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featbank.heads import make_head
from featbank.heads.arrays import choose_on, fit_on
from featbank.heads.sweep import grid_search

warnings.simplefilter("error")
random = np.random.default_rng(0)


def arrays(part):
    for value in vars(part).values():
        assert type(value).__module__ != "torch", value
        if hasattr(value, "get_params"):
            arrays(value)


for k in (2, 4):
    codes = random.integers(0, k, 300)
    y = np.array(list("abcd"))[codes]
    X = (random.normal(size=(300, 20)) + random.normal(size=(k, 20))[codes]).astype(np.float32)
    weight = dict(zip(np.unique(y), (3.0, 1.0, 0.5, 1.0)))
    heads = [
        make_head("logreg", random_state=0),
        make_head("logreg", class_weight=weight),
        make_head("ridge"),
        make_head("ridge", class_weight="balanced"),
        make_head("lda", solver="svd", shrinkage=None),
        make_pipeline(StandardScaler(), PCA(5, svd_solver="full"), make_head("logreg")[-1]),
    ]
    for head in heads:
        there = fit_on("cpu", head, X, y)
        here = head.fit(X, y)
        told, wanted = there.decision_function(X), here.decision_function(X)
        np.testing.assert_allclose(told, wanted, rtol=2e-3, atol=2e-3)
        assert list(there.classes_) == list(here.classes_)
        assert there.predict(X).dtype == y.dtype
        assert there.get_params()[there.steps[-1][0]].get_params() == here[-1].get_params()
        for _, step in there.steps:
            arrays(step)
    weights = random.random(300)
    steps = {"standardscaler__sample_weight": weights, "ridgeclassifier__sample_weight": weights}
    told = fit_on("cpu", heads[2], X, y, **steps).decision_function(X)
    wanted = heads[2].fit(X, y, **steps).decision_function(X)
    np.testing.assert_allclose(told, wanted, rtol=2e-3, atol=2e-3)
    folds = list(StratifiedKFold(3).split(X, y))
    values = {"logisticregression__C": [1e-4, 1e-2, 1.0]}
    search = grid_search(heads[0], values, X, y, folds)
    assert choose_on("cpu", heads[0], values, X, y, folds) == search.best_params
print("done")
"""


def test_scikit_learn_fits_tensors_as_it_fits_arrays_and_arrays_come_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "SCIPY_ARRAY_API": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"


def test_without_the_variable_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCIPY_ARRAY_API", raising=False)
    with pytest.raises(HeadError, match="set SCIPY_ARRAY_API=1 before Python is started"):
        fit_on("cuda", make_head("logreg"), np.eye(4), np.array([0, 1, 0, 1]))


@pytest.mark.parametrize("head", ["svm", "linear-svm", "knn", "centroid", "lda", "mlp"])
def test_a_head_without_such_a_path_says_which_have_one(head: str) -> None:
    assert not takes_tensors(make_head(head))
    with pytest.raises(HeadError, match="use logreg, ridge, mlp"):
        fit_on("cuda", make_head(head), np.eye(4), np.array([0, 1, 0, 1]))


def test_a_device_that_is_not_there_is_refused() -> None:
    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    with pytest.raises(ValueError, match=r"there is .* cuda device"):
        cross_validate(X, y, "logreg", tune=False, device="cuda:99")
    with pytest.raises(ValueError, match="not 'gpu'"):
        cross_validate(X, y, "logreg", tune=False, device="gpu")


def test_the_cpu_by_name_is_what_is_meant_without_a_device() -> None:
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    named, plain = (
        cross_validate(X, y, ["ridge", "mlp"], tune=False, cv=2, device=device)
        for device in ("cpu", None)
    )
    for one, other in zip(named.heads, plain.heads, strict=True):
        np.testing.assert_array_equal(one.predictions.y_pred, other.predictions.y_pred)
