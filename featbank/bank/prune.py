"""Prune: rows that nothing needs any more taken out of a bank.

Shards never change: one with rows to go is written anew without them. All new shards are on the
disk before the first of the old ones goes, so that a row that stays is there at every moment, for
readers as after a power loss; it takes as much space as the rows that stay in these shards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank import durable
from featbank.bank.bank import Bank
from featbank.bank.recipes import (
    QUARANTINE,
    KnownRecipe,
    recipe_document,
    shard_folders,
    shard_paths,
    trained_on_document,
)
from featbank.bank.rows import Rows, as_scalars
from featbank.bank.selection import choose_recipe
from featbank.bank.shard import Shard, columns_in
from featbank.data.digests import learned
from featbank.data.index import Index, IndexedSource
from featbank.errors import BankError, DataError, FeaturesMissing, nearest

__all__ = ["Pruned", "prune"]

Keys = npt.NDArray[np.bytes_]
Bool = npt.NDArray[np.bool_]

_NO_KEYS = as_scalars(np.empty((0, 32), np.uint8))


@dataclass(frozen=True)
class Pruned:
    """What `prune` removed, or would remove.

    Attributes
    ----------
    sources : tuple of str
        Sources that go.
    images : int
        How many these index.
    recipes : tuple of str
        Recipes of which nothing is left.
    rows : int
        A row is one image's features in one shard.
    shards : int
        Files that go, those that are written anew without some rows among them.
    bytes : int
        What the rows took.
    """

    recipes: tuple[str, ...]
    rows: int
    shards: int
    bytes: int
    sources: tuple[str, ...] = ()
    images: int = 0


@dataclass(frozen=True)
class _Change:
    """A shard, and which of its rows stay: all in it, or some in a new one, or none."""

    shard: Shard
    stays: Bool

    @property
    def rows(self) -> int:
        return int((~self.stays).sum())

    @property
    def bytes(self) -> int:
        if not self.stays.any():
            return os.path.getsize(self.shard.path)
        places = self.shard.columns.values()
        return self.rows * (32 + sum(p.shape[1] * int(p.dtype.itemsize) for p in places))


def prune(
    bank: Bank | str | os.PathLike[str],
    recipes: str | Iterable[str] = (),
    *,
    sources: str | Iterable[str] = (),
    dry_run: bool = False,
) -> Pruned:
    """Remove what nothing needs from a bank.

    That is, without `recipes`: every row whose image is in no source of the index, every row that
    only repeats what another shard has, and recipes without rows. What estimators and `predict`
    have added for other images goes with it, and is computed again when it is asked for. Rows of
    all images of the index stay, also of those that could not be decoded.

    Parameters
    ----------
    bank : Bank or path
    recipes : str or iterable of str
        Names of recipes, as `Bank.features` takes them: remove these, whole, and nothing else.
    sources : str or iterable of str
        Names of sources: remove these from the index, with the features that no other source
        needs, and nothing else.
    dry_run : bool
        Only say what would go.

    Returns
    -------
    Pruned

    Raises
    ------
    BankError
        The bank is packed, in use, or has no index to say what is needed.
    DataError
        There is no such source, or recipes and sources were named.
    BankDamaged
        A file is damaged; nothing is removed.
    FeaturesMissing, AmbiguousFeatures
        There is no such recipe, or several fit.
    OSError
        The disk is full or failed. No row that is to stay is lost; prune again.
    """
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    if bank.packed:
        raise BankError(
            f"{bank.path} is one packed file; prune the folder that it was made of and pack that."
        )
    words = [recipes] if isinstance(recipes, str) else list(recipes)
    names = [sources] if isinstance(sources, str) else list(dict.fromkeys(sources))
    if words and names:
        raise DataError("recipes and sources were named; prune one after the other.")
    if dry_run:
        return _planned(bank, words, names)[1]
    with bank.alone():
        # A pruning that was killed may have given names, and not have come to syncing them.
        durable.fs.sync_directory(bank.path)
        for known in bank.recipes:  # of rows that are there twice, one must be on the disk
            bank.settle(known.recipe)
        plan, pruned = _planned(bank, words, names)
        if names:  # first: features that nothing names can be pruned later
            bank.revise(lambda index, described: ((), ()), remove=names)
        _carry_out(bank, plan)
        if not words and not names:
            _sweep(bank)
    return pruned


_Plan = list[tuple[KnownRecipe, list[_Change], bool]]
"""A recipe, what changes in it, and whether it goes as a whole."""


def _planned(bank: Bank, words: Sequence[str], names: Sequence[str]) -> tuple[_Plan, Pruned]:
    """Say what is to go, and sum it up."""
    if not names:
        plan = _plan(bank, words)
        return plan, _summary(plan)
    index = bank.index
    known = {*index.sources, *bank.sources}  # a pruning that was cut short leaves one of the two
    for name in names:
        if name not in known:
            raise DataError(f"the bank has no source {name!r}; " + (
                nearest(name, known) if known else "it has none yet."
            ))  # fmt: skip
    gone = [index.sources[name] for name in names if name in index.sources]
    plan = _plan_without(bank, gone, names)
    images = sum(map(len, gone))
    return plan, dataclasses.replace(_summary(plan), sources=tuple(names), images=images)


def _plan_without(bank: Bank, gone: Sequence[IndexedSource], names: Sequence[str]) -> _Plan:
    """Say which rows of each recipe only these sources need."""
    keys = [as_scalars(part.digest[part.known]) for part in gone]
    freed = np.unique(np.concatenate([_NO_KEYS, *keys]))
    if len(freed):
        freed = np.setdiff1d(freed, _needed(bank, without=names))
    plan: _Plan = []
    for k in bank.recipes:
        shards = bank.shards(k.fingerprint)
        changes = [_Change(s, ~np.isin(as_scalars(s.keys), freed)) for s in shards]
        whole = bool(changes) and not any(change.stays.any() for change in changes)
        plan.append((k, [change for change in changes if not change.stays.all()], whole))
    return plan


def _plan(bank: Bank, words: Sequence[str]) -> _Plan:
    """Say what is to go of each recipe."""
    known = bank.recipes
    if words and not known:
        raise FeaturesMissing(f"{bank.path} has no recipe that could be removed.")
    if words:
        chosen = {choose_recipe(known, word, lambda k: True).slug for word in words}
        return [
            (k, [_Change(s, np.zeros(len(s.keys), bool)) for s in bank.shards(k.fingerprint)], True)
            for k in known
            if k.slug in chosen
        ]
    needed = _needed(bank)
    plan: _Plan = []
    for k in known:
        changes = _changes(bank.shards(k.fingerprint), needed)
        whole = not any(change.stays.any() for change in changes)
        plan.append((k, [change for change in changes if not change.stays.all()], whole))
    return plan


def _needed(bank: Bank, *, without: Collection[str] = ()) -> Keys:
    """Return the keys of all images that the index names, sorted, but for those of some sources."""
    index = bank.index.without(without)
    if not index.sources and not without:
        raise BankError(
            f"{bank.path} has no index that could say which rows are needed: name the recipes to "
            "remove, or run `featbank extract` on the images whose features are to stay."
        )
    lacking = [n for n in bank.sources if n not in index.sources and n not in without]
    if lacking:
        raise BankError(
            f"the source {lacking[0]!r} of {bank.path} is in no index, so that its rows would go; "
            "run `featbank repair`, or `featbank extract` on it."
        )
    keys = [_NO_KEYS]
    for name, part in index.sources.items():
        part = learned(part)  # a run that was killed may have sealed rows of files still unknown
        unknown = ~part.known & ~part.failed
        if unknown.any():
            path = os.fsdecode(part.path(int(np.flatnonzero(unknown)[0])))
            raise BankError(
                f"{int(unknown.sum())} images of the source {name!r} were not read yet, and can't "
                f"be now ({path}), so that nobody knows their rows; run `featbank extract` on it."
            )
        keys.append(as_scalars(part.digest[part.known]))
    return np.unique(np.concatenate(keys))


def _changes(shards: Sequence[Shard], needed: Keys) -> list[_Change]:
    """Say of each shard which rows stay: needed ones, each where readers find it."""
    ends = np.cumsum([0, *(len(shard.keys) for shard in shards)])
    start = {shard.path: first for shard, first in zip(shards, ends.tolist(), strict=False)}
    found = np.zeros(ends[-1], np.bool_)
    for column in columns_in(shards):
        rows = Rows.of(column, shards)
        starts = np.array([start[shard.path] for shard in rows.shards], np.int64)
        found[starts[rows.shard] + rows.row] = True
    parts = [found[ends[i] : ends[i + 1]] for i in range(len(shards))]
    return [
        _Change(shard, part & np.isin(as_scalars(shard.keys), needed))
        for shard, part in zip(shards, parts, strict=True)
    ]


def _forget(bank: Bank, fingerprints: set[str]) -> None:
    """Let the index no longer expect rows of these recipes."""

    def expecting(index: Index) -> list[IndexedSource]:
        return [p for p in index.sources.values() if not fingerprints.isdisjoint(p.requested)]

    def change(index: Index, documents: Mapping[str, Any]) -> tuple[list[IndexedSource], list[Any]]:
        return [
            dataclasses.replace(
                part,
                requested={f: c for f, c in part.requested.items() if f not in fingerprints},
            )
            for part in expecting(index)
        ], []

    if fingerprints and expecting(bank.index):
        bank.revise(change)


def _carry_out(bank: Bank, plan: _Plan) -> None:
    """Seal what stays, then remove the old shards, then the recipes that are empty."""
    sealed = set()  # one of them may stand there already, from a pruning that was cut short
    for known, changes, _ in plan:
        for change in changes:
            if change.stays.any():
                shard = change.shard
                columns = {c: shard.features(c)[change.stays] for c in shard.columns}
                sealed.add(bank.seal(known.recipe, shard.keys[change.stays], columns))
    _forget(bank, {known.fingerprint for known, _, whole in plan if whole})
    for known, changes, whole in plan:
        folder = os.path.join(bank.path, known.slug)
        for path in {change.shard.path for change in changes} - sealed:
            durable.fs.unlink(path)
        for part in sorted({os.path.dirname(change.shard.path) for change in changes}):
            durable.fs.sync_directory(part)
        if whole and not shard_paths(folder):
            # A pruning that was cut short may have removed shards, and not have come to syncing.
            for part in shard_folders(folder):
                durable.fs.sync_directory(part)
            with contextlib.suppress(FileNotFoundError):
                durable.fs.unlink(trained_on_document(folder))
            durable.fs.unlink(recipe_document(folder))
            durable.fs.sync_directory(folder)
        _sweep_recipe(folder)


def _sweep(bank: Bank) -> None:
    """Remove the temporaries of dead processes, and empty folders."""
    durable.remove_temporaries(bank.path, seconds=0)  # whoever is alive would hold the bank
    with os.scandir(bank.path) as entries:
        names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
    for name in sorted(names):
        if not name.startswith(".") and name != QUARANTINE:
            _sweep_recipe(os.path.join(bank.path, name))


def _sweep_recipe(folder: str) -> None:
    for part in (*shard_folders(folder), folder):
        durable.remove_temporaries(part, seconds=0)
        if not set(os.listdir(part)) - {".lock"}:
            durable.remove_folder(part)


def _summary(plan: _Plan) -> Pruned:
    changes = [change for _, found, _ in plan for change in found]
    return Pruned(
        recipes=tuple(known.slug for known, _, whole in plan if whole),
        rows=sum(change.rows for change in changes),
        shards=len(changes),
        bytes=sum(change.bytes for change in changes),
    )
