from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from featbank import durable
from featbank.backbones.recipe import Column
from featbank.bank.bank import Bank
from featbank.bank.maintenance import compact, verify
from featbank.bank.prune import prune
from featbank.errors import (
    AmbiguousFeatures,
    BankDamaged,
    BankError,
    DataError,
    FeaturesMissing,
)
from tests.bank.builders import COLUMN, LAYER, OTHER, RECIPE, features, filled, keys, source
from tests.faults import FaultyFileSystem, error_of, faulty

NEEDED = ["one", "two", "5", "six"]  # what `filled`'s index names


def rows_of(bank: Bank, recipe=RECIPE) -> dict[tuple[str, bytes], bytes]:
    """Return every row by column and key, as a reader finds it."""
    found = {}
    for column in bank.columns(recipe.fingerprint):
        rows = bank.rows(recipe.fingerprint, column)
        values = rows.read(np.arange(len(rows)))
        pairs = zip(rows.keys.tolist(), values, strict=True)
        found |= {(column.name, key): row.tobytes() for key, row in pairs}
    return found


def files(bank: Bank) -> dict[str, bytes]:
    return {
        os.path.relpath(path, bank.path): path.read_bytes()
        for path in Path(bank.path).rglob("*")
        if path.is_file() and path.name not in (".use", "verified.json")
    }


def add(bank: Bank, words: list[str], *columns: Column, recipe=RECIPE) -> None:
    bank.register(recipe, {})
    bank.seal(recipe, keys(words), {c: features(words, c) for c in columns})


def test_rows_of_no_indexed_image_go_and_all_others_stay(tmp_path):
    bank = filled(tmp_path / "bank")
    needed = {key.tobytes() for key in keys(NEEDED)}
    kept = {place: row for place, row in rows_of(bank).items() if place[1] in needed}
    said = prune(bank, dry_run=True)
    done = prune(bank)
    assert (done.recipes, done.rows, done.shards) == ((), 1, 1)
    assert done == said
    assert done.bytes == 32 + 3 * 4 + 3 * 2
    assert rows_of(bank) == rows_of(Bank(bank.path)) == kept
    assert verify(bank).ok
    assert prune(bank).shards == 0


def test_a_dry_run_changes_nothing(tmp_path):
    bank = filled(tmp_path / "bank")
    before = files(bank)
    assert prune(bank, dry_run=True).rows == 1
    assert prune(bank, "net", dry_run=True).recipes == (RECIPE.slug,)
    assert files(bank) == before


def test_a_row_that_is_there_twice_stays_where_readers_find_it(tmp_path):
    bank = filled(tmp_path / "bank", shards=1)
    prune(bank)
    before = rows_of(bank)
    for words in (["one", "5"], ["two", "six", "one"]):
        bank.seal(RECIPE, keys(words), {COLUMN: features(words, COLUMN) + 1})
    before = rows_of(bank)
    assert prune(bank).rows > 0
    assert rows_of(bank) == before
    assert sum(len(s.keys) for s in bank.shards(RECIPE.fingerprint) if COLUMN in s.columns) >= 4


def test_a_shard_that_adds_nothing_goes_whole(tmp_path):
    bank = filled(tmp_path / "bank", shards=1)
    prune(bank)
    rows = rows_of(bank)
    words = ["six", "5", "two", "one"]
    bank.seal(RECIPE, keys(words), {c: features(words, c) for c in (COLUMN, LAYER)})
    done = prune(bank)
    assert (done.rows, done.shards) == (4, 1)
    assert rows_of(bank) == rows
    assert len(bank.shards(RECIPE.fingerprint)) == 1


def test_a_row_stays_for_each_of_its_columns(tmp_path):
    bank = filled(tmp_path / "bank")
    third = Column("early")
    add(bank, NEEDED, COLUMN, third)
    before = rows_of(bank)
    prune(bank)
    after = rows_of(bank)
    assert {k for k in before if k[1] in {key.tobytes() for key in keys(NEEDED)}} == set(after)
    assert all(before[place] == row for place, row in after.items() if place[0] == third.name)


def test_a_recipe_without_rows_and_one_whose_rows_all_go_are_removed(tmp_path):
    bank = filled(tmp_path / "bank")
    bank.register(OTHER, {})
    assert prune(bank).recipes == (OTHER.slug,)
    add(bank, ["nobody's"], COLUMN, recipe=OTHER)
    done = prune(bank)
    assert (done.recipes, done.rows) == ((OTHER.slug,), 1)
    assert [known.slug for known in bank.recipes] == [RECIPE.slug]
    assert not os.path.exists(os.path.join(bank.path, OTHER.slug))


def test_a_named_recipe_goes_whole_and_nothing_else_does(tmp_path):
    bank = filled(tmp_path / "bank")
    rows = rows_of(bank)
    add(bank, NEEDED, COLUMN, LAYER, recipe=OTHER)
    done = prune(bank, ["other"])
    assert (done.recipes, done.rows) == ((OTHER.slug,), 4)
    assert not os.path.exists(os.path.join(bank.path, OTHER.slug))
    assert rows_of(bank) == rows  # also what no index names
    with pytest.raises(FeaturesMissing, match=f"no recipe 'other'; it has {RECIPE.slug}"):
        prune(bank, "other")
    prune(bank, RECIPE.fingerprint[:9])
    assert bank.recipes == []
    with pytest.raises(FeaturesMissing, match="no recipe that could be removed"):
        prune(bank, "net")


def test_a_word_that_means_several_recipes_is_refused(tmp_path):
    bank = filled(tmp_path / "bank")
    add(bank, NEEDED, COLUMN, recipe=OTHER)
    with pytest.raises(AmbiguousFeatures, match=RECIPE.slug):
        prune(bank, [""])
    assert len(bank.recipes) == 2


def test_without_an_index_only_named_recipes_are_removed(tmp_path):
    bank = Bank.create(tmp_path / "cache")
    add(bank, NEEDED, COLUMN)
    with pytest.raises(BankError, match="has no index that could say which rows are needed"):
        prune(bank)
    assert len(rows_of(bank)) == 4
    assert prune(bank, "net").rows == 4


def test_a_source_that_is_described_and_not_indexed_keeps_prune_away(tmp_path):
    bank = filled(tmp_path / "bank")
    bank.update([], documents=[{"name": "bees", "kind": "flat", "root": "/bees"}])
    with pytest.raises(BankError, match=r"'bees' .* is in no index.*featbank repair"):
        prune(bank)


def test_rows_of_files_that_the_index_does_not_know_yet_stay(tmp_path):
    """A killed run has sealed rows, and not come to saving the index."""
    import dataclasses

    bank = filled(tmp_path / "bank")
    (tmp_path / "a.png").write_bytes(b"late")
    part = source("late", {"a.png": "late"}, root=os.fsencode(tmp_path))
    part = dataclasses.replace(part, known=np.zeros(1, bool), digest=np.zeros((1, 32), np.uint8))
    bank.update([part])
    add(bank, ["late"], COLUMN)
    assert prune(bank).rows == 1
    column, late = COLUMN.name, keys(["late"])[0].tobytes()
    assert (column, late) in rows_of(bank)
    shutil.move(tmp_path / "a.png", tmp_path / "b.png")
    with pytest.raises(BankError, match=r"1 images of the source 'late' were not read yet"):
        prune(bank)


def test_rows_of_images_in_the_ledger_stay(tmp_path):
    import dataclasses

    from featbank.data.index import Text

    bank = filled(tmp_path / "bank")
    part = source("bad", {"a.png": "bad"})
    bank.update([dataclasses.replace(part, failure=Text.of(["it is broken."]))])
    add(bank, ["bad"], COLUMN)
    prune(bank)
    assert (COLUMN.name, keys(["bad"])[0].tobytes()) in rows_of(bank)


def test_temporaries_and_empty_folders_go_and_what_is_the_users_stays(tmp_path):
    bank = filled(tmp_path / "bank")
    folder = Path(bank.path, RECIPE.slug)
    for place in (Path(bank.path), folder, Path(bank.shard_paths(RECIPE.fingerprint)[0]).parent):
        Path(durable.temporary(str(place))).write_bytes(b"x")
    (folder / "zz").mkdir()
    (Path(bank.path) / "gone-12345678" / "00").mkdir(parents=True)
    (Path(bank.path) / "mine").mkdir()
    (Path(bank.path) / "mine" / "notes.txt").write_text("mine")
    (Path(bank.path) / "quarantine").mkdir()
    prune(bank)
    assert not list(Path(bank.path).rglob(".featbank-tmp-*"))
    assert not (folder / "zz").exists()
    assert not (Path(bank.path) / "gone-12345678").exists()
    assert (Path(bank.path) / "mine" / "notes.txt").exists()
    assert (Path(bank.path) / "quarantine").exists()


def test_a_damaged_shard_keeps_everything_as_it_is(tmp_path):
    bank = filled(tmp_path / "bank")
    with open(bank.shard_paths(RECIPE.fingerprint)[1], "r+b") as file:
        file.truncate(100)
    before = files(bank)
    with pytest.raises(BankDamaged, match="featbank repair"):
        prune(bank)
    assert files(bank) == before


def test_who_uses_the_bank_keeps_prune_away(tmp_path):
    bank = filled(tmp_path / "bank")
    with bank.using(), pytest.raises(BankError, match=r"in use.*run again when it is done"):
        prune(bank)
    with pytest.raises(BankError, match="packed"):
        prune(Bank(compact(bank)))


def test_nothing_outside_the_bank_is_removed(tmp_path):
    bank = filled(tmp_path / "bank", shards=1)
    folder = os.path.dirname(bank.shard_paths(RECIPE.fingerprint)[0])
    shutil.move(folder, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder)
    for words in ([], ["net"]):
        with pytest.raises(BankError, match="is a link"):
            prune(bank, words)
    assert len(os.listdir(tmp_path / "elsewhere")) == 1


def test_at_no_moment_is_a_row_absent_that_is_to_stay(tmp_path):
    needed = {key.tobytes() for key in keys(NEEDED)}
    for step in range(0, 400, 3):
        bank = filled(tmp_path / str(step))
        add(bank, ["one", "nobody's"], COLUMN, LAYER)
        before = {place: row for place, row in rows_of(bank).items() if place[1] in needed}

        class Watched(FaultyFileSystem):
            """Looks before every call that changes the disk."""

            looking = False  # reading writes a cache

            def _step(self, name, bank=bank, before=before):
                if not self.looking:
                    self.looking = True
                    assert before.items() <= rows_of(Bank(bank.path)).items()
                    self.looking = False
                    super()._step(name)

        durable.fs, usual = Watched(step, number=errno.EIO), durable.fs
        try:
            error_of(prune, bank)
        finally:
            failed, durable.fs = durable.fs.failed, usual
        assert before.items() <= rows_of(Bank(bank.path)).items()
        prune(bank)
        assert rows_of(bank) == before
        assert verify(bank).ok
        if failed is None:
            break
    else:
        raise AssertionError("the faults never ended")
    assert step > 10


def test_new_shards_are_synced_before_an_old_one_goes(tmp_path):
    bank = filled(tmp_path / "bank", shards=1)
    old = bank.shard_paths(RECIPE.fingerprint)
    gone = []
    with faulty() as fs:
        unlink = fs.unlink
        fs.unlink = lambda path: (gone.append((path, list(fs.calls))), unlink(path))
        prune(bank)
    (calls,) = [calls for path, calls in gone if path in old]
    assert (
        calls.index("sync") < calls.index("link") < len(calls) - calls[::-1].index("sync_directory")
    )


def test_a_reader_whose_list_of_shards_is_old_looks_again(tmp_path, monkeypatch):
    bank = filled(tmp_path / "bank")
    before = Bank(bank.path).features(layer="stage")
    reader = Bank(bank.path)
    real = Bank.shards
    pruned = []

    def shards(self, *args):
        found = real(self, *args)
        if self is reader and not pruned:
            pruned.append(prune(bank.path))
        return found

    monkeypatch.setattr(Bank, "shards", shards)
    np.testing.assert_array_equal(reader.features(layer="stage"), before)
    assert pruned[0].shards == 1


def test_a_reader_that_lists_while_shards_are_replaced_finds_every_row(tmp_path, monkeypatch):
    for stop in range(12):
        bank = filled(tmp_path / str(stop), shards=4)
        before = Bank(bank.path).features(layer="stage")
        listed = os.listdir
        count = 0

        def listing(path, stop=stop, bank=bank, listed=listed):
            nonlocal count
            count += 1
            if count == stop:
                prune(bank.path)
            return listed(path)

        reader = Bank(bank.path)
        monkeypatch.setattr(os, "listdir", listing)
        np.testing.assert_array_equal(reader.features(layer="stage"), before)
        monkeypatch.undo()


def test_a_source_goes_with_the_rows_that_no_other_one_needs(tmp_path):
    bank = filled(tmp_path / "bank")
    before = rows_of(bank)
    said = prune(bank, sources="ants", dry_run=True)
    assert list(bank.index.sources) == ["ants", "birds"]
    done = prune(bank, sources=["ants"])
    assert done == said
    assert (done.sources, done.images, done.rows, done.recipes) == (("ants",), 2, 1, ())
    assert done.bytes == 32 + 3 * 4 + 3 * 2
    bank = Bank(bank.path)
    assert list(bank.index.sources) == list(bank.sources) == ["birds"]
    six = keys(["six"])[0].tobytes()
    assert rows_of(bank) == {place: row for place, row in before.items() if place[1] != six}
    assert verify(bank).ok


def test_a_source_without_rows_of_its_own_frees_nothing(tmp_path):
    bank = filled(tmp_path / "bank")
    bank.update([source("again", {"a.png": "one", "b.png": "two"})])
    before = rows_of(bank)
    done = prune(bank, sources="again")
    assert (done.images, done.rows, done.bytes) == (2, 0, 0)
    assert rows_of(bank) == before


def test_the_last_source_goes_with_all_its_rows(tmp_path):
    bank = filled(tmp_path / "bank")
    prune(bank)
    done = prune(bank, sources=["ants", "birds"])
    assert (done.images, done.rows, done.recipes) == (7, 4, (RECIPE.slug,))
    assert (Bank(bank.path).index.sources, Bank(bank.path).sources) == ({}, {})


def test_an_unknown_source_lists_those_there_are(tmp_path):
    bank = filled(tmp_path / "bank")
    with pytest.raises(DataError, match="no source 'bird'; did you mean birds"):
        prune(bank, sources="bird")
    with pytest.raises(DataError, match="recipes and sources were named"):
        prune(bank, "net", sources="birds")


def test_another_source_that_was_not_read_keeps_a_source_from_being_removed(tmp_path):
    import dataclasses

    bank = filled(tmp_path / "bank")
    part = source("late", {"a.png": "late"}, root=os.fsencode(tmp_path))
    bank.update([dataclasses.replace(part, known=np.zeros(1, bool))])
    before = files(bank)
    with pytest.raises(BankError, match=r"1 images of the source 'late' were not read yet"):
        prune(bank, sources="ants")
    assert files(bank) == before
    prune(bank, sources=["ants", "late"])
    assert list(Bank(bank.path).index.sources) == ["birds"]


def test_who_uses_the_bank_keeps_its_sources(tmp_path):
    bank = filled(tmp_path / "bank")
    with bank.using(), pytest.raises(BankError, match=r"in use.*run again when it is done"):
        prune(bank, sources="ants")
    assert "ants" in bank.index.sources


def test_a_source_that_was_removed_half_is_removed_by_a_second_try(tmp_path):
    birds = {key.tobytes() for key in keys(["one", "two", "5"])}
    ended = set()
    failed: str | None = ""
    step = -2
    while failed is not None:
        step += 2
        bank = filled(tmp_path / str(step))
        kept = {place: row for place, row in rows_of(bank).items() if place[1] in birds}
        durable.fs, usual = FaultyFileSystem(step, number=errno.EIO), durable.fs
        try:
            error_of(lambda b: prune(b, sources="ants"), bank)
        finally:
            failed, durable.fs = durable.fs.failed, usual
        again = Bank(bank.path)
        assert kept.items() <= rows_of(again).items()
        described, indexed = "ants" in again.sources, "ants" in again.index.sources
        assert indexed or not described  # `prune` and `repair` would miss it
        ended.add((failed is not None, described, indexed))
        if described or indexed:
            prune(again, sources="ants")
        prune(again)
        assert rows_of(Bank(bank.path)) == kept
        assert list(Bank(bank.path).index.sources) == ["birds"]
        assert verify(Bank(bank.path)).ok
    assert (True, False, True) in ended
