"""The main job as a user runs it: real processes, real signals, files of every kind."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import MODEL, PATIENCE, Tour, run, shell
from tests.data.files import png16
from tests.tiny import make_images

UNREACHABLE = "http://127.0.0.1:9"  # the port of "discard", on which nobody listens


def mixed_folder(folder: Path) -> None:
    """Three classes, with a corrupt file, a duplicate, and images of unusual kinds."""
    make_images(folder, 18)
    shutil.copy(folder / "a" / "000.png", folder / "a" / "duplicate.png")
    (folder / "b" / "corrupt.jpg").write_bytes((folder / "b" / "004.jpg").read_bytes()[:300])
    grey = np.linspace(0, 65535, 40 * 40, dtype=np.uint16).reshape(40, 40)
    (folder / "c" / "deep.png").write_bytes(png16(grey))
    with Image.open(folder / "c" / "002.png") as image:
        image.convert("P").save(folder / "c" / "palette.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(folder / "c" / "rotated.jpg", exif=exif)


def test_from_a_mixed_folder_to_a_table_of_predictions(tmp_path: Path) -> None:
    mixed_folder(tmp_path / "data")
    extract = ("extract", *MODEL, "data/", "--json")

    first = shell(*extract, cwd=tmp_path)
    assert "random weights" in first.err
    counts = {name: first.json[name] for name in ("images", "computed", "reused", "failed")}
    assert counts == {"images": 23, "computed": 21, "reused": 1, "failed": 1}
    (error,) = first.json["errors"]
    assert error["path"] == str(tmp_path / "data" / "b" / "corrupt.jpg")

    fitted = shell("fit", "--head", "svm", cwd=tmp_path)
    assert "stratified 5-fold cross-validation, 5 repeats: 21 images, 3 classes" in fitted.out
    assert "saved ./svm.skops" in fitted.out

    make_images(tmp_path / "NEW", 3, seed=1)
    told = shell("predict", "svm.skops", "NEW/", "--csv", "out.csv", cwd=tmp_path)
    assert "3 predictions in out.csv" in told.err
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["NEW/a/000.png", "NEW/b/001.png", "NEW/c/002.png"]
    assert {row["label"] for row in rows} <= {"a", "b", "c"}

    again = shell(*extract, cwd=tmp_path).json
    counts = {name: again[name] for name in ("images", "computed", "reused", "failed")}
    assert counts == {"images": 23, "computed": 0, "reused": 22, "failed": 1}


def test_weights_out_of_reach_are_one_message_and_a_file_goes_instead(
    tour: Tour, tmp_path: Path
) -> None:
    import torch
    from torchvision import models

    nothing = {name: str(tmp_path / "hub") for name in ("TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME")}
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), UNREACHABLE)
    words = ("extract", "--model", "resnet50", tour.data)

    answer = shell(*words, cwd=tmp_path, status=1, **nothing, **proxy)

    assert answer.out == ""
    assert answer.err.count("Error: ") == 1
    assert "Traceback" not in answer.err
    message = answer.err[answer.err.index("Error: ") :]
    assert message.count("\n") == 1
    assert "resnet50" in message  # what was looked for,
    assert str(tmp_path / "hub") in message  # where to put a file,
    assert "efficientnet_lite0" in message  # which backbone works without
    assert "--weights" in message
    assert not (tmp_path / "bank").exists()

    torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), tmp_path / "mine.pth")
    found = run(
        *("extract", "--model", "shufflenet_v2_x0_5", "--weights", tmp_path / "mine.pth"),
        *(tour.data, "--bank", tmp_path / "bank", "--workers", "0", "--json"),
    ).json
    assert found["computed"] == 15


class Running:
    """An extraction of many images in small shards, in a process of its own."""

    images = 200

    def __init__(self, folder: Path, *words: str) -> None:
        self.bank = folder / "bank"
        self.words = (
            *("extract", folder / "data", *MODEL[:-1], "128", "--bank", self.bank),
            *("--batch-size", "2", "--shard-rows", "4", *words),
        )
        make_images(folder / "data", self.images)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "featbank", *map(str, self.words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def stop_in_the_middle(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal when the first shard is there; return exit status and standard error."""
        while not any(self.bank.glob("*/??/*.h5")):
            assert self.process.poll() is None, "the run ended before its first shard"
            time.sleep(0.01)
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, err

    def clean_up(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_after_kill_9_only_what_was_not_sealed_is_computed(tmp_path: Path, workers: str) -> None:
    running = Running(tmp_path, "--workers", workers)
    try:
        status, _ = running.stop_in_the_middle(signal.SIGKILL)
    finally:
        running.clean_up()
    assert status == -signal.SIGKILL

    left = run("verify", "--bank", running.bank, "--json").json
    assert left["ok"]
    assert 0 < left["rows"] < running.images
    words = (*running.words, "--batch-size", "16", "--shard-rows", "1000", "--json")
    resumed = run(*words).json
    assert resumed["computed"] == running.images - left["rows"]
    assert resumed["reused"] == left["rows"]
    whole = run("verify", "--bank", running.bank, "--json").json
    assert (whole["ok"], whole["rows"]) == (True, running.images)
    assert run(*words).json["computed"] == 0


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_seals_what_is_finished_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, expected: int
) -> None:
    running = Running(tmp_path, "--workers", "1")
    try:
        status, err = running.stop_in_the_middle(number)
    finally:
        running.clean_up()

    assert status == expected
    assert err.endswith("run the same command again to go on.\nInterrupted.\n")
    assert "Traceback" not in err
    left = run("verify", "--bank", running.bank, "--json").json
    assert left["ok"]
    assert f"{left['rows']} images computed and sealed, {200 - left['rows']} remain" in err


def test_a_reader_that_goes_away_early_is_no_traceback(tour: Tour) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "featbank", "info", "--bank", str(tour.bank)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait(timeout=PATIENCE)


def test_a_full_disk_under_standard_output_is_an_error(tour: Tour) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "featbank", "info", "--bank", str(tour.bank)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "Error: No space left on device.\n"


def test_json_is_one_object_whatever_is_logged(tour: Tour, tmp_path: Path) -> None:
    words = ("-v", "status", tour.data, *MODEL, "--bank", tour.bank, "--json")

    assert json.loads(shell(*words, cwd=tmp_path).out)["to_compute"] == 0
