"""Checkpoints: what a killed training goes on to, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from featbank import durable
from featbank.errors import FineTuneError
from tests.finetuning.small import TRAIN, fit, images_in, state_bytes
from tests.tiny import TinyNet

KILLED = """
import json, os, signal, sys
from pathlib import Path
from tests.finetuning.small import fit, images_in

def stop(at):
    if (at.epoch, at.step) == (3, 2):
        os.kill(os.getpid(), signal.SIGKILL)

settings, images, folder = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
fit(settings, images=images_in(images), checkpoint=folder, progress=stop)
"""
ADAMW = {"head_epochs": 1, "epochs": 3, "dropout": 0.2, "hidden": [8]}
LOOKAHEAD = {
    "optimizer": "sgd",
    "lookahead": True,
    "augment": "strong",
    "schedule": "one-cycle",
    "init": "probe",
    "unfreeze": "stage2",
}


@pytest.mark.parametrize("settings", [ADAMW, LOOKAHEAD], ids=["adamw", "lookahead"])
def test_a_training_that_was_killed_ends_with_the_same_bytes(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    images = images_in(tmp_path / "images")
    words = [json.dumps(settings), tmp_path / "images", tmp_path / "kept"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, words)],
        env={
            **os.environ,
            "PYTHONPATH": os.getcwd(),
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        },
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    first: list[int] = []
    whole = fit(settings, images=images)
    continued = fit(
        settings,
        images=images,
        checkpoint=tmp_path / "kept",
        resume=True,
        progress=lambda at: first.append(at.epoch),
    )
    assert first[0] == 3
    assert state_bytes(continued) == state_bytes(whole)
    assert continued.best_epoch == whole.best_epoch
    timeless = [[{**epoch, "seconds": 0} for epoch in one.history] for one in (whole, continued)]
    assert timeless[0] == timeless[1]


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    done = fit({"epochs": 2}, checkpoint=tmp_path)
    steps: list[int] = []
    again = fit(
        {"epochs": 2}, checkpoint=tmp_path, resume=True, progress=lambda at: steps.append(at.step)
    )
    assert steps == []
    assert again.history == done.history
    assert again.stopped == "epochs"
    assert state_bytes(again) == state_bytes(done)


def test_only_the_last_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    done = fit(checkpoint=tmp_path)
    wanted = {"checkpoint.json", "optimizer-4.safetensors", "weights-4.safetensors"}
    assert {p.name for p in tmp_path.iterdir()} == {
        *wanted,
        f"weights-{done.best_epoch}.safetensors",
    }


def test_files_of_others_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "resnet18-f37072fd.safetensors").write_bytes(b"mine")
    fit({"epochs": 2}, checkpoint=tmp_path)
    assert (tmp_path / "resnet18-f37072fd.safetensors").read_bytes() == b"mine"


def test_a_training_ended_by_time_goes_on(tmp_path: Path) -> None:
    cut = fit(checkpoint=tmp_path, max_seconds=1e-6)
    assert cut.stopped == "time"
    assert cut.best_epoch == 0
    assert [epoch["complete"] for epoch in cut.history] == [False]
    assert state_bytes(fit(checkpoint=tmp_path, resume=True)) == state_bytes(fit())


def test_another_number_of_threads_is_noted(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 77)
        fit({"epochs": 1}, checkpoint=tmp_path)
    (note,) = fit({"epochs": 1}, checkpoint=tmp_path, resume=True).notes
    assert note.startswith("this training was begun with 77 threads")


def test_a_checkpoint_is_not_overwritten_unasked(tmp_path: Path) -> None:
    fit({"epochs": 1}, checkpoint=tmp_path)
    with pytest.raises(FineTuneError, match="came to epoch 1; say resume"):
        fit({"epochs": 1}, checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("settings", "words", "said"),
    [
        ({"lr": 0.5}, {}, "in which lr is 0.02 there and 0.5 here"),
        ({}, {"y": [0, 1, 2] * 7 + [0, 2, 1]}, "in which labels differs"),
        ({}, {"train": TRAIN[1:]}, "number of training images is 18 there and 17 here"),
        ({}, {"class_names": ["x", "y", "z"]}, "in which classes is null there"),
    ],
)
def test_what_differs_from_the_checkpoint_is_named(
    tmp_path: Path, settings: dict[str, Any], words: dict[str, Any], said: str
) -> None:
    fit({"epochs": 1}, checkpoint=tmp_path)
    with pytest.raises(FineTuneError, match=said):
        fit({"epochs": 1, **settings}, checkpoint=tmp_path, resume=True, **words)


def test_a_changed_image_is_noticed(tmp_path: Path) -> None:
    images = images_in(tmp_path / "images")
    fit({"epochs": 1}, images=images, checkpoint=tmp_path / "kept")
    for path in (tmp_path / "images").rglob("*.png"):
        os.utime(path, (1, 1))
    with pytest.raises(FineTuneError, match="training images differs"):
        fit({"epochs": 1}, images=images, checkpoint=tmp_path / "kept", resume=True)


@pytest.mark.parametrize("name", ["checkpoint.json", "optimizer-2", "weights-2"])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path, name: str) -> None:
    def stop(at: Any) -> None:
        if at.epoch == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(checkpoint=tmp_path, progress=stop)
    path = next(p for p in tmp_path.iterdir() if p.name.startswith(name))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(FineTuneError, match=r"is damaged: .*; remove the folder to begin anew\.$"):
        fit(checkpoint=tmp_path, resume=True)


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = durable.write_file

    def full(path: Any, data: Any) -> None:
        if "-2" in Path(path).name:
            raise OSError(28, "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_file", full)
        with pytest.raises(FineTuneError, match=r"of epoch 2 can't be written to .*No space left"):
            fit(checkpoint=tmp_path)
    assert state_bytes(fit(checkpoint=tmp_path, resume=True)) == state_bytes(fit())


def test_a_module_without_a_version_is_not_kept(tmp_path: Path) -> None:
    from featbank.backbones import from_module
    from tests.tiny import PREPROCESS

    unnamed = from_module(TinyNet(), transform=PREPROCESS)
    with pytest.raises(FineTuneError, match="give from_module"):
        fit(network=unnamed, checkpoint=tmp_path)
