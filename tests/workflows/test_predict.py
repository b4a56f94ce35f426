from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from featbank import extract, fit, from_module, predict
from featbank.errors import ClassifierError, DataError, SourceNotFound, WeightsMismatch
from tests.tiny import PREPROCESS, TinyNet, make_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("predict")
    make_images(made / "data", 12)
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1")
    bank = extract(made / "data", backbone, made / "bank", workers=0)
    fit(bank, "ridge", tune=False, cv=2, out=made)
    return made


def test_a_module_of_the_callers_is_given_again(folder: Path) -> None:
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1")

    result = predict(folder / "ridge.skops", folder / "data", model=backbone)

    assert len(result.predictions) == 12
    assert all(Path(one.path).parent.name == one.label for one in result.predictions)
    assert [len(one.top) for one in result.predictions] == [3] * 12


def test_without_it_the_message_says_how(folder: Path) -> None:
    with pytest.raises(ClassifierError, match=r"model=from_module\(\.\.\.\)"):
        predict(folder / "ridge.skops", folder / "data")


def test_another_module_is_refused(folder: Path) -> None:
    later = from_module(TinyNet(), transform=PREPROCESS, version="2")
    with pytest.raises(ClassifierError, match="differs from the classifier's in backbone"):
        predict(folder / "ridge.skops", folder / "data", model=later)
    other = from_module(TinyNet(seed=1), transform=PREPROCESS, version="1")
    with pytest.raises(WeightsMismatch, match="was fitted on weights with the digest"):
        predict(folder / "ridge.skops", folder / "data", model=other)


def test_a_missing_image_is_said_before_anything_is_done(folder: Path) -> None:
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1")

    with pytest.raises(SourceNotFound, match="nowhere"):
        predict(folder / "ridge.skops", [folder / "data", folder / "nowhere"], model=backbone)


def test_images_in_memory_are_sent_elsewhere(folder: Path) -> None:
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1")

    for images in ([Image.new("RGB", (32, 32))], Image.new("RGB", (32, 32))):
        with pytest.raises(DataError, match="TransferClassifier takes images in memory"):
            predict(folder / "ridge.skops", images, model=backbone)
