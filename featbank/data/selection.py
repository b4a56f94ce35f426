"""Selection: what the rows of a listing are called, and which of them are kept."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from featbank.data.index import Listing, Text
from featbank.data.tables import split_word
from featbank.errors import DataError, nearest

__all__ = ["SPLITS", "by_split", "check_classes", "choose"]

SPLITS = ("train", "valid", "test")


def by_split(listing: Listing) -> Listing:
    """Read a listing of split folders: the first folder is the split, the second the label.

    Images in other folders than the splits' are left out.

    Raises
    ------
    DataError
        Where two folders mean the same split.
    """
    folders = {folder: split_word(folder) for folder in listing.label.vocabulary}
    first = listing.label.tolist()
    kept = [i for i, folder in enumerate(first) if folder and folders[folder] in SPLITS]
    meant: dict[str, set[str]] = {}
    for folder, split in folders.items():
        meant.setdefault(str(split), set()).add(folder)
    for split in SPLITS:
        if len(meant.get(split, ())) > 1:
            raise DataError(
                f"the folders {' and '.join(sorted(meant[split]))} both mean the split {split}; "
                "keep one of them."
            )
    labels = []
    for i in kept:
        parts = listing.names[i].split(b"/", 2)
        labels.append(os.fsdecode(parts[1]) if len(parts) == 3 else None)
    chosen = _take(listing, np.array(kept, dtype=np.intp))
    splits = [folders[str(first[i])] for i in kept]
    listing.ignored.outside += len(listing) - len(kept)
    return dataclasses.replace(chosen, label=Text.of(labels), split=Text.of(splits))


def check_classes(
    found: Sequence[Sequence[str]], *, classes: Iterable[str], class_names: Mapping[str, str]
) -> None:
    """Check that the classes that are asked for are there, in one source of a call or another.

    Parameters
    ----------
    found : sequence of sequence of str
        The labels as found in each source.
    classes : iterable of str
        By their label as found or by their readable name.
    class_names : mapping
        From labels as found to readable ones.

    Raises
    ------
    DataError
        For a class that is not there, or names that fit no class.
    """
    raw = {word for words in found for word in words}
    if class_names and raw.isdisjoint(class_names):
        raise DataError(
            f"the class names fit none of the classes, which are {_some(raw)}; the names are for "
            f"{_some(class_names)}."
        )
    known = raw | {class_names.get(word, word) for word in raw}
    where = "" if len(found) == 1 else f" in any of the {len(found)} sources"
    for word in classes:
        if word not in known:
            raise DataError(f"there is no class {word!r}{where}; {nearest(word, known)}")


def choose(
    listing: Listing,
    *,
    classes: Sequence[str] | None,
    exclude: Sequence[str],
    class_names: Mapping[str, str],
) -> Listing:
    """Rename the classes of a listing, and keep those that are asked for.

    Parameters
    ----------
    listing : Listing
    classes, exclude : sequence of str
        By their label as found or by their readable name. With `classes`, images without a label
        are left out.
    class_names : mapping
        From labels as found to readable ones; a label that is not in it stays as it is.

    Returns
    -------
    Listing
        Perhaps without any image. A class that is not there chooses and excludes nothing; see
        `check_classes`.
    """
    raw = listing.label.vocabulary
    readable = [class_names.get(word, word) for word in raw]
    wanted = None if classes is None else set(classes)
    keeps = [
        (wanted is None or not wanted.isdisjoint(both)) and not set(exclude) & set(both)
        for both in zip(raw, readable, strict=True)
    ]
    if class_names:
        words = [*readable, None]
        label = Text.of(words[code] for code in listing.label.codes)
    else:
        label = listing.label
    listing, codes = dataclasses.replace(listing, label=label), listing.label.codes
    if all(keeps) and wanted is None:
        return listing
    keep = np.array([*keeps, wanted is None])[codes]  # the last entry is what -1 finds
    return _take(listing, np.flatnonzero(keep))


def _take(listing: Listing, rows: np.ndarray[Any, np.dtype[np.intp]]) -> Listing:
    """Return only these rows of a listing."""
    return dataclasses.replace(
        listing,
        names=[listing.names[i] for i in rows],
        size=listing.size[rows],
        mtime=listing.mtime[rows],
        ctime=listing.ctime[rows],
        inode=listing.inode[rows],
        scanned=listing.scanned[rows],
        label=_used(listing.label, rows),
        split=_used(listing.split, rows),
        group=_used(listing.group, rows),
        extra={name: _used(text, rows) for name, text in listing.extra.items()},
    )


def _used(text: Text, rows: np.ndarray[Any, np.dtype[np.intp]]) -> Text:
    """Return only these rows of a column, its vocabulary cut to what they use."""
    return Text.of(text.take(rows).tolist())


def _some(words: Iterable[str], limit: int = 5) -> str:
    words = sorted(words)
    return ", ".join(words[:limit]) + (", ..." if len(words) > limit else "")
