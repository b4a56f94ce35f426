from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from featbank import (
    Bank,
    Classifier,
    curve,
    durable,
    extract,
    fit,
    from_module,
    make_head,
    select,
)
from featbank.errors import DataError, EvaluationError, HeadError
from tests.tiny import PREPROCESS, TinyNet, make_images


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder = tmp_path_factory.mktemp("fit")
    paths = make_images(folder / "data", 24)
    rows = [
        f"{path},{path.parent.name},{'test' if i % 4 == 0 else 'train'},{i % 6},{i % 2}"
        for i, path in enumerate(paths)
    ]
    table = folder / "table.csv"
    table.write_text("\n".join(["path,label,split,group,parity", *rows]) + "\n")
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1", name="tiny")
    return extract(table, backbone, folder / "bank", workers=0)


def test_the_indexs_own_split_is_used_unless_told_otherwise(bank: Bank) -> None:
    given = fit(bank, "centroid", tune=False)
    assert sum(map(sum, given.to_dict()["heads"][0]["confusion"])) == 6
    folds = fit(bank, "centroid", tune=False, split="none", cv=3)
    assert folds.to_dict()["folds"] == 3
    assert sum(map(sum, folds.to_dict()["heads"][0]["confusion"])) == 24


def test_another_column_can_be_the_group_or_none(bank: Bank) -> None:
    words = {"tune": False, "split": "none", "cv": 2}
    assert fit(bank, "centroid", **words).groups == 6
    assert fit(bank, "centroid", group="parity", **words).groups == 2
    assert fit(bank, "centroid", group="none", **words).groups is None


def test_another_column_can_be_the_label(bank: Bank) -> None:
    result = fit(bank, "centroid", tune=False, label="parity", split="none", cv=2)

    assert result.to_dict()["classes"] == ["0", "1"]


def test_nothing_is_saved_unless_asked(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert fit(bank, "centroid", tune=False).heads[0].classifier is None
    assert list(tmp_path.iterdir()) == []


def test_a_saved_classifier_predicts_as_the_fitted_one_did(bank: Bank, tmp_path: Path) -> None:
    head = make_head("svm", C=2.0)
    result = fit(bank, [head, "ridge"], tune=False, split="none", cv=3, out=tmp_path)

    names = [Path(one.classifier or "").name for one in result.heads]
    assert names[1] == "ridge.skops"
    again = Classifier.load(result.heads[1].classifier or "")
    assert again.classes == ("a", "b", "c")
    assert again.recipe == bank.recipes[0].recipe
    assert again.provenance["images"] == 24
    assert again.predict(bank.features()) == bank.labels.tolist()


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"exclude": ["a", "b"]}, EvaluationError, "of one class, 'c'"),
        ({"classes": ["d"]}, DataError, "no image has the label 'd'"),
        ({"split": "first:8"}, DataError, "would tear groups apart"),
        ({"n_jobs": 0}, EvaluationError, "n_jobs is 0"),
        ({"cv": 3}, EvaluationError, "scored once as they stand"),
        ({"out": "/proc/nowhere"}, DataError, "can't be written"),
        ({"head": ["ridge", "knn"], "out": "x.skops"}, HeadError, "2 heads were named"),
    ],
)
def test_what_can_not_be_done_is_said(
    bank: Bank,
    words: dict[str, object],
    error: type[Exception],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(error, match=said):
        fit(bank, **{"head": "centroid", "tune": False, **words})  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [{"out": "new/deep"}, {"predictions": "new/deep/told.csv"}])
def test_the_folder_of_a_result_is_made(
    bank: Bank, words: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit(bank, "centroid", tune=False, **words)  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "new" / "deep").iterdir()] in (
        ["centroid.skops"],
        ["told.csv"],
    )


@pytest.mark.parametrize("words", [{"out": "."}, {"predictions": "told.csv"}])
def test_a_folder_that_can_not_be_written_is_found_out_before_the_work(
    bank: Bank, words: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def create(path: str) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    def cross_validate(*_: object, **__: object) -> None:
        raise AssertionError("heads were scored")

    monkeypatch.setattr(durable.fs, "create", create)
    monkeypatch.setattr("featbank.evaluation.crossval.cross_validate", cross_validate)
    with pytest.raises(DataError, match="Read-only file system"):
        fit(bank, "centroid", tune=False, **words)  # type: ignore[arg-type]


def test_images_that_could_not_be_read_are_counted_in_a_note(tmp_path: Path) -> None:
    make_images(tmp_path / "data", 12, classes=2)
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1", name="tiny")
    notes = {}
    for number, name in enumerate(("whole", "one", "two")):
        if number:
            (tmp_path / "data" / "a" / f"{name}.png").write_bytes(b"not an image")
        bank = extract(tmp_path / "data", backbone, tmp_path / name, workers=0)
        for what in (fit, select, curve):
            result = what(bank, "centroid", **({"tune": False} if what is fit else {}))
            notes[name, what] = [note for note in result.notes if "could not be read" in note]
    for what in (fit, select, curve):
        assert notes["whole", what] == []
        (one,), (two,) = notes["one", what], notes["two", what]
        assert one.startswith("1 indexed image could not be read and is left out")
        assert two.startswith("2 indexed images could not be read")
        assert "featbank info --errors" in two


def test_a_source_with_splits_and_one_without_are_not_mixed_silently(tmp_path: Path) -> None:
    for seed, name in enumerate(("train/a", "train/b", "test/a", "test/b")):
        make_images(tmp_path / "split" / name, 3, classes=1, seed=seed)
    make_images(tmp_path / "plain", 12, classes=2, seed=4)
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1", name="tiny")
    both = (tmp_path / "split", tmp_path / "plain")
    bank = extract(both, backbone, tmp_path / "bank", workers=0)

    with pytest.raises(DataError, match="source split has splits and plain has none"):
        fit(bank, "centroid", tune=False)
    assert fit(bank, "centroid", tune=False, source="plain").images == 12
    assert fit(bank, "centroid", tune=False, split="none", cv=2).images == 24
