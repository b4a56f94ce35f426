"""Banks and classifiers of format 1, as the first featbank wrote them, are read rightly."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import Bank, Classifier, Column, hdf5, merge, repair, verify
from featbank.classifier import FORMAT_VERSION
from featbank.data.index import IndexedSource
from featbank.errors import BankError, BankVersionError, ClassifierError

HERE = Path(__file__).parent / "v1"
WORDS = ["one", "two", "three", "in no index"]
COLUMN, LAYER = Column(), Column("stage", "max", dtype="float16")
X = np.array([[0, 0, 0], [1, 0, 1], [4, 4, 4], [5, 4, 5]], np.float32)


def key(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()


def features(number: int, column: Column, words: list[str]) -> np.ndarray:
    steps = np.arange(3 if column == COLUMN else 2) / 4
    rows = [100 * number + 10 * WORDS.index(word) + steps for word in words]
    return np.asarray(rows, column.dtype)


@pytest.fixture(params=["bank", "codes.h5", "merged", "repaired", "compacted.h5"])
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Bank:
    """The stored bank as it is, and after each thing that may be done with it."""
    for name in ("bank", "codes.h5"):  # a copy: reading leaves a cache beside a bank's files
        stored = HERE / name
        (shutil.copytree if stored.is_dir() else shutil.copyfile)(stored, tmp_path / name)
    path = tmp_path / request.param
    if request.param == "merged":
        merge(path, [tmp_path / "bank", tmp_path / "codes.h5"])
    elif request.param == "repaired":
        os.rename(tmp_path / "bank", path)
        repair(path)
    elif request.param == "compacted.h5":
        merge(path, [tmp_path / "bank"])
    return Bank(path)


def test_it_is_whole(bank: Bank) -> None:
    found = verify(bank)
    assert found.ok
    assert found.rows >= 8


def test_every_number_is_what_was_stored(bank: Bank) -> None:
    assert [known.recipe.backbone for known in bank.recipes] == ["first", "second"]
    for number, known in enumerate(bank.recipes):
        for column in (COLUMN, LAYER):
            rows = bank.rows(known.fingerprint, column)
            keys = np.array([np.frombuffer(key(word), np.uint8) for word in WORDS])
            assert len(rows) == 4
            assert np.array_equal(rows.read(rows.find(keys)), features(number, column, WORDS))
            found = bank.features(known.recipe, column.name)
            assert found.dtype == column.dtype
            wanted = features(number, column, ["one", "two", "one", "three"])
            assert np.array_equal(found, wanted)


def test_the_index_is_what_was_stored(bank: Bank) -> None:
    part: IndexedSource = bank.index.sources["birds"]
    listing = part.listing
    assert bank.sources["birds"]["root"] == os.fsdecode(part.root) == "/images/birds"
    assert list(listing.names) == [b"x/1.png", b"x/2.png", b"y/3.png", b"y/4.png", b"z/\xff\n.png"]
    assert listing.label.tolist() == ["x", "x", "y", "y", "zé"]
    assert listing.split.tolist() == ["train", "train", "test", None, "test"]
    assert listing.group.tolist() == ["g1", "g2", "g1", None, None]
    assert listing.extra["age"].tolist() == ["1", None, "3", "4", "5"]
    assert part.failure.tolist() == [None, None, None, "it is broken.", None]
    assert part.failure_under.tolist() == [None, None, None, "policy", None]
    assert part.known.tolist() == [True, True, True, False, True]
    words = ["one", "two", "one", None, "three"]
    assert [d.tobytes() for d in part.digest] == [key(w) if w else bytes(32) for w in words]
    numbers = np.arange(5)
    stat = [numbers + 100, numbers + 10**18, numbers + 10**18 + 1, numbers + 7]
    assert np.array_equal(listing.stat, np.stack(stat, axis=1))
    assert np.array_equal(listing.scanned, numbers + 2 * 10**18)


@pytest.mark.filterwarnings("ignore")  # of scikit-learn: an older one fitted it
def test_a_classifier_predicts_as_it_did() -> None:
    classifier = Classifier.load(HERE / "logreg.skops")
    assert classifier.classes == ("x", "y")
    assert classifier.columns == (COLUMN,)
    assert classifier.recipe.backbone == "first"
    wanted = np.loadtxt(HERE / "logreg.txt")
    np.testing.assert_allclose(classifier.predict_proba(X), wanted, rtol=1e-6)


def later(path: Path, group: str) -> None:
    """Raise the version in a group of an HDF5 file, as a later featbank would have it."""
    with h5py.File(path, "r+") as file:
        file[group].attrs["version"] = np.int64(99)


def sealed_anew(path: Path) -> None:
    path.write_bytes(hdf5.seal(bytearray(path.read_bytes())))


@pytest.mark.parametrize(
    "what", ["bank", "recipe", "sources", "shard", "index", "packed", "packed index"]
)
def test_a_later_version_says_what_to_install(tmp_path: Path, what: str) -> None:
    shutil.copytree(HERE / "bank", tmp_path / "bank")
    shutil.copyfile(HERE / "codes.h5", tmp_path / "codes.h5")
    path = tmp_path / ("codes.h5" if "packed" in what else "bank")
    if what == "bank":
        (path / "bank.json").write_text('{"featbank": "bank", "format": 99}')
    elif what in ("recipe", "sources"):
        for document in path.glob(f"**/{what}.json"):
            content = {**json.loads(document.read_text()), "format": 99}
            document.write_text(json.dumps({"format": 99, **content}))
    elif what == "shard":
        old = next(path.glob("first-*/??/*.h5"))
        later(old, "/")
        digest = hashlib.sha256(old.read_bytes()).hexdigest()
        new = old.parent.parent / digest[:2] / f"{digest}.h5"
        new.parent.mkdir(exist_ok=True)
        old.rename(new)
    elif what == "index":
        later(path / "index.h5", "/")
        sealed_anew(path / "index.h5")
    else:
        later(path, "/index" if "index" in what else "/")
        sealed_anew(path)
    for read in (
        lambda: (Bank(path).sources, Bank(path).select("first", "stage")),
        lambda: merge(tmp_path / "new", [path]),
    ):
        with pytest.raises(BankVersionError, match="install a newer featbank") as caught:
            read()
        assert str(caught.value).count(". ") == 0
    assert not (tmp_path / "new").exists()


def test_a_recipe_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """A field that this featbank does not know changes the fingerprint; it can't be left out."""
    shutil.copytree(HERE / "bank", tmp_path / "bank")
    path = next(tmp_path.glob("bank/first-*/recipe.json"))
    document = json.loads(path.read_text())
    document["recipe"]["quantisation"] = "int8"
    path.write_text(json.dumps(document))
    with pytest.raises(BankError, match="recipe"):
        _ = Bank(tmp_path / "bank").recipes


def test_a_classifier_of_a_later_version_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier.load(HERE / "logreg.skops")
    monkeypatch.setattr("featbank.classifier.FORMAT_VERSION", FORMAT_VERSION + 1)
    classifier.save(tmp_path / "later.skops")
    monkeypatch.undo()
    with pytest.raises(ClassifierError, match="install that version or a later one"):
        Classifier.load(tmp_path / "later.skops")
