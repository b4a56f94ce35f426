from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from featbank import extract, fit, from_module, predict
from featbank.errors import (
    ClassifierError,
    DataError,
    MissingDependency,
    SourceNotFound,
    WeightsMismatch,
)
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


def test_a_frame_names_the_images_and_a_frame_tells_their_classes(folder: Path) -> None:
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1")
    files = sorted((folder / "data").rglob("*.*"))[::-1]
    names = [*(str(path.relative_to(folder)) for path in files), "data/gone.png"]
    asked = pd.DataFrame({"file": names, "label": "?"})

    result = predict(
        folder / "ridge.skops", asked, root=folder, columns={"path": "file"}, model=backbone
    )
    frame = result.to_frame()

    assert list(frame["path"]) == names
    assert list(frame.columns) == ["path", "label", "probability", "status"]
    assert list(frame["label"][:-1]) == [path.parent.name for path in files]
    assert frame["label"].isna().tolist() == [False] * len(files) + [True]
    assert list(frame["status"][:-1]) == ["ok"] * len(files)
    assert "no such file" in frame["status"].iloc[-1]
    lines = repr(result).splitlines()
    assert lines[0] == f"{len(files)} predictions, 1 failed"
    assert lines[1].split() == ["path", "label", "probability", "status"]
    assert lines[2].split()[0] == names[0]
    assert lines[-1] == f"... and {len(names) - 10} more"


def test_without_pandas_a_frame_says_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1")
    result = predict(folder / "ridge.skops", folder / "data", model=backbone)
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(MissingDependency, match=r"featbank\[pandas\]"):
        result.to_frame()


def test_images_in_memory_are_sent_elsewhere(folder: Path) -> None:
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1")

    for images in ([Image.new("RGB", (32, 32))], Image.new("RGB", (32, 32))):
        with pytest.raises(DataError, match="TransferClassifier takes images in memory"):
            predict(folder / "ridge.skops", images, model=backbone)
