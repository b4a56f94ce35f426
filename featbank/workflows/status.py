"""Status: what an extraction would compute, and why, without computing anything."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.backbones.recipe import Column, Recipe
from featbank.backbones.views import check_square
from featbank.bank.layered import look
from featbank.bank.rows import Rows
from featbank.data.decode import DecodeLimits, read_bytes
from featbank.data.index import Index, IndexedSource
from featbank.errors import ImageError
from featbank.workflows.extract import Model
from featbank.workflows.moves import MissingSource, find_old, missing_sources
from featbank.workflows.survey import Surveyed, causes_of, name_sources, survey

__all__ = ["Status", "status"]


@dataclass(frozen=True)
class Status:
    """What a run would do.

    Attributes
    ----------
    images : int
    new, changed : list of str
        Paths whose bytes the bank has never read, or knew otherwise.
    renamed : list of str
        Paths whose bytes the bank knows under a name that is gone from the same source.
    copied : list of str
        Paths whose bytes the bank knows under a name that is still there, or in another source.
    removed : list of str
        Paths that the bank knows and that are gone.
    failed : list of (str, str)
        Paths whose bytes could not be read before, under whatever name, with the reason.
    reused : int
        Images whose features are there.
    to_compute : int
        Images that the network would see; of those with the same bytes one, as far as `status`
        reads them.
    recipe_differs : list of str
        Fields in which the recipe differs from the nearest one in the bank, one of the same
        backbone if there is one; empty if the bank has the recipe, or has none.
    missing_columns : list of str
        Columns that the bank does not have for every known image.
    missing : dict of str to int
        How many of the images to compute lack each column that was asked for.
    missing_sources : tuple of MissingSource
        Sources of the bank whose folder or table is gone.
    """

    images: int
    new: list[str]
    changed: list[str]
    renamed: list[str]
    removed: list[str]
    failed: list[tuple[str, str]]
    reused: int
    to_compute: int
    recipe_differs: list[str]
    missing_columns: list[str] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)
    copied: list[str] = field(default_factory=list)
    missing_sources: tuple[MissingSource, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and the paths under ``details``, for JSON."""
        lists: dict[str, list[Any]] = {
            "new": self.new,
            "changed": self.changed,
            "renamed": self.renamed,
            "copied": self.copied,
            "removed": self.removed,
            "failed": [{"path": path, "reason": reason} for path, reason in self.failed],
        }
        return {
            "images": self.images,
            **{name: len(found) for name, found in lists.items()},
            "reused": self.reused,
            "to_compute": self.to_compute,
            "recipe_differs": self.recipe_differs,
            "missing_columns": self.missing_columns,
            "missing": self.missing,
            "missing_sources": [one.to_dict() for one in self.missing_sources],
            "details": lists,
        }


def status(
    bank: str | os.PathLike[str],
    sources: Sequence[Any],
    model: Model,
    columns: Sequence[Column],
    *,
    limits: DecodeLimits | None = None,
) -> Status:
    """Say what an extraction of these sources with this recipe would do.

    Files whose bytes can't be known by name, size and times are read and hashed if another image
    of the bank has their size, or if the bank has features of images that it has not indexed: a
    renamed, copied or merely touched file costs nothing later.
    """
    check_square(columns, model.preprocess)
    limits = limits or DecodeLimits()
    target = look(bank)
    assert model.recipe is not None
    described = target.sources if target else {}
    named = name_sources(sources, described)
    index = target.index if target else Index()
    surveyed, tables = survey(named, target, model.recipe, columns, index=index)
    everything = list(index.sources.values())
    found = _Found(_Known.of(everything, tables, causes_of(model.recipe)), tables, limits)
    for part in surveyed:
        found.add(part)
    recipes = target.recipes if target else []
    missing = missing_sources(described, named)
    for part in surveyed:
        old = find_old(part.now, part.source.kind, missing, index)
        if old is not None:
            place = part.source.table or part.source.root
            missing[missing.index(old[0])] = dataclasses.replace(old[0], moved_to=place)
    return Status(
        images=sum(len(part.now) for part in surveyed),
        new=found.new,
        changed=found.changed,
        renamed=found.renamed,
        removed=found.removed,
        failed=found.failed,
        reused=found.reused,
        to_compute=len(found.digests) + found.unread,
        recipe_differs=_differences(model.recipe, [known.recipe for known in recipes]),
        missing_columns=sorted(found.lacking),
        missing={
            name: count
            for name in (column.name for column in columns)
            if (count := found.lacking[name] + found.unread)
        },
        copied=found.copied,
        missing_sources=tuple(missing),
    )


@dataclass(frozen=True)
class _Known:
    """What the bank knows of bytes, whatever the names of their files.

    Attributes
    ----------
    keys : ndarray of shape (N, 32), uint8
        Digests of the indexed files that could be read.
    failures : dict of bytes to str
        Digests that would fail again, with the reason.
    causes : list of str
        What they would fail under.
    sizes : set of int or None
        Of the indexed files; None if a file of any size may be known: features are there of bytes
        that the index does not have, as after a run that was killed.
    """

    keys: npt.NDArray[np.uint8]
    failures: dict[bytes, str]
    causes: list[str]
    sizes: set[int] | None

    @cached_property
    def digests(self) -> set[bytes]:
        """The keys as a set, which takes a while to make and is not always needed."""
        return {key.tobytes() for key in self.keys}

    @classmethod
    def of(
        cls, sources: Sequence[IndexedSource], tables: Sequence[Rows], causes: list[str]
    ) -> _Known:
        """Gather it from the bank's index and the features that are there."""
        none = np.empty((0, 32), np.uint8)
        keys = np.concatenate([none, *(part.digest[part.known] for part in sources)])
        sizes = {n for part in sources for n in part.listing.size[part.known].tolist()}
        more = any(not _marked(len(t), t.find(keys)).all() for t in tables)
        return cls(
            keys=keys,
            failures={
                part.digest[row].tobytes(): part.failure[row] or ""
                for part in sources
                for row in map(int, np.flatnonzero(part.known & part.failed))
                if part.failure_under[row] in causes
            },
            causes=causes,
            sizes=None if more else sizes,
        )


@dataclass
class _Found:
    """Gathers what the sources' rows are."""

    known: _Known
    tables: Sequence[Rows]
    limits: DecodeLimits
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    reused: int = 0
    unread: int = 0
    digests: set[bytes] = field(default_factory=set)
    lacking: Counter[str] = field(default_factory=Counter)

    def add(self, part: Surveyed) -> None:
        now, plan, before = part.now, part.plan, part.before
        was = before.match(now.listing.names) if before else np.full(len(now), -1)
        left: Counter[bytes] = Counter()  # bytes of names that are gone
        if before is not None:
            gone = np.flatnonzero(~_marked(len(before), was))
            left.update(before.digest[row].tobytes() for row in gone.tolist() if before.known[row])
            self.removed += [os.fsdecode(before.path(row)) for row in gone.tolist()]
        self.reused += int(plan.reused.sum())
        for row in map(int, np.flatnonzero(plan.failed)):
            self.failed.append((os.fsdecode(now.path(row)), now.failure[row] or ""))
        for row in map(int, np.flatnonzero(plan.compute)):
            self._lacks(now.digest[row])
        for row in map(int, np.flatnonzero(plan.unknown)):
            self._unknown(now, row, before if was[row] >= 0 else None, int(was[row]), left)

    def _unknown(
        self,
        now: IndexedSource,
        row: int,
        before: IndexedSource | None,
        was: int,
        left: Counter[bytes],
    ) -> None:
        """Take in a row whose bytes are unknown; `before` is None if its name is, too.

        `left` counts, by their bytes, the source's names that are gone.
        """
        path = os.fsdecode(now.path(row))
        size = int(now.listing.size[row])
        digest, readable = None, size >= 0
        if readable and (self.known.sizes is None or size in self.known.sizes):
            try:
                digest = hashlib.sha256(read_bytes(now.path(row), self.limits)).digest()
            except ImageError:
                readable = False  # the run will find it, and say why
        reason = self.known.failures.get(digest) if digest else None
        had = same = False
        if before is not None and before.known[was]:
            had, same = True, before.digest[was].tobytes() == digest
        elif before is not None and before.failed[was]:  # and could not even be read
            had = True
            same = before.root == now.root and np.array_equal(
                before.listing.stat[was], now.listing.stat[row]
            )
            if same and before.failure_under[was] in self.known.causes:
                reason = before.failure[was]
        if reason is not None:
            self.failed.append((path, reason))
            return
        if had and not same:
            self.changed.append(path)
        elif not had and digest is not None and left[digest]:
            left[digest] -= 1
            self.renamed.append(path)
        elif not had and digest in self.known.digests:
            self.copied.append(path)
        elif not had:
            self.new.append(path)
        if digest is None:
            self.unread += readable
        elif not self._lacks(np.frombuffer(digest, np.uint8)):
            self.reused += 1

    def _lacks(self, digest: Any) -> bool:
        lacking = [t.column.name for t in self.tables if t.find(digest.reshape(1, 32))[0] < 0]
        if lacking and digest.tobytes() not in self.digests:
            self.digests.add(digest.tobytes())
            self.lacking.update(lacking)
        return bool(lacking)


def _marked(n: int, at: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which of `n` places are named, shape (n,); -1 names none."""
    marks = np.zeros(n, np.bool_)
    marks[at[at >= 0]] = True
    return marks


def _differences(recipe: Recipe, others: Sequence[Recipe]) -> list[str]:
    if any(other.fingerprint == recipe.fingerprint for other in others):
        return []
    return min(
        (recipe.differences(other) for other in others),
        key=lambda fields: ("backbone" in fields, len(fields)),
        default=[],
    )
