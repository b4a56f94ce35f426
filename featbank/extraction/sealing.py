"""Sealing: rows of features gathered until they are many enough, or old enough, for a shard."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from featbank.backbones.recipe import Column, Recipe
from featbank.bank.bank import Bank
from featbank.bank.rows import Rows
from featbank.bank.shard import Shard
from featbank.errors import ExtractionError, FeatbankError
from featbank.hdf5 import Place
from featbank.interrupts import held_back

__all__ = ["BankStore", "MemoryStore", "Sealer", "Store", "writing"]

Array = npt.NDArray[Any]


class Store(Protocol):
    """Where features go."""

    def rows(self, column: Column) -> Rows:
        """Return what is there of a column."""

    def seal(self, keys: npt.NDArray[np.uint8], columns: Mapping[Column, Array]) -> None:
        """Take rows of features for good."""


class BankStore:
    """The features of one recipe in a bank."""

    def __init__(self, bank: Bank, recipe: Recipe) -> None:
        self.bank = bank
        self.recipe = recipe

    def rows(self, column: Column) -> Rows:
        """Return what the bank has of a column."""
        return self.bank.rows(self.recipe.fingerprint, column)

    def seal(self, keys: npt.NDArray[np.uint8], columns: Mapping[Column, Array]) -> None:
        """Write a shard, durably."""
        self.bank.seal(self.recipe, keys, columns)


class _MemoryShard(Shard):
    """A shard that was never written."""

    def __init__(self, keys: npt.NDArray[np.uint8], columns: Mapping[Column, Array]) -> None:
        places = {c: Place(0, values.shape, values.dtype) for c, values in columns.items()}
        super().__init__("", "", keys, places)
        object.__setattr__(self, "_values", dict(columns))

    def features(self, column: Column) -> Array:
        values: dict[Column, Array] = self.__dict__["_values"]
        return values[column]

    def copy(self, column: Column, rows: Array, out: Array, to: Array) -> None:
        out[to] = self.features(column)[rows]


class MemoryStore:
    """Features that are wanted once, or that can't be cached."""

    def __init__(self) -> None:
        self._shards: list[Shard] = []

    def rows(self, column: Column) -> Rows:
        """Return what was taken of a column."""
        return Rows.of(column, self._shards)

    def seal(self, keys: npt.NDArray[np.uint8], columns: Mapping[Column, Array]) -> None:
        """Keep rows until the store is gone."""
        self._shards.append(_MemoryShard(keys, columns))


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Say of an error of the disk what it means for a run, and what to do.

    Raises
    ------
    ExtractionError
    """
    try:
        yield
    except FeatbankError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        todo = "Free some space" if full else "Mend that, or choose another place with --bank,"
        raise ExtractionError(
            f"the bank could not be written ({(error.strerror or str(error)).rstrip('.')}). {todo} "
            "and run again: what was sealed is kept."
        ) from error


class Sealer:
    """Gathers rows and seals them after `rows` of them or `seconds`.

    An interrupt waits until what was taken is in its place, and what is sealed is sealed.

    Parameters
    ----------
    store : Store
    rows : int
        How many rows make a shard.
    seconds : float
        How old a row may get before it is sealed; what a killed process can lose.
    """

    def __init__(self, store: Store, *, rows: int, seconds: float) -> None:
        self._store = store
        self._rows = rows
        self._seconds = seconds
        self._parts: dict[tuple[Column, ...], list[tuple[list[int], list[bytes], Any]]] = {}
        self._since = time.monotonic()

    def add(
        self, items: Sequence[int], keys: Sequence[bytes], features: Mapping[Column, Array]
    ) -> list[int]:
        """Take rows; return the images whose rows this has made durable."""
        if not items:
            return []
        if not self._parts:
            self._since = time.monotonic()
        columns = tuple(sorted(features))
        with held_back():
            part = self._parts.setdefault(columns, [])
            part.append((list(items), list(keys), dict(features)))
            if sum(len(block[0]) for block in part) >= self._rows:
                return self._seal(columns)
        return []

    def due(self) -> list[int]:
        """Seal what is too old to wait; return the images whose rows this has made durable."""
        old = self._parts and time.monotonic() - self._since >= self._seconds
        return self.rest() if old else []

    def rest(self) -> list[int]:
        """Seal everything; return the images whose rows this has made durable."""
        with held_back():
            return [item for columns in list(self._parts) for item in self._seal(columns)]

    def _seal(self, columns: tuple[Column, ...]) -> list[int]:
        part = self._parts.pop(columns)
        keys = np.frombuffer(b"".join(k for block in part for k in block[1]), np.uint8)
        features = {c: np.concatenate([block[2][c] for block in part]) for c in columns}
        with writing():
            self._store.seal(keys.reshape(-1, 32), features)
        return [item for block in part for item in block[0]]
