from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest

from featbank import hdf5
from featbank.data import indexfile
from featbank.data.index import (
    RACY_NANOSECONDS,
    Index,
    IndexedSource,
    Listing,
    Names,
    StoredSplit,
    Text,
)
from featbank.data.indexfile import fill_index, read_index
from featbank.errors import BankDamaged, BankVersionError
from tests.bank import builders

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


def listing(names, *, age=100 * SECOND, scanned=NOW, inode=1, **changes):
    n = len(names)
    columns = {
        "size": np.full(n, 10),
        "mtime": np.full(n, NOW - age),
        "ctime": np.full(n, NOW - age),
        "inode": np.arange(n) + inode,
        "scanned": np.full(n, scanned),
    }
    columns = {k: v.astype(np.int64) for k, v in (columns | changes).items()}
    none = Text.empty(n)
    return Listing(names=names, label=none, split=none, group=none, **columns)


def known(listed, name="source"):
    n = len(listed)
    digest = np.arange(n * 32, dtype=np.uint8).reshape(n, 32)
    fresh = IndexedSource.new(name, b"/root", listed)
    return dataclasses.replace(fresh, digest=digest, known=np.ones(n, bool))


def test_what_is_the_same_is_known_again():
    old = known(listing([b"a", b"b", b"c"]))
    later = listing([b"b", b"c", b"d"], scanned=NOW + 50 * SECOND)
    later = dataclasses.replace(later, inode=np.array([2, 3, 9]))
    now = old.carried_to(b"/root", later)
    assert now.known.tolist() == [True, True, False]
    np.testing.assert_array_equal(now.digest[:2], old.digest[1:])
    assert not now.digest[2].any()


@pytest.mark.parametrize("what", ["size", "mtime", "ctime", "inode"])
def test_what_changed_is_not_known(what):
    old = known(listing([b"a", b"b"]))
    changed = getattr(old.listing, what).copy()
    changed[1] += 1
    now = old.carried_to(b"/root", dataclasses.replace(old.listing, **{what: changed}))
    assert now.known.tolist() == [True, False]


def test_another_root_knows_nothing():
    old = known(listing([b"a"]))
    assert not old.carried_to(b"/other", old.listing).known.any()


@pytest.mark.parametrize("times", ["mtime", "ctime"])
@pytest.mark.parametrize(
    ("age", "trusted"),
    [(-SECOND, False), (0, False), (RACY_NANOSECONDS - 1, False), (RACY_NANOSECONDS, True)],
)
def test_a_time_close_to_the_scan_is_never_trusted(times, age, trusted):
    old = known(listing([b"a"], **{times: np.array([NOW - age])}))
    later = dataclasses.replace(old.listing, scanned=old.listing.scanned + 3600 * SECOND)
    now = old.carried_to(b"/root", later)
    assert now.known.tolist() == [trusted]


def test_distrust_is_not_forgotten_by_scanning_again():
    """The digest belongs to the first scan; a later one, far from the times, doesn't clear it."""
    old = known(listing([b"a"], age=10 * SECOND))
    for hours in (1, 2):
        later = dataclasses.replace(old.listing, scanned=np.array([NOW + hours * 3600 * SECOND]))
        old = old.carried_to(b"/root", later)
        assert old.listing.scanned.tolist() == [NOW]
        assert later.scanned.tolist() == [NOW + hours * 3600 * SECOND]  # the caller's own


def test_the_ledger_is_kept_while_the_file_stays_as_it_is():
    old = known(listing([b"a", b"b"]))
    old = dataclasses.replace(
        old,
        known=np.array([False, True]),
        failure=Text.of(["broken.", None]),
        failure_under=Text.of(["policy", None]),
    )
    same = old.carried_to(b"/root", old.listing)
    assert (same.failure[0], same.failure_under[0]) == ("broken.", "policy")
    assert same.failed.tolist() == [True, False]
    touched = dataclasses.replace(old.listing, ctime=old.listing.ctime + 1)
    assert not old.carried_to(b"/root", touched).failed.any()


def test_nothing_carries_over_to_or_from_nothing():
    empty = IndexedSource.new("source", b"/root", listing([]))
    assert len(known(listing([b"a"])).carried_to(b"/root", listing([]))) == 0
    assert empty.carried_to(b"/root", listing([b"a"])).known.tolist() == [False]


def test_text_is_short_codes_and_none():
    text = Text.of(["b", None, "a", "b"])
    assert text.vocabulary == ("a", "b")
    assert text.tolist() == ["b", None, "a", "b"]
    assert [text[i] for i in range(4)] == text.tolist()
    assert text.take(np.array([1, 2])).tolist() == [None, "a"]
    assert text.replaced({1: "c", 0: None}).tolist() == [None, "c", "a", "b"]
    assert Text.of([]).tolist() == []


def round_trip(path, index):
    path.write_bytes(hdf5.build(lambda file: fill_index(file, index)))
    with hdf5.open_inspected(str(path)) as file:
        return read_index(file)


def test_an_index_comes_back_as_it_was(tmp_path):
    names = [b"", b"\n.png", b"\xff\xfe/\x80.png", "ü/ß.png".encode(), b"x" * 255]
    odd = dataclasses.replace(
        known(listing(sorted(names)), "name \udcff\n"),
        root=b"/r\xff",
        failure=Text.of([None, "why \udcff", None, None, "ü"]),
    )
    texts = ["", "label \udc80", None, "ü\n", "a" * 70_000]
    odd = dataclasses.replace(
        odd,
        listing=dataclasses.replace(
            odd.listing,
            label=Text.of(texts),
            split=Text.of(["train"] * 5),
            extra={"b \udcff": Text.of(texts), "a": Text.empty(5), "z": Text.of(["1"] * 5)},
        ),
    )
    empty = IndexedSource.new("empty", b"/", listing([]))
    index = Index().with_source(odd).with_source(empty)
    assert list(index.sources) == ["empty", "name \udcff\n"]
    found = round_trip(tmp_path / "index.h5", index)
    assert list(found.sources) == list(index.sources)
    again = found.sources[odd.name]
    assert again.root == odd.root
    assert list(again.listing.names) == list(odd.listing.names)
    for name in ("label", "split", "group"):
        assert getattr(again.listing, name).tolist() == getattr(odd.listing, name).tolist()
    assert list(again.listing.extra) == ["b \udcff", "a", "z"]
    assert again.listing.extra["b \udcff"].tolist() == texts
    assert again.failure.tolist() == odd.failure.tolist()
    for name in ("size", "mtime", "ctime", "inode", "scanned"):
        np.testing.assert_array_equal(getattr(again.listing, name), getattr(odd.listing, name))
    np.testing.assert_array_equal(again.digest, odd.digest)
    np.testing.assert_array_equal(again.known, odd.known)
    assert len(found.sources["empty"]) == 0


def test_a_column_without_a_name_comes_back(tmp_path):
    one = known(listing([b"a"]))
    one = dataclasses.replace(
        one, listing=dataclasses.replace(one.listing, extra={"": Text.of(["x"])})
    )
    found = round_trip(tmp_path / "index.h5", Index().with_source(one))
    assert found.sources["source"].listing.extra[""].tolist() == ["x"]


def test_pages_and_what_was_found_in_other_files_come_back_and_hold_while_files_do(tmp_path):
    one = dataclasses.replace(
        known(listing([b"a.tif", b"b.gif"])),
        pages={b"a.tif": 3, b"b.gif": 2},
        sniffed={b"x": (5, 7, "PNG"), b"y": (6, 8, "")},
    )
    found = round_trip(tmp_path / "index.h5", Index().with_source(one)).sources["source"]
    assert (found.pages, found.sniffed) == (one.pages, one.sniffed)
    changed = one.listing.size + np.array([0, 1])
    later = found.carried_to(b"/root", dataclasses.replace(one.listing, size=changed))
    assert (later.pages, later.sniffed) == ({b"a.tif": 3}, one.sniffed)
    assert later.completed_by(found).pages == {b"a.tif": 3}


def test_what_was_extracted_and_the_splits_are_read_as_they_were_written(tmp_path):
    part = builders.source("s", {"a.png": "a"}).requesting("f" * 64, ["x:avg", "\udcff:max"])
    part = part.requesting("e" * 64, ["x:avg"])
    split = StoredSplit.of("kfold:2", -3, "label\udcff", {b"k" * 32: "fold1", b"a" * 32: "fold0"})
    other = StoredSplit.of("kfold:2", 0, "label", {})
    index = Index().with_source(part).with_split(split).with_split(other)
    found = round_trip(tmp_path / "index.h5", index)
    assert found.sources["s"].requested == part.requested
    assert found.splits[split.title].splits() == {b"a" * 32: "fold0", b"k" * 32: "fold1"}
    assert list(found.splits) == [split.title, other.title]
    assert found.splits[other.title].splits() == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keys", np.zeros((2, 31), np.uint8)),
        ("keys", np.zeros((3, 32), np.uint8)),
        ("split/codes", np.full(2, -1, np.int32)),
    ],
)
def test_a_split_that_does_not_fit_together_is_damage(tmp_path, name, value):
    split = StoredSplit.of("kfold:2", 0, "label", {b"k" * 32: "fold1", b"a" * 32: "fold0"})
    path = tmp_path / "index.h5"
    path.write_bytes(hdf5.build(lambda file: fill_index(file, Index().with_split(split))))
    with h5py.File(path, "r+") as file:
        del file[f"splits/0000/{name}"]
        file[f"splits/0000/{name}"] = value
    with h5py.File(path, "r") as file, pytest.raises(BankDamaged):
        read_index(file)


def test_an_index_of_a_later_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(indexfile, "INDEX_VERSION", indexfile.INDEX_VERSION + 1)
    data = hdf5.build(lambda file: fill_index(file, Index()))
    monkeypatch.undo()
    path = tmp_path / "index.h5"
    path.write_bytes(data)
    with h5py.File(path, "r") as file, pytest.raises(BankVersionError, match="install a newer"):
        read_index(file)


def test_what_another_look_has_taught_fills_what_is_unknown():
    listed = listing([b"a", b"b", b"c"])
    mine = IndexedSource.new("source", b"/root", listed)
    mine.known[0] = True
    mine.digest[0] = 7
    theirs = dataclasses.replace(
        known(listed),
        known=np.array([True, True, False]),
        failure=Text.of([None, None, "broken"]),
        failure_under=Text.of([None, None, "policy"]),
    )
    both = mine.completed_by(theirs)
    assert both.known.tolist() == [True, True, False]
    assert (both.digest[0] == 7).all()
    np.testing.assert_array_equal(both.digest[1], theirs.digest[1])
    assert both.failure.tolist() == [None, None, "broken"]
    assert both.failure_under.tolist() == [None, None, "policy"]


def test_a_look_at_another_file_teaches_nothing():
    listed = listing([b"a"])
    mine = IndexedSource.new("source", b"/root", listed)
    changed = dataclasses.replace(listed, size=listed.size + 1)
    assert not mine.completed_by(known(changed)).known.any()
    assert not mine.completed_by(None).known.any()


@pytest.mark.parametrize("name", ["root", "name"])
@pytest.mark.parametrize("value", [10**12, 3])
def test_a_number_where_a_text_belongs_is_refused(tmp_path, name, value):
    # bytes(n) of a number n would be n zeros: all of the memory.
    def change(group):
        del group["0000"].attrs[name]
        hdf5.put_attributes(group["0000"], **{name: value})

    with pytest.raises(BankDamaged, match="no text"):
        changed(tmp_path, change)


@pytest.mark.parametrize(
    ("name", "dtype"), [("name_ends", "f8"), ("name_ends", "u8"), ("name_bytes", "i2")]
)
def test_names_of_another_type_are_refused(tmp_path, name, dtype):
    def change(group):
        values = group["0000"][name][:].astype(dtype)
        del group["0000"][name]
        hdf5.put(group["0000"], name, values)

    with pytest.raises(BankDamaged, match="another type"):
        changed(tmp_path, change)


def test_a_source_that_is_named_twice_is_refused(tmp_path):
    with pytest.raises(BankDamaged, match="twice"):
        changed(tmp_path, lambda group: group.copy("0000", "0001"))


def changed(tmp_path, change):
    """Read an index of one source to which something was done."""
    index = Index().with_source(builders.source("s", {"a.png": "a", "b.png": "b"}))

    def fill(file):
        fill_index(file, index)
        change(file)

    path = tmp_path / "index.h5"
    path.write_bytes(hdf5.build(fill))
    with hdf5.open_inspected(str(path)) as file:
        return read_index(file)


def test_names_are_a_sequence_of_bytes_however_they_are_kept():
    words = [b"a/1.png", b"", b"z/\xff", b"z/\xff\n"]
    names = Names.of(words)
    assert (len(names), list(names), names[2], names[-1]) == (4, words, words[2], words[-1])
    assert names[1:3] == words[1:3]
    assert names.index(b"z/\xff") == 2
    assert Names.of(names) is names
    assert names == words
    assert names == tuple(words)
    assert names != words[:3]
    assert Names.of([b"ab", b"c"]) != Names.of([b"a", b"bc"])  # though joined they are the same
    assert names != 4
    assert list(Names.of([])) == []
    with pytest.raises(IndexError):
        names[4]
