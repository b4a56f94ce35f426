"""The bank: features of images on disk, found by the bytes of the image and the whole recipe."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank import durable, hdf5
from featbank.backbones.recipe import Column, Recipe
from featbank.bank import packed
from featbank.bank.rows import Rows
from featbank.bank.shard import Shard, file_digest, read_shard, seal_shard
from featbank.bank.verified import Verified
from featbank.data.index import Index, IndexedSource
from featbank.data.indexfile import fill_index, read_index
from featbank.errors import (
    AmbiguousFeatures,
    BackboneError,
    BankDamaged,
    BankError,
    BankNotFound,
    BankVersionError,
    DataError,
    FeaturesMissing,
    nearest,
)

__all__ = ["BANK_VERSION", "Bank", "KnownRecipe", "Selection", "known_recipe", "shard_paths"]

BANK_VERSION = 1

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class KnownRecipe:
    """A recipe of a bank with where its shards lie and how it came to be.

    Attributes
    ----------
    recipe : Recipe
    fingerprint : str
        The recipe's, 64 hexadecimal digits.
    provenance : dict
        Versions, device, threads, time and the user's words; features do not depend on it beyond
        the tolerance that README states.
    """

    recipe: Recipe
    fingerprint: str
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Name of the recipe's folder."""
        return self.recipe.slug


@dataclass(frozen=True)
class Selection:
    """Images of a bank with their features, in the order of source and path.

    Attributes
    ----------
    X : ndarray of shape (N, D)
        The columns' features side by side.
    paths : list of str
        Absolute.
    labels, splits, groups : list of (str or None)
    digests : ndarray of shape (N, 32), uint8
        SHA-256 of each image's bytes.
    recipe : Recipe
    columns : tuple of Column
    request : dict
        The user's words that find the backbone again.
    """

    X: Array
    paths: list[str]
    labels: list[str | None]
    splits: list[str | None]
    groups: list[str | None]
    digests: npt.NDArray[np.uint8]
    recipe: Recipe
    columns: tuple[Column, ...]
    request: dict[str, Any]
    values: dict[str, list[str | None]]


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
            return [known_recipe(f) for f in folders if os.path.isfile(_document(f))]
        return [_known(item, self.path) for item in plain]

    def recipe_folders(self) -> list[str]:
        """Return the folders that hold a recipe, or shards without one, sorted."""
        with os.scandir(self.path) as entries:
            folders = sorted(e.path for e in entries if e.is_dir() and not e.name.startswith("."))
        return [f for f in folders if os.path.isfile(_document(f)) or shard_paths(f)]

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
            return {source["name"]: dict(source) for source in _read_json(path)["sources"]}
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
        columns = sorted({column for shard in shards for column in shard.columns})
        return {column: len(Rows.of(column, shards)) for column in columns}

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
        return [os.fsdecode(s.path(int(r))) for s, r in _readable(self._chosen(None))]

    @property
    def labels(self) -> list[str | None]:
        """Label of every readable indexed image, in the order of `features`."""
        return [s.listing.label[int(r)] for s, r in _readable(self._chosen(None))]

    def select(
        self,
        recipe: str | Recipe | None = None,
        layer: str | Sequence[str] | None = None,
        *,
        view: str | None = None,
        split: str | None = None,
        source: str | Sequence[str] | None = None,
        label: str | None = None,
        values: Sequence[str] = (),
    ) -> Selection:
        """Return images with their features, labels, splits and groups.

        Parameters
        ----------
        recipe, layer, view, split, source
            As in `features`.
        label : str, optional
            The column of the source's table that is the label; the default is what the source
            calls so.
        values : sequence of str
            Further columns to return as they are.

        Returns
        -------
        Selection
        """
        sources = self._chosen(source)
        known, columns = self._choose(recipe, layer, view)
        paths: list[str] = []
        found: dict[str, list[str | None]] = {k: [] for k in ("label", "split", "group", *values)}
        digests = []
        missing = 0
        for part in sources:
            listing = part.listing
            keep = ~part.failed
            if split is not None:
                keep &= np.array([word == split for word in listing.split.tolist()], dtype=np.bool_)
            missing += int((keep & ~part.known).sum())
            rows = np.flatnonzero(keep & part.known)
            digests.append(part.digest[rows])
            paths += [os.fsdecode(part.path(int(row))) for row in rows]
            for name, words in found.items():
                title = label if name == "label" and label is not None else name
                words += _values(part, title).take(rows).tolist()
        keys = np.concatenate(digests) if digests else np.empty((0, 32), np.uint8)
        if not len(keys) and not missing:
            raise FeaturesMissing(_nothing(sources, split))
        blocks = []
        for column in columns:
            table = self.rows(known.fingerprint, column)
            at = table.find(keys)
            lacking = int((at < 0).sum()) + missing
            if lacking:
                raise FeaturesMissing(
                    f"{lacking} of {len(keys) + missing} images have no features "
                    f"{known.slug} {column.name} yet; run `featbank extract` again, "
                    "or choose a source that has them."
                )
            blocks.append(table.read(at))
        return Selection(
            X=blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1),
            paths=paths,
            labels=found["label"],
            splits=found["split"],
            groups=found["group"],
            digests=keys,
            recipe=known.recipe,
            columns=tuple(columns),
            request=dict(known.provenance.get("request", {})),
            values={name: found[name] for name in values},
        )

    def _chosen(self, source: str | Sequence[str] | None) -> list[IndexedSource]:
        sources = self.index.sources
        if source is None:
            return list(sources.values())
        wanted = [source] if isinstance(source, str) else list(source)
        for name in wanted:
            if name not in sources:
                raise DataError(
                    f"the bank has no source {name!r}; {nearest(name, sources)}"
                    if sources
                    else "the bank has no source yet; run `featbank extract`."
                )
        return [part for name, part in sources.items() if name in wanted]

    def _choose(
        self, recipe: str | Recipe | None, layer: str | Sequence[str] | None, view: str | None
    ) -> tuple[KnownRecipe, list[Column]]:
        """Find the one recipe and the columns that the words mean."""
        recipes = self.recipes
        if not recipes:
            raise FeaturesMissing(f"{self.path} has no features yet; run `featbank extract`.")
        if isinstance(recipe, Recipe):
            fitting = [k for k in recipes if k.fingerprint == recipe.fingerprint]
        elif recipe is not None:
            fitting = [k for k in recipes if recipe == k.recipe.backbone] or [
                k for k in recipes if k.fingerprint.startswith(recipe) or k.slug.startswith(recipe)
            ]
        else:
            fitting = recipes
        choices = ", ".join(k.slug for k in recipes)
        if not fitting:
            words = recipe.slug if isinstance(recipe, Recipe) else recipe
            raise FeaturesMissing(f"the bank has no recipe {words!r}; it has {choices}.")
        if len(fitting) > 1:
            raise AmbiguousFeatures(
                f"several recipes fit; choose one by name with --recipe: "
                f"{', '.join(k.slug for k in fitting)}."
            )
        known = fitting[0]
        columns = list(self.columns(known.fingerprint))
        if not columns:
            raise FeaturesMissing(f"{known.slug} has no features yet; run `featbank extract`.")
        if view is not None:
            views = sorted({c.view for c in columns})
            if view not in views:
                raise FeaturesMissing(
                    f"{known.slug} has no features of the view {view!r}; {nearest(view, views)}"
                )
            columns = [c for c in columns if c.view == view]
        wanted = [None] if layer is None else [layer] if isinstance(layer, str) else list(layer)
        return known, [_one_column(columns, word) for word in wanted]

    # What is written

    def register(self, recipe: Recipe, provenance: Mapping[str, Any]) -> str:
        """Make the folder of a recipe, if it is missing; return its path."""
        folder = os.path.join(self.path, recipe.slug)
        path = _document(folder)
        if os.path.exists(path):
            for directory in (folder, *_parts(folder)):
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
    version = _read_json(document).get("format")
    if not isinstance(version, int) or version > BANK_VERSION:
        raise BankVersionError(
            f"{path} has format {version} and this featbank reads up to {BANK_VERSION}; "
            "install a newer featbank."
        )


def _document(folder: str) -> str:
    return os.path.join(folder, "recipe.json")


def _parts(folder: str) -> list[str]:
    """Return the folders below a recipe's that hold its shards."""
    with os.scandir(folder) as entries:
        return sorted(e.path for e in entries if len(e.name) == 2 and e.is_dir())


def known_recipe(folder: str) -> KnownRecipe:
    """Read the recipe of a folder of shards.

    Raises
    ------
    BankDamaged
        It is missing, or not what was written.
    """
    path = _document(folder)
    try:
        return _known(_read_json(path), path)
    except FileNotFoundError:
        raise BankDamaged(
            f"{path} is missing, so the shards beside it can't be found; bring it again from a "
            "copy, or run `featbank extract` with the same model."
        ) from None


def shard_paths(folder: str) -> list[str]:
    """Return the files of the shards below a recipe's folder, unread, sorted."""
    found = []
    for part in _parts(folder):
        names = sorted(n for n in os.listdir(part) if n.endswith(".h5") and n[0] != ".")
        found += [os.path.join(part, name) for name in names]
    return found


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (ValueError, RecursionError) as error:
        raise BankDamaged(f"{path} is no longer the JSON that was written: {error}") from error
    if not isinstance(document, dict):
        raise BankDamaged(f"{path} holds no JSON object.")
    return document


def _known(document: Mapping[str, Any], where: str) -> KnownRecipe:
    try:
        recipe = Recipe.from_dict(document["recipe"])
        known = KnownRecipe(recipe, document["fingerprint"], dict(document.get("provenance", {})))
    except (KeyError, TypeError, BackboneError) as error:
        raise BankDamaged(f"{where} holds a recipe that can't be read: {error}") from error
    if recipe.fingerprint != known.fingerprint:
        raise BankDamaged(f"{where} holds a recipe that does not fit its fingerprint.")
    return known


def _one_column(columns: Sequence[Column], word: str | None) -> Column:
    parts = [] if word is None else word.split(":")
    fitting = [c for c in columns if c.name.split(":")[: len(parts)] == parts]
    listed = ", ".join(c.name for c in columns)
    if not fitting:
        raise FeaturesMissing(
            f"the bank has no column {word!r} of this recipe; it has {listed}. "
            "`featbank extract --layers` adds one."
        )
    if len(fitting) > 1:
        raise AmbiguousFeatures(
            f"several columns fit; choose one or more with --layers: "
            f"{', '.join(c.name for c in fitting)}."
        )
    return fitting[0]


def _nothing(sources: Iterable[IndexedSource], split: str | None) -> str:
    """Say why a selection is empty."""
    splits = {word for part in sources for word in part.listing.split.tolist() if word is not None}
    if split is None or split in splits:
        what = "the bank" if split is None else f"the split {split!r}"
        return f"{what} has no readable images; run `featbank extract`."
    return f"no image is in the split {split!r}; " + (
        nearest(split, splits) if splits else "the sources have no splits."
    )


def _values(part: IndexedSource, title: str) -> Any:
    listing = part.listing
    if title in ("label", "split", "group"):
        return getattr(listing, title)
    if title not in listing.extra:
        raise DataError(
            f"the source {part.name!r} has no column {title!r}; "
            + (
                nearest(title, ["label", *listing.extra])
                if listing.extra
                else "its only label is the default one."
            )
        )
    return listing.extra[title]


def _readable(sources: Iterable[IndexedSource]) -> Iterable[tuple[IndexedSource, int]]:
    for source in sources:
        for row in np.flatnonzero(~source.failed):
            yield source, int(row)
