from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from featbank import merge
from featbank.bank.bank import Bank
from featbank.bank.layered import extending
from featbank.bank.maintenance import compact, verify
from featbank.data.index import IndexedSource
from featbank.errors import BankDamaged, BankError, BankNotFound, BankVersionError
from tests.bank.builders import COLUMN, LAYER, OTHER, RECIPE, features, filled, keys, source
from tests.faults import error_of, faulty


def rows_of(bank: Bank) -> dict[tuple[str, str, bytes], bytes]:
    return {
        (known.slug, column.name, key.tobytes()): row.tobytes()
        for known in bank.recipes
        for shard in bank.shards(known.fingerprint)
        for column in shard.columns
        for key, row in zip(shard.keys, shard.features(column), strict=True)
    }


def content_of(part: IndexedSource) -> dict[bytes, tuple]:
    """Return everything that the index says of each of a source's images."""
    listing = part.listing
    texts = [listing.label, listing.split, listing.group, part.failure, part.failure_under]
    return {
        name: (
            *(text[row] for text in texts),
            *((title, text[row]) for title, text in listing.extra.items()),
            *listing.stat[row].tolist(),
            listing.scanned[row],
            part.digest[row].tobytes(),
            bool(part.known[row]),
        )
        for row, name in enumerate(listing.names)
    }


def same_content(one: Bank, two: Bank) -> bool:
    contents = [
        {name: (part.root, content_of(part)) for name, part in bank.index.sources.items()}
        for bank in (one, two)
    ]
    return (
        contents[0] == contents[1] and rows_of(one) == rows_of(two) and one.sources == two.sources
    )


def second(path: Path) -> Bank:
    """Return a bank of other images, with another recipe beside the common one."""
    bank = Bank.create(path)
    fish = source("fish", {"f1.png": "eel", "f2.png": "one"}, labels=["p", "q"], root=b"/fish")
    bank.update([fish], documents=[{"name": "fish", "kind": "folder", "root": "/fish"}])
    for recipe in (RECIPE, OTHER):
        bank.register(recipe, {"request": {"name": recipe.backbone}})
        words = ["eel", "one"]
        bank.seal(recipe, keys(words), {c: features(words, c) for c in (COLUMN, LAYER)})
    return bank


@pytest.mark.parametrize("from_packed", [False, True])
@pytest.mark.parametrize("into", ["new", "new.h5"])
def test_a_bank_merged_into_an_empty_one_is_the_same(tmp_path, into, from_packed):
    bank = filled(tmp_path / "bank", shards=3)
    other = Bank(compact(bank)) if from_packed else bank

    found = merge(tmp_path / into, [other])

    merged = Bank(tmp_path / into)
    assert same_content(merged, bank)
    assert np.array_equal(merged.features(layer="stage"), bank.features(layer="stage"))
    assert (merged.paths, merged.labels.tolist()) == (bank.paths, bank.labels.tolist())
    assert merged.recipes[0].provenance == bank.recipes[0].provenance
    assert (found.images, found.rows) == (7, 5)
    assert (found.shards, found.recipes) == (1 if from_packed else 3, (RECIPE.slug,))
    assert verify(merged).ok


@pytest.mark.parametrize("packed", [False, True])
def test_two_banks_become_one(tmp_path, packed):
    bank, other = filled(tmp_path / "bank"), second(tmp_path / "other")
    before = rows_of(bank)
    if packed:
        other = Bank(compact(other))

    found = merge(bank, [other])

    bank = Bank(bank.path)
    assert rows_of(bank) == before | rows_of(other)
    assert sorted(bank.index.sources) == sorted(bank.sources) == ["ants", "birds", "fish"]
    assert [known.recipe for known in bank.recipes] == [RECIPE, OTHER]
    X = bank.features("net", "stage", source="fish")
    assert np.array_equal(X, features(["eel", "one"], LAYER))
    assert (found.images, found.recipes) == (2, (OTHER.slug,))


def test_a_second_merge_adds_nothing_and_writes_nothing(tmp_path):
    bank, other = filled(tmp_path / "bank"), second(tmp_path / "other")
    for target, others in ((bank.path, [other]), (tmp_path / "new.h5", [other, bank])):
        merge(target, others)
        with faulty() as fs:
            found = merge(target, others)
        assert (found.images, found.rows, found.shards, found.recipes) == (0, 0, 0, ())
        assert "link" not in fs.calls
    index = os.path.join(bank.path, "index.h5")
    before = os.stat(index).st_mtime_ns
    merge(bank, [other])
    assert os.stat(index).st_mtime_ns == before


def test_rows_that_are_there_are_not_added_twice(tmp_path):
    bank = filled(tmp_path / "bank", shards=1)
    other = filled(tmp_path / "other", shards=3)
    more = ["new", "one"]
    other.seal(RECIPE, keys(more), {LAYER: features(more, LAYER)})

    found = merge(bank, [other])

    assert (found.shards, found.rows, found.images) == (1, 2, 0)
    packed = Bank(compact(other))
    assert merge(filled(tmp_path / "third"), [packed]).rows == 1


def test_sources_of_one_place_are_joined_image_by_image(tmp_path):
    document = {"name": "data", "kind": "folder", "root": "/images"}
    mine = source("data", {"a": "one", "b": "two", "c": None}, labels=["x", "mine", "z"])
    mine.known[0] = False  # nothing is known of its bytes
    theirs = source("theirs", {"a": "one", "b": "else", "d": "six"}, labels=["y", "theirs", "w"])
    for name, part in (("bank", mine), ("other", theirs)):
        bank = Bank.create(tmp_path / name)
        bank.update([part], documents=[{**document, "name": part.name}])
    before = content_of(mine)

    found = merge(tmp_path / "bank", [tmp_path / "other"])

    bank = Bank(tmp_path / "bank")
    joined = bank.index.sources["data"]
    after = content_of(joined)
    assert found.images == 1
    assert list(bank.sources) == ["data"]
    assert list(joined.listing.names) == [b"a", b"b", b"c", b"d"]
    assert (after[b"b"], after[b"c"]) == (before[b"b"], before[b"c"])
    assert after[b"d"] == content_of(theirs)[b"d"]
    assert joined.known[0]  # its size and times were the same
    assert joined.listing.label.tolist() == ["x", "mine", "z", "w"]


def test_what_is_known_of_a_file_with_other_times_is_not_taken_over(tmp_path):
    mine = source("data", {"a": "one"})
    mine.known[0] = False
    theirs = source("data", {"a": "one"})
    theirs.listing.mtime[0] += 1
    for name, part in (("bank", mine), ("other", theirs)):
        Bank.create(tmp_path / name).update([part])

    merge(tmp_path / "bank", [tmp_path / "other"])

    assert not Bank(tmp_path / "bank").index.sources["data"].known[0]


def test_further_columns_of_joined_sources_are_kept(tmp_path):
    mine = source("data", {"a": "one"}, extra={"age": ["1"]})
    theirs = source("data", {"b": "two"}, extra={"sex": ["f"]})
    for name, part in (("bank", mine), ("other", theirs)):
        Bank.create(tmp_path / name).update([part])

    merge(tmp_path / "bank", [tmp_path / "other"])

    extra = Bank(tmp_path / "bank").index.sources["data"].listing.extra
    assert {title: text.tolist() for title, text in extra.items()} == {
        "age": ["1", None],
        "sex": [None, "f"],
    }


def test_other_places_under_one_name_get_a_number(tmp_path):
    for name, root in (("one", b"/a/data"), ("two", b"/b/data"), ("three", b"/c/data")):
        part = source("data", {"x.png": name}, root=root)
        document = {"name": "data", "kind": "folder", "root": root.decode()}
        Bank.create(tmp_path / name).update([part], documents=[document])

    for _ in range(2):
        merge(tmp_path / "one", [tmp_path / "two", tmp_path / "three"])

    bank = Bank(tmp_path / "one")
    roots = {name: part.root for name, part in bank.index.sources.items()}
    assert roots == {"data": b"/a/data", "data-2": b"/b/data", "data-3": b"/c/data"}
    assert {name: d["root"] for name, d in bank.sources.items()} == {
        name: root.decode() for name, root in roots.items()
    }


def test_lists_are_joined_only_if_they_list_the_same(tmp_path):
    for name, listed in (("one", ["a"]), ("two", ["b"])):
        part = source("images", {listed[0]: name})
        none = [None]
        table = {"path": listed, "label": none, "split": none, "group": none, "extra": {}}
        document = {"name": "images", "kind": "list", "root": "/images", "listed": table}
        Bank.create(tmp_path / name).update([part], documents=[document])

    merge(tmp_path / "one", [tmp_path / "two", tmp_path / "two"])

    assert sorted(Bank(tmp_path / "one").index.sources) == ["images", "images-2"]


def test_a_merge_that_fails_anywhere_is_made_again(tmp_path):
    other = second(tmp_path / "other")
    whole = filled(tmp_path / "whole")
    merge(whole, [other])
    for target, stride in (("target", 5), ("target.h5", 61)):
        first = filled(tmp_path / "first")
        if target.endswith(".h5"):
            first = Bank(compact(first, tmp_path / "first.h5"))
        failures = 0
        for step in range(0, 10_000, stride):
            path = tmp_path / str(step) / target
            path.parent.mkdir(exist_ok=True)
            (shutil.copyfile if first.packed else shutil.copytree)(first.path, path)
            with faulty(step, number=errno.ENOSPC) as fs:
                error = error_of(merge, path, [other])
            failures += error is not None
            if fs.failed is None:
                break
            assert verify(Bank(path)).ok
            assert rows_of(first).items() <= rows_of(Bank(path)).items()
            merge(path, [other])
            assert rows_of(Bank(path)) == rows_of(Bank(whole.path))
            assert sorted(Bank(path).index.sources) == ["ants", "birds", "fish"]
        assert failures > 5
        shutil.rmtree(tmp_path / "first")


def test_damaged_banks_are_refused_before_anything_is_written(tmp_path):
    bank, other = filled(tmp_path / "bank"), second(tmp_path / "other")
    good = filled(tmp_path / "good")
    before = rows_of(bank)
    path = other.shard_paths(OTHER.fingerprint)[0]
    rows_of(other)  # so that the shard is taken for whole
    state = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    with pytest.raises(BankDamaged, match=os.path.basename(path)):
        merge(bank, [good, other])

    assert rows_of(Bank(bank.path)) == before
    with pytest.raises(BankDamaged):
        merge(tmp_path / "new", [other])
    assert not (tmp_path / "new").exists()


def test_rows_of_another_length_are_refused(tmp_path):
    bank, other = filled(tmp_path / "bank"), Bank.create(tmp_path / "other")
    other.register(RECIPE, {})
    other.seal(RECIPE, keys(["new"]), {COLUMN: features(["new"], width=4)})

    with pytest.raises(BankDamaged, match="rows of 4 numbers where others"):
        merge(bank, [other])


def test_a_bank_of_a_later_version_is_not_merged(tmp_path):
    second(tmp_path / "other")
    (tmp_path / "other" / "bank.json").write_text('{"featbank": "bank", "format": 2}')

    with pytest.raises(BankVersionError, match="install a newer"):
        merge(tmp_path / "bank", [tmp_path / "other"])

    assert not (tmp_path / "bank").exists()


def test_what_can_not_be_merged_says_so(tmp_path):
    bank = filled(tmp_path / "bank")
    os.symlink(bank.path, tmp_path / "link")
    with pytest.raises(BankError, match="into itself"):
        merge(bank, [tmp_path / "link"])
    with pytest.raises(BankNotFound):
        merge(bank, [tmp_path / "nowhere"])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.jpg").touch()
    with pytest.raises(BankError, match="other things in it"):
        merge(tmp_path / "folder", [bank])
    packed = Path(compact(bank))
    with pytest.raises(RuntimeError), extending(packed):
        raise RuntimeError
    with pytest.raises(BankError, match="has not ended"):
        merge(tmp_path / "new", [packed])


def test_merged_parts_are_told_apart_by_their_labels(tmp_path):
    """Parts that two machines extracted: all images, all labels, all features, in order."""
    whole = filled(tmp_path / "whole")
    index = whole.index
    for number, name in enumerate(index.sources):
        part = Bank.create(tmp_path / str(number))
        part.update([index.sources[name]], documents=[whole.sources[name]])
        part.register(RECIPE, {})
        words = ["one", "two", "5", "six"]
        part.seal(RECIPE, keys(words), {c: features(words, c) for c in (COLUMN, LAYER)})

    merge(tmp_path / "both.h5", [tmp_path / "0", tmp_path / "1"])

    both, chosen = Bank(tmp_path / "both.h5"), whole.select(layer="stage")
    found = both.select(layer="stage")
    for field in dataclasses.fields(found):
        one, two = getattr(found, field.name), getattr(chosen, field.name)
        if field.name != "request":
            assert np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two
