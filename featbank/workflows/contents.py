"""Contents: what sources were understood to hold, and what was passed over in them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featbank.data.ignored import extension_of
from featbank.data.index import IndexedSource

__all__ = ["Contents", "NotRead"]

_EXAMPLES = 5


@dataclass(frozen=True)
class NotRead:
    """What was passed over, by kind.

    Attributes
    ----------
    formats : dict of str to int
        Files that are no images by their names, by extension (``".svg"``; empty: without one), the
        most frequent first; without those of `images`.
    images : int
        Files without the extension of an image whose first bytes are those of one. At most a
        thousand files of a source are looked into.
    examples : tuple of str
        Paths of some of them.
    not_looked_into : int
        Further files whose extension tells nothing.
    pages, paged_files : int
        Pages and frames beyond the first, and the number of files that have them, as far as the
        files were decoded by a featbank that counts them.
    linked_folders, hidden, unlisted_folders : int
        Links to folders that were not followed; files and folders whose name starts with a dot;
        folders that could not be listed.
    outside_splits : int
        Images beside the folders of the splits.
    """

    formats: dict[str, int] = field(default_factory=dict)
    images: int = 0
    examples: tuple[str, ...] = ()
    not_looked_into: int = 0
    pages: int = 0
    paged_files: int = 0
    linked_folders: int = 0
    hidden: int = 0
    unlisted_folders: int = 0
    outside_splits: int = 0


@dataclass(frozen=True)
class Contents:
    """What sources hold.

    Attributes
    ----------
    classes, splits : dict of str to int
        The number of readable images of each, the largest class first.
    unlabelled : int
        Readable images without a label.
    ignored : NotRead
    """

    classes: dict[str, int]
    splits: dict[str, int]
    unlabelled: int
    ignored: NotRead

    @classmethod
    def of(cls, parts: Iterable[IndexedSource]) -> Contents:
        """Count what sources hold that were listed just now."""
        parts = list(parts)
        classes: Counter[str] = Counter()
        splits: Counter[str] = Counter()
        unlabelled = 0
        for part in parts:
            good = ~part.failed
            for text, counter in ((part.listing.label, classes), (part.listing.split, splits)):
                codes = text.codes[good]
                counts = np.bincount(codes[codes >= 0], minlength=len(text.vocabulary)).tolist()
                counter.update(
                    {word: n for word, n in zip(text.vocabulary, counts, strict=True) if n}
                )
            unlabelled += int((part.listing.label.codes[good] < 0).sum())
        order = {"train": 0, "valid": 1, "test": 2}
        return cls(
            dict(classes.most_common()),
            dict(sorted(splits.items(), key=lambda item: (order.get(item[0], 3), item[0]))),
            unlabelled,
            _ignored(parts),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        ignored = self.ignored
        return {
            "classes": self.classes,
            "splits": self.splits,
            "unlabelled": self.unlabelled,
            "ignored": {
                "formats": ignored.formats,
                "images": ignored.images,
                "image_examples": list(ignored.examples),
                "not_looked_into": ignored.not_looked_into,
                "pages": ignored.pages,
                "paged_files": ignored.paged_files,
                "linked_folders": ignored.linked_folders,
                "hidden": ignored.hidden,
                "unlisted_folders": ignored.unlisted_folders,
                "outside_splits": ignored.outside_splits,
            },
        }


def _ignored(parts: list[IndexedSource]) -> NotRead:
    walks = [part.listing.ignored for part in parts]
    formats = sum((walk.formats for walk in walks), Counter[str]())
    examples = []
    for part in parts:
        for name, (_, _, kind) in part.sniffed.items():
            if kind:
                formats[extension_of(name)] -= 1
                examples.append(os.fsdecode(os.path.join(part.root, name)))
    further = [
        n for part in parts if not part.listing.ignored.pages_taken for n in part.pages.values()
    ]
    return NotRead(
        formats={extension: n for extension, n in formats.most_common() if n > 0},
        images=len(examples),
        examples=tuple(examples[:_EXAMPLES]),
        not_looked_into=sum(walk.more for walk in walks),
        pages=sum(n - 1 for n in further),
        paged_files=sum(n > 1 for n in further),
        linked_folders=sum(walk.linked for walk in walks),
        hidden=sum(walk.hidden for walk in walks),
        unlisted_folders=sum(walk.unlisted for walk in walks),
        outside_splits=sum(walk.outside for walk in walks),
    )
