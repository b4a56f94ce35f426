"""Coverage: which columns the indexed images should have, and which of them lack one.

The index says which columns were extracted of a source. Where it does not (an older version wrote
it, or it was rebuilt), a source should have the columns that any of its images has, and those that
a damaged shard held for one of them. If such a shard can't be read at all, it may have held any
column of its recipe, of any image.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from featbank.backbones.recipe import Recipe
from featbank.bank.bank import Bank
from featbank.bank.recipes import QUARANTINE
from featbank.bank.rows import Rows
from featbank.bank.shard import Shard, columns_in, read_shard
from featbank.data.index import Index, IndexedSource
from featbank.errors import FeatbankError
from featbank.regular import open_regular

__all__ = [
    "Coverage",
    "bank_coverage",
    "columns_of",
    "coverage",
    "glimpse",
    "lost_columns",
    "quarantined",
    "readable_rows",
]

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Coverage:
    """Which of the indexed images have a column.

    Attributes
    ----------
    column : str
        The column's name.
    images : int
        Readable images of the index that have it.
    lacking : tuple of (IndexedSource, ndarray of int)
        The sources with the rows of the images that should have it and don't.
    """

    column: str
    images: int
    lacking: tuple[tuple[IndexedSource, npt.NDArray[np.intp]], ...] = field(repr=False)

    @property
    def missing(self) -> int:
        """Number of images that should have the column and don't."""
        return sum(len(rows) for _, rows in self.lacking)

    @property
    def sources(self) -> list[str]:
        """Names of the sources of these images."""
        return [part.name for part, _ in self.lacking]

    @property
    def paths(self) -> set[str]:
        """Paths of these images."""
        return {os.fsdecode(part.path(int(row))) for part, rows in self.lacking for row in rows}


def readable_rows(part: IndexedSource) -> Bool:
    """Return which images of a source have features, if nothing is lost."""
    return ~part.failed & (part.listing.size >= 0)


def coverage(
    fingerprint: str, shards: Sequence[Shard], index: Index, lost: Sequence[Shard | None] = ()
) -> list[Coverage]:
    """Return the coverage of every column of a recipe, sorted by name.

    Parameters
    ----------
    fingerprint : str
        The recipe's.
    shards : sequence of Shard
        The whole ones of the recipe.
    index : Index
    lost : sequence of (Shard or None)
        What damaged shards of the recipe say of themselves, as `glimpse` returns it.
    """
    tables = {column.name: Rows.of(column, shards) for column in columns_in(shards)}
    gone = [
        (column.name, Rows.of(column, [one]))
        for one in lost
        if one is not None and one.fingerprint == fingerprint
        for column in one.columns
    ]
    images = dict.fromkeys(tables, 0)
    lacking: dict[str, list[tuple[IndexedSource, npt.NDArray[np.intp]]]] = {}
    for part in index.sources.values():
        wanted = readable_rows(part)
        has = {
            name: wanted & part.known & (table.find(part.digest) >= 0)
            for name, table in tables.items()
        }
        expected = part.requested.get(fingerprint)
        if expected is None:
            held = [name for name, table in gone if (table.find(part.digest) >= 0).any()]
            expected = (*(n for n, own in has.items() if own.any() or None in lost), *held)
        for name, own in has.items():
            images[name] += int(own.sum())
        for name in dict.fromkeys(expected):
            rows = np.flatnonzero(wanted & ~has[name] if name in has else wanted)
            images.setdefault(name, 0)
            if len(rows):
                lacking.setdefault(name, []).append((part, rows))
    return [Coverage(name, images[name], tuple(lacking.get(name, ()))) for name in sorted(images)]


def bank_coverage(bank: Bank) -> dict[str, list[Coverage]]:
    """Return the coverage of every recipe of a bank, by the name of its folder.

    Raises
    ------
    BankDamaged
        A shard or the index is damaged.
    """
    index = bank.index
    return {
        known.slug: coverage(
            known.fingerprint, bank.shards(known.fingerprint), index, quarantined(bank, known.slug)
        )
        for known in bank.recipes
    }


def columns_of(bank: Bank, recipe: Recipe, part: IndexedSource) -> list[str]:
    """Return the names of the columns of a recipe that any image of a source has."""
    digests = part.digest[part.known]
    return [
        column.name
        for column in bank.columns(recipe.fingerprint)
        if (bank.rows(recipe.fingerprint, column).find(digests) >= 0).any()
    ]


def lost_columns(found: dict[str, list[Coverage]]) -> dict[str, dict[str, int]]:
    """Return the number of images that lack each column, where any does, by recipe."""
    lost = {
        slug: {one.column: one.missing for one in columns if one.missing}
        for slug, columns in found.items()
    }
    return {slug: columns for slug, columns in lost.items() if columns}


def quarantined(bank: Bank, slug: str) -> list[Shard | None]:
    """Return what the shards of a recipe that a repair has set aside say of themselves."""
    folder = os.path.join(bank.path, QUARANTINE)
    there = os.path.isdir(folder) and not os.path.islink(folder)
    names = sorted(os.listdir(folder)) if there else []
    return [
        glimpse(os.path.join(folder, name))
        for name in names
        if name.startswith(f"{slug}--") and ".h5" in name
    ]


def glimpse(path: str) -> Shard | None:
    """Return the header of a damaged shard, if it can still be read and is no link."""
    with contextlib.suppress(FeatbankError, OSError):
        open_regular(path, follow=False).close()
        return read_shard(path)
    return None
