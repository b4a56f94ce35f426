"""The catalogue: what a recipe's shards say of themselves, so that they need not all be opened.

One sealed file a recipe, in the user's cache directory: a bank that comes from a stranger brings
none. It holds keys and columns of each shard under the shard's size, mtime, ctime and inode, and
whatever has others now is opened as if there were no catalogue. It is only a cache: damaged, of
another version or unwritable, it is as if it were missing. To change the format, raise
`CATALOGUE_VERSION`; there is no reader for older ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping

import h5py
import numpy as np

from featbank import durable, hdf5
from featbank.backbones.memo import Stat, cache_dir
from featbank.backbones.recipe import Column
from featbank.bank.shard import SHARD_VERSION, Shard
from featbank.errors import FeatbankError

__all__ = ["CATALOGUE_VERSION", "LEAST", "read_catalogue", "worth_writing", "write_catalogue"]

CATALOGUE_VERSION = 1
LEAST = 16
"""Fewer shards than this are opened as soon as a catalogue of them."""

log = logging.getLogger(__name__)


def worth_writing(opened: int, shards: int) -> bool:
    """Whether so many of a recipe's shards had to be opened that a new catalogue pays."""
    return opened >= max(LEAST, shards // LEAST)


def read_catalogue(
    folder: str, fingerprint: str, states: Mapping[str, Stat | None]
) -> dict[str, Shard]:
    """Return, by path, the shards that are as they were when they were catalogued.

    Parameters
    ----------
    folder : str
        The recipe's, in the bank.
    fingerprint : str
    states : mapping of str to Stat or None
        What the shards' files are now; None for one whose times can't be trusted.
    """
    path = _path(folder)
    try:
        hdf5.check_seal(path, follow=False)
        with hdf5.open_inspected(path) as file:
            if any(file.attrs[k] != v for k, v in _heading(folder, fingerprint).items()):
                return {}
            keys, entries = file["keys"][:], json.loads(file["shards"][:].tobytes())
        if keys.shape[1:] != (32,) or keys.dtype != np.uint8:
            return {}
        found, start = {}, 0
        for name, state, count, places in entries:
            own, start = keys[start : start + count], start + count
            shard = os.path.join(folder, name)
            if len(own) != count:
                raise ValueError(f"it holds {len(own)} keys of the {count} of {name}")
            if states.get(shard) == tuple(state):
                columns = dict(_column(count, state[0], *place) for place in places)
                found[shard] = Shard(shard, fingerprint, own, columns)
        return found
    except FileNotFoundError:
        return {}
    except (
        FeatbankError, OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
        RecursionError,
    ) as error:  # fmt: skip
        log.debug("the catalogue %s is not used: %s", path, error)
        return {}


def write_catalogue(
    folder: str, fingerprint: str, shards: Mapping[str, Shard], states: Mapping[str, Stat | None]
) -> None:
    """Keep what these shards say of themselves, if the cache can be written.

    Parameters
    ----------
    folder, fingerprint, states
        As in `read_catalogue`; the states are older than the shards.
    shards : mapping of str to Shard
        By path. Those whose times can't be trusted are left out.
    """
    kept = {path: shard for path, shard in shards.items() if states[path] is not None}
    entries = [
        [
            os.path.relpath(path, folder),
            states[path],
            len(shard.keys),
            [[column.name, p.offset, p.shape[1]] for column, p in shard.columns.items()],
        ]
        for path, shard in kept.items()
    ]

    def fill(file: h5py.File) -> None:
        hdf5.put_attributes(
            file,
            description="featbank catalogue: what the shards of a recipe say of themselves",
            **_heading(folder, fingerprint),
        )
        hdf5.put(file, "keys", np.concatenate([shard.keys for shard in kept.values()]))
        hdf5.put(file, "shards", np.frombuffer(json.dumps(entries).encode("ascii"), np.uint8))

    path = _path(folder)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.exists(path):
            _sweep(os.path.dirname(path))
        durable.write_cache(path, memoryview(hdf5.seal(hdf5.build(fill, user_block=True))))
    except OSError as error:
        log.debug("the catalogue %s is not written: %s", path, error)


def _heading(folder: str, fingerprint: str) -> dict[str, int | bytes]:
    """Return the attributes by which a catalogue is known to be the right one."""
    return {
        "version": CATALOGUE_VERSION,
        "shard_version": SHARD_VERSION,
        "folder": os.fsencode(folder),
        "fingerprint": fingerprint.encode(),
    }


def _column(count: int, size: int, name: str, offset: int, width: int) -> tuple[Column, hdf5.Place]:
    """Return a column and where it lies in a shard of `size` bytes."""
    column = Column.parse(name)
    found = hdf5.Place(offset, (count, width), np.dtype(column.dtype))
    if min(offset, width) < 0 or offset + count * width * found.dtype.itemsize > size:
        raise ValueError(f"{name} does not lie in its shard")
    return column, found


def _path(folder: str) -> str:
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()
    return os.path.join(cache_dir(), "catalogues", f"{digest[:32]}.h5")


def _sweep(directory: str) -> None:
    """Remove the catalogues of banks that are gone, and what dead processes left."""
    durable.remove_temporaries(directory)
    for name in os.listdir(directory):
        if not name.endswith(".h5"):
            continue
        path, folder = os.path.join(directory, name), b""
        with (
            contextlib.suppress(FeatbankError, OSError, LookupError, TypeError),
            hdf5.open_inspected(path) as file,
        ):
            folder = hdf5.read_bytes(file, "folder")
        if not os.path.isdir(folder):  # or it can't be read
            with contextlib.suppress(OSError):
                os.unlink(path)
