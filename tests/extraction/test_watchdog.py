from __future__ import annotations

import io
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from featbank.backbones.recipe import Column
from featbank.bank.maintenance import verify
from featbank.data.decode import DecodeLimits, DecodePolicy
from featbank.errors import ExtractionError
from featbank.extraction.messages import Task, TaskSpec, WorkerSpec
from featbank.extraction.pool import Died, Pool, Watch
from tests.conftest import PATIENCE
from tests.extraction.fakes import PREPROCESS, expected, extract, hostile_decode
from tests.tiny import make_images

WATCH = Watch(seconds=600.0, bytes=100 << 20)
HASTY = Watch(seconds=8.0, bytes=100 << 20)
"""For what hangs: innocent images are within it on a busy machine, too."""


@pytest.fixture(autouse=True)
def _no_core_files():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


def image_bytes():
    data = io.BytesIO()
    Image.new("RGB", (9, 9), (1, 2, 3)).save(data, "PNG")
    return data.getvalue()


def run(tmp_path, folder, watch=WATCH, **settings):
    result = extract(tmp_path / "bank", folder, decode=hostile_decode, watch=watch, **settings)
    assert verify(result.bank).ok
    np.testing.assert_allclose(
        result.bank.features(), expected(result.bank.paths), rtol=1e-5, atol=1e-5
    )
    return result


def test_whatever_a_file_does_to_its_worker_the_others_are_computed(tmp_path, folder, worker_mode):
    reasons = {
        "exit": "exit status 3",
        "sigkill": "SIGKILL",
        "segfault": "SIGSEGV",
        "eat": "100 MiB of memory",
        "memory": "more memory than there is",
    }
    for number, word in enumerate(reasons):
        (folder / "abc"[number % 3] / f"{word}.png").write_bytes(word.encode())
    result = run(tmp_path, folder, **worker_mode)
    assert (result.computed, result.reused, result.failed) == (12, 0, 5)
    found = {os.path.basename(path).removesuffix(".png"): why for path, why in result.errors}
    for word, reason in reasons.items():
        assert reason in found[word]


def test_a_file_that_hangs_is_given_up(tmp_path, folder, worker_mode):
    (folder / "a" / "hang.png").write_bytes(b"hang")
    result = run(tmp_path, folder, watch=HASTY, **worker_mode)
    assert (result.computed, result.reused, result.failed) == (12, 0, 1)
    assert "longer than 8 seconds" in result.errors[0][1]


def test_a_file_that_kills_takes_its_copies_with_it_and_nothing_else(tmp_path, folder, worker_mode):
    for label in "abc":
        for number in range(3):
            (folder / label / f"{number}bad.png").write_bytes(b"exit")
        shutil.copy(folder / "a" / "000.png", folder / label / "good.png")
    result = run(tmp_path, folder, **worker_mode)
    assert (result.computed, result.reused, result.failed) == (12, 3, 9)


def test_an_image_whose_worker_died_by_another_cause_is_tried_again(tmp_path, folder, worker_mode):
    """The system, out of memory, kills a worker, and the image it is busy with is innocent."""
    victim = folder / "a" / "victim.png"
    victim.write_bytes(b"once %b\n%b" % (os.fsencode(tmp_path / "mark"), image_bytes()))
    result = extract(tmp_path / "bank", folder, decode=hostile_decode, watch=WATCH, **worker_mode)
    assert (tmp_path / "mark").exists()
    assert (result.computed, result.failed) == (13, 0)


def test_a_known_killer_is_not_let_at_a_worker_again(tmp_path, folder, worker_mode, settled):
    (folder / "a" / "bad.png").write_bytes(b"exit")
    assert run(tmp_path, folder, **worker_mode).failed == 1
    result = extract(tmp_path / "bank", folder, decode=hostile_decode, workers=0)  # would end us
    assert (result.computed, result.reused, result.failed) == (0, 12, 1)


def test_many_killers_in_a_row_do_not_end_the_run(tmp_path, worker_mode):
    make_images(tmp_path / "images", n=6)
    for number in range(4):
        (tmp_path / "images" / "a" / f"bad{number}.png").write_bytes(b"exit%d" % number)
    result = run(tmp_path, tmp_path / "images", **worker_mode | {"workers": 1})
    assert (result.computed, result.failed) == (6, 4)


def test_a_worker_that_can_not_start_says_so(tmp_path, folder, worker_mode, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    with pytest.raises(ExtractionError, match="could not be started"):
        extract(tmp_path / "bank", folder, **worker_mode)


def test_a_module_in_the_current_folder_is_not_taken_for_pythons_own(
    tmp_path, folder, worker_mode, monkeypatch
):
    (folder / "random.py").write_text("raise SystemExit('run by accident')")
    monkeypatch.chdir(folder)
    assert extract(tmp_path / "bank", folder, **worker_mode).computed == 12


def test_a_worker_that_hangs_when_nobody_watches_any_more_ends_itself(tmp_path):
    """Its parent was killed, and can end it no more."""
    path = tmp_path / "hang.png"
    path.write_bytes(b"hang")
    spec = TaskSpec((Column(),), DecodePolicy(), DecodeLimits(), PREPROCESS, 4, hostile_decode)
    pool = Pool(WorkerSpec(spec, patience=0.5), 1, Watch(seconds=60))
    pool.fill()
    try:
        pool.give(pool.workers[0], Task((0,), (os.fsencode(path),)))
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for worker, event in pool.events():
                if isinstance(event, list):
                    pool.send(worker, [(0,)])
                if isinstance(event, Died):
                    assert (event.item, event.ended) == (0, False)
                    return
        pytest.fail("the worker still hangs")
    finally:
        pool.kill()
