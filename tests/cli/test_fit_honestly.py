"""Options of fit about honest numbers: what they print, and what they write."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from featbank import Classifier
from tests.conftest import MODEL, Tour, run
from tests.tiny import make_images

QUICK = ("--no-tune", "--jobs", "1", "--cv", "2")


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of 24 images of two classes, 8 of which are there twice."""
    folder = tmp_path_factory.mktemp("doubled")
    for path in make_images(folder / "data", 16, classes=2)[:8]:
        shutil.copy(path, path.with_stem(f"{path.stem}-again"))
    run("extract", folder / "data", *MODEL, "--workers", "0", "--bank", folder / "bank")
    return folder / "bank"


def test_predictions_are_written_with_paths_one_row_a_head_and_image(
    tour: Tour, tmp_path: Path
) -> None:
    table = tmp_path / "told.csv"
    words = ("--head", "logreg,ridge", "--repeats", "2", "--no-save", "--predictions", table)
    words += ("--no-calibrate",)

    said = run("fit", "--bank", tour.bank, *QUICK, *words)

    assert f"predictions in {table}" in said.out
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("path", "head", "fold", "repeat", "label", "predicted", "values", "a", "b", "c")
    ]
    assert len(rows) == 2 * 2 * 15
    assert {(row["head"], row["values"]) for row in rows} == {
        ("logreg", "probability"),
        ("ridge", "score"),
    }
    for repeat in "12":
        own = [row for row in rows if row["head"] == "logreg" and row["repeat"] == repeat]
        assert {row["path"] for row in own} == set(map(str, tour.data.rglob("*.*")))
        assert {row["fold"] for row in own} == {"1", "2"}
    for row in rows:
        assert Path(row["path"]).parent.name == row["label"]
        assert row["predicted"] == max("abc", key=lambda name: float(row[name]))


def test_what_is_written_gives_the_scores_that_are_printed(tour: Tour, tmp_path: Path) -> None:
    table = tmp_path / "told.csv"
    words = ("--head", "centroid", "--no-save", "--json", "--predictions", table)

    found = run("fit", "--bank", tour.bank, *QUICK, *words).json["heads"][0]["accuracy"]

    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    for fold, accuracy in zip("12", found["values"], strict=True):
        right = [row["label"] == row["predicted"] for row in rows if row["fold"] == fold]
        assert sum(right) / len(right) == pytest.approx(accuracy)


def test_duplicates_near_duplicates_and_the_leak_are_told(doubled: Path) -> None:
    words = ("fit", "--bank", doubled, *QUICK, "--head", "knn", "--no-save", "--show-leak")
    words += ("--keep-copies",)

    said = run(*words).out
    found = run(*words, "--near-duplicates", "1", "--json").json

    assert "8 duplicates" in said.splitlines()[0]
    assert "naive folds" in said
    assert found["duplicates"] == 8
    assert found["near_duplicates"] == {"threshold": 1.0, "clusters": 8, "images": 16}
    assert len(found["heads"][0]["naive"]["accuracy"]["values"]) == 2


def test_a_temperature_and_a_threshold_are_told_and_saved(doubled: Path, tmp_path: Path) -> None:
    words = ("--calibrate", "temperature", "--threshold", "f1", "--near-duplicates", "1")

    found = run(
        *("fit", "--bank", doubled, *QUICK, "--head", "linear-svm", "--out", tmp_path),
        *(*words, "--json"),
    ).json["heads"][0]

    assert found["calibrated"] == "temperature"
    assert found["uncalibrated"] is None
    learned = {"temperature", "threshold", "threshold_probability"}
    assert [set(one) for one in found["fold_learned"]] == [learned] * 2
    assert found["threshold"]["metric"] == "f1"
    assert 0 < found["threshold"]["probability"] < 1
    assert {"mean", "ci95"} <= set(found["threshold"]["before"])
    assert {"log_loss", "brier", "ece"} <= set(found)
    saved = Classifier.load(found["classifier"])
    assert saved.head.learned == {name: saved.provenance[name] for name in learned}


def test_the_threshold_block_is_printed(doubled: Path) -> None:
    words = ("fit", "--bank", doubled, *QUICK, "--head", "svm", "--no-save")

    said = run(*words, "--threshold", "accuracy").out

    (line,) = (line for line in said.splitlines() if line.startswith("threshold by accuracy"))
    assert line.split()[-2:] == ["b", "from"]
    assert "probability" in said[said.index(line) :].splitlines()[1]


def test_calibrating_and_not_calibrating_exclude_each_other(doubled: Path) -> None:
    words = ("fit", "--bank", doubled, *QUICK, "--calibrate", "platt", "--no-calibrate")

    assert "choose one" in run(*words, status=2).err


def test_calibrate_without_a_word_is_platts(doubled: Path) -> None:
    words = ("fit", "--bank", doubled, *QUICK, "--head", "svm", "--no-save", "--json")

    platt, also = (run(*words, "--calibrate", *more).json["heads"][0] for more in (("platt",), ()))

    assert platt["calibrated"] == also["calibrated"] == "platt"
    assert platt["log_loss"] == also["log_loss"]


def test_several_heads_are_compared_with_the_best(doubled: Path) -> None:
    words = ("fit", "--bank", doubled, *QUICK, "--head", "ridge,knn", "--no-save")

    found = run(*words, "--json").json

    (other,) = {"ridge", "knn"} - {found["best"]}
    assert set(found["differences"]) == {other}
    assert f"difference to {found['best']}, on the same images" in run(*words).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--near-duplicates", "2"), "give a cosine similarity in (0, 1]"),
        (("--near-duplicates", "0.01"), "in one cluster; raise the threshold"),
        (("--threshold", "f2"), "threshold 'f2' is unknown"),
        (("--threshold", "f1", "--calibrate"), "choose one of the two"),
        (("--predictions", "/proc/nowhere/x.csv"), "x.csv can't be written"),
        (("--predictions", "."), ". is a folder"),
        (("--predictions", "/dev/null"), "/dev/null is no plain file"),
        (("--predictions", ""), "'' names no file"),
        (("--classes", "a", "--exclude", "a"), "leave no class"),
    ],
)
def test_what_can_not_be_done_is_one_clear_message(
    words: tuple[str, ...], said: str, doubled: Path
) -> None:
    answer = run("fit", "--bank", doubled, *QUICK, "--no-save", *words, status=1)

    answer.is_one_message(said)


def test_a_threshold_needs_two_classes(tour: Tour) -> None:
    words = ("fit", "--bank", tour.bank, *QUICK, "--no-save", "--threshold", "accuracy")

    run(*words, status=1).is_one_message("parts two classes, and there are 3")
