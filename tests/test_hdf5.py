from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from featbank import hdf5
from featbank.errors import BankDamaged
from tests.conftest import PATIENCE

VALUES = np.arange(24, dtype=np.float32).reshape(6, 4)


def fill(file):
    hdf5.put_attributes(file, description="a test", count=6)
    group = file.create_group("group")
    hdf5.put(group, "values", VALUES, description="numbers")
    hdf5.put(group, "none", np.empty((0, 4), np.float32))


def written(path, data):
    path.write_bytes(data)
    return str(path)


def test_the_same_content_gives_the_same_bytes_at_any_time():
    first = hdf5.build(fill)
    time.sleep(1.1)  # HDF5's own times tick in seconds
    assert hdf5.build(fill) == first


@pytest.mark.parametrize("user_block", [False, True])
def test_what_was_put_comes_back_mapped_and_aligned(tmp_path, user_block):
    path = written(tmp_path / "file.h5", hdf5.build(fill, user_block=user_block))
    with hdf5.open_inspected(path) as file:
        assert hdf5.read_attributes(file) == {"description": "a test", "count": 6}
        place = hdf5.place(file["group/values"])
        empty = hdf5.place(file["group/none"])
        np.testing.assert_array_equal(file["group/values"][:], VALUES)
    mapped = place.map(path)
    np.testing.assert_array_equal(mapped, VALUES)
    assert place.offset % 64 == 0
    assert not mapped.flags.writeable
    assert empty.map(path).shape == (0, 4)


def placed(tmp_path, values):
    """Return a file of one array, and where that lies in it."""
    data = hdf5.build(lambda file: hdf5.put(file, "values", values))
    path = written(tmp_path / "file.h5", data)
    with hdf5.open_inspected(path) as file:
        return path, hdf5.place(file["values"])


@pytest.fixture
def spied(monkeypatch):
    """Let the system read at most so many bytes a call; tell what it was asked for."""
    calls, most, preadv = [], [1 << 30], os.preadv

    def read(handle, parts, offset):
        assert len(parts) <= os.sysconf("SC_IOV_MAX")
        data = os.pread(handle, min(sum(map(len, parts)), most[0]), offset)
        calls.append(len(data))
        return preadv(handle, parts, offset) if most[0] == 1 << 30 else scatter(data, parts)

    def scatter(data, parts):
        done = 0
        for part in parts:
            some = data[done : done + len(part)]
            part[: len(some)] = some
            done += len(some)
        return done

    monkeypatch.setattr(os, "preadv", read)
    return calls, most


@pytest.mark.parametrize("most", [1 << 30, 7, 100])
def test_rows_are_read_into_any_order_however_little_a_call_brings(tmp_path, spied, most):
    values = np.random.default_rng(0).random((3000, 5)).astype(np.float16)
    path, place = placed(tmp_path, values)
    spied[1][0] = most
    rng = np.random.default_rng(1)
    every = np.arange(len(values))
    for rows, to in (
        (every, every),
        (every, every[::-1]),
        (every, rng.permutation(every)),
        (np.array([0, 1, 2, 2, 2, 7, 8, 2999]), np.array([4, 5, 0, 1, 6, 2, 3, 7])),
        (every[:0], every[:0]),
    ):
        out = np.full((len(rows), 5), np.nan, np.float16)
        place.read(path, rows, out, to)
        np.testing.assert_array_equal(out[to], values[rows])


def test_rows_that_follow_one_another_take_one_call_and_no_others_are_read(tmp_path, spied):
    values = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    path, place = placed(tmp_path, values)
    calls, _ = spied
    rows = np.array([3, 4, 5, 6, 900, 901])
    place.read(path, rows, np.empty((6, 4), np.float32), np.array([5, 3, 4, 0, 1, 2]))
    assert calls == [4 * 16, 2 * 16]


def test_rows_of_a_file_that_was_cut_off_or_put_elsewhere_are_damage(tmp_path):
    path, place = placed(tmp_path, VALUES)
    rows, out = np.arange(6), np.empty_like(VALUES)
    moved = tmp_path / "moved.h5"
    os.rename(path, moved)
    os.symlink(moved, path)
    with pytest.raises(BankDamaged, match="is a link"):
        place.read(path, rows, out, rows)
    os.unlink(path)
    with pytest.raises(FileNotFoundError):
        place.read(path, rows, out, rows)
    os.truncate(moved, place.offset + VALUES.nbytes - 1)
    with pytest.raises(BankDamaged, match="shorter"):
        place.read(str(moved), rows, out, rows)


def test_a_seal_sees_every_kind_of_damage(tmp_path):
    data = bytes(hdf5.seal(hdf5.build(fill, user_block=True)))
    hdf5.check_seal(written(tmp_path / "whole.h5", data))
    rng = np.random.default_rng(0)
    for bit in rng.integers(0, len(data) * 8, 300):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(BankDamaged):
            hdf5.check_seal(written(tmp_path / "flipped.h5", damaged))
    for length in (0, 1, 100, 511, 512, 513, len(data) - 1):
        with pytest.raises(BankDamaged):
            hdf5.check_seal(written(tmp_path / "short.h5", data[:length]))
    with pytest.raises(BankDamaged):
        hdf5.check_seal(written(tmp_path / "long.h5", data + b"\0"))


def hostile(kind, path, outside):
    """Write a file that would read, follow or take what a stranger chose."""
    with h5py.File(path, "w") as file:
        fill(file)
        if kind == "external storage":
            file.create_dataset("x", (4,), "f4", external=[(outside, 0, 16)])
        elif kind == "external link":
            file["x"] = h5py.ExternalLink(outside, "/x")
        elif kind == "soft link":
            file["x"] = h5py.SoftLink("/group/values")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(outside, "x", (4,))
            file.create_virtual_dataset("x", layout)
        elif kind == "virtual without end":
            layout = h5py.VirtualLayout((4,), "f4", maxshape=(None,))
            source = h5py.VirtualSource(outside, "x", (4,), maxshape=(None,))
            layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
            file.create_virtual_dataset("x", layout)
        elif kind == "chunked":
            file.create_dataset("x", (4,), "f4", chunks=(2,))
        elif kind == "filtered":
            file.create_dataset("x", (4,), "f4", compression="gzip")
        elif kind == "compact":
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_layout(h5py.h5d.COMPACT)
            h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), plan)
        elif kind == "terabytes":
            file.create_dataset("x", (1 << 40,), "f8")
        elif kind == "strings of any length":
            file.create_dataset("x", data=["a", "b"], dtype=h5py.string_dtype())
        elif kind == "compound":
            file.create_dataset("x", (2,), np.dtype([("a", "f4"), ("b", "i4")]))
        elif kind == "references":
            file.create_dataset("x", (1,), h5py.ref_dtype)
        elif kind == "boolean":
            file.create_dataset("x", data=np.array([True]))
        elif kind == "no space":
            file["x"] = h5py.Empty("f4")
        elif kind == "named type":
            file["x"] = np.dtype("f4")
        elif kind == "loop":
            file["group/loop"] = file["/"]
        elif kind == "self":
            file["group/loop"] = file["group"]
        elif kind == "second name":
            file["group/again"] = file["group/values"]
        elif kind == "deep":
            file.create_group("/".join("abcdefghij"))
        elif kind == "wide attribute":
            file.attrs["x"] = np.arange(10)
        elif kind == "text attribute of any length":
            file.attrs["x"] = "text"
        elif kind == "empty attribute":
            file["group"].attrs["x"] = h5py.Empty("f4")
        elif kind == "endless attribute":
            file.attrs["x"] = np.float64("inf")
        elif kind == "many attributes":
            for i in range(100):
                file["group"].attrs.create(str(i), i)
        elif kind == "no rows of endless width":
            file.create_dataset("x", (0, 1 << 62), "f4")
        else:
            raise AssertionError(kind)


KINDS = (
    "external storage", "external link", "soft link", "virtual", "virtual without end", "chunked",
    "filtered", "compact", "terabytes", "strings of any length", "compound",
    "references", "boolean", "no space", "named type", "loop", "self", "second name", "deep",
    "wide attribute", "text attribute of any length", "empty attribute", "endless attribute",
    "many attributes", "no rows of endless width",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_featbank_never_writes_is_refused(tmp_path, kind):
    path = str(tmp_path / "file.h5")
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret!!" * 4)
    hostile(kind, path, str(outside))
    before = hashlib.sha256(outside.read_bytes()).digest()
    with pytest.raises(BankDamaged, match=r"file\.h5 is refused: "), hdf5.open_inspected(path):
        pass
    assert hashlib.sha256(outside.read_bytes()).digest() == before


@pytest.mark.parametrize("user_block", [0, hdf5.USER_BLOCK])
def test_a_dataset_that_was_never_written_is_refused(tmp_path, user_block):
    # With a user block HDF5 gives even that a place: inside the user block.
    path = str(tmp_path / "file.h5")
    with h5py.File(path, "w", userblock_size=user_block) as file:
        fill(file)
        file.create_dataset("x", (40, 3), "f4", fillvalue=7)
    with pytest.raises(BankDamaged, match="declares more"), hdf5.open_inspected(path):
        pass


def test_datasets_in_one_place_are_refused(tmp_path):
    data = hdf5.build(fill)
    path = written(tmp_path / "file.h5", data)
    with h5py.File(path, "r+") as file:
        file["more"] = VALUES
        first, second = (file[name].id.get_offset() for name in ("group/values", "more"))
    changed = (tmp_path / "file.h5").read_bytes()
    places = second.to_bytes(8, "little")
    assert changed.count(places) == 1
    path = written(tmp_path / "file.h5", changed.replace(places, first.to_bytes(8, "little")))
    with pytest.raises(BankDamaged, match="same place"), hdf5.open_inspected(path):
        pass


def test_a_name_without_end_does_not_fill_the_message(tmp_path):
    path = str(tmp_path / "file.h5")
    with h5py.File(path, "w") as file:
        file["x" * 60_000] = h5py.SoftLink("/")
    with pytest.raises(BankDamaged, match="link") as caught, hdf5.open_inspected(path):
        pass
    assert len(str(caught.value)) < 600


OPEN = """
import sys
from featbank import hdf5
from featbank.errors import BankDamaged
for path in sys.argv[1:]:
    try:
        with hdf5.open_inspected(path): pass
    except BankDamaged:
        print("refused", flush=True)
"""


def test_files_outside_are_not_even_opened(tmp_path):
    # Who opens a pipe that nobody writes to waits for ever.
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    paths = []
    for kind in ("external storage", "external link", "virtual", "virtual without end"):
        paths.append(str(tmp_path / f"{kind}.h5"))
        hostile(kind, paths[-1], pipe)
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *paths], stdout=subprocess.PIPE, timeout=PATIENCE, check=True
    )
    assert done.stdout.split() == [b"refused"] * len(paths)


def test_mutated_files_are_refused_or_read_and_never_crash(tmp_path):
    data = hdf5.build(fill)
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(400):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = rng.integers(256)
        path = written(tmp_path / "file.h5", damaged)
        try:
            with hdf5.open_inspected(path) as file:
                hdf5.read_attributes(file)
        except (BankDamaged, ValueError, KeyError, TypeError, OSError, AttributeError):
            refused += 1
    assert 0 < refused < 400


@pytest.mark.parametrize("data", [b"", b"\x89HDF\r\n\x1a\n", b"text" * 1000, os.urandom(2048)])
def test_what_is_no_hdf5_is_named_so(tmp_path, data):
    path = written(tmp_path / "file.h5", data)
    with pytest.raises(BankDamaged, match="can't be read as HDF5"), hdf5.open_inspected(path):
        pass


def test_a_file_that_is_missing_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError), hdf5.open_inspected(str(tmp_path / "none.h5")):
        pass


def test_a_truncated_file_is_refused(tmp_path):
    data = hdf5.build(fill)
    for length in range(0, len(data), 97):
        path = written(tmp_path / "file.h5", data[:length])
        with pytest.raises(BankDamaged), hdf5.open_inspected(path):
            pass


def test_files_are_built_in_any_file_like_object():
    buffer = io.BytesIO()
    with hdf5.create(buffer, user_block=False) as file:
        fill(file)
    assert buffer.getvalue() == bytes(hdf5.build(fill))
