"""Hostile files: images that are cut, that lie, that explode, or that are none; each with its due.

Everything is made from one small picture and from seeded randomness, byte by byte the same on every
machine that has the same Pillow.
"""

from __future__ import annotations

import os
import random
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from tests.data.files import chunk, encode, png, png16, tiff

__all__ = ["EITHER", "IMAGE", "REFUSED", "Hostile", "hostile_files", "mutated"]

Pixels = npt.NDArray[np.uint8]

IMAGE, REFUSED, EITHER = "an image", "refused", "either"
LOSSY = 8.0
"""Grey levels by which a lossy picture may be off, on average."""


@dataclass(frozen=True)
class Hostile:
    """A file and what is to become of it.

    Attributes
    ----------
    what : str
        In a few words of ASCII.
    make : bytes or callable
        Its bytes, or what makes it at a path.
    due : str
        `IMAGE`: the image is to be like `pixels`. `REFUSED`: no image. `EITHER`: refused, or like
        `pixels`; without `pixels` refused, or not of one colour.
    pixels : ndarray (H, W, 3) of uint8, or None
    tolerance : float
        Mean difference from `pixels` in grey levels; 0 asks for the same pixels.
    says : str
        A regular expression for the reason of a refusal.
    decoded : int
        Pixels that may be decoded before it is refused, or are in the image: for them memory is
        granted.
    name : bytes
        Of the file; made from its number if it is empty.
    """

    what: str
    make: bytes | Callable[[Path], None]
    due: str
    pixels: Pixels | None = None
    tolerance: float = 0.0
    says: str = ""
    decoded: int = 4096
    name: bytes = b""


# The picture


def _picture(height: int = 48, width: int = 64) -> Pixels:
    """Return a smooth picture, no two of its rows and no two of its columns the same."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [30 + 3 * x, 20 + 4 * y, 200 - x - 2 * y]
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


PICTURE = _picture()
GREY = PICTURE[..., 0] // 2 + PICTURE[..., 1] // 2
BILEVEL = (np.add.outer(np.arange(48) // 3, np.arange(64) // 5) % 2 == 0).astype(np.uint8) * 255
DEEP = (GREY.astype(np.uint16) << 4) + 11  # 12 bits in 16


def _three(grey: npt.NDArray[Any]) -> Pixels:
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _stretched(samples: npt.NDArray[Any]) -> Pixels:
    """Return what samples of more than 8 bits come out as: from least to most."""
    values = samples.astype(np.float64)
    low, high = values.min(), values.max()
    eight = np.floor((values - low) / (high - low) * 255 + 0.5).astype(np.uint8)
    return _three(eight) if eight.ndim == 2 else eight


def _animation(kind: str, **options: Any) -> bytes:
    first = Image.fromarray(PICTURE)
    others = [Image.fromarray(np.roll(PICTURE, 9 * i, axis=1)) for i in (1, 2)]
    return encode(first, kind, save_all=True, append_images=others, duration=50, **options)


def _palette() -> tuple[Image.Image, Pixels]:
    image = Image.fromarray(PICTURE).quantize(64)
    return image, np.asarray(image.convert("RGB"))


def _interlaced() -> bytes:
    raw = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        raw += b"".join(b"\0" + row.tobytes() for row in PICTURE[y::dy, x::dx])
    data = bytearray(png(64, 48, 8, 2, raw))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def _rle_bmp() -> tuple[bytes, Pixels]:
    """Return a BMP whose rows are runs, with its picture."""
    grey = np.repeat(GREY[:, ::4], 4, axis=1)
    rows = b""
    for row in grey[::-1]:
        rows += b"".join(bytes((4, value)) for value in row[::4]) + b"\0\0"
    rows += b"\0\1"
    colours = b"".join(bytes((i, i, i, 0)) for i in range(256))
    start = 14 + 40 + len(colours)
    head = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start)
    head += struct.pack("<IiiHHIIiiII", 40, 64, 48, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return head + colours + rows, _three(grey)


def _pfm(samples: npt.NDArray[np.float32]) -> bytes:
    height, width = samples.shape
    return b"Pf\n%d %d\n-1.0\n" % (width, height) + samples[::-1].astype("<f4").tobytes()


@cache
def _valid() -> tuple[tuple[str, bytes, Pixels, float], ...]:
    """Return whole files of every kind that is supported: name, bytes, picture, tolerance."""
    palette, coloured = _palette()
    rle, runs = _rle_bmp()
    grey = Image.fromarray(GREY)
    cmyk = Image.fromarray(PICTURE).convert("CMYK")
    bilevel = Image.fromarray(BILEVEL).convert("1")
    floats = GREY.astype(np.float32) / 7 - 3
    found = [
        ("baseline JPEG", encode(PICTURE, "JPEG", quality=92), PICTURE, LOSSY),
        ("4:4:4 JPEG", encode(PICTURE, "JPEG", quality=95, subsampling=0), PICTURE, LOSSY),
        ("progressive JPEG", encode(PICTURE, "JPEG", progressive=True), PICTURE, LOSSY),
        ("JPEG with restarts", encode(PICTURE, "JPEG", restart_marker_blocks=2), PICTURE, LOSSY),
        ("grey JPEG", encode(grey, "JPEG"), _three(GREY), LOSSY),
        ("grey progressive JPEG", encode(grey, "JPEG", progressive=True), _three(GREY), LOSSY),
        ("CMYK JPEG", encode(cmyk, "JPEG", quality=92), PICTURE, LOSSY),
        ("RGB PNG", encode(PICTURE, "PNG"), PICTURE, 0),
        ("interlaced PNG", _interlaced(), PICTURE, 0),
        ("palette PNG", encode(palette, "PNG"), coloured, 0),
        ("1-bit PNG", encode(bilevel, "PNG"), _three(BILEVEL), 0),
        ("16-bit grey PNG", png16(DEEP), _stretched(DEEP), 0),
        ("16-bit RGB PNG", png16(PICTURE.astype(np.uint16) * 9), _stretched(PICTURE), 0),
        ("animated PNG", _animation("PNG"), PICTURE, 0),
        ("lossy WebP", encode(PICTURE, "WEBP", quality=90), PICTURE, LOSSY),
        ("lossless WebP", encode(PICTURE, "WEBP", lossless=True), PICTURE, 0),
        ("animated WebP", _animation("WEBP", lossless=True), PICTURE, 0),
        ("BMP", encode(PICTURE, "BMP"), PICTURE, 0),
        ("palette BMP", encode(palette, "BMP"), coloured, 0),
        ("1-bit BMP", encode(bilevel, "BMP"), _three(BILEVEL), 0),
        ("run-length BMP", rle, runs, 0),
        ("GIF", encode(grey, "GIF"), _three(GREY), 0),
        ("interlaced GIF", encode(palette, "GIF", interlace=True), coloured, 0),
        ("animated GIF", _animation("GIF"), PICTURE, LOSSY),
        ("big-endian TIFF", tiff(PICTURE, order=">"), PICTURE, 0),
        ("BigTIFF", encode(PICTURE, "TIFF", big_tiff=True), PICTURE, 0),
        ("float TIFF", tiff(floats), _stretched(floats), 0),
        ("12 bits in a TIFF", tiff(DEEP), _stretched(DEEP), 0),
        ("32-bit TIFF", tiff(DEEP.astype(np.uint32) << 16), _stretched(DEEP), 0),
        ("PPM", encode(PICTURE, "PPM"), PICTURE, 0),
        ("PGM", encode(grey, "PPM"), _three(GREY), 0),
        ("PBM", encode(bilevel, "PPM"), _three(BILEVEL), 0),
        ("16-bit PGM", b"P5 64 48 65535\n" + DEEP.astype(">u2").tobytes(), _stretched(DEEP), 0),
        (
            "plain PPM",
            b"P3 64 48 255\n" + b" ".join(b"%d" % v for v in PICTURE.ravel()),
            PICTURE,
            0,
        ),
        ("PFM", _pfm(floats), _stretched(floats), 0),
    ]
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"):
        data = encode(PICTURE, "TIFF", compression=compression)
        found.append((f"TIFF, {compression}", data, PICTURE, 0))
    found.append(("TIFF, jpeg", encode(PICTURE, "TIFF", compression="jpeg"), PICTURE, LOSSY))
    for compression in ("group3", "group4"):
        data = encode(bilevel, "TIFF", compression=compression)
        found.append((f"TIFF, {compression}", data, _three(BILEVEL), 0))
    return tuple(found)


def _whole() -> Iterator[Hostile]:
    for name, data, pixels, tolerance in _valid():
        yield Hostile(f"{name}, whole", data, IMAGE, pixels, tolerance)
        due = EITHER if "plain" in name else IMAGE  # there, a number goes on until a blank
        rubbish = data + b"\0rubbish" * 9
        yield Hostile(f"{name}, rubbish behind it", rubbish, due, pixels, tolerance)


# Cut short


def _cut() -> Iterator[Hostile]:
    for name, data, pixels, tolerance in _valid():
        places = {f"{share} %": len(data) * share // 100 for share in (3, 20, 40, 60, 80, 95)}
        places |= {f"{back} bytes before its end": len(data) - back for back in (1, 2, 13)}
        for place, at in places.items():
            off = 1.0 if "plain" in name else tolerance  # a digit less is another number
            yield Hostile(f"{name}, cut at {place}", data[:at], EITHER, pixels, off)


def _closed() -> Iterator[Hostile]:
    """Cut, and closed again as a careless tool does it."""
    endings = {"JPEG": b"\xff\xd9", "PNG": chunk(b"IEND", b""), "GIF": b"\0;"}
    for name, data, pixels, tolerance in _valid():
        kind = name.split()[-1]
        if kind not in endings and "JPEG" not in name:
            continue
        ending = endings.get(kind, endings["JPEG"])
        for share in (50, 75, 90):
            cut = data[: len(data) * share // 100]
            words = f"{name}, cut at {share} % and closed"
            if "animated" in name:
                yield Hostile(words, cut + ending, EITHER, pixels, tolerance)
            elif "progressive" in name:  # what is there may be all of the picture, but coarse
                yield Hostile(words, cut + ending, EITHER, pixels, 3 * LOSSY)
            else:
                yield Hostile(words, cut + ending, REFUSED)


def _filled() -> Iterator[Hostile]:
    """The end of a file lost in a copy, as zeros or as 0xFF."""
    for name, data, pixels, tolerance in _valid():
        if not re.search("PNG|lossless WebP|GIF|lzw|deflate|zstd|lzma", name) or "animated" in name:
            continue  # nothing in the other formats tells such pixels from true ones
        half = len(data) // 2
        for byte in (b"\0", b"\xff"):
            words = f"{name}, second half {byte.hex()}"
            yield Hostile(words, data[:half] + byte * (len(data) - half), EITHER, pixels, tolerance)


# Lies


def _patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def _png_size(width: int, height: int, data: bytes) -> bytes:
    patched = _patched(data, 16, struct.pack(">II", width & 0xFFFFFFFF, height & 0xFFFFFFFF))
    return _patched(patched, 29, struct.pack(">I", zlib.crc32(patched[12:29])))


def _jpeg_frame(data: bytes) -> int:
    """Return where the frame header of a JPEG begins."""
    return next(m.start() for m in re.finditer(rb"\xff[\xc0\xc2]\x00[\x0b\x11\x14]", data))


def _lying() -> Iterator[Hostile]:
    files = {name: data for name, data, _, _ in _valid()}
    sizes = [(0, 48), (64, 0), (64, 96), (128, 48), (65535, 65535), (-1, 48), (64, -48)]
    sizes += [(1 << 31, 48), (64, (1 << 31) - 1), (1 << 30, 1 << 30), (20_000, 1), (1, 20_000)]
    for width, height in sizes:
        words = f"claims {width} x {height}"
        wide, high = width & 0xFFFFFFFF, height & 0xFFFFFFFF
        granted = wide * high if wide * high < 1 << 27 else 0
        for name in ("RGB PNG", "interlaced PNG", "palette PNG"):
            data = _png_size(width, height, files[name])
            yield Hostile(f"{name} that {words}", data, REFUSED, decoded=granted)
        if 0 <= width < 65536 and 0 <= height < 65536:
            small = width * height < 64 * 48 and width * height > 0
            for name in ("baseline JPEG", "grey JPEG", "progressive JPEG"):
                at = _jpeg_frame(files[name]) + 5
                data = _patched(files[name], at, struct.pack(">HH", height, width))
                due = EITHER if small else REFUSED
                yield Hostile(f"{name} that {words}", data, due, decoded=granted)
            data = _patched(files["GIF"], 6, struct.pack("<HH", width, height))
            yield Hostile(f"GIF whose screen {words}", data, EITHER, decoded=granted)
            at = files["GIF"].index(b",\0\0\0\0\x40\0\x30\0") + 5
            data = _patched(files["GIF"], at, struct.pack("<HH", width, height))
            yield Hostile(f"GIF whose frame {words}", data, EITHER, decoded=granted)
        if wide * high >= 64 * 48 or not wide * high:
            data = _patched(files["BMP"], 18, struct.pack("<II", wide, high))
            flipped = (width, height) == (64, -48)  # rows from the top down: a picture of its own
            due, pixels = (IMAGE, PICTURE[::-1]) if flipped else (REFUSED, None)
            yield Hostile(f"BMP that {words}", data, due, pixels, decoded=granted)
            head = b"P6 %d %d 255\n" % (width, height)
            data = head + PICTURE.tobytes()
            yield Hostile(f"PPM that {words}", data, REFUSED, decoded=granted)
            for kind in ("raw", "lzw", "adobe_deflate", "packbits", "zstd"):
                own = files[
                    f"TIFF, {kind if kind in ('raw', 'packbits', 'zstd') else 'tiff_' + kind}"
                ]
                data = _tag(_tag(own, 256, wide), 257, high)
                yield Hostile(f"TIFF, {kind}, that {words}", data, REFUSED, decoded=granted)
        data = files["animated WebP"]
        at = data.index(b"VP8X") + 12
        for value in ((wide - 1) & 0xFFFFFF, (high - 1) & 0xFFFFFF):
            data = _patched(data, at, struct.pack("<I", value)[:3])
            at += 3
        yield Hostile(f"WebP whose canvas {words}", data, EITHER, decoded=max(granted, 1 << 24))
    at = files["lossy WebP"].index(b"\x9d\x01\x2a") + 3
    for width, height in ((0, 0), (16383, 16383), (65, 49), (1, 1), (640, 480)):
        data = _patched(files["lossy WebP"], at, struct.pack("<HH", width, height))
        small = width * height < 10**7
        yield Hostile(
            f"lossy WebP that claims {width} x {height}", data, EITHER if small else REFUSED
        )
    for bits in (0, 2, 3, 7, 16, 33, 64, 255):
        data = _patched(files["BMP"], 28, struct.pack("<H", bits))
        yield Hostile(f"BMP of {bits} bits a pixel", data, EITHER)
    for compression in (1, 2, 3, 4, 5, 99):
        data = _patched(files["BMP"], 30, struct.pack("<I", compression))
        yield Hostile(f"BMP of compression {compression}", data, EITHER)
    for at, value, words in (
        (24, 3, "depth 3"),
        (25, 7, "colour type 7"),
        (26, 9, "method 9"),
        (24, 255, "depth 255"),
        (28, 2, "interlace 2"),
    ):
        data = _patched(files["RGB PNG"], at, bytes([value]))
        data = _patched(data, 29, struct.pack(">I", zlib.crc32(data[12:29])))
        yield Hostile(f"PNG of {words}", data, EITHER, PICTURE)
    for name in ("RGB PNG", "palette PNG", "16-bit grey PNG"):
        data = files[name]
        at = data.index(b"IDAT") + 20
        broken = _patched(data, at, bytes([data[at] ^ 1]))
        yield Hostile(f"{name} with a bit flipped in its pixels", broken, REFUSED)
        data = _patched(data, data.index(b"IDAT") - 4, b"\xff\xff\xff\xff")
        yield Hostile(f"{name} with a chunk of 4 GiB", data, REFUSED)
    for maximum in (b"0", b"-1", b"65536", b"99999999999999999999", b"x"):
        data = b"P6 64 48 " + maximum + b"\n" + PICTURE.tobytes()
        yield Hostile(f"PPM with the maximum {maximum.decode()}", data, REFUSED)


# TIFF


def _tiff(
    entries: dict[int, tuple[int, int, int]], *, behind: bytes = b"", following: int = 0
) -> bytes:
    """Return a TIFF of one directory: its entries by tag, as (type, count, value)."""
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, (kind, count, value) in sorted(entries.items()):
        head += struct.pack("<HHII", tag, kind, count, value & 0xFFFFFFFF)
    return head + struct.pack("<I", following) + behind


def _tag(data: bytes, tag: int, value: int, count: int | None = None) -> bytes:
    """Return a little-endian TIFF with another value (and count) of a tag, as a LONG."""
    at = struct.unpack_from("<I", data, 4)[0]
    for i in range(struct.unpack_from("<H", data, at)[0]):
        place = at + 2 + 12 * i
        if struct.unpack_from("<H", data, place)[0] == tag:
            old = struct.unpack_from("<I", data, place + 4)[0]
            new = struct.pack("<HII", 4, old if count is None else count, value & 0xFFFFFFFF)
            return _patched(data, place + 2, new)
    raise LookupError(f"the TIFF has no tag {tag}")


def _grey_tiff(extra: dict[int, tuple[int, int, int]] | None = None, behind: bytes = b"") -> bytes:
    """Return an uncompressed grey TIFF; entries of `extra` point at 0 for the start of `behind`."""
    entries = {
        256: (4, 1, 64),
        257: (4, 1, 48),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 0),
        277: (3, 1, 1),
        278: (4, 1, 48),
        279: (4, 1, GREY.size),
    }
    entries |= extra or {}
    start = 8 + 2 + 12 * len(entries) + 4
    moved = {
        tag: (kind, count, value + start if value < 0 or tag == 273 else value)
        for tag, (kind, count, value) in entries.items()
    }
    return _tiff(moved, behind=GREY.tobytes() + behind)


def _strange_tiffs() -> Iterator[Hostile]:
    grey, behind = _three(GREY), GREY.size
    yield Hostile("TIFF made by hand", _grey_tiff(), IMAGE, grey)
    loop = bytearray(_grey_tiff())
    loop[8 + 2 + 9 * 12 :][:4] = struct.pack("<I", 8)
    at = 8 + 2 + 9 * 12
    yield Hostile(
        "TIFF whose directories go round in a loop",
        _patched(bytes(loop), at, struct.pack("<I", 8)),
        IMAGE,
        grey,
    )
    pages = bytearray(_patched(_grey_tiff(), at, struct.pack("<I", len(_grey_tiff()))))
    for i in range(65_535):
        pages += struct.pack("<HHHIII", 1, 256, 4, 1, 1, len(pages) + 18 if i < 65_534 else 0)
    yield Hostile("TIFF of 65,535 directories", bytes(pages), IMAGE, grey)
    blob, size = b"\1" * 200_000, 200_000
    shared = {40_000 + i: (7, size, behind - 10**9) for i in range(3000)}
    start = 8 + 2 + 12 * (9 + len(shared)) + 4
    entries = {tag: (kind, count, start + behind) for tag, (kind, count, _) in shared.items()}
    data = _grey_tiff(entries, blob)
    yield Hostile("TIFF of 3000 tags that share 200 KB", data, EITHER, grey)
    many = 300_000
    offsets = struct.pack(f"<{many}I", *[8] * many)
    for tag, word in ((273, "strips"), (324, "tiles")):
        lists: dict[int, tuple[int, int, int]] = {
            256: (4, 1, 64),
            257: (4, 1, 48),
            258: (3, 1, 8),
            259: (3, 1, 1),
            262: (3, 1, 1),
            277: (3, 1, 1),
        }
        more = {tag: (4, many, 0), 325 if tag == 324 else 279: (4, many, 0)}
        more |= {322: (4, 1, 16), 323: (4, 1, 16)} if tag == 324 else {278: (4, 1, 1)}
        start = 8 + 2 + 12 * (len(lists) + len(more)) + 4
        more = {t: (k, c, start if c == many else v) for t, (k, c, v) in more.items()}
        data = _tiff(lists | more, behind=offsets)
        yield Hostile(f"TIFF of {many} {word}", data, EITHER)
    entries = {256: (4, 1, 64), 257: (4, 1, 48), 273: (4, 8_000_000, 8), 279: (4, 8_000_000, 8)}
    yield Hostile(
        "TIFF of 8,000,000 strips", _tiff(entries, behind=bytes(32_000_000)), REFUSED, says="strips"
    )
    many = struct.pack("<HHQQ", 273, 4, 8_000_000, 16)
    late = _late(lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1) + many + bytes(32_000_000))
    yield Hostile("BigTIFF of 8,000,000 strips", late, REFUSED, says="strips")
    data = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 60) + bytes(4096)
    yield Hostile("BigTIFF of 2**60 tags", data, REFUSED, says="entries")
    raw = {name: data for name, data, _, _ in _valid()}
    for tag in (256, 257, 258, 259, 262, 273, 277, 278, 279):
        for value in (0, 0xFFFFFFFF, 1 << 31, 3):
            data = _tag(_grey_tiff(), tag, value)
            yield Hostile(f"TIFF whose tag {tag} is {value}", data, EITHER)
        data = _tag(_grey_tiff(), tag, 8, count=1 << 31)
        yield Hostile(f"TIFF whose tag {tag} has 2**31 values", data, EITHER)
    for name in (
        "tiff_lzw",
        "tiff_adobe_deflate",
        "packbits",
        "zstd",
        "lzma",
        "jpeg",
        "group3",
        "group4",
    ):
        data = raw[f"TIFF, {name}"]
        at = struct.unpack_from("<I", data, 4)[0]
        count = next(
            struct.unpack_from("<I", data, place + 8)[0] & (0xFFFF if kind == 3 else 0xFFFFFFFF)
            for place in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12)
            for kind in struct.unpack_from("<H", data, place + 2)
            if struct.unpack_from("<H", data, place)[0] == 279
        )
        for share in (10, 50, 80):
            lie = _tag(data, 279, count * share // 100)
            pixels = None if "group" in name else PICTURE  # fax data do not say where they end
            tolerance = LOSSY if name == "jpeg" else 0.0
            yield Hostile(
                f"TIFF, {name}, with {share} % of its strip", lie, EITHER, pixels, tolerance
            )


# Bombs


def _zeros(n: int) -> bytes:
    """Return `n` zeros, compressed."""
    squeeze = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [squeeze.compress(block) for _ in range(n >> 20)]
    return b"".join(parts) + squeeze.compress(bytes(n & 0xFFFFF)) + squeeze.flush()


def _bare_png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _late(build: Callable[[], bytes]) -> Callable[[Path], None]:
    """Return what writes a file of many megabytes, which are not to lie in memory till then."""

    def make(path: Path) -> None:
        path.write_bytes(build())

    return make


def _pixel_bombs() -> Iterator[Hostile]:
    limit = "over the limit|more than .* the limit"
    body = _zeros((16_000 // 8 + 1) * 16_000)
    yield Hostile(
        "bilevel PNG of 16,000 x 16,000",
        _bare_png(16_000, 16_000, 1, 0, body),
        REFUSED,
        says=limit,
        decoded=0,
    )
    little = zlib.compress(b"\0" * 100)
    for side in (13_000, 14_000, 60_000, 65_000, 100_000):
        data = _bare_png(side, side, 8, 2, little)
        says = limit if side > 13_377 else "cut short"
        granted = 0 if side > 13_377 else side * side
        yield Hostile(
            f"PNG of {side} x {side} in {len(data)} bytes",
            data,
            REFUSED,
            says=says,
            decoded=granted,
        )
    for side in (10_000, 60_000):
        jpeg = encode(PICTURE, "JPEG")
        data = _patched(jpeg, _jpeg_frame(jpeg) + 5, struct.pack(">HH", side, side))
        granted = side * side if side == 10_000 else 0
        yield Hostile(f"JPEG that claims {side} x {side}", data, REFUSED, decoded=granted)
        data = b"P5 %d %d 255\n" % (side, side)
        yield Hostile(f"PGM of {side} x {side} and no pixels", data, REFUSED, decoded=granted)
    side = 8000
    flat = Image.new("F", (side, side))
    flat.paste(0.5, (0, 0, side, side // 2))
    data = encode(flat, "TIFF", compression="tiff_adobe_deflate")
    yield Hostile(f"float TIFF of {side} x {side}", data, IMAGE, decoded=side * side)
    half = struct.pack(">H", 999) * side * 3
    squeeze = zlib.compressobj(1)
    body = b"".join(squeeze.compress(b"\0" + half) for _ in range(side // 2))
    body += b"".join(squeeze.compress(b"\0" + bytes(len(half))) for _ in range(side // 2))
    data = _bare_png(side, side, 16, 2, body + squeeze.flush())
    yield Hostile(f"16-bit RGB PNG of {side} x {side}", data, IMAGE, decoded=side * side)


def _png_bombs() -> Iterator[Hostile]:
    blob = _zeros(100 << 20)
    small = b"".join(b"\0" + row.tobytes() for row in PICTURE)
    for name, text in (
        (b"iCCP", b"icc\0\0" + blob),
        (b"zTXt", b"text\0\0" + blob),
        (b"iTXt", b"text\0\1\0\0\0" + blob),
        (b"zTXt", b"Raw profile type exif\0\0" + blob),
    ):
        data = png(64, 48, 8, 2, small, before=chunk(name, text))
        yield Hostile(f"PNG with 100 MiB in its {name.decode()}", data, EITHER, PICTURE)
    many = chunk(b"zTXt", b"text\0\0" + _zeros(900_000)) * 300
    data = png(64, 48, 8, 2, small, before=many)
    yield Hostile("PNG with 300 texts of 900 KB", data, EITHER, PICTURE)
    late = _late(
        lambda: png(64, 48, 8, 2, small, before=chunk(b"tEXt", b"text\0" + b"x" * 20_000_000))
    )
    yield Hostile("PNG with a text of 20 MB", late, EITHER, PICTURE)
    rows = small + bytes(50 << 20)
    yield Hostile("PNG with 50 MiB behind its last row", png(64, 48, 8, 2, rows), EITHER, PICTURE)
    yield Hostile(
        "PNG of 100,000 empty IDATs",
        _patched(png(64, 48, 8, 2, small, before=b""), 0, b"\x89PNG")[:33]
        + chunk(b"IDAT", b"") * 100_000
        + png(64, 48, 8, 2, small)[33:],
        EITHER,
        PICTURE,
    )


def _jpeg_bombs() -> Iterator[Hostile]:
    jpeg = encode(PICTURE, "JPEG", quality=92)
    segment = b"\xff\xfe\xff\xff" + b"c" * 65_533
    yield Hostile(
        "JPEG with 1,000 comments of 64 KB",
        _late(lambda: jpeg[:2] + segment * 1000 + jpeg[2:]),
        IMAGE,
        PICTURE,
        LOSSY,
    )
    profile = b"".join(
        b"\xff\xe2\xff\xff" + b"ICC_PROFILE\0" + bytes((1 + i, 255)) + bytes(65_519)
        for i in range(255)
    )
    late = _late(lambda: jpeg[:2] + profile + jpeg[2:])
    yield Hostile("JPEG with a profile of 16 MB", late, IMAGE, PICTURE, LOSSY)
    exif = b"\xff\xe1\xff\xff" + b"Exif\0\0" + b"II*\0\x08\0\0\0" + b"\xff" * 65_519
    late = _late(lambda: jpeg[:2] + exif * 300 + jpeg[2:])
    yield Hostile("JPEG with 20 MB of EXIF", late, IMAGE, PICTURE, LOSSY)
    yield Hostile(
        "JPEG with 2 MB of fill bytes",
        jpeg[:2] + b"\xff" * 2_000_000 + jpeg[2:],
        EITHER,
        PICTURE,
        LOSSY,
    )
    progressive = encode(PICTURE, "JPEG", progressive=True)
    at = progressive.rindex(b"\xff\xda")
    last = progressive[at:-2]
    yield Hostile(
        "JPEG of 5,000 scans", progressive[:-2] + last * 5000 + b"\xff\xd9", EITHER, PICTURE, 64
    )


def _gif_bombs() -> Iterator[Hostile]:
    gif = encode(Image.fromarray(GREY), "GIF")
    at = gif.index(b",\0\0\0\0\x40\0\x30\0")
    yield Hostile("GIF of 5,000 frames", gif[:-1] + gif[at:-1] * 5000 + b";", IMAGE, _three(GREY))
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * 40 + b"\0"
    yield Hostile(
        "GIF with 200 comments of 10 KB", gif[:at] + comment * 200 + gif[at:], IMAGE, _three(GREY)
    )
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * 20_000 + b"\0"
    yield Hostile("GIF with a comment of 5 MB", gif[:at] + comment + gif[at:], EITHER, _three(GREY))


# Modes


def _modes() -> Iterator[Hostile]:
    yield Hostile(
        "16-bit PNG of bright values",
        png16(40_000 + 60 * GREY.astype(np.uint16)),
        IMAGE,
        _stretched(GREY),
    )
    for kind in ("<u2", ">u2", "<i2", "<u4", "<i4", "<f4", ">f4", "<f8"):
        samples = GREY.astype(kind) * (3 if kind[1] != "i" else -3)
        data = tiff(samples, order=kind[0])
        yield Hostile(f"TIFF of {kind}", data, EITHER, _stretched(samples))
    floats = GREY.astype(np.float32)
    for value, words in ((np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "minus infinite")):
        samples = floats.copy()
        samples[3, 5] = value
        expected = _stretched(floats).copy()
        expected[3, 5] = 255 if value == np.inf else 0
        yield Hostile(f"float TIFF with a pixel that is {words}", tiff(samples), IMAGE, expected)
        yield Hostile(
            f"float TIFF, all {words}",
            tiff(np.full_like(floats, value)),
            EITHER,
            np.zeros_like(PICTURE),
        )
    yield Hostile(
        "float TIFF near the largest",
        tiff(floats * np.float32(1e36)),
        IMAGE,
        _stretched(floats),
        0.01,
    )
    yield Hostile("float TIFF of subnormals", tiff(floats * np.float32(1e-42)), EITHER)
    sixteen = PICTURE.astype(np.uint16) * 16
    yield Hostile(
        "16-bit PPM of 12-bit values",
        b"P6 64 48 65535\n" + sixteen.astype(">u2").tobytes(),
        IMAGE,
        _stretched(sixteen),
        1,
    )
    yield Hostile(
        "12-bit PPM",
        b"P6 64 48 4095\n" + sixteen.astype(">u2").tobytes(),
        IMAGE,
        _stretched(sixteen),
        1,
    )
    plain = b"P3 64 48 65535\n" + b" ".join(b"%d" % v for v in sixteen.ravel())
    yield Hostile("16-bit plain PPM", plain, IMAGE, _stretched(sixteen), 1)
    yield Hostile(
        "16-bit RGBA PNG",
        png16(np.dstack([sixteen, np.full((48, 64), 65535, np.uint16)])),
        IMAGE,
        _stretched(sixteen),
    )
    palette, coloured = _palette()
    clear = np.asarray(palette) == 7
    expected = np.where(clear[..., None], 255, coloured).astype(np.uint8)
    for kind in ("PNG", "GIF"):
        yield Hostile(
            f"palette {kind} with a transparent colour",
            encode(palette, kind, transparency=7),
            IMAGE,
            expected,
        )
    yield Hostile(
        "palette PNG with alpha for each colour",
        encode(palette, "PNG", transparency=bytes(256)),
        EITHER,
        np.full_like(PICTURE, 255),
    )
    alpha = np.where(BILEVEL > 0, 255, 0).astype(np.uint8)
    seen = np.where(BILEVEL[..., None] > 0, PICTURE, 255).astype(np.uint8)
    rgba = Image.fromarray(np.dstack([PICTURE, alpha]))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        yield Hostile(f"{kind} with alpha", encode(rgba, kind, **options), IMAGE, seen)
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    expected = np.where(BILEVEL[..., None] > 0, _three(GREY), 255).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        yield Hostile(f"grey {kind} with alpha", encode(grey, kind), IMAGE, expected)
    cmyk = Image.fromarray(PICTURE).convert("CMYK")
    yield Hostile("CMYK TIFF", encode(cmyk, "TIFF"), IMAGE, PICTURE, 2)
    data = encode(cmyk, "JPEG", quality=95)
    at = data.index(b"\xff\xee")
    yield Hostile("CMYK JPEG without Adobe's mark", data[:at] + data[at + 16 :], EITHER)
    yield Hostile("CMYK JPEG marked as YCCK", _patched(data, at + 15, b"\2"), EITHER)
    ycck = Image.merge("CMYK", [*_ycc(PICTURE), Image.new("L", (64, 48), 255)])
    stored = Image.merge("CMYK", [band.point(lambda v: 255 - v) for band in ycck.split()])
    data = encode(stored, "JPEG", quality=95)
    data = _patched(data, data.index(b"\xff\xee") + 15, b"\2")
    yield Hostile("YCCK JPEG", data, EITHER)
    profile = ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(
        Image.fromarray(PICTURE), ImageCms.createProfile("sRGB"), profile, outputMode="LAB"
    )
    assert lab is not None
    yield Hostile("Lab TIFF", encode(lab, "TIFF"), IMAGE, PICTURE, 3)
    yield Hostile(
        "YCbCr TIFF", encode(Image.fromarray(PICTURE).convert("YCbCr"), "TIFF"), IMAGE, PICTURE, 2
    )
    for shape in ((1, 1), (1, 20_000), (20_000, 1), (2, 3)):
        noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        for kind in ("PNG", "BMP", "PPM", "TIFF", "GIF"):
            if kind != "GIF":
                yield Hostile(
                    f"{kind} of {shape[1]} x {shape[0]}",
                    encode(noise, kind),
                    IMAGE,
                    noise,
                    decoded=shape[0] * shape[1],
                )
        yield Hostile(
            f"JPEG of {shape[1]} x {shape[0]}",
            encode(noise, "JPEG", quality=100, subsampling=0),
            IMAGE,
            noise,
            3,
            decoded=shape[0] * shape[1],
        )


def _ycc(pixels: Pixels) -> tuple[Image.Image, ...]:
    return Image.fromarray(pixels).convert("YCbCr").split()


# EXIF

_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def _orientation(value: int, kind: int = 3) -> bytes:
    """Return EXIF with an orientation of any value and type."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x112, kind, 1, value) + bytes(4)


def _exif() -> Iterator[Hostile]:
    for value in range(11):
        pixels = _TURNS.get(value, lambda a: a)(PICTURE)
        block = _orientation(value)
        for kind, options, tolerance in (
            ("JPEG", {"quality": 92}, LOSSY),
            ("PNG", {}, 0),
            ("WEBP", {"lossless": True}, 0),
        ):
            data = encode(PICTURE, kind, exif=block, **options)
            yield Hostile(f"{kind} of orientation {value}", data, IMAGE, pixels, tolerance)
        data = _tag_added(tiff(PICTURE), 274, value)
        yield Hostile(f"TIFF of orientation {value}", data, IMAGE, pixels)
    good = _orientation(6)
    blocks = {
        "orientation 65535": _orientation(65_535),
        "orientation as a LONG of 2**31": _orientation(1 << 31, 4),
        "orientation as text": _orientation(6, 2),
        "orientation as a rational at nowhere": _orientation(1 << 30, 5),
        "nothing in it": b"Exif\0\0",
        "half a header": good[:10],
        "a directory at nowhere": good[:10] + b"\xff\xff\xff\x7f" + good[14:],
        "65,535 entries": good[:14] + b"\xff\xff" + good[16:],
        "a directory that is its own next": good[:-4] + b"\x08\0\0\0",
        "zeros": b"Exif\0\0" + bytes(64),
        "noise": b"Exif\0\0" + random.Random(0).randbytes(500),
        "3,000 tags that share 50 KB": b"Exif\0\0"
        + _tiff({40_000 + i: (7, 20_000, 8) for i in range(3000)}, behind=bytes(20_000)),
    }
    for words, block in blocks.items():
        told = words in (
            "65,535 entries",
            "a directory that is its own next",
        )  # and the tag is there
        pixels = _TURNS[6](PICTURE) if told else PICTURE
        if len(block) < 60_000:
            data = encode(PICTURE, "JPEG", quality=92, exif=block)
            yield Hostile(f"JPEG with EXIF of {words}", data, IMAGE, pixels, LOSSY)
        data = encode(PICTURE, "PNG", exif=block)
        yield Hostile(f"PNG with EXIF of {words}", data, IMAGE, pixels)
        data = encode(PICTURE, "WEBP", exif=block, lossless=True)
        yield Hostile(f"WebP with EXIF of {words}", data, IMAGE, pixels)


def _tag_added(data: bytes, tag: int, value: int) -> bytes:
    """Return a little-endian TIFF with one more tag, its directory moved to the end."""
    at = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, at)[0]
    entries = [data[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)]
    entries.append(struct.pack("<HHIHH", tag, 3, 1, value, 0))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    moved = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return _patched(data, 4, struct.pack("<I", len(data))) + moved


# What is no image, or no file


def _strangers() -> Iterator[Hostile]:
    starts = {
        "text": b"this is no image\n" * 9,
        "HTML": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "SVG with an entity bomb": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "cc">]><svg/>',
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file quit\n",
        "EPS in a DOS wrapper": b"\xc5\xd0\xd3\xc6" + bytes(26) + b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "PDF": b"%PDF-1.7\n1 0 obj<<>>endobj\n",
        "AVIF": b"\0\0\0\x1cftypavif" + bytes(60),
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(60),
        "a film": b"\0\0\0\x20ftypisom" + bytes(60),
        "ZIP": b"PK\x03\x04" + bytes(60),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(60),
        "NumPy": b"\x93NUMPY\x01\0" + bytes(60),
        "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "an ELF program": b"\x7fELF" + bytes(60),
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "1 byte": b"\xff",
        "2 bytes": b"\xff\xd8",
        "a JPEG that ends at once": b"\xff\xd8\xff\xd9",
        "the signature of PNG": b"\x89PNG\r\n\x1a\n",
        "the signature of GIF": b"GIF89a",
        "the signature of WebP": b"RIFF\xff\xff\xff\xffWEBP",
        "the signature of TIFF": b"II*\0",
        "the signature of BigTIFF": b"II+\0\x08\0\0\0" + bytes(60),
        "the signature of BMP": b"BM",
        "the signature of PPM": b"P6",
        "zeros": bytes(4096),
        "0xFF": b"\xff" * 4096,
        "noise": random.Random(1).randbytes(4096),
    }
    for words, data in starts.items():
        yield Hostile(words, data, REFUSED)
    yield Hostile("nothing at all", b"", REFUSED, says="empty")
    for kind in (
        "ICO",
        "JPEG2000",
        "TGA",
        "PCX",
        "ICNS",
        "EPS",
        "SGI",
        "DDS",
        "PDF",
        "IM",
        "MSP",
        "XBM",
    ):
        bilevel = kind in ("MSP", "XBM")
        image = Image.fromarray(BILEVEL).convert("1") if bilevel else Image.fromarray(PICTURE)
        yield Hostile(f"a whole {kind}", encode(image, kind), REFUSED, says="not a JPEG, PNG")
    whole = {name: data for name, data, _, _ in _valid()}
    for ending, name in (
        (b"png", "baseline JPEG"),
        (b"jpg", "RGB PNG"),
        (b"jpg", "GIF"),
        (b"gif", "PPM"),
        (b"bmp", "lossless WebP"),
        (b"jpg", "big-endian TIFF"),
        (b"tiff", "BMP"),
    ):
        pixels, tolerance = next((p, t) for n, _, p, t in _valid() if n == name)
        yield Hostile(
            f"{name} named .{ending.decode()}",
            whole[name] + b"\n",
            IMAGE,
            pixels,
            tolerance,
            name=b"other." + ending,
        )
    yield Hostile(
        "JPEG that is a ZIP too",
        whole["baseline JPEG"] + b"PK\x05\x06" + bytes(18),
        IMAGE,
        PICTURE,
        LOSSY,
    )
    yield Hostile("GIF that is a script too", b"GIF89a/*" + bytes(8) + b"*/=1;alert(1)//", REFUSED)
    yield Hostile("PDF that is a JPEG too", b"%PDF-1.4\n" + whole["baseline JPEG"], REFUSED)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)  # a socket's path may have 108 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.fsencode(f"/proc/self/fd/{here}/") + os.fsencode(path.name))
    finally:
        os.close(here)


def _sparse(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(b"P5 60000 60000 255\n")
            file.truncate(size)

    return make


def _no_files() -> Iterator[Hostile]:
    yield Hostile("a pipe", os.mkfifo, REFUSED, says="pipe")
    yield Hostile("a socket", _socket, REFUSED, says="socket")
    yield Hostile("a folder", Path.mkdir, REFUSED, says="folder")
    for device in ("/dev/zero", "/dev/full", "/dev/null", "/dev/urandom", "/dev/stdin", "/dev/tty"):
        yield Hostile(f"a link to {device}", _link(device), REFUSED)
    yield Hostile("a link to nothing", _link("nowhere.jpg"), REFUSED, says="no such file")
    yield Hostile("a link to a folder", _link("/"), REFUSED)
    yield Hostile(
        "a link to itself", lambda path: path.symlink_to(path.name), REFUSED, says="links"
    )
    yield Hostile("a link to /proc/self/mem", _link("/proc/self/mem"), REFUSED)
    yield Hostile("a link to /proc/kmsg", _link("/proc/kmsg"), REFUSED)
    yield Hostile("a sparse file of 4 TiB", _sparse(4 << 40), REFUSED, says="max_bytes")
    yield Hostile("a sparse file of 200 MiB", _sparse(200 << 20), REFUSED, says="limit")
    yield Hostile("a file without permissions", _locked, REFUSED)


def _locked(path: Path) -> None:
    path.write_bytes(b"not for you")
    path.chmod(0)


def _names() -> Iterator[Hostile]:
    names = {
        "a line break": b"two\nlines.jpg",
        "a carriage return": b"over\rwrite.jpg",
        "a tab": b"a\ttab.jpg",
        "an ANSI escape": b"\x1b[31mred\x1b[2J.jpg",
        "a bell": b"\x07\x08.jpg",
        "bytes that are no UTF-8": b"\xff\xfe\x80.jpg",
        "half a surrogate": b"\xed\xa0\x80.jpg",
        "255 bytes": b"n" * 251 + b".jpg",
        "255 bytes of UTF-8": "\u00e9".encode() * 125 + b"x.jpg",
        "a leading dash": b"--json.jpg",
        "spaces": b"  a b  .jpg",
        "quotes": b"'\";$(x)`y`.jpg",
        "a backslash": b"a\\n.jpg",
        "percent signs": b"%s%n%d{0}.jpg",
        "right-to-left marks": "\u202egpj.exe.jpg".encode(),
        "a comma": b"a,b;c.jpg",
        "a glob": b"*?[a].jpg",
        "emoji": "\U0001f4a3.jpg".encode(),
        "a second ending": b"image.jpg.PNG",
    }
    for number, (words, name) in enumerate(names.items()):
        yield Hostile(
            f"no image, its name has {words}", b"no image %d" % number, REFUSED, name=name
        )
        pixels = PICTURE.copy()
        pixels[0, 0] = number
        shorter = name if len(name) < 240 else name[2:]  # "é" stays whole
        own = shorter.replace(b".jpg", b"_.jpg").replace(b".PNG", b"_.PNG")
        yield Hostile(
            f"an image, its name has {words}", encode(pixels, "PNG"), IMAGE, pixels, name=own
        )


@cache
def hostile_files() -> tuple[Hostile, ...]:
    """Return all files that are made by rule; no two have the same bytes."""
    makers = (
        _whole,
        _cut,
        _closed,
        _filled,
        _lying,
        _strange_tiffs,
        _pixel_bombs,
        _png_bombs,
        _jpeg_bombs,
        _gif_bombs,
        _modes,
        _exif,
        _strangers,
        _no_files,
        _names,
    )
    found, seen = [], set[bytes]()
    for maker in makers:
        for one in maker():
            if isinstance(one.make, bytes):
                if one.make in seen:
                    continue
                seen.add(one.make)
            found.append(one)
    return tuple(found)


def mutated(rng: random.Random) -> Hostile:
    """Return a whole file with some random damage.

    Damaged pixels may be any picture; of what is protected by checksums, nothing but the picture
    itself may come out.
    """
    name, data, _, _ = rng.choice(_valid())
    damaged = bytearray(data)
    changes = rng.choice((1, 1, 2, 4, 16))
    head = rng.random() < 0.6  # most of what can go wrong is decided at the beginning
    for _ in range(changes):
        at = rng.randrange(min(len(damaged), 128) if head else len(damaged))
        match rng.randrange(5):
            case 0:
                damaged[at] ^= 1 << rng.randrange(8)
            case 1:
                damaged[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                damaged[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
            case 3:
                del damaged[at : at + rng.randrange(1, 9)]
            case _:
                damaged[at:at] = rng.randbytes(rng.randrange(1, 9))
        if not damaged:
            break
    return Hostile(f"{name}, damaged", bytes(damaged), EITHER, decoded=1 << 28)
