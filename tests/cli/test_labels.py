"""Labels of every kind at the command line: thresholds, several an image, weights."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, Classifier, fit
from tests.conftest import MODEL, run
from tests.tiny import make_images

QUICK = ("--no-tune", "--jobs", "1", "--cv", "3", "--head", "ridge")


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    rows = []
    for i, path in enumerate(make_images(folder / "data", 24)):
        tags = [path.parent.name, *(["even"] if i % 2 == 0 else []), *(["first"] if i < 2 else [])]
        cell = {20: "", 21: ";"}.get(i, ";".join(tags))
        doubt = "" if i == 23 else (i % 8) / 7
        rows.append(f"{path},{path.parent.name},{doubt},{cell},{i % 5 + 0.5},{i},{'x' if i else 1}")
    table = folder / "table.csv"
    header = "path,label,doubt,tags,weight,number,broken"
    table.write_text("\n".join([header, *rows]) + "\n")
    run("extract", table, *MODEL, "--bank", folder / "bank", "--workers", "0")
    return folder / "bank"


def test_a_comparison_makes_two_classes(bank: Path, tmp_path: Path) -> None:
    words = ("fit", "--bank", bank, *QUICK, "--positive", "doubt > 0.5")
    found = run(*words, "--out", tmp_path, "--json").json

    assert found["classes"] == ["doubt<=0.5", "doubt>0.5"]
    assert found["images"] == 23
    assert found["heads"][0]["per_class"]["support"] == [12, 11]
    assert Classifier.load(tmp_path / "ridge.skops").classes == ("doubt<=0.5", "doubt>0.5")
    same = fit(bank, "ridge", tune=False, cv=3, positive="doubt>0.5")
    assert same.to_dict()["heads"][0]["confusion"] == found["heads"][0]["confusion"]


def test_sample_weights_come_from_a_column(bank: Path) -> None:
    words = ("fit", "--bank", bank, *QUICK[:5], "--head", "logreg", "--no-save", "--json")
    plain = run(*words).json
    weighted = run(*words, "--sample-weight", "weight").json

    assert any("scores weigh every image alike" in note for note in weighted["notes"])
    assert plain["heads"][0]["log_loss"] != weighted["heads"][0]["log_loss"]
    chosen = Bank(bank).select(further=["weight"])
    assert sorted(set(chosen.further["weight"])) == ["0.5", "1.5", "2.5", "3.5", "4.5"]


@pytest.mark.parametrize(
    "words",
    [
        ("fit", *QUICK, "--no-save", "--details"),
        ("select", "--head", "ridge", "--cv", "3"),
        ("curve", "--head", "ridge", "--no-tune", "--cv", "3", "--sizes", "2,4"),
        ("advise", "--head", "ridge", "--no-tune", "--cv", "3"),
    ],
)
def test_metric_weights_come_from_a_column(bank: Path, words: tuple[str, ...]) -> None:
    told = run(*words, "--bank", bank, "--metric-weight", "weight").out
    assert "weighted by weight" in told


def test_metric_weights_change_scores_and_leave_fits(bank: Path) -> None:
    words = ("fit", "--bank", bank, *QUICK, "--no-save", "--json")
    plain, weighted = run(*words).json, run(*words, "--metric-weight", "weight").json
    assert weighted["metric_weight"] == "weight"
    assert plain["metric_weight"] is None
    (one,), (other,) = plain["heads"], weighted["heads"]
    assert sum(other["per_class"]["support"]) == pytest.approx(sum(i % 5 + 0.5 for i in range(24)))
    assert (np.array(one["confusion"]) > 0).tolist() == (np.array(other["confusion"]) > 0).tolist()


def test_class_weights_are_named_one_by_one(bank: Path) -> None:
    words = ("fit", "--bank", bank, *QUICK, "--no-save", "--json", "--set", "alpha=1000")
    recall = run(*words, "--class-weight", "a=1000,b=1").json["heads"][0]["per_class"]["recall"]

    assert recall[0] == 1.0
    assert sum(recall) < 3
    assert run(*words, "--class-weight", "balanced").json["classes"] == ["a", "b", "c"]


def test_images_with_several_labels_are_scored_saved_and_predicted(
    bank: Path, tmp_path: Path
) -> None:
    words = ("fit", "--bank", bank, *QUICK[:5], "--label", "tags", "--multilabel")
    answer = run(*words, "--head", "logreg", "--set", "C=10", "--out", tmp_path)

    assert "mAP" in answer.out
    assert "label 'first' was left out" in answer.out
    path = tmp_path / "logreg.skops"
    assert Classifier.load(path).multilabel
    data = bank.parent / "data"
    found = run("predict", path, data, "--json").json["predictions"]
    assert len(found) == 24
    for one in found:
        likely = {top["label"] for top in one["top"] if top["probability"] > 0.5}
        assert set(one["labels"]) == likely
    assert any(len(one["labels"]) == 2 for one in found)
    table = run("predict", path, data, "--csv", "-", "--probabilities").out
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["label"] for row in rows] == [";".join(one["labels"]) for one in found]
    assert list(rows[0]) == ["path", "label", "probability", "status", "a", "b", "c", "even"]
    for row in rows:
        assert row["probability"] == ";".join(row[name] for name in row["label"].split(";") if name)
    line = run("predict", path, data / "a").out.splitlines()[0]
    assert line.split()[1] in {row["label"] for row in rows}


def test_several_labels_in_json(bank: Path) -> None:
    words = ("fit", "--bank", bank, *QUICK, "--label", "tags", "--multilabel", ";", "--no-save")
    found = run(*words, "--exclude", "first", "--json").json

    assert found["multilabel"] is True
    assert found["classes"] == ["a", "b", "c", "even"]
    assert found["images"] == 23  # the empty cell is left out, the lone sign is not
    low, high = found["heads"][0]["map"]["ci95"]
    assert low <= found["heads"][0]["map"]["mean"] <= high
    same = fit(bank, "ridge", tune=False, cv=3, label="tags", multilabel=True, exclude=["first"])
    assert same.to_dict()["heads"][0]["per_class"] == found["heads"][0]["per_class"]


def test_several_labels_go_by_splits_made_here(bank: Path) -> None:
    words = ("fit", "--bank", bank, "--head", "ridge", "--no-tune", "--no-save", "--json")
    found = run(*words, "--label", "tags", "--multilabel", "--split", "random:60/40").json

    assert found["protocol"].startswith("one split, learned from ")
    assert found["folds"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--positive", "doubt"), "like 'probability>0.5'"),
        (("--positive", "doubts>1"), "has no column 'doubts'"),
        (("--positive", "doubt>2"), "makes one class of all images: each has doubt<=2"),
        (("--positive", "broken>2"), "is 'x'; leave such images out"),
        (("--positive", "doubt>0.5", "--label", "number"), "leave the other out"),
        (("--label", "number"), "24 of 24 images are the only one with their label"),
        (("--sample-weight", "broken"), "(column 'broken') is 'x'"),
        (("--sample-weight", "doubt"), "(column 'doubt') is empty"),
        (("--metric-weight", "doubt"), "the metric weight of "),
        (("--group", "wieght"), "has no column 'wieght'; did you mean weight"),
        (("--group", "split"), "no image has a value in the column 'split'"),
        (("--sample-weight", "wieght"), "has no column 'wieght'; did you mean weight"),
        (("--sample-weight", "weight", "--head", "knn"), "'knn' takes no sample_weight"),
        (("--class-weight", "d=2"), "'d', which is no class"),
        (("--class-weight", "a=-2"), "weight of class 'a' is -2"),
        (("--class-weight", "a=2", "--head", "lda"), "'lda' takes no class_weight"),
        (("--multilabel",), "no label in 'label' holds ';'"),
        (("--multilabel", "--label", "tags", "--calibrate"), "calibrate is not there"),
        (("--multilabel", "--label", "tags", "--cv", "20"), "20 folds can't be had"),
    ],
)
def test_what_can_not_be_done_is_one_clear_message(
    bank: Path, words: tuple[str, ...], said: str
) -> None:
    fixed = ("--bank", bank, "--no-tune", "--jobs", "1", "--no-save")
    run("fit", *fixed, "--head", "ridge", *words, status=1).is_one_message(said)


def test_a_class_weight_without_a_number_is_a_mistake_in_usage(bank: Path) -> None:
    assert "CLASS=W" in run("fit", "--bank", bank, "--class-weight", "a", status=2).err
