"""The survey: sources as they stand now, beside what the bank knows of them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featbank.backbones.recipe import Column, Recipe, canonical_json
from featbank.bank.bank import Bank
from featbank.bank.coverage import columns_of
from featbank.bank.layered import look
from featbank.bank.rows import Rows
from featbank.data.ignored import look_inside
from featbank.data.index import Index, IndexedSource
from featbank.data.sources import Source, free_name, open_source, scan_all
from featbank.data.walk import shown
from featbank.errors import DataError, FeatbankError, SourceNotFound
from featbank.extraction.plan import SourcePlan, plan_source
from featbank.workflows.moves import MissingSource, find_old, missing_sources

__all__ = [
    "Surveyed",
    "causes_of",
    "decode_cause",
    "name_sources",
    "open_sources",
    "open_sources_of",
    "survey",
]


@dataclass(frozen=True)
class Surveyed:
    """One source: as the bank had it, as it is now, and what is to be done.

    Attributes
    ----------
    source : Source
    before : IndexedSource or None
    now : IndexedSource
    plan : SourcePlan
    replaces : tuple of str
        Names of the sources that it takes the place of.
    """

    source: Source
    before: IndexedSource | None
    now: IndexedSource
    plan: SourcePlan
    replaces: tuple[str, ...] = ()


def open_sources(locations: Any, **options: Any) -> list[Source]:
    """Describe one location or several; a list of images is one source.

    Several are a list of `Source`, or a tuple of folders and tables.
    """
    if isinstance(locations, Source):
        locations = [locations]
    if isinstance(locations, list) and locations and isinstance(locations[0], Source):
        if options:
            raise DataError(f"a Source has its options; give {', '.join(options)} to open_source.")
        return list(locations)
    if isinstance(locations, tuple):
        if locations and all(map(_is_list, locations)):
            raise DataError(
                "a tuple names several folders or tables, and this one holds lists; for paths with "
                "their labels give open_source(paths, labels), for pairs a list."
            )
        return [open_source(location, **options) for location in locations]
    return [open_source(locations, **options)]


def open_sources_of(bank: str | os.PathLike[str], locations: Any, **options: Any) -> list[Source]:
    """Describe locations as `open_sources` does; say of a missing one if the bank had it.

    Raises
    ------
    SourceNotFound
        A folder or table is not there.
    """
    try:
        return open_sources(locations, **options)
    except SourceNotFound as error:
        several = locations if isinstance(locations, tuple) else (locations,)
        places = {os.path.abspath(os.fsdecode(one)) for one in several if not _is_list(one)}
        target = None
        with contextlib.suppress(FeatbankError, OSError):
            target = look(bank)
        for one in missing_sources(target.sources) if target else []:
            if one.place in places:
                raise SourceNotFound(
                    f"{shown(one.place)} is gone, which the bank has as its source {one.name!r}; "
                    "if it moved, extract its new place with --replace (replace=True)."
                ) from error
        raise


def _is_list(location: Any) -> bool:
    return isinstance(location, list | tuple) or hasattr(location, "tolist")  # array, Series


def name_sources(sources: Sequence[Source], described: Mapping[str, Any]) -> list[Source]:
    """Return the sources under names that are unique in a bank; a known one keeps its own.

    Parameters
    ----------
    sources : sequence of Source
    described : mapping
        What the bank has, as `Bank.sources` says it.
    """
    known = [Source.from_dict(document) for document in described.values()]
    place = {_place(source): source.name for source in known}
    taken = {source.name for source in known}
    named = []
    for source in sources:
        name = place.get(_place(source)) or free_name(source.name, taken)
        taken.add(name)
        place[_place(source)] = name
        named.append(dataclasses.replace(source, name=name))
    if len({source.name for source in named}) < len(named):
        raise DataError("the same source was named twice; name each folder or table once.")
    return named


def _place(source: Source) -> tuple[str, ...]:
    if source.kind == "list":
        return ("list", source.name, source.root)
    return ("csv", source.table or "") if source.kind == "csv" else ("folder", source.root)


def decode_cause(recipe: Recipe) -> str:
    """Return what a file's failure to decode depends on, apart from the file."""
    return canonical_json(recipe.preprocess.decoder)


def causes_of(recipe: Recipe) -> list[str]:
    """Return all that a failure of an image may depend on: its decoding, and its features."""
    return [decode_cause(recipe), recipe.fingerprint]


def survey(
    sources: Iterable[Source],
    bank: Bank | None,
    recipe: Recipe | None,
    columns: Sequence[Column],
    *,
    retry_failed: bool = False,
    paranoid: bool = False,
    index: Index | None = None,
    replacing: Sequence[MissingSource] = (),
) -> tuple[list[Surveyed], list[Rows]]:
    """Scan sources and plan what is to be read; also return what the bank has of each column.

    A caller that has read the bank's `index` can pass it. A source that one of `replacing` moved
    to takes its place.
    """
    if index is None and bank is not None:
        index = bank.index
    if bank is None or recipe is None:
        tables = [Rows.of(column, ()) for column in columns]
    else:
        tables = [bank.rows(recipe.fingerprint, column) for column in columns]
    causes = causes_of(recipe) if recipe else []
    names = [column.name for column in columns]
    found: list[Surveyed] = []
    sources = list(sources)
    listings = scan_all(sources, index.sources if index is not None else None)
    for source, listing in zip(sources, listings, strict=True):
        before = index.sources.get(source.name) if index else None
        root = os.fsencode(source.root)
        now = (before or IndexedSource.new(source.name, root, listing)).carried_to(root, listing)
        replaces: tuple[str, ...] = ()
        left = [one for one in replacing if not any(one.name in part.replaces for part in found)]
        if index and left and (old := find_old(now, source.kind, left, index)):
            replaces = (old[0].name, *([source.name] if before is not None else []))
            source, now = dataclasses.replace(source, name=old[0].name), old[1]
            before = index.sources[source.name]
        if recipe is not None:
            if before is not None and bank is not None and recipe.fingerprint not in now.requested:
                # Indexed by an older version: assume that its columns are the requested ones.
                now = now.requesting(recipe.fingerprint, columns_of(bank, recipe, before))
            now = now.requesting(recipe.fingerprint, names)
        sniffed = look_inside(root, listing.ignored, now.sniffed)
        now = dataclasses.replace(now, sniffed=sniffed)
        plan = plan_source(now, tables, causes=causes, retry_failed=retry_failed, paranoid=paranoid)
        found.append(Surveyed(source, before, now, plan, replaces))
    return found, tables
