from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from featbank.errors import FineTuneError
from featbank.finetuning.settings import FineTuneSettings
from tests.conftest import PATIENCE, Answer, Tour, run, shell
from tests.tiny import make_images

SMALL = (
    *("--model", "squeezenet1_1", "--weights", "none", "--input-size", "64", "--workers", "0"),
    *("--epochs", "1", "--batch-size", "8", "--augment", "none"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finetune")


@pytest.fixture(scope="module")
def answer(tour: Tour, folder: Path) -> Answer:
    return run(
        "finetune", tour.data, *SMALL, "--cv", "2", "--valid", "0.25", "--out", folder,
        "--checkpoints", folder / "kept", "--history", folder / "h.json",
        "--plot", folder / "h.png", "--predictions", folder / "p.csv", "--json",
    )  # fmt: skip


def test_one_command_scores_trains_and_saves(tour: Tour, folder: Path, answer: Answer) -> None:
    told = answer.json

    (head,) = told["heads"]
    assert (head["head"], told["folds"], told["images"]) == ("finetune", 2, 15)
    assert 0 <= head["accuracy"]["mean"] <= 1
    assert head["classifier"] == str(folder / "finetune.safetensors")
    assert [one["name"] for one in told["trainings"]] == ["fold 1", "fold 2", "final"]
    assert (folder / "h.png").read_bytes().startswith(b"\x89PNG")
    assert set(json.loads((folder / "h.json").read_text())) == {"fold 1", "fold 2", "final"}
    with open(folder / "p.csv") as table:
        assert {row["head"] for row in csv.DictReader(table)} == {"finetune"}
    assert not (folder / "kept").exists()


@pytest.mark.usefixtures("answer")
def test_predict_takes_the_file_as_any_classifier(tour: Tour, folder: Path) -> None:
    (folder / "photos").mkdir()
    make_images(folder / "photos", 3, seed=5)
    (folder / "photos" / "bad.png").write_bytes(b"no image")
    words = (folder / "finetune.safetensors", folder / "photos")

    told = run("predict", *words, "--workers", "0", "--json").json

    assert [reason["path"] for reason in told["failed"]] == [str(folder / "photos" / "bad.png")]
    assert len(told["predictions"]) == 3
    for one in told["predictions"]:
        assert {best["label"] for best in one["top"]} == {"a", "b", "c"}
        assert one["label"] == one["top"][0]["label"]
        assert sum(best["probability"] for best in one["top"]) == pytest.approx(1, rel=1e-5)
    table = run("predict", *words, "--workers", "0", "--csv", "-", "--probabilities").out
    rows = [row for row in csv.DictReader(table.splitlines()) if row["status"] == "ok"]
    assert [row["label"] for row in rows] == [one["label"] for one in told["predictions"]]
    assert sum(float(rows[0][name]) for name in "abc") == pytest.approx(1, abs=1e-5)
    with_workers = run("predict", *words, "--workers", "1", "--json").json
    for one, other in zip(with_workers["predictions"], told["predictions"], strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


@pytest.mark.usefixtures("answer")
def test_predict_gives_what_the_network_itself_gives(tour: Tour, folder: Path) -> None:
    from featbank import TunedClassifier
    from featbank.finetuning.images import Images

    told = run("predict", folder / "finetune.safetensors", tour.data, "--workers", "0", "--json")
    rows = told.json["predictions"]
    tuned = TunedClassifier.load(folder / "finetune.safetensors")
    direct = tuned.predict_proba(Images.of_files([row["path"] for row in rows]), workers=0)

    np.testing.assert_allclose([row["probability"] for row in rows], direct.max(axis=1), atol=1e-5)
    run("predict", folder / "finetune.safetensors", tour.data, "--bank", "b", status=1)


def test_an_interrupted_command_goes_on_with_resume(tour: Tour, tmp_path: Path) -> None:
    words = ("finetune", tour.data, *SMALL, "--cv", "2", "--no-save", "--json")
    words = (*words, "--epochs", "20")
    process = subprocess.Popen(
        [sys.executable, "-m", "featbank", *map(str, words)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not (tmp_path / "finetune/training-2").is_dir():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 143, err
    assert out == ""
    assert "--resume goes on" in err
    assert (tmp_path / "finetune" / "training-1.npz").is_file()
    told = shell(*words, "--resume", cwd=tmp_path).json
    assert [len(one["history"]) for one in told["trainings"]] == [20, 20]
    assert list(tmp_path.iterdir()) == []


def test_the_range_test_trains_nothing(tour: Tour, tmp_path: Path) -> None:
    curve = tmp_path / "curve.png"
    words = ("finetune", tour.data, *SMALL, "--steps", "15", "--range-test")

    told = run(*words, curve, "--json").json

    assert {"suggestion", "rates", "losses", "smoothed"} <= set(told)
    assert curve.read_bytes().startswith(b"\x89PNG")
    assert "curve in" in run(*words, curve).out
    assert run(*words, "-").out.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_two_commands_do_not_share_a_folder_of_checkpoints(tour: Tour, tmp_path: Path) -> None:
    from featbank import durable

    with durable.lock(tmp_path / ".lock"):
        run("finetune", tour.data, *SMALL, "--checkpoints", tmp_path, "--no-save", status=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--unfreeze", "layer9"), "no layer 'layer9'"),
        (("--unfreeze", "features.1*,tail"), "no layer 'tail'"),
        (("--unfreeze", "99"), "the last 99 were to train"),
        (("--classes", "a"), "one class"),
        (("--cv", "9"), "at most 5 folds"),
        (("--epochs", "0"), "nothing would be trained"),
        (("--init", "probe", "--hidden", "5"), "a head of one linear layer"),
        (("--out", "/proc/nowhere"), "can't be written"),
        (("--max-seconds", "0"), "max_seconds is a number above 0"),
        (("--history", "/proc/nowhere/h.json"), "h.json can't be written"),
        (("--model", "resnet5"), "there is no backbone 'resnet5'"),
    ],
)
def test_bad_words_are_one_message(
    tour: Tour, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    checkpoints = ("--checkpoints", tmp_path / "kept")
    given = ("finetune", tour.data, *SMALL, *checkpoints, "--out", tmp_path, *words)

    run(*given, status=1).is_one_message(said)
    assert list(tmp_path.iterdir()) == []


def test_every_setting_is_an_option() -> None:
    from featbank.cli import cli

    command = cli.commands["finetune"]
    names = {param.name for param in command.params}

    assert set(FineTuneSettings().to_dict()) - {"random_state"} <= names


def test_settings_are_read_as_they_are_meant(tour: Tour, tmp_path: Path) -> None:
    words = ("--unfreeze", "2", "--hidden", "8,4", "--class-weight", "a=2", "--lookahead")
    words = (*words, "--full-precision", "--seed", "3", "--no-save", "--cv", "2")

    told = run("finetune", tour.data, *SMALL, *words, "--checkpoints", tmp_path, "--json").json

    settings = FineTuneSettings.from_dict(told["settings"])
    assert (settings.unfreeze, settings.hidden, settings.random_state) == (2, (8, 4), 3)
    assert (settings.class_weight, settings.lookahead) == ({"a": 2}, True)
    assert (settings.mixed_precision, settings.backbone_lr) == (False, 1.0)
    assert told["trainable"] < told["parameters"]
    with pytest.raises(FineTuneError):
        FineTuneSettings.from_dict({**told["settings"], "epochs": -1})
