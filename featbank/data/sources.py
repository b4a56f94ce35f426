"""Sources: where images come from, as plain data, and the scan that lists them.

==============  ==================================================================================
kind            what it is, and how ``kind="auto"`` tells
==============  ==================================================================================
folder          one subfolder a class, nested ones belong to it; any folder with subfolders that
                is not the next kind. Images that lie directly in it have no label.
split-folders   ``train``, ``valid`` (or ``val``, ``validation``) and ``test``, each with a
                subfolder a class; images directly in one of them have no label. A folder with a
                ``train``, whose other subfolders are all named so.
flat            no labels; any folder without subfolders
csv             a table with a header: a file ending in .csv, .tsv, .tab or .txt
list            paths, with labels or without, a pandas DataFrame, or a data set with ``samples``
==============  ==================================================================================

Hidden subfolders don't count.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featbank.data.expansion import with_pages
from featbank.data.formats import extensions, is_image_name
from featbank.data.index import IndexedSource, Listing, Text
from featbank.data.pages import file_of
from featbank.data.selection import SPLITS, by_split, check_classes, choose
from featbank.data.sequences import read_sequence
from featbank.data.tables import TABLES, Table, check_columns, read_csv, split_word
from featbank.data.walk import shown, walk
from featbank.errors import DataError, SourceNotFound, nearest

__all__ = [
    "KINDS",
    "Source",
    "find_images",
    "free_name",
    "load_class_names",
    "open_source",
    "scan",
    "scan_all",
]

KINDS = ("folder", "split-folders", "flat", "csv", "list")


@dataclass(frozen=True)
class Source:
    """Where images come from: all that is needed to list them again later.

    Attributes
    ----------
    name : str
        What tells it from the other sources of a bank.
    kind : {"folder", "split-folders", "flat", "csv", "list"}
    root : str
        Absolute; what the names in the listing are relative to. Bytes that are no text are kept
        as ``os.fsdecode`` keeps them.
    table : str or None
        Absolute path of the file of kind "csv".
    columns : dict of str to str or None
        Names of the table's columns for path, label, split and group, where they are not these.
    delimiter : str or None
        Of the table; None to find out.
    classes : tuple of str or None
        Only these are listed; unlabelled images are not.
    exclude : tuple of str
        These are not listed.
    class_names : dict of str to str
        From labels as found to readable ones. Several may become one: their classes are joined.
    hidden, follow_links : bool
        How folders are walked; see `featbank.data.walk.walk`.
    listed : Table or None
        The rows of kind "list".
    pages : {"first", "all"}
        Which pages and frames of a file are images.
    """

    name: str
    kind: str
    root: str
    table: str | None = None
    columns: dict[str, str | None] = field(default_factory=dict)
    delimiter: str | None = None
    classes: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    class_names: dict[str, str] = field(default_factory=dict)
    hidden: bool = False
    follow_links: bool = False
    listed: Table | None = None
    pages: str = "first"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON (ASCII JSON: a path may hold what UTF-8 can't)."""
        plain = dataclasses.asdict(self)
        if self.pages == "first":  # so that what needs no pages can be read by older versions
            del plain["pages"]
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Source:
        """Build from what `to_dict` returned, by way of JSON or not."""
        plain = dict(data)
        try:
            if plain.get("classes") is not None:
                plain["classes"] = tuple(plain["classes"])
            plain["exclude"] = tuple(plain.get("exclude", ()))
            if plain.get("listed") is not None:
                plain["listed"] = Table.from_dict(plain["listed"])
            source = cls(**plain)
            _check_types(source)
            return source
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"this is not a source that featbank can read: {error}.") from error


def free_name(name: str, taken: Container[str]) -> str:
    """Return `name`, with a number behind it if it is taken: ``birds-2``."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


_MAX_NAME = 255  # characters of a source's name, which is that of a folder or a file
_TEXTS = (str,)
_MAYBE_TEXTS = (str, type(None))
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "kind", "root", "pages"), _TEXTS),
    **dict.fromkeys(("table", "delimiter"), _MAYBE_TEXTS),
    **dict.fromkeys(("columns", "class_names"), (dict,)),
    "classes": (tuple, type(None)),
    "exclude": (tuple,),
    **dict.fromkeys(("hidden", "follow_links"), (bool,)),
}


def _check_types(source: Source) -> None:
    """Raise TypeError where a field of a source is of another kind than it must be."""
    for name, kinds in _KINDS.items():
        value = getattr(source, name)
        if not isinstance(value, kinds):
            raise TypeError(f"its {name} is a {type(value).__name__}")
        items: Any = [*value, *value.values()] if isinstance(value, dict) else value
        maybe = _MAYBE_TEXTS if name == "columns" else _TEXTS
        if isinstance(value, dict | tuple) and not all(isinstance(i, maybe) for i in items):
            raise TypeError(f"its {name} hold something else than text")
    if not 0 < len(source.name) <= _MAX_NAME:
        raise TypeError(f"its name has {len(source.name)} characters")


def open_source(
    location: Any,
    labels: Iterable[Any] | None = None,
    *,
    kind: str = "auto",
    root: str | bytes | os.PathLike[str] | None = None,
    columns: Mapping[str, str | None] | None = None,
    delimiter: str | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    class_names: Mapping[str, str] | str | os.PathLike[str] | None = None,
    hidden: bool = False,
    follow_links: bool = False,
    name: str | None = None,
    pages: str = "first",
) -> Source:
    """Describe where images come from. No image is looked at yet; `scan` does that.

    Parameters
    ----------
    location : path, sequence, DataFrame or data set
        A folder; a CSV or TSV file; a sequence of paths or of (path, label) pairs; a pandas
        DataFrame with columns as in a CSV; an object with torchvision's ``samples`` (pairs of
        path and class number) and ``classes``.
    labels : iterable, optional
        One a path, where `location` is a sequence of paths; None for no label.
    kind : str, optional
        One of `KINDS`, or "auto" to tell by the rule of this module.
    root : path, optional
        What the paths of a table or sequence are relative to. By default the folder of the table,
        the data set's own root, or the current directory.
    columns : mapping, optional
        Names of a table's columns: ``{"path": "file", "label": "species", "group": None}``. The
        defaults are path, label, split and group; None says that the table has no such column.
    delimiter : str, optional
        Of a CSV file, where it is none of comma, semicolon and tab.
    classes, exclude : sequence of str, optional
        Which classes to list, and which not, by their label as found or by their readable name.
    class_names : mapping or path, optional
        From labels to readable names, or a JSON file that holds them.
    hidden, follow_links : bool, optional
        Walk hidden files and folders as well; follow symbolic links to folders.
    name : str, optional
        By default the last part of the location.
    pages : {"first", "all"}
        Which pages of a TIFF and frames of an animation are images: the first, or each, under a
        name such as ``scan.tif#page=2``. Pages of one file form a group.

    Raises
    ------
    SourceNotFound
        Where there is no such folder or file.
    DataError
        For a location or an option that doesn't fit.
    """
    if kind != "auto" and kind not in KINDS:
        raise DataError(f"there is no kind of source {kind!r}; {nearest(kind, KINDS)}")
    if pages not in ("first", "all"):
        raise DataError(f"pages is 'first' or 'all', not {pages!r}.")
    names = class_names if isinstance(class_names, Mapping) else {}
    if class_names is not None and not isinstance(class_names, Mapping):
        names = load_class_names(class_names)
    check_columns(columns or {})
    if delimiter is not None and len(delimiter) != 1:
        raise DataError(f"a delimiter is one character, not {delimiter!r}.")
    common: dict[str, Any] = {
        "columns": dict(columns or {}),
        "delimiter": delimiter,
        "classes": None if classes is None else _words(classes),
        "exclude": _words(exclude or ()),
        "class_names": {str(key): str(value) for key, value in names.items()},
        "hidden": hidden,
        "follow_links": follow_links,
        "pages": pages,
    }
    if not isinstance(location, str | bytes | os.PathLike):
        if kind not in ("auto", "list"):
            raise DataError(f"a {type(location).__name__} is a source of kind list, not {kind}.")
        found_root, table = read_sequence(location, labels, columns or {})
        chosen = _absolute(root if root is not None else found_root)
        return Source(name or "list", "list", chosen, listed=table, **common)
    if labels is not None:
        raise DataError("labels go with a sequence of paths; a folder or a table has its own.")
    path = _absolute(location)
    if not os.path.lexists(path):
        raise SourceNotFound(f"there is no folder or file {shown(path)}; check the path.")
    if kind == "auto":
        kind = _kind(path)
    if (kind == "csv") == os.path.isdir(path) or kind == "list":
        what = "a folder" if os.path.isdir(path) else "a file"
        raise DataError(f"{shown(path)} is {what}, which is no source of kind {kind}.")
    own = name or os.path.basename(path) or "root"
    if kind == "csv":
        top = _absolute(root) if root is not None else os.path.dirname(path)
        stem = name or os.path.splitext(own)[0]
        return Source(stem, kind, top, table=path, **common)
    if root is not None or columns or delimiter:
        raise DataError(
            f"root, columns and delimiter are for tables, and {shown(path)} is a folder; leave "
            "them out."
        )
    return Source(own, kind, path, **common)


def scan(source: Source) -> Listing:
    """List the images of a source as they stand on the disk now.

    Files that a table or a sequence names and that are not there are listed with size -1: they
    are for the ledger, and end no run.

    Raises
    ------
    SourceNotFound
        Where the folder or the table is gone.
    DataError
        Where there are no images, a class is asked for that is not there, or a table can't be
        used; see `featbank.data.tables`.
    """
    return scan_all([source])[0]


def scan_all(
    sources: Sequence[Source], known: Mapping[str, IndexedSource] | None = None
) -> list[Listing]:
    """List the images of several sources, as `scan` does for one.

    A class that is asked for, or class names, need to fit one of the sources only. Pages of files
    that are in `known` unchanged, by the source's name, are not counted again.
    """
    listings = [_list(source) for source in sources]
    check_classes(
        [listing.label.vocabulary for listing in listings],
        classes={word: None for s in sources for word in (*(s.classes or ()), *s.exclude)},
        class_names={word: name for s in sources for word, name in s.class_names.items()},
    )
    chosen = [_chosen(source, listing) for source, listing in zip(sources, listings, strict=True)]
    return [
        listing
        if source.pages == "first"
        else with_pages(listing, os.fsencode(source.root), (known or {}).get(source.name))
        for source, listing in zip(sources, chosen, strict=True)
    ]


def _list(source: Source) -> Listing:
    root = os.fsencode(source.root)
    if source.kind == "list":
        assert source.listed is not None  # open_source sees to it
        listing = source.listed.listing(source.root)
    elif source.kind == "csv":
        assert source.table is not None
        if not os.path.exists(source.table):
            raise SourceNotFound(f"the table {shown(source.table)} is not there any more.")
        table, lines = read_csv(source.table, columns=source.columns, delimiter=source.delimiter)
        listing = table.listing(source.root, lines=lines)
    else:
        try:
            listing = walk(root, hidden=source.hidden, follow_links=source.follow_links)
        except FileNotFoundError:
            raise SourceNotFound(f"the folder {shown(root)} is not there any more.") from None
        except OSError as error:
            raise DataError(
                f"the folder {shown(root)} can't be listed: {error.strerror or error}."
            ) from None
        if source.kind == "split-folders":
            listing = by_split(listing)
        elif source.kind == "flat":
            listing = dataclasses.replace(listing, label=Text.empty(len(listing)))
    if not len(listing):
        linked = "" if source.follow_links else " (links to folders were not followed)"
        raise DataError(
            f"there are no images in {shown(root)}; looked for names ending in "
            f"{', '.join(extensions())}{linked}."
        )
    return listing


def _chosen(source: Source, listing: Listing) -> Listing:
    chosen = choose(
        listing, classes=source.classes, exclude=source.exclude, class_names=source.class_names
    )
    if not len(chosen):
        raise DataError(
            f"classes and exclude together leave no image of {shown(source.table or source.root)}; "
            "widen one of them, or leave this source out."
        )
    return chosen


def find_images(
    paths: str | bytes | os.PathLike[str] | Iterable[str | bytes | os.PathLike[str]],
    *,
    hidden: bool = False,
) -> list[bytes]:
    """Return image files, each folder replaced by the images in it, sorted; each file once.

    Parameters
    ----------
    paths : path or iterable of paths
        Files are taken whatever their names; in folders the walk's rules hold.
    hidden : bool, optional
        Take hidden files in folders as well.

    Raises
    ------
    SourceNotFound
        Where a path is not there.
    DataError
        Where there are no images at all, or something else than paths is given.
    """
    if isinstance(paths, str | bytes | os.PathLike):
        paths = [paths]
    found: dict[bytes, None] = {}
    try:
        given = [os.fsencode(path) for path in paths]
    except TypeError as error:
        raise DataError(
            f"expected paths of image files or folders ({error}); TransferClassifier takes images "
            "in memory."
        ) from None
    for path in given:
        if os.path.isdir(path):
            try:
                listing = walk(path, hidden=hidden)
            except OSError as error:
                raise DataError(
                    f"the folder {shown(path)} can't be listed: {error.strerror or error}."
                ) from None
            found.update(dict.fromkeys(os.path.join(path, name) for name in listing.names))
        elif os.path.lexists(file_of(path)):
            found[path] = None
        else:
            raise SourceNotFound(f"there is no file or folder {shown(path)}; check the path.")
    if not found:
        where = ", ".join(map(shown, given)) or "an empty list"
        raise DataError(
            f"there are no images in {where}; looked for names ending in {', '.join(extensions())}."
        )
    return list(found)


def load_class_names(path: str | bytes | os.PathLike[str]) -> dict[str, str]:
    """Read a JSON file with one object, from labels as found to readable names.

    This is the habit of ``cat_to_name.json``, which comes with Flowers-102: ``{"21": "fire
    lily", ...}``.

    Raises
    ------
    SourceNotFound
        Where there is no such file.
    DataError
        Where it holds anything else.
    """
    where = shown(os.fspath(path))
    try:
        with open(path, encoding="utf-8-sig") as stream:
            names = json.load(stream)
    except FileNotFoundError:
        raise SourceNotFound(f"there is no file of class names {where}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the class names in {where} can't be read as JSON: {error}.") from None
    if not isinstance(names, dict) or not all(isinstance(value, str) for value in names.values()):
        raise DataError(
            f'{where} holds no class names; expected one JSON object such as {{"21": "fire lily"}}.'
        )
    return names


def _absolute(path: str | bytes | os.PathLike[str]) -> str:
    return os.path.abspath(os.path.expanduser(os.fsdecode(path)))


def _words(words: Sequence[str]) -> tuple[str, ...]:
    """Return names as a tuple, one name given by itself too."""
    return (words,) if isinstance(words, str) else tuple(map(str, words))


def _kind(path: str) -> str:
    """Tell the kind of a path by the rule of this module."""
    if not os.path.isdir(path):
        if path.lower().endswith(TABLES):
            return "csv"
        hint = "give the folder it is in, or a list of paths"
        if not is_image_name(os.path.basename(os.fsencode(path))):
            hint = f"expected a folder, or a table ending in {', '.join(TABLES)}"
        raise DataError(f"{shown(path)} is a single file; {hint}.")
    try:
        with os.scandir(path) as entries:
            folders = sorted(
                entry.name for entry in entries if entry.name[0] != "." and entry.is_dir()
            )
    except OSError as error:
        raise DataError(
            f"the folder {shown(path)} can't be listed: {error.strerror or error}."
        ) from None
    if not folders:
        return "flat"
    splits = [folder for folder in folders if split_word(folder) in SPLITS]
    if "train" not in map(split_word, splits):
        return "folder"
    if splits == folders:
        return "split-folders"
    if len(splits) == 1:  # a class may be called train
        return "folder"
    others = [shown(folder) for folder in folders if folder not in splits]
    raise DataError(
        f"{shown(path)} has the splits {', '.join(splits)} next to {', '.join(others[:5])}; say "
        'kind="split-folders" to leave the others out, or kind="folder" if all of them are classes.'
    )
