from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featbank.backbones import ModuleBackbone, from_module
from featbank.bank.bank import Bank
from featbank.errors import (
    BackboneError,
    DataError,
    EvaluationError,
    HeadError,
    ImageError,
    UnknownBackbone,
    WeightsMismatch,
)
from featbank.estimator import FeatureExtractor, TransferClassifier
from featbank.heads.registry import make_head
from tests.tiny import PREPROCESS, TinyNet, make_images

CLASSES = 3


class CountingNet(TinyNet):
    """Writes one byte for each image that goes through it, from whatever process."""

    def __init__(self, ledger: Path, seed: int = 0) -> None:
        super().__init__(seed)
        self.ledger = str(ledger)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with open(self.ledger, "ab", buffering=0) as file:
            file.write(b"." * len(x))
        return super().forward(x)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEATBANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module", autouse=True)
def _workers_end() -> Iterator[None]:
    yield
    joblib.externals.loky.get_reusable_executor().shutdown()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_images(tmp_path_factory.mktemp("images"), n=18, classes=CLASSES)


@pytest.fixture(scope="module")
def labels(paths: list[Path]) -> list[str]:
    return [path.parent.name for path in paths]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def backbone(ledger: Path) -> ModuleBackbone:
    return counting(ledger)


def counting(ledger: Path, *, seed: int = 0, version: str | None = "1") -> ModuleBackbone:
    net = CountingNet(ledger, seed)
    return from_module(net, transform=PREPROCESS, version=version, classifier="fc")


def embedded(ledger: Path) -> int:
    return ledger.stat().st_size if ledger.exists() else 0


def classifier(backbone: Any, head: Any = "logreg", **options: Any) -> TransferClassifier:
    return TransferClassifier(backbone, head, **{"workers": 0, "random_state": 0, **options})


def keys_of(bank: Path) -> list[bytes]:
    """Every key that lies in any shard of the bank, as often as it does."""
    opened = Bank(bank)
    return [
        key.tobytes()
        for known in opened.recipes
        for shard in opened.shards(known.fingerprint)
        for key in shard.keys
    ]


# What X may be


def test_paths_of_every_kind_give_the_same_features(
    paths: list[Path], backbone: ModuleBackbone, ledger: Path
) -> None:
    pandas = pytest.importorskip("pandas")
    words = [str(path) for path in paths]
    extractor = FeatureExtractor(backbone, workers=0)
    features = extractor.fit_transform(paths)
    assert features.shape == (18, 12)
    assert features.dtype == np.float32
    for X in (
        words,
        tuple(os.fsencode(path) for path in paths),
        np.array(words),
        np.array(paths, dtype=object),
        np.array(words)[:, np.newaxis],
        pandas.Series(words, index=range(100, 118)),
        pandas.DataFrame({"path": words}),
    ):
        np.testing.assert_array_equal(extractor.transform(X), features)
    assert embedded(ledger) == 18


def test_images_in_memory_are_embedded_as_their_files_are(
    tmp_path: Path, backbone: ModuleBackbone, ledger: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(4, 40, 36, 3), dtype=np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    extractor = FeatureExtractor(backbone, workers=0)
    features = extractor.fit_transform(files)
    np.testing.assert_allclose(extractor.transform(pixels), features, rtol=1e-5)
    images = [Image.fromarray(image) for image in pixels]
    np.testing.assert_allclose(extractor.transform(images), features, rtol=1e-5)
    assert embedded(ledger) == 8  # files, and pixels once


def test_a_classifier_learns_from_pixels(backbone: ModuleBackbone) -> None:
    rng = np.random.default_rng(0)
    dark = rng.integers(0, 90, size=(8, 40, 40, 3), dtype=np.uint8)
    X = np.concatenate([dark, dark + 150])
    y = [False] * 8 + [True] * 8
    fitted = classifier(backbone).fit(X, y)
    assert fitted.score(X, y) == 1.0
    assert fitted.predict(X).dtype == bool


GREY = np.zeros((4, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("X", "advice"),
    [
        ("cat.jpg", "one path"),
        (b"cat.jpg", "one path"),
        (Path("cat.jpg"), "one path"),
        (Image.new("RGB", (8, 8)), "one image"),
        ([], "empty"),
        (np.array([], dtype=object), "empty"),
        (None, "NoneType"),
        ({"a.png": 1}, "dict"),
        ((name for name in ["a.png"]), "generator"),
        (["a.png", None], r"X\[1\] is None"),
        (["a.png", float("nan")], r"X\[1\] is nan"),
        (["a.png", ""], r"X\[1\] is ''"),
        (["a\0b.png"], "can't be a path"),
        ([Image.new("RGB", (8, 8)), "a.png"], r"X\[1\] is a str"),
        ([[1.0, 2.0]], "precomputed"),
        (np.zeros((4, 8)), "precomputed"),
        (np.array([["a.png", "b.png"]]), "one dimension"),
        (GREY, "np.repeat"),
        (np.zeros((8, 8, 3), np.uint8), "np.newaxis"),
        (np.zeros((4, 8, 8, 1), np.uint8), "RGB"),
        (np.zeros((4, 3, 8, 8), np.uint8), "transpose"),
        (np.zeros((4, 8, 8, 3)), r"astype\(np.uint8\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), "empty"),
        ([GREY[0], GREY[1]], "grey|shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_images_is_refused_with_advice(X: Any, advice: str) -> None:
    # 'squeezenet1_1' is not looked up: X is refused before any network is.
    with pytest.raises(DataError, match=advice):
        FeatureExtractor("squeezenet1_1").fit(X)


def test_y_is_checked_before_any_image_is_read(
    paths: list[Path], backbone: ModuleBackbone, ledger: Path
) -> None:
    for y in (None, ["a"] * 17, [0.5] * 18, [["a", "b"]] * 18, ["a"] * 17 + [None]):
        with pytest.raises((ValueError, TypeError)):
            classifier(backbone).fit(paths, y)
    assert embedded(ledger) == 0


def test_an_unreadable_image_is_named(
    tmp_path: Path, paths: list[Path], labels: list[str], backbone: ModuleBackbone
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(paths[0].read_bytes()[:200])
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        classifier(backbone).fit([*paths, broken], [*labels, "a"])
    with pytest.raises(ImageError, match=r"nowhere\.jpg.*no such file"):
        FeatureExtractor(backbone, workers=0).fit([tmp_path / "nowhere.jpg"])
    with (
        Image.open(paths[0]) as good,
        Image.open(broken) as bad,
        pytest.raises(ImageError, match="image 1 can't be read"),
    ):
        FeatureExtractor(backbone).fit_transform([good, bad])


# What is learned


def test_labels_of_any_kind_come_back(
    paths: list[Path], labels: list[str], backbone: ModuleBackbone
) -> None:
    for y in (labels, np.array(labels, dtype=object), [ord(label) for label in labels]):
        fitted = classifier(backbone).fit(paths, y)
        assert fitted.classes_.tolist() == sorted(set(y))
        assert set(fitted.predict(paths)) <= set(y)
        assert fitted.score(paths, y) > 0.8
        assert fitted.predict_proba(paths).shape == (18, CLASSES)
    assert fitted.n_features_in_ == 12
    assert fitted.recipe_ == backbone.recipe
    assert fitted.head_.classes_.tolist() == fitted.classes_.tolist()


def test_methods_are_those_of_the_head() -> None:
    X, y = load_iris(return_X_y=True)
    for head in ("svm", "ridge"):
        for estimator in (classifier("precomputed", head), classifier("precomputed", head)):
            assert not hasattr(estimator, "predict_proba")
            assert hasattr(estimator, "decision_function")
            assert estimator.fit(X, y).decision_function(X).shape == (150, 3)
            assert not hasattr(estimator, "predict_proba")
    knn = classifier("precomputed", "knn").fit(X, y)
    assert not hasattr(knn, "decision_function")
    assert knn.predict_proba(X).shape == (150, 3)
    assert not hasattr(classifier("precomputed", "no such head"), "predict_proba")


def test_a_matrix_keeps_its_dtype_and_its_names() -> None:
    pandas = pytest.importorskip("pandas")
    X, y = load_iris(return_X_y=True, as_frame=True)
    for dtype in (np.float16, np.float32, np.float64):
        extractor = FeatureExtractor("precomputed")
        assert extractor.fit_transform(X.to_numpy(dtype)).dtype == dtype
    fitted = classifier("precomputed", "lda").fit(X, y)
    assert fitted.feature_names_in_.tolist() == list(X.columns)
    assert fitted.n_features_in_ == 4
    framed = extractor.set_output(transform="pandas").fit(X)
    pandas.testing.assert_frame_equal(framed.transform(X), X)
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(X.rename(columns=str.upper))


def test_features_have_names(paths: list[Path], backbone: ModuleBackbone) -> None:
    pandas = pytest.importorskip("pandas")
    extractor = FeatureExtractor(backbone, workers=0, layers="penultimate,stage1:max")
    extractor.set_output(transform="pandas")
    series = pandas.Series([str(path) for path in paths], index=range(100, 118))
    frame = extractor.fit_transform(series)
    assert frame.index.tolist() == list(range(100, 118))
    assert frame.shape == (18, 12 + 8)
    assert frame.columns[0] == "CountingNet@1#fc_0"
    assert frame.columns.is_unique
    assert extractor.n_features_out_ == 20
    assert not hasattr(extractor, "n_features_in_")


def test_a_fit_on_images_forgets_one_on_a_frame(
    paths: list[Path], labels: list[str], backbone: ModuleBackbone
) -> None:
    X, y = load_iris(return_X_y=True, as_frame=True)
    fitted = classifier("precomputed").fit(X, y).set_params(model=backbone).fit(paths, labels)
    assert not hasattr(fitted, "feature_names_in_")
    assert fitted.predict(paths).shape == (18,)
    extractor = FeatureExtractor("precomputed").fit(X).set_params(model=backbone).fit(paths)
    assert not hasattr(extractor, "feature_names_in_")
    assert not hasattr(extractor, "n_features_in_")


def test_nothing_is_predicted_before_a_fit(paths: list[Path], backbone: ModuleBackbone) -> None:
    with pytest.raises(NotFittedError):
        classifier(backbone).predict(paths)
    with pytest.raises(NotFittedError):
        FeatureExtractor(backbone).transform(paths)


# Weights of samples


@pytest.mark.parametrize("routing", [False, True])
def test_weights_reach_scaling_and_classifier(routing: bool) -> None:
    X, y = load_iris(return_X_y=True)
    weight = np.random.default_rng(0).integers(0, 3, size=150)
    with config_context(enable_metadata_routing=routing):
        weighted = classifier("precomputed").fit(X, y, sample_weight=weight)
    repeated = classifier("precomputed").fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-4)


def test_weights_pass_through_a_pipeline_and_a_search() -> None:
    X, y = load_iris(return_X_y=True)
    weight = np.where(y == 2, 1e-9, 1.0)
    pipeline = make_pipeline(FeatureExtractor("precomputed"), classifier("precomputed"))
    pipeline.fit(X, y, transferclassifier__sample_weight=weight)
    assert 2 not in pipeline.predict(X)
    tuned = classifier("precomputed", tune=True).fit(X, y, sample_weight=weight)
    assert 2 not in tuned.predict(X)


def test_weights_are_refused_by_a_head_without() -> None:
    X, y = load_iris(return_X_y=True)
    for head in ("knn", make_head("lda")):
        with pytest.raises(HeadError, match="takes no sample_weight"):
            classifier("precomputed", head).fit(X, y, sample_weight=np.ones(150))


# Tuning


def test_tuning_chooses_from_the_grid_of_the_head() -> None:
    X, y = load_iris(return_X_y=True)
    tuned = classifier("precomputed", "svm", tune=True).fit(X, y)
    assert set(tuned.best_params_) == {"standardscaler", "svc__C", "svc__gamma"}
    for key in ("svc__C", "svc__gamma"):
        assert tuned.head_.get_params()[key] == tuned.best_params_[key]
    assert not hasattr(tuned.best_params_["standardscaler"], "n_features_in_")
    assert classifier("precomputed", "svm").fit(X, y).best_params_ == {}


def test_tuning_keeps_equal_rows_together() -> None:
    # Labels are noise, and each row stands twice: who parts the copies, finds 1 neighbour best.
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(60, 4)), 2, axis=0)
    y = np.repeat(rng.random(60) < 0.7, 2)
    tuned = classifier("precomputed", "knn", tune=True).fit(X, y)
    assert tuned.best_params_["kneighborsclassifier__n_neighbors"] > 1


def test_tuning_says_what_it_can_not_tune() -> None:
    X, y = load_iris(return_X_y=True)
    for head in (make_head("svm"), "sklearn.linear_model.LogisticRegression"):
        with pytest.raises(HeadError, match="knows no grid"):
            classifier("precomputed", head, tune=True).fit(X, y)
    with pytest.warns(UserWarning, match="too small"):
        few = classifier("precomputed", tune=True).fit(X[[0, 1, 50]], y[[0, 1, 50]])
    assert few.best_params_ == {}
    with pytest.raises(EvaluationError, match="all 50 images are of one class, 'setosa'"):
        classifier("precomputed", tune=True).fit(X[:50], ["setosa"] * 50)


# Features are computed once


@pytest.mark.parametrize(
    ("head", "grid"),
    [
        ("logreg", {"head": ["logreg", "svm", "lda"]}),
        (make_head("svm"), {"head__svc__C": [0.1, 1.0, 10.0]}),
    ],
    ids=["heads", "head__svc__C"],
)
def test_a_grid_search_in_two_processes_embeds_each_image_once(
    tmp_path: Path,
    paths: list[Path],
    labels: list[str],
    backbone: ModuleBackbone,
    ledger: Path,
    head: Any,
    grid: dict[str, list[Any]],
) -> None:
    bank = tmp_path / "bank"
    estimator = classifier(backbone, head, bank=bank, workers=None)
    search = GridSearchCV(estimator, grid, cv=3, n_jobs=2)
    search.fit(paths, labels)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.predict(paths[:2]).shape == (2,)
    assert embedded(ledger) == 18
    keys = keys_of(bank)
    assert len(keys) == len(set(keys)) == 18


def test_a_grid_search_over_backbones_embeds_each_image_once_by_each(
    tmp_path: Path, paths: list[Path], labels: list[str], ledger: Path
) -> None:
    models = [counting(ledger, seed=seed) for seed in (0, 1)]
    extractor = FeatureExtractor(models[0], workers=0, bank=tmp_path / "bank")
    pipeline = make_pipeline(extractor, StandardScaler(), LogisticRegression())
    grid = {"featureextractor__model": models, "logisticregression__C": [0.1, 1.0]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(paths, labels)
    assert search.score(paths, labels) > 0.5
    assert embedded(ledger) == 36


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_cross_validation_shares_features_on_each_backend(
    tmp_path: Path,
    paths: list[Path],
    labels: list[str],
    backbone: ModuleBackbone,
    ledger: Path,
    backend: str,
) -> None:
    estimator = classifier(backbone, "lda", bank=tmp_path / "bank")
    with joblib.parallel_backend(backend, n_jobs=2):
        scores = cross_val_score(estimator, paths, labels, cv=3)
        told = cross_val_predict(estimator, paths, labels, cv=3, method="predict_proba")
    assert scores.shape == (3,)
    assert told.shape == (18, CLASSES)
    assert embedded(ledger) == 18


def test_without_a_bank_features_lie_in_the_cache(
    cache: Path, paths: list[Path], labels: list[str], backbone: ModuleBackbone, ledger: Path
) -> None:
    first = classifier(backbone).fit(paths, labels)
    clone(first).set_params(head="lda").fit(paths, labels).predict(paths)
    FeatureExtractor(backbone, workers=0).fit_transform(paths)
    assert embedded(ledger) == 18
    assert len(keys_of(cache / "features")) == 18
    assert len(Bank(cache / "features").index.sources) == 0


def test_a_bank_of_an_extraction_serves_as_cache(
    tmp_path: Path, paths: list[Path], labels: list[str], backbone: ModuleBackbone, ledger: Path
) -> None:
    from featbank.workflows.extract import extract

    bank = extract(paths, backbone, tmp_path / "bank", workers=0)
    assert embedded(ledger) == 18
    fitted = classifier(backbone, bank=bank).fit(paths, labels)
    assert clone(fitted).fit(paths, labels).score(paths, labels) > 0.8
    assert embedded(ledger) == 18


def test_a_fit_of_the_extractor_alone_embeds_one_image(
    paths: list[Path], backbone: ModuleBackbone, ledger: Path
) -> None:
    extractor = FeatureExtractor(backbone, workers=0).fit(paths)
    assert embedded(ledger) == 1
    assert extractor.transform(paths).shape == (18, extractor.n_features_out_)
    assert embedded(ledger) == 18


def test_a_module_without_a_version_is_never_cached(
    cache: Path, paths: list[Path], labels: list[str], ledger: Path
) -> None:
    fitted = classifier(counting(ledger, version=None)).fit(paths, labels)
    assert fitted.recipe_ is None
    assert fitted.score(paths, labels) > 0.8
    assert embedded(ledger) == 36
    assert not (cache / "features").exists()


# Copies


def test_a_pickle_predicts_the_same_and_is_small(paths: list[Path], labels: list[str]) -> None:
    words = {"weights": "none", "workers": 0, "random_state": 0}
    fitted = TransferClassifier("squeezenet1_1", **words).fit(paths, labels)
    data = pickle.dumps(fitted)
    assert len(data) < 100_000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.predict_proba(paths), fitted.predict_proba(paths))


def test_other_weights_than_those_of_the_fit_are_refused(
    paths: list[Path], labels: list[str], ledger: Path
) -> None:
    fitted = classifier(counting(ledger)).fit(paths, labels)
    with pytest.raises(WeightsMismatch, match="digest"):
        fitted.set_params(model=counting(ledger, seed=1)).predict(paths)
    with pytest.raises(BackboneError, match="fit again"):
        fitted.set_params(model=counting(ledger, version=None)).predict(paths)


def test_names_and_words_of_the_backbone_are_checked(
    paths: list[Path], labels: list[str], backbone: ModuleBackbone
) -> None:
    with pytest.raises(UnknownBackbone, match="resnet50"):
        classifier("resnet5O").fit(paths, labels)
    with pytest.raises(BackboneError, match="beside a module"):
        classifier(backbone, weights="none").fit(paths, labels)
    with pytest.raises(BackboneError, match="from_module"):
        classifier(TinyNet()).fit(paths, labels)
    with pytest.raises(HeadError):
        classifier(backbone, object()).fit(paths, labels)


def test_parameters_of_a_head_are_open() -> None:
    estimator = classifier("precomputed", make_head("svm", C=3.0))
    assert estimator.get_params()["head__svc__C"] == 3.0
    assert clone(estimator).set_params(head__svc__C=5.0).head.get_params()["svc__C"] == 5.0


def test_the_head_that_was_given_stays_unfitted() -> None:
    X, y = load_iris(return_X_y=True)
    head = make_head("lda")
    assert classifier("precomputed", head).fit(X, y).score(X, y) > 0.9
    with pytest.raises(NotFittedError):
        head.predict(X)


def test_a_random_state_may_be_a_generator() -> None:
    X, y = load_iris(return_X_y=True)
    state = np.random.RandomState(0)
    fitted = classifier("precomputed", tune=True, random_state=state).fit(X, y)
    assert isinstance(fitted.head_.get_params()["logisticregression__random_state"], int)


def test_precomputed_features_need_no_torch() -> None:
    code = """
import sys
import numpy as np
from featbank.estimator import FeatureExtractor, TransferClassifier
X, y = np.random.default_rng(0).normal(size=(40, 3)), [0, 1] * 20
for head in ("logreg", "svm", "knn"):
    TransferClassifier("precomputed", head, tune=True).fit(X, y).predict(X)
FeatureExtractor("precomputed").fit_transform(X)
assert not {"torch", "torchvision", "timm"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
