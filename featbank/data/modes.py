"""Modes: what Pillow decodes in any of its modes, brought to 8-bit RGB.

========================  ======================================================================
Pillow's mode             becomes RGB by
========================  ======================================================================
1, L                      the same value in three channels
P                         its palette; with transparency as RGBA
RGB, RGBX                 as it is
LA, La, PA, RGBA, RGBa    composited on the background; so is a transparent colour (PNG's tRNS)
CMYK                      Pillow's formula, without a profile; Adobe's inverted inks are undone
YCbCr, HSV                the formulas of JFIF and of HSV
LAB                       Little CMS, to sRGB
I;16, I;16B, I;16L, I, F  the image's own range stretched to 0..255 (`featbank.data.depth`)
========================  ======================================================================

Colour, and grey with alpha, of 16 bits a sample, which Pillow would cut to its high bytes, is read
whole and stretched likewise, over all colours together.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from featbank.data.depth import to_8bit

__all__ = ["raw_mode", "to_rgb"]

_WHITE_IS_ZERO, _PHOTOMETRIC, _SAMPLE_FORMAT = 0, 262, 339  # of TIFF

# Pillow keeps one byte of each 16-bit sample, the high one. The other byte order's raw mode keeps
# the other byte. ("N" is the machine's order, and "B" the other one on all machines that are left.)
_LOW_BYTES = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in ("BL", "LB", "NB")
} | {"LA;16B": "RGBA"}  # its four bytes a pixel, one in each channel
_DEEP_PPM = "PPM;16"  # not Pillow's: its own decoder cuts such samples to 8 bits


def raw_mode(image: Image.Image) -> str:
    """Return how the samples lie in the file of an image that is open and not loaded yet.

    The word is Pillow's, such as ``"RGB;16B"``; empty where it has none. ``"PPM;16"`` is a PPM in
    colour with samples of more than 8 bits.
    """
    tile = next(iter(getattr(image, "tile", ())), None)
    args = getattr(tile, "args", "")
    if image.format == "PPM" and image.mode == "RGB" and _maximum(args) > 255:
        return _DEEP_PPM
    raw = args if isinstance(args, str) else next(iter(args or ()), "")
    return raw if isinstance(raw, str) else ""


def _maximum(args: Any) -> int:
    """Return the largest sample that a PPM announces."""
    return args[1] if isinstance(args, tuple) and len(args) == 2 else 255


def to_rgb(
    image: Image.Image,
    data: bytes,
    *,
    raw: str,
    background: tuple[int, int, int],
    grey: bool = False,
    frame: int = 0,
) -> Image.Image:
    """Bring a loaded image to RGB by the table of this module.

    Parameters
    ----------
    image : PIL.Image.Image
        Loaded.
    data : bytes
        The file; read again where the samples have 16 bits and Pillow kept 8.
    raw : str
        What `raw_mode` said before the image was loaded.
    background : tuple of (int, int, int)
        What transparent images are composited on.
    grey : bool
        Whether an image without colours is brought to L instead.
    frame : int
        Where in the file the image is, as Pillow counts.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        found = _deep_grey(image, background)
        return found if grey or found.mode == "RGB" else found.convert("RGB")
    if raw == _DEEP_PPM:
        return Image.fromarray(to_8bit(_ppm_samples(data)))
    if raw in _LOW_BYTES:
        image = _deep_colour(image, data, raw, frame)
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.mode == "La":  # the one mode that leads to RGB only by way of another
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _composite(image.convert("RGBA"), background)
    mode = "L" if grey and image.mode in ("1", "L") else "RGB"
    # Where the file is done with, the image is returned itself: convert() would copy all of it.
    done = image.mode == mode and getattr(image, "fp", None) is None
    return image if done else image.convert(mode)


def _composite(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    flat = Image.new("RGB", image.size, background)
    flat.paste(image, mask=image.getchannel("A"))
    return flat


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    converted = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None  # it is None only where the conversion is in place
    return converted


def _deep_grey(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return an image of mode L, or of mode RGB where it was transparent."""
    samples = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1:
        samples = samples.view(np.uint32)  # Pillow has no unsigned mode of 32 bits
    grey = to_8bit(samples)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    found = Image.fromarray(grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        found = found.convert("RGB")
        found.paste(background, mask=_mask(samples == clear))
    return found


def _deep_colour(image: Image.Image, data: bytes, raw: str, frame: int) -> Image.Image:
    """Return colour, or grey with alpha, of 16 bits stretched to 8 bits."""
    low = np.asarray(_decode_as(data, str(image.format), _LOW_BYTES[raw], frame))
    if raw == "LA;16B":
        samples = low[..., 0].astype(np.uint16) << 8 | low[..., 1]
        return Image.merge("LA", [Image.fromarray(to_8bit(samples)), image.getchannel("A")])
    samples = np.asarray(image).astype(np.uint16)
    samples <<= 8  # in place: these are the largest arrays of all
    samples |= low
    del low
    colour = Image.fromarray(to_8bit(samples[..., :3]))
    clear = image.info.get("transparency")
    if image.mode == "RGBA":
        colour.putalpha(image.getchannel("A"))
    elif isinstance(clear, tuple):
        colour.putalpha(_mask((samples != clear).any(axis=-1)))
    return colour


def _ppm_samples(data: bytes) -> npt.NDArray[np.uint16]:
    """Return the samples of a PPM in colour, scaled to 16 bits."""
    image: Any = Image.open(io.BytesIO(data), formats=("PPM",))
    width, height = image.size
    (tile,) = image.tile
    maximum = _maximum(tile.args)
    if tile.codec_name == "ppm_plain":  # as if grey, three times as wide: so all 16 bits are kept
        image._mode, image._size = "I", (3 * width, height)
        image.tile = [tile._replace(extents=(0, 0, *image.size), args=("I", maximum))]
        return np.asarray(image).astype(np.uint16).reshape(height, width, 3)
    samples = np.frombuffer(data, ">u2", 3 * width * height, tile.offset).astype(np.uint32)
    scaled = (np.minimum(samples, maximum) * 65535 + maximum // 2) // maximum
    return scaled.astype(np.uint16).reshape(height, width, 3)


def _decode_as(data: bytes, kind: str, raw: str, frame: int) -> Image.Image:
    """Decode an image again, its samples laid out as the raw mode says."""
    image: Any = Image.open(io.BytesIO(data), formats=(kind,))
    image.seek(frame)
    image.tile = [
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:]))
        for tile in image.tile
    ]
    loaded: Image.Image = image
    loaded.load()
    return loaded


def _mask(chosen: npt.NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(chosen.astype(np.uint8) * 255)
