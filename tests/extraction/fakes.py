"""A network of NumPy alone, ways in which it and decoding go wrong, and the three modes of a run.

Worker processes import this module by name; it loads in a fraction of a second.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featbank.backbones.preprocess import apply
from featbank.backbones.recipe import Column, Preprocess, Recipe
from featbank.data.decode import DecodePolicy, decode
from featbank.data.sources import open_source
from featbank.extraction.run import Settings
from featbank.workflows.extract import ExtractionResult, Model, extract_to

PREPROCESS = Preprocess(8, "squash", (8, 8), "bilinear", (0.5,) * 3, (0.5,) * 3)
RECIPE = Recipe("fake", "module", "0" * 64, PREPROCESS)
PENULTIMATE, EARLY, HALF = Column(), Column("early"), Column(dtype="float16")


def weights(column: Column) -> np.ndarray:
    seed = sum(column.name.encode())
    return np.random.default_rng(seed).normal(size=(8 * 8 * 3, 5)).astype(np.float32)


@dataclass(frozen=True)
class FakeNetwork:
    """Projects pixels on random directions, one set a column; `fault` says what goes wrong."""

    fault: str = ""

    def prepare(self, image: Image.Image) -> np.ndarray:
        return apply(PREPROCESS, image)

    def run(self, batch: np.ndarray, columns: Sequence[Column]) -> dict[Column, np.ndarray]:
        if self.fault == "dies":
            os._exit(9)
        if self.fault == "slow":
            time.sleep(0.05 * len(batch))
        flat = batch.reshape(len(batch), -1).astype(np.float32) / 255
        found = {c: (flat @ weights(c)).astype(c.dtype) for c in columns}
        if self.fault == "nan":  # for images that are white
            for values in found.values():
                values[flat.min(axis=1) == 1] = np.nan
        return found


@dataclass(frozen=True)
class FakeLoader:
    """Brings a `FakeNetwork`, and appends a line to `log` each time."""

    fault: str = ""
    log: str | None = None

    def load(self, device: str) -> FakeNetwork:
        if self.fault == "no network":
            raise LookupError("the weights have gone")
        if self.fault == "odd error":
            raise OddError("words", 1)
        if self.fault == "slow to load":
            time.sleep(0.5)
        if self.log:
            with open(self.log, "a") as file:
                file.write("loaded\n")
        return FakeNetwork(self.fault)

    def layers(self) -> list[str]:
        return [EARLY.layer]


class OddError(Exception):
    """Does not come out of a pickle again."""

    def __init__(self, words: str, number: int) -> None:
        super().__init__(words)


def hostile_decode(data: bytes, policy: DecodePolicy, **options: Any) -> Image.Image:
    """Do what the first bytes of a file say; decode what is an image."""
    if data.startswith(b"hang"):
        time.sleep(600)
    if data.startswith(b"exit"):
        os._exit(3)
    if data.startswith(b"once "):  # the path of a mark, and an image behind the end of the line
        mark, _, data = data.removeprefix(b"once ").partition(b"\n")
        if not os.path.exists(mark):
            Path(os.fsdecode(mark)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if data.startswith(b"sigkill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if data.startswith(b"segfault"):
        ctypes.string_at(0)
    if data.startswith(b"memory"):
        raise MemoryError
    if data.startswith(b"eat"):
        eaten = []
        while True:
            eaten.append(b"x" * (8 << 20))
            time.sleep(0.005)
    return decode(data, policy, **options)


def model(fault: str = "", *, log: Path | None = None, recipe: Recipe = RECIPE) -> Model:
    """Return a model whose network goes wrong as `fault` says."""
    loader = FakeLoader(fault, None if log is None else str(log))
    return Model(recipe, loader, {"module": "fake"}, DecodePolicy(), recipe.preprocess)


def extract(
    bank: Path,
    *folders: Path,
    columns: Sequence[Column] = (PENULTIMATE,),
    model: Model = model(),  # noqa: B008  (frozen)
    progress: Any = None,
    retry_failed: bool = False,
    **settings: Any,
) -> ExtractionResult:
    """Extract folders into a bank; `settings` are those of the run."""
    return extract_to(
        bank,
        [open_source(folder) for folder in folders],
        model,
        columns,
        settings=Settings(**settings),
        progress=progress,
        retry_failed=retry_failed,
    )


def expected(paths: Sequence[str | Path], column: Column = PENULTIMATE) -> np.ndarray:
    """Return the features of images, computed one at a time without any of featbank's running."""
    rows = []
    for path in paths:
        image = decode(Path(path).read_bytes(), DecodePolicy())
        pixels = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR))
        rows.append(pixels.reshape(-1).astype(np.float32) / 255 @ weights(column))
    return np.asarray(rows, column.dtype)
