from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from featbank import hdf5
from featbank.bank import bank as bank_module
from featbank.bank import catalogue, verified
from featbank.bank.bank import Bank
from featbank.bank.maintenance import verify
from featbank.bank.prune import prune
from featbank.errors import BankDamaged
from tests.bank.builders import COLUMN, LAYER, OTHER, RECIPE, features, keys, source

WORDS = [f"word {i}" for i in range(2 * catalogue.LEAST)]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Trust times at once, and return where catalogues lie."""
    monkeypatch.setattr(verified, "RACY_NANOSECONDS", 0)
    monkeypatch.setenv("FEATBANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "catalogues"


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the shards that were opened."""
    found: list[str] = []
    read_shard = bank_module.read_shard

    def spy(path):
        found.append(os.path.basename(path))
        return read_shard(path)

    monkeypatch.setattr(bank_module, "read_shard", spy)
    return found


def made(path: Path, *, shards: int = catalogue.LEAST, recipe=RECIPE) -> Bank:
    """Return a bank of `WORDS` in so many shards, whose catalogue is not written yet."""
    bank = Bank.create(path)
    bank.update([source("all", {f"{word}.png": word for word in WORDS})])
    add(bank, WORDS, shards, recipe)
    return bank


def add(bank: Bank, words: list[str], shards: int, recipe=RECIPE) -> None:
    bank.register(recipe, {})
    for part in np.array_split(np.array(words), shards):
        some = part.tolist()
        bank.seal(recipe, keys(some), {c: features(some, c) for c in (COLUMN, LAYER)})


def is_whole(bank: Bank | Path, words: list[str] = WORDS) -> None:
    """Check, with a `Bank` that has read nothing yet, that all features are there."""
    bank = Bank(bank.path if isinstance(bank, Bank) else bank)
    for column in (COLUMN, LAYER):
        rows = bank.rows(RECIPE.fingerprint, column)
        np.testing.assert_array_equal(rows.read(rows.find(keys(words))), features(words, column))


def test_catalogued_shards_are_not_opened(tmp_path, opened):
    bank = made(tmp_path / "bank")
    is_whole(bank)
    assert len(opened) == catalogue.LEAST
    opened.clear()
    is_whole(bank)
    assert opened == []


def test_a_shard_from_the_catalogue_is_the_shard(tmp_path):
    bank = made(tmp_path / "bank")
    pairs = [Bank(bank.path).shards(RECIPE.fingerprint) for _ in range(2)]
    for read, recalled in zip(*pairs, strict=True):
        assert (read.path, read.fingerprint) == (recalled.path, recalled.fingerprint)
        assert list(read.columns.items()) == list(recalled.columns.items())
        np.testing.assert_array_equal(read.keys, recalled.keys)


def test_a_small_bank_has_no_catalogue(tmp_path, place):
    is_whole(made(tmp_path / "bank", shards=catalogue.LEAST - 1))
    assert not place.exists()


def test_shards_that_were_added_are_opened_until_there_are_enough_of_them(tmp_path, opened):
    bank = made(tmp_path / "bank")
    is_whole(bank)
    opened.clear()
    add(bank, ["one more"], 1)
    for _ in range(2):
        is_whole(bank, [*WORDS, "one more"])
    assert len(opened) == 2
    more = [f"more {i}" for i in range(catalogue.LEAST)]
    add(bank, more, catalogue.LEAST)
    is_whole(bank, [*WORDS, *more])
    opened.clear()
    is_whole(bank, [*WORDS, *more, "one more"])
    assert opened == []


def test_a_damaged_shard_is_found_by_the_first_read(tmp_path):
    bank = made(tmp_path / "bank")
    is_whole(bank)
    path = Path(bank.shard_paths(RECIPE.fingerprint)[3])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BankDamaged, match=path.name):
        is_whole(bank)
    assert len(verify(Bank(bank.path)).damaged) == 1


def test_damage_that_left_no_trace_in_the_times_is_found_by_verify(tmp_path, monkeypatch):
    bank = made(tmp_path / "bank")
    is_whole(bank)
    path = Path(bank.shard_paths(RECIPE.fingerprint)[3])
    whole = os.stat(path)
    path.write_bytes(bytes(whole.st_size))
    stat = os.stat
    monkeypatch.setattr(
        os, "stat", lambda p, **words: whole if str(p) == str(path) else stat(p, **words)
    )
    (damage,) = verify(Bank(bank.path)).damaged
    assert path.name in damage


def test_a_shard_that_was_put_in_place_of_another_is_opened(tmp_path, opened):
    """A copy of the same name has other times, though it holds the same bytes."""
    bank = made(tmp_path / "bank")
    is_whole(bank)
    path = bank.shard_paths(RECIPE.fingerprint)[3]
    shutil.copy2(path, tmp_path / "copy")
    os.replace(tmp_path / "copy", path)
    opened.clear()
    is_whole(bank)
    assert opened == [os.path.basename(path)]
    other = bank.shard_paths(RECIPE.fingerprint)[4]
    os.replace(other, path)
    with pytest.raises(BankDamaged, match=os.path.basename(path)):
        is_whole(bank)


def test_a_shard_that_was_removed_has_no_rows_left(tmp_path):
    bank = made(tmp_path / "bank")
    is_whole(bank)
    path = bank.shard_paths(RECIPE.fingerprint)[3]
    gone = Bank(bank.path).shards(RECIPE.fingerprint)[3].keys
    os.unlink(path)
    rows = Bank(bank.path).rows(RECIPE.fingerprint, COLUMN)
    assert len(rows) == len(WORDS) - len(gone)
    assert (rows.find(gone) == -1).all()


def test_what_another_process_pruned_is_gone(tmp_path):
    bank = made(tmp_path / "bank")
    is_whole(bank)
    left = WORDS[:20]
    bank.update([source("all", {f"{word}.png": word for word in left})])
    prune(bank)
    is_whole(bank, left)
    assert len(Bank(bank.path).rows(RECIPE.fingerprint, COLUMN)) == len(left)


def test_a_bank_at_the_place_of_another_is_read_anew(tmp_path, opened):
    bank = made(tmp_path / "bank")
    is_whole(bank)
    os.rename(bank.path, tmp_path / "moved")
    opened.clear()
    is_whole(tmp_path / "moved")
    assert len(opened) == catalogue.LEAST
    shutil.copytree(tmp_path / "moved", bank.path)  # with a verified.json that fits no file
    opened.clear()
    is_whole(bank)
    assert len(opened) == catalogue.LEAST


def damaged(data: bytearray) -> bytes:
    data[len(data) // 2] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        damaged,
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"nonsense",
        lambda data: hdf5.seal(hdf5.build(lambda file: None, user_block=True)),
    ],
    ids=["a bit", "cut off", "empty", "no HDF5", "no catalogue"],
)
def test_a_damaged_catalogue_is_made_anew(tmp_path, place, opened, change):
    bank = made(tmp_path / "bank")
    is_whole(bank)
    (path,) = place.iterdir()
    whole = path.read_bytes()
    path.write_bytes(change(bytearray(whole)))
    opened.clear()
    is_whole(bank)
    assert len(opened) == catalogue.LEAST
    assert path.read_bytes() == whole


@pytest.mark.parametrize("which", ["CATALOGUE_VERSION", "SHARD_VERSION"])
def test_a_catalogue_of_another_version_is_not_used(tmp_path, monkeypatch, opened, which):
    bank = made(tmp_path / "bank")
    monkeypatch.setattr(catalogue, which, 2)
    is_whole(bank)
    monkeypatch.setattr(catalogue, which, 1)
    opened.clear()
    is_whole(bank)
    assert len(opened) == catalogue.LEAST


def test_the_catalogue_of_another_bank_or_recipe_is_not_believed(tmp_path, place, opened):
    bank, foreign = made(tmp_path / "bank"), made(tmp_path / "foreign", recipe=OTHER)
    is_whole(bank)
    (path,) = place.iterdir()
    foreign.shards(OTHER.fingerprint)
    (others,) = {*place.iterdir()} - {path}
    os.replace(others, path)
    opened.clear()
    is_whole(bank)
    assert len(opened) == catalogue.LEAST


@pytest.mark.parametrize("entry", [[1], ["../x.h5", [1, 2, 3, 4], -1, []], None, 7])
def test_a_sealed_catalogue_that_contradicts_itself_is_not_used(tmp_path, place, opened, entry):
    bank = made(tmp_path / "bank")
    is_whole(bank)
    rewrite(place, lambda entries: [entry, *entries])
    opened.clear()
    is_whole(bank)
    assert len(opened) == catalogue.LEAST


def rewrite(place: Path, change) -> None:
    """Seal the one catalogue anew with other entries."""
    (path,) = place.iterdir()
    with hdf5.open_inspected(str(path)) as file:
        attributes = {name: file.attrs[name] for name in file.attrs}
        keys_, entries = file["keys"][:], json.loads(file["shards"][:].tobytes())

    def fill(file):
        for name, value in attributes.items():
            file.attrs[name] = value
        hdf5.put(file, "keys", keys_)
        hdf5.put(file, "shards", np.frombuffer(json.dumps(change(entries)).encode(), np.uint8))

    path.write_bytes(hdf5.seal(hdf5.build(fill, user_block=True)))


def test_features_that_would_lie_outside_their_shard_are_not_believed(tmp_path, place, opened):
    bank = made(tmp_path / "bank")
    is_whole(bank)

    def move(entries):
        entries[0][3][0][1] += 1 << 20
        return entries

    rewrite(place, move)
    opened.clear()
    is_whole(bank)
    assert len(opened) == catalogue.LEAST


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch, opened):
    bank = made(tmp_path / "bank")
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEATBANK_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        is_whole(bank)
    assert len(opened) == 2 * catalogue.LEAST


def test_catalogues_of_banks_that_are_gone_are_removed(tmp_path, place):
    is_whole(made(tmp_path / "gone"))
    (stale,) = place.iterdir()
    (place / "nonsense.h5").write_bytes(b"nonsense")
    shutil.rmtree(tmp_path / "gone")
    is_whole(made(tmp_path / "bank"))
    (path,) = place.iterdir()
    assert path != stale


def test_a_shard_that_changed_within_the_clocks_tick_is_not_catalogued(
    tmp_path, monkeypatch, place
):
    bank = made(tmp_path / "bank")
    monkeypatch.setattr(verified, "RACY_NANOSECONDS", 10**12)
    is_whole(bank)
    assert not place.exists()
