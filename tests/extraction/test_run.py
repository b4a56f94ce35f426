from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from featbank.backbones import from_module
from featbank.bank.bank import Bank
from featbank.bank.maintenance import verify
from featbank.data.decode import DecodeLimits
from featbank.errors import ExtractionError, ImageError
from featbank.extraction import run as running
from featbank.workflows.extract import open_model
from tests.conftest import PATIENCE
from tests.extraction import fakes
from tests.extraction.fakes import EARLY, HALF, PENULTIMATE, RECIPE, expected, extract, model
from tests.faults import faulty
from tests.tiny import PREPROCESS, TinyNet, make_images

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}  # a matrix product sums in another order in other batches


def counts(result):
    assert result.images == result.computed + result.reused + result.failed
    return result.computed, result.reused, result.failed


# What is computed


def test_features_equal_a_direct_computation(tmp_path, folder, mode):
    result = extract(tmp_path / "bank", folder, columns=[PENULTIMATE, HALF], **mode)
    assert counts(result) == (12, 0, 0)
    bank = result.bank
    X = bank.features(layer=PENULTIMATE.name)
    np.testing.assert_allclose(X, expected(bank.paths), **TOLERANCE)
    half = bank.features(layer=HALF.name)
    np.testing.assert_allclose(half, expected(bank.paths, HALF), rtol=2e-3)
    assert list(bank.labels) == [os.path.basename(os.path.dirname(p)) for p in bank.paths]
    assert verify(bank).ok


def test_what_loading_takes_is_startup_and_shares_of_the_rest_sum_to_1(tmp_path, folder, mode):
    result = extract(tmp_path / "bank", folder, model=model("slow to load"), **mode)
    assert 0.5 <= result.startup < result.seconds
    rate = result.computed / (result.seconds - result.startup)
    assert result.images_per_second == pytest.approx(rate)
    alone = [result.busy.pop(name) for name in list(result.busy) if name.startswith("network ")]
    network = result.busy.pop("network") if alone else 0.0
    assert network + sum(alone) == pytest.approx(1 if alone else 0)
    assert sum(result.busy.values()) == pytest.approx(1)
    assert "disk" in result.busy


def test_a_network_of_torch_gives_the_same_in_any_mode_batch_and_order(tmp_path, folder, mode):
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1")
    mode["batch_size"] = 5
    mode["workers"] = min(mode["workers"], 1)
    result = extract(tmp_path / "bank", folder, model=open_model(backbone), **mode)
    assert counts(result) == (12, 0, 0)
    X = result.bank.features()
    for path, row in list(zip(result.bank.paths, X, strict=True))[::-1]:
        with Image.open(path) as image:
            alone = backbone.run(backbone.prepare(image.convert("RGB"))[None], [PENULTIMATE])
        np.testing.assert_allclose(row, alone[PENULTIMATE][0], **TOLERANCE)
    assert torch.is_tensor(next(backbone.network.parameters()))


def test_features_do_not_depend_on_the_size_of_batches_and_shards(tmp_path, folder):
    first = extract(tmp_path / "first", folder, workers=0).bank.features()
    for batch_size, shard_rows in ((1, 1), (3, 5), (100, 7)):
        bank = tmp_path / f"bank {batch_size}"
        settings = {"workers": 0, "batch_size": batch_size, "shard_rows": shard_rows}
        X = extract(bank, folder, **settings).bank.features()
        np.testing.assert_allclose(X, first, **TOLERANCE)


def test_images_of_the_same_bytes_are_computed_once(tmp_path, folder, mode):
    for i in range(5):
        shutil.copy(folder / "a" / "000.png", folder / "b" / f"copy{i}.png")
    result = extract(tmp_path / "bank", folder, **mode)
    assert counts(result) == (12, 5, 0)
    np.testing.assert_allclose(result.bank.features(), expected(result.bank.paths), **TOLERANCE)
    assert verify(result.bank).rows == 12


def test_a_transform_of_the_callers_own_prepares_the_images(tmp_path, folder, mode):
    own = dataclasses.replace(model(), preprocess=None)
    result = extract(tmp_path / "bank", folder, model=own, **mode)
    np.testing.assert_allclose(result.bank.features(), expected(result.bank.paths), **TOLERANCE)


# What is computed again


def never(*args, **options):
    raise AssertionError("nothing is to be read")


def test_a_second_run_reads_no_image_and_loads_no_network(tmp_path, folder, settled, monkeypatch):
    extract(tmp_path / "bank", folder, workers=0)
    before = (tmp_path / "bank" / "index.h5").stat()
    monkeypatch.setattr("featbank.workflows.extract.run", never)
    assert counts(extract(tmp_path / "bank", folder)) == (0, 12, 0)
    assert (tmp_path / "bank" / "index.h5").stat() == before  # nor is anything written


def test_files_too_young_to_be_trusted_are_hashed_again_and_not_computed(tmp_path, folder):
    extract(tmp_path / "bank", folder, workers=0)
    for _ in range(2):
        again = extract(tmp_path / "bank", folder, model=model("no network"), workers=0)
        assert counts(again) == (0, 12, 0)
        assert len(again.bank.features()) == 12


def test_one_changed_image_is_one_row(tmp_path, folder, mode, settled):
    extract(tmp_path / "bank", folder, **mode)
    Image.new("RGB", (40, 40), (9, 9, 9)).save(folder / "a" / "000.png")
    result = extract(tmp_path / "bank", folder, **mode)
    assert counts(result) == (1, 11, 0)
    np.testing.assert_allclose(result.bank.features(), expected(result.bank.paths), **TOLERANCE)


def test_a_change_within_the_clocks_tick_is_seen(tmp_path, folder):
    path = folder / "a" / "000.png"
    result = extract(tmp_path / "bank", folder, workers=0)
    info = path.stat()
    data = bytearray(path.read_bytes())
    other = folder / "b" / "001.png"
    data[:] = other.read_bytes()[: len(data)].ljust(len(data), b"\0")
    with path.open("r+b") as file:  # the same size, inode and mtime
        file.write(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    before = result.bank.index.sources["images"].digest[0].tobytes()
    extract(tmp_path / "bank", folder, workers=0)
    source = result.bank.index.sources["images"]
    assert source.failed[0] or source.digest[0].tobytes() != before


def test_a_rename_computes_nothing(tmp_path, folder, settled):
    extract(tmp_path / "bank", folder, workers=0)
    (folder / "a" / "000.png").rename(folder / "c" / "new.png")
    result = extract(tmp_path / "bank", folder, model=model("no network"), workers=0)
    assert counts(result) == (0, 12, 0)
    np.testing.assert_allclose(result.bank.features(), expected(result.bank.paths), **TOLERANCE)
    assert (result.bank.labels == "c").sum() == 5


def test_one_more_layer_computes_that_layer_alone(tmp_path, folder, mode, settled):
    extract(tmp_path / "bank", folder, columns=[PENULTIMATE], **mode)
    first = Bank(tmp_path / "bank").shard_paths(RECIPE.fingerprint)
    Image.new("RGB", (40, 40), (9, 9, 9)).save(folder / "a" / "new.png")
    result = extract(tmp_path / "bank", folder, columns=[PENULTIMATE, EARLY], **mode)
    assert counts(result) == (13, 0, 0)
    bank = result.bank
    fresh = [s for s in bank.shards(RECIPE.fingerprint) if s.path not in first]
    rows = {c: sum(len(s.keys) for s in fresh if c in s.columns) for c in (PENULTIMATE, EARLY)}
    assert rows == {PENULTIMATE: 1, EARLY: 13}
    for column in (PENULTIMATE, EARLY):
        X = bank.features(layer=column.name)
        np.testing.assert_allclose(X, expected(bank.paths, column), **TOLERANCE)


def test_two_recipes_and_two_folders_share_a_bank(tmp_path, folder, settled):
    make_images(tmp_path / "more", n=4, seed=1)
    other = model(recipe=dataclasses.replace(RECIPE, backbone="other"))
    bank = tmp_path / "bank"
    assert counts(extract(bank, folder, tmp_path / "more", workers=0)) == (16, 0, 0)
    assert counts(extract(bank, tmp_path / "more", model=other, workers=0)) == (4, 0, 0)
    assert Bank(bank).features("fake").shape == (16, 5)
    assert Bank(bank).features("other", source="more").shape == (4, 5)


# What can't be read


def test_a_corrupt_file_is_a_line_in_the_ledger_until_it_changes(tmp_path, folder, mode, settled):
    broken = folder / "b" / "bad.png"
    broken.write_bytes((folder / "a" / "000.png").read_bytes()[:200])
    bank = tmp_path / "bank"
    for _ in range(2):
        result = extract(bank, folder, **mode)
        assert result.failed == 1
        assert result.errors[0][0] == str(broken)
        assert "damaged or cut short" in result.errors[0][1]
        assert len(result.bank.features()) == len(result.bank.labels) == 12
    source = result.bank.index.sources["images"]
    assert source.failure[source.listing.names.index(b"b/bad.png")] == result.errors[0][1]
    Image.new("RGB", (40, 40)).save(broken)
    assert counts(extract(bank, folder, **mode)) == (1, 12, 0)
    assert len(result.bank.features()) == 13


def test_a_known_failure_is_tried_again_on_request_and_under_another_policy(
    tmp_path, folder, settled, monkeypatch
):
    (folder / "b" / "bad.png").write_bytes(b"no image")
    bank = tmp_path / "bank"
    extract(bank, folder, workers=0)
    decoder = dataclasses.replace(RECIPE.preprocess, decoder={"version": 2})
    other = model(recipe=dataclasses.replace(RECIPE, preprocess=decoder))
    tried = []

    def counting(data, policy, **options):
        tried.append(data)
        return fakes.decode(data, policy, **options)

    for again, times in (({}, 0), ({"retry_failed": True}, 1)):
        extract(bank, folder, workers=0, decode=counting, **again)
        assert tried.count(b"no image") == times
    assert counts(extract(bank, folder, model=other, workers=0, decode=counting)) == (12, 0, 1)
    assert tried.count(b"no image") == 2


def test_the_first_unreadable_image_ends_the_run_on_request(tmp_path, folder, mode):
    (folder / "c" / "bad.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.png: not a JPEG"):
        extract(tmp_path / "bank", folder, raise_on_error=True, **mode)
    assert verify(Bank(tmp_path / "bank")).ok
    assert Bank(tmp_path / "bank").index.sources["images"].failed.sum() == 1


@pytest.mark.parametrize("name", [b"\xff\xfe.png", b"a\nb.png", b"x" * 251 + b".png"])
def test_odd_names_are_images_like_others(tmp_path, folder, name, worker_mode):
    path = os.path.join(os.fsencode(folder), b"a", name)
    shutil.copy(folder / "b" / "001.png", path)
    os.unlink(folder / "b" / "001.png")
    result = extract(tmp_path / "bank", folder, **worker_mode)
    assert counts(result) == (12, 0, 0)
    assert os.fsdecode(path) in result.bank.paths


def test_a_file_that_vanishes_or_is_too_large_is_a_line_in_the_ledger(tmp_path, folder, mode):
    listed = sorted(folder.rglob("*.*"))
    gone = folder / "a" / "gone.png"
    os.symlink(tmp_path / "nowhere", gone)
    limits = DecodeLimits(max_bytes=listed[-1].stat().st_size - 1)
    large = [p for p in listed if p.stat().st_size > limits.max_bytes]
    result = extract(tmp_path / "bank", folder, limits=limits, **mode)
    assert result.failed in (len(large), len(large) + 1)  # a link to nothing may be skipped
    assert len(result.bank.features()) == 12 - len(large)
    assert any("over the limit" in reason for _, reason in result.errors)


def test_a_file_that_changes_while_it_is_read_is_told_from_a_whole_one(
    tmp_path, folder, monkeypatch
):
    victim = folder / "a" / "000.png"
    reading = fakes.Path.read_bytes

    def replaced(path, limits):
        data = reading(fakes.Path(os.fsdecode(path)))
        if path == os.fsencode(victim):
            shutil.copy(folder / "b" / "001.png", victim)
        return data

    monkeypatch.setattr("featbank.data.digests.read_bytes", replaced)
    result = extract(tmp_path / "bank", folder, workers=0)
    assert counts(result) == (11, 0, 1)
    assert "changed while it was read" in result.errors[0][1]
    monkeypatch.undo()
    assert counts(extract(tmp_path / "bank", folder, workers=0))[2] == 0


def test_features_that_are_no_numbers_are_a_failure_of_this_network_only(
    tmp_path, folder, mode, settled
):
    Image.new("RGB", (40, 40), (255, 255, 255)).save(folder / "a" / "white.png")
    shutil.copy(folder / "a" / "white.png", folder / "b" / "white.png")
    result = extract(tmp_path / "bank", folder, model=model("nan"), **mode)
    assert counts(result) == (12, 0, 2)
    assert all("NaN" in reason for _, reason in result.errors)
    assert np.isfinite(result.bank.features()).all()
    again = extract(tmp_path / "bank", folder, model=model("nan"), **mode)
    assert counts(again) == (0, 12, 2)
    other = dataclasses.replace(RECIPE, backbone="other")
    assert counts(extract(tmp_path / "bank", folder, model=model(recipe=other), **mode)) == (
        13, 1, 0,
    )  # fmt: skip


# What goes wrong with the run


@pytest.mark.parametrize("fault", ["no network", "odd error"])
def test_a_network_that_can_not_be_had_ends_the_run_with_its_own_error(
    tmp_path, folder, mode, fault
):
    words = "the weights have gone" if fault == "no network" else "words"
    with pytest.raises((LookupError, ExtractionError, fakes.OddError), match=words):
        extract(tmp_path / "bank", folder, model=model(fault), **mode)


def test_workers_that_die_with_no_image_to_blame_end_the_run(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(running, "FEW", 0)
    with pytest.raises(ExtractionError, match="3 worker processes in a row"):
        extract(tmp_path / "bank", folder, model=model("dies"), workers=2, batch_size=2)
    assert not Bank(tmp_path / "bank").index.sources["images"].failed.any()


def test_a_network_that_can_not_travel_runs_here(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(running, "FEW", 0)

    class Local(fakes.FakeLoader):
        pass

    for loader in (Local(), fakes.FakeLoader(log=str(tmp_path / "__main__"))):
        own = dataclasses.replace(model(), loader=loader)
        result = extract(tmp_path / f"bank{id(own)}", folder, model=own, workers=1)
        assert counts(result) == (12, 0, 0)
    assert (tmp_path / "__main__").read_text() == "loaded\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_keeps_what_was_sealed_and_the_next_run_goes_on(tmp_path, folder, number):
    settings = {"workers": 0, "batch_size": 3, "shard_rows": 3}
    steps = 0
    for step in range(0, 200, 5):
        bank = tmp_path / f"bank{step}"
        with (
            contextlib.suppress(ExtractionError),  # nothing else may come out
            faulty(step, number=number, lasting=True) as fs,
        ):
            extract(bank, folder, **settings)
        if fs.failed is None:
            break
        steps += 1
        kept = verify(Bank(bank)) if (bank / "bank.json").exists() else None
        assert kept is None or kept.ok
        result = extract(bank, folder, **settings)
        assert result.computed == 12 - (kept.rows if kept else 0)
        assert len(result.bank.features()) == 12
    assert steps > 5


def test_a_real_disk_that_fills_up_ends_the_run_plainly(tmp_path, folder, worker_mode):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting needs rights that this user lacks")
    try:
        settings = worker_mode | {"workers": 1, "batch_size": 2, "shard_rows": 2}
        with pytest.raises(ExtractionError, match="No space left"):
            extract(disk / "bank", folder, **settings)
        bank = Bank(disk / "bank")
        kept = verify(bank)
        assert kept.ok
        remount = ["mount", "-o", "remount,size=10m", str(disk)]
        subprocess.run(remount, check=True)
        assert extract(disk / "bank", folder, **settings).computed == 12 - kept.rows
        assert len(bank.features()) == 12
    finally:
        subprocess.run(["umount", str(disk)], check=True)


class Interrupt:
    """Presses Ctrl-C once `after` images are settled."""

    def __init__(self, after):
        self.after = after

    def __call__(self, settled, n):
        if self.after is not None and settled >= self.after:
            self.after = None
            raise KeyboardInterrupt


def test_an_interrupt_seals_what_was_computed(tmp_path, mode):
    make_images(tmp_path / "images", n=40)
    settings = mode | {"batch_size": 4, "shard_rows": 4, "workers": min(mode["workers"], 1)}
    with pytest.raises(KeyboardInterrupt) as caught:
        extract(tmp_path / "bank", tmp_path / "images", progress=Interrupt(8), **settings)
    result = caught.value.args[0]
    assert result.computed >= 8
    assert result.remaining == 40 - result.computed
    found = verify(result.bank)
    assert found.ok
    assert found.rows >= result.computed
    again = extract(tmp_path / "bank", tmp_path / "images", **settings)
    assert again.computed == 40 - found.rows
    np.testing.assert_allclose(again.bank.features(), expected(again.bank.paths), **TOLERANCE)


RUN = """
import sys
from pathlib import Path
from featbank.extraction import run
from tests.extraction.fakes import extract, model
run.FEW = 0 if sys.argv[1] == "embed" else 10**9
print("started", flush=True)
extract(Path(sys.argv[2]), *map(Path, sys.argv[3:]), model=model("slow"), workers=2,
        batch_size=2, shard_rows=2)
"""


def start(mode, bank, *folders):
    command = [sys.executable, "-c", RUN, mode, *map(str, (bank, *folders))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="looks into /proc")
@pytest.mark.parametrize("how", ["decode", "embed"])
def test_a_killed_run_loses_only_what_was_not_sealed(tmp_path, how):
    make_images(tmp_path / "images", n=60)
    bank = tmp_path / "bank"
    process = start(how, bank, tmp_path / "images")
    try:
        end = time.monotonic() + PATIENCE
        while len(list(bank.glob("fake-*/??/*.h5"))) < 4 and time.monotonic() < end:
            time.sleep(0.02)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finally:
        process.kill()
    assert workers
    while any(os.path.exists(f"/proc/{pid}") for pid in workers) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    kept = verify(Bank(bank))
    assert kept.ok
    assert 8 <= kept.rows < 60
    result = extract(bank, tmp_path / "images", workers=0)
    assert result.computed == 60 - kept.rows
    np.testing.assert_allclose(result.bank.features(), expected(result.bank.paths), **TOLERANCE)


def test_two_processes_fill_one_bank_at_once(tmp_path):
    for name, seed in (("one", 1), ("two", 2), ("both", 3)):
        make_images(tmp_path / name, n=8, seed=seed)
    bank = tmp_path / "bank"
    both = [start("decode", bank, tmp_path / name, tmp_path / "both") for name in ("one", "two")]
    for process in both:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors.decode()
    assert verify(Bank(bank)).ok
    assert len(Bank(bank).index) == 24
    X = Bank(bank).features()
    np.testing.assert_allclose(X, expected(Bank(bank).paths), **TOLERANCE)
