"""Expansion: a listing in which each page or frame of a file is an image of its own."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import numpy.typing as npt

from featbank.data.decode import DecodeLimits, read_bytes
from featbank.data.index import IndexedSource, Listing, Names, Text
from featbank.data.pages import count_pages, page_name
from featbank.errors import ImageError

__all__ = ["with_pages"]

_PAGED = (".tif", ".tiff", ".gif", ".png", ".apng", ".webp", ".avif", ".avifs", ".heic", ".heif",
          ".hif")  # fmt: skip


def with_pages(listing: Listing, root: bytes, known: IndexedSource | None) -> Listing:
    """List each page of a file; pages of one file form a group, unless the file has one.

    Parameters
    ----------
    listing : Listing
        With a row a file.
    root : bytes
    known : IndexedSource or None
        What is known of the source. Files that are in it unchanged are not read to count pages.

    Returns
    -------
    Listing
        With the number of pages of each file that may have several as `counted`.
    """
    counted = _counted(listing, root, known)
    numbers = [counted.get(name, 1) for name in listing.names]
    listing = dataclasses.replace(listing, counted=counted)
    listing.ignored.pages_taken = True
    if max(numbers, default=1) == 1:
        return listing
    rows = np.repeat(np.arange(len(listing)), numbers)
    names = [
        page_name(name, page)
        for name, number in zip(listing.names, numbers, strict=True)
        for page in range(1, number + 1)
    ]
    order = sorted(range(len(names)), key=names.__getitem__)
    groups = listing.group.tolist()
    for row, name in enumerate(listing.names):
        if numbers[row] > 1 and groups[row] is None:
            groups[row] = os.fsdecode(name)
    return _taken(
        dataclasses.replace(listing, group=Text.of(groups)),
        rows[order],
        Names.of(names[place] for place in order),
    )


def _counted(listing: Listing, root: bytes, known: IndexedSource | None) -> dict[bytes, int]:
    before: dict[bytes, int] = {}
    if known is not None and known.root == root and known.pages:
        at = known.match(listing.names)
        rows = np.flatnonzero(at >= 0)
        same = (known.listing.stat[at[rows]] == listing.stat[rows]).all(axis=1)
        same &= ~known.listing.racy[at[rows]]
        unchanged = (listing.names[row] for row in rows[same].tolist())
        before = {name: known.pages[name] for name in unchanged if name in known.pages}
    return {
        name: before[name] if name in before else _count(os.path.join(root, name))
        for name in listing.names
        if name[-6:].lower().endswith(tuple(map(str.encode, _PAGED)))
    }


def _count(path: bytes) -> int:
    try:
        return count_pages(read_bytes(path, DecodeLimits()))
    except ImageError:  # which is said where the image itself is read
        return 1


def _taken(listing: Listing, rows: npt.NDArray[np.intp], names: Names) -> Listing:
    """Return rows of a listing under other names."""
    numbers = ("size", "mtime", "ctime", "inode", "scanned")
    texts = ("label", "split", "group")
    return dataclasses.replace(
        listing,
        names=names,
        **{name: getattr(listing, name)[rows] for name in numbers},
        **{name: getattr(listing, name).take(rows) for name in texts},
        extra={name: text.take(rows) for name, text in listing.extra.items()},
    )
