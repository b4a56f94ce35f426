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
    splits, groups = list(selection.splits), list(selection.groups)
    further = {title: list(words) for title, words in selection.further.items()}
    for rows in _of_equal_bytes(selection.digests):
        labelled = [row for row in rows if selection.labels[row] is not None]
        if not labelled:
            continue
        bare = [row for row in rows if selection.labels[row] is None]
        stays[rows] = False
        for label in dict.fromkeys(selection.labels[row] for row in labelled):
            own = [row for row in labelled if selection.labels[row] == label]
            kin = [*own, *bare]
            named: list[str | None] = []
            if given_splits:
                named = list(dict.fromkeys(_known(splits, kin)))
            for split in named or [None]:
                there = [row for row in own if not named or splits[row] in (split, None)]
                if not there:  # only a copy without a label is in this split
                    continue
                kept = there[0]
                stays[kept] = True
                splits[kept] = split or splits[kept]
                groups[kept] = next(_known(groups, [kept, *kin, *rows]), None)
                for words in further.values():
                    words[kept] = next(_known(words, [kept, *kin]), None)
    if stays.all():
        return selection, stays
    merged = dataclasses.replace(selection, splits=splits, groups=groups, further=further)
    return merged, stays


def _of_equal_bytes(digests: npt.NDArray[np.uint8]) -> Iterator[list[int]]:
    """Yield the rows of each digest that several have."""
    keys = np.ascontiguousarray(digests).view(np.dtype((np.void, digests.shape[1]))).ravel()
    _, codes, counts = np.unique(keys, return_inverse=True, return_counts=True)
    if len(counts) == len(keys):
        return
    several = np.flatnonzero(counts[codes] > 1)
    several = several[np.argsort(codes[several], kind="stable")]
    ends = np.flatnonzero(np.diff(codes[several])) + 1
    for rows in np.split(several, ends):
        yield rows.tolist()


def _known(words: Sequence[str | None], rows: Iterable[int]) -> Iterator[str]:
    return (word for row in rows if (word := words[row]) is not None)
