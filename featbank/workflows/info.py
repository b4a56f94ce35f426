"""Info: what a bank holds."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from featbank.bank import packed
from featbank.bank.bank import Bank
from featbank.bank.coverage import bank_coverage
from featbank.workflows.commandlines import restoring_lines
from featbank.workflows.moves import MissingSource, find_missing

__all__ = ["BankInfo", "info"]


@dataclass(frozen=True)
class BankInfo:
    """What a bank holds.

    Attributes
    ----------
    path : str
    bytes : int
        Size of the bank's files.
    images, labelled : int
        Indexed images, and how many of them have a label.
    copies : int
        How many of them have the bytes, the label and the split of one before them, and so don't
        count in `classes` and `splits`.
    classes, splits : dict of str to int
        Images a class and a split.
    sources : list of dict
        Name, kind, root, number of images of each, and whether its folder or table is gone. Of a
        packed bank nothing is called gone: it travels without its images.
    recipes : list of dict
        Name, fingerprint, source, rows, and columns with rows and width of each (None where all
        rows are lost), the number of indexed images that have it, and of those that lack it though
        it was extracted of them.
    errors : list of (str, str)
        Path and reason of each image that could not be read.
    unfinished : str or None
        The folder with the shards of an extraction into a packed bank that has not ended; what is
        in it does not count above.
    made_splits : list of dict
        Splits that were made on request: spec, seed, what was stratified by, and the number of
        different images in each part.
    commands : list of str
        What computes the columns again that images lack.
    """

    path: str
    bytes: int
    images: int
    labelled: int
    classes: dict[str, int]
    splits: dict[str, int]
    sources: list[dict[str, Any]]
    recipes: list[dict[str, Any]]
    errors: list[tuple[str, str]]
    unfinished: str | None = None
    made_splits: list[dict[str, Any]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    copies: int = 0
    missing_sources: tuple[MissingSource, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain = dict(self.__dict__)
        plain["missing_sources"] = [one.to_dict() for one in self.missing_sources]
        plain["errors"] = [{"path": path, "reason": reason} for path, reason in self.errors]
        return plain


def info(bank: Bank | str | os.PathLike[str]) -> BankInfo:
    """Say what a bank holds.

    Raises
    ------
    BankNotFound, BankDamaged
    """
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    index, described = bank.index, bank.sources
    missing = () if bank.packed else find_missing(bank)
    gone = {one.name for one in missing}
    classes: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    labelled = copies = 0
    seen: set[tuple[bytes, str | None, str | None]] = set()
    errors, sources = [], []
    for name, part in index.sources.items():
        labels, own_splits = part.listing.label.tolist(), part.listing.split.tolist()
        raw, known_bytes = part.digest.tobytes(), part.known.tolist()
        for row, (label, split) in enumerate(zip(labels, own_splits, strict=True)):
            labelled += label is not None
            key = (raw[32 * row : 32 * row + 32], label, split)
            if known_bytes[row] and key in seen:
                copies += 1
                continue
            seen.add(key)
            classes.update([] if label is None else [label])
            splits.update([] if split is None else [split])
        errors += [
            (os.fsdecode(part.path(row)), reason)
            for row, reason in enumerate(part.failure.tolist())
            if reason is not None
        ]
        document = described.get(name, {})
        sources.append(
            {
                "name": name,
                "kind": document.get("kind"),
                "root": os.fsdecode(part.root),
                "table": document.get("table"),
                "images": len(part),
                "missing": name in gone,
                "labels": ["label", *part.listing.extra],
            }
        )
    recipes = []
    covered = bank_coverage(bank)
    for known in bank.recipes:
        shards = bank.shards(known.fingerprint)
        widths = {c.name: place.shape[1] for s in shards for c, place in s.columns.items()}
        columns = {c.name: rows for c, rows in bank.columns(known.fingerprint).items()}
        recipes.append(
            {
                "name": known.slug,
                "backbone": known.recipe.backbone,
                "source": known.recipe.source,
                "fingerprint": known.fingerprint,
                "request": known.provenance.get("request", {}),
                "recipe": known.recipe.to_dict(),
                "rows": max(columns.values(), default=0),
                "shards": len(shards),
                "columns": [
                    {
                        "name": one.column,
                        "rows": columns.get(one.column, 0),
                        "width": widths.get(one.column),
                        "images": one.images,
                        "missing": one.missing,
                    }
                    for one in covered[known.slug]
                ],
            }
        )
    return BankInfo(
        path=bank.path,
        bytes=_size(bank.path),
        images=len(index),
        labelled=labelled,
        classes=dict(sorted(classes.items())),
        splits=dict(sorted(splits.items())),
        sources=sources,
        recipes=recipes,
        errors=errors,
        unfinished=packed.unfinished(bank.path),
        made_splits=[
            {
                "spec": one.spec,
                "seed": one.seed,
                "label": one.label,
                "images": dict(sorted(Counter(map(str, one.split.tolist())).items())),
            }
            for one in index.splits.values()
        ],
        commands=restoring_lines(bank, covered),
        copies=copies,
        missing_sources=missing,
    )


def _size(path: str) -> int:
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(path)
        for name in names
    )
