"""Embed: features of images that are in no index, with a bank as cache where one is given."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from featbank import durable
from featbank.backbones.recipe import Column, Recipe
from featbank.backbones.trained_on import TrainedOn
from featbank.bank import packed
from featbank.bank.bank import Bank
from featbank.bank.layered import check_target, extending
from featbank.bank.reading import as_features
from featbank.bank.rows import Rows
from featbank.data.decode import unreadable
from featbank.data.digests import read_file
from featbank.data.index import RACY_NANOSECONDS
from featbank.data.modes import to_rgb
from featbank.data.pages import file_of
from featbank.errors import DataError, ImageError
from featbank.extraction.claims import COMPUTED, REUSED, Claims
from featbank.extraction.loader import fastest
from featbank.extraction.run import Settings, run
from featbank.extraction.sealing import BankStore, MemoryStore, Sealer, Store, writing
from featbank.extraction.task import NOT_FINITE, Embedder
from featbank.workflows.extract import Model, on_device, provenance

__all__ = ["Embedded", "embed_images", "embed_paths"]

Keys = npt.NDArray[np.uint8]

_MEMO_SIZE = 1_000_000
_digests: dict[bytes, tuple[tuple[int, ...], bytes]] = {}
"""Digests of files that this process has read, by path and ``stat``."""


@dataclass(frozen=True)
class Embedded:
    """Features of some images.

    Attributes
    ----------
    features : ndarray of shape (M, D)
        Of the images that could be read, in their order.
    readable : ndarray of shape (N,), bool
    failures : dict of int to str
        Why the others could not.
    computed, reused : int
        Forward passes made, and images that needed none.
    """

    features: npt.NDArray[Any]
    readable: npt.NDArray[np.bool_]
    failures: dict[int, str] = field(default_factory=dict)
    computed: int = 0
    reused: int = 0


def embed_paths(
    paths: Sequence[str | bytes | os.PathLike[str]],
    model: Model,
    columns: Sequence[Column],
    *,
    averaged: int = 1,
    bank: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Return features of image files.

    Parameters
    ----------
    paths : sequence of paths
    model : Model
    columns : sequence of Column
        Joined side by side.
    averaged : int
        So many views, one behind the other among the columns, are read as their mean.
    bank : path, optional
        Features are looked up there and added; its index stays as it is. Processes that would
        compute the same recipe at the same time wait for one another. A packed file is replaced by
        a new one when something was added, or only looked into where it can't be written.
    settings : Settings, optional
    progress : callable, optional

    Returns
    -------
    Embedded
    """
    settings = settings or Settings()
    names = [os.path.abspath(os.fsencode(path)) for path in paths]
    with _opened(model, bank, settings) as (store, lock):
        digest: Keys = np.zeros((len(names), 32), np.uint8)
        failures: dict[int, str] = {}
        known = (
            _known_digests(names, digest, failures, settings) if _has_any(store, columns) else None
        )
        todo = _lacking(store, columns, digest, known, failures, len(names))
        computed = 0
        if todo:
            with lock:
                if known is not None:  # another process may have computed them meanwhile
                    todo = _lacking(store, columns, digest, known, failures, len(names))
                claims = Claims([store.rows(column) for column in columns], len(todo))
                if todo:
                    run(
                        [names[i] for i in todo],
                        model.loader,
                        store,
                        claims,
                        policy=model.policy,
                        preprocess=model.preprocess,
                        settings=on_device(settings, model.recipe),
                        progress=lambda c: progress(c.n - c.pending, c.n) if progress else None,
                    )
            rows = np.array(todo, np.int64)
            digest[rows] = claims.digest
            failures |= {todo[item]: failure.reason for item, failure in claims.failures.items()}
            _remember(names, todo, claims)
            computed = claims.count(COMPUTED)
        readable = np.ones(len(names), np.bool_)
        readable[list(failures)] = False
        return Embedded(
            features=_gather(store, columns, digest[readable], averaged),
            readable=readable,
            failures=failures,
            computed=computed,
            reused=int(readable.sum()) - computed,
        )


def embed_images(
    images: Sequence[Any] | npt.NDArray[np.uint8],
    model: Model,
    columns: Sequence[Column],
    *,
    bank: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
) -> Embedded:
    """Return features of images in memory; equal pixels are embedded once.

    Parameters
    ----------
    images : sequence of PIL images, or ndarray of shape (N, H, W, 3), uint8
    model, columns, bank, settings
        As in `embed_paths`.
    """
    settings = on_device(settings or Settings(), model.recipe)
    with _opened(model, bank, settings) as (store, lock):
        digest: Keys = np.zeros((len(images), 32), np.uint8)
        for row, image in enumerate(images):
            digest[row] = _pixels_key(_as_image(image, row, model))
        first = np.sort(np.unique(digest, axis=0, return_index=True)[1])
        known = np.ones(len(images), np.bool_)
        computed = 0

        def lacking() -> list[int]:
            rows = _lacking(store, columns, digest, known, {}, len(images))
            return sorted({*rows}.intersection(first.tolist()))

        if lacking():
            with lock:
                todo = lacking()  # another process may have computed them meanwhile
                if todo:
                    loader = fastest(model.loader, columns, device=settings.device)
                    network = loader.load(settings.device)
                    embedder = Embedder(lambda: network)
                sealer = Sealer(store, rows=settings.shard_rows, seconds=settings.shard_seconds)
                try:
                    for start in range(0, len(todo), settings.batch):
                        rows = todo[start : start + settings.batch]
                        arrays = [network.prepare(_as_image(images[r], r, model)) for r in rows]
                        outcome = embedder.embed(arrays, columns)
                        if outcome.bad:
                            raise ImageError(f"image {rows[outcome.bad[0]]}: {NOT_FINITE}")
                        sealer.add(rows, [digest[row].tobytes() for row in rows], outcome.features)
                        computed += len(rows)
                finally:
                    sealer.rest()
        return Embedded(
            features=_gather(store, columns, digest),
            readable=np.ones(len(images), np.bool_),
            computed=computed,
            reused=len(images) - computed,
        )


class _PackedStore(BankStore):
    """The features of one recipe in a packed bank, whose file a new one replaces to add some."""

    def __init__(self, path: str | os.PathLike[str], recipe: Recipe) -> None:
        self._path = path
        self._there = os.path.isfile(path)
        if self._there:
            super().__init__(Bank(path), recipe)
        else:
            self.recipe = recipe

    def rows(self, column: Column) -> Rows:
        return super().rows(column) if self._there else Rows.of(column, ())

    @contextmanager
    def adding(self, origin: dict[str, Any], trained_on: TrainedOn | None) -> Iterator[None]:
        """Take features meanwhile, and pack them at the end."""
        with ExitStack() as held:
            with writing():
                self.bank = held.enter_context(extending(self._path))
                self.bank.register(self.recipe, origin, trained_on)
            self._there = True
            yield
            with writing():
                held.close()
        self.bank = Bank(self._path)


class _BesidePacked(MemoryStore):
    """What a packed bank has, and in memory what it lacks: its folder can't be written."""

    def __init__(self, bank: Bank, recipe: Recipe) -> None:
        super().__init__()
        self._shards += bank.shards(recipe.fingerprint)


@contextmanager
def _opened(
    model: Model, bank: str | os.PathLike[str] | None, settings: Settings
) -> Iterator[tuple[Store, Any]]:
    """Give where features go, and the lock under which they are computed."""
    if bank is None or model.recipe is None:
        yield MemoryStore(), nullcontext()
    elif os.path.isfile(bank) and not _is_writable(os.path.dirname(os.path.abspath(bank))):
        yield _BesidePacked(Bank(bank), model.recipe), nullcontext()
    elif packed.names_file(bank):
        check_target(bank)
        store = _PackedStore(bank, model.recipe)
        yield store, store.adding(provenance(model, settings), model.trained_on)
    else:
        target = Bank.create(bank)
        with target.using():
            folder = target.register(model.recipe, provenance(model, settings), model.trained_on)
            yield BankStore(target, model.recipe), durable.lock(os.path.join(folder, ".lock"))


def _is_writable(folder: str) -> bool:
    try:
        durable.try_writing(folder)
    except OSError:
        return False
    return True


def _has_any(store: Store, columns: Sequence[Column]) -> bool:
    return all(len(store.rows(column)) for column in columns)


def _known_digests(
    names: Sequence[bytes], digest: Keys, failures: dict[int, str], settings: Settings
) -> npt.NDArray[np.bool_]:
    """Hash the files whose bytes this process does not know yet; fill `digest`."""
    known = np.zeros(len(names), np.bool_)
    for row, name in enumerate(names):
        try:
            info = os.stat(file_of(name))
            signature = (info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
            memo = _digests.get(name)
            if memo is None or memo[0] != signature:
                data, stat = read_file(name, settings.limits)
                memo = (stat[:4], hashlib.sha256(data).digest())
                _keep(name, stat, memo[1])
            digest[row] = np.frombuffer(memo[1], np.uint8)
            known[row] = True
        except OSError as error:
            failures[row] = unreadable(error)
        except ImageError as error:
            failures[row] = str(error)
    return known


def _remember(names: Sequence[bytes], rows: Sequence[int], claims: Claims) -> None:
    for item, row in enumerate(rows):
        if claims.state[item] in (COMPUTED, REUSED):
            stat = tuple(claims.stat[item].tolist())
            _keep(names[row], stat, claims.digest[item].tobytes())


def _keep(name: bytes, stat: Sequence[int], digest: bytes) -> None:
    _, mtime, ctime, _, scanned = stat
    if max(mtime, ctime) <= scanned - RACY_NANOSECONDS and len(_digests) < _MEMO_SIZE:
        _digests[name] = (tuple(stat[:4]), digest)


def _lacking(
    store: Store,
    columns: Sequence[Column],
    digest: Keys,
    known: npt.NDArray[np.bool_] | None,
    failures: dict[int, str],
    n: int,
) -> list[int]:
    """Return the rows whose features the store lacks, or whose bytes are unknown."""
    lacks = np.ones(n, np.bool_)
    if known is not None:
        lacks = ~known
        for column in columns:
            lacks |= store.rows(column).find(digest) < 0
    return [row for row in np.flatnonzero(lacks).tolist() if row not in failures]


def _gather(
    store: Store, columns: Sequence[Column], keys: Keys, averaged: int = 1
) -> npt.NDArray[Any]:
    if not len(keys):
        return np.empty((0, 0), np.float32)

    def read(column: int) -> npt.NDArray[Any]:
        table = store.rows(columns[column])
        return table.read(table.find(keys))

    return as_features(read, columns, averaged=averaged)


def _as_image(image: Any, row: int, model: Model) -> Image.Image:
    if isinstance(image, Image.Image):
        try:
            image.load()
            return to_rgb(image, b"", raw="", background=model.policy.background)
        except Exception as error:  # one that was opened and not read can raise nearly anything
            words = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"image {row} can't be read: {words[:200]}.") from error
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise DataError(
            f"image {row} is an array of shape {array.shape} and {array.dtype}; "
            "give (height, width, 3) of uint8, or a PIL image."
        )
    return Image.fromarray(array)


def _pixels_key(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the key of an image in memory; no file's digest equals it."""
    head = f"featbank pixels RGB {image.width}x{image.height}\n".encode()
    return np.frombuffer(hashlib.sha256(head + image.tobytes()).digest(), np.uint8)


def raise_unreadable(embedded: Embedded, paths: Sequence[Any]) -> None:
    """Raise an `ImageError` that names the first of the images that could not be read."""
    if embedded.failures:
        row = min(embedded.failures)
        more = len(embedded.failures) - 1
        raise ImageError(
            f"{os.fsdecode(paths[row])}: {embedded.failures[row]}"
            + (f" ({more} more can't be read.)" if more else "")
        )
