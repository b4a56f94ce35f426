"""The bank: features of images on disk, found by the bytes of the image and the whole recipe."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank import durable, hdf5
from featbank.backbones.recipe import Column, Recipe
from featbank.bank import packed
from featbank.bank.recipes import (
    KnownRecipe,
    as_known_recipe,
    known_recipe,
    read_json,
    recipe_document,
    shard_folders,
    shard_paths,
)
from featbank.bank.rows import Rows
from featbank.bank.selection import (
    Selection,
    choose_columns,
    choose_recipe,
    choose_sources,
    gather,
    readable,
)
from featbank.bank.shard import Shard, columns_in, file_digest, read_shard, seal_shard
from featbank.bank.verified import Verified
from featbank.data.index import Index, IndexedSource
from featbank.data.indexfile import fill_index, read_index
from featbank.errors import (
    BankDamaged,
    BankError,
    BankNotFound,
    BankVersionError,
    FeaturesMissing,
)

__all__ = ["BANK_VERSION", "Bank"]

BANK_VERSION = 1

Array = npt.NDArray[Any]


class Bank:
    """A bank of features: a folder of sealed shards, or one packed file.

    Parameters
    ----------
    path : str or path-like
        A folder that `featbank extract` wrote, or a file of `featbank compact`.

    Raises
    ------
    BankNotFound
        There is nothing at `path`.
    BankError
        What is there is no bank.

    Notes
    -----
    A bank holds no open file, and pickles as its path.

    Examples
    --------
    >>> from featbank import Bank
    >>> bank = Bank("bank")                     # doctest: +SKIP
    >>> X, y = bank.features(), bank.labels     # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.packed = os.path.isfile(self.path)
        if self.packed:
            self._verified = Verified(os.path.dirname(self.path))
        else:
            _check_folder(self.path)
            self._verified = Verified(self.path)
        self._shards: dict[str, Shard] = {}

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Bank:
        """Open the bank at `path`, made anew if there is none.

        Raises
        ------
        BankError
            There is something else at `path`, or the bank is packed and so can't be added to.
        """
        path = os.path.abspath(os.fspath(path))
        if os.path.isfile(path) or path.endswith(".h5"):
            raise BankError(
                f"{path} names one packed file, and features are added to a folder; "
                "choose a folder with --bank."
            )
        names = os.listdir(path) if os.path.isdir(path) else []
        if "bank.json" not in names:
            if any(not name.startswith(".") for name in names):
                raise BankError(
                    f"{path} is a folder with other things in it and no bank; "
                    "choose another place with --bank."
                )
            durable.make_directory(path)
            text = json.dumps({"featbank": "bank", "format": BANK_VERSION}) + "\n"
            durable.write_file(os.path.join(path, "bank.json"), text.encode())
        durable.remove_temporaries(path)
        return cls(path)

    def __repr__(self) -> str:
        return f"Bank({self.path!r})"

    def __reduce__(self) -> tuple[type[Bank], tuple[str]]:
        return (Bank, (self.path,))

    # What is in it

    @property
    def recipes(self) -> list[KnownRecipe]:
        """The recipes that the bank has, sorted by backbone and fingerprint."""
        if self.packed:
            self._verified.ensure(self.path, hdf5.check_seal)
            plain = packed.read_recipes(self.path)
        else:
            folders = self.recipe_folders()
            return [known_recipe(f) for f in folders if os.path.isfile(recipe_document(f))]
        return [as_known_recipe(item, self.path) for item in plain]

    def recipe_folders(self) -> list[str]:
        """Return the folders that hold a recipe, or shards without one, sorted."""
        with os.scandir(self.path) as entries:
            folders = sorted(e.path for e in entries if e.is_dir() and not e.name.startswith("."))
        return [f for f in folders if os.path.isfile(recipe_document(f)) or shard_paths(f)]

    @property
    def index(self) -> Index:
        """The index: which images there are, and what could not be read."""
        if self.packed:
            self._verified.ensure(self.path, hdf5.check_seal)
            return packed.read_packed_index(self.path)
        path = os.path.join(self.path, "index.h5")
        if not os.path.exists(path):
            return Index()
        try:
            hdf5.check_seal(path)
            with hdf5.open_inspected(path) as file:
                return read_index(file)
        except BankDamaged as error:
            raise BankDamaged(
                f"{str(error).rstrip('.')}, or delete it and run `featbank extract` on each source "
                "again: that reads the images and computes nothing that the shards have."
            ) from error

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """What was indexed, as `featbank.data.sources.Source.to_dict` says it, by name."""
        if self.packed:
            self._verified.ensure(self.path, hdf5.check_seal)
            return packed.read_sources(self.path)
        path = os.path.join(self.path, "sources.json")
        if not os.path.exists(path):
            return {}
        try:
            return {source["name"]: dict(source) for source in read_json(path)["sources"]}
        except (KeyError, TypeError, ValueError) as error:
            raise BankDamaged(f"{path} does not say what was indexed: {error}") from error

    def shards(self, fingerprint: str) -> list[Shard]:
        """Return the shards of a recipe, each compared with its digest.

        Raises
        ------
        BankDamaged
            A shard's bytes are not those that were sealed.
        """
        if self.packed:
            self._verified.ensure(self.path, hdf5.check_seal)
            return packed.read_packed_shards(self.path, fingerprint)
        found = []
        for path in self.shard_paths(fingerprint):
            self._verified.ensure(path, self._check_shard)
            if path not in self._shards:
                self._shards[path] = read_shard(path)
            shard = self._shards[path]
            if shard.fingerprint != fingerprint:
                raise BankDamaged(f"{path} lies under another recipe than its own.")
            found.append(shard)
        self._verified.save()
        return found

    def shard_paths(self, fingerprint: str) -> list[str]:
        """Return the files of a recipe's shards, unread, sorted."""
        known = [k for k in self.recipes if k.fingerprint == fingerprint]
        if not known:
            return []
        return shard_paths(os.path.join(self.path, known[0].slug))

    def columns(self, fingerprint: str) -> dict[Column, int]:
        """Return the columns of a recipe with the number of keys that have each."""
        shards = self.shards(fingerprint)
        return {column: len(Rows.of(column, shards)) for column in columns_in(shards)}

    def rows(self, fingerprint: str, column: Column) -> Rows:
        """Return where the rows of a column lie."""
        return Rows.of(column, self.shards(fingerprint))

    # What it is asked for

    def features(
        self,
        recipe: str | Recipe | None = None,
        layer: str | Sequence[str] | None = None,
        *,
        view: str | None = None,
        split: str | None = None,
        source: str | Sequence[str] | None = None,
    ) -> Array:
        """Return the features of the bank's images.

        Parameters
        ----------
        recipe : str or Recipe, optional
            A backbone's name, or the beginning of a fingerprint or of a recipe's folder name.
        layer : str or list of str, optional
            ``layer[:pooling[:view[:dtype]]]``; several are joined side by side.
        view : str, optional
        split : str, optional
            Only images of this split.
        source : str or list of str, optional
            Only images of these sources.

        Returns
        -------
        ndarray of shape (N, D), float32 or float16
            One row a readable indexed path, sorted by source and path; duplicates repeat.

        Raises
        ------
        AmbiguousFeatures
            Several recipes, layers or views fit; the message lists them.
        FeaturesMissing
            Some of the images have no such features yet.
        """
        return self.select(recipe, layer, view=view, split=split, source=source).X

    @property
    def paths(self) -> list[str]:
        """Absolute path of every readable indexed image, in the order of `features`."""
        return [os.fsdecode(s.path(int(r))) for s, r in readable(self.index)]

    @property
    def labels(self) -> list[str | None]:
        """Label of every readable indexed image, in the order of `features`."""
        return [s.listing.label[int(r)] for s, r in readable(self.index)]

    def select(
        self,
        recipe: str | Recipe | None = None,
        layer: str | Sequence[str] | None = None,
        *,
        view: str | None = None,
        split: str | None = None,
        source: str | Sequence[str] | None = None,
        label: str | None = None,
    ) -> Selection:
        """Return images with their features, labels, splits and groups.

        Parameters
        ----------
        recipe, layer, view, split, source
            As in `features`.
        label : str, optional
            The column of the source's table that is the label; the default is what the source
            calls so.

        Returns
        -------
        Selection
        """
        sources = choose_sources(self.index, source)
        known, columns = self._choose(recipe, layer, view)
        tables = [self.rows(known.fingerprint, column) for column in columns]
        return gather(sources, known, tables, split=split, label=label)

    def _choose(
        self, recipe: str | Recipe | None, layer: str | Sequence[str] | None, view: str | None
    ) -> tuple[KnownRecipe, list[Column]]:
        """Find the one recipe and the columns that the words mean."""
        recipes = self.recipes
        if not recipes:
            raise FeaturesMissing(f"{self.path} has no features yet; run `featbank extract`.")
        known = choose_recipe(
            recipes, recipe, lambda k: bool(columns_in(self.shards(k.fingerprint)))
        )
        columns = columns_in(self.shards(known.fingerprint))
        if not columns:
            raise FeaturesMissing(f"{known.slug} has no features yet; run `featbank extract`.")
        return known, choose_columns(columns, layer, view)

    # What is written

    def register(self, recipe: Recipe, provenance: Mapping[str, Any]) -> str:
        """Make the folder of a recipe, if it is missing; return its path."""
        folder = os.path.join(self.path, recipe.slug)
        path = recipe_document(folder)
        if os.path.exists(path):
            for directory in (folder, *shard_folders(folder)):
                durable.remove_temporaries(directory)
            if known_recipe(folder).fingerprint != recipe.fingerprint:
                raise BankDamaged(f"{path} holds another recipe than its folder's name says.")
            return folder
        durable.make_directory(folder)
        document = {
            "format": BANK_VERSION,
            "fingerprint": recipe.fingerprint,
            "recipe": recipe.to_dict(),
            "provenance": {
                **provenance,
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        }
        durable.write_file(path, (json.dumps(document, indent=2) + "\n").encode())
        # Another process may have made the folder, and not have come to syncing its name.
        durable.fs.sync_directory(self.path)
        return folder

    def seal(
        self, recipe: Recipe, keys: npt.NDArray[np.uint8], columns: Mapping[Column, Array]
    ) -> str:
        """Write rows of features as one more shard, durably; return its path."""
        folder = os.path.join(self.path, recipe.slug)
        return seal_shard(folder, recipe.fingerprint, keys, columns)

    def update(
        self,
        sources: Iterable[IndexedSource],
        *,
        documents: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Add or replace sources in the index, and their descriptions in ``sources.json``.

        Processes that update at the same time wait for one another.
        """
        with durable.lock(os.path.join(self.path, ".lock")):
            described = {d["name"]: dict(d) for d in documents}
            if described:
                merged = {**self.sources, **described}
                listed = {"format": BANK_VERSION, "sources": [merged[n] for n in sorted(merged)]}
                text = json.dumps(listed, indent=2) + "\n"
                durable.write_file(os.path.join(self.path, "sources.json"), text.encode())
            index = self.index
            for source in sources:
                index = index.with_source(source)
            data = hdf5.seal(hdf5.build(lambda file: fill_index(file, index), user_block=True))
            durable.write_file(os.path.join(self.path, "index.h5"), memoryview(data))

    def _check_shard(self, path: str) -> None:
        if file_digest(path) != os.path.basename(path).removesuffix(".h5"):
            raise BankDamaged(
                f"{path} does not hold the bytes that were sealed; delete it and run "
                "`featbank extract` again to compute its rows anew."
            )
        self._shards.pop(path, None)


def _check_folder(path: str) -> None:
    document = os.path.join(path, "bank.json")
    if not os.path.isdir(path):
        raise BankNotFound(
            f"there is no bank at {path}; `featbank extract` makes one, and --bank names another."
        )
    if not os.path.exists(document):
        raise BankNotFound(
            f"{path} is a folder without a bank.json, so no bank; --bank names another."
        )
    version = read_json(document).get("format")
    if not isinstance(version, int) or version > BANK_VERSION:
        raise BankVersionError(
            f"{path} has format {version} and this featbank reads up to {BANK_VERSION}; "
            "install a newer featbank."
        )
