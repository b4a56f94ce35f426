"""Copies: images of a bank whose bytes another one has, which count once.

Of images with the same bytes and label, in the same split, the first by source and name is kept. It
takes over from its copies what its own source does not say: split, group, and the cells of further
columns. A copy without a label is left out where another one has a label. So a folder and a table
of the same files give each file once, with the words of both. Images with the same bytes and
different labels are all kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from featbank.bank.selection import Selection

__all__ = ["merge_copies"]

Words = list[str | None]


def merge_copies(
    selection: Selection, *, given_splits: bool
) -> tuple[Selection, npt.NDArray[np.bool_]]:
    """Return the images with what their copies know, and which of them stay.

    Parameters
    ----------
    selection : Selection
    given_splits : bool
        Whether the selection's splits are used: then copies in different splits all stay.
    """
    stays = np.ones(len(selection.paths), np.bool_)
    labels, splits, groups = selection.labels, list(selection.splits), list(selection.groups)
    further = {title: list(words) for title, words in selection.further.items()}
    told = [words for words in (groups, *further.values()) if any(w is not None for w in words)]
    for rows in _of_equal_bytes(selection.digests):
        kept = list(_kept(rows, labels, splits if given_splits else None))
        if kept:
            stays[rows] = False
        for row, kin, split in kept:
            stays[row] = True
            splits[row] = split or splits[row]
            for words in told:
                others = [*kin, *rows] if words is groups else kin  # bytes belong to a group
                if words[row] is None:
                    words[row] = next(_known(words, others), None)
    if stays.all():
        return selection, stays
    merged = dataclasses.replace(selection, splits=splits, groups=groups, further=further)
    return merged, stays


def _kept(
    rows: list[int], labels: Words, splits: Words | None
) -> Iterator[tuple[int, list[int], str | None]]:
    """Yield, of rows of equal bytes, each that stays, with those of its label or of none.

    And its split, where it had none itself. Nothing stays in place of others if none has a label.
    """
    bare = [row for row in rows if labels[row] is None]
    for label in dict.fromkeys(labels[row] for row in rows if labels[row] is not None):
        own = [row for row in rows if labels[row] == label]
        kin = [*own, *bare]
        left = own
        for split in dict.fromkeys(_known(splits, kin)) if splits is not None else ():
            assert splits is not None
            there = [row for row in left if splits[row] in (split, None)]
            if there:  # else only a copy without a label is in this split
                yield there[0], kin, split
                left = [row for row in left if row not in there]
        if left is own:
            yield own[0], kin, None


def _of_equal_bytes(digests: npt.NDArray[np.uint8]) -> Iterator[list[int]]:
    """Yield the rows of each digest that several have."""
    heads = np.ascontiguousarray(digests[:, :8]).view(np.uint64).ravel()
    _, codes, counts = np.unique(heads, return_inverse=True, return_counts=True)
    found: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(counts[codes] > 1).tolist():
        found.setdefault(digests[row].tobytes(), []).append(row)
    return (rows for rows in found.values() if len(rows) > 1)


def _known(words: Sequence[str | None], rows: Iterable[int]) -> Iterator[str]:
    return (word for row in rows if (word := words[row]) is not None)
