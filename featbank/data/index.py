"""The index: which images there are, with label, split, group, and what is known of their bytes.

In memory it is columnar: one `Listing` a source, rows sorted by name. Names are bytes
(`os.fsencode`), for a file system holds names that are no text. Every other column of text is
`Text`: codes into a short vocabulary, -1 where a row has no value. An `IndexedSource` adds what
reading the files has taught: their digests, and the ledger of what could not be read.
Its form on disk is in `featbank.data.indexfile`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.data.ignored import Ignored, Sniffed

__all__ = ["Index", "IndexedSource", "Listing", "Names", "StoredSplit", "Text"]

RACY_NANOSECONDS = 2_000_000_000
"""A file whose times lie this close to the scan may change again without a trace in them."""

Int64 = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp] | npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Text:
    """A column of text: ``vocabulary[codes[i]]``, or None where ``codes[i]`` is -1.

    Attributes
    ----------
    codes : ndarray of shape (N,), int32
    vocabulary : tuple of str
        Sorted, without duplicates.
    """

    codes: npt.NDArray[np.int32]
    vocabulary: tuple[str, ...]

    @classmethod
    def of(cls, values: Iterable[str | None]) -> Text:
        """Build the column from one value a row."""
        values = list(values)
        vocabulary = tuple(sorted({v for v in values if v is not None}))
        code = {v: i for i, v in enumerate(vocabulary)}
        codes = np.fromiter(
            (-1 if v is None else code[v] for v in values), dtype=np.int32, count=len(values)
        )
        return cls(codes, vocabulary)

    @classmethod
    def empty(cls, n: int) -> Text:
        """Build a column of `n` rows without a value."""
        return cls(np.full(n, -1, dtype=np.int32), ())

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str | None:
        code = self.codes[row]
        return None if code < 0 else self.vocabulary[code]

    def tolist(self) -> list[str | None]:
        """Return one value a row."""
        words: list[str | None] = [*self.vocabulary, None]
        return [words[code] for code in self.codes]

    def take(self, rows: Rows) -> Text:
        """Return the column with only these rows."""
        return Text(self.codes[rows], self.vocabulary)

    def equals(self, other: Text) -> bool:
        """Whether the other column has the same values."""
        if self.vocabulary == other.vocabulary:
            return np.array_equal(self.codes, other.codes)
        return self.tolist() == other.tolist()

    def replaced(self, values: dict[int, str | None]) -> Text:
        """Return the column with the values of some rows replaced."""
        if not values:
            return self
        words = self.tolist()
        for row, value in values.items():
            words[row] = value
        return Text.of(words)


class Names(Sequence[bytes]):
    """Names kept as one joined text: each is made when it is asked for.

    Parameters
    ----------
    joined : bytes
    ends : ndarray of shape (N + 1,), int64
        Name i is ``joined[ends[i]:ends[i + 1]]``.
    """

    def __init__(self, joined: bytes, ends: Int64) -> None:
        self.joined = joined
        self.ends = ends

    @classmethod
    def of(cls, names: Iterable[bytes]) -> Names:
        """Join names, if they are not joined already."""
        if isinstance(names, Names):
            return names
        names = list(names)
        lengths = np.fromiter(map(len, names), np.int64, len(names))
        return cls(b"".join(names), np.concatenate([[0], np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return list(self)[row]
        row = range(len(self))[row]
        return self.joined[self.ends[row] : self.ends[row + 1]]

    def __iter__(self) -> Iterator[bytes]:
        return (self.joined[a:b] for a, b in itertools.pairwise(self.ends.tolist()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        names = Names.of(other)
        return self.joined == names.joined and np.array_equal(self.ends, names.ends)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Listing:
    """The images of one source as they stand on the disk, sorted by name.

    Attributes
    ----------
    names : sequence of bytes
        Paths relative to the source's root, in the file system's encoding, sorted, unique.
    size, mtime, ctime, inode : ndarray of shape (N,), int64
        From ``stat``: bytes, nanoseconds, nanoseconds, number.
    scanned : ndarray of shape (N,), int64
        Nanoseconds since the epoch when the file's ``stat`` was taken. A time within two seconds
        of it is not trusted: the file could change again within the clock's tick.
    label, split, group : Text
    extra : dict of str to Text
        Every further column of the source's table.
    ignored : Ignored
        What the walk that made the listing passed over. It is not kept in the index.
    counted : dict of bytes to int
        The number of pages of files, by name, where each is listed.
    """

    names: Sequence[bytes]
    size: Int64
    mtime: Int64
    ctime: Int64
    inode: Int64
    scanned: Int64
    label: Text
    split: Text
    group: Text
    extra: dict[str, Text] = field(default_factory=dict)
    ignored: Ignored = field(default_factory=Ignored, compare=False)
    counted: dict[bytes, int] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def stat(self) -> Int64:
        """Size, mtime, ctime and inode side by side, shape (N, 4): the same, the same file."""
        return np.stack([self.size, self.mtime, self.ctime, self.inode], axis=1)

    @property
    def racy(self) -> npt.NDArray[np.bool_]:
        """Whether a file's times are too close to the scan to be trusted, shape (N,)."""
        return np.maximum(self.mtime, self.ctime) > self.scanned - RACY_NANOSECONDS


@dataclass(frozen=True)
class IndexedSource:
    """One source's listing with what reading its files has taught.

    Attributes
    ----------
    name : str
        The source's name in the bank.
    root : bytes
        The folder that `listing.names` are relative to.
    listing : Listing
    digest : ndarray of shape (N, 32), uint8
        SHA-256 of the file's bytes.
    known : ndarray of shape (N,), bool
        Whether `digest` belongs to the file as `listing` saw it. So it may where the image could
        not be decoded: a row has features only if it is known and has no failure.
    failure : Text
        The ledger: why the file could not be read, if it could not.
    failure_under : Text
        The decoding policy (or recipe) under which it failed; another one tries again.
    requested : dict of str to tuple of str
        Names of the columns that were extracted of this source, by the recipe's fingerprint: what
        each readable image has unless it was lost. Empty for what older versions indexed.
    pages : dict of bytes to int
        The number of pages or frames, by name, of the files that were decoded and have several.
    sniffed : Sniffed
        What was found inside the files that are no images by their names.
    """

    name: str
    root: bytes
    listing: Listing
    digest: npt.NDArray[np.uint8]
    known: npt.NDArray[np.bool_]
    failure: Text
    failure_under: Text
    requested: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pages: dict[bytes, int] = field(default_factory=dict)
    sniffed: Sniffed = field(default_factory=dict)

    @classmethod
    def new(cls, name: str, root: bytes, listing: Listing) -> IndexedSource:
        """Build from a listing of which nothing is known yet."""
        n = len(listing)
        return cls(
            name,
            root,
            listing,
            np.zeros((n, 32), np.uint8),
            np.zeros(n, np.bool_),
            Text.empty(n),
            Text.empty(n),
        )

    def __len__(self) -> int:
        return len(self.listing)

    def path(self, row: int) -> bytes:
        """Return the path of a row's file."""
        return os.path.join(self.root, self.listing.names[row])

    @property
    def failed(self) -> npt.NDArray[np.bool_]:
        """Which rows are in the ledger, shape (N,)."""
        return self.failure.codes >= 0

    def requesting(self, fingerprint: str, columns: Iterable[str]) -> IndexedSource:
        """Return this with more columns of a recipe among those that were extracted."""
        names = tuple(sorted({*self.requested.get(fingerprint, ()), *columns}))
        return dataclasses.replace(self, requested={**self.requested, fingerprint: names})

    def match(self, names: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """Return the row of each of `names`, -1 where there is none."""
        if Names.of(names) == Names.of(self.listing.names):
            return np.arange(len(names), dtype=np.int64)
        rows = {name: row for row, name in enumerate(self.listing.names)}
        return np.fromiter((rows.get(n, -1) for n in names), dtype=np.int64, count=len(names))

    def carried_to(self, root: bytes, listing: Listing) -> IndexedSource:
        """Return a newer listing of this source with what still holds for it.

        A digest and a ledger entry are carried over where name, size, times and inode are the
        same and the times were not within two seconds of the scan that the digest belongs to.
        """
        # The caller's listing stays as it is; only its column of scans is written to below.
        listing = dataclasses.replace(listing, scanned=listing.scanned.copy())
        fresh = IndexedSource.new(self.name, root, listing)
        fresh = dataclasses.replace(fresh, requested=self.requested)
        fresh.pages.update(listing.counted)
        fresh.sniffed.update(self.sniffed if root == self.root else {})
        if root != self.root or not len(self) or not len(fresh):
            return fresh
        old = self.match(listing.names)
        rows = np.flatnonzero(old >= 0)
        same = (self.listing.stat[old[rows]] == listing.stat[rows]).all(axis=1)
        same &= ~self.listing.racy[old[rows]]
        rows = rows[same]
        fresh.digest[rows] = self.digest[old[rows]]
        fresh.known[rows] = self.known[old[rows]]
        # The digest was taken when the old scan was; its distance from the times still counts.
        fresh.listing.scanned[rows] = self.listing.scanned[old[rows]]

        def carried(text: Text) -> Text:
            codes = np.full(len(listing), -1, np.int32)
            codes[rows] = text.codes[old[rows]]
            return Text(codes, text.vocabulary)

        names = {listing.names[row] for row in rows.tolist()} if self.pages else set()
        return dataclasses.replace(
            fresh,
            failure=carried(self.failure),
            failure_under=carried(self.failure_under),
            pages={name: n for name, n in self.pages.items() if name in names} | listing.counted,
        )

    def completed_by(self, other: IndexedSource | None) -> IndexedSource:
        """Return this with what another look at the same files has taught, where it says nothing.

        Two processes that read one source at the same time so keep what either has found out.
        """
        if other is None:
            return self
        whole = self
        for fingerprint, columns in other.requested.items():
            whole = whole.requesting(fingerprint, columns)
        theirs = other.carried_to(self.root, self.listing)
        taken = (theirs.known | theirs.failed) & ~(self.known | self.failed)
        if not taken.any():
            return whole
        rows = np.flatnonzero(taken).tolist()
        scanned = np.where(taken, theirs.listing.scanned, self.listing.scanned)
        under = {row: theirs.failure_under[row] for row in rows}
        return dataclasses.replace(
            whole,
            listing=dataclasses.replace(self.listing, scanned=scanned),
            digest=np.where(taken[:, None], theirs.digest, self.digest),
            known=np.where(taken, theirs.known, self.known),
            failure=self.failure.replaced({row: theirs.failure[row] for row in rows}),
            failure_under=self.failure_under.replaced(under),
            pages={**theirs.pages, **self.pages},
        )


@dataclass(frozen=True)
class StoredSplit:
    """A split that was made on request, image by image; see `featbank.data.splits`.

    Attributes
    ----------
    spec : str
        As `featbank.data.splits.SplitSpec.text` writes it.
    seed : int
    label : str
        What the images were stratified by: a column of the sources' tables, and what was made of
        its cells.
    keys : ndarray of shape (N, 32), uint8
        Digests of the images, sorted, unique.
    split : Text
        Of length N.
    """

    spec: str
    seed: int
    label: str
    keys: npt.NDArray[np.uint8]
    split: Text

    @classmethod
    def of(cls, spec: str, seed: int, label: str, splits: Mapping[bytes, str]) -> StoredSplit:
        """Build it from the split of each digest."""
        digests = sorted(splits)
        keys = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        return cls(spec, seed, label, keys, Text.of(splits[digest] for digest in digests))

    @property
    def title(self) -> tuple[str, int, str]:
        """Key of the split."""
        return self.spec, self.seed, self.label

    def splits(self) -> dict[bytes, str]:
        """Return the split of each digest."""
        words = self.split.tolist()
        return {key.tobytes(): str(word) for key, word in zip(self.keys, words, strict=True)}

    def completed_by(self, other: StoredSplit | None) -> StoredSplit:
        """Return this with what the other one says of further images."""
        if other is None:
            return self
        return StoredSplit.of(*self.title, {**other.splits(), **self.splits()})


@dataclass(frozen=True)
class Index:
    """All sources of a bank, by name, and the splits that were made of their images, by title."""

    sources: dict[str, IndexedSource] = field(default_factory=dict)
    splits: dict[tuple[str, int, str], StoredSplit] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources.values())

    def with_source(self, source: IndexedSource) -> Index:
        """Return the index with one source added or replaced, sources sorted by name."""
        sources = {**self.sources, source.name: source}
        return dataclasses.replace(self, sources={name: sources[name] for name in sorted(sources)})

    def with_split(self, split: StoredSplit) -> Index:
        """Return the index with one split added or replaced, splits sorted by title."""
        splits = {**self.splits, split.title: split}
        return dataclasses.replace(self, splits={title: splits[title] for title in sorted(splits)})

    def without(self, names: Container[str]) -> Index:
        """Return the index without the sources of these names."""
        kept = {name: part for name, part in self.sources.items() if name not in names}
        return dataclasses.replace(self, sources=kept)
