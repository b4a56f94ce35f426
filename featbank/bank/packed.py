"""The packed bank: a whole bank in one plain, sealed HDF5 file, the form in which codes travel.

::

    /                                   attributes: description, version
    /images/path, label, split          fixed-length text, one row an indexed image
    /features/<recipe>                  attributes: fingerprint, recipe (JSON)
    /trained_on/<recipe>                JSON text as bytes; of tuned weights, from version 2 on
    /features/<recipe>/<column>/values          (N, D) features
    /features/<recipe>/<column>/keys            (N, 32) SHA-256 of each image's bytes
    /features/<recipe>/<column>/row_of_image    (images,) row in values, -1: none
    /index                              as `featbank.data.indexfile` writes it
    /sources                            JSON text as bytes

So ``values[row_of_image[i]]`` are the features of ``/images/path[i]``. To change the format,
raise `PACKED_VERSION`, keep reading the old one, and say so in CHANGELOG.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from featbank import durable, hdf5
from featbank.backbones.recipe import Column
from featbank.bank.documents import checked_sources
from featbank.bank.rows import Rows
from featbank.bank.shard import Shard, columns_in
from featbank.data.index import Index
from featbank.data.indexfile import fill_index, read_index
from featbank.errors import BankDamaged, BankError, BankVersionError, DataError
from featbank.interrupts import held_back

if TYPE_CHECKING:
    from featbank.bank.bank import Bank

__all__ = [
    "PACKED_VERSION",
    "default_target",
    "names_file",
    "pack",
    "read_packed_index",
    "read_packed_shards",
    "read_recipes",
    "read_sources",
    "shards_folder",
    "unfinished",
]

PACKED_VERSION = 2
"""Of banks with features of tuned weights."""
UNTUNED_VERSION = 1
"""Of other banks, so that older featbanks read them; it is read like `PACKED_VERSION`."""
_BLOCK_ROWS = 4096


def pack(bank: Bank, target: str) -> None:
    """Write all of `bank` into the file `target`, atomically.

    Raises
    ------
    OSError
        The disk is full or failed; what stood at `target` stands.
    """
    index = bank.index
    tuned = {k.slug: k.trained_on for k in bank.recipes if k.trained_on is not None}
    with durable.replacing(target) as spool:
        # HDF5 writes by calling the spool, and an interrupt that falls into such a call leaves it
        # with what it has freed.
        with (
            held_back(patience=math.inf) as give_way,
            hdf5.create(spool, user_block=True) as file,
        ):
            hdf5.put_attributes(
                file,
                description="featbank packed bank: features of images (CNN codes); "
                "values[row_of_image[i]] are the features of /images/path[i]",
                version=PACKED_VERSION if tuned else UNTUNED_VERSION,
            )
            _put_images(file.create_group("images"), index)
            features = file.create_group("features")
            for known in bank.recipes:
                group = features.create_group(known.slug)
                hdf5.put_attributes(
                    group,
                    fingerprint=known.fingerprint,
                    recipe=json.dumps(known.recipe.to_dict()),
                    provenance=json.dumps(known.provenance),
                )
                shards = bank.shards(known.fingerprint)
                for column in columns_in(shards):
                    part = group.create_group(column.name)
                    _put_column(part, Rows.of(column, shards), index, give_way)
            if tuned:
                group = file.create_group("trained_on")
                for slug, one in tuned.items():
                    text = json.dumps(one.to_dict()).encode()
                    hdf5.put(group, slug, np.frombuffer(text, np.uint8), description="JSON text")
            fill_index(file.create_group("index"), index)
            text = json.dumps({"sources": list(bank.sources.values())}).encode()
            hdf5.put(file, "sources", np.frombuffer(text, np.uint8), description="JSON text")
        spool.seek(hdf5.USER_BLOCK)
        if spool.error is None:
            digest = _digest_of_rest(spool)
            spool.seek(0)
            spool.write(hdf5.seal_block(digest))


def _digest_of_rest(spool: durable.Spool) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(1 << 20)
    while count := spool.readinto(buffer):
        digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def _put_images(group: h5py.Group, index: Index) -> None:
    sources = list(index.sources.values())
    paths = [part.path(row) for part in sources for row in range(len(part))]
    texts: dict[str, list[bytes]] = {"path": paths}
    for name in ("label", "split"):
        words = [w for part in sources for w in getattr(part.listing, name).tolist()]
        texts[name] = [b"" if w is None else w.encode("utf-8", "surrogateescape") for w in words]
    for name, values in texts.items():
        width = max(1, max(map(len, values), default=1))
        hdf5.put(group, name, np.array(values, dtype=f"S{width}"), description=f"{name} of image i")


def _put_column(group: h5py.Group, rows: Rows, index: Index, give_way: Callable[[], None]) -> None:
    column = rows.column
    hdf5.put_attributes(
        group,
        count=len(rows),
        layer=column.layer,
        pooling=column.pooling,
        view=column.view,
        dtype=column.dtype,
    )
    keys = rows.keys.view(np.uint8).reshape(-1, 32)
    hdf5.put(group, "keys", keys, description="SHA-256 of each image's bytes, sorted")
    of_image = [np.where(part.known, rows.find(part.digest), -1) for part in index.sources.values()]
    hdf5.put(
        group,
        "row_of_image",
        np.concatenate([np.empty(0, np.int64), *of_image]),
        description="row of values for image i of /images; -1: it has none",
    )
    width = rows.shards[0].columns[column].shape[1]
    values = group.create_dataset(
        "values", shape=(len(rows), width), dtype=column.dtype, track_times=False
    )
    for start in range(0, len(rows), _BLOCK_ROWS):
        give_way()
        positions = np.arange(start, min(start + _BLOCK_ROWS, len(rows)))
        values[start : start + len(positions)] = rows.read(positions)


@contextmanager
def _opened(path: str) -> Iterator[h5py.File]:
    with hdf5.open_inspected(path) as file:
        try:
            version = hdf5.read_attributes(file)["version"]
            if version > PACKED_VERSION:
                raise BankVersionError(
                    f"{path} has format {version} and this featbank reads up to {PACKED_VERSION}; "
                    "install a newer featbank."
                )
            yield file
        except BankError:
            raise
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, OSError) as error:
            raise BankDamaged(f"{path} is no packed bank: {error}") from error


def read_recipes(path: str) -> list[dict[str, Any]]:
    """Return the recipes of a packed bank as ``recipe.json`` would say them."""
    with _opened(path) as file:
        found = []
        tuned = file.get("trained_on", {})
        for name in file["features"]:
            attributes = hdf5.read_attributes(file["features"][name])
            found.append(
                {
                    "fingerprint": attributes["fingerprint"],
                    "recipe": json.loads(attributes["recipe"]),
                    "provenance": json.loads(attributes["provenance"]),
                    "trained_on": json.loads(tuned[name][:].tobytes()) if name in tuned else None,
                }
            )
        return found


def read_packed_index(path: str) -> Index:
    """Return the index of a packed bank."""
    with _opened(path) as file:
        return read_index(file["index"])


def read_sources(path: str) -> dict[str, dict[str, Any]]:
    """Return what was indexed, by name."""
    with _opened(path) as file:
        try:
            return checked_sources(json.loads(file["sources"][:].tobytes()))
        except DataError as error:
            raise BankDamaged(f"{path} does not say what was indexed ({error})") from error


@dataclass(frozen=True)
class MappedShard(Shard):
    """Rows of a packed file that were mapped when they were found.

    The file's name may go to a newer file at any time; the rows stay those of this one.
    """

    values: dict[Column, Any] = field(default_factory=dict)

    def features(self, column: Column) -> Any:
        """Return a column's features, mapped and read-only, shape (N, D)."""
        return self.values[column]

    def copy(self, column: Column, rows: Any, out: Any, to: Any) -> None:
        """Copy some rows of a column into the rows `to` of `out`."""
        out[to] = self.values[column][rows]


def read_packed_shards(path: str, fingerprint: str) -> list[Shard]:
    """Return the rows of a recipe, one shard a column."""
    while True:
        before = _signature(path)
        shards = _read_shards(path, fingerprint)
        if _signature(path) == before:  # else places of one file may have been mapped in another
            return shards


def _signature(path: str) -> tuple[int, ...]:
    info = os.stat(path)
    return (info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)


def _read_shards(path: str, fingerprint: str) -> list[Shard]:
    shards: list[Shard] = []
    with _opened(path) as file:
        for group in file["features"].values():
            if hdf5.read_attributes(group)["fingerprint"] != fingerprint:
                continue
            for name in group:
                keys, place = group[name]["keys"][:], hdf5.place(group[name]["values"])
                column = Column.parse(name)
                fits = keys.shape == (place.shape[0], 32) and keys.dtype == np.uint8
                if not fits or len(place.shape) != 2 or place.dtype != column.dtype:
                    raise BankDamaged(f"{path}: the keys of {name} do not fit its values.")
                values = {column: place.map(path)}
                shards.append(MappedShard(path, fingerprint, keys, {column: place}, values))
    return shards


def names_file(path: str | os.PathLike[str]) -> bool:
    """Tell whether a bank of this path is, or would be, one packed file."""
    return os.fspath(path).endswith(".h5") or os.path.isfile(path)


def shards_folder(path: str) -> str:
    """Return the folder beside a packed file for what an extraction adds to it."""
    return f"{path}.shards"


def unfinished(path: str) -> str | None:
    """Return the folder beside a packed file if an extraction into the file has not ended."""
    folder = shards_folder(path)
    there = names_file(path) and os.path.isfile(os.path.join(folder, "bank.json"))
    return folder if there else None


def default_target(bank: Bank) -> str:
    """Return where `featbank compact` writes when it is not told: beside the folder, with .h5."""
    return f"{bank.path.rstrip(os.sep)}.h5"
