"""The bank: features of images on disk, found by the bytes of the image and the whole recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from featbank import durable, hdf5
from featbank.backbones.memo import cache_dir
from featbank.backbones.recipe import Column, Recipe
from featbank.backbones.trained_on import TrainedOn
from featbank.bank import packed
from featbank.bank.catalogue import LEAST, read_catalogue, worth_writing, write_catalogue
from featbank.bank.documents import checked_sources, read_document, write_document
from featbank.bank.recipes import (
    QUARANTINE,
    KnownRecipe,
    as_known_recipe,
    known_recipe,
    recipe_document,
    shard_folders,
    shard_paths,
    trained_on_document,
    write_trained_on,
)
from featbank.bank.rows import Rows
from featbank.bank.selection import (
    Located,
    Selection,
    choose_columns,
    choose_recipe,
    choose_sources,
    choose_views,
    locate,
    readable,
)
from featbank.bank.shard import Shard, check_digest, columns_in, read_shard, seal_shard
from featbank.bank.verified import Verified
from featbank.data.index import Index, IndexedSource, StoredSplit
from featbank.data.indexfile import fill_index, read_index
from featbank.data.splits import SplitSpec
from featbank.errors import (
    BankDamaged,
    BankError,
    BankNotFound,
    BankVersionError,
    DataError,
    FeaturesMissing,
)

__all__ = [
    "BANK_VERSION",
    "Bank",
    "alone",
    "check_folder",
    "write_bank_document",
    "write_recipe_document",
]

BANK_VERSION = 1

Array = npt.NDArray[Any]
Change = Callable[
    [Index, Mapping[str, Any]], tuple[Iterable[IndexedSource], Iterable[Mapping[str, Any]]]
]
Looked = TypeVar("Looked")

_LOOKS = 4  # at shards that are being replaced, before a missing one is an error


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
            self._verified = Verified(os.sep, os.fspath(cache_dir()))
        else:
            check_folder(self.path)
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
        if packed.names_file(path):
            raise BankError(
                f"{path} names one packed file, and shards are kept in a folder; "
                "choose a folder with --bank."
            )
        names = os.listdir(path) if os.path.isdir(path) else []
        if "bank.json" not in names and any(not name.startswith(".") for name in names):
            raise BankError(
                f"{path} is a folder with other things in it and no bank; "
                "choose another place with --bank."
            )
        cls.mark(path)
        return cls(path)

    @staticmethod
    def mark(path: str) -> None:
        """Make the folder `path` a bank if it is none, whatever lies in it."""
        durable.make_directory(path)
        if not os.path.exists(os.path.join(path, "bank.json")):
            write_bank_document(path)
        else:  # who was killed before may have given names in it, and not have come to syncing them
            durable.fs.sync_directory(path)
        durable.remove_temporaries(path)

    def __repr__(self) -> str:
        return f"Bank({self.path!r})"

    def __reduce__(self) -> tuple[type[Bank], tuple[str]]:
        return (Bank, (self.path,))

    # What is in it

    @property
    def recipes(self) -> list[KnownRecipe]:
        """The recipes that the bank has, sorted by backbone and fingerprint."""
        if self.packed:
            self._check_packed()
            plain = packed.read_recipes(self.path)
        else:
            folders = self.recipe_folders()
            return [known_recipe(f) for f in folders if os.path.isfile(recipe_document(f))]
        return [as_known_recipe(item, self.path) for item in plain]

    def recipe_folders(self) -> list[str]:
        """Return the folders that hold a recipe, or shards without one, sorted."""
        with os.scandir(self.path) as entries:
            # Not `is_dir` of the entry, which raises over a link that leads to itself.
            names = sorted(
                e.name for e in entries if os.path.isdir(e.path) and not e.name.startswith(".")
            )
        folders = [os.path.join(self.path, name) for name in names if name != QUARANTINE]
        return [f for f in folders if os.path.isfile(recipe_document(f)) or shard_paths(f)]

    @property
    def index(self) -> Index:
        """The index: which images there are, and what could not be read."""
        return self._read_index()

    def _read_index(self) -> Index:
        if self.packed:
            self._check_packed()
            return packed.read_packed_index(self.path)
        path = os.path.join(self.path, "index.h5")
        if not os.path.lexists(path):
            return Index()
        try:
            self._verified.ensure(path, lambda path: hdf5.check_seal(path, follow=False))
            with hdf5.open_inspected(path) as file:
                return read_index(file)
        except BankDamaged as error:
            raise BankDamaged(
                f"{str(error).rstrip('.')}, or run `featbank repair`: it rebuilds the index from "
                "the files and computes nothing."
            ) from error

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """What was indexed, as `featbank.data.sources.Source.to_dict` says it, by name."""
        return self._read_sources()

    def _read_sources(self) -> dict[str, dict[str, Any]]:
        if self.packed:
            self._check_packed()
            return packed.read_sources(self.path)
        path = os.path.join(self.path, "sources.json")
        if not os.path.lexists(path):
            return {}
        try:
            return checked_sources(read_document(path))
        except (DataError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise BankDamaged(
                f"{path} does not say what was indexed ({error}); run `featbank repair`."
            ) from error

    def shards(self, fingerprint: str) -> list[Shard]:
        """Return the shards of a recipe, each compared with its digest.

        Raises
        ------
        BankDamaged
            A shard's bytes are not those that were sealed.
        """
        if self.packed:
            self._check_packed()
            return packed.read_packed_shards(self.path, fingerprint)
        return _looking_again(lambda: self._read_shards(fingerprint))

    def _read_shards(self, fingerprint: str) -> list[Shard]:
        paths = self.shard_paths(fingerprint)
        states = {path: self._verified.ensure(path, self._check_shard) for path in paths}
        folder = os.path.dirname(os.path.dirname(paths[0])) if paths else ""
        if len(unread := states.keys() - self._shards.keys()) >= LEAST:
            self._shards |= read_catalogue(folder, fingerprint, {p: states[p] for p in unread})
        opened = 0
        for path in paths:
            if path not in self._shards:
                self._shards[path] = read_shard(path)
                opened += states[path] is not None
            if self._shards[path].fingerprint != fingerprint:
                raise BankDamaged(
                    f"{path} lies under another recipe than its own; run `featbank repair`."
                )
        self._verified.save()
        found = {path: self._shards[path] for path in paths}
        if worth_writing(opened, len(found)):
            write_catalogue(folder, fingerprint, found, states)
        return list(found.values())

    def shard_paths(self, fingerprint: str) -> list[str]:
        """Return the files of a recipe's shards, unread, sorted."""
        known = [k for k in self.recipes if k.fingerprint == fingerprint]
        folder = os.path.join(self.path, known[0].slug) if known else ""
        return shard_paths(folder) if os.path.isdir(folder) else []

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
        views: str | None = None,
        split: str | None = None,
        source: str | Sequence[str] | None = None,
    ) -> Array:
        """Return the features of the bank's images.

        Parameters
        ----------
        recipe : str or Recipe, optional
            A backbone's name, or the beginning of a fingerprint or of a recipe's folder name.
        layer : str or list of str, optional
            ``layer[:pooling[:view[:dtype]]]``; several are joined side by side. Covariances
            (``layer:cov``) are given as their matrix power; see `featbank.backbones.covariance`.
        view : str, optional
            How the images were turned; as they are, ``"identity"``, unless told otherwise.
        views : {"flips", "d4", "all"}, optional
            The mean of these views instead, float32.
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

        def read() -> Array:
            located = self.locate(recipe, layer, view=view, views=views, split=split, source=source)
            return located.read(slice(None))

        return _looking_again(read)

    @property
    def paths(self) -> list[str]:
        """Absolute path of every readable indexed image, in the order of `features`."""
        return [os.fsdecode(s.path(int(r))) for s, r in readable(self.index)]

    @property
    def labels(self) -> Array:
        """Label of every readable indexed image, in the order of `features`.

        Returns
        -------
        ndarray of shape (n,), object
            Text, or None for an image without a label: ``X[bank.labels == "cat"]``.
        """
        found = [s.listing.label[int(r)] for s, r in readable(self.index)]
        return np.array(found, dtype=object)

    def splits(self, spec: str, *, label: str = "label", random_state: int = 0) -> Array:
        """Return a split that was made on request, in the order of `features`.

        Parameters
        ----------
        spec : str
            As `featbank.fit` was given it: ``random:70/15/15``.
        label : str
            Label column that stratified the split, as `featbank info` lists it.
        random_state : int
            The seed that it was made with.

        Returns
        -------
        ndarray of shape (N,), object
            Text, or None for an image that was not assigned: ``X[splits == "test"]``.

        Raises
        ------
        DataError
            No such split was made.
        """
        index = self.index
        stored = index.splits.get((SplitSpec.parse(spec).text, random_state, label))
        if stored is None:
            made = "; ".join(f"{s} by {by}, seed {seed}" for s, seed, by in index.splits)
            raise DataError(
                f"the bank has no split {spec} by {label} with seed {random_state}; "
                + (f"it has {made}." if made else "`featbank fit --split` makes one.")
            )
        splits = stored.splits()
        found = [splits.get(s.digest[r].tobytes()) for s, r in readable(index) if s.known[r]]
        return np.array(found, dtype=object)

    def select(
        self,
        recipe: str | Recipe | None = None,
        layer: str | Sequence[str] | None = None,
        *,
        view: str | None = None,
        views: str | None = None,
        combine: str = "features",
        split: str | None = None,
        source: str | Sequence[str] | None = None,
        label: str | None = None,
        further: Sequence[str] = (),
    ) -> Selection:
        """Return images with their features, labels, splits and groups.

        Parameters
        ----------
        recipe, layer, view, views, split, source
            As in `features`.
        combine : {"features", "decisions", "train"}
            "features" averages `views`; otherwise they stand side by side, view by view.
        label : str, optional
            The column of the sources' tables that is the label; images of a source without it have
            none. The default is what each source calls so.
        further : sequence of str
            Other columns of the table that are wanted.

        Returns
        -------
        Selection
        """

        def read() -> Selection:
            located = self.locate(
                recipe,
                layer,
                view=view,
                views=views,
                combine=combine,
                split=split,
                source=source,
                label=label,
                further=further,
            )
            return dataclasses.replace(located.selection, X=located.read(slice(None)))

        return _looking_again(read)

    def locate(
        self,
        recipe: str | Recipe | None = None,
        layer: str | Sequence[str] | None = None,
        *,
        view: str | None = None,
        views: str | None = None,
        combine: str = "features",
        split: str | None = None,
        source: str | Sequence[str] | None = None,
        label: str | None = None,
        further: Sequence[str] = (),
    ) -> Located:
        """Find what `select` would return, to read it piece by piece; hold `using` meanwhile."""
        sources = choose_sources(self.index, source)
        if view is not None and views is not None:
            raise DataError(f"view is {view!r} and views is {views!r}; name one of the two.")
        known, tables, n_views = self._choose(recipe, layer, view, views)
        return locate(
            sources,
            known,
            tables,
            split=split,
            label=label,
            further=further,
            averaged=n_views if combine == "features" else 1,
        )

    def _choose(
        self,
        recipe: str | Recipe | None,
        layer: str | Sequence[str] | None,
        view: str | None,
        views: str | None,
    ) -> tuple[KnownRecipe, list[Rows], int]:
        """Find the one recipe and the columns that the words mean, with their rows.

        Also return how many views there are of each layer.
        """
        recipes = self.recipes
        if not recipes:
            raise FeaturesMissing(f"{self.path} has no features yet; run `featbank extract`.")
        known = choose_recipe(
            recipes, recipe, lambda k: bool(columns_in(self.shards(k.fingerprint)))
        )
        shards = self.shards(known.fingerprint)
        columns = columns_in(shards)
        if not columns:
            raise FeaturesMissing(f"{known.slug} has no features yet; run `featbank extract`.")
        if views is None:
            chosen, n_views = choose_columns(columns, layer, view), 1
        else:
            chosen, n_views = choose_views(columns, layer, views)
        return known, [Rows.of(column, shards) for column in chosen], n_views

    # Who may write

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Hold the bank for as long as rows are added, or must stay; many may hold it at once.

        `alone` keeps out whoever holds it. It waits for a pruning or a repair that goes on. A bank
        that can't be written is read without it.
        """
        if self.packed:
            yield
            return
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(durable.lock(_use_lock(self.path), shared=True))
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the bank so that nobody adds rows, or relies on those that are there.

        Raises
        ------
        BankError
            Somebody does; this does not wait.
        """
        with alone(self.path):
            yield

    # What is written

    def register(
        self,
        recipe: Recipe,
        provenance: Mapping[str, Any],
        trained_on: TrainedOn | None = None,
    ) -> str:
        """Make the folder of a recipe, if it is missing; return its path.

        What the weights were trained on is added, if the bank doesn't know it.
        """
        folder = os.path.join(self.path, recipe.slug)
        path = recipe_document(folder)
        if os.path.exists(path):
            self.settle(recipe)
            known = known_recipe(folder)
            if known.fingerprint != recipe.fingerprint:
                raise BankDamaged(f"{path} holds another recipe than its folder's name says.")
            if trained_on is not None and (known.trained_on is None or not known.trained_on.known):
                write_trained_on(folder, recipe.fingerprint, trained_on)
            if "request" in known.provenance or "request" not in provenance:
                return folder  # else it was rebuilt from shards, which don't bring the provenance
        durable.make_directory(folder)
        if trained_on is not None and not os.path.exists(trained_on_document(folder)):
            write_trained_on(folder, recipe.fingerprint, trained_on)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_recipe_document(folder, recipe, {"created": created, **provenance})
        return folder

    def settle(self, recipe: Recipe) -> None:
        """See to it that the rows of a recipe that are there are on the disk, and stay.

        Whoever published them may have been killed before the names were.
        """
        folder = os.path.join(self.path, recipe.slug)
        if os.path.isdir(folder):
            for directory in (folder, *shard_folders(folder)):
                durable.remove_temporaries(directory)

    def seal(
        self, recipe: Recipe, keys: npt.NDArray[np.uint8], columns: Mapping[Column, Array]
    ) -> str:
        """Write rows of features as one more shard, durably; return its path."""
        folder = os.path.join(self.path, recipe.slug)
        return seal_shard(folder, recipe, keys, columns)

    def update(
        self,
        sources: Iterable[IndexedSource],
        *,
        documents: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Add or replace sources in the index, and their descriptions in ``sources.json``.

        Processes that update at the same time wait for one another.
        """
        self.revise(lambda index, described: (sources, documents))

    def revise(self, change: Change, *, remove: Collection[str] = ()) -> None:
        """As `update`, with sources and descriptions that `change` makes of those there are.

        Parameters
        ----------
        change : callable
            Takes `index` and `sources` as they are, and stay until it is done.
        remove : collection of str
            Names of sources that go, unless `change` gives one of the same name.
        """
        with durable.lock(os.path.join(self.path, ".lock")):
            changed, documents = change(self.index, self.sources)
            sources, described = list(changed), {d["name"]: dict(d) for d in documents}
            if not sources and not described and not remove:
                return
            if described or remove:
                merged = {n: d for n, d in self._read_sources().items() if n not in remove}
                merged |= described
                listed = {"format": BANK_VERSION, "sources": [merged[n] for n in sorted(merged)]}
                listed |= self._removed({*remove} - merged.keys(), merged)
                write_document(os.path.join(self.path, "sources.json"), listed)
            index = self._read_index().without(remove)
            for source in sources:
                index = index.with_source(source)
            self._write_index(index)

    def store_splits(self, change: Callable[[Index], Iterable[StoredSplit]]) -> None:
        """Add or replace splits in the index, as `revise` does sources."""
        with durable.lock(os.path.join(self.path, ".lock")):
            if splits := list(change(self.index)):
                index = self._read_index()
                for split in splits:
                    index = index.with_split(split)
                self._write_index(index)

    def _write_index(self, index: Index) -> None:
        data = hdf5.seal(hdf5.build(lambda file: fill_index(file, index), user_block=True))
        durable.write_file(os.path.join(self.path, "index.h5"), memoryview(data))

    def _removed(self, names: set[str], kept: Container[str]) -> dict[str, Any]:
        """Return what ``sources.json`` says of sources that were removed: nothing."""
        return {}

    def _check_packed(self) -> None:
        self._verified.ensure(self.path, hdf5.check_seal)
        self._verified.save()

    def _check_shard(self, path: str) -> None:
        check_digest(path)
        self._shards.pop(path, None)


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Hold a folder that may be a damaged bank, as `Bank.alone` holds a whole one."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(durable.lock(_use_lock(folder), wait=False))
        except BlockingIOError:
            raise BankError(
                f"{folder} is in use by another command (an extraction, an estimator, a merge); "
                "run again when it is done."
            ) from None
        except OSError as error:
            if error.errno not in durable.NO_LOCKS:
                raise
            raise BankError(
                f"{folder} lies on a file system without locks, so that nobody can know who uses "
                "it; do this on a copy on another one."
            ) from error
        yield


def _use_lock(folder: str) -> str:
    return os.path.join(folder, ".use")


def _looking_again(look: Callable[[], Looked]) -> Looked:
    """Call `look` anew where a shard that was listed has gone.

    Readers hold no lock, and a pruning replaces shards: all new ones appear before the first of
    the old ones goes.
    """
    for _ in range(_LOOKS):
        with contextlib.suppress(FileNotFoundError):
            return look()
    return look()


def write_recipe_document(folder: str, recipe: Recipe, provenance: Mapping[str, Any]) -> None:
    """Write the file that makes a folder hold a recipe's shards, durably."""
    content = {
        "format": BANK_VERSION,
        "fingerprint": recipe.fingerprint,
        "recipe": recipe.to_dict(),
        "provenance": dict(provenance),
    }
    write_document(recipe_document(folder), content)


def write_bank_document(folder: str) -> None:
    """Write the file that makes a bank of a folder, durably."""
    content = {"featbank": "bank", "format": BANK_VERSION}
    write_document(os.path.join(folder, "bank.json"), content)


def check_folder(path: str) -> None:
    """Raise what `Bank` raises where a folder is no bank that this featbank can read."""
    document = os.path.join(path, "bank.json")
    if packed.unfinished(path) is not None:
        raise BankNotFound(
            f"an extraction into {path} has not ended, and what it has sealed is in "
            f"{packed.unfinished(path)}; run the same command again to end it."
        )
    if not os.path.isdir(path):
        raise BankNotFound(
            f"there is no bank at {path}; `featbank extract` makes one, and --bank names another."
        )
    if not os.path.exists(document):
        raise BankNotFound(
            f"{path} is a folder without a bank.json, so no bank; --bank names another, and "
            "`featbank repair` mends one that has lost it."
        )
    version = read_document(document).get("format")
    if not isinstance(version, int):
        raise BankDamaged(f"{document} names no format; run `featbank repair`.")
    if version > BANK_VERSION:
        raise BankVersionError(
            f"{path} has format {version} and this featbank reads up to {BANK_VERSION}; "
            "install a newer featbank."
        )
