"""The memo never answers for what may have changed."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchvision.models import squeezenet1_1

from featbank.backbones import memo, resolution
from featbank.backbones.recipe import Preprocess, Recipe
from featbank.backbones.request import Request
from featbank.backbones.resolution import resolve
from featbank.backbones.torchvision import TorchvisionProvider
from featbank.backbones.weights import digest_file

MODEL = "squeezenet1_1"
LONG_AGO = 1_000_000_000


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEATBANK_CACHE", str(tmp_path / "featbank"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(memo, "RACY_NANOSECONDS", 0)  # a file of a test is always young
    return tmp_path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "mine.pth"
    write(path, 1)
    return path


def write(path: Path, seed: int) -> None:
    """Write weights with an old mtime; files of all seeds have the same size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stream = io.BytesIO()  # into a file, torch writes the file's name as well
        torch.save(squeezenet1_1(num_classes=3).state_dict(), stream)
    path.write_bytes(stream.getvalue())
    os.utime(path, (LONG_AGO, LONG_AGO))


def request_of(weights: Path) -> Request:
    return Request(MODEL, weights=str(weights))


def in_place(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())
    os.utime(path, (LONG_AGO, LONG_AGO))


def renamed_over(path: Path, other: Path) -> None:
    other.replace(path)


def copied_with_times(path: Path, other: Path) -> None:
    subprocess.run(["cp", "-p", other, path], check=True)


def touched_back(path: Path, other: Path) -> None:
    reference = path.with_name("reference")
    subprocess.run(["touch", "-r", path, reference], check=True)
    path.write_bytes(other.read_bytes())
    subprocess.run(["touch", "-r", reference, path], check=True)


def linked_to(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize(
    "replace", [in_place, renamed_over, copied_with_times, touched_back, linked_to]
)
def test_other_weights_of_the_same_name_size_and_mtime_are_seen(
    weights: Path, tmp_path: Path, replace: Callable[[Path, Path], None]
) -> None:
    other = tmp_path / "other.pth"
    write(other, 2)
    request, expected = request_of(weights), digest_file(other)
    before = resolve(request)
    assert memo.recall(request) == before
    was = weights.stat()

    replace(weights, other)

    now = weights.stat()
    assert (now.st_size, now.st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    assert memo.recall(request) is None
    assert resolve(request).weights == expected != before.weights


def test_a_file_that_changes_within_its_tick_while_it_is_read_is_not_remembered(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under times of two seconds: the change leaves no trace in them."""
    monkeypatch.setattr(memo, "RACY_NANOSECONDS", 2_000_000_000)
    tick = 1_700_000_000 * 10**9
    now = SimpleNamespace(time_ns=lambda: tick + 10**9)
    monkeypatch.setattr(memo, "stat_of", lambda path: (1, tick, tick, 1))
    monkeypatch.setattr(resolution, "time", now)

    def slow(path: Path) -> str:
        digest = digest_file(path)
        write(weights, 2)
        now.time_ns = lambda: tick + 60 * 10**9
        return digest

    monkeypatch.setattr(resolution, "digest_file", slow)
    before = resolve(request_of(weights))

    assert memo.recall(request_of(weights)) is None
    monkeypatch.undo()
    assert resolve(request_of(weights)).weights != before.weights


@pytest.mark.parametrize("package", ["torchvision", "timm", "torch", "pillow"])
def test_another_version_with_other_data_makes_a_new_recipe(
    weights: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    before = resolve(request_of(weights))
    install(package, monkeypatch)
    true = TorchvisionProvider.preprocess

    def preprocess(*words: Any) -> Preprocess:
        return dataclasses.replace(true(*words), resize=300)

    monkeypatch.setattr(TorchvisionProvider, "preprocess", preprocess)

    assert resolve(request_of(weights)).differences(before) == ["preprocess.resize"]


@pytest.mark.parametrize("package", ["torchvision", "timm", "torch", "pillow", "featbank"])
def test_another_version_with_the_same_data_is_asked_and_changes_nothing(
    weights: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    before = resolve(request_of(weights))
    install(package, monkeypatch)

    assert memo.recall(request_of(weights)) is None
    assert resolve(request_of(weights)) == before


def install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the memo see another version of an installed package."""
    true = memo._version
    monkeypatch.setattr(memo, "_version", lambda name: "99" if name == package else true(name))


def test_another_version_of_extraction_makes_a_new_recipe(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resolve(request_of(weights))
    monkeypatch.setattr(memo, "EXTRACTION_VERSION", 99)
    *others, _ = Recipe.__init__.__defaults__ or ()
    monkeypatch.setattr(Recipe.__init__, "__defaults__", (*others, 99))

    assert resolve(request_of(weights)).differences(before) == ["version"]


def test_name_and_place_of_the_weights_file_are_not_in_the_recipe(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resolve(request_of(weights))
    (tmp_path / "elsewhere").mkdir()
    moved = weights.replace(tmp_path / "elsewhere" / "other name.pt")
    monkeypatch.chdir(moved.parent)

    assert resolve(request_of(moved)) == before
    assert resolve(Request(MODEL, weights=moved.name)) == before


def test_a_name_that_the_hub_has_given_to_another_revision_is_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache keeps the old file, whole, beside the new one."""
    hub = tmp_path / "models--mine"
    for seed, revision in enumerate(("one", "two")):
        (hub / "snapshots" / revision).mkdir(parents=True)
        write(hub / "snapshots" / revision / "model.pth", seed)
    main = hub / "refs" / "main"
    main.parent.mkdir()
    main.write_text("one")
    monkeypatch.setattr(
        TorchvisionProvider,
        "fetch",
        lambda self, name, tag: hub / "snapshots" / main.read_text() / "model.pth",
    )
    request = Request(MODEL)
    before = resolve(request)
    assert memo.recall(request) == before

    main.write_text("two")

    assert memo.recall(request) is None
    assert resolve(request).differences(before) == ["weights"]
