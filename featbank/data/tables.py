"""Tables: images named one a row, with label, split and group, in a CSV file or in memory."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featbank.data.index import Listing, Text
from featbank.data.pages import file_of
from featbank.data.walk import FileStats, shown
from featbank.errors import DataError, nearest

__all__ = ["COLUMNS", "TABLES", "Table", "check_columns", "read_csv", "split_word", "table_of"]

COLUMNS = ("path", "label", "split", "group")
"""What a column can mean, and the names that are looked for unless others are given."""

TABLES = (".csv", ".tsv", ".tab", ".txt")
"""Ends of the names of files that are tables."""

_DELIMITERS = (",", ";", "\t")
_SPLIT_WORDS = {
    "training": "train",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "testing": "test",
}


@dataclass(frozen=True)
class Table:
    """Images one a row.

    Attributes
    ----------
    path : tuple of str
        As given; bytes that are no text are kept as ``os.fsdecode`` keeps them.
    label, split, group : tuple of str or None
        None where the row has no value.
    extra : dict of str to tuple of str or None
        Every further column.
    """

    path: tuple[str, ...]
    label: tuple[str | None, ...]
    split: tuple[str | None, ...]
    group: tuple[str | None, ...]
    extra: dict[str, tuple[str | None, ...]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Table:
        """Build from what ``dataclasses.asdict`` returned, by way of JSON or not."""
        plain: dict[str, Any] = {name: tuple(data[name]) for name in COLUMNS}
        table = cls(**plain, extra={name: tuple(v) for name, v in data["extra"].items()})
        texts = (table.path, table.label, table.split, table.group, *table.extra.values())
        if {len(text) for text in texts} != {len(table.path)} or None in table.path:
            raise TypeError("its columns are of different lengths")
        if not all(isinstance(word, str | None) for text in texts for word in text):
            raise TypeError("its columns hold something else than text")
        return table

    def listing(self, root: str, *, lines: Sequence[int] | None = None) -> Listing:
        """Look at each file and list them, sorted by name.

        Parameters
        ----------
        root : str
            What relative paths are relative to. A file below it is named relative to it, any
            other by its absolute path.
        lines : sequence of int, optional
            Where each row stands in its file, for messages; counted from 1 unless given.

        Raises
        ------
        DataError
            Where a path comes twice with another label, split or group, or no file is there at
            all. A file that is not there, among others that are, has size -1.
        """
        top = os.fsencode(root)
        rows: dict[bytes, int] = {}
        for row, path in enumerate(self.path):
            name = _name(top, path)
            first = rows.setdefault(name, row)
            if first != row:
                self._check_same(first, row, lines=lines)
        stats, scanned = FileStats(), time.time_ns()
        stats.add((_state_of(os.path.join(top, name)) for name in rows), scanned)
        if rows and max(stats.size) < 0:
            raise DataError(
                f"none of the {len(rows)} images listed is there, for instance "
                f"{shown(os.path.join(top, next(iter(rows))))}; give the folder that their paths "
                "are relative to as root."
            )
        kept = list(rows.values())

        def text(values: Sequence[str | None]) -> Text:
            return Text.of(values[row] for row in kept)

        return stats.listing(
            list(rows),
            label=text(self.label),
            split=text(self.split),
            group=text(self.group),
            extra={name: text(values) for name, values in self.extra.items()},
        )

    def _check_same(self, first: int, row: int, *, lines: Sequence[int] | None) -> None:
        for what in ("label", "split", "group"):
            one, other = (getattr(self, what)[i] for i in (first, row))
            if one != other:
                where = [lines[i] if lines else i + 1 for i in (first, row)]
                several = ""
                if what == "label" and one and other:
                    several = f', or write both in one cell ("{one};{other}") for --multilabel'
                raise DataError(
                    f"{shown(self.path[row])} is listed with {what} {one!r} (line {where[0]}) and "
                    f"with {other!r} (line {where[1]}); an image has one {what}, so keep one of "
                    f"the rows{several}."
                )


def split_word(word: str | None) -> str | None:
    """Return the name of a split: train, valid and test by any of their names, others as given.

    Examples
    --------
    >>> [split_word(word) for word in ("Training", "val", "fold3")]
    ['train', 'valid', 'fold3']
    """
    if word is None:
        return None
    folded = word.strip().casefold()
    folded = _SPLIT_WORDS.get(folded, folded)
    return folded if folded in ("train", "valid", "test") else word.strip()


def table_of(
    header: Sequence[str],
    rows: Iterable[Sequence[str | None]],
    *,
    columns: Mapping[str, str | None],
    where: str,
) -> Table:
    """Give the columns of a table their meaning.

    Parameters
    ----------
    header : sequence of str
    rows : iterable of sequences of str or None
        As long as `header`; an empty cell is None.
    columns : mapping of {"path", "label", "split", "group"} to str or None
        Names of columns where they are not the default ones; None for "not in this table".
    where : str
        The table's name, for messages.

    Raises
    ------
    DataError
        For a column that is named but not there, or no column of paths.
    """
    place: dict[str, int] = {}
    for meaning in COLUMNS:
        name = columns.get(meaning, meaning)
        if name in header:
            place[meaning] = header.index(name)
        elif meaning == "path" or (meaning in columns and name is not None):
            raise DataError(
                f"{where} has no column {name!r} for the {meaning}; its columns are "
                f"{', '.join(map(repr, header))}: name the right one as columns "
                f"({meaning}=NAME)."
            )
    cells = list(zip(*rows, strict=True)) or [() for _ in header]
    missing: tuple[None, ...] = (None,) * len(cells[0])
    taken = set(place.values())
    return Table(
        path=tuple(path or "" for path in cells[place["path"]]),
        label=cells[place["label"]] if "label" in place else missing,
        split=tuple(map(split_word, cells[place["split"]])) if "split" in place else missing,
        group=cells[place["group"]] if "group" in place else missing,
        extra={name: cells[i] for i, name in enumerate(header) if name and i not in taken},
    )


def read_csv(
    path: str, *, columns: Mapping[str, str | None], delimiter: str | None = None
) -> tuple[Table, list[int]]:
    """Read a CSV or TSV file with a header.

    Parameters
    ----------
    path : str
    columns : mapping
        As for `table_of`.
    delimiter : str, optional
        One character. Otherwise the first of comma, semicolon and tab with which the header has
        the column of paths (tab comes first for ``.tsv`` and ``.tab``).

    Returns
    -------
    table : Table
    lines : list of int
        The line of the file at which each row ends.

    Raises
    ------
    DataError
        With the line, for rows of another length than the header, quotes that never close, rows
        without a path.
    """
    where = shown(path)
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        raise DataError(f"{where} can't be read: {error.strerror or error}.") from None
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # spreadsheets' "Unicode text"
    text = data.decode("utf-16" if wide else "utf-8-sig", "replace" if wide else "surrogateescape")
    delimiter = delimiter or _delimiter(path, text, columns.get("path", "path"))
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    header: list[str] = []
    rows, lines = list[list[str | None]](), list[int]()
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                header = cells
                _check_header(header, where)
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{where}, line {reader.line_num}: {len(cells)} cells, but the header has "
                    f"{len(header)}; put quotes around a cell that holds {delimiter!r}."
                )
            rows.append([cell or None for cell in cells])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}; check the quotes.") from None
    if not rows:
        raise DataError(f"{where} lists no images; it needs a header and one row an image.")
    table = table_of(header, rows, columns=columns, where=where)
    if "" in table.path:
        raise DataError(f"{where}, line {lines[table.path.index('')]}: the path is empty.")
    return table, lines


def check_columns(columns: Mapping[str, str | None]) -> None:
    """Raise `DataError` for a meaning that columns can't have."""
    for meaning in columns:
        if meaning not in COLUMNS:
            raise DataError(f"columns has no {meaning!r}; {nearest(meaning, COLUMNS)}")


def _check_header(header: list[str], where: str) -> None:
    twice = sorted({name for name in header if header.count(name) > 1 and name})
    if twice:
        raise DataError(f"{where} has two columns named {twice[0]!r}; rename one of them.")


def _delimiter(path: str, text: str, wanted: str | None) -> str:
    tabs_first = path.lower().endswith((".tsv", ".tab"))
    delimiters = sorted(_DELIMITERS, key=lambda d: d != "\t") if tabs_first else _DELIMITERS
    first = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in delimiters:
        names = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        if wanted in [name.strip() for name in names]:
            return delimiter
    return delimiters[0]


def _state_of(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(file_of(path))
    except (OSError, ValueError):
        return None


def _name(top: bytes, path: str) -> bytes:
    """Return a file's name in the index: relative to `top` where it lies below, else absolute."""
    whole = os.path.normpath(os.path.join(top, os.fsencode(path)))
    prefix = top if top.endswith(b"/") else top + b"/"
    return whole[len(prefix) :] if whole.startswith(prefix) else whole
