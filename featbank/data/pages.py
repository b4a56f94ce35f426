"""Pages: the images that a file holds, such as a TIFF of several pages or an animation.

A page or frame beyond the first is named by its file and number, ``scan.tif#page=2``, and stands
for the file's bytes with a mark behind them. So its digest is over the file and the number wherever
bytes are hashed, and it is found again wherever bytes are decoded. Page 1 is the file. A file that
bears such a name itself comes before a page.
"""

from __future__ import annotations

import io
import os
import re
from typing import Literal

from PIL import Image

from featbank.data.formats import FIRST_BYTES, decoders_for, format_of
from featbank.errors import ImageError

__all__ = [
    "count_pages",
    "directories",
    "file_and_page",
    "file_of",
    "marked",
    "page_name",
    "seek_page",
    "unmarked",
]

_MAX_PAGES = 65_535
_SUBFILE_TYPE, _REDUCED, _MASK = 254, 1, 4  # of TIFF: a smaller copy, a mask


_NAME = re.compile(rb"(.+)#page=([1-9][0-9]{0,4})", re.DOTALL)
_MARK = re.compile(rb"\0#page=([1-9][0-9]{0,4})\Z")
_LONGEST_MARK = 12


def page_name(name: bytes, page: int) -> bytes:
    """Return the name of a file's page."""
    return name if page == 1 else b"%s#page=%d" % (name, page)


def file_and_page(path: bytes) -> tuple[bytes, int]:
    """Return the file that a path means, and the number of the page in it."""
    found = _NAME.fullmatch(path) if b"#page=" in path else None
    if found is None or os.path.lexists(path):
        return path, 1
    return found[1], int(found[2])


def file_of(path: bytes) -> bytes:
    """Return the file that a path means, which may name a page."""
    return file_and_page(path)[0]


def marked(data: bytes, page: int) -> bytes:
    """Return the bytes that stand for a page of a file."""
    return data if page == 1 else b"%s\0#page=%d" % (data, page)


def unmarked(data: bytes) -> tuple[bytes, int]:
    """Return a file's bytes and the number of the page that is meant."""
    found = _MARK.search(data, max(0, len(data) - _LONGEST_MARK))
    return (data, 1) if found is None else (data[: found.start()], int(found[1]))


def seek_page(image: Image.Image, data: bytes, page: int) -> None:
    """Bring an open image to a page beyond the first.

    Raises
    ------
    ImageError
        The file has no such page.
    """
    frames = range(getattr(image, "n_frames", 1)) if image.format != "TIFF" else None
    if image.format == "HEIF":  # whose first image is the primary one, wherever it stands
        first = image.tell()
        places = [first, *(place for place in frames or () if place != first)]
    else:
        places = list(frames) if frames is not None else _pages_of_tiff(data)
    if image.format in ("JPEG", "MPO") or page > len(places):
        there = "1 page" if len(places) == 1 else f"{len(places)} pages"
        raise ImageError(f"there is no page {page}: the file has {there}.")
    image.seek(places[page - 1])


def count_pages(data: bytes) -> int:
    """Return the number of pages or frames in an image file, without decoding any pixels.

    Smaller copies of a page and masks in a TIFF don't count, nor do the further pictures that
    cameras put into a JPEG.

    Parameters
    ----------
    data : bytes
        The whole file, which need not be well formed beyond its first page.
    """
    if unmarked(data)[1] > 1:
        return 1
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


def directories(data: bytes) -> list[int]:
    """Return where the directories of a TIFF begin, in the order of its chain."""
    order, word, head = _layout(data)
    at, found = int.from_bytes(data[word : 2 * word], order), dict[int, None]()
    while at and at not in found and at + head <= len(data) and len(found) < _MAX_PAGES:
        found[at] = None
        entries = int.from_bytes(data[at : at + head], order)
        next_ = at + head + entries * (4 + 2 * word)
        at = int.from_bytes(data[next_ : next_ + word], order)
    return list(found)


def _pages_of_tiff(data: bytes) -> list[int]:
    """Return the places of full pages in the chain of a TIFF's directories; the first is one."""
    order, word, head = _layout(data)

    def kind(at: int) -> int:
        """Return the type of a directory, whose entries are sorted by tag: this one comes first."""
        first = at + head
        if int.from_bytes(data[first : first + 2], order) != _SUBFILE_TYPE:
            return 0
        return int.from_bytes(data[first + 4 + word : first + 4 + 2 * word], order)

    found = enumerate(directories(data))
    return [n for n, at in found if not n or not kind(at) & (_REDUCED | _MASK)] or [0]


def _layout(data: bytes) -> tuple[Literal["little", "big"], int, int]:
    """Return a TIFF's byte order, the bytes of an offset, and of a directory's count."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    big = int.from_bytes(data[2:4], order) == 43
    return (order, 8, 8) if big else (order, 4, 2)
