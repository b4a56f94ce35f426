"""Preprocessing: from a decoded RGB image to the pixels that a network takes.

Pillow alone does it, with the arithmetic of torchvision's classification presets and of timm's
evaluation transforms, to the last grey level. Pixels travel as uint8; scaling and normalising
are the network's first step. Decoding workers import this module: NumPy and Pillow, no torch.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from featbank.backbones.recipe import Preprocess
from featbank.errors import BackboneError, ImageError

__all__ = ["FITS", "FROM_TRANSFORM", "INTERPOLATIONS", "apply", "override"]

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
FITS = ("short", "squash", "long")
FROM_TRANSFORM = "transform"
"""The `fit` of a caller's own callable, which can't be described as data."""

# A sliver of 1 x 60,000 pixels would be blown up to gigabytes before its middle is cut out.
MAX_RESIZED_PIXELS = 2**27


def apply(preprocess: Preprocess, image: Image.Image) -> npt.NDArray[np.uint8]:
    """Resize and crop `image`.

    Parameters
    ----------
    preprocess : Preprocess
    image : PIL.Image.Image
        In mode RGB, or in mode L as `featbank.data.decode.decode` gives it.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        H and W are `preprocess.crop`.

    Raises
    ------
    ImageError
        The sides are so unlike that resizing the short one would take gigabytes.

    Examples
    --------
    >>> preset = Preprocess(256, "short", (224, 224), "bilinear", (0.5,) * 3, (0.5,) * 3)
    >>> apply(preset, Image.new("RGB", (640, 480))).shape
    (224, 224, 3)
    """
    width, height = _resized(preprocess, *image.size)
    if width * height > MAX_RESIZED_PIXELS:
        raise ImageError(
            f"an image of {image.width} x {image.height} pixels would grow to {width} x {height} "
            "before it is cropped; leave it out, or use --squash."
        )
    if (width, height) != image.size:
        image = image.resize((width, height), INTERPOLATIONS[preprocess.interpolation])
    image = _centre(image, preprocess.crop, preprocess.fill)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _resized(preprocess: Preprocess, width: int, height: int) -> tuple[int, int]:
    """Return width and height after resizing."""
    size = preprocess.resize
    if size is None:
        return width, height
    if preprocess.fit == "short" and isinstance(size, int):
        # torchvision's Resize rounds the long side down.
        if width <= height:
            return size, int(size * height / width)
        return int(size * width / height), size
    box_height, box_width = (size, size) if isinstance(size, int) else size
    if preprocess.fit == "squash":
        return box_width, box_height
    ratios = height / box_height, width / box_width
    # timm's ResizeKeepRatio rounds to the nearest; a side of 0 pixels would be none.
    ratio = max(ratios) if preprocess.fit == "long" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _centre(image: Image.Image, crop: tuple[int, int], fill: tuple[int, ...]) -> Image.Image:
    """Cut (height, width) from the centre, after padding where the image is smaller."""
    height, width = crop
    left, top = max(0, (width - image.width) // 2), max(0, (height - image.height) // 2)
    padded = max(width, image.width), max(height, image.height)
    if padded != image.size:
        canvas = Image.new("RGB", padded, fill)
        canvas.paste(image, (left, top))
        image = canvas
    # round() goes to the even neighbour, and so do torchvision and timm.
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def override(
    preprocess: Preprocess,
    *,
    resize: int | None = None,
    crop: int | None = None,
    squash: bool = False,
    input_size: int | None = None,
) -> Preprocess:
    """Return the preprocessing with the user's sizes in place of the weights' own.

    Parameters
    ----------
    preprocess : Preprocess
        The weights' own.
    resize : int, optional
        The short side is resized to this length.
    crop : int, optional
        A square of this side is cut from the centre.
    squash : bool
        The whole image is resized to the crop, whatever its proportions.
    input_size : int, optional
        Crop and resize are scaled by the same factor, so that the crop has this side.

    Raises
    ------
    BackboneError
        The words contradict each other, or the crop is larger than what is resized to.
    """
    if input_size is not None and (resize is not None or crop is not None):
        raise BackboneError(
            "--input-size sets both resize and crop; give it alone, or --resize and --crop."
        )
    if squash and resize is not None:
        raise BackboneError("--squash resizes straight to the crop; give --crop, not --resize.")
    changes: dict[str, Any] = {}
    if input_size is not None:
        changes["crop"] = (input_size, input_size)
        changes["resize"] = _scaled(preprocess, input_size)
    if resize is not None:
        changes |= {"resize": resize, "fit": "short"}
    if crop is not None:
        changes["crop"] = (crop, crop)
    result = dataclasses.replace(preprocess, **changes)
    if squash:
        return dataclasses.replace(result, resize=result.crop, fit="squash")
    asked = resize is not None or crop is not None
    if asked and isinstance(result.resize, int) and result.resize < max(result.crop):
        raise BackboneError(
            f"a crop of {max(result.crop)} does not fit into images whose short side is "
            f"resized to {result.resize}; give --resize and --crop together, or --input-size."
        )
    return result


def _scaled(preprocess: Preprocess, side: int) -> int | tuple[int, int] | None:
    """Return `resize`, scaled so that its margin around a crop of `side` keeps its proportion."""
    height, width = preprocess.crop
    if preprocess.resize is None:
        return None
    if isinstance(preprocess.resize, int):
        return math.floor(side * preprocess.resize / min(height, width) + 0.5)
    return (
        math.floor(side * preprocess.resize[0] / height + 0.5),
        math.floor(side * preprocess.resize[1] / width + 0.5),
    )
