"""The merge: rows, recipes and sources of other banks brought into one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.backbones.recipe import Column, canonical_json
from featbank.bank import packed
from featbank.bank.bank import Bank
from featbank.bank.layered import extending, look
from featbank.bank.maintenance import verify
from featbank.bank.recipes import KnownRecipe
from featbank.bank.rows import Rows
from featbank.bank.shard import Shard, columns_in, copy_shard
from featbank.data.index import Index, IndexedSource, StoredSplit, Text
from featbank.data.sources import free_name
from featbank.errors import BankDamaged, BankError

__all__ = ["Merged", "merge"]

_BLOCK_ROWS = 4096  # a shard made of rows of a packed bank

_Splits = Mapping[tuple[str, int, str], StoredSplit]

_STAT = ("size", "mtime", "ctime", "inode")

BankPath = Bank | str | os.PathLike[str]


@dataclass(frozen=True)
class Merged:
    """What a merge has added.

    Attributes
    ----------
    images : int
        Images in the index.
    rows, shards : int
        Rows of features, and the shards that hold them.
    recipes : tuple of str
        Recipes that had no rows before, by the names of their folders.
    """

    images: int
    rows: int
    shards: int
    recipes: tuple[str, ...]


def merge(bank: BankPath, others: Iterable[BankPath]) -> Merged:
    """Bring the features and the index of other banks into `bank`.

    For parts that were extracted on several machines, for instance. What is there already is not
    added again, so that a merge that was killed is simply made again.

    A shard is copied as it is, unless all its rows are there. Sources of the same place (the same
    folder, table or list) are joined image by image: an image that the bank has keeps its entry,
    unless nothing is known of its bytes and the other bank knows them under the same size, times
    and inode. Sources of other places whose name is taken get a number behind it.

    Splits that were made on request are joined too: an image that has one in `bank` keeps it.

    Parameters
    ----------
    bank : path or Bank
        A folder or a packed file; made if it is missing.
    others : iterable of paths or Banks
        Folders or packed files; they stay as they are.

    Returns
    -------
    Merged

    Raises
    ------
    BankNotFound, BankDamaged, BankVersionError
        One of the others is missing, damaged, or of a later featbank; nothing was added.
    BankError
        A bank would be merged into itself, or an extraction into one of them has not ended.
    OSError
        The disk is full or failed; what was added stays, and the same call goes on from there.
    """
    path = _path(bank)
    with contextlib.ExitStack() as held:
        found = []
        for one in others:
            other = one if isinstance(one, Bank) else Bank(one)
            _check_place(path, other)
            held.enter_context(other.using())
            found.append(other)
        existing = look(path)
        widths = _widths(existing, {}) if existing is not None else {}
        for other in found:
            _check(other, widths)
        if packed.names_file(path):
            target: Bank = held.enter_context(extending(path))
        else:
            target = Bank.create(path)
            held.enter_context(target.using())
        return _merge(target, found)


def _path(bank: BankPath) -> str:
    return os.path.abspath(bank.path if isinstance(bank, Bank) else os.fspath(bank))


def _check_place(path: str, other: Bank) -> None:
    same = {os.path.realpath(path), os.path.realpath(packed.shards_folder(path))}
    if os.path.realpath(other.path) in same:
        raise BankError(f"{other.path} can't be merged into itself; name other banks.")
    folder = packed.unfinished(other.path)
    if folder is not None:
        raise BankError(
            f"an extraction into {other.path} has not ended (its shards are in {folder}); run it "
            "again to end it, then merge."
        )


def _check(other: Bank, widths: dict[tuple[str, Column], int]) -> None:
    """Read everything of a bank that is to be merged; raise what is wrong with it."""
    _widths(other, widths)
    _ = other.index, other.sources
    damaged = verify(other).damaged
    if damaged:
        raise BankDamaged(f"{damaged[0]} Nothing was merged.")


def _widths(bank: Bank, widths: dict[tuple[str, Column], int]) -> dict[tuple[str, Column], int]:
    """Add the length of each column's rows to `widths`; banks that differ in one don't fit."""
    for known in bank.recipes:
        for shard in bank.shards(known.fingerprint):
            for column, place in shard.columns.items():
                width = widths.setdefault((known.fingerprint, column), place.shape[1])
                if width != place.shape[1]:
                    raise BankDamaged(
                        f"{shard.path} has rows of {place.shape[1]} numbers where others of "
                        f"{known.slug} {column.name} have {width}; nothing was merged."
                    )
    return widths


def _merge(target: Bank, others: Sequence[Bank]) -> Merged:
    had = {known.slug for known in target.recipes if target.shards(known.fingerprint)}
    rows = shards = images = 0
    recipes = set()
    for other in others:
        for known in other.recipes:
            for count in _add_rows(target, other, known):
                rows, shards = rows + count, shards + 1
                recipes.add(known.slug)
        images += _add_sources(target, other)
    return Merged(images, rows, shards, tuple(sorted(recipes - had)))


def _add_rows(target: Bank, other: Bank, known: KnownRecipe) -> Iterator[int]:
    """Add the rows of a recipe that `target` lacks; yield how many, a shard."""
    found = other.shards(known.fingerprint)
    if not found:
        return
    folder = target.register(known.recipe, known.provenance, known.trained_on)
    there = target.shards(known.fingerprint)
    tables = {column: Rows.of(column, there) for column in columns_in(found)}

    def lacking(shard: Shard) -> npt.NDArray[np.intp]:
        lacks = [tables[column].find(shard.keys) < 0 for column in shard.columns]
        return np.flatnonzero(np.any(lacks, axis=0))

    if not other.packed:
        for shard in found:
            if len(lacking(shard)):
                copy_shard(shard.path, folder)
                yield len(shard.keys)
        return
    # A packed bank has one shard a column; columns of the same images make shards together.
    groups: dict[bytes, list[tuple[Shard, npt.NDArray[np.intp]]]] = {}
    for shard in found:
        lacks = lacking(shard)
        groups.setdefault(shard.keys[lacks].tobytes(), []).append((shard, lacks))
    for group in groups.values():
        first, chosen = group[0]
        for start in range(0, len(chosen), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            columns = {
                column: shard.features(column)[lacks[block]]
                for shard, lacks in group
                for column in shard.columns
            }
            target.seal(known.recipe, first.keys[chosen[block]], columns)
            yield len(chosen[block])


def _add_sources(target: Bank, other: Bank) -> int:
    """Bring the index of `other` into that of `target`; return how many images are new in it."""
    theirs, described = other.index, other.sources
    new = 0

    def change(
        index: Index, documents: Mapping[str, Any]
    ) -> tuple[list[IndexedSource], list[Mapping[str, Any]]]:
        nonlocal new
        new = 0
        mine, taken = index.sources, {*index.sources, *documents}
        places = {_place(mine.get(name), documents.get(name, {})): name for name in taken}
        parts: list[IndexedSource] = []
        told: list[Mapping[str, Any]] = []
        for name, part in theirs.sources.items():
            document = described.get(name, {})
            known = places.get(_place(part, document))
            if known is None:
                known = free_name(name, taken)
                taken.add(known)
                if document:
                    told.append({**document, "name": known})
            if known not in mine:
                parts.append(dataclasses.replace(part, name=known))
                new += len(part)
            elif (joined := _joined(mine[known], part)) is not mine[known]:
                parts.append(joined)
                new += len(joined) - len(mine[known])
        return parts, told

    target.revise(change)
    target.store_splits(lambda index: _joined_splits(index.splits, other.index.splits))
    return new


def _joined_splits(mine: _Splits, theirs: _Splits) -> list[StoredSplit]:
    """Return the splits that `theirs` adds to; where both have an image, `mine` counts."""
    joined = {
        title: mine[title].completed_by(split) if title in mine else split
        for title, split in theirs.items()
    }
    return [
        split
        for title, split in joined.items()
        if title not in mine or len(split.keys) > len(mine[title].keys)
    ]


def _place(part: IndexedSource | None, document: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what two sources share if they list the same files; one of both may be missing."""
    kind = document.get("kind")
    root = part.root if part is not None else os.fsencode(str(document.get("root", "")))
    if kind == "list":
        listed = {key: value for key, value in document.items() if key != "name"}
        return ("list", root, canonical_json(listed))
    return (root, document.get("table")) if kind == "csv" else (root,)


def _joined(mine: IndexedSource, theirs: IndexedSource) -> IndexedSource:
    """Return a source with the rows of both; `mine` itself if the other has nothing to add."""
    names = sorted({*mine.listing.names, *theirs.listing.names})
    at, other = mine.match(names), theirs.match(names)
    added = at < 0
    both = np.flatnonzero((at >= 0) & (other >= 0))
    unknown = ~(mine.known | mine.failed)[at[both]] & (theirs.known | theirs.failed)[other[both]]
    same = (mine.listing.stat[at[both]] == theirs.listing.stat[other[both]]).all(axis=1)
    learned = np.zeros(len(names), np.bool_)
    learned[both[unknown & same]] = True
    requesting = mine
    for fingerprint, columns in theirs.requested.items():
        requesting = requesting.requesting(fingerprint, columns)
    if not added.any() and not learned.any():
        return mine if requesting.requested == mine.requested else requesting

    def numbers(ours: Any, others: Any, chosen: npt.NDArray[np.bool_]) -> Any:
        found = np.empty((len(names), *ours.shape[1:]), ours.dtype)
        found[~chosen], found[chosen] = ours[at[~chosen]], others[other[chosen]]
        return found

    def texts(ours: Text | None, others: Text | None, chosen: npt.NDArray[np.bool_]) -> Text:
        lists = [text.tolist() if text is not None else None for text in (ours, others)]
        return Text.of(
            None if (words := lists[int(theirs_)]) is None else words[row]
            for theirs_, row in zip(chosen.tolist(), np.where(chosen, other, at), strict=True)
        )

    one, two = mine.listing, theirs.listing
    looked = added | learned
    listing = dataclasses.replace(
        one,
        names=names,
        **{n: numbers(getattr(one, n), getattr(two, n), added) for n in _STAT},
        scanned=numbers(one.scanned, two.scanned, looked),
        label=texts(one.label, two.label, added),
        split=texts(one.split, two.split, added),
        group=texts(one.group, two.group, added),
        extra={
            title: texts(one.extra.get(title), two.extra.get(title), added)
            for title in {**one.extra, **two.extra}
        },
    )
    return dataclasses.replace(
        requesting,
        listing=listing,
        digest=numbers(mine.digest, theirs.digest, looked),
        known=numbers(mine.known, theirs.known, looked),
        failure=texts(mine.failure, theirs.failure, looked),
        failure_under=texts(mine.failure_under, theirs.failure_under, looked),
        pages={**theirs.pages, **mine.pages},
        sniffed={**theirs.sniffed, **mine.sniffed},
    )
