from __future__ import annotations

import csv
import os
import pickle
from pathlib import Path

import pytest

from tests.conftest import Tour, run
from tests.tiny import make_images

HERE = ("--workers", "0")


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    return tmp_path / "bad.jpg"


def test_each_image_gets_its_class_and_the_next_ones(tour: Tour) -> None:
    found = run("predict", tour.classifier, tour.data, *HERE, "--top", "2", "--json").json

    assert found["failed"] == []
    assert len(found["predictions"]) == 15
    for one in found["predictions"]:
        assert one["path"].startswith(str(tour.data))
        assert len(one["top"]) == 2
        assert one["label"] == one["top"][0]["label"] == Path(one["path"]).parent.name
        assert one["probability"] >= one["top"][1]["probability"]


def test_lines_for_people(tour: Tour) -> None:
    image = next((tour.data / "b").iterdir())

    line = run("predict", tour.classifier, image, *HERE).out

    assert line.startswith(f"{image}  b ")
    assert line.count(",") == 2


def test_an_unreadable_image_is_listed_and_the_rest_predicted(tour: Tour, bad: Path) -> None:
    found = run("predict", tour.classifier, tour.data, bad, *HERE, "--json")

    assert len(found.json["predictions"]) == 15
    assert [one["path"] for one in found.json["failed"]] == [str(bad)]
    assert f"can't read {bad}: not a JPEG" in found.err


def test_if_no_image_can_be_read_that_is_an_error(tour: Tour, bad: Path) -> None:
    answer = run("predict", tour.classifier, bad, *HERE, "--json", status=1)

    assert answer.json["predictions"] == []
    assert [one["path"] for one in answer.json["failed"]] == [str(bad)]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_for_every_image_that_was_asked_for(
    tour: Tour, bad: Path, tmp_path: Path
) -> None:
    run("predict", tour.classifier, bad, tour.data, *HERE, "--csv", tmp_path / "out.csv")

    rows = rows_of(tmp_path / "out.csv")
    assert list(rows[0]) == ["path", "label", "probability", "status"]
    assert rows[0]["path"] == str(bad)
    assert (rows[0]["label"], rows[0]["probability"]) == ("", "")
    assert "not a JPEG" in rows[0]["status"]
    assert {row["path"]: row["label"] for row in rows[1:]} == {
        str(path): path.parent.name for path in tour.data.rglob("*.*")
    }
    assert {row["status"] for row in rows[1:]} == {"ok"}


def test_the_kaggle_style_lacks_images_that_cannot_be_read_and_says_so(
    tour: Tour, bad: Path, tmp_path: Path
) -> None:
    out = ("--csv", tmp_path / "out.csv", "--csv-style", "kaggle")
    said = run("predict", tour.classifier, bad, tour.data, *HERE, *out)

    rows = rows_of(tmp_path / "out.csv")
    assert {row["file_name"]: row["id"] for row in rows} == {
        path.name: path.parent.name for path in tour.data.rglob("*.*")
    }
    assert "note: 1 image could not be read and has no row" in said.err


def test_the_table_has_all_probabilities_where_they_are_asked_for(
    tour: Tour, bad: Path, tmp_path: Path
) -> None:
    table = tmp_path / "out.csv"

    words = ("predict", tour.classifier, tour.data, bad, *HERE, "--bank", tour.bank)
    words += ("--top", "1", "--csv", table, "--probabilities")
    said = run(*words, "--json")
    *rows, unread = rows_of(table)
    run(*words, "--csv-style", "kaggle")
    kaggle = rows_of(table)

    assert list(rows[0]) == ["path", "label", "probability", "status", "a", "b", "c"]
    assert list(kaggle[0]) == ["file_name", "id", "a", "b", "c"]
    for row, short, one in zip(rows, kaggle, said.json["predictions"], strict=True):
        assert sum(float(row[name]) for name in "abc") == pytest.approx(1, abs=1e-5)
        assert float(row[row["label"]]) == pytest.approx(one["probability"], abs=1e-6)
        assert row["probability"] == row[row["label"]]
        assert [short[name] for name in "abc"] == [row[name] for name in "abc"]
    assert [unread[name] for name in "abc"] == ["", "", ""]
    assert said.err.startswith("15 predictions in ")


@pytest.mark.parametrize(("head", "name"), [("svm", "votes"), ("ridge", "margin")])
def test_a_score_that_is_no_probability_is_named(
    tour: Tour, tmp_path: Path, head: str, name: str
) -> None:
    words = ("fit", "--bank", tour.bank, "--head", head, "--no-calibrate", "--no-tune")
    run(*words, "--jobs", "1", "--cv", "3", "--out", tmp_path)
    image = next((tour.data / "b").iterdir())
    words = ("predict", tmp_path / f"{head}.skops", image, *HERE, "--bank", tour.bank)

    line = run(*words, "--top", "1").out
    found = run(*words, "--json").json["predictions"][0]

    assert line == f"{image}  b ({name} {found['score']:.2f})\n"
    assert found["probability"] is None
    run(*words, "--csv", tmp_path / "out.csv")
    assert rows_of(tmp_path / "out.csv")[0]["probability"] == ""
    message = run(*words, "--csv", "-", "--probabilities", status=1).err
    assert "without --no-calibrate" in message


def test_names_that_are_no_text_leave_the_table_readable(tour: Tour, tmp_path: Path) -> None:
    name = b"\xff\n.png"
    (tmp_path / "new").mkdir()
    with open(os.path.join(os.fsencode(tmp_path / "new"), name), "wb") as file:
        file.write(next((tour.data / "a").glob("*.png")).read_bytes())

    words = ("predict", tour.classifier, tmp_path / "new", *HERE, "--csv", tmp_path / "out.csv")
    run(*words, "--csv-style", "kaggle")

    assert (tmp_path / "out.csv").read_bytes() == b'file_name,id\n"\\xff\n.png",a\n'
    run(*words)
    (row,) = rows_of(tmp_path / "out.csv")
    assert row["path"] == rf"{tmp_path}/new/\xff" + "\n.png"


def test_a_table_names_the_images(tour: Tour, tmp_path: Path) -> None:
    images = sorted(path.relative_to(tour.data) for path in tour.data.rglob("*.*"))
    names = [str(path) for path in (images[3], images[0], Path("gone.png"))]
    (tmp_path / "ask.csv").write_text("\n".join(["file;mark", *(f"{n};1" for n in names)]))
    words = ("predict", tour.classifier, tmp_path / "ask.csv", *HERE, "--path-column", "file")

    run(*words, "--root", tour.data, "--csv", tmp_path / "out.csv")

    rows = rows_of(tmp_path / "out.csv")
    assert [row["path"] for row in rows] == names
    assert [row["label"] for row in rows] == [names[0][0], names[1][0], ""]
    assert [row["status"] == "ok" for row in rows] == [True, True, False]
    message = run(*words, status=1).err
    assert "none of the 3 images" in message
    assert "root" in message


@pytest.mark.parametrize("packed", [False, True])
def test_a_bank_spares_the_network(
    tour: Tour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, packed: bool
) -> None:
    bank = tour.copy_bank(tmp_path)
    if packed:
        run("compact", tmp_path / "bank.h5", "--bank", bank)
        bank = tmp_path / "bank.h5"
    before = run("info", "--bank", bank, "--json").json
    words = ("predict", tour.classifier, *HERE, "--bank", bank, "--json")
    make_images(tmp_path / "new", 3, seed=4)

    def no_network(*words: object, **more: object) -> None:
        raise AssertionError("the network was loaded")

    with monkeypatch.context() as patch:
        patch.setattr("featbank.extraction.loader._kept", no_network)
        known = run(*words, tour.data).json
        with pytest.raises(AssertionError, match="network was loaded"):
            run(*words, tmp_path / "new")
    plain = run("predict", tour.classifier, tour.data, *HERE, "--json").json
    for with_bank, without in zip(known["predictions"], plain["predictions"], strict=True):
        assert with_bank["label"] == without["label"]
        assert with_bank["score"] == pytest.approx(without["score"], abs=1e-4)

    assert len(run(*words, tmp_path / "new").json["predictions"]) == 3
    after = run("info", "--bank", bank, "--json").json
    assert after["images"] == before["images"]  # predicting adds features, never images
    assert after["recipes"][0]["rows"] == 18


def test_other_weights_are_refused(tour: Tour, tmp_path: Path) -> None:
    import torch
    from torchvision import models

    for name in ("mine", "yours"):
        torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), tmp_path / f"{name}.pth")
    make_images(tmp_path / "data", 6, classes=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        words = ("--model", "shufflenet_v2_x0_5", "--weights", "mine.pth", "--input-size", "64")
        assert run("extract", "data", *words, *HERE, "--json").json["computed"] == 6
        run("fit", "--head", "centroid", "--no-tune", "--cv", "2", "--jobs", "1")
    predict = ("predict", tmp_path / "centroid.skops", tmp_path / "data", *HERE)

    assert "a" in run(*predict).out  # from another folder than the one it was fitted in
    message = run(*predict, "--weights", tmp_path / "yours.pth", status=1).err
    assert "was fitted on weights with the digest" in message
    (tmp_path / "mine.pth").rename(tmp_path / "moved.pth")
    assert "there is no weights file" in run(*predict, status=1).err
    assert run(*predict, "--weights", tmp_path / "moved.pth").status == 0


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("pwned",))


def test_a_pickle_is_refused_and_not_run(
    tour: Tour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.skops").write_bytes(pickle.dumps(Payload()))

    message = run("predict", "model.skops", tour.data, status=1).err

    assert "is no classifier file of featbank" in message
    assert not (tmp_path / "pwned").exists()


def test_a_head_of_other_make_loads_only_when_trusted(tour: Tour, tmp_path: Path) -> None:
    head = "sklearn.tree.DecisionTreeClassifier"
    run("fit", "--bank", tour.bank, "--head", head, "--no-tune", "--cv", "3", "--out", tmp_path)
    words = ("predict", tmp_path / "DecisionTreeClassifier.skops", tour.data, *HERE)

    message = run(*words, status=1).err
    assert "sklearn.tree._classes.DecisionTreeClassifier" in message
    trust = message[message.index("--trust") :].strip().rstrip(".").split()
    assert len(run(*words, *trust).out.splitlines()) == 15


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.skops", "data"), "'nowhere.skops' can't be read: No such file"),
        (("data", "data"), "'data' is a folder."),
        (("svm.skops", "nowhere"), "there is no file or folder nowhere"),
        (("svm.skops", "empty"), "there are no images in empty"),
        (("svm.skops", "data", "--csv", "/proc/nowhere/out.csv"), "out.csv can't be written"),
        (("svm.skops", "data", "--csv", "empty"), "empty is a folder"),
        (("svm.skops", "data", "--root", "data"), "no table was given"),
        (("svm.skops", "data", "--device", "tpu"), "not 'tpu'"),
        (("svm.skops", "data", "--weights", "nowhere.pth"), "there is no weights file"),
        (("svm.skops", "data", "--bank", "data"), "no bank"),
        (("svm.skops", "data", "--bank", "svm.skops"), "svm.skops"),
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
    (tmp_path / "data").symlink_to(tour.data)
    (tmp_path / "svm.skops").symlink_to(tour.classifier)
    (tmp_path / "empty").mkdir()

    answer = run("predict", *words, status=1)

    answer.is_one_message(said)


@pytest.mark.parametrize("style", ["full", "kaggle"])
def test_images_of_one_name_are_told_apart_in_the_table(
    tour: Tour, tmp_path: Path, style: str
) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(
            next((tour.data / "a").glob("*.png")).read_bytes()
        )

    words = ("predict", tour.classifier, tmp_path, *HERE, "--csv", "-", "--csv-style", style)

    assert [line.split(",")[0] for line in run(*words).out.splitlines()[1:]] == [
        str(tmp_path / folder / "1.png") for folder in ("x", "y")
    ]


@pytest.mark.parametrize("words", [("--probabilities",), ("--csv-style", "kaggle")])
def test_what_shapes_the_table_requires_one(tour: Tour, words: tuple[str, ...]) -> None:
    assert "requires --csv" in run("predict", tour.classifier, tour.data, *words, status=2).err
