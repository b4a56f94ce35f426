r"""The export: features with their labels in files that other programs read.

==========  ========================================================================================
ending      what is written
==========  ========================================================================================
.npz        ``X`` (N, D); ``path``, ``source``, ``label``, ``split``, ``group`` (N,), "" for none;
            ``digest`` (N, 32), SHA-256 of each image's bytes; ``extra_names`` (E,) and ``extra``
            (E, N), further columns of the sources' tables; ``columns`` and ``recipe``, JSON text
.npy        ``X`` alone, and beside it a table of the same name that ends in .csv, a row a row of
            ``X``: path, source, label, split, group, sha256, further columns
.parquet    that table, with ``features``, a list of D numbers a row; needs pyarrow
==========  ========================================================================================

Rows are in the order of `featbank.Bank.features`. A name that is not UTF-8 is kept as it is in the
.csv (its bytes) and the .npz (what ``os.fsencode`` makes those bytes again); Parquet can't hold it,
and gets its bytes escaped as in ``\xff``. Numbers are read and written a few thousand rows at a
time.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from featbank import durable
from featbank.backbones.recipe import Recipe
from featbank.bank.bank import Bank
from featbank.bank.selection import Located
from featbank.data.sources import free_name
from featbank.errors import BankError, MissingDependency, nearest

__all__ = ["Exported", "export"]

_ENDINGS = (".npz", ".npy", ".parquet")
_BLOCK_ROWS = 4096
_TABLE = ("path", "source", "label", "split", "group", "sha256")

Words = Sequence[str | None]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    path : str
        The file that was asked for.
    files : tuple of str
        All that were written.
    rows, width : int
        Shape of the features.
    """

    path: str
    files: tuple[str, ...]
    rows: int
    width: int


def export(
    bank: Bank | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    recipe: str | Recipe | None = None,
    layer: str | Sequence[str] | None = None,
    view: str | None = None,
    split: str | None = None,
    source: str | Sequence[str] | None = None,
    label: str | None = None,
    force: bool = False,
) -> Exported:
    """Write features with their labels into a file of another format.

    Parameters
    ----------
    bank : Bank or path
    target : path
        Its ending says the format: ``.npz``, ``.npy`` (with a ``.csv`` beside it) or ``.parquet``.
    recipe, layer, view, split, source, label
        What is written; as for `featbank.Bank.select`.
    force : bool
        Replace files that are there.

    Returns
    -------
    Exported

    Raises
    ------
    BankError
        The ending is another, a file is there already, or features are missing or ambiguous;
        nothing was written.
    MissingDependency
        Parquet was asked for without pyarrow.
    OSError
        The disk is full or failed; what was there stands. Of an .npy that is replaced, old numbers
        never stand beside a new table: the .npy goes first and comes last.
    """
    path = os.path.abspath(os.fspath(target))
    base, ending = os.path.splitext(path)
    if ending not in _ENDINGS:
        raise BankError(
            f"{path} ends in {ending!r}, and the ending says the format; "
            f"{nearest(ending, _ENDINGS)}"
        )
    if ending == ".parquet":
        _pyarrow()
    files = (path, f"{base}.csv") if ending == ".npy" else (path,)
    for file in files:
        if os.path.isdir(file) or (os.path.lexists(file) and not force):
            what = "is a folder" if os.path.isdir(file) else "is there already"
            raise BankError(f"{file} {what}; choose another name, or replace files with --force.")
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    with bank.using():
        located = bank.locate(recipe, layer, view=view, split=split, source=source, label=label)
        durable.make_directory(os.path.dirname(path))
        {".npz": _write_npz, ".npy": _write_npy, ".parquet": _write_parquet}[ending](located, path)
    return Exported(path, files, len(located.selection.paths), located.width)


def _blocks(located: Located) -> Iterator[npt.NDArray[Any]]:
    """Give the features, some thousand rows at a time."""
    for start in range(0, len(located.selection.paths), _BLOCK_ROWS):
        yield np.ascontiguousarray(located.read(slice(start, start + _BLOCK_ROWS)))


def _extras(located: Located) -> list[str]:
    """Return the names of the further columns that any of the sources has."""
    return list(dict.fromkeys(title for part, _ in located.parts for title in part.listing.extra))


def _columns(located: Located) -> dict[str, Words]:
    """Return the table, column by column."""
    chosen = located.selection
    digests = [digest.tobytes().hex() for digest in chosen.digests]
    named = (chosen.paths, chosen.sources, chosen.labels, chosen.splits, chosen.groups, digests)
    columns: dict[str, Words] = dict(zip(_TABLE, named, strict=True))
    for title in _extras(located):
        # A table of the user's may call a column of its own so.
        columns[free_name(title, columns)] = located.further(title)
    return columns


# .npy and .csv


def _write_npy(located: Located, path: str) -> None:
    table = f"{os.path.splitext(path)[0]}.csv"
    with durable.replacing(path) as numbers:
        _write_array(numbers, located.dtype, _shape(located), _blocks(located))
        with durable.replacing(table) as text:
            _write_csv(text, _columns(located))
            for spool in (numbers, text):
                if spool.error is not None:
                    raise spool.error
            with contextlib.suppress(FileNotFoundError):
                durable.fs.unlink(path)  # the old numbers don't belong to the new table
            durable.fs.sync_directory(os.path.dirname(path))


def _write_csv(stream: IO[bytes] | durable.Spool, columns: dict[str, Words]) -> None:
    # Line ends as RFC 4180 has them: so csv puts quotes around every cell with \r or \n in it.
    rows = itertools.chain([columns.keys()], zip(*columns.values(), strict=True))
    while block := list(itertools.islice(rows, _BLOCK_ROWS)):
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\r\n").writerows(block)
        stream.write(text.getvalue().encode("utf-8", "surrogateescape"))


def _write_array(
    stream: Any,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    blocks: Iterator[npt.NDArray[Any]],
) -> None:
    """Write an array in NumPy's format without ever having it whole."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    for block in blocks:
        stream.write(block.tobytes())


def _shape(located: Located) -> tuple[int, int]:
    return (len(located.selection.paths), located.width)


# .npz


def _write_npz(located: Located, path: str) -> None:
    chosen = located.selection
    extras = _extras(located)
    further = [word for title in extras for word in located.further(title)]
    texts: dict[str, tuple[Words, tuple[int, ...]]] = {
        name: (words, (len(words),))
        for name, words in _columns(located).items()
        if name in _TABLE and name != "sha256"
    }
    texts["extra_names"] = (extras, (len(extras),))
    texts["extra"] = (further, (len(extras), len(chosen.paths)))
    texts["columns"] = ([json.dumps([column.name for column in chosen.columns])], ())
    texts["recipe"] = ([json.dumps(chosen.recipe.to_dict())], ())
    with (
        durable.replacing(path) as spool,
        zipfile.ZipFile(spool, "w", zipfile.ZIP_STORED) as archive,
    ):

        def member(name: str) -> IO[bytes]:
            # The time of day is no part of the content.
            return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)

        with member("X") as stream:
            _write_array(stream, located.dtype, _shape(located), _blocks(located))
        with member("digest") as stream:
            _write_array(stream, np.dtype(np.uint8), chosen.digests.shape, iter([chosen.digests]))
        for name, (words, shape) in texts.items():
            with member(name) as stream:
                _write_texts(stream, words, shape)


def _write_texts(stream: IO[bytes], words: Words, shape: tuple[int, ...]) -> None:
    dtype = np.dtype(f"U{max([1, *(len(word) for word in words if word is not None)])}")

    def blocks() -> Iterator[npt.NDArray[Any]]:
        for start in range(0, len(words), _BLOCK_ROWS):
            some = [word or "" for word in words[start : start + _BLOCK_ROWS]]
            yield np.array(some, dtype).view(np.uint32)

    _write_array(stream, dtype, shape, blocks())


# .parquet


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependency(
            "Parquet files are written by pyarrow, which is not installed; install featbank with "
            "the extra parquet, or choose a name that ends in .npz or .npy."
        ) from error
    return pa, pq


def _write_parquet(located: Located, path: str) -> None:
    arrow, parquet = _pyarrow()
    columns, chosen = _columns(located), located.selection
    number = arrow.from_numpy_dtype(located.dtype)
    schema = arrow.schema(
        [(_utf8(name), arrow.string()) for name in columns]
        + [(free_name("features", columns), arrow.list_(number, located.width))],
        metadata={
            "featbank.recipe": json.dumps(chosen.recipe.to_dict()),
            "featbank.columns": json.dumps([column.name for column in chosen.columns]),
        },
    )
    with durable.replacing(path) as spool, parquet.ParquetWriter(spool, schema) as writer:
        for position, block in enumerate(_blocks(located)):
            rows = slice(position * _BLOCK_ROWS, position * _BLOCK_ROWS + len(block))
            texts = [
                arrow.array([None if w is None else _utf8(w) for w in words[rows]], arrow.string())
                for words in columns.values()
            ]
            numbers = arrow.array(block.reshape(-1))
            lists = arrow.FixedSizeListArray.from_arrays(numbers, located.width)
            writer.write_table(arrow.Table.from_arrays([*texts, lists], schema=schema))


def _utf8(word: str) -> str:
    return word.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
