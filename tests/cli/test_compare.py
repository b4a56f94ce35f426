from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.conftest import Tour, run

COMPARE = ("compare", "--no-tune", "--cv", "2", "--workers", "0")
TRAINED = ("--finetune", "quick=head:epochs=1,valid=0")


def test_a_comparison_prints_its_table_and_is_kept(tour: Tour, tmp_path: Path) -> None:
    words = (*COMPARE, "--bank", tour.bank, "--head", "ridge", "--cache", tmp_path / "cache")
    told = run(*words, *TRAINED).out

    lines = told.splitlines()
    assert lines[2].startswith("difference in accuracy to ridge, the best frozen head")
    assert lines[3] == "frozen features: shufflenet_v2_x0_5 penultimate"
    assert lines[5].split() == ["accuracy", "macro", "F1", "difference", "p"]
    assert lines[9].split() == ["train", "s", "s/1000", "MiB", "parameters"]
    assert {lines[6].split()[0], " ".join(lines[7].split()[:2])} == {"ridge", "finetune quick"}
    assert max(len(line) for line in lines if not line.startswith("note: ")) <= 100

    found = run(*words, *TRAINED, "--json").json
    assert [row["cached"] for row in found["rows"]] == [True, True]
    assert found["reference"] == "ridge"
    assert found["interval"] == "paired, on the same images"
    tuned = next(row for row in found["rows"] if row["kind"] == "finetune")
    assert tuned["parameters_trained"] == 3 * 1025 < tuned["parameters"]
    assert tuned["settings"]["unfreeze"] == "head"
    assert len(tuned["trainings"]) == 2
    low, high = tuned["difference"]["accuracy"]["ci95"]
    assert low <= tuned["difference"]["accuracy"]["mean"] <= high

    table = tmp_path / "rows.csv"
    told = run(*words, *TRAINED, "--csv", table, "--markdown").out
    assert "| ridge \\* | " in told
    assert told.count("\n| ") == 4
    with table.open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert float(rows["ridge"]["accuracy"]) == found["rows"][0]["accuracy"]["mean"]
    assert rows["ridge"]["accuracy_difference"] == ""
    assert float(rows["finetune quick"]["peak_bytes"]) > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--head", "svn"), "did you mean svm"),
        (("--head", "none"), "there is nothing to compare"),
        (("--layers", "stage9"), "the bank has no column 'stage9'"),
        (("--recipe", "vgg"), "the bank has no recipe 'vgg'"),
        (("--finetune", "lats"), "did you mean last"),
        (("--finetune", "last:epoch=3"), "has no setting 'epoch'; did you mean epochs"),
        (("--finetune", "last:random_state=3"), "all rows share one"),
        (("--finetune", "last:unfreeze=layer9"), "has no layer 'layer9' to unfreeze"),
        (("--finetune", "last:model=resnett18"), "did you mean resnet18"),
        (("--finetune", "last", "--max-seconds", "0"), "max_seconds is a number above 0"),
        (("--scratch", "squeezenet1_1,weights=DEFAULT"), "give it to finetune"),
        (("--cv", "9"), "9 folds can't be had: class 'a' has 5 different images"),
        (("--classes", "a"), "are of one class, 'a'"),
        (("--csv", "/proc/nowhere/c.csv"), "c.csv can't be written"),
    ],
)
def test_what_can_not_be_done_is_one_clear_message_before_any_work(
    words: tuple[str, ...], said: str, tour: Tour, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run(*COMPARE, *words, "--bank", tour.bank, "--cache", cache, status=1).is_one_message(said)
    assert not cache.exists()


def test_markdown_and_json_exclude_each_other(tour: Tour) -> None:
    run(*COMPARE, "--bank", tour.bank, "--json", "--markdown", status=2)
