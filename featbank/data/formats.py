"""Formats: which image formats are read, and how a file's name and first bytes tell its format.

AVIF is read where Pillow was built with it, HEIC and HEIF where pillow-heif is installed (the extra
``heif``).
"""

from __future__ import annotations

import functools
import importlib.util
import os

__all__ = [
    "FIRST_BYTES",
    "FORMATS",
    "HEIF_EXTENSIONS",
    "NEEDS_HEIF",
    "decoders_for",
    "extensions",
    "format_of",
    "has_heif",
    "is_image_name",
]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What Pillow's decoders are tried for. AVIF and HEIF are tried only by their first bytes."""

NEEDS_HEIF = "install featbank[heif] to read them"
HEIF_EXTENSIONS = (".heic", ".heif", ".hif")

_EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
)
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_EITHER_BRANDS = (b"mif1", b"mif2", b"msf1")
_MAX_BRANDS = 64
FIRST_BYTES = 16 + 4 * _MAX_BRANDS
"""Bytes of a file that `format_of` looks at."""


def format_of(start: bytes) -> str | None:
    """Return the format that a file's first bytes announce, as far as they are unmistakable."""
    for known, name in _STARTS:
        if start.startswith(known):
            return name
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[:2] == b"BM" and start[6:10] == bytes(4):
        return "BMP"
    return _format_of_container(start) if start[4:8] == b"ftyp" else None


def _format_of_container(start: bytes) -> str | None:
    """Return whether an ISO media file is AVIF or HEIF, by its brands; None for films."""
    length = min(int.from_bytes(start[:4], "big"), FIRST_BYTES)
    brands = [start[8:12], *(start[at : at + 4] for at in range(16, length - 3, 4))]
    if brands[0] in _AVIF_BRANDS:
        return "AVIF"
    if brands[0] in _HEIF_BRANDS:
        return "HEIF"
    if brands[0] in _EITHER_BRANDS:
        return "AVIF" if any(brand in _AVIF_BRANDS for brand in brands) else "HEIF"
    return None


def decoders_for(data: bytes) -> tuple[str, ...]:
    """Return Pillow's formats that may open these bytes; an optional decoder is loaded here."""
    if data[4:8] == b"ftyp":
        found = _format_of_container(data[:FIRST_BYTES])
        if found == "AVIF" and _has_avif():
            from PIL import AvifImagePlugin  # noqa: F401

            return ("AVIF",)
        if found == "HEIF" and has_heif():
            _register_heif()
            return ("HEIF",)
    return FORMATS


@functools.cache
def _has_avif() -> bool:
    from PIL import features

    return "avif" in features.modules and bool(features.check("avif"))


@functools.cache
def has_heif() -> bool:
    """Whether pillow-heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


@functools.cache
def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


def extensions() -> tuple[str, ...]:
    """Return what makes a file an image while walking, whatever the case of its letters."""
    avif = (".avif", ".avifs") if _has_avif() else ()
    return (*_EXTENSIONS, *avif, *(HEIF_EXTENSIONS if has_heif() else ()))


@functools.cache
def _endings() -> frozenset[bytes]:
    return frozenset(os.fsencode(extension[1:]) for extension in extensions())


def is_image_name(name: bytes) -> bool:
    """Return whether a file's name ends as those of images do."""
    stem, _, ending = name.rpartition(b".")
    return bool(stem) and ending.lower() in _endings()
