from __future__ import annotations

import csv
import errno
import json
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from featbank import export
from featbank.bank.bank import Bank
from featbank.bank.maintenance import compact
from featbank.errors import AmbiguousFeatures, BankError, FeaturesMissing, MissingDependency
from tests.bank.builders import COLUMN, LAYER, OTHER, RECIPE, features, filled, keys, source
from tests.faults import error_of, faulty

STRANGE = 'stränge,"quoted"\nline\r\tend \' x'


def strange(path: Path) -> Bank:
    """Return a bank whose names, labels and columns hold what tables find hard."""
    bank = Bank.create(path)
    names = [f"{STRANGE}.png", b"\xff\xfe.png", "plain.png", "again.png", "broken.png"]
    contents = dict(zip(names, ["one", "two", "three", "three", None], strict=True))
    labels = {b"again.png": None, b"broken.png": "x", b"plain.png": STRANGE}
    order = sorted(map(os.fsencode, names))
    part = source(
        "data",
        contents,
        labels=[labels.get(name, "x\udcff") for name in order],
        splits=["train" if name == b"plain.png" else None for name in order],
        groups=["g,1" for _ in order],
        extra={"path": [str(i) for i in range(5)], "age\n": [None, "1", "2", "3", "4"]},
    )
    bank.update([part, source("more", {"a.png": "one"}, extra={"sex": ["f"]})])
    bank.register(RECIPE, {})
    words = ["one", "two", "three"]
    bank.seal(RECIPE, keys(words), {c: features(words, c) for c in (COLUMN, LAYER)})
    return bank


def read_csv(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.reader(file, strict=True))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("make", [filled, strange])
def test_npz_holds_everything_and_needs_no_pickle(tmp_path, make, packed):
    bank = make(tmp_path / "bank")
    if packed:
        bank = Bank(compact(bank))
    chosen = bank.select(layer=["stage", "penultimate"])

    done = export(bank, tmp_path / "out.npz", layer=["stage", "penultimate"])

    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        found = dict(file)
    assert np.array_equal(found["X"], chosen.X)
    assert found["X"].dtype == chosen.X.dtype
    assert found["path"].tolist() == chosen.paths
    assert found["source"].tolist() == chosen.sources
    for name, words in (
        ("label", chosen.labels),
        ("split", chosen.splits),
        ("group", chosen.groups),
    ):
        assert [word or None for word in found[name].tolist()] == words
    assert np.array_equal(found["digest"], chosen.digests)
    extra = dict(zip(found["extra_names"].tolist(), found["extra"].tolist(), strict=True))
    assert extra == (
        {"age": ["", "", "1", "", "3", "5"]}
        if make is filled
        else {
            "path": ["0", "2", "3", "4", ""],
            "age\n": ["", "2", "3", "4", ""],
            "sex": [""] * 4 + ["f"],
        }
    )
    assert json.loads(found["columns"].item()) == [LAYER.name, COLUMN.name]
    assert json.loads(found["recipe"].item()) == json.loads(json.dumps(RECIPE.to_dict()))
    assert (done.rows, done.width) == chosen.X.shape
    assert done.files == (str(tmp_path / "out.npz"),)


@pytest.mark.parametrize("layer", ["stage", "penultimate"])
@pytest.mark.parametrize("make", [filled, strange])
def test_npy_has_its_table_beside_it(tmp_path, make, layer):
    bank = make(tmp_path / "bank")
    chosen = bank.select(layer=layer)

    done = export(bank, tmp_path / "out.npy", layer=layer)

    assert done.files == (str(tmp_path / "out.npy"), str(tmp_path / "out.csv"))
    X = np.load(tmp_path / "out.npy", mmap_mode="r")
    assert X.dtype == chosen.X.dtype
    assert np.array_equal(X, chosen.X)
    header, *rows = read_csv(tmp_path / "out.csv")
    assert header[:6] == ["path", "source", "label", "split", "group", "sha256"]
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    assert list(columns["path"]) == chosen.paths
    assert [word or None for word in columns["label"]] == chosen.labels
    assert [word or None for word in columns["split"]] == chosen.splits
    assert [word or None for word in columns["group"]] == chosen.groups
    assert [bytes.fromhex(word) for word in columns["sha256"]] == [
        digest.tobytes() for digest in chosen.digests
    ]
    if make is strange:
        assert header[6:] == ["path-2", "age\n", "sex"]
        assert columns["path-2"] == ("0", "2", "3", "4", "")


def test_names_that_are_no_text_find_their_files_again(tmp_path):
    bank = strange(tmp_path / "bank")
    export(bank, tmp_path / "out.npy", layer="stage")
    paths = [row[0] for row in read_csv(tmp_path / "out.csv")[1:]]
    assert b"/images/\xff\xfe.png" in [os.fsencode(path) for path in paths]


@pytest.mark.parametrize("make", [filled, strange])
def test_parquet_holds_table_and_numbers(tmp_path, make):
    parquet = pytest.importorskip("pyarrow.parquet")
    bank = make(tmp_path / "bank")
    for layer in ("stage", "penultimate"):
        chosen = bank.select(layer=layer)
        export(bank, tmp_path / "out.parquet", layer=layer, force=True)
        table = parquet.read_table(tmp_path / "out.parquet")
        X = np.array(table["features"].to_pylist(), chosen.X.dtype)
        assert np.array_equal(X, chosen.X)
        assert [w is None for w in table["label"].to_pylist()] == [w is None for w in chosen.labels]
        assert table["sha256"].to_pylist() == [d.tobytes().hex() for d in chosen.digests]
        names = [path.encode("utf-8", "surrogateescape") for path in chosen.paths]
        assert table["path"].to_pylist() == [n.decode("utf-8", "backslashreplace") for n in names]
        metadata = {key.decode(): json.loads(value) for key, value in table.schema.metadata.items()}
        assert metadata["featbank.columns"] == [c.name for c in chosen.columns]


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    bank = filled(tmp_path / "bank")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match="extra parquet"):
        export(bank, tmp_path / "out.parquet", layer="stage")
    assert os.listdir(tmp_path) == ["bank"]


def test_words_choose_what_is_written_as_they_do_for_reading(tmp_path):
    bank = filled(tmp_path / "bank")
    words = {"layer": "stage", "split": "train", "source": "birds", "label": "age"}
    export(bank.path, tmp_path / "out.npz", recipe="net", view="identity", **words)
    with np.load(tmp_path / "out.npz") as found:
        assert found["label"].tolist() == ["1", ""]
        assert np.array_equal(found["X"], features(["one", "two"], LAYER))


def test_what_can_not_be_exported_is_one_clear_error_and_no_file(tmp_path):
    bank = filled(tmp_path / "bank")
    for name, words, kind, said in (
        ("out.npz", {}, AmbiguousFeatures, "several columns"),
        ("out.npz", {"recipe": "nothing"}, FeaturesMissing, "no recipe"),
        ("out.mat", {"layer": "stage"}, BankError, "valid names are .npy, .npz, .parquet"),
        ("out", {"layer": "stage"}, BankError, "the ending says the format"),
        ("folder.npz", {"layer": "stage", "force": True}, BankError, "is a folder"),
    ):
        (tmp_path / "folder.npz").mkdir(exist_ok=True)
        with pytest.raises(kind, match=said):
            export(bank, tmp_path / name, **words)
    assert sorted(os.listdir(tmp_path)) == ["bank", "folder.npz"]
    bank.register(OTHER, {})
    with pytest.raises(FeaturesMissing):
        export(bank, tmp_path / "out.npz", recipe="other")


@pytest.mark.parametrize("there", ["out.npy", "out.csv"])
def test_a_file_that_is_there_stays_without_force(tmp_path, there):
    bank = filled(tmp_path / "bank")
    (tmp_path / there).write_text("mine")
    with pytest.raises(BankError, match="is there already"):
        export(bank, tmp_path / "out.npy", layer="stage")
    assert (tmp_path / there).read_text() == "mine"

    export(bank, tmp_path / "out.npy", layer="stage", force=True)

    assert len(np.load(tmp_path / "out.npy")) == len(read_csv(tmp_path / "out.csv")) - 1 == 6


@pytest.mark.parametrize("name", ["out.npz", "out.npy"])
def test_an_error_of_the_disk_leaves_the_old_files_or_the_new_ones(tmp_path, name):
    bank, target = filled(tmp_path / "bank"), tmp_path / "out" / name
    bank.select(layer="stage")  # what reading remembers is written before
    export(bank, target, layer="penultimate", source="ants")
    old = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    failures = 0
    for step in range(10_000):
        with faulty(step, number=errno.ENOSPC) as fs:
            error = error_of(lambda: export(bank, target, layer="stage", force=True))
        if fs.failed is None:
            break
        if error is None:  # a temporary could not be removed
            continue
        failures += 1
        found = {path.name: path.read_bytes() for path in target.parent.iterdir()}
        if fs.failed not in ("sync_directory", "unlink", "sync", "replace"):
            assert found == old
        if name == "out.npy" and "out.npy" in found:  # numbers never stand beside another table
            assert (found["out.npy"] == old["out.npy"]) == (found["out.csv"] == old["out.csv"])
        for path in target.parent.iterdir():
            path.unlink()
        for other, data in old.items():
            (target.parent / other).write_bytes(data)
    assert failures > 3


def test_features_are_not_brought_into_memory_whole(tmp_path):
    bank = Bank.create(tmp_path / "bank")
    n, width = 20_000, 1024
    digests = np.random.default_rng(0).integers(0, 256, (n, 32), dtype=np.uint8)
    part = source("data", {f"{i:05}.png": "x" for i in range(n)})
    part.digest[:] = digests
    bank.update([part])
    bank.register(RECIPE, {})
    values = np.arange(n * width, dtype=np.float32).reshape(n, width)
    bank.seal(RECIPE, digests, {COLUMN: values})
    bank = Bank(bank.path)
    bank.rows(RECIPE.fingerprint, COLUMN)
    for name in ("out.npy", "out.npz"):
        tracemalloc.start()
        export(bank, tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < values.nbytes, name
    assert np.array_equal(np.load(tmp_path / "out.npy"), values)
