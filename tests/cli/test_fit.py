from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MODEL, Tour, run
from tests.tiny import make_images

QUICK = ("--no-tune", "--jobs", "1", "--cv", "3")


def test_scores_settings_and_the_file_are_in_the_json(tour: Tour, tmp_path: Path) -> None:
    found = run(
        *("fit", "--bank", tour.bank, "--head", "svm", "--cv", "3", "--jobs", "1"),
        *("--out", tmp_path, "--json"),
    ).json

    assert (found["folds"], found["images"], found["classes"]) == (3, 15, ["a", "b", "c"])
    (head,) = found["heads"]
    assert head["head"] == "svm"
    assert head["classifier"] == str(tmp_path / "svm.skops")
    assert Path(head["classifier"]).is_file()
    assert "C" in str(head["best_params"])
    low, high = head["accuracy"]["ci95"]
    assert low <= head["accuracy"]["mean"] <= high
    assert head["macro_f1"]["mean"] <= 1


def test_the_table_tells_of_heads_classes_and_confusions(tour: Tour, tmp_path: Path) -> None:
    words = ("fit", "--bank", tour.bank, *QUICK)
    one = run(*words, "--head", "ridge", "--out", tmp_path / "mine.skops").out

    assert "accuracy" in one
    assert "true \\ predicted" in one
    assert f"saved {tmp_path / 'mine.skops'}" in one
    several = run(*words, "--head", "ridge,knn", "--head", "centroid", "--no-save").out
    assert "true \\ predicted" not in several
    assert [line.split()[0] for line in several.splitlines()[4:7]] == ["ridge", "knn", "centroid"]
    assert "saved" not in several


def test_a_head_that_is_named_twice_is_saved_twice(tour: Tour, tmp_path: Path) -> None:
    run("fit", "--bank", tour.bank, "--head", "knn,knn", *QUICK, "--out", tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["knn-2.skops", "knn.skops"]


def test_a_packed_bank_gives_the_same_scores(tour: Tour, tmp_path: Path) -> None:
    run("compact", tmp_path / "shared.h5", "--bank", tour.bank)
    words = ("fit", "--head", "logreg", *QUICK, "--no-save", "--json")

    plain, packed = (
        run(*words, "--bank", bank).json["heads"][0]["log_loss"]
        for bank in (tour.bank, tmp_path / "shared.h5")
    )
    assert plain == packed


def test_classes_can_be_chosen_and_splits_made(tour: Tour) -> None:
    words = ("fit", "--bank", tour.bank, "--head", "centroid", *QUICK[:3], "--no-save", "--json")

    assert run(*words, "--exclude", "b", "--cv", "2").json["classes"] == ["a", "c"]
    found = run(*words, "--split", "first:3").json
    assert found["protocol"] == "one split, learned from 9, scored on 6 of test"
    assert sum(map(sum, found["heads"][0]["confusion"])) == 6


def test_the_heads_are_listed(tmp_path: Path) -> None:
    listed = run("fit", "--list-heads").out
    names = [head["head"] for head in run("fit", "--list-heads", "--json").json["heads"]]

    assert {"logreg", "svm", "mlp"} <= set(names)
    assert [line.split()[0] for line in listed.splitlines()] == names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--bank", "nowhere"), "there is no bank at"),
        (("--bank", "."), "is a folder without a bank.json"),
        (("--bank", "text"), "text"),
        (("--head", "svn"), "did you mean svm"),
        (("--head", ""), "name at least one"),
        (("--head", "sklearn.nope.Classifier"), "can't be imported"),
        (("--head", "os.getcwd"), "is no class"),
        (("--set", "D=1", *QUICK), "takes no 'D'"),
        (("--set", "C=high", *QUICK), "'C' parameter"),
        (("--cv", "nan"), "not nan"),
        (("--cv", "2.5"), "not 2.5"),
        (("--cv", "1"), "at least 2 folds"),
        (("--cv", "9"), "has 5 different images"),
        (("--repeats", "0"), "repeats is at least 1"),
        (("--jobs", "0"), "n_jobs is 0"),
        (("--scoring", "beauty"), "'beauty' is unknown"),
        (("--recipe", "resnet50"), "the bank has no recipe 'resnet50'; it has shufflenet_v2_x0_5"),
        (("--layers", "stage2"), "the bank has no column 'stage2'"),
        (("--source", "photos"), "the bank has no source 'photos'"),
        (("--label", "kind"), "has no column 'kind'"),
        (("--classes", "zebra"), "no image has the label 'zebra'"),
        (("--classes", "a"), "are of one class, 'a'"),
        (("--split", "rnadom:80/20"), "did you mean random"),
        (("--split", "first:60/10"), "leaves none to score on"),
        (("--split", "group:80/20"), "group"),
        (("--out", "/proc/nowhere"), "can't be written"),
        (("--out", "/proc/nowhere/a.skops"), "a.skops can't be written"),
        (("--head", "svm,knn", "--out", "one.skops"), "is one file, and 2 heads were named"),
    ],
)
def test_what_can_not_be_done_is_one_clear_message(
    words: tuple[str, ...],
    said: str,
    tour: Tour,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("hello")
    bank = [] if "--bank" in words else ["--bank", tour.bank]

    answer = run("fit", *bank, "--no-tune", *words, status=1)

    answer.is_one_message(said)


def test_images_without_labels_can_not_be_fitted(tmp_path: Path) -> None:
    make_images(tmp_path, 2, classes=1)
    run("extract", tmp_path / "a", *MODEL, "--workers", "0", "--bank", tmp_path / "bank")

    assert "no image has a label" in run("fit", "--bank", tmp_path / "bank", status=1).err
