from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Tour, run

RIDGE = ("fit", "--protocol", "fewshot-ridge", "--split", "first:3")


def test_protocols_are_listed_in_three_lines_and_with_constants() -> None:
    listed = run("fit", "--list-protocols").out.splitlines()
    data = run("fit", "--list-protocols", "--json").json["protocols"]

    assert [line for line in listed if not line.startswith(" ")] == [
        one["protocol"] for one in data
    ]
    assert len(listed) == 4 * len(data)
    (knn,) = (one for one in data if one["protocol"] == "dinov2-knn")
    assert knn["constants"]["k"] == [10, 20, 100, 200]
    assert "dinov2/eval/knn.py" in knn["source"]


def test_a_protocol_scores_the_bank_and_saves_nothing(
    tour: Tour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    told = run(*RIDGE, "--bank", tour.bank).out
    data = run(*RIDGE, "--bank", tour.bank, "--json").json

    assert told.startswith("fewshot-ridge: 9 images of train, scored on 6 of test; 3 classes")
    lines = [line.split()[:3] for line in told.splitlines() if line.startswith("ridge")]
    assert lines == [["ridge,", "1", "shot"]]  # no class has 5 images to draw from
    assert data["heads"][0]["head"] == "ridge, 1 shot"
    assert len(data["heads"][0]["accuracy"]["values"]) == 3
    assert data["constants"]["l2"] == 1024
    assert (data["train"], data["test"], data["classes"]) == (9, 6, ["a", "b", "c"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--scoring", "f1"), 2, "a protocol decides what --scoring would"),
        (("--repeats", "2", "--out", "x"), 2, "what --repeats, --out would"),
        (("--head", "knn,svm"), 2, "takes one --head at most, not 2"),
        (("--head", "knn"), 1, "fewshot-ridge says what is fitted"),
        (("--protocol", "fewshot-rigde"), 1, "there is no protocol 'fewshot-rigde'"),
        (("--classes", "a"), 1, "all 5 labelled images are of one class, 'a'"),
        (("--split", "none", "--cv", "5"), 1, "the share that is held out as test"),
        (("--protocol", "vtab1k"), 1, "learns from 800 images and chooses on 200 others"),
        (("--split", "kfold:3"), 1, "one split into train, valid and test"),
        (("--split", "none"), 1, "make them with --split random:80/20 or --cv 0.25"),
    ],
    ids=str,
)
def test_what_does_not_go_with_a_protocol_is_said(
    tour: Tour, words: tuple[str, ...], status: int, said: str
) -> None:
    found = run(*RIDGE, "--bank", tour.bank, *words, status=status)

    assert said in " ".join(found.err.split())
