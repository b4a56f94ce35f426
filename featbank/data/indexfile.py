"""The index file: the form of the index inside a group of an HDF5 file.

One group a source; names as one joined blob with the place where each ends, numbers as int64
columns, texts as codes and vocabulary. To change the format, raise `INDEX_VERSION`, keep reading
the old one in `_read_source`, and say so in CHANGELOG.

Format 2 adds the columns that were extracted of each source, and the splits that were made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import h5py
import numpy as np

from featbank import hdf5
from featbank.data.ignored import Sniffed
from featbank.data.index import Index, IndexedSource, Int64, Listing, Names, StoredSplit, Text
from featbank.errors import BankDamaged, BankError, BankVersionError

__all__ = ["INDEX_VERSION", "fill_index", "read_index"]

INDEX_VERSION = 2
"""2 added the columns that were extracted of a source, numbers of pages, and what was found inside
files that are no images by name."""

_NUMBERS = {
    "size": "bytes; -1: no such file",
    "mtime": "nanoseconds since 1970",
    "ctime": "nanoseconds since 1970",
    "inode": "number of the file in its file system",
    "scanned": "nanoseconds since 1970 when the file was last looked at",
}
_TEXTS = {
    "label": "class of the image",
    "split": "train, valid, test, or a name of the user's",
    "group": "images of one group never straddle two folds",
}


def fill_index(group: h5py.Group, index: Index) -> None:
    """Write the index into an empty group of an HDF5 file."""
    hdf5.put_attributes(
        group, version=INDEX_VERSION, description="which images there are; one group a source"
    )
    made = group.create_group("splits")
    for number, split in enumerate(index.splits.values()):
        part = made.create_group(f"{number:04d}")
        hdf5.put_attributes(part, spec=split.spec, seed=str(split.seed), label=_bytes(split.label))
        hdf5.put(part, "keys", split.keys, description="SHA-256 of each image's bytes, sorted")
        _put_text(part, "split", split.split, "what the image was assigned to")
    for number, source in enumerate(index.sources.values()):
        listing = source.listing
        part = group.create_group(f"{number:04d}")
        hdf5.put_attributes(part, name=os.fsencode(source.name), root=source.root)
        _put_strings(part, "name", listing.names, "paths relative to root, sorted")
        for name, description in _NUMBERS.items():
            hdf5.put(part, name, getattr(listing, name), description=description)
        hdf5.put(part, "digest", source.digest, description="SHA-256 of the file's bytes")
        hdf5.put(part, "known", source.known.astype(np.uint8), description="1: digest holds")
        for name, description in _TEXTS.items():
            _put_text(part, name, getattr(listing, name), description)
        _put_text(part, "failure", source.failure, "why the file could not be read")
        _put_text(part, "failure_under", source.failure_under, "policy under which it failed")
        requested = [
            _bytes(f"{fingerprint} {column}")
            for fingerprint, columns in sorted(source.requested.items())
            for column in columns
        ]
        _put_strings(part, "requested", requested, "recipe and column that were extracted")
        pages = part.create_group("pages")
        _put_strings(pages, "name", source.pages, "files with several pages or frames")
        counts = np.array([*source.pages.values()], np.int64)
        hdf5.put(pages, "count", counts, description="pages or frames in the file")
        _put_sniffed(part.create_group("sniffed"), source.sniffed)
        extra = part.create_group("extra")
        for position, (name, text) in enumerate(listing.extra.items()):
            _put_text(extra, f"{position:04d}", text, "a further column of the table", title=name)


def read_index(group: h5py.Group) -> Index:
    """Read what `fill_index` wrote, from an inspected file.

    Raises
    ------
    BankVersionError
        A later featbank wrote it.
    BankDamaged
        Parts are missing or do not fit together.
    """
    try:
        version = hdf5.read_attributes(group)["version"]
        if version > INDEX_VERSION:
            raise BankVersionError(
                f"the index has format {version} and this featbank reads up to {INDEX_VERSION}; "
                "install a newer featbank."
            )
        names = [name for name in sorted(group) if name != "splits"]
        sources = [_read_source(group[name], version) for name in names]
        made = group["splits"].values() if "splits" in group else ()  # format 1 has none
        splits = [_read_split(part) for part in made]
    except BankError:
        raise
    except (
        LookupError, TypeError, AttributeError, ValueError, ArithmeticError, OSError, RuntimeError,
    ) as error:  # fmt: skip
        raise BankDamaged(f"the index is not as featbank writes it: {error}") from error
    index = Index({source.name: source for source in sources}, {one.title: one for one in splits})
    if len(index.sources) < len(sources):
        raise BankDamaged("the index names a source twice.")
    if len(index.splits) < len(splits):
        raise BankDamaged("the index names a split twice.")
    return index


def _read_split(part: h5py.Group) -> StoredSplit:
    spec, seed, label = (
        hdf5.read_bytes(part, name).decode("utf-8", "surrogateescape")
        for name in ("spec", "seed", "label")
    )
    keys = part["keys"][:]
    if keys.ndim != 2 or keys.shape[1] != 32 or keys.dtype != np.uint8:
        raise BankDamaged("the keys of a split in the index are no digests.")
    split = _get_text(part, "split", len(keys))
    if (split.codes < 0).any():
        raise BankDamaged("a split in the index leaves images out.")
    return StoredSplit(spec, int(seed), label, keys, split)


def _read_source(part: h5py.Group, version: int) -> IndexedSource:
    names = _get_strings(part, "name")
    n = len(names)

    extra = {
        os.fsdecode(hdf5.read_bytes(part["extra"][k], "title")): k for k in sorted(part["extra"])
    }
    columns: dict[str, Any] = {name: _get_numbers(part, name, n) for name in _NUMBERS}
    columns |= {name: _get_text(part, name, n) for name in _TEXTS}
    columns["extra"] = {title: _get_text(part["extra"], key, n) for title, key in extra.items()}
    listing = Listing(names=names, **columns)
    digest, known = part["digest"][:], part["known"][:]
    flags = known.shape == (n,) and known.dtype == np.uint8 and bool((known <= 1).all())
    if digest.shape != (n, 32) or digest.dtype != np.uint8 or not flags:
        raise BankDamaged(f"the index's digests do not fit its {n} names.")
    return IndexedSource(
        os.fsdecode(hdf5.read_bytes(part, "name")),
        hdf5.read_bytes(part, "root"),
        listing,
        digest,
        known.astype(np.bool_),
        _get_text(part, "failure", n),
        _get_text(part, "failure_under", n),
        _get_requested(part) if version > 1 else {},
        _get_pages(part["pages"]) if "pages" in part else {},
        _get_sniffed(part["sniffed"]) if "sniffed" in part else {},
    )


def _get_requested(part: h5py.Group) -> dict[str, tuple[str, ...]]:
    requested: dict[str, tuple[str, ...]] = {}
    for pair in _get_strings(part, "requested"):
        fingerprint, _, column = pair.decode("utf-8", "surrogateescape").partition(" ")
        requested[fingerprint] = (*requested.get(fingerprint, ()), column)
    return requested


def _put_sniffed(group: h5py.Group, sniffed: Sniffed) -> None:
    columns = [*zip(*sniffed.values(), strict=True)] or [(), (), ()]
    _put_strings(group, "name", sniffed, "files that are no images by their names")
    hdf5.put(group, "size", np.array(columns[0], np.int64), description="bytes")
    hdf5.put(group, "mtime", np.array(columns[1], np.int64), description="nanoseconds since 1970")
    text = Text.of(word or None for word in columns[2])
    _put_text(group, "format", text, "format by the first bytes; none: no image")


def _get_sniffed(group: h5py.Group) -> Sniffed:
    names = _get_strings(group, "name")
    formats = _get_text(group, "format", len(names)).tolist()
    numbers = [_get_numbers(group, name, len(names)) for name in ("size", "mtime")]
    rows = zip(*(column.tolist() for column in numbers), formats, strict=True)
    return {
        name: (size, mtime, word or "")
        for name, (size, mtime, word) in zip(names, rows, strict=True)
    }


def _get_pages(group: h5py.Group) -> dict[bytes, int]:
    names = _get_strings(group, "name")
    return dict(zip(names, _get_numbers(group, "count", len(names)).tolist(), strict=True))


def _get_numbers(group: h5py.Group, name: str, n: int) -> Int64:
    array = group[name][:]
    if array.shape != (n,) or array.dtype != np.int64:
        raise BankDamaged(f"the index's {name} does not fit its {n} names.")
    return np.asarray(array)


def _bytes(word: str) -> bytes:
    return word.encode("utf-8", "surrogateescape")


def _put_strings(group: h5py.Group, name: str, values: Iterable[bytes], description: str) -> None:
    names = Names.of(values)
    blob = np.frombuffer(names.joined, dtype=np.uint8)
    hdf5.put(group, f"{name}_bytes", blob, description=f"{description}; joined")
    hdf5.put(
        group, f"{name}_ends", names.ends, description=f"{name} i is bytes[ends[i]:ends[i + 1]]"
    )


def _get_strings(group: h5py.Group, name: str) -> Names:
    joined, ends = group[f"{name}_bytes"][:], group[f"{name}_ends"][:]
    if joined.dtype != np.uint8 or joined.ndim != 1 or ends.dtype != np.int64 or ends.ndim != 1:
        raise BankDamaged(f"the index's {name} has another type.")
    blob = joined.tobytes()
    if not len(ends) or ends[0] != 0 or ends[-1] != len(blob):
        raise BankDamaged(f"the index's {name} is cut off.")
    if (np.diff(ends) < 0).any():
        raise BankDamaged(f"the index's {name} is out of order.")
    return Names(blob, ends)


def _put_text(group: h5py.Group, name: str, text: Text, description: str, **attrs: Any) -> None:
    part = group.create_group(name)
    hdf5.put_attributes(part, description=description)
    hdf5.put_attributes(part, **{key: os.fsencode(value) for key, value in attrs.items()})
    hdf5.put(part, "codes", text.codes, description="row of the vocabulary; -1: none")
    words = [_bytes(word) for word in text.vocabulary]
    _put_strings(part, "vocabulary", words, "the values")


def _get_text(group: h5py.Group, name: str, n: int) -> Text:
    part = group[name]
    codes = part["codes"][:]
    words = [w.decode("utf-8", "surrogateescape") for w in _get_strings(part, "vocabulary")]
    if codes.shape != (n,) or codes.dtype != np.int32:
        raise BankDamaged(f"the index's {name} does not fit its {n} names.")
    if n and (codes.min() < -1 or codes.max() >= len(words)):
        raise BankDamaged(f"the index's {name} points outside its vocabulary.")
    return Text(codes, tuple(words))
