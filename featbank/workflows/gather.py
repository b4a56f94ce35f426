"""Gather: labelled images of a source or of a bank, read once, without features."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.backbones.recipe import Recipe
from featbank.bank.bank import Bank
from featbank.bank.recipes import KnownRecipe
from featbank.bank.selection import Located, Selection, choose_sources
from featbank.data.decode import DecodeLimits, DecodePolicy, decode, read_bytes
from featbank.data.index import IndexedSource
from featbank.data.pages import file_of
from featbank.data.sources import Source, scan_all
from featbank.errors import DataError, ImageError
from featbank.workflows.survey import name_sources

__all__ = ["gather_bank", "gather_sources"]

Progress = Callable[[int, int], None]
Placed = tuple[IndexedSource, npt.NDArray[np.intp]]
"""A source, and the rows of its images that are meant."""


def gather_sources(
    sources: Sequence[Source],
    recipe: Recipe,
    request: dict[str, Any],
    *,
    label: str | None = None,
    further: Sequence[str] = (),
    check: Callable[[Selection], None] = lambda listed: None,
    progress: Progress | None = None,
) -> tuple[Selection, tuple[str, ...]]:
    """Read every image of the sources once: its digest, and whether it can be decoded.

    Parameters
    ----------
    sources : sequence of Source
    recipe : Recipe
        How bytes become RGB, and what the selection says it is of.
    request : dict
        The user's words for the backbone.
    label : str, optional
        The column of the label.
    further : sequence of str
        Other columns to be read.
    check : callable
        Given all that is listed, before any image is read, to refuse labels.
    progress : callable, optional
        Called with the number of images read and of all.

    Returns
    -------
    selection : Selection
        In the order in which a bank of the same sources has the images; without features.
    notes : tuple of str
        How many images can't be read, and the first with its reason.

    Raises
    ------
    DataError
        There are no images, or none that can be read.
    """
    policy = DecodePolicy.from_dict(recipe.preprocess.decoder)
    sources = name_sources(sources, {})
    listings = scan_all(sources)
    found = [
        IndexedSource.new(one.name, os.fsencode(one.root), listing)
        for one, listing in zip(sources, listings, strict=True)
    ]
    total = sum(map(len, found))
    listed = [(part, np.arange(len(part))) for part in found]
    check(_selection(listed, recipe, request, label, further))
    done = 0
    read: list[IndexedSource] = []
    unreadable: list[tuple[str, str]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in found:
            paths = [part.path(row) for row in range(len(part))]
            reasons: dict[int, str | None] = {}
            for row, (digest, reason) in enumerate(pool.map(lambda p: _look(p, policy), paths)):
                if reason is None:
                    part.digest[row] = np.frombuffer(digest, np.uint8)
                    part.known[row] = True
                else:
                    reasons[row] = reason
                    unreadable.append((os.fsdecode(paths[row]), reason))
                done += 1
                if progress is not None:
                    progress(done, total)
            read.append(dataclasses.replace(part, failure=part.failure.replaced(reasons)))
    if len(unreadable) == total:
        path, reason = unreadable[0]
        raise DataError(f"none of the {total} images can be read; the first is {path}: {reason}")
    notes: tuple[str, ...] = ()
    if unreadable:
        path, reason = unreadable[0]
        one = len(unreadable) == 1
        many = (
            "1 image can't be read and was"
            if one
            else f"{len(unreadable)} images can't be read and were"
        )
        first = "" if one else "the first is "
        notes = (f"{many} left out: {first}{path}: {reason}",)
    read.sort(key=lambda part: part.name)
    selection = _selection(_readable(read), recipe, request, label, further)
    return dataclasses.replace(selection, unreadable=0), notes  # they are in the notes


def gather_bank(
    bank: Bank,
    recipe: Recipe,
    request: dict[str, Any],
    *,
    source: str | Sequence[str] | None = None,
    label: str | None = None,
    further: Sequence[str] = (),
) -> Selection:
    """Return the readable images that a bank has indexed, as they stand on the disk.

    Where a file is gone or has changed, another one of the bank with its bytes stands in for it.

    Raises
    ------
    DataError
        There are none, or some have changed since they were indexed and have no copy.
    """
    parts = choose_sources(bank.index, source)
    rows = [
        (part, row) for part in parts for row in np.flatnonzero(~part.failed & part.known).tolist()
    ]
    if not rows:
        raise DataError(f"{bank.path} has no readable images; name a folder or a table instead.")
    there = [_stands(part, row) for part, row in rows]
    selection = _selection(_readable(parts), recipe, request, label, further)
    if all(there):
        return selection
    keys = [key.tobytes() for key in selection.digests]
    copies = {k: p for k, p, ok in zip(keys, selection.paths, there, strict=True) if ok}
    for part in bank.index.sources.values():  # further sources, which were not asked for
        for row in np.flatnonzero(~part.failed & part.known).tolist():
            key = part.digest[row].tobytes()
            if key not in copies and _stands(part, row):
                copies[key] = os.fsdecode(part.path(row))
    lacking = [
        path
        for path, key, ok in zip(selection.paths, keys, there, strict=True)
        if not ok and key not in copies
    ]
    if lacking:
        raise DataError(
            f"{len(lacking)} of {len(rows)} images of {bank.path} are gone or have changed since "
            f"they were indexed, the first is {lacking[0]}; run `featbank extract` again."
        )
    return dataclasses.replace(
        selection,
        paths=[
            path if ok else copies[key]
            for path, key, ok in zip(selection.paths, keys, there, strict=True)
        ],
    )


def _stands(part: IndexedSource, row: int) -> bool:
    """Tell whether a file is there with the size and time that it was indexed with."""
    try:
        now = os.stat(file_of(part.path(row)))
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (part.listing.size[row], part.listing.mtime[row])


def _look(path: bytes, policy: DecodePolicy) -> tuple[bytes, str | None]:
    """Return the digest of a file, and why its image can't be had; None where it can."""
    try:
        data = read_bytes(path, DecodeLimits())
        decode(data, policy)
    except ImageError as error:
        return b"", str(error)
    return hashlib.sha256(data).digest(), None


def _readable(parts: Sequence[IndexedSource]) -> list[Placed]:
    return [(part, np.flatnonzero(~part.failed & part.known)) for part in parts]


def _selection(
    placed: Sequence[Placed],
    recipe: Recipe,
    request: dict[str, Any],
    label: str | None,
    further: Sequence[str],
) -> Selection:
    digests = np.concatenate([part.digest[rows] for part, rows in placed])
    known = KnownRecipe(recipe, recipe.fingerprint, {"request": request})
    return Located(known, digests, (), (), tuple(placed), label, tuple(further)).selection
