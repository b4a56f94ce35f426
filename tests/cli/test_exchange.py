from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import MODEL, Answer, Tour, run
from tests.tiny import make_images

HERE = ("--workers", "0")


def said(bank: Path) -> dict:
    return run("info", "--bank", bank, "--json").json


def test_a_bank_becomes_one_file_that_opens_wherever_a_bank_does(
    tour: Tour, tmp_path: Path
) -> None:
    bank = tour.copy_bank(tmp_path)

    made = run("compact", "--bank", bank, "--json").json
    assert made["path"] == str(tmp_path / "bank.h5")
    assert made["bytes"] == (tmp_path / "bank.h5").stat().st_size
    assert str(tmp_path / "named.h5") in run("compact", tmp_path / "named.h5", "--bank", bank).out
    for path in (tmp_path / "bank.h5", tmp_path / "named.h5"):
        assert said(path)["recipes"][0]["columns"] == said(bank)["recipes"][0]["columns"]
        assert said(path)["classes"] == said(bank)["classes"]
        assert run("verify", "--bank", path, "--json").json["ok"]


def test_an_extraction_goes_into_one_file(tour: Tour, tmp_path: Path) -> None:
    bank, words = tmp_path / "codes.h5", (*MODEL, *HERE, "--json")

    first = run("extract", tour.data, "--bank", bank, *words).json
    content = bank.read_bytes()
    again = run("extract", tour.data, "--bank", bank, *words).json

    assert (first["bank"], first["computed"]) == (str(bank), 15)
    assert (again["computed"], again["reused"]) == (0, 15)
    assert bank.read_bytes() == content
    assert os.listdir(tmp_path) == ["codes.h5"]
    assert run("status", tour.data, "--bank", bank, *MODEL, "--json").json["to_compute"] == 0
    known = said(bank)["recipes"][0]
    assert known["rows"] == 15
    assert known["fingerprint"] == said(tour.bank)["recipes"][0]["fingerprint"]


def test_parts_of_two_machines_are_merged(tour: Tour, tmp_path: Path) -> None:
    make_images(tmp_path / "more", 4, seed=7)
    run("extract", tmp_path / "more", "--bank", tmp_path / "part", *MODEL, *HERE)

    words = ("merge", tmp_path / "part", tour.bank, "--bank", tmp_path / "all")
    found = run(*words, "--json").json
    again = run(*words)

    assert found == {
        "bank": str(tmp_path / "all"),
        "images": 19,
        "rows": 19,
        "shards": 2,
        "recipes": [said(tour.bank)["recipes"][0]["name"]],
    }
    assert again.out.startswith("0 images, 0 rows in 0 shards added to")
    assert said(tmp_path / "all")["images"] == 19
    nothing = run("status", tour.data, "--bank", tmp_path / "all", *MODEL, "--json").json
    assert nothing["to_compute"] == 0


def test_features_are_exported_with_their_labels(tour: Tour, tmp_path: Path) -> None:
    target = tmp_path / "out.npy"

    found = run("export", target, "--bank", tour.bank, "--layers", "penultimate", "--json").json

    assert found == {
        "path": str(target),
        "files": [str(target), str(tmp_path / "out.csv")],
        "rows": 15,
        "width": 1024,
    }
    assert np.load(target).shape == (15, 1024)
    with open(tmp_path / "out.csv", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == [*"aaaaabbbbbccccc"]
    words = ("export", tmp_path / "out.npz", "--bank", tour.bank, "--source", "data")
    assert run(*words).out == f"15 x 1024 in {tmp_path / 'out.npz'}\n"
    run(*words, status=1).is_one_message("--force")
    assert run(*words, "--force").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compact", "--bank", "nowhere"), "there is no bank at"),
        (("compact", "bank.zip"), "ends in .h5"),
        (("compact", "folder.h5"), "is a folder"),
        (("compact", "text/bank.h5"), "text is not a folder"),
        (("merge", "nowhere"), "there is no bank at"),
        (("merge", "."), "is a folder without a bank.json"),
        (("merge", "bank"), "into itself"),
        (("merge", "later"), "install a newer featbank"),
        (("merge", "bank", "--bank", "folder.h5"), "is a folder"),
        (("export", "out.mat"), "the ending says the format"),
        (("export", "out.npz", "--split", "train"), "no image is in the split"),
        (("export", "out.npz", "--source", "dat"), "did you mean data"),
        (("export", "out.npz", "--layers", "stage9"), "has no column 'stage9'"),
        (("export", "out.npz", "--label", "age"), "has no column 'age'"),
        (("export", "out.npz", "--recipe", "vgg"), "has no recipe 'vgg'"),
        (("export", "text/out.npz"), "text is not a folder"),
    ],
)
def test_what_can_not_be_done_is_one_clear_message(
    words: tuple[str, ...],
    message: str,
    tour: Tour,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    tour.copy_bank(tmp_path)
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "bank.json").write_text('{"featbank": "bank", "format": 99}')
    before = sorted(tmp_path.iterdir())

    answer: Answer = run(*words, status=1)

    answer.is_one_message(message)
    assert sorted(tmp_path.iterdir()) == before
