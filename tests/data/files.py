"""Image files made by hand, where Pillow can't write what a test must read."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def gradient(height: int = 40, width: int = 48) -> np.ndarray[Any, np.dtype[np.uint8]]:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 5, y * 6, (x + y) * 2], axis=-1).astype(np.uint8)


def encode(image: Image.Image | np.ndarray[Any, Any], kind: str, **options: Any) -> bytes:
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, depth: int, colour: int, raw: bytes, *, before: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def png16(samples: np.ndarray[Any, Any], *, before: bytes = b"") -> bytes:
    """A PNG of 16 bits a sample: grey, grey with alpha, RGB or RGBA by the last axis."""
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], raw, before=before)


def tiff(samples: np.ndarray[Any, Any], *, order: str = "<", photometric: int = 1) -> bytes:
    """An uncompressed TIFF of any sample type; RGB where there are three channels."""
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
    bits = struct.pack(f"{order}{channels}H", *[samples.dtype.itemsize * 8] * channels)
    start = 8 + 2 + 11 * 12 + 4
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, samples.dtype.itemsize * 8 if channels == 1 else start),
        (259, 3, 1, 1),
        (262, 3, 1, 2 if channels == 3 else photometric),
        (273, 4, 1, start + len(bits)),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(pixels)),
        (284, 3, 1, 1),
        (339, 3, 1, kind),
    ]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    for tag, word, count, value in entries:
        short = word == 3 and count == 1
        head += struct.pack(f"{order}HHI", tag, word, count)
        head += struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
    return head + struct.pack(f"{order}I", 0) + bits + pixels
