"""By the commands alone: what changes a feature computes all of them, and `status` says why."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from featbank.backbones import memo
from featbank.backbones.torchvision import TorchvisionProvider
from featbank.data import index
from tests.conftest import run
from tests.tiny import make_images

MODEL = ("--model", "shufflenet_v2_x0_5")
SIZE = ("--resize", "72", "--crop", "64")


class Place:
    """Three images, a file of weights, and a bank of both; times are trusted at once."""

    def __init__(self, folder: Path) -> None:
        self.data, self.bank = folder / "data", folder / "bank"
        self.weights = folder / "weights.pth"
        make_images(self.data, 3)
        write_weights(self.weights, 0)

    def do(self, command: str, *words: str | Path) -> Any:
        own = () if "--weights" in words else ("--weights", self.weights)
        workers = ("--workers", "0") if command == "extract" else ()
        size = () if {"--input-size", "--squash"} & set(words) else SIZE
        options = (*MODEL, *size, *own, "--bank", self.bank, *workers, "--json")
        return run(command, self.data, *options, *words).json


def write_weights(path: Path, seed: int) -> None:
    import torch
    from torchvision.models import shufflenet_v2_x0_5

    stream = io.BytesIO()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(shufflenet_v2_x0_5(num_classes=2).state_dict(), stream)
    path.write_bytes(stream.getvalue())
    os.utime(path, (1_000_000_000, 1_000_000_000))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("FEATBANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "RACY_NANOSECONDS", 0)
    monkeypatch.setattr(memo, "RACY_NANOSECONDS", 0)
    made = Place(tmp_path)
    assert made.do("extract")["computed"] == 3
    return made


def check_new(place: Place, fields: list[str], *words: str | Path) -> None:
    foretold = place.do("status", *words)
    assert (foretold["recipe_differs"], foretold["to_compute"]) == (fields, 3)
    assert foretold["reused"] == 0
    done = place.do("extract", *words)
    assert (done["computed"], done["reused"]) == (3, 0)


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (("--crop", "56"), ["preprocess.crop"]),
        (("--resize", "80"), ["preprocess.resize"]),
        (("--input-size", "96"), ["preprocess.crop", "preprocess.resize"]),
        (("--crop", "64", "--squash"), ["preprocess.fit", "preprocess.resize"]),
        (("--precision", "bfloat16"), ["precision", "runtime"]),
        (("--weights", "none"), ["weights"]),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_word_that_changes_features_reuses_none(
    place: Place, words: tuple[str, ...], fields: list[str]
) -> None:
    check_new(place, fields, *words)


def test_another_seed_of_a_random_network_reuses_nothing(place: Place) -> None:
    place.do("extract", "--weights", "none")
    check_new(place, ["weights"], "--weights", "none", "--seed", "1")


def test_another_backbone_reuses_nothing_and_says_so(place: Place) -> None:
    words = ("--weights", "none", "--model", "squeezenet1_1")

    found = place.do("status", *words)

    assert (found["to_compute"], found["reused"]) == (3, 0)
    assert {"backbone", "weights"} <= set(found["recipe_differs"])


@pytest.mark.parametrize("how", ["cp -p", "touch -r"])
def test_other_weights_under_the_same_name_size_and_time_reuse_nothing(
    place: Place, tmp_path: Path, how: str
) -> None:
    other = tmp_path / "other.pth"
    write_weights(other, 1)
    was = place.weights.stat()
    if how == "cp -p":
        subprocess.run(["cp", "-p", other, place.weights], check=True)
    else:
        subprocess.run(["touch", "-r", place.weights, tmp_path / "times"], check=True)
        shutil.copyfile(other, place.weights)
        subprocess.run(["touch", "-r", tmp_path / "times", place.weights], check=True)
    now = place.weights.stat()
    assert (now.st_size, now.st_mtime_ns) == (was.st_size, was.st_mtime_ns)

    check_new(place, ["weights"])


def test_another_version_of_torchvision_with_other_transforms_reuses_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, own = memo._version, TorchvisionProvider.preprocess
    monkeypatch.setattr(
        memo, "_version", lambda name: "99" if name == "torchvision" else installed(name)
    )
    monkeypatch.setattr(
        TorchvisionProvider,
        "preprocess",
        lambda *words: dataclasses.replace(own(*words), interpolation="bicubic"),
    )

    check_new(place, ["preprocess.interpolation"])


def test_how_the_work_is_done_and_where_the_weights_lie_reuses_everything(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "elsewhere.pth"
    place.weights.replace(moved)
    installed = memo._version
    for words in (
        ("--weights", moved),
        ("--weights", moved, "--batch-size", "1"),
        ("--weights", moved, "--device", "cpu"),
    ):
        done = place.do("extract", *words)
        assert (done["computed"], done["reused"]) == (0, 3)
    monkeypatch.setattr(memo, "_version", lambda name: (installed(name) or "") + "+1")
    found = place.do("status", "--weights", moved)
    assert (found["to_compute"], found["recipe_differs"]) == (0, [])
