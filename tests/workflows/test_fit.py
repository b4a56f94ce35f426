from __future__ import annotations

from pathlib import Path

import pytest

from featbank import Bank, Classifier, extract, fit, from_module, make_head
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
        ({"out": "nowhere"}, DataError, "there is no folder nowhere"),
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


def test_a_source_with_splits_and_one_without_are_not_mixed_silently(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/a", "test/b"):
        make_images(tmp_path / "split" / name, 3, classes=1)
    make_images(tmp_path / "plain", 12, classes=2)
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1", name="tiny")
    both = (tmp_path / "split", tmp_path / "plain")
    bank = extract(both, backbone, tmp_path / "bank", workers=0)

    with pytest.raises(DataError, match="source split has splits and plain has none"):
        fit(bank, "centroid", tune=False)
    assert fit(bank, "centroid", tune=False, source="plain").images == 12
    assert fit(bank, "centroid", tune=False, split="none", cv=2).images == 24
