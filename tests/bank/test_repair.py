"""Repair, on banks whose images are any files: it hashes them and never looks into them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featbank import durable
from featbank.bank.bank import Bank
from featbank.bank.maintenance import compact, verify
from featbank.bank.repair import repair
from featbank.bank.shard import read_recipe
from featbank.data.digests import learned
from featbank.data.index import IndexedSource
from featbank.data.sources import open_source, scan
from featbank.errors import BankDamaged, BankError, BankNotFound, BankVersionError
from tests.bank.builders import COLUMN, OTHER, RECIPE
from tests.faults import error_of, faulty

PROVENANCE = {"request": {"model": "net"}}
DOCUMENTS = ("bank.json", "sources.json", "index.h5", f"{RECIPE.slug}/recipe.json")


def read(source) -> IndexedSource:
    return learned(IndexedSource.new(source.name, os.fsencode(source.root), scan(source)))


def rows_of(bank: Bank, recipe=RECIPE, column=COLUMN) -> dict[bytes, bytes]:
    rows = bank.rows(recipe.fingerprint, column)
    values = rows.read(np.arange(len(rows)))
    return {key: row.tobytes() for key, row in zip(rows.keys.tolist(), values, strict=True)}


@pytest.fixture
def data(tmp_path) -> Path:
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/4.png", "b/5.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 50)
        os.utime(path, (1e9, 1e9))
    return tmp_path / "data"


@pytest.fixture
def bank(tmp_path, data) -> Bank:
    """Two rows a shard, three shards, one recipe with one column; one file is in the ledger."""
    return made(tmp_path / "bank", data)


def made(path: Path, data: Path, recipes=(RECIPE,)) -> Bank:
    bank = Bank.create(path)
    source = open_source(str(data))
    part = read(source)
    bank.update([part], documents=[source.to_dict()])
    for recipe in recipes:
        bank.register(recipe, PROVENANCE)
        for rows in np.array_split(np.arange(len(part)), 3):
            keys = part.digest[rows]
            values = (keys[:, :6] / 255).astype(np.float32)
            bank.seal(recipe, keys, {COLUMN: values})
    return bank


def damage(path: str | Path, at: int | None = None) -> None:
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2 if at is None else at] ^= 4
    Path(path).write_bytes(data)


def shards(bank: Bank, recipe=RECIPE) -> list[str]:
    return bank.shard_paths(recipe.fingerprint)


def lies(bank: Bank) -> list[str]:
    folder = os.path.join(bank.path, "quarantine")
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def test_a_whole_bank_stays_as_it_is(bank):
    before = {p: p.read_bytes() for p in Path(bank.path).rglob("*") if p.is_file()}
    done = repair(bank)
    assert (done.quarantined, done.index, done.images) == ((), "whole", 5)
    assert (done.to_compute, done.recipes, done.notes) == ((), {}, ())
    after = {p: p.read_bytes() for p in Path(bank.path).rglob("*") if p.is_file()}
    for path in (Path(bank.path, name) for name in (".use", "verified.json")):
        before.pop(path, None), after.pop(path, None)
    assert after == before


def test_a_damaged_shard_is_set_aside_and_its_images_are_named(bank, data):
    path = shards(bank)[0]
    lost = {key.tobytes() for key in bank.shards(RECIPE.fingerprint)[0].keys}
    kept = {k: v for k, v in rows_of(bank).items() if k not in lost}
    damage(path)
    damaged = Path(path).read_bytes()
    done = repair(bank)
    assert done.index == "whole"
    part = bank.index.sources["data"]
    names = {os.fsdecode(part.path(i)) for i in range(5) if part.digest[i].tobytes() in lost}
    assert set(done.to_compute) == names
    assert done.recipes == {RECIPE.slug: len(names)}
    (aside,) = done.quarantined
    assert Path(aside).read_bytes() == damaged
    assert os.path.basename(path) in aside
    assert verify(bank.path).ok
    assert rows_of(Bank(bank.path)) == kept


def test_the_same_damage_again_takes_another_name(bank):
    path = shards(bank)[0]
    whole = Path(path).read_bytes()
    for count in (1, 2, 3):
        Path(path).write_bytes(whole)
        damage(path)
        repair(bank)
        assert len(lies(bank)) == count


def test_only_the_recipe_that_lost_rows_is_to_compute(tmp_path, data):
    bank = made(tmp_path / "bank", data, (RECIPE, OTHER))
    damage(shards(bank, OTHER)[0])
    done = repair(bank)
    assert list(done.recipes) == [OTHER.slug]
    assert len(done.to_compute) == done.recipes[OTHER.slug] == 2


def test_images_without_features_under_any_recipe_are_to_compute(bank):
    for path in shards(bank):
        os.unlink(path)
    assert len(repair(bank).to_compute) == 5


@pytest.mark.parametrize("how", ["lost", "damaged", "empty"])
def test_an_index_is_rebuilt_from_the_files_without_torch(bank, data, how):
    part = bank.index.sources["data"]
    path = os.path.join(bank.path, "index.h5")
    os.unlink(path) if how == "lost" else damage(path) if how == "damaged" else os.truncate(path, 0)
    code = (
        "import json, sys\n"
        "from featbank.bank.repair import repair\n"
        f"done = repair({bank.path!r})\n"
        "print(json.dumps([done.index, done.images, done.to_compute, 'torch' in sys.modules]))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) == ["rebuilt", 5, [], False]
    again = bank.index.sources["data"]
    assert again.listing.names == part.listing.names
    assert again.listing.label.tolist() == ["a", "a", "b", "b", "b"]
    np.testing.assert_array_equal(again.digest, part.digest)
    np.testing.assert_array_equal(again.listing.stat, part.listing.stat)
    assert bank.features().shape == (5, 6)
    assert verify(bank).ok
    assert lies(bank) == ([] if how == "lost" else ["index.h5"])


def test_files_that_changed_since_are_to_compute(bank, data):
    os.unlink(os.path.join(bank.path, "index.h5"))
    (data / "a" / "1.png").write_bytes(b"another")
    assert repair(bank).to_compute == (str(data / "a" / "1.png"),)


def test_labels_of_a_whole_index_stay_whatever_the_folder_says_now(bank, data):
    os.rename(data / "a", data / "z")
    damage(shards(bank)[0])
    assert repair(bank).index == "whole"
    assert list(bank.labels) == ["a", "a", "b", "b", "b"]


def test_a_source_whose_folder_is_away_is_left_out_until_it_is_back(bank, data):
    damage(os.path.join(bank.path, "index.h5"))
    shutil.move(data, f"{data}-away")
    done = repair(bank)
    assert (done.index, done.images) == ("rebuilt", 0)
    assert "'data' is left out of the index" in done.notes[0]
    assert verify(bank).ok
    shutil.move(f"{data}-away", data)
    done = repair(bank)
    assert (done.index, done.images, done.notes, done.to_compute) == ("rebuilt", 5, (), ())


def test_damaged_descriptions_come_back_from_the_index_and_the_folders(bank):
    sources = bank.sources
    for how in (damage, os.unlink):
        how(os.path.join(bank.path, "sources.json"))
        done = repair(bank)
        assert (done.index, done.notes) == ("whole", ())
        assert bank.sources == sources


def test_a_source_that_can_not_be_described_stays_indexed(bank, data):
    damage(os.path.join(bank.path, "sources.json"))
    shutil.rmtree(data)
    done = repair(bank)
    assert (done.index, done.images) == ("whole", 5)
    assert "what the source 'data' was made from is not known" in done.notes[0]
    assert bank.features().shape == (5, 6)
    assert verify(bank).ok


def test_without_index_and_descriptions_it_says_to_extract(bank):
    damage(os.path.join(bank.path, "sources.json"))
    damage(os.path.join(bank.path, "index.h5"))
    for _ in range(2):
        done = repair(bank)
        assert (done.index, done.images) == ("rebuilt", 0)
        assert "run `featbank extract` on each source" in done.notes[0]
    assert verify(bank).ok


@pytest.mark.parametrize("how", [damage, os.unlink])
def test_a_recipe_comes_back_from_its_shards_and_the_request_with_the_next_run(bank, how):
    rows = rows_of(bank)
    how(os.path.join(bank.path, RECIPE.slug, "recipe.json"))
    assert not verify(bank).ok
    done = repair(bank)
    assert (done.to_compute, done.notes) == ((), ())
    assert verify(bank).ok
    assert rows_of(Bank(bank.path)) == rows
    assert bank.recipes[0].provenance == {}
    bank.register(RECIPE, PROVENANCE)
    assert bank.recipes[0].provenance["request"] == PROVENANCE["request"]


def test_shards_that_bring_no_recipe_wait_for_an_extraction(bank, monkeypatch):
    monkeypatch.setattr("featbank.bank.repair.read_recipe", lambda path: None)
    rows = rows_of(bank)
    damage(os.path.join(bank.path, RECIPE.slug, "recipe.json"))
    for _ in range(2):
        done = repair(bank)
        assert "run `featbank extract` with the same model" in done.notes[0]
    bank.register(RECIPE, PROVENANCE)
    assert verify(bank).ok
    assert rows_of(Bank(bank.path)) == rows


def test_a_shard_brings_its_recipe(bank):
    assert read_recipe(shards(bank)[0]) == RECIPE


def test_a_shard_under_another_recipe_is_brought_home(tmp_path, data):
    bank = made(tmp_path / "bank", data, (RECIPE, OTHER))
    rows = rows_of(bank), rows_of(bank, OTHER)
    for number, path in enumerate(shards(bank)[:2]):
        moved = Path(bank.path, OTHER.slug, "ab", os.path.basename(path))
        moved.parent.mkdir(exist_ok=True)
        os.rename(path, moved) if number else shutil.copy(path, moved)
    done = repair(bank)
    assert len(done.quarantined) == 1  # the copy, whose like is there
    assert done.to_compute == ()
    assert verify(bank).ok
    assert (rows_of(Bank(bank.path)), rows_of(Bank(bank.path), OTHER)) == rows


def test_a_recipes_folder_that_was_renamed_gets_its_name_again(bank):
    rows = rows_of(bank)
    os.rename(os.path.join(bank.path, RECIPE.slug), os.path.join(bank.path, "renamed"))
    assert not verify(bank).ok
    repair(bank)
    assert verify(bank).ok
    assert rows_of(Bank(bank.path)) == rows
    assert bank.recipes[0].provenance["request"] == PROVENANCE["request"]


@pytest.mark.parametrize("how", [damage, os.unlink])
def test_a_bank_that_does_not_say_that_it_is_one_is_opened_again(bank, how):
    how(os.path.join(bank.path, "bank.json"))
    with pytest.raises((BankDamaged, BankNotFound), match="featbank repair"):
        Bank(bank.path)
    repair(bank.path)
    assert verify(bank.path).ok
    assert Bank(bank.path).features().shape == (5, 6)


def test_everything_damaged_at_once(bank):
    for name in (*DOCUMENTS, shards(bank)[0]):
        damage(os.path.join(bank.path, name))
    done = repair(bank.path)
    assert len(done.quarantined) == 5
    assert verify(bank.path).ok


@pytest.mark.parametrize("what", ["folder", "pipe", "text"])
def test_what_is_no_shard_among_the_shards_is_set_aside(bank, what):
    path = Path(shards(bank)[0]).with_name("stray.h5")
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "text": path.touch}[what]()
    assert not verify(bank).ok
    assert len(repair(bank).quarantined) == 1
    assert verify(bank).ok
    assert bank.features().shape == (5, 6)


def test_stray_files_beside_the_bank_are_left_alone(bank):
    for name in ("notes.txt", f"{RECIPE.slug}/notes.txt", "quarantine.txt"):
        Path(bank.path, name).write_text("mine")
    assert repair(bank).quarantined == ()
    assert verify(bank).ok


def test_a_repair_that_fails_anywhere_can_be_done_again(tmp_path, data):
    for step in range(0, 400, 3):
        bank = made(tmp_path / f"{step}", data)
        rows = rows_of(bank)
        lost = {key.tobytes() for key in bank.shards(RECIPE.fingerprint)[0].keys}
        damage(shards(bank)[0])
        for name in DOCUMENTS:
            if name != "index.h5":
                damage(os.path.join(bank.path, name))
        with faulty(step, number=errno.EIO) as fs:
            error_of(repair, bank.path)
        done = repair(bank.path)
        assert len(lies(bank)) == 4
        assert (done.images, len(done.to_compute)) == (5, len(lost))
        assert verify(bank.path).ok
        assert rows_of(Bank(bank.path)) == {k: v for k, v in rows.items() if k not in lost}
        if fs.failed is None:
            break
    else:
        raise AssertionError("the faults never ended")
    assert step > 10


def test_what_can_not_be_repaired_is_one_sentence(bank, tmp_path):
    with pytest.raises(BankError, match="bring a damaged one again from a copy"):
        repair(compact(bank, tmp_path / "packed.h5"))
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BankNotFound, match="there is no bank at"):
            repair(path)
    with bank.using(), pytest.raises(BankError, match="in use"):
        repair(bank)
    Path(bank.path, "bank.json").write_text('{"format": 99}')
    with pytest.raises(BankVersionError, match="install a newer"):
        repair(bank.path)
    assert lies(bank) == []


def test_nothing_outside_the_bank_is_moved(bank, tmp_path):
    folder = os.path.dirname(shards(bank)[0])
    shutil.move(folder, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder)
    damage(next((tmp_path / "elsewhere").iterdir()))
    with pytest.raises(BankError, match="is a link"):
        repair(bank)
    assert len(os.listdir(tmp_path / "elsewhere")) == 1


def test_a_shard_that_the_disk_does_not_give_is_set_aside(bank, monkeypatch):
    bad = shards(bank)[0]

    def check(path):
        if path == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr("featbank.bank.repair.check_digest", check)
    assert len(repair(bank).quarantined) == 1
    monkeypatch.setattr(
        "featbank.bank.repair.check_digest",
        lambda path: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no", path)),
    )
    with pytest.raises(PermissionError):
        repair(bank)


def test_moving_a_file_names_it_anew_before_the_old_name_goes(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with faulty() as fs:
        durable.move_file(tmp_path / "file", tmp_path / "new" / "file")
    assert fs.calls[-3:] == ["replace", "sync_directory", "sync_directory"]
    assert (tmp_path / "new" / "file").read_bytes() == b"x"


def test_progress_counts_the_files_that_are_hashed(bank):
    os.unlink(os.path.join(bank.path, "index.h5"))
    seen = []
    repair(bank, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)


def test_a_bank_that_no_longer_knows_what_it_was_of_says_so(bank):
    os.unlink(os.path.join(bank.path, "index.h5"))
    damage(os.path.join(bank.path, "sources.json"))

    done = repair(bank)

    assert (done.images, done.index) == (0, "rebuilt")
    assert "run `featbank extract` on each source" in done.notes[0]
