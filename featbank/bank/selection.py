"""Selection: images of a bank with their features, found by the words that a user has for them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.backbones.recipe import Column, Recipe
from featbank.backbones.trained_on import TrainedOn
from featbank.backbones.views import VIEWS, views_named
from featbank.bank.reading import as_features, dtype_of
from featbank.bank.recipes import KnownRecipe
from featbank.bank.rows import Rows
from featbank.data.index import Index, IndexedSource, Text
from featbank.errors import AmbiguousFeatures, DataError, FeaturesMissing, nearest

__all__ = [
    "Located",
    "Selection",
    "choose_columns",
    "choose_recipe",
    "choose_sources",
    "choose_views",
    "locate",
    "readable",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Selection:
    """Images of a bank with their features, in the order of source and path.

    Attributes
    ----------
    X : ndarray of shape (N, D)
        The columns' features side by side.
    paths : list of str
        Absolute.
    sources : list of str
    labels, splits, groups : list of (str or None)
    digests : ndarray of shape (N, 32), uint8
        SHA-256 of each image's bytes.
    recipe : Recipe
    columns : tuple of Column
    request : dict
        The user's words that find the backbone again.
    further : dict of str to list of (str or None)
        Other columns of the sources' tables, where they were asked for.
    unreadable : int
        Number of indexed images of the sources that could not be read, and are left out.
    trained_on : TrainedOn or None
        Of tuned weights, the images that the network was trained on.
    """

    X: Array
    paths: list[str]
    sources: list[str]
    labels: list[str | None]
    splits: list[str | None]
    groups: list[str | None]
    digests: npt.NDArray[np.uint8]
    recipe: Recipe
    columns: tuple[Column, ...]
    request: dict[str, Any]
    further: dict[str, list[str | None]] = field(default_factory=dict)
    unreadable: int = 0
    trained_on: TrainedOn | None = None


@dataclass(frozen=True)
class Located:
    """Images of a bank whose features have been found and not been read.

    Attributes
    ----------
    known : KnownRecipe
    digests : ndarray of shape (N, 32), uint8
        SHA-256 of each image's bytes.
    tables : tuple of Rows
        One a column.
    places : tuple of ndarray of shape (N,), int64
        Where in each table the images' rows are.
    parts : tuple of (IndexedSource, ndarray)
        The sources with the rows of their images.
    label : str or None
        The column of the sources' tables that is the label, if it is not the default one.
    also : tuple of str
        Other columns of the tables that belong to the selection.
    averaged : int
        So many views, one behind the other among the tables, are read as their mean.
    """

    known: KnownRecipe
    digests: npt.NDArray[np.uint8]
    tables: tuple[Rows, ...]
    places: tuple[npt.NDArray[np.int64], ...]
    parts: tuple[tuple[IndexedSource, npt.NDArray[np.intp]], ...]
    label: str | None
    also: tuple[str, ...] = ()
    averaged: int = 1

    @cached_property
    def selection(self) -> Selection:
        """What is known of the images, with an `X` of no columns."""

        def words(title: str) -> list[str | None]:
            _check_column([part for part, _ in self.parts], title)
            texts = (
                (_values(part, title) or Text.empty(len(part))).take(rows)
                for part, rows in self.parts
            )
            return [word for text in texts for word in text.tolist()]

        return Selection(
            X=np.empty((len(self.digests), 0), np.float32),
            paths=[
                os.fsdecode(part.path(row)) for part, rows in self.parts for row in rows.tolist()
            ],
            sources=[part.name for part, rows in self.parts for _ in rows],
            labels=words("label" if self.label is None else self.label),
            splits=words("split"),
            groups=words("group"),
            digests=self.digests,
            recipe=self.known.recipe,
            columns=tuple(table.column for table in self.tables),
            request=dict(self.known.provenance.get("request", {})),
            trained_on=self.known.trained_on,
            further={title: words(title) for title in self.also},
            unreadable=sum(int(part.failed.sum()) for part, _ in self.parts),
        )

    @property
    def width(self) -> int:
        """How many numbers an image has."""
        whole = sum(t.shards[0].columns[t.column].shape[1] for t in self.tables)
        return whole // self.averaged

    @property
    def dtype(self) -> np.dtype[Any]:
        """What numbers they are."""
        return dtype_of([table.column for table in self.tables], self.averaged)

    def read(self, images: slice | npt.NDArray[np.intp]) -> Array:
        """Return the features of some of the images; see `featbank.bank.reading.as_features`."""
        return as_features(
            lambda i: self.tables[i].read(self.places[i][images]),
            [table.column for table in self.tables],
            averaged=self.averaged,
        )

    def further(self, title: str) -> list[str | None]:
        """Return a further column of the sources' tables; None where a source lacks it."""
        words: list[str | None] = []
        for part, rows in self.parts:
            text = part.listing.extra.get(title)
            words += text.take(rows).tolist() if text is not None else [None] * len(rows)
        return words


def choose_sources(index: Index, source: str | Sequence[str] | None) -> list[IndexedSource]:
    """Return the sources of these names, in the index's order; all of them for None."""
    sources = index.sources
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


def choose_recipe(
    recipes: Sequence[KnownRecipe],
    recipe: str | Recipe | None,
    has_rows: Callable[[KnownRecipe], bool],
) -> KnownRecipe:
    """Return the one recipe that the words mean; of several, the one that has rows."""
    fitting = list(recipes)
    if isinstance(recipe, Recipe):
        fitting = [k for k in recipes if k.fingerprint == recipe.fingerprint]
    elif recipe is not None:
        fitting = [k for k in recipes if recipe == k.recipe.backbone] or [
            k for k in recipes if k.fingerprint.startswith(recipe) or k.slug.startswith(recipe)
        ]
    choices = ", ".join(k.slug for k in recipes)
    if not fitting:
        words = recipe.slug if isinstance(recipe, Recipe) else recipe
        raise FeaturesMissing(f"the bank has no recipe {words!r}; it has {choices}.")
    if len(fitting) > 1:  # a run that ended before its first shard left a recipe without rows
        fitting = [k for k in fitting if has_rows(k)] or fitting[:1]
    if len(fitting) > 1:
        raise AmbiguousFeatures(
            f"several recipes fit; choose one by name (recipe=, or --recipe): "
            f"{', '.join(k.slug for k in fitting)}."
        )
    return fitting[0]


def choose_columns(
    columns: Sequence[Column], layer: str | Sequence[str] | None, view: str | None
) -> list[Column]:
    """Return the one column that each of the words means.

    Where neither `view` nor the word names a view, and there are several, the identity is meant.
    """
    if view is not None:
        views = sorted({c.view for c in columns})
        if view not in views:
            raise FeaturesMissing(
                f"there are no features of the view {view!r}; {nearest(view, views)}"
            )
        columns = [c for c in columns if c.view == view]
    wanted = [None] if layer is None else [layer] if isinstance(layer, str) else list(layer)
    return [_one_column(columns, word) for word in wanted]


def choose_views(
    columns: Sequence[Column], layer: str | Sequence[str] | None, views: str
) -> tuple[list[Column], int]:
    """Return the columns that `choose_columns` does, in several views, and how many those are.

    Parameters
    ----------
    columns : sequence of Column
    layer : str, list of str or None
    views : {"identity", "flips", "d4", "all"}
        "all" are those that all of the layers have.

    Returns
    -------
    list of Column
        View by view, identity first.
    int

    Raises
    ------
    FeaturesMissing
        A layer lacks a view.
    """
    whole = [column for column in columns if column.view == "identity"]
    if not whole:
        raise FeaturesMissing(
            "the bank has no features of images as they are, the view identity; run `featbank "
            "extract` with --views."
        )
    chosen = choose_columns(whole, layer, None)
    there = set(columns)

    def turned(view: str) -> list[Column]:
        return [dataclasses.replace(column, view=view) for column in chosen]

    if views == "all":
        wanted = tuple(view for view in VIEWS if there.issuperset(turned(view)))
    else:
        wanted = views_named(views)
    for view in wanted:
        for column in turned(view):
            if column not in there:
                raise FeaturesMissing(
                    f"the bank has no column {column.name} of this recipe; run `featbank extract "
                    f"--views {views}` for that layer."
                )
    return [column for view in wanted for column in turned(view)], len(wanted)


def locate(
    sources: Sequence[IndexedSource],
    known: KnownRecipe,
    tables: Sequence[Rows],
    *,
    split: str | None = None,
    label: str | None = None,
    further: Sequence[str] = (),
    averaged: int = 1,
) -> Located:
    """Find the features of the sources' readable images; see `featbank.Bank.select`."""
    digests, parts = [], []
    missing = 0
    for title in (*([] if label is None else [label]), *further):
        _check_column(sources, title)  # before anything is read
    for part in sources:
        keep = ~part.failed
        if split is not None:
            text = part.listing.split
            keep &= np.isin(text.codes, [i for i, w in enumerate(text.vocabulary) if w == split])
        missing += int((keep & ~part.known).sum())
        rows = np.flatnonzero(keep & part.known)
        digests.append(part.digest[rows])
        parts.append((part, rows))
    keys = np.concatenate(digests) if digests else np.empty((0, 32), np.uint8)
    if not len(keys) and not missing:
        raise FeaturesMissing(_nothing(sources, split))
    places = []
    for table in tables:
        at = table.find(keys)
        lacking = int((at < 0).sum()) + missing
        if lacking:
            raise FeaturesMissing(
                f"{lacking} of {len(keys) + missing} images have no features "
                f"{known.slug} {table.column.name} yet; run `featbank extract` again, "
                "or choose a source that has them."
            )
        places.append(at)
    return Located(
        known, keys, tuple(tables), tuple(places), tuple(parts), label, tuple(further), averaged
    )


def _one_column(columns: Sequence[Column], word: str | None) -> Column:
    parts = [] if word is None else word.split(":")
    fitting = [c for c in columns if c.name.split(":")[: len(parts)] == parts]
    listed = ", ".join(c.name for c in columns)
    if not fitting:
        raise FeaturesMissing(
            f"the bank has no column {word!r} of this recipe; it has {listed}. "
            "`featbank extract --layers` adds one."
        )
    if len(fitting) > 1:  # turned images are not meant where the image as it is will do
        fitting = [
            c
            for c in fitting
            if c.view == "identity" or dataclasses.replace(c, view="identity") not in fitting
        ]
    if len(fitting) > 1:
        raise AmbiguousFeatures(
            f"several columns fit; choose one or more (layer=, or --layers): "
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


def _check_column(sources: Sequence[IndexedSource], title: str) -> None:
    """Raise `DataError` if no source has a column."""
    if not sources or any(_values(part, title) is not None for part in sources):
        return
    names = ", ".join(repr(part.name) for part in sources)
    known = {column: None for part in sources for column in ("label", *part.listing.extra)}
    one = len(sources) == 1
    raise DataError(
        f"the source{'' if one else 's'} {names} {'has' if one else 'have'} no column {title!r}; "
        + (
            nearest(title, known)
            if len(known) > 1
            else f"{'it has' if one else 'they have'} no columns beside the label."
        )
    )


def _values(part: IndexedSource, title: str) -> Text | None:
    """Return a column of a source's table; None where it has no such column."""
    listing = part.listing
    given = {"label": listing.label, "split": listing.split, "group": listing.group}
    return given[title] if title in given else listing.extra.get(title)


def readable(index: Index) -> Iterator[tuple[IndexedSource, int]]:
    """Yield source and row of every image that is not in the ledger."""
    for source in index.sources.values():
        for row in np.flatnonzero(~source.failed):
            yield source, int(row)
