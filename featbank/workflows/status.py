"""Status: what an extraction would compute, and why, without computing anything."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featbank.backbones.recipe import Column, Recipe
from featbank.bank.bank import Bank
from featbank.bank.rows import Rows
from featbank.data.decode import DecodeLimits, read_bytes
from featbank.data.index import IndexedSource
from featbank.errors import BankNotFound, ImageError
from featbank.workflows.extract import Model
from featbank.workflows.survey import Surveyed, name_sources, survey

__all__ = ["Status", "status"]


@dataclass(frozen=True)
class Status:
    """What a run would do.

    Attributes
    ----------
    images : int
    new, changed, renamed : list of str
        Paths that the bank does not know, knows with other bytes, or knows under another name.
    removed : list of str
        Paths that the bank knows and that are gone.
    failed : list of (str, str)
        Paths that could not be read before and have not changed since, with the reason.
    reused : int
        Images whose features are there.
    to_compute : int
        Images that the network would see; of those with the same bytes one.
    recipe_differs : list of str
        Fields in which the recipe differs from the nearest one of the same backbone in the bank;
        empty if the bank has it, or has nothing of that backbone.
    missing_columns : list of str
        Columns that the bank does not have for every known image.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and the paths under ``details``, for JSON."""
        lists: dict[str, list[Any]] = {
            "new": self.new,
            "changed": self.changed,
            "renamed": self.renamed,
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
    of the bank has their size: a renamed, copied or merely touched file costs nothing later.
    """
    limits = limits or DecodeLimits()
    try:
        target: Bank | None = Bank(bank)
    except BankNotFound:
        target = None
    assert model.recipe is not None
    surveyed, tables = survey(name_sources(sources, target), target, model.recipe, columns)
    everything = target.index.sources.values() if target else ()
    sizes = {int(n) for part in everything for n in part.listing.size[part.known]}
    known = {
        part.digest[row].tobytes() for part in everything for row in np.flatnonzero(part.known)
    }
    found = _Found()
    for part in surveyed:
        found.add(part, tables, sizes, known, limits)
    recipes = target.recipes if target else []
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
        missing_columns=sorted(found.columns),
    )


@dataclass
class _Found:
    """Gathers what the sources' rows are."""

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    reused: int = 0
    unread: int = 0
    digests: set[bytes] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)

    def add(
        self,
        part: Surveyed,
        tables: Sequence[Rows],
        sizes: set[int],
        known: set[bytes],
        limits: DecodeLimits,
    ) -> None:
        now, plan, before = part.now, part.plan, part.before
        was = before.match(now.listing.names) if before else np.full(len(now), -1)
        if before is not None:
            here = set(now.listing.names)
            gone = [n for n in before.listing.names if n not in here]
            self.removed += [os.fsdecode(os.path.join(before.root, n)) for n in gone]
        self.reused += int(plan.reused.sum())
        for row in map(int, np.flatnonzero(plan.failed)):
            self.failed.append((os.fsdecode(now.path(row)), now.failure[row] or ""))
        for row in map(int, np.flatnonzero(plan.compute)):
            self._lacks(now.digest[row], tables)
        for row in map(int, np.flatnonzero(plan.unknown)):
            self._unknown(now, row, before, int(was[row]), tables, sizes, known, limits)

    def _unknown(
        self,
        now: IndexedSource,
        row: int,
        before: IndexedSource | None,
        was: int,
        tables: Sequence[Rows],
        sizes: set[int],
        known: set[bytes],
        limits: DecodeLimits,
    ) -> None:
        path = os.fsdecode(now.path(row))
        digest = None
        if int(now.listing.size[row]) in sizes:
            try:
                digest = hashlib.sha256(read_bytes(now.path(row), limits)).digest()
            except ImageError:
                digest = None  # the run will find it, and say why
        had = before is not None and was >= 0 and bool(before.known[was])
        unchanged = had and before is not None and before.digest[was].tobytes() == digest
        if not unchanged:
            if was >= 0:
                self.changed.append(path)
            elif digest in known:
                self.renamed.append(path)
            else:
                self.new.append(path)
        if digest is None:
            self.unread += 1
        elif not self._lacks(np.frombuffer(digest, np.uint8), tables):
            self.reused += 1

    def _lacks(self, digest: Any, tables: Sequence[Rows]) -> bool:
        lacking = [t.column.name for t in tables if t.find(digest.reshape(1, 32))[0] < 0]
        if lacking:
            self.digests.add(digest.tobytes())
            self.columns.update(lacking)
        return bool(lacking)


def _differences(recipe: Recipe, others: Sequence[Recipe]) -> list[str]:
    if any(other.fingerprint == recipe.fingerprint for other in others):
        return []
    same = [recipe.differences(other) for other in others if other.backbone == recipe.backbone]
    return min(same, key=len, default=[])
