from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.conftest import Tour, run

CURVE = ("curve", "--head", "centroid,ridge", "--no-tune", "--jobs", "1", "--draws", "2")
SELECT = ("select", "--head", "ridge", "--cv", "2", "--jobs", "1")


def test_a_curve_tells_scores_gains_and_writes_its_table(tour: Tour, tmp_path: Path) -> None:
    table = tmp_path / "curve.csv"
    told = run(*CURVE, "--bank", tour.bank, "--csv", table)

    assert "labels a class" in told.out
    assert "the last doubling (2 to 4 a class)" in told.out
    assert f"table in {table}" in told.out
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["head"], row["labels_per_class"]) for row in rows] == [
        (head, n) for head in ("centroid", "ridge") for n in ("1", "2", "4")
    ]
    assert all(0 <= float(row["accuracy_low"]) <= float(row["accuracy"]) <= 1 for row in rows)


def test_a_curve_as_json_has_its_points(tour: Tour) -> None:
    found = run(*CURVE, "--bank", tour.bank, "--sizes", "1,3", "--json").json

    assert [head["head"] for head in found["heads"]] == ["centroid", "ridge"]
    points = found["heads"][0]["points"]
    assert [(point["labels"], point["images"]) for point in points] == [(1, 3), (3, 9)]
    low, high = points[1]["accuracy"]["ci95"]
    assert low <= points[1]["accuracy"]["mean"] <= high


def test_a_ranking_tells_size_and_score_of_each_layer(tour: Tour, tmp_path: Path) -> None:
    bank = tour.copy_bank(tmp_path)
    run("extract", tour.data, "--model", "shufflenet_v2_x0_5", "--weights", "none",
        "--input-size", "64", "--layers", "stage2", "--bank", bank, "--workers", "0")  # fmt: skip

    told = run(
        *SELECT, "--bank", bank, "--join", "all", "--join", "stage2+penultimate", "--cost"
    ).out
    assert told.splitlines()[3].split()[:4] == ["features", "columns", "KiB", "ridge"]
    for words in ("penultimate", "stage2 ", ", weighted", "ms", "is optimistic"):
        assert words in told
    found = run(*SELECT, "--bank", bank, "--join", "stage2+penultimate", "--cost", "--json").json
    layers = {one["features"]: one for one in found["features"]}
    assert found["best"] == found["features"][0]["features"]
    assert (layers["stage2"]["columns"], layers["stage2"]["bytes"]) == (48, 192)
    assert layers["stage2"]["milliseconds"] > 0
    assert set(found["chosen"]) <= set(layers)
    scored = run("fit", "--bank", bank, "--choose-layer", "--head", "ridge", "--no-tune",
                 "--cv", "2", "--jobs", "1", "--no-save", "--json").json  # fmt: skip
    assert scored["heads"][0]["best_params"]["columns__layer"] in ("penultimate", "stage2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*CURVE, "--sizes", "9"), "9 labels a class can't be drawn: class 'a' has 4"),
        ((*CURVE, "--draws", "1"), "draws is 1"),
        ((*CURVE, "--csv", "/proc/nowhere/c.csv"), "c.csv can't be written"),
        ((*CURVE, "--layers", "stage2"), "the bank has no column 'stage2'"),
        ((*CURVE, "--head", "svn"), "did you mean svm"),
        ((*CURVE, "--jobs", "0"), "n_jobs is 0"),
        (("select", "--layers", "stage9"), "the bank has no layer stage9"),
        ((*SELECT, "--join", "penultimate"), "a join takes two or more"),
        ((*SELECT, "--head", "svn"), "did you mean svm"),
        (("fit", "--choose-layer", "--no-save"), "there is one layer, penultimate"),
    ],
)
def test_what_can_not_be_done_is_one_clear_message(
    words: tuple[str, ...], said: str, tour: Tour
) -> None:
    run(*words, "--bank", tour.bank, status=1).is_one_message(said)


def test_misused_options_are_usage_errors(tour: Tour) -> None:
    assert "write --sizes 1,10,100" in run("curve", "--sizes", "few", status=2).err
    assert "'auc' is not one of" in run("curve", "--metric", "auc", status=2).err
