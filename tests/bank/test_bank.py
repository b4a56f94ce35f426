from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import hdf5
from featbank.backbones.recipe import Column
from featbank.bank import verified
from featbank.bank.bank import Bank
from featbank.bank.documents import write_document
from featbank.bank.maintenance import compact, verify
from featbank.errors import (
    AmbiguousFeatures,
    BankDamaged,
    BankError,
    BankNotFound,
    BankVersionError,
    DataError,
    FeaturesMissing,
)
from tests.bank.builders import COLUMN, LAYER, OTHER, RECIPE, features, filled, keys, source

ORDER = ["six", "one", "one", "two", "two", "5"]  # ants/a, ants/b, birds/x/1, x/2, y/3, z/\xff


@pytest.fixture(params=["folder", "packed"])
def bank(request, tmp_path):
    made = filled(tmp_path / "bank")
    return made if request.param == "folder" else Bank(compact(made))


def test_features_stand_in_the_order_of_source_and_path_with_duplicates(bank):
    X = bank.features(layer="penultimate")
    assert X.dtype == np.float32
    np.testing.assert_array_equal(X, features(ORDER))
    assert bank.paths == [
        "/more\udcff/a.png", "/more\udcff/b.png", "/images/x/1.png", "/images/x/2.png",
        "/images/y/3.png", "/images/z/\udcff.png",
    ]  # fmt: skip
    assert bank.labels.tolist() == [None, None, "x", "x", "y", "z\udcff"]
    assert (bank.labels == "x").sum() == 2


def test_a_selection_by_source_and_split(bank):
    chosen = bank.select(layer="penultimate", source="birds", split="train")
    np.testing.assert_array_equal(chosen.X, features(["one", "two"]))
    assert chosen.labels == ["x", "x"]
    assert chosen.groups == ["g1", "g2"]
    assert chosen.splits == ["train", "train"]
    np.testing.assert_array_equal(chosen.digests, keys(["one", "two"]))
    assert chosen.recipe == RECIPE
    assert chosen.request == {"name": "net"}
    X = bank.features(layer="penultimate", source=["birds", "ants"])
    assert len(X) == len(ORDER)


def test_another_column_of_the_table_can_be_the_label(bank):
    chosen = bank.select(layer="penultimate", source="birds", label="age")
    assert chosen.labels == ["1", None, "3", "5"]
    assert chosen.splits == ["train", "train", "test", None]
    with pytest.raises(DataError, match="no column 'agee'; did you mean age"):
        bank.select(layer="penultimate", source="birds", label="agee")


def test_columns_are_chosen_by_layer_and_joined(bank):
    half = bank.features(layer="stage")
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, features(ORDER, LAYER))
    both = bank.features(layer=["penultimate", "stage:max"])
    np.testing.assert_array_equal(both, np.hstack([features(ORDER), features(ORDER, LAYER)]))


def test_ambiguity_lists_the_choices(bank):
    with pytest.raises(AmbiguousFeatures, match=f"{COLUMN.name}, {LAYER.name}"):
        bank.features()
    with pytest.raises(FeaturesMissing, match=f"it has {COLUMN.name}, {LAYER.name}"):
        bank.features(layer="stage2")
    with pytest.raises(FeaturesMissing, match="no recipe 'nets'; it has net-"):
        bank.features("nets")
    with pytest.raises(FeaturesMissing, match="view 'flips'"):
        bank.features(layer="stage", view="flips")
    with pytest.raises(DataError, match="no source 'brids'; did you mean birds"):
        bank.features(layer="stage", source="brids")
    with pytest.raises(FeaturesMissing, match="split 'trian'; did you mean train"):
        bank.features(layer="stage", split="trian")


def test_a_recipe_is_found_by_name_fingerprint_and_folder(bank):
    for word in ("net", RECIPE, RECIPE.fingerprint[:6], RECIPE.slug):
        assert bank.features(word, "stage").shape == (6, 3)
    with pytest.raises(FeaturesMissing, match=OTHER.slug):
        bank.features(OTHER)


def test_several_recipes_stand_side_by_side(tmp_path):
    bank = filled(tmp_path / "bank")
    bank.register(OTHER, {})
    words = sorted(set(ORDER))
    bank.seal(OTHER, keys(words), {COLUMN: features(words, COLUMN, 7)})
    with pytest.raises(AmbiguousFeatures, match=f"{RECIPE.slug}, {OTHER.slug}"):
        bank.features(layer="stage")
    np.testing.assert_array_equal(bank.features("other"), features(ORDER, COLUMN, 7))
    assert bank.columns(OTHER.fingerprint) == {COLUMN: len(words)}


def test_missing_features_are_counted(tmp_path):
    bank = filled(tmp_path / "bank")
    bank.update([source("new", {"1.png": "seven", "2.png": "one"})])
    with pytest.raises(FeaturesMissing, match=r"1 of 8 images have no features .*penultimate"):
        bank.features(layer="penultimate")
    assert len(bank.features(layer="penultimate", source="birds")) == 4


def test_a_bank_pickles_as_its_path(bank):
    again = pickle.loads(pickle.dumps(bank))
    assert again.path == bank.path
    np.testing.assert_array_equal(again.features(layer="stage"), features(ORDER, LAYER))
    assert len(pickle.dumps(bank)) < 500


def test_the_packed_form_holds_all_that_the_folder_does(tmp_path):
    folder = filled(tmp_path / "bank")
    packed = Bank(compact(folder, tmp_path / "away" / "packed.h5"))
    assert packed.packed
    for layer in (COLUMN.name, LAYER.name):
        np.testing.assert_array_equal(packed.features(layer=layer), folder.features(layer=layer))
    assert packed.paths == folder.paths
    assert packed.labels.tolist() == folder.labels.tolist()
    assert packed.sources == folder.sources
    assert packed.recipes == folder.recipes
    ours, theirs = (b.index.sources["birds"] for b in (folder, packed))
    assert theirs.failure.tolist() == ours.failure.tolist()
    np.testing.assert_array_equal(theirs.listing.stat, ours.listing.stat)
    assert verify(packed).ok


def test_a_user_of_h5py_finds_features_beside_paths_in_the_packed_form(tmp_path):
    with h5py.File(compact(filled(tmp_path / "bank")), "r") as file:
        assert b"values[row_of_image[i]]" in file.attrs["description"]
        part = file[f"features/{RECIPE.slug}/{COLUMN.name}"]
        row = part["row_of_image"][:]
        paths = file["images/path"][:].tolist()
        readable = row >= 0
        assert paths[2] == b"/images/x/1.png"
        assert not readable[paths.index(b"/images/y/4.png")]
        np.testing.assert_array_equal(part["values"][:][row[readable]], features(ORDER))
        assert file["images/label"][-1] == b"z\xff"
        assert part.attrs["layer"] == b"penultimate"


def test_damage_is_found_by_the_next_read(tmp_path):
    bank = filled(tmp_path / "bank")
    bank.features(layer="stage")
    path = bank.shard_paths(RECIPE.fingerprint)[0]
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)
    for opened in (bank, Bank(bank.path)):  # a new process, and one that had the shard open
        with pytest.raises(BankDamaged, match=os.path.basename(path)):
            opened.features(layer="stage")
    os.truncate(path, 100)
    with pytest.raises(BankDamaged):
        bank.features(layer="stage")
    os.unlink(path)  # what the message advises
    with pytest.raises(FeaturesMissing):
        bank.features(layer="stage")


def test_a_shard_under_another_recipe_is_damage(tmp_path):
    bank = filled(tmp_path / "bank", shards=1)
    path = bank.shard_paths(RECIPE.fingerprint)[0]
    folder = bank.register(OTHER, {})
    moved = os.path.join(folder, os.path.relpath(path, os.path.join(bank.path, RECIPE.slug)))
    os.makedirs(os.path.dirname(moved))
    os.rename(path, moved)
    with pytest.raises(BankDamaged, match="under another recipe"):
        bank.features("other")
    assert "under another recipe" in verify(bank).damaged[0]


def test_what_was_verified_is_remembered_and_may_be_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(verified, "RACY_NANOSECONDS", 0)
    bank = filled(tmp_path / "bank")
    bank.features(layer="stage")
    cache = os.path.join(bank.path, "verified.json")
    checked = []
    monkeypatch.setattr(Bank, "_check_shard", lambda self, path: checked.append(path))
    Bank(bank.path).features(layer="stage")
    assert checked == []
    for nonsense in (b"", b"\xff", b"[]", b"[" * 100_000, b'{"a": 1}'):
        with open(cache, "wb") as file:
            file.write(nonsense)
        Bank(bank.path).features(layer="stage")
        assert len(checked) == 2
        checked.clear()


def test_a_packed_bank_is_compared_with_its_digest_once(tmp_path, monkeypatch):
    monkeypatch.setattr(verified, "RACY_NANOSECONDS", 0)
    path = compact(filled(tmp_path / "bank"), tmp_path / "away" / "packed.h5")
    whole = Bank(path).features(layer="stage")
    checked, check = [], hdf5.check_seal
    monkeypatch.setattr(hdf5, "check_seal", lambda path: (checked.append(path), check(path)))
    np.testing.assert_array_equal(Bank(path).features(layer="stage"), whole)
    assert checked == []
    assert os.listdir(tmp_path / "away") == ["packed.h5"]
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)
    with pytest.raises(BankDamaged):
        Bank(path).features(layer="stage")


def test_some_images_are_read_by_their_rows(bank):
    located = bank.locate(layer="stage")
    np.testing.assert_array_equal(
        located.read(np.array([5, 1])), features([ORDER[5], ORDER[1]], LAYER)
    )


def test_an_unknown_label_is_an_error_before_anything_is_read(bank):
    with pytest.raises(DataError, match="no column 'ag'"):
        bank.locate(layer="stage", label="ag")


def test_a_shard_that_changed_within_the_clocks_tick_is_looked_at_again(tmp_path, monkeypatch):
    """Its times may be those that it had when it was whole."""
    bank = filled(tmp_path / "bank")
    bank.features(layer="stage")
    path = bank.shard_paths(RECIPE.fingerprint)[0]
    whole = os.stat(path)
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda p, **words: whole if p == path else stat(p, **words))
    for opened in (bank, Bank(bank.path)):
        with pytest.raises(BankDamaged):
            opened.features(layer="stage")


def test_the_index_keeps_what_is_no_text(bank):
    index = bank.index
    birds = index.sources["birds"]
    assert birds.listing.names[-1] == b"z/\xff.png"
    assert birds.listing.label[4] == "z\udcff"
    assert index.sources["ants"].root == b"/more\xff"
    assert bank.sources["ants"]["root"] == "/more\udcff"


def test_an_index_that_is_damaged_says_how_to_get_it_back(tmp_path):
    bank = filled(tmp_path / "bank")
    path = os.path.join(bank.path, "index.h5")
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 4
    Path(path).write_bytes(data)
    with pytest.raises(BankDamaged, match="run `featbank repair`: it rebuilds the index"):
        bank.features(layer="stage")
    assert not verify(bank).ok


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.__delitem__("0000/name_ends"),
        lambda index: index["0000/name_ends"].write_direct(np.array([9, 9, 9])),
        lambda index: index["0000/label/codes"].write_direct(np.array([7, 7], np.int32)),
        lambda index: index.move("0000/size", "0000/length"),
        lambda index: index.move("0000/inode", "0000/digest2"),
        lambda index: index["0000"].attrs.__delitem__("root"),
        lambda index: index.attrs.__setitem__("version", np.float32(np.nan)),
        lambda index: (
            index.__delitem__("0000/size"), index["0000"].create_dataset("size", data=np.int64(1))
        ),
        lambda index: (
            index.__delitem__("0000/name_bytes"),
            index["0000"].create_dataset("name_bytes", data=np.int64(1)),
        ),
    ],
)  # fmt: skip
def test_an_index_of_a_stranger_that_contradicts_itself_is_refused(tmp_path, change):
    bank = filled(tmp_path / "bank")
    path = os.path.join(bank.path, "index.h5")
    with h5py.File(path, "r+") as file:
        change(file)
    with open(path, "rb") as file:
        data = hdf5.seal(bytearray(file.read()))
    with open(path, "wb") as file:
        file.write(data)
    with pytest.raises(BankDamaged):
        _ = bank.index


def test_sources_that_are_no_list_are_damage(tmp_path):
    bank = filled(tmp_path / "bank")
    for nonsense in ("[]", "{}", '{"sources": 1}', '{"sources": [1]}', '{"sources": [{}]}', "{"):
        with open(os.path.join(bank.path, "sources.json"), "w") as file:
            file.write(nonsense)
        with pytest.raises(BankDamaged):
            _ = bank.sources


def test_where_there_is_no_bank_the_error_says_so(tmp_path):
    with pytest.raises(BankNotFound, match="featbank extract"):
        Bank(tmp_path / "none")
    with pytest.raises(BankNotFound, match=r"bank\.json"):
        Bank(tmp_path)
    (tmp_path / "text.h5").write_text("no bank")
    with pytest.raises(BankDamaged, match="not a file that featbank sealed"):
        Bank(tmp_path / "text.h5").features()


def test_a_bank_is_not_made_among_other_things(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(BankError, match="other things"):
        Bank.create(tmp_path)
    for path in (tmp_path / "photo.jpg", tmp_path / "new.h5"):
        with pytest.raises(BankError, match="packed"):
            Bank.create(path)
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_making_a_bank_again_opens_it(tmp_path):
    (tmp_path / ".hidden").write_bytes(b"")
    Bank.create(tmp_path)
    assert Bank.create(tmp_path).recipes == []
    with pytest.raises(FeaturesMissing, match="no features yet"):
        Bank(tmp_path).features()


def test_a_bank_of_a_later_version_is_refused(tmp_path):
    bank = filled(tmp_path / "bank")
    with open(os.path.join(bank.path, "bank.json"), "w") as file:
        json.dump({"featbank": "bank", "format": 2}, file)
    with pytest.raises(BankVersionError, match="install a newer featbank"):
        Bank(bank.path)


def test_a_recipe_that_was_tampered_with_is_damage(tmp_path):
    bank = filled(tmp_path / "bank")
    path = os.path.join(bank.path, RECIPE.slug, "recipe.json")
    document = json.loads(Path(path).read_text())
    document["recipe"]["weights"] = "1" * 64
    Path(path).write_text(json.dumps(document))
    with pytest.raises(BankDamaged, match="does not hold the text that was written"):
        bank.features(layer="stage")
    del document["sha256"]
    write_document(path, document)
    with pytest.raises(BankDamaged, match="does not fit its fingerprint"):
        bank.features(layer="stage")
    with pytest.raises(BankDamaged):
        bank.register(RECIPE, {})


def test_sources_of_several_updates_stand_side_by_side(tmp_path):
    bank = filled(tmp_path / "bank")
    bank.update(
        [source("birds", {"1.png": "one"})],
        documents=[{"name": "birds", "kind": "flat", "root": "/images"}],
    )
    assert list(bank.index.sources) == ["ants", "birds"]
    assert len(bank.index) == 3
    assert bank.sources["birds"]["kind"] == "flat"
    assert bank.sources["ants"]["kind"] == "flat"


def test_another_column_of_the_same_images_is_added_beside_the_first(tmp_path):
    bank = filled(tmp_path / "bank")
    words = sorted(set(ORDER))
    third = Column("early")
    bank.seal(RECIPE, keys(words), {third: features(words, third, 5)})
    joined = bank.features(layer=["early", "penultimate"])
    np.testing.assert_array_equal(joined, np.hstack([features(ORDER, third, 5), features(ORDER)]))


def test_a_recipe_without_rows_does_not_make_the_others_ambiguous(tmp_path):
    """A run that ended before its first shard leaves one."""
    bank = filled(tmp_path / "bank")
    bank.register(OTHER, {})
    assert len(bank.features(layer="penultimate")) == len(ORDER)
    with pytest.raises(FeaturesMissing, match=r"other-.* has no features yet"):
        bank.features("other")
