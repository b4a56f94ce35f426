"""Claims: the state of every image of a run, and who computes which digest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from featbank.bank.rows import Rows
from featbank.extraction.messages import Failed, Reading

__all__ = ["COMPUTED", "FAILED", "PENDING", "REUSED", "Claims", "Failure"]

PENDING, REUSED, COMPUTED, FAILED = range(4)


@dataclass(frozen=True)
class Failure:
    """Why an image has no features; ``in_network``: its pixels were fine, its features are not."""

    reason: str
    in_network: bool = False


@dataclass
class Claims:
    """Gives every wanted digest to one reader, and counts what became of each image.

    Parameters
    ----------
    tables : sequence of Rows
        What the store has already, one a column.
    n : int
        How many images there are.
    """

    tables: Sequence[Rows]
    n: int
    state: npt.NDArray[np.uint8] = field(init=False)
    digest: npt.NDArray[np.uint8] = field(init=False)
    stat: npt.NDArray[np.int64] = field(init=False)
    failures: dict[int, Failure] = field(default_factory=dict)
    pages: dict[bytes, int] = field(default_factory=dict)
    """The number of pages, by digest, of the files that were decoded and have several."""

    def __post_init__(self) -> None:
        self.state = np.full(self.n, PENDING, np.uint8)
        self.digest = np.zeros((self.n, 32), np.uint8)
        self.stat = np.full((self.n, 5), -1, np.int64)
        self._owner: dict[bytes, int] = {}
        self._waiting: dict[bytes, list[int]] = {}
        self._bytes: dict[int, bytes] = {}

    @property
    def pending(self) -> int:
        """How many images are not settled."""
        return int((self.state == PENDING).sum())

    def count(self, state: int) -> int:
        """Return how many images are in a state."""
        return int((self.state == state).sum())

    def claim(self, readings: Sequence[Reading]) -> list[tuple[int, ...]]:
        """Return for each reading the positions of the columns that its reader is to compute."""
        keys = np.frombuffer(b"".join(r.digest for r in readings), np.uint8).reshape(-1, 32)
        lacking = np.stack([table.find(keys) < 0 for table in self.tables], axis=1)
        wanted = []
        for reading, key, lacks in zip(readings, keys, lacking, strict=True):
            item, digest = reading.item, reading.digest
            self.digest[item] = key
            self.stat[item] = reading.stat
            owner = self._owner.setdefault(digest, item) if lacks.any() else None
            if owner is None:
                self.state[item] = REUSED
            elif owner == item:
                self._bytes[item] = digest
                wanted.append(tuple(np.flatnonzero(lacks).tolist()))
                continue
            elif self.state[owner] == COMPUTED:
                self.state[item] = REUSED
            elif self.state[owner] == FAILED:
                self._fail(item, self.failures[owner])
            else:
                self._waiting.setdefault(digest, []).append(item)
            wanted.append(())
        return wanted

    def sealed(self, items: Iterable[int]) -> None:
        """Settle images whose rows are durable, and those of the same bytes."""
        for item in items:
            self.state[item] = COMPUTED
            for other in self._waiting.pop(self._bytes.pop(item), ()):
                self.state[other] = REUSED

    def failed(self, event: Failed) -> list[int]:
        """Settle an image that can't be read, and those of the same bytes; return them all."""
        failure = Failure(event.reason, event.in_network)
        if event.stat is not None:
            self.stat[event.item] = event.stat
        self._fail(event.item, failure)
        others = self._waiting.pop(self._bytes.pop(event.item, b""), [])
        for other in others:
            self._fail(other, failure)
        return [event.item, *others]

    def released(self, items: Iterable[int]) -> list[int]:
        """Take back what a dead reader had; return the images to be given out again, each once."""
        again: set[int] = set()
        for item in items:
            digest = self._bytes.pop(item, None)
            if digest is not None:
                del self._owner[digest]
                again.update(self._waiting.pop(digest, ()))
            if self.state[item] == PENDING and not self._waits(item):
                again.add(item)
        return sorted(again)

    def reconcile(self, tables: Sequence[Rows]) -> None:
        """Settle what is durable though nobody came to say so: an interrupt cut the message off."""
        unsaid = [i for i in self._bytes if self.state[i] == PENDING]
        if unsaid:
            there = np.ones(len(unsaid), np.bool_)
            for table in tables:
                there &= table.find(self.digest[unsaid]) >= 0
            self.sealed(item for item, found in zip(unsaid, there, strict=True) if found)

    def _waits(self, item: int) -> bool:
        return item in self._waiting.get(self.digest[item].tobytes(), ())

    def _fail(self, item: int, failure: Failure) -> None:
        self.state[item] = FAILED
        self.failures[item] = failure
