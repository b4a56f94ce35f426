"""The job that is tortured: a small real network over small real images, in shards of few rows."""

from __future__ import annotations

import hashlib
import io
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from featbank import Bank, from_module
from featbank.backbones.module import ModuleBackbone
from featbank.extraction.run import Settings
from featbank.workflows.extract import ExtractionResult, extract_to, open_model, parse_columns
from featbank.workflows.survey import open_sources
from tests.tiny import PREPROCESS, TinyNet

torch.set_num_threads(1)

ROWS = 4
"""Rows a shard: many seals in a short run."""


@cache
def network(version: str = "1", seed: int = 0) -> ModuleBackbone:
    """Return a network of two stages with BatchNorm; it is loaded once, before the forks."""
    return from_module(TinyNet(seed), transform=PREPROCESS, version=version, name="tiny")


def extract(
    data: Path, bank: Path, *, model: ModuleBackbone | None = None, layers: Any = None, **words: Any
) -> ExtractionResult:
    """Extract the images of `data`, in this process unless `workers` says otherwise.

    `paranoid` and `retry_failed` are the plan's, everything else is of `Settings`.
    """
    plan = {name: words.pop(name) for name in ("paranoid", "retry_failed") if name in words}
    settings = Settings(**{"workers": 0, "batch_size": 2, "shard_rows": ROWS, **words})
    return extract_to(
        bank,
        open_sources(data),
        open_model(model or network()),
        parse_columns(layers),
        settings=settings,
        **plan,
    )


def image_bytes(rng: random.Random, side: int = 36) -> bytes:
    """Return a small PNG of random pixels: no two are the same."""
    pixels = np.frombuffer(rng.randbytes(side * side * 3), np.uint8).reshape(side, side, 3)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png", compress_level=0)
    return stream.getvalue()


def make_folder(folder: Path, n: int, rng: random.Random, classes: int = 2) -> list[Path]:
    """Write `n` small images into class folders, long ago by their times; return their paths.

    Times in the past let the fast path trust them.
    """
    paths = []
    for i in range(n):
        path = folder / chr(ord("a") + i % classes) / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(rng))
        os.utime(path, (1_000_000_000, 1_000_000_000))
        paths.append(path)
    return paths


def rows_of(bank: Path | Bank) -> dict[tuple[str, str, bytes], str]:
    """Return every row that a bank holds: (fingerprint, column, key) to the SHA-256 of its bytes.

    Raises what reading raises, and `AssertionError` if a key has two different rows.
    """
    opened = bank if isinstance(bank, Bank) else Bank(bank)
    found: dict[tuple[str, str, bytes], str] = {}
    for known in opened.recipes:
        for shard in opened.shards(known.fingerprint):
            keys = [key.tobytes() for key in shard.keys]
            for column in shard.columns:
                for key, row in zip(keys, shard.features(column), strict=True):
                    name = (known.fingerprint, column.name, key)
                    digest = hashlib.sha256(row.tobytes()).hexdigest()
                    assert found.setdefault(name, digest) == digest, f"two rows for {name}"
    return found
