"""Banks made by hand, without images and networks."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from featbank.backbones.recipe import Column, Preprocess, Recipe
from featbank.bank.bank import Bank
from featbank.data.index import IndexedSource, Listing, Text

RECIPE = Recipe(
    backbone="net",
    source="module",
    weights="0" * 64,
    preprocess=Preprocess(8, "squash", (8, 8), "bilinear", (0.5,) * 3, (0.5,) * 3),
)
OTHER = dataclasses.replace(RECIPE, backbone="other")
COLUMN = Column()
LAYER = Column("stage", "max", dtype="float16")


def key(word: str) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(word.encode()).digest(), np.uint8)


def keys(words: Sequence[str]) -> np.ndarray:
    return np.stack([key(word) for word in words])


def features(words: Sequence[str], column: Column = COLUMN, width: int = 3) -> np.ndarray:
    """Return numbers that tell the words apart."""
    seeds = [int.from_bytes(key(word + column.name)[:4].tobytes()) for word in words]
    rows = [np.random.default_rng(seed).random(width) for seed in seeds]
    return np.asarray(rows, column.dtype).reshape(len(words), width)


def source(
    name: str,
    contents: dict[str | bytes, str | None],
    *,
    labels: Sequence[str | None] | None = None,
    splits: Sequence[str | None] | None = None,
    groups: Sequence[str | None] | None = None,
    extra: dict[str, Sequence[str | None]] | None = None,
    root: bytes = b"/images",
) -> IndexedSource:
    """Index files by name and content; a content of None is a file that can't be read."""
    contents = {os.fsencode(k): v for k, v in contents.items()}
    names = sorted(contents)
    n = len(names)
    words = [contents[word] for word in names]
    numbers = np.arange(n, dtype=np.int64)
    none = [None] * n
    listing = Listing(
        names=names,
        size=numbers + 100,
        mtime=numbers,
        ctime=numbers,
        inode=numbers,
        scanned=numbers + 10**12,
        label=Text.of(labels or none),
        split=Text.of(splits or none),
        group=Text.of(groups or none),
        extra={k: Text.of(v) for k, v in (extra or {}).items()},
    )
    readable = np.array([word is not None for word in words], bool)
    digest = np.stack([np.zeros(32, np.uint8) if w is None else key(w) for w in words])
    failure = Text.of([None if w is not None else "it is broken." for w in words])
    under = Text.of([None if w is not None else "policy" for w in words])
    return IndexedSource(name, root, listing, digest, readable, failure, under)


def filled(path: os.PathLike[str] | str, *, shards: int = 2) -> Bank:
    """Return a bank with two sources, duplicates, a broken file and two columns."""
    bank = Bank.create(path)
    first = source(
        "birds",
        {"x/2.png": "two", "x/1.png": "one", "y/3.png": "two", "y/4.png": None, b"z/\xff.png": "5"},
        labels=["x", "x", "y", "y", "z\udcff"],
        splits=["train", "train", "test", "test", None],
        groups=["g1", "g2", "g1", None, None],
        extra={"age": ["1", None, "3", "4", "5"]},
    )
    second = source("ants", {"b.png": "one", "a.png": "six"}, root=b"/more\xff")
    documents = [
        {"name": "birds", "kind": "folder", "root": "/images"},
        {"name": "ants", "kind": "flat", "root": "/more\udcff"},
    ]
    bank.update([first, second], documents=documents)
    bank.register(RECIPE, {"request": {"name": "net"}})
    words = ["one", "two", "5", "six", "in no index"]
    for part in np.array_split(np.array(words), shards):
        words = part.tolist()
        columns = {c: features(words, c) for c in (COLUMN, LAYER)}
        bank.seal(RECIPE, keys(words), columns)
    return bank
