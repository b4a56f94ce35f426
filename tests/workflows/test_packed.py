"""Extraction into one packed file."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank import Bank, compact, extract, from_module, verify
from featbank.backbones.module import ModuleBackbone
from featbank.bank import packed
from featbank.bank.layered import LayeredBank, extending
from featbank.errors import BankDamaged, BankNotFound, DataError, ExtractionError
from featbank.workflows.extract import ExtractionResult, open_model, parse_columns
from featbank.workflows.info import info
from featbank.workflows.status import status
from featbank.workflows.survey import open_sources
from tests.faults import faulty
from tests.tiny import PREPROCESS, TinyNet, make_images


@pytest.fixture
def backbone() -> ModuleBackbone:
    return from_module(TinyNet(), transform=PREPROCESS, version="1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for path in make_images(tmp_path / "data", 12):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return tmp_path / "data"


def into(bank: Path, data: Path, backbone: ModuleBackbone, **options: object) -> Bank:
    return extract(data, backbone, bank, workers=0, shard_rows=3, **options)


def shards(bank: Path) -> Path:
    return Path(f"{bank}.shards")


def calls(backbone: ModuleBackbone) -> int:
    return backbone.network.calls


def equal(one: Bank, two: Bank) -> bool:
    return (
        one.paths == two.paths
        and np.array_equal(one.labels, two.labels)
        and np.array_equal(one.features(), two.features())
        and one.sources == two.sources
    )


class Stop(Exception):
    """Ends a run in the middle."""


def stopped(bank: Path, data: Path, backbone: ModuleBackbone, monkeypatch: pytest.MonkeyPatch):
    """Extract until two shards are sealed."""
    sealed = 0
    seal = Bank.seal

    def seal_two(self: Bank, *args: object) -> str:
        nonlocal sealed
        if sealed == 2:
            raise Stop
        sealed += 1
        return seal(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Bank, "seal", seal_two)
        with pytest.raises(Stop):
            into(bank, data, backbone, batch_size=1)


def test_the_file_holds_what_a_folder_would(tmp_path, data, backbone):
    bank = into(tmp_path / "codes.h5", data, backbone)

    assert bank.path == str(tmp_path / "codes.h5")
    assert equal(bank, into(tmp_path / "bank", data, backbone))
    assert sorted(os.listdir(tmp_path)) == ["bank", "codes.h5", "data"]
    assert verify(bank).ok


def test_what_the_file_has_is_not_computed_again(tmp_path, data, backbone):
    path = tmp_path / "codes.h5"
    into(path, data, backbone)
    Image.new("RGB", (40, 40), (9, 9, 9)).save(data / "a" / "new.png")
    before = calls(backbone)

    bank = into(path, data, backbone)

    assert calls(backbone) == before + 1
    assert len(bank.paths) == 13
    into(path, data, backbone, layers=["stage1:max"])
    columns = Bank(path).columns(bank.recipes[0].fingerprint)
    assert [(column.layer, rows) for column, rows in columns.items()] == [
        ("penultimate", 13),
        ("stage1", 13),
    ]


def test_a_run_with_nothing_to_do_writes_nothing(tmp_path, data, backbone):
    path = tmp_path / "codes.h5"
    into(path, data, backbone)
    old = {**dict.fromkeys(os.listdir(tmp_path)), "codes.h5": os.stat(path).st_mtime_ns}
    _trust_times(path)
    state = os.stat(path)

    with faulty() as fs:
        into(path, data, backbone)

    assert fs.calls == []
    assert os.stat(path) == state
    assert sorted(os.listdir(tmp_path)) == sorted(old)


def _trust_times(path: Path) -> None:
    """Let the bank believe that its files were looked at long after they had changed."""
    with extending(path) as bank:
        parts = list(bank.index.sources.values())
        for part in parts:
            part.listing.scanned[:] += 10**10
        bank.update(parts)


def test_a_source_that_is_missing_leaves_nothing_behind(tmp_path, backbone):
    with pytest.raises(DataError):
        into(tmp_path / "codes.h5", tmp_path / "nowhere", backbone)
    assert os.listdir(tmp_path) == []


def test_a_run_that_ended_early_is_gone_on_with(tmp_path, data, backbone, monkeypatch):
    path = tmp_path / "codes.h5"
    stopped(path, data, backbone, monkeypatch)

    assert not path.exists()
    with pytest.raises(BankNotFound, match=r"has not ended.*run the same command again"):
        Bank(path)
    assert Bank(shards(path)).columns(Bank(shards(path)).recipes[0].fingerprint).popitem()[1] == 6
    found = status(path, open_sources(data), open_model(backbone), parse_columns(None))
    assert (found.to_compute, found.reused) == (6, 6)
    before = calls(backbone)

    bank = into(path, data, backbone, batch_size=1)

    assert calls(backbone) == before + 6
    assert len(bank.features()) == 12
    assert not shards(path).exists()


def test_the_old_file_stands_until_the_run_has_ended(tmp_path, data, backbone, monkeypatch):
    path = tmp_path / "codes.h5"
    into(path, data / "a", backbone)
    content = path.read_bytes()
    stopped(path, data, backbone, monkeypatch)

    assert path.read_bytes() == content
    assert len(Bank(path).paths) == 4
    assert info(path).unfinished == str(shards(path))
    assert verify(Bank(path)).rows == 4 + 6
    part = next(shards(path).glob("*/??/*.h5"))
    part.write_bytes(part.read_bytes()[:-1])
    assert not verify(Bank(path)).ok
    with pytest.raises(Exception, match="has not ended"):
        compact(Bank(shards(path)), path)


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_folder_that_adds_nothing_goes_without_packing(
    tmp_path, data, backbone, monkeypatch, where
):
    """As after a kill between the new file's coming and the folder's going."""
    path = tmp_path / "codes.h5"
    into(path, data, backbone)
    _trust_times(path)
    with monkeypatch.context() as patch, contextlib.suppress(Stop):
        patch.setattr(LayeredBank, "finish", _raise)
        with extending(path) as bank:
            if where == "after":
                known = bank.recipes[0]
                bank.register(known.recipe, {})
                shard = Bank(path).shards(known.fingerprint)[0]
                columns = {c: np.array(shard.features(c)) for c in shard.columns}
                bank.seal(known.recipe, shard.keys, columns)
                bank.update(bank.index.sources.values(), documents=bank.sources.values())
    assert shards(path).exists()
    monkeypatch.setattr(packed, "pack", _raise)

    into(path, data, backbone)

    assert not shards(path).exists()


def _raise(*words: object) -> None:
    raise Stop


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_of_the_disk_leaves_the_old_file_or_the_new_one(tmp_path, data, backbone, number):
    path = tmp_path / "codes.h5"
    into(path, data / "a", backbone)
    old = path.read_bytes()
    into(tmp_path / "whole", data / "a", backbone)
    whole = into(tmp_path / "whole", data, backbone)
    said: list[str] = []
    for step in range(0, 10_000, 41):
        path.write_bytes(old)
        with faulty(step, number=number, lasting=True) as fs:
            try:
                into(path, data, backbone)
            except ExtractionError as error:
                said.append(str(error))
        if fs.failed is None:
            break
        assert path.read_bytes() == old or equal(Bank(path), whole)
        assert verify(Bank(path)).ok
        assert equal(into(path, data, backbone), whole)
        assert not shards(path).exists()
    assert len(said) > 3
    assert all("run again" in message for message in said)


def test_ctrl_c_says_where_the_shards_lie(tmp_path, data, backbone, monkeypatch):
    path = tmp_path / "codes.h5"
    pack = packed.pack

    def interrupt(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packed, "pack", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        into(path, data, backbone)

    (result,) = caught.value.args
    assert isinstance(result, ExtractionResult)
    assert (result.computed, result.remaining) == (12, 0)
    assert result.bank.path == str(shards(path))
    monkeypatch.setattr(packed, "pack", pack)
    before = calls(backbone)
    assert len(into(path, data, backbone).features()) == 12
    assert calls(backbone) == before


def test_two_runs_at_once_wait_for_one_another(tmp_path, data, backbone):
    path = tmp_path / "codes.h5"
    errors: list[BaseException] = []

    def run(part: str, net: ModuleBackbone) -> None:
        try:
            into(path, data / part, net)
        except BaseException as error:
            errors.append(error)

    nets = [from_module(TinyNet(), transform=PREPROCESS, version="1") for _ in range(4)]
    threads = [threading.Thread(target=run, args=words) for words in zip("abca", nets, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert not errors
    assert sorted(Bank(path).index.sources) == ["a", "b", "c"]
    assert len(Bank(path).features()) == 12
    assert not shards(path).exists()


def test_a_file_that_is_replaced_while_it_is_read_gives_its_own_rows(tmp_path, data, backbone):
    path = tmp_path / "codes.h5"
    reading = into(path, data / "a", backbone)
    known = reading.recipes[0]
    (column,) = reading.columns(known.fingerprint)
    rows = reading.rows(known.fingerprint, column)
    before = rows.read(np.arange(len(rows))).copy()

    into(path, data, backbone)

    assert np.array_equal(rows.read(np.arange(len(rows))), before)
    assert len(reading.features()) == 4 + 12  # the folder a, and the folder data with it


def test_a_damaged_file_is_not_extended(tmp_path, data, backbone):
    path = tmp_path / "codes.h5"
    into(path, data / "a", backbone)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)

    with pytest.raises(BankDamaged):
        into(path, data, backbone)

    assert path.read_bytes() == damaged
    assert not shards(path).exists()
