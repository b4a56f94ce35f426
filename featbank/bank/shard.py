"""The shard: some hundred to some thousand rows of features in one sealed, immutable HDF5 file.

A shard is named by the SHA-256 of its bytes and describes itself: attributes ``version``,
``fingerprint`` and ``recipe`` (its canonical JSON, of which the fingerprint is the SHA-256; the
first shards lack it) and ``count``; a dataset ``keys`` (N, 32) of uint8, the SHA-256 of
each image's bytes; one dataset (N, D) a column, under the column's name. To change the format,
raise `SHARD_VERSION`, keep reading the old one in `read_shard`, and say so in CHANGELOG.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from featbank import durable, hdf5
from featbank.backbones.recipe import Column, Recipe, canonical_json
from featbank.errors import BankDamaged, BankError, BankVersionError
from featbank.regular import NotRegular, open_regular

__all__ = [
    "SHARD_VERSION",
    "Shard",
    "check_digest",
    "columns_in",
    "copy_shard",
    "file_digest",
    "read_recipe",
    "read_shard",
    "seal_shard",
]

SHARD_VERSION = 1

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """What a shard says of itself; the features stay on the disk until they are asked for.

    Attributes
    ----------
    path : str
    fingerprint : str
        Of the recipe.
    keys : ndarray of shape (N, 32), uint8
    columns : dict of Column to Place
    """

    path: str
    fingerprint: str
    keys: npt.NDArray[np.uint8]
    columns: dict[Column, hdf5.Place]

    def features(self, column: Column) -> Array:
        """Return a column's features, mapped and read-only, shape (N, D)."""
        return self.columns[column].map(self.path)

    def copy(self, column: Column, rows: Int, out: Array, to: Int) -> None:
        """Copy some rows of a column into the rows `to` of `out`, and read nothing else."""
        self.columns[column].read(self.path, rows, out, to)


def columns_in(shards: Iterable[Shard]) -> list[Column]:
    """Return the columns that any of the shards has, sorted."""
    return sorted({column for shard in shards for column in shard.columns})


def file_digest(path: str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open_regular(path, follow=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: str) -> None:
    """Compare a shard's bytes with the digest that is its name.

    Raises
    ------
    BankDamaged
        They differ, or it is no regular file.
    """
    try:
        digest = file_digest(path)
    except NotRegular as error:
        raise BankDamaged(f"{path} {error.strerror}, or run `featbank repair`.") from error
    if digest != os.path.basename(path).removesuffix(".h5"):
        raise BankDamaged(
            f"{path} does not hold the bytes that were sealed; run `featbank repair`, and "
            "`featbank extract` again to compute its rows anew."
        )


def seal_shard(
    folder: str, recipe: Recipe, keys: npt.NDArray[np.uint8], columns: Mapping[Column, Array]
) -> str:
    """Write a shard into the recipe's `folder`, durably; return its path.

    Parameters
    ----------
    folder : str
    recipe : Recipe
    keys : ndarray of shape (N, 32), uint8
        Without duplicates.
    columns : mapping of Column to ndarray of shape (N, D)

    Raises
    ------
    OSError
        The disk is full or failed; nothing was published.
    """
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != 32 or not len(keys):
        raise ValueError(f"keys are a (N, 32) array of uint8, not {keys.shape} of {keys.dtype}")
    for column, values in columns.items():
        if values.shape[0] != len(keys) or values.ndim != 2 or values.dtype != column.dtype:
            raise ValueError(
                f"{column.name} is a ({len(keys)}, D) array, not {values.shape} of {values.dtype}"
            )

    def fill(file: h5py.File) -> None:
        hdf5.put_attributes(
            file,
            description="featbank shard: features of images, found by the SHA-256 of their bytes",
            version=SHARD_VERSION,
            fingerprint=recipe.fingerprint,
            recipe=canonical_json(recipe.to_dict()),
            count=len(keys),
        )
        hdf5.put(file, "keys", keys, description="SHA-256 of each image's bytes")
        for column in sorted(columns):
            dataset = hdf5.put(file, column.name, columns[column])
            hdf5.put_attributes(
                dataset,
                description="features, one row a key",
                layer=column.layer,
                pooling=column.pooling,
                view=column.view,
                dtype=column.dtype,
            )

    return _publish(folder, memoryview(hdf5.build(fill)))


def copy_shard(path: str, folder: str) -> str:
    """Copy a shard as it is into the recipe's `folder`, durably; return its path there.

    Raises
    ------
    BankDamaged
        Its bytes are not those that its name says; nothing was published.
    OSError
        It can't be read, or the disk is full or failed.
    """
    with open_regular(path, follow=False) as file:
        data = file.read()
    if f"{hashlib.sha256(data).hexdigest()}.h5" != os.path.basename(path):
        raise BankDamaged(f"{path} does not hold the bytes that were sealed; it was not copied.")
    return _publish(folder, memoryview(data))


def _publish(folder: str, data: memoryview) -> str:
    """Give a shard's bytes their name, the digest, below the recipe's `folder`."""
    digest = hashlib.sha256(data).hexdigest()
    part = os.path.join(folder, digest[:2])
    durable.make_directory(part)
    path = os.path.join(part, f"{digest}.h5")
    durable.publish_file(path, data)
    return path


def read_shard(path: str) -> Shard:
    """Read what a shard says of itself; its digest is the caller's to check.

    Raises
    ------
    BankDamaged
        It is not a file that featbank would write.
    BankVersionError
        A later featbank wrote it.
    """
    with hdf5.open_inspected(path) as file:
        try:
            attributes = hdf5.read_attributes(file)
            if attributes["version"] > SHARD_VERSION:
                raise BankVersionError(
                    f"{path} has format {attributes['version']} and this featbank reads up to "
                    f"{SHARD_VERSION}; install a newer featbank."
                )
            fingerprint, count = attributes["fingerprint"], attributes["count"]
            if not isinstance(fingerprint, str) or not isinstance(count, int):
                raise TypeError("its fingerprint or count is of another kind")
            return read_rows(file, path, fingerprint, count)
        except BankError:
            raise
        except Exception as error:  # h5py can raise nearly anything over a stranger's bytes
            raise BankDamaged(f"{path} is not a shard that featbank would write: {error}") from None


def read_recipe(path: str) -> Recipe | None:
    """Return the recipe that a whole shard brings with it, if it does.

    Raises
    ------
    BankDamaged
        It is not the one that the shard's fingerprint is of.
    """
    with hdf5.open_inspected(path) as file:
        attributes = hdf5.read_attributes(file)
    if "recipe" not in attributes:
        return None
    try:
        recipe = Recipe.from_dict(json.loads(attributes["recipe"]))
        if recipe.fingerprint == attributes["fingerprint"]:
            return recipe
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # what is no recipe
        pass
    raise BankDamaged(f"{path} holds a recipe that does not fit its fingerprint.")


def read_rows(group: h5py.Group, path: str, fingerprint: str, count: int) -> Shard:
    """Read keys and columns of an inspected group whose datasets all have `count` rows."""
    keys = group["keys"][:]
    if keys.shape != (count, 32) or keys.dtype != np.uint8:
        raise BankDamaged(f"{path} declares {count} rows and holds keys of shape {keys.shape}.")
    columns = {}
    for name in group:
        if name == "keys":
            continue
        found = hdf5.place(group[name])
        column = Column.parse(name)
        if len(found.shape) != 2 or found.shape[0] != count or found.dtype != column.dtype:
            raise BankDamaged(f"{path}: {name} has shape {found.shape} for {count} keys.")
        columns[column] = found
    return Shard(path, fingerprint, keys, columns)
