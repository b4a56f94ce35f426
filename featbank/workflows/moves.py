"""Moves: sources whose folder or table is gone, and where their images are now.

A source is missing if its folder or table is gone and the folder that held it is there; so a bank
that was copied to another machine says nothing. A new source is a missing one that moved if at
least nine tenths of the old one's images are in it under the same relative names with the same
bytes: size, times and inode tell (`mv` keeps these), and where they differ the bytes are hashed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featbank.bank.bank import Bank
from featbank.bank.packed import names_file
from featbank.data.digests import learned
from featbank.data.index import Index, IndexedSource
from featbank.data.sources import Source
from featbank.data.walk import shown
from featbank.workflows.commandlines import bank_words, extract_lines, line

__all__ = [
    "MissingSource",
    "find_missing",
    "find_old",
    "missing_sources",
    "moved",
    "moved_share",
    "note_on_missing",
    "replacing_line",
    "with_new_place",
]

NEARLY_ALL = 0.9
"""Share of a missing source's images that a new source holds if it is the old one moved."""


@dataclass(frozen=True)
class MissingSource:
    """A source of a bank whose folder or table is gone.

    Attributes
    ----------
    name : str
    place : str
        The folder or table that is gone.
    kind : str
        As in `Source`.
    moved_to : str or None
        Where its images are now, if that is known.
    table : str or None
        A table that is there, where the folder of its images is gone.
    """

    name: str
    place: str
    kind: str
    moved_to: str | None = None
    table: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"name": self.name, "place": self.place, "moved_to": self.moved_to}


def missing_sources(
    described: Mapping[str, Mapping[str, Any]], named: Iterable[Source] = ()
) -> list[MissingSource]:
    """Return the sources that are missing, of those that `Bank.sources` describes.

    Those that were `named` just now are where these say.
    """
    found = []
    here = {source.name for source in named}
    for name, document in described.items():
        if name in here:
            continue
        source = Source.from_dict(document)
        for place in filter(None, (source.table, source.root)):
            if not os.path.exists(place) and os.path.isdir(os.path.dirname(place)):
                table = source.table if place != source.table else None
                found.append(MissingSource(name, place, source.kind, table=table))
                break
    return found


def find_missing(bank: Bank) -> tuple[MissingSource, ...]:
    """Return the missing sources of a bank, each with the other source that it moved to, if any."""
    described = bank.sources
    missing = missing_sources(described)
    if not missing:
        return ()
    index, names = bank.index, {one.name for one in missing}
    others = [
        Source.from_dict(document)
        for name, document in described.items()
        if name in index.sources and name not in names
    ]
    found = [index.sources[source.name] for source in others]
    return tuple(with_new_place(one, index, others, found) for one in missing)


def replacing_line(bank: Bank, missing: Iterable[MissingSource]) -> str | None:
    """Return the command that replaces the sources that moved; None where no words can say it."""
    places = {one.moved_to for one in missing} - {None}
    names = [
        name
        for name, document in bank.sources.items()
        if (document.get("table") or document.get("root")) in places
    ]
    for known in bank.recipes:
        lines = extract_lines(bank, known, names, replace=True) if names else None
        if lines:
            return " && ".join(lines)
    return None


def moved_share(old: IndexedSource, now: IndexedSource) -> float:
    """Return the share of a source's images that another one has by the same names and bytes."""
    known = np.flatnonzero(old.known)
    if not len(known):
        return 0.0
    at = now.match([old.listing.names[row] for row in known.tolist()])
    there = at >= 0
    there[there] = now.known[at[there]]
    equal = (old.digest[known[there]] == now.digest[at[there]]).all(axis=1)
    return float(equal.sum()) / len(known)


def moved(old: IndexedSource, now: IndexedSource) -> IndexedSource | None:
    """Return `old` at its new place, if `now` is that; see the module.

    Files are read where their bytes are not known and a file of `old` has their name and size.
    """
    at = old.match(now.listing.names)
    alike = at >= 0
    alike[alike] = old.known[at[alike]]
    alike[alike] = now.listing.size[alike] == old.listing.size[at[alike]]
    if not old.known.any() or alike.sum() < NEARLY_ALL * old.known.sum():
        return None
    here = dataclasses.replace(old, root=now.root).carried_to(now.root, now.listing)
    here = learned(here.completed_by(now), rows=alike)
    return here if moved_share(old, here) >= NEARLY_ALL else None


def find_old(
    now: IndexedSource, kind: str, missing: Iterable[MissingSource], index: Index
) -> tuple[MissingSource, IndexedSource] | None:
    """Return the missing source that a new one is, and it at its new place; None if it is none."""
    for one in missing:
        old = index.sources.get(one.name)
        if old is None or _layout(one.kind) != _layout(kind):
            continue
        here = moved(old, now)
        if here is not None:
            return one, here
    return None


def with_new_place(
    one: MissingSource,
    index: Index,
    sources: Sequence[Source],
    found: Sequence[IndexedSource],
) -> MissingSource:
    """Return a missing source with the place of that source which it is, if there is one."""
    old = index.sources.get(one.name)
    for source, now in zip(sources, found, strict=True):
        same = old is not None and _layout(one.kind) == _layout(source.kind)
        if old is not None and same and moved_share(old, now) >= NEARLY_ALL:
            return dataclasses.replace(one, moved_to=source.table or source.root)
    return one


def _layout(kind: str) -> str:
    return kind if kind in ("csv", "list") else "folder"


def note_on_missing(
    missing: Iterable[MissingSource], bank: str, *, again: str | None = None
) -> str | None:
    """Return one line that says which sources are missing and what to do; None if none is.

    Parameters
    ----------
    missing : iterable of MissingSource
    bank : str
        The bank's path.
    again : str, optional
        The command that replaces those that moved.
    """
    found = list(missing)
    here = [one for one in found if one.moved_to is not None and again is not None]
    gone = [one for one in found if one not in here]
    words = []
    if here:
        moves = (
            f"{one.name!r} moved from {shown(one.place)} to {shown(one.moved_to or '')}"
            for one in here
        )
        words.append(f"the source {', the source '.join(moves)}; to replace it: {again}")
    if gone:
        names = ", ".join(f"{one.name!r} ({shown(one.place)})" for one in gone)
        what, is_, its, it = (
            ("source", "is", "its", "it") if len(gone) == 1 else ("sources", "are", "their", "them")
        )
        words.append(
            f"the {what} {names} {is_} gone, and {its} images stay in the bank; if {its} files "
            f"moved: {_new_place(gone)}"
        )
        if not names_file(bank):
            options = (word for one in gone for word in ("--source", one.name))
            words[-1] += f"; to remove {it}: {line('prune', *options, *bank_words(bank))}"
    return "; ".join(words) or None


def _new_place(gone: Sequence[MissingSource]) -> str:
    """Return commands that tell featbank where these sources are now."""
    tables = [line("extract", one.table) for one in gone if one.table is not None]
    found = [f"{command} --root NEW_PLACE" for command in tables]
    if len(tables) < len(gone):
        found.insert(0, "featbank extract --replace NEW_PLACE")
    return " and ".join(found)
