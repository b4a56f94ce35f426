"""Pages: how many images a file holds, such as a TIFF of several pages or an animation."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image

from featbank.data.formats import FIRST_BYTES, decoders_for, format_of

__all__ = ["count_pages"]

_MAX_PAGES = 65_535
_SUBFILE_TYPE, _REDUCED, _MASK = 254, 1, 4  # of TIFF: a smaller copy, a mask


def count_pages(data: bytes) -> int:
    """Return the number of pages or frames in an image file, without decoding any pixels.

    Smaller copies of a page and masks in a TIFF don't count, nor do the further pictures that
    cameras put into a JPEG.

    Parameters
    ----------
    data : bytes
        The whole file, which need not be well formed beyond its first page.
    """
    kind = format_of(data[:FIRST_BYTES])
    if kind == "TIFF":
        return len(_pages_of_tiff(data))
    if not _may_be_animated(kind, data):
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=decoders_for(data)) as image:
            return min(int(getattr(image, "n_frames", 1)), _MAX_PAGES)
    except Exception:  # damage behind the first frame, which was read
        return 1


def _may_be_animated(kind: str | None, data: bytes) -> bool:
    if kind == "PNG":
        return data.find(b"acTL", 0, max(data.find(b"IDAT"), 0)) >= 0
    if kind == "WEBP":
        return data[12:16] == b"VP8X" and len(data) > 20 and bool(data[20] & 2)
    if kind == "AVIF":
        return b"avis" in data[8:FIRST_BYTES]
    return kind in ("GIF", "HEIF")


def _pages_of_tiff(data: bytes) -> list[int]:
    """Return the places of full pages in the chain of a TIFF's directories; the first is one."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    big = number(2, 2) == 43
    word, head = (8, 8) if big else (4, 2)
    entry = 4 + 2 * word
    at, pages, seen = number(word, word), list[int](), set[int]()
    while at and at not in seen and at + head <= len(data) and len(seen) < _MAX_PAGES:
        seen.add(at)
        entries = number(at, head)
        first = at + head  # entries are sorted by tag, and none comes before this one
        kind = number(first + 4 + word, word) if number(first, 2) == _SUBFILE_TYPE else 0
        if not pages or not kind & (_REDUCED | _MASK):
            pages.append(len(seen) - 1)
        at = number(first + entries * entry, word)
    return pages or [0]
