from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils import estimator_checks as checks

from featbank import FineTuneClassifier, FineTuneSettings, TunedClassifier, from_module
from featbank.errors import BackboneError, DataError, FineTuneError, ImageError
from tests.tiny import PREPROCESS, TinyNet, make_images


def small(**words: Any) -> FineTuneClassifier:
    """Return a classifier on TinyNet that learns colours in a second."""
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1", name="tiny")
    chosen = {"epochs": 8, "lr": 0.05, "backbone_lr": 1.0, "batch_size": 8, "augment": "none"}
    more = {"valid": 0.25, "workers": 0, "random_state": 0}
    return FineTuneClassifier(backbone, **{**chosen, **more, **words})


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(path) for path in make_images(tmp_path_factory.mktemp("images"), 24)]


@pytest.fixture(scope="module")
def labels(paths: list[str]) -> list[str]:
    return [Path(path).parent.name for path in paths]


@pytest.fixture(scope="module")
def fitted(paths: list[str], labels: list[str]) -> FineTuneClassifier:
    return small().fit(paths, labels)


def test_it_learns(fitted: FineTuneClassifier, paths: list[str], labels: list[str]) -> None:
    assert fitted.score(paths, labels) > 0.9
    assert fitted.classes_.tolist() == ["a", "b", "c"]
    assert len(fitted.history_) == 8
    assert 1 <= fitted.best_epoch_ <= 8
    assert fitted.n_parameters_trained_ == fitted.n_parameters_
    told = fitted.predict_proba(paths)
    np.testing.assert_allclose(told.sum(axis=1), 1, rtol=1e-5)
    assert (fitted.classes_[told.argmax(axis=1)] == fitted.predict(paths)).all()


def test_paths_pil_images_and_arrays_are_one(labels: list[str]) -> None:
    X = np.random.default_rng(0).integers(0, 256, (24, 40, 40, 3)).astype(np.uint8)
    images = [Image.fromarray(array) for array in X]

    a, b = (small(epochs=1).fit(given, labels).predict_proba(X[:5]) for given in (X, images))

    np.testing.assert_array_equal(a, b)


def test_whole_numbers_stay_whole_numbers(paths: list[str], labels: list[str]) -> None:
    y = [ord(label) * 10 for label in labels]
    told = small(epochs=1).fit(paths, y).predict(paths)

    assert told.dtype.kind == "i"
    assert set(told) <= set(y)


def test_the_same_seed_gives_the_same_network(
    fitted: FineTuneClassifier, paths: list[str], labels: list[str]
) -> None:
    expected = fitted.predict_proba(paths)

    again = clone(fitted).fit(paths, labels)
    np.testing.assert_array_equal(again.predict_proba(paths), expected)
    other = clone(fitted).set_params(random_state=1).fit(paths, labels)
    assert not np.array_equal(other.predict_proba(paths), expected)


def test_a_fitted_one_pickles_small_and_predicts_the_same(
    fitted: FineTuneClassifier, paths: list[str]
) -> None:
    data = pickle.dumps(fitted)

    assert len(data) < 60_000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.predict_proba(paths), fitted.predict_proba(paths))


def test_a_grid_search_goes_over_it(paths: list[str], labels: list[str]) -> None:
    search = GridSearchCV(small(), {"lr": [1e-6, 0.05]}, cv=2, error_score="raise")
    search.fit(paths, labels)

    assert search.best_params_ == {"lr": 0.05}


def test_equal_images_are_not_parted_between_learned_and_watched(
    paths: list[str], labels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from featbank.finetuning import trainer

    seen: list[Any] = []
    monkeypatch.setattr(trainer, "train", lambda *args, **words: seen.append(args) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        small(valid=0.5).fit(paths[:6] * 4 + paths[-6:] * 4, labels[:6] * 4 + labels[-6:] * 4)

    (_, images, _, learned, watched) = seen[0]
    assert len(learned) + len(watched) == 48
    assert not {images._sources[i] for i in learned} & {images._sources[i] for i in watched}


def test_what_is_saved_is_a_classifier_file(tmp_path: Path, paths: list[str]) -> None:
    X, y = paths[::3], [Path(path).parent.name for path in paths[::3]]
    words: dict[str, Any] = {"weights": "none", "epochs": 1, "workers": 0, "random_state": 0}
    classifier = FineTuneClassifier("squeezenet1_1", **words).fit(X, y)
    classifier.save(tmp_path / "t.safetensors")

    assert classifier.tuned_.settings.backbone_lr == 1  # nothing to preserve
    again = TunedClassifier.load(tmp_path / "t.safetensors")
    from featbank.finetuning.images import Images

    np.testing.assert_array_equal(
        again.predict_proba(Images.of_files(X), workers=0), classifier.predict_proba(X)
    )


def test_it_takes_the_sizes_of_the_input(paths: list[str], labels: list[str]) -> None:
    words: dict[str, Any] = {"epochs": 1, "workers": 0, "random_state": 0, "weights": "none"}
    words |= {"input_size": 32, "squash": True}
    classifier = FineTuneClassifier("small-cnn-3", **words).fit(paths, labels)

    assert classifier.tuned_.request.input_size == 32
    preprocess = classifier.tuned_.recipe.preprocess
    assert preprocess.crop == preprocess.resize == (32, 32)
    cropped = FineTuneClassifier("small-cnn-3", **words).set_params(
        squash=False, input_size=None, resize=48, crop=32
    )
    request = cropped.fit(paths, labels).tuned_.request
    assert (request.resize, request.crop, request.squash) == (48, 32, False)
    with pytest.raises(BackboneError, match="resize 40 can't be given beside a Request"):
        FineTuneClassifier(request, resize=40).fit(paths, labels)


def test_a_training_goes_on_from_its_checkpoint(
    tmp_path: Path, paths: list[str], labels: list[str], fitted: FineTuneClassifier
) -> None:
    short = small(checkpoint=tmp_path / "kept", max_seconds=1e-3).fit(paths, labels)
    assert short.stopped_ == "time"

    whole = small(checkpoint=tmp_path / "kept", resume=True).fit(paths, labels)

    assert whole.stopped_ == "epochs"
    np.testing.assert_array_equal(whole.predict_proba(paths), fitted.predict_proba(paths))


def test_the_range_test_fits_nothing(paths: list[str], labels: list[str]) -> None:
    classifier = small()
    found = classifier.range_test(paths, labels, low=1e-5, high=10, steps=20)

    assert 1e-5 <= found.lowest <= 10
    with pytest.raises(NotFittedError):
        classifier.predict(paths)


def test_the_range_test_is_of_what_fit_learns_from(
    paths: list[str], labels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from featbank.finetuning import range_test, trainer

    learned = []
    monkeypatch.setattr(
        range_test, "find_rate", lambda *words, units, **_: learned.append((words[3], units))
    )
    own = trainer.train

    def train(*words: Any, units: Any, **more: Any) -> Any:
        learned.append((words[3], units))
        return own(*words, units=units, **more)

    monkeypatch.setattr(trainer, "train", train)
    small(epochs=1).range_test(paths, labels)
    small(epochs=1).fit(paths, labels)

    tested, fitted = learned
    assert len(tested[0]) == 18
    np.testing.assert_array_equal(tested[0], fitted[0])
    np.testing.assert_array_equal(tested[1], fitted[1])


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"unfreeze": "layer9"}, ValueError, "no layer 'layer9'"),
        ({"epochs": 0}, FineTuneError, "nothing would be trained"),
        ({"augment": "heavy"}, FineTuneError, "there is no augment 'heavy'"),
        ({"weights": "none"}, BackboneError, "it brings its own"),
        ({"input_size": 32}, BackboneError, "input_size 32 can't be given beside a ModuleBackbone"),
        ({"squash": True}, BackboneError, "squash True can't be given beside"),
    ],
)
def test_settings_are_checked_when_it_is_fitted(
    paths: list[str], labels: list[str], words: dict[str, Any], error: type[Exception], said: str
) -> None:
    classifier = small(**words)
    with pytest.raises(error, match=said):
        classifier.fit(paths, labels)


def test_bad_data_are_refused(tmp_path: Path, paths: list[str], labels: list[str]) -> None:
    with pytest.raises(FineTuneError, match="one class"):
        small().fit(paths, ["a"] * 24)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small().fit(paths, labels[:-1])
    with pytest.raises(DataError, match="X is a"):
        small().fit(3, labels)
    with pytest.raises(ValueError, match="requires y"):
        small().fit(paths, None)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.png"):
        small().fit([*paths[:-1], bad], labels)
    with pytest.raises(ImageError, match=r"gone\.png"):
        small().fit([*paths[:-1], tmp_path / "gone.png"], labels)


def test_its_parameters_are_the_settings_with_the_same_defaults() -> None:
    params = FineTuneClassifier().get_params()
    settings = FineTuneSettings().to_dict()

    for name in set(settings) - {"random_state", "backbone_lr", "hidden"}:
        assert params[name] == settings[name], name
    assert params["hidden"] == ()


@pytest.mark.parametrize(
    "check",
    [
        # The others fit numbers of shape (n_samples, n_features), which are no images.
        checks.check_estimator_cloneable,
        checks.check_estimator_repr,
        checks.check_estimator_tags_renamed,
        checks.check_valid_tag_types,
        checks.check_no_attributes_set_in_init,
        checks.check_do_not_raise_errors_in_init_or_set_params,
        checks.check_mixin_order,
        checks.check_parameters_default_constructible,
        checks.check_get_params_invariance,
        checks.check_set_params,
        checks.check_estimators_unfitted,
    ],
)
def test_scikit_learn_takes_it_for_one_of_its_own(check: Any) -> None:
    check("FineTuneClassifier", FineTuneClassifier(weights="none", random_state=0))
