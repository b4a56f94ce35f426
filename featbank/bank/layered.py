"""The layered bank: new shards over a packed file, read as one bank until they are one file again.

A packed file never changes. What is added to ``codes.h5`` is sealed in a folder beside it,
``codes.h5.shards``, a bank like any other. At the end both are packed into a new file that takes
the old one's place in one step, and then the folder goes. Whoever is killed leaves the old file or
the new one, whole, and the folder with all that was sealed; the next run goes on from there.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Container, Iterator
from typing import Any

from featbank import durable, hdf5
from featbank.bank import packed
from featbank.bank.bank import Bank
from featbank.bank.documents import read_document
from featbank.bank.recipes import KnownRecipe
from featbank.bank.shard import Shard
from featbank.data.index import Index
from featbank.data.indexfile import fill_index
from featbank.errors import BankError

__all__ = ["LayeredBank", "check_target", "extending", "look"]

log = logging.getLogger(__name__)


class LayeredBank(Bank):
    """A packed file, which may be missing, with the folder of shards beside it on top.

    Whatever is written goes to the folder, whose path is `path`.

    Parameters
    ----------
    file : str
        The packed file's path.

    Raises
    ------
    BankNotFound
        There is no folder beside it.
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self.file = os.path.abspath(os.fspath(file))
        super().__init__(packed.shards_folder(self.file))
        self._below = Bank(self.file) if os.path.isfile(self.file) else None

    def __reduce__(self) -> tuple[type[Bank], tuple[str]]:
        return (LayeredBank, (self.file,))

    @property
    def recipes(self) -> list[KnownRecipe]:
        """The recipes of both, each once."""
        below = self._below.recipes if self._below else []
        found = {known.slug: known for known in [*below, *super().recipes]}
        return [found[slug] for slug in sorted(found)]

    @property
    def index(self) -> Index:
        """The packed file's index with the folder's sources in place of those of their names."""
        index = self._below.index.without(self._hidden()) if self._below else Index()
        own = self._read_index()
        for source in own.sources.values():
            index = index.with_source(source)
        for split in own.splits.values():
            index = index.with_split(split.completed_by(index.splits.get(split.title)))
        return index

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """What was indexed, by name; the folder's word counts."""
        below, hidden = (self._below.sources if self._below else {}), self._hidden()
        kept = {name: document for name, document in below.items() if name not in hidden}
        return {**kept, **self._read_sources()}

    def _hidden(self) -> list[str]:
        """Return the names of the packed file's sources that are removed."""
        path = os.path.join(self.path, "sources.json")
        found = read_document(path).get("removed", []) if os.path.lexists(path) else []
        return [name for name in found if isinstance(name, str)]

    def _removed(self, names: set[str], kept: Container[str]) -> dict[str, Any]:
        """Return the names that the packed file's sources are hidden by."""
        return {"removed": sorted(name for name in {*self._hidden(), *names} if name not in kept)}

    def shards(self, fingerprint: str) -> list[Shard]:
        """Return the shards of both."""
        below = self._below.shards(fingerprint) if self._below else []
        return super().shards(fingerprint) + below

    @property
    def adds(self) -> bool:
        """Whether the folder holds anything that the packed file does not."""
        below = self._below
        if below is None or self.sources != below.sources:
            return True
        if _bytes(self.index) != _bytes(below.index):
            return True
        for known in super().recipes:
            for shard in super().shards(known.fingerprint):
                for column in shard.columns:
                    if (below.rows(known.fingerprint, column).find(shard.keys) < 0).any():
                        return True
        return False

    def finish(self) -> None:
        """Pack both into a new file, unless the old one holds everything; remove the folder.

        Raises
        ------
        OSError
            The disk is full or failed; file and folder stand as they were.
        """
        if self.adds:
            packed.pack(self, self.file)
        durable.remove_folder(self.path)


def _bytes(index: Index) -> memoryview:
    """Return the one text of an index; the same content, the same bytes."""
    return hdf5.build(lambda file: fill_index(file, index))


def look(path: str | os.PathLike[str]) -> Bank | None:
    """Return what there is of a bank, or of one that is being packed; None if nothing is.

    Raises
    ------
    BankError
        What is there can't be read as a bank.
    """
    path = os.path.abspath(os.fspath(path))
    if packed.unfinished(path) is not None:
        return LayeredBank(path)
    there = os.path.isfile(path) or os.path.exists(os.path.join(path, "bank.json"))
    return Bank(path) if there else None


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise `BankError` if something stands at `path` that no packed bank may replace."""
    if os.path.isdir(path):
        raise BankError(f"{path} is a folder; a name that ends in .h5 is for one packed file.")
    if os.path.isfile(path) and not hdf5.is_sealed(os.fspath(path)):
        raise BankError(f"{path} is there already and is no packed bank; name another file.")


@contextlib.contextmanager
def extending(path: str | os.PathLike[str]) -> Iterator[LayeredBank]:
    """Give a bank that takes what is to be added to the packed file `path`, and pack it at the end.

    Who would add to the same file meanwhile waits. If the block ends in an error, the folder stays
    beside the file, and the next one goes on from it.

    Raises
    ------
    BankError
        `path` is a folder, or is not a file that featbank packed.
    OSError
        The disk is full or failed; the old file stands.
    """
    file = os.path.abspath(os.fspath(path))
    check_target(file)
    folder = packed.shards_folder(file)
    with contextlib.ExitStack() as held:
        _hold(held, folder)
        durable.remove_temporaries(os.path.dirname(file))
        Bank.mark(folder)
        bank = LayeredBank(file)
        held.enter_context(bank.using())
        yield bank
        bank.finish()


def _hold(held: contextlib.ExitStack, folder: str) -> None:
    """Make the folder and lock it."""
    path, said = os.path.join(folder, ".extending"), False
    while True:
        durable.make_directory(folder)
        # Whoever held it may remove the folder, at the end, at any instant.
        with contextlib.suppress(FileNotFoundError):
            try:
                held.enter_context(durable.lock(path, wait=said))
            except BlockingIOError:
                log.info("another command adds to this bank; this one goes on when it is done")
            except OSError as error:
                if said or error.errno not in durable.NO_LOCKS:
                    raise
            else:
                return
            said = True
