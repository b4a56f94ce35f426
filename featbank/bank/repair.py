"""Repair: what is damaged set aside, and all that can be rebuilt without computing a feature.

Damaged files go to ``quarantine/`` in the bank, under their old path with ``--`` for each slash;
none is deleted. What is lost can be had again from what is left:

=================  ===============================================================================
bank.json          is always the same
<recipe>/          from a shard, each of which brings its recipe; the words of the request, which a
recipe.json        classifier needs, come back with the next extraction
sources.json       from the index and the folders, where these are as the index has them
index.h5           from sources.json and the files, whose bytes are hashed; splits that were made
                   on request are made again
a shard            the next extraction computes its rows
=================  ===============================================================================
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from featbank import durable, hdf5
from featbank.backbones.trained_on import TrainedOn
from featbank.bank.bank import (
    Bank,
    alone,
    check_folder,
    write_bank_document,
    write_recipe_document,
)
from featbank.bank.coverage import Coverage, bank_coverage, lost_columns, readable_rows
from featbank.bank.documents import read_document
from featbank.bank.recipes import (
    QUARANTINE,
    KnownRecipe,
    as_known_recipe,
    as_trained_on,
    recipe_document,
    shard_paths,
    trained_on_document,
    write_trained_on,
)
from featbank.bank.shard import check_digest, read_recipe, read_shard
from featbank.data.digests import learned
from featbank.data.index import IndexedSource, Listing
from featbank.data.indexfile import read_index
from featbank.data.sources import Source, open_source, scan
from featbank.errors import BankDamaged, BankError, BankNotFound, DataError
from featbank.regular import open_regular

__all__ = ["Repaired", "repair"]

Progress = Callable[[int, int], None]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Repaired:
    """What `repair` did.

    Attributes
    ----------
    quarantined : tuple of str
        Where the damaged files lie now.
    index : {"whole", "rebuilt"}
    images : int
        How many the index has.
    to_compute : tuple of str
        Images whose features were lost; the next extraction computes them.
    recipes : dict of str to int
        How many of these, by the name of the recipe; one is missing where the others have rows.
    notes : tuple of str
        What could not be had again, and what to do about it; one sentence each.
    coverage : dict of str to list of Coverage
        By the name of the recipe, which images lost each column.
    """

    quarantined: tuple[str, ...]
    index: str
    images: int
    to_compute: tuple[str, ...]
    recipes: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    coverage: dict[str, list[Coverage]] = field(default_factory=dict, repr=False)

    @property
    def columns(self) -> dict[str, dict[str, int]]:
        """How many images lost each column, by recipe; without the columns that none lost."""
        return lost_columns(self.coverage)


def repair(bank: Bank | str | os.PathLike[str], *, progress: Progress | None = None) -> Repaired:
    """Set damaged files of a bank aside and rebuild what can be rebuilt; no feature is computed.

    Whole files stay as they are. If this is interrupted, it can be called again.

    Parameters
    ----------
    bank : Bank or path
        A path for a bank that is so damaged that it can't be opened.
    progress : callable, optional
        Called with the number of files hashed for the index, and of all that are to be.

    Returns
    -------
    Repaired

    Raises
    ------
    BankError
        The bank is packed, or in use.
    BankNotFound
        There is no bank.
    BankVersionError
        A later featbank wrote it.
    OSError
        A file can't be moved or written.
    """
    path = bank.path if isinstance(bank, Bank) else os.path.abspath(os.fspath(bank))
    if os.path.isfile(path):
        raise BankError(
            f"{path} is one packed file, which is whole or damaged (`featbank verify` says which); "
            "bring a damaged one again from a copy."
        )
    if not os.path.isdir(path) or not _was_bank(path):
        raise BankNotFound(f"there is no bank at {path}; --bank names another.")
    with alone(path):
        # A repair that was killed may have given names, and not have come to syncing them.
        durable.fs.sync_directory(path)
        return _Repair(path, progress).run()


def _was_bank(path: str) -> bool:
    """Tell whether a folder holds a bank, or what is left of one."""
    own = ("bank.json", "sources.json", "index.h5", QUARANTINE)
    return any(os.path.exists(os.path.join(path, name)) for name in own) or bool(_folders(path))


def _folders(path: str) -> list[str]:
    """Return the folders with a recipe or shards, whatever state these are in.

    Raises
    ------
    BankDamaged
        One of them is a link, and nothing is moved where it leads.
    """
    with os.scandir(path) as entries:
        names = sorted(
            e.name for e in entries if os.path.isdir(e.path) and not e.name.startswith(".")
        )
    folders = [os.path.join(path, name) for name in names if name != QUARANTINE]
    return [f for f in folders if shard_paths(f) or os.path.lexists(recipe_document(f))]


class _Repair:
    """One repair of the bank at `path`, held alone meanwhile."""

    def __init__(self, path: str, progress: Progress | None) -> None:
        self.path = path
        self.progress = progress
        self.quarantined: list[str] = []
        self.notes: list[str] = []

    def run(self) -> Repaired:
        """Mend part after part; each is whole before the next, which may need it, is begun."""
        self.mend_bank_document()
        self.mend_recipes()
        bank = Bank(self.path)
        index = self.mend_index(bank)
        found = bank_coverage(bank)
        lacking = dict(self.lacking(bank, found))
        return Repaired(
            quarantined=tuple(self.quarantined),
            index=index,
            images=len(bank.index),
            to_compute=tuple(sorted(set().union(*lacking.values()))),
            recipes={slug: len(paths) for slug, paths in lacking.items() if slug and paths},
            notes=tuple(self.notes),
            coverage=found,
        )

    def set_aside(self, path: str) -> None:
        """Move what is damaged into the quarantine."""
        folder = os.path.join(self.path, QUARANTINE)
        name = os.path.relpath(path, self.path).replace(os.sep, "--")
        target, number = os.path.join(folder, name), 1
        while os.path.lexists(target):
            number += 1
            target = os.path.join(folder, f"{name}.{number}")
        durable.move_file(path, target)
        self.quarantined.append(target)

    def mend_bank_document(self) -> None:
        path = os.path.join(self.path, "bank.json")
        if os.path.lexists(path):
            with self.damaged_is_set_aside(path):
                read_document(path)
        if not os.path.lexists(path):
            write_bank_document(self.path)
        check_folder(self.path)

    def mend_recipes(self) -> None:
        """Bring every shard and every recipe's document to where it belongs, or set it aside."""
        folders = _folders(self.path)
        known: dict[str, KnownRecipe] = {}
        for folder in folders:
            path = recipe_document(folder)
            if os.path.lexists(path):
                with self.damaged_is_set_aside(path):
                    recipe = as_known_recipe(read_document(path), path)
                    known[recipe.fingerprint] = recipe
        found: list[tuple[str, str]] = []  # whole shards with their fingerprints
        for path in [path for folder in folders for path in shard_paths(folder)]:
            with self.damaged_is_set_aside(path):
                check_digest(path)
                fingerprint = read_shard(path).fingerprint
                brought = read_recipe(path)
                if brought is not None:
                    known.setdefault(fingerprint, KnownRecipe(brought, fingerprint))
                found.append((path, fingerprint))
        for path, fingerprint in found:
            if fingerprint in known:
                name = os.path.basename(path)
                home = os.path.join(self.path, known[fingerprint].slug, name[:2], name)
                if path != home and not os.path.lexists(home):
                    durable.move_file(path, home)
                elif path != home:
                    self.set_aside(path)
        homes = {recipe.slug: recipe for recipe in known.values()}
        for folder in folders:
            self.mend_trained_on(folder, known)
        for folder in sorted({*folders, *(os.path.join(self.path, slug) for slug in homes)}):
            self.mend_recipe_document(folder, homes.get(os.path.basename(folder)))

    def mend_recipe_document(self, folder: str, known: KnownRecipe | None) -> None:
        """See to the document of a folder that, by its name, is the home of `known`."""
        path = recipe_document(folder)
        if known is None:
            if os.path.lexists(path):  # it is another recipe's
                self.set_aside(path)
            if shard_paths(folder):
                self.notes.append(
                    f"{folder} holds shards whose recipe is lost; run `featbank extract` with the "
                    "same model, and they are found again."
                )
        elif not os.path.lexists(path):
            if os.path.isdir(folder) and shard_paths(folder):
                write_recipe_document(folder, known.recipe, known.provenance)
        elif as_known_recipe(read_document(path), path).fingerprint != known.fingerprint:
            self.set_aside(path)
            write_recipe_document(folder, known.recipe, known.provenance)

    def mend_trained_on(self, folder: str, known: Mapping[str, KnownRecipe]) -> None:
        """Bring what names training images to its recipe; say so where it is lost."""
        path = trained_on_document(folder)
        if not os.path.lexists(path):
            return
        fingerprint = ""
        with self.damaged_is_set_aside(path):
            document = read_document(path)
            as_trained_on(document, path)
            fingerprint = str(document.get("fingerprint", ""))
        if not os.path.lexists(path):
            here = [one for one in known.values() if one.slug == os.path.basename(folder)]
            for one in here:
                write_trained_on(folder, one.fingerprint, TrainedOn(None))
            self.notes.append(
                f"{path} named the training images of tuned weights, and is lost: featbank scores "
                "no head on their features until `featbank extract` with the same file of weights "
                "has written it again."
            )
        elif fingerprint in known and known[fingerprint].slug != os.path.basename(folder):
            home = trained_on_document(os.path.join(self.path, known[fingerprint].slug))
            if not os.path.lexists(home):
                durable.move_file(path, home)

    def mend_index(self, bank: Bank) -> str:
        """Mend the index and the sources, each from the other; say what became of the index."""
        paths = {name: os.path.join(self.path, name) for name in ("index.h5", "sources.json")}
        with self.damaged_is_set_aside(paths["sources.json"]):
            _ = bank.sources
        with self.damaged_is_set_aside(paths["index.h5"]):
            _ = bank.index
        had_index = os.path.exists(paths["index.h5"])
        if any(map(self.held_splits, self.quarantined)):
            self.notes.append(
                f"the splits that --split made were kept in the damaged index of {self.path}; they "
                "are dealt again when they are asked for, and images added since may change sides."
            )
        described, indexed = bank.sources, bank.index.sources
        if not os.path.exists(paths["sources.json"]) and indexed:
            found = {name: self.described(part) for name, part in indexed.items()}
            bank.update([], documents=[s.to_dict() for s in found.values() if s is not None])
        missing = [name for name in described if name not in indexed]
        if not missing:
            # An estimators' cache has neither, and lacks nothing.
            if not had_index and any(map(self.is_quarantined, ("index.h5", "sources.json"))):
                self.notes.append(
                    f"{self.path} has no index, and nothing says any more what it was of; run "
                    "`featbank extract` on each source: it computes nothing that the shards have."
                )
                return "rebuilt"
            return "whole"
        listed = [part for name in missing if (part := self.listed(name, described[name]))]
        done, total = 0, sum(map(len, listed))

        def looked(count: int) -> None:
            nonlocal done
            done += count
            if self.progress is not None:
                self.progress(done, total)

        if listed or not had_index:
            bank.update([learned(part, looked) for part in listed])
        return "rebuilt"

    def listed(self, name: str, document: dict[str, object]) -> IndexedSource | None:
        """List the images of a described source as they are now, if they are there."""
        try:
            source = dataclasses.replace(Source.from_dict(document), name=name)
            return IndexedSource.new(name, os.fsencode(source.root), scan(source))
        except (DataError, OSError) as error:
            self.notes.append(
                f"the source {name!r} is left out of the index ({str(error).rstrip('.')}); run "
                "`featbank repair` again when it is there, or `featbank extract` on its new place."
            )
            return None

    def described(self, part: IndexedSource) -> Source | None:
        """Describe a source of the index by the folder that it was, if that is still so."""
        root = os.fsdecode(part.root)
        named = part.name.startswith(os.path.basename(root))
        plain = not part.listing.extra and not part.listing.group.vocabulary
        if named and plain and os.path.isdir(root):
            try:
                source = open_source(root, name=part.name)
                now = scan(source)
            except (DataError, OSError):
                now = None
            if now is not None and _agree(part.listing, now):
                return source
        self.notes.append(
            f"what the source {part.name!r} was made from is not known any more; its images stay "
            "indexed, and `featbank extract` on it describes it again."
        )
        return None

    def lacking(
        self, bank: Bank, found: dict[str, list[Coverage]]
    ) -> Iterator[tuple[str, set[str]]]:
        """Yield each recipe's name with the images that it lost; at last those that none has."""
        parts = [(part, readable_rows(part)) for part in bank.index.sources.values()]
        nowhere = dict(enumerate(wanted for _, wanted in parts))
        for known in bank.recipes:
            for column in bank.columns(known.fingerprint):
                table = bank.rows(known.fingerprint, column)
                for number, (part, _) in enumerate(parts):
                    nowhere[number] &= ~(part.known & (table.find(part.digest) >= 0))
            columns = found[known.slug]
            if not columns and self.is_quarantined(known.slug):  # nothing says which they were
                yield known.slug, set().union(*(_paths(part, wanted) for part, wanted in parts))
            else:
                yield known.slug, set().union(*(one.paths for one in columns))
        yield "", set().union(*(_paths(part, nowhere[i]) for i, (part, _) in enumerate(parts)))

    def held_splits(self, path: str) -> bool:
        """Tell whether a file that was set aside was an index that may have held splits."""
        if not os.path.basename(path).startswith("index.h5"):
            return False
        with contextlib.suppress(BankError, OSError):
            open_regular(path, follow=False).close()
            with hdf5.open_inspected(path) as file:
                return bool(read_index(file).splits)
        return True

    def is_quarantined(self, name: str) -> bool:
        """Tell whether something of this name was set aside, now or in an earlier repair."""
        folder = os.path.join(self.path, QUARANTINE)
        return os.path.isdir(folder) and any(n.startswith(name) for n in os.listdir(folder))

    @contextlib.contextmanager
    def damaged_is_set_aside(self, path: str) -> Iterator[None]:
        """Set `path` aside if what is done in the block finds damage."""
        try:
            yield
        except BankDamaged:
            self.set_aside(path)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EISDIR):
                raise
            self.set_aside(path)


def _paths(part: IndexedSource, rows: Bool) -> set[str]:
    return {os.fsdecode(part.path(row)) for row in np.flatnonzero(rows).tolist()}


def _agree(before: Listing, now: Listing) -> bool:
    """Tell whether two listings of a folder have images in common, with the same labels."""
    labels = dict(zip(before.names, before.label.tolist(), strict=True))
    common = [
        labels[name] == label
        for name, label in zip(now.names, now.label.tolist(), strict=True)
        if name in labels
    ]
    return bool(common) and all(common)
