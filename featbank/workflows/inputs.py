"""Inputs: the images that a caller gives as `X`, told apart before any of them is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from featbank.backbones.recipe import Column
from featbank.errors import DataError
from featbank.extraction.run import Settings
from featbank.workflows.embed import Embedded, embed_images, embed_paths, raise_unreadable
from featbank.workflows.extract import Model

__all__ = ["Inputs", "read_inputs"]

_WANTED = (
    "a sequence of image paths, a sequence of PIL images, or an array of shape (N, H, W, 3), uint8"
)


@dataclass(frozen=True)
class Inputs:
    """Images of one kind.

    Attributes
    ----------
    items : sequence
        Paths; or PIL images and arrays of shape (H, W, 3), uint8.
    files : bool
        Whether they are paths.
    """

    items: Sequence[Any] | npt.NDArray[np.uint8]
    files: bool

    def __len__(self) -> int:
        return len(self.items)

    def first(self) -> Inputs:
        """Return the first image alone."""
        return Inputs(self.items[:1], self.files)

    def embed(
        self,
        model: Model,
        columns: Sequence[Column],
        *,
        bank: str | os.PathLike[str],
        settings: Settings,
    ) -> Embedded:
        """Return the features of all images.

        Raises
        ------
        ImageError
            One of them can't be read.
        """
        if not self.files:
            return embed_images(self.items, model, columns, bank=bank, settings=settings)
        paths = list(self.items)
        embedded = embed_paths(paths, model, columns, bank=bank, settings=settings)
        raise_unreadable(embedded, paths)
        return embedded


def read_inputs(X: Any) -> Inputs:
    """Tell paths from images, and refuse what is neither.

    Parameters
    ----------
    X : sequence of paths or of images, ndarray, or pandas Series
        Paths are str, bytes or path-like. An ndarray holds paths (text or objects), or pixels of
        shape (N, H, W, 3), uint8. One column in two dimensions counts as a sequence.

    Raises
    ------
    DataError
        With what to give instead.
    """
    if isinstance(X, str | bytes | os.PathLike):
        raise DataError(f"X is one path, {os.fsdecode(X)!r}; give a list of image files: [path].")
    if isinstance(X, Image.Image):
        raise DataError("X is one image; give a list of images: [image].")
    if not hasattr(X, "__len__") or isinstance(X, dict | set | frozenset):
        raise DataError(f"X is a {type(X).__name__}; expected {_WANTED}.")
    if hasattr(X, "iloc") or isinstance(X, np.ndarray):
        array = np.asarray(X)
        if array.ndim == 2 and array.shape[1] == 1 and array.dtype.kind in "OSUT":
            array = array[:, 0]
        if array.ndim != 1:
            return Inputs(_checked_pixels(array), files=False)
        X = array
    items = list(X)
    if not items:
        raise DataError(f"X is empty; expected {_WANTED}.")
    files = isinstance(items[0], str | bytes | os.PathLike)
    for row, item in enumerate(items):
        if files:
            _check_path(item, row)
        else:
            _check_image(item, row)
    return Inputs(items, files)


def _check_path(item: Any, row: int) -> None:
    if not isinstance(item, str | bytes | os.PathLike):
        raise DataError(
            f"X[{row}] is {item!r} among paths; give one in each row, or leave the row out."
        )
    if not os.fsencode(item) or b"\0" in os.fsencode(item):
        raise DataError(f"X[{row}] is {item!r}, which can't be a path; give an image file.")


def _check_image(item: Any, row: int) -> None:
    if isinstance(item, np.ndarray):
        _checked_pixels(item[np.newaxis])
    elif not isinstance(item, Image.Image):
        number = isinstance(item, int | float | np.number | list | tuple)
        hint = '; for a feature matrix choose model="precomputed"' if number else ""
        raise DataError(f"X[{row}] is a {type(item).__name__}; expected {_WANTED}{hint}.")


def _checked_pixels(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (N, H, W, 3) pixels of uint8; tell how to bring other arrays to that."""
    shape = array.shape
    if array.dtype.kind in "OSUT":
        hint = "give the paths in one dimension, for example one column of the table."
    elif array.ndim == 2:
        hint = 'for a feature matrix choose model="precomputed".'
    elif array.ndim == 3 and shape[2] in (3, 4):
        hint = "give one image as X[np.newaxis]."
    elif array.ndim == 3:
        hint = "give grey images as np.repeat(X[..., np.newaxis], 3, axis=-1)."
    elif array.ndim == 4 and shape[1] == 3 and shape[3] != 3:
        hint = "bring the channels to the end with X.transpose(0, 2, 3, 1)."
    elif array.ndim != 4 or shape[3] != 3:
        hint = "bring it to RGB, with three channels at the end."
    elif array.dtype != np.uint8:
        hint = "scale the pixels to 0..255 and give X.astype(np.uint8)."
    elif 0 in shape:
        hint = "leave out what is empty."
    else:
        return array
    raise DataError(f"X has shape {shape} and {array.dtype}; expected {_WANTED}: {hint}")
