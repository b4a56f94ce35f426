"""HDF5 files, sealed and inspected: built whole, digested, and walked before anything is read.

featbank writes plain HDF5: contiguous, uncompressed datasets of fixed-size types, hard links only,
attributes of fixed-length text and numbers. A file is built once and never opened for writing
again. What a stranger sends is walked by `inspect` first; a file that points outside itself,
declares more than it holds or uses anything else than the above is refused.

A *sealed* file starts with a user block of 512 bytes that holds the SHA-256 of all the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from featbank.errors import BankDamaged
from featbank.regular import NotRegular, check_regular, open_regular

__all__ = [
    "USER_BLOCK",
    "Place",
    "build",
    "check_seal",
    "create",
    "inspect",
    "is_sealed",
    "open_inspected",
    "place",
    "put",
    "put_attributes",
    "read_attributes",
    "read_bytes",
    "seal",
]

USER_BLOCK = 512
_MAGIC = b"featbank sealed file 1\nsha256 "
_ALIGNMENT = 64  # bytes: a memory map of any column starts on a cache line
_PARTS = 1024  # what one call may fill: IOV_MAX of Linux, macOS and the BSDs
_MAX_DEPTH = 6
_MAX_OBJECTS = 100_000
_MAX_LENGTH = 1 << 40
_SHOWN = 200  # characters of a name in a message
_MAX_ATTRIBUTE = 1 << 20  # bytes
_MAX_ATTRIBUTES = 64  # of one object


def create(target: Any, *, user_block: bool) -> h5py.File:
    """Open a new HDF5 file in the file-like object `target`."""
    return h5py.File(
        target,
        "w",
        userblock_size=USER_BLOCK if user_block else 0,
        alignment_threshold=_ALIGNMENT,
        alignment_interval=_ALIGNMENT,
    )


def build(fill: Callable[[h5py.File], None], *, user_block: bool = False) -> memoryview:
    """Return the bytes of an HDF5 file that `fill` has filled; the same content, the same bytes."""
    buffer = io.BytesIO()
    with create(buffer, user_block=user_block) as file:
        fill(file)
    return buffer.getbuffer()


def seal(data: bytearray | memoryview) -> bytearray | memoryview:
    """Put the digest of what follows the user block into it, and return `data`."""
    data[:USER_BLOCK] = seal_block(hashlib.sha256(memoryview(data)[USER_BLOCK:]).hexdigest())
    return data


def seal_block(digest: str) -> bytes:
    """Return the user block that holds `digest`."""
    return (_MAGIC + digest.encode() + b"\n").ljust(USER_BLOCK, b"\0")


def is_sealed(path: str) -> bool:
    """Tell whether a file starts as a sealed one does; its digest is not compared."""
    try:
        with open_regular(path) as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except NotRegular:
        return False


def check_seal(path: str, *, follow: bool = True) -> None:
    """Compare a sealed file's bytes with the digest in its user block.

    Parameters
    ----------
    path : str
    follow : bool
        Whether it may be a link to the file.

    Raises
    ------
    BankDamaged
        They differ, or the file has no seal, or is none.
    """
    try:
        with open_regular(path, follow=follow) as file:
            block = file.read(USER_BLOCK)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except NotRegular as error:
        raise BankDamaged(f"{path} {error.strerror}.") from error
    if not block.startswith(_MAGIC):
        raise BankDamaged(f"{path} is not a file that featbank sealed.")
    if block != seal_block(digest):
        raise BankDamaged(
            f"{path} does not hold the bytes that were sealed; bring it again from a copy."
        )


def put(
    group: h5py.Group, name: str, data: npt.NDArray[Any], *, description: str = ""
) -> h5py.Dataset:
    """Add an array, contiguous and uncompressed."""
    dataset = group.create_dataset(name, data=np.ascontiguousarray(data), track_times=False)
    if description:
        put_attributes(dataset, description=description)
    return dataset


def put_attributes(target: h5py.HLObject, **values: str | int | bytes) -> None:
    """Add attributes: text as fixed-length bytes, whole numbers as int64."""
    for name, value in values.items():
        if isinstance(value, str):
            value = value.encode()
        target.attrs[name] = np.bytes_(value) if isinstance(value, bytes) else np.int64(value)


def read_attributes(target: h5py.HLObject) -> dict[str, Any]:
    """Return the attributes of an inspected object: text as str, numbers as int.

    Raises
    ------
    ValueError
        A text is not UTF-8.
    """
    found: dict[str, Any] = {}
    for name in target.attrs:
        value = target.attrs[name]
        found[name] = value.decode() if isinstance(value, bytes) else int(value)
    return found


def read_bytes(target: h5py.HLObject, name: str) -> bytes:
    """Return an attribute that is text of any encoding.

    Raises
    ------
    KeyError, TypeError
        There is none, or it is a number.
    """
    value = target.attrs[name]
    if not isinstance(value, bytes):
        raise TypeError(f"{name} is {value!r} and no text")
    return bytes(value)


@dataclass(frozen=True)
class Place:
    """Where a dataset lies in its file.

    Attributes
    ----------
    offset : int
        Bytes from the file's start.
    shape : tuple of int
    dtype : numpy.dtype
    """

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def map(self, path: str) -> npt.NDArray[Any]:
        """Return the array, mapped from `path` and read-only."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        array: npt.NDArray[Any] = np.memmap(
            path, dtype=self.dtype, mode="r", offset=self.offset, shape=self.shape
        )
        return array.view(np.ndarray)

    def read(
        self,
        path: str,
        rows: npt.NDArray[np.int64],
        out: npt.NDArray[Any],
        to: npt.NDArray[np.int64],
    ) -> None:
        """Read some rows of the two-dimensional array, and nothing else of the file.

        Rows that follow one another in the file are read by one call, wherever they go.

        Parameters
        ----------
        path : str
        rows : ndarray of shape (K,), int64
        out : ndarray of shape (N, D)
            Contiguous, of this dtype and as wide as the array.
        to : ndarray of shape (K,), int64
            Which row of `out` each of `rows` becomes.

        Raises
        ------
        BankDamaged
            The file is shorter than it was, or is none.
        """
        width = out.shape[1] * out.itemsize
        if not len(rows) or not width:
            return
        jump = np.diff(rows, prepend=-2) != 1
        starts = np.flatnonzero(jump | (np.diff(to, prepend=-2) != 1))
        memory = out.data.cast("B")
        first = to[starts] * width
        last = first + np.diff(starts, append=len(rows)) * width
        parts = [memory[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
        bounds = [*np.flatnonzero(jump[starts]).tolist(), len(parts)]
        offsets = (self.offset + rows[starts] * width).tolist()
        try:
            with open_regular(path, follow=False) as file:
                for a, b in itertools.pairwise(bounds):
                    _read_into(file.fileno(), parts[a:b], offsets[a])
        except NotRegular as error:
            raise BankDamaged(f"{path} {error.strerror}.") from error
        except EOFError:
            raise BankDamaged(f"{path} is shorter than it was when it was opened.") from None


def _read_into(handle: int, parts: list[memoryview], offset: int) -> None:
    """Fill `parts`, one after another, with a file's bytes from `offset` on."""
    while parts:
        count = os.preadv(handle, parts[:_PARTS], offset)
        if not count:
            raise EOFError
        offset += count
        filled = 0
        while filled < len(parts) and count >= len(parts[filled]):
            count -= len(parts[filled])
            filled += 1
        parts = parts[filled:]
        if count:
            parts[0] = parts[0][count:]


def place(dataset: h5py.Dataset) -> Place:
    """Return where an inspected dataset lies."""
    return Place(int(dataset.id.get_offset() or 0), dataset.shape, dataset.dtype)


@contextlib.contextmanager
def open_inspected(path: str) -> Iterator[h5py.File]:
    """Open a file for reading and walk it before anything else is read.

    Raises
    ------
    BankDamaged
        The file is no HDF5 file, or is not one that featbank would write.
    """
    try:
        check_regular(path)
        # Sealed files never change, so nobody needs a lock; locking fails on some network drives.
        file = h5py.File(path, "r", locking=False)
    except FileNotFoundError:
        raise
    except NotRegular as error:
        raise BankDamaged(f"{path} {error.strerror}.") from error
    except Exception as error:  # HDF5 and h5py can raise nearly anything over damaged bytes
        raise BankDamaged(f"{path} can't be read as HDF5: {error}") from error
    with file:
        try:
            # Of the file that is open: another may have taken its name since.
            inspect(file, os.fstat(file.id.get_vfd_handle()).st_size)
        except BankDamaged as error:
            raise BankDamaged(f"{path} is refused: {error}") from error
        except Exception as error:  # as above
            raise BankDamaged(f"{path} can't be read as HDF5: {error}") from error
        yield file


def _cut(name: str | None) -> str:
    """Return a name short enough for a message."""
    text = str(name)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def inspect(file: h5py.File, size: int) -> None:
    """Walk a file of `size` bytes without reading its data, and refuse what featbank never writes.

    Raises
    ------
    BankDamaged
        The reason, without the file's name.
    """
    seen: set[Any] = set()
    extents: list[tuple[int, int]] = []

    def check_type(dtype: np.dtype[Any], what: str) -> None:
        if dtype.kind not in "iufS" or dtype.hasobject or dtype.subdtype is not None:
            raise BankDamaged(f"{what} has the type {dtype}, which featbank never writes.")

    def check_attributes(target: h5py.HLObject, what: str) -> None:
        count = h5py.h5a.get_num_attrs(target.id)
        if count > _MAX_ATTRIBUTES:
            raise BankDamaged(f"{what} has {count} attributes.")
        for i in range(count):
            attribute = h5py.h5a.open(target.id, index=i)
            if attribute.get_space().get_simple_extent_type() != h5py.h5s.SCALAR:
                raise BankDamaged(f"{what} has an attribute that is not a single value.")
            if attribute.get_type().get_size() > _MAX_ATTRIBUTE:
                raise BankDamaged(f"{what} has an attribute of over a megabyte.")
            check_type(attribute.dtype, f"an attribute of {what}")
            if attribute.dtype.kind == "f":
                raise BankDamaged(f"{what} has an attribute that is neither text nor whole.")

    def check_dataset(dataset: h5py.Dataset, what: str) -> None:
        plan = dataset.id.get_create_plist()
        if plan.get_layout() != h5py.h5d.CONTIGUOUS:
            raise BankDamaged(f"{what} is not stored contiguously.")
        if plan.get_external_count():
            raise BankDamaged(f"{what} keeps its data in another file.")
        if plan.get_nfilters():
            raise BankDamaged(f"{what} is stored through a filter.")
        if dataset.shape is None:
            raise BankDamaged(f"{what} is empty, without even a shape.")
        check_type(dataset.dtype, what)
        declared = math.prod(dataset.shape) * int(dataset.dtype.itemsize)
        offset = dataset.id.get_offset()
        # Bytes that were never given a place have one all the same in a file with a user block.
        stored = dataset.id.get_storage_size()
        if declared and (offset is None or stored < declared or offset + declared > size):
            raise BankDamaged(f"{what} declares more bytes than the file holds.")
        if max(dataset.shape, default=0) > _MAX_LENGTH:  # of an array without a single item
            raise BankDamaged(f"{what} declares a length of {max(dataset.shape)}.")
        if declared:
            extents.append((offset, offset + declared))

    def walk(group: h5py.Group, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise BankDamaged("its groups are nested too deeply.")
        check_attributes(group, f"group {_cut(group.name)}")
        if len(seen) + len(group) > _MAX_OBJECTS:
            raise BankDamaged(f"there are more than {_MAX_OBJECTS:,} objects.")
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise BankDamaged(f"{_cut(name)} is a link to somewhere else.")
            item = group[name]
            token = h5py.h5o.get_info(item.id).addr
            if token in seen:
                raise BankDamaged(f"{_cut(name)} is reached twice.")
            seen.add(token)
            if isinstance(item, h5py.Dataset):
                what = f"dataset {_cut(item.name)}"
                check_attributes(item, what)
                check_dataset(item, what)
            elif isinstance(item, h5py.Group):
                walk(item, depth + 1)
            else:
                raise BankDamaged(f"{_cut(name)} is neither a group nor a dataset.")

    walk(file, 0)
    # Bytes that many datasets share would be read many times over.
    if any(a[1] > b[0] for a, b in itertools.pairwise(sorted(extents))):
        raise BankDamaged("two of its datasets lie in the same place.")
