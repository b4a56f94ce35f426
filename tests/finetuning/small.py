"""A small training that many tests share: TinyNet on 24 images of three classes."""

from __future__ import annotations

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from featbank.backbones import from_module
from featbank.finetuning.images import Images
from featbank.finetuning.settings import FineTuneSettings
from featbank.finetuning.trainer import Trained, train
from tests.tiny import PREPROCESS, TinyNet, make_images

Y = np.arange(24) % 3
TRAIN, VALID = np.arange(18), np.arange(18, 24)
SHORT: dict[str, Any] = {"epochs": 4, "batch_size": 8, "lr": 0.02, "backbone_lr": 0.5}


@cache
def images() -> Images:
    folder = Path(mkdtemp(prefix="featbank-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return images_in(folder)


def images_in(folder: Path) -> Images:
    """Write the images, unless they are there, and return them so that `Y` has their classes."""
    paths = [path for path in folder.rglob("*.*") if path.is_file()] or make_images(folder, 24)
    return Images.of_files(sorted(paths, key=lambda path: path.stem))


def backbone(**words: Any) -> Any:
    return from_module(TinyNet(), transform=PREPROCESS, **{"version": "1", **words})


def fit(settings: dict[str, Any] | None = None, **words: Any) -> Trained:
    """Train with `SHORT` and these settings, on rows that can be given otherwise."""
    chosen = FineTuneSettings(**{**SHORT, **(settings or {})})
    given = {"images": images(), "y": Y, "train": TRAIN, "valid": VALID, "n_classes": 3, **words}
    rows = (given.pop(name) for name in ("images", "y", "train", "valid"))
    return train(given.pop("network", None) or backbone(), *rows, settings=chosen, **given)


def state_bytes(trained: Trained) -> dict[str, bytes]:
    return {
        name: tensor.contiguous().numpy().tobytes()
        for name, tensor in trained.network.module.state_dict().items()
    }
