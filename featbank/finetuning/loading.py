"""Loading: from rows to batches of pixels, in an order and with changes that a seed decides.

What is drawn for an image follows from (seed, epoch, row) alone, so neither the number of worker
processes nor an interruption changes anything.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from featbank.backbones.device import available_cores
from featbank.errors import FineTuneError, ImageError
from featbank.finetuning.images import Images

__all__ = ["Epochs", "Rows", "batches_of", "loader", "seed_of", "worker_count"]

Int = npt.NDArray[np.intp]
Key = tuple[int, int]

_FEW = 64  # images for which starting processes takes longer than reading


def seed_of(*parts: int) -> int:
    """Return a seed below 2**62 that follows from whole numbers.

    Examples
    --------
    >>> seed_of(0, 1, 2) == seed_of(0, 1, 2), seed_of(0, 1, 2) == seed_of(0, 2, 1)
    (True, False)
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 2)


class Rows(Dataset[Any]):
    """Images as pixels, one for each (row, seed): a tensor (3, H, W) uint8, and the code.

    An image that can't be read comes as its `ImageError`, for an exception that crosses from a
    worker process loses its words.
    """

    def __init__(
        self, images: Images, y: Int | None, pixels: Callable[[Image.Image, int], Tensor]
    ) -> None:
        self.images = images
        self.y = y
        self.pixels = pixels

    def __getitem__(self, key: Key) -> Any:
        row, seed = key
        try:
            image = self.images.read(row)
        except ImageError as error:
            return error
        return self.pixels(image, seed), 0 if self.y is None else int(self.y[row])


class Epochs(Sampler[list[Key]]):
    """The batches of an epoch, shuffled anew in each; set `epoch` before iterating.

    A last batch of one image goes with the batch before it, for batch norm knows no spread of one.
    """

    def __init__(self, rows: Int, batch_size: int, seed: int) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        n, size = len(self.rows), self.batch_size
        return max(1, n // size) if n % size <= (size > 1) else n // size + 1

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)
        keys = [(int(row), seed_of(self.seed, self.epoch, int(row))) for row in order]
        for i in range(len(self)):
            end = None if i == len(self) - 1 else (i + 1) * self.batch_size
            yield keys[i * self.batch_size : end]


def batches_of(rows: Int, size: int) -> list[list[Key]]:
    """Return rows in their order, in batches, for evaluation."""
    keys = [(int(row), 0) for row in rows]
    return [keys[i : i + size] for i in range(0, len(keys), size)]


def worker_count(workers: int | None, device: str, n: int) -> int:
    """Return how many processes decode: as asked, else none on a CPU, where the network needs all.

    Raises
    ------
    FineTuneError
    """
    if workers is None:
        return 0 if device == "cpu" or n <= _FEW else min(8, max(1, available_cores() - 1))
    if workers < 0:
        raise FineTuneError(f"workers is a number from 0 up, not {workers}.")
    return workers


def loader(
    dataset: Rows,
    batches: Sequence[list[Key]] | Epochs,
    *,
    workers: int,
    context: str | None = None,
) -> Any:
    """Return a DataLoader; torch's global generator is left alone.

    Processes are forked where that can be done, so that scripts need no guard; everything that
    they are given can be pickled, for systems where they are spawned.
    """
    if workers and context is None and sys.platform.startswith("linux"):
        context = "fork"
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator(),
        multiprocessing_context=multiprocessing.get_context(context) if workers else None,
        persistent_workers=workers > 0,
    )


def _collate(items: list[Any]) -> Any:
    for item in items:
        if isinstance(item, ImageError):
            return item
    pixels, y = zip(*items, strict=True)
    return torch.stack(pixels), torch.tensor(y)
