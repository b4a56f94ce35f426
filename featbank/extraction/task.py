"""The task: some images read, hashed, decoded, embedded and sealed, by one process.

`TaskRunner` is the same in a worker process and inline. It reads each file once, hashes those
bytes, asks which of the digests are still wanted, decodes those same bytes and either embeds and
seals them itself or hands the decoded images on to whoever runs the network.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from featbank.backbones.recipe import Column
from featbank.data.digests import read_file
from featbank.data.pages import count_pages
from featbank.errors import ExtractionError, ImageError
from featbank.extraction.messages import (
    Began,
    Decoded,
    Done,
    Event,
    Failed,
    Network,
    Pages,
    Reading,
    Sealed,
    Task,
    TaskSpec,
)

if TYPE_CHECKING:  # a worker that decodes needs no bank
    from featbank.extraction.sealing import Sealer

__all__ = ["DECODING", "DISK", "NETWORK", "BatchOutcome", "Embedder", "Stopwatch", "TaskRunner"]

log = logging.getLogger(__name__)


def _reason(error: ImageError | MemoryError) -> str:
    return str(error) if isinstance(error, ImageError) else "it takes more memory than there is."


class TaskRunner:
    """Works tasks through and reports what happens.

    Parameters
    ----------
    spec : TaskSpec
    report : callable
        Takes every `Event`.
    claim : callable
        Takes readings; returns for each the positions of the columns that are still wanted.
    network : callable or None
        Gives the network when the first image needs it; None: decoded images are reported.
    sealer : Sealer or None
        Where features go, with a network.
    """

    def __init__(
        self,
        spec: TaskSpec,
        report: Callable[[Event], None],
        claim: Callable[[list[Reading]], list[tuple[int, ...]]],
        *,
        network: Callable[[], Network] | None = None,
        sealer: Sealer | None = None,
    ) -> None:
        self._spec = spec
        self._report = report
        self._claim = claim
        self._network = network
        self._embedder = None if network is None else Embedder(network)
        self._sealer = sealer
        self._watch = Stopwatch()

    def run(self, task: Task) -> None:
        """Work one task through; features may stay unsealed until a later one or `finish`."""
        held: dict[int, bytes] = {}
        readings = []
        for item, path in zip(task.items, task.paths, strict=True):
            self._report(Began(item))
            with self._watch.on(DISK):
                try:
                    data, stat = read_file(path, self._spec.limits)
                except (ImageError, MemoryError) as error:
                    self._report(Failed(item, _reason(error)))
                    continue
                held[item] = data
                readings.append(Reading(item, hashlib.sha256(data).digest(), stat))
        groups: dict[tuple[int, ...], list[tuple[Reading, Any]]] = {}
        wanted = self._claim(readings) if readings else []
        if any(wanted) and self._spec.preprocess is None and self._network is not None:
            self._report(Began(None))  # no image is to blame for the time that loading takes
            self._network()
        for reading, columns in zip(readings, wanted, strict=True):
            data = held.pop(reading.item)
            if not columns:
                continue
            self._report(Began(reading.item))
            with self._watch.on(DECODING):
                try:
                    image = self._spec.decode(
                        data,
                        self._spec.policy,
                        limits=self._spec.limits,
                        grey=self._spec.preprocess is not None,
                    )
                    array = self._prepare(image)
                except (ImageError, MemoryError) as error:
                    self._report(Failed(reading.item, _reason(error), reading.stat))
                    continue
                pages = count_pages(data)
            if pages > 1:
                self._report(Pages(reading.item, pages))
            groups.setdefault(columns, []).append((reading, array))
        for columns, group in groups.items():
            for start in range(0, len(group), self._spec.batch_size):
                self._pass_on(columns, group[start : start + self._spec.batch_size])
        if self._sealer is not None:
            self._sealed(self._sealer.due())
        self._report(Done(self._watch.taken()))

    def finish(self) -> None:
        """Seal what is not sealed yet."""
        if self._sealer is not None:
            self._sealed(self._sealer.rest())

    def _prepare(self, image: Image.Image) -> Any:
        if self._spec.preprocess is not None:
            from featbank.backbones.preprocess import apply

            return apply(self._spec.preprocess, image)
        if self._network is not None:
            return self._network().prepare(image)
        return np.asarray(image)

    def _pass_on(self, columns: tuple[int, ...], batch: list[tuple[Reading, Any]]) -> None:
        items = tuple(reading.item for reading, _ in batch)
        arrays = [array for _, array in batch]
        if self._network is None or self._embedder is None or self._sealer is None:
            stacked = np.stack(arrays) if self._spec.preprocess is not None else arrays
            self._report(Decoded(items, stacked))
            return
        self._report(Began(None))
        keys = [reading.digest for reading, _ in batch]
        chosen = [self._spec.columns[i] for i in columns]
        self._network()  # loading it is no part of the work
        with self._watch.on(NETWORK):
            outcome = self._embedder.embed(arrays, chosen)
        for position in outcome.bad:
            self._report(
                Failed(items[position], NOT_FINITE, batch[position][0].stat, in_network=True)
            )
        good = outcome.good
        with self._watch.on(DISK):
            sealed = self._sealer.add(
                [items[i] for i in good], [keys[i] for i in good], outcome.features
            )
        self._sealed(sealed)

    def _sealed(self, items: list[int]) -> None:
        if items:
            self._report(Sealed(tuple(items)))


DISK, DECODING, NETWORK = "disk", "decoding", "network"


class Stopwatch:
    """Seconds spent on each kind of work."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Put the time that passes down to `what`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add({what: time.perf_counter() - began})

    def add(self, spent: Mapping[str, float]) -> None:
        """Add what another process spent."""
        for what, seconds in spent.items():
            self.spent[what] = self.spent.get(what, 0.0) + seconds

    def taken(self) -> dict[str, float]:
        """Return what was spent since the last time this was asked."""
        spent, self.spent = self.spent, {}
        return spent


NOT_FINITE = (
    "its features are NaN or infinite; compute and store in float32, or look at the weights."
)


@dataclass(frozen=True)
class BatchOutcome:
    """Features of a batch: of the images at positions `good`; those at `bad` have none."""

    good: list[int]
    bad: list[int]
    features: dict[Column, npt.NDArray[Any]]


class Embedder:
    """A network, and how many images at once it has memory for.

    Parameters
    ----------
    network : callable
        Gives the network, when the first batch needs it.

    Attributes
    ----------
    fitting : int
        So many have room in memory, as far as is known.
    """

    def __init__(self, network: Callable[[], Network]) -> None:
        self._network = network
        self.fitting = sys.maxsize

    def embed(self, arrays: Any, columns: Sequence[Column]) -> BatchOutcome:
        """Run the network on prepared images; set apart those whose features are not finite."""
        batch = arrays if isinstance(arrays, np.ndarray) else _stack(arrays)
        features = self._run(self._network(), batch, columns)
        finite = np.ones(len(arrays), np.bool_)
        for values in features.values():
            finite &= np.isfinite(values).all(axis=1)
        good = np.flatnonzero(finite)
        if len(good) < len(arrays):
            features = {column: values[good] for column, values in features.items()}
        return BatchOutcome(good.tolist(), np.flatnonzero(~finite).tolist(), features)

    def _run(
        self, network: Network, batch: Any, columns: Sequence[Column]
    ) -> dict[Column, npt.NDArray[Any]]:
        """Run the network; where memory runs out, on the halves of the batch, one by one."""
        parts = []
        start = 0
        while start < len(batch):
            size = min(self.fitting, len(batch) - start)
            try:
                parts.append(network.run(batch[start : start + size], columns))
                start += size
                continue
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if size == 1:
                    raise ExtractionError(
                        "there is too little memory for one image in the network; choose a "
                        "smaller --input-size, or fewer --workers, or --device cpu."
                    ) from error
            # Outside the handler, which holds on to what filled the memory.
            self.fitting = size // 2
            log.info("memory ran out: %d images at once from here on", self.fitting)
        if len(parts) == 1:
            return parts[0]
        return {column: np.concatenate([part[column] for part in parts]) for column in columns}


def _out_of_memory(error: Exception) -> bool:
    # torch has an error of its own for CUDA alone; elsewhere it and OpenVINO say so in words.
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(
        said in words
        for said in ("out of memory", "enough memory", "can't allocate memory", "bad_alloc")
    )


def _stack(arrays: Sequence[Any]) -> Any:
    if isinstance(arrays[0], np.ndarray):
        return np.stack(arrays)
    import torch  # a transform of the caller's gave tensors

    return torch.stack(list(arrays))
