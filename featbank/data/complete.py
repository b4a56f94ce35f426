"""Completeness: whether a file holds the data of all the pixels that its header promises.

Pillow raises for most files that were cut short. Three kinds slip through, and come out with black
rows or grey stripes: a PNG whose compressed stream ends early, a TIFF with fewer strips than its
rows take, and a JPEG whose end marker comes early, as left behind by tools that close what was cut.
"""

from __future__ import annotations

import zlib

from PIL import Image

from featbank.errors import ImageError

__all__ = ["check_png", "check_tiles", "without_end_marker"]

_PNG_END = b"IEND\xaeB`\x82"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip  # x, y of the first pixel; step in x, in y


def check_png(data: bytes, image: Image.Image) -> None:
    """Raise `ImageError` where a loaded PNG lacks rows, or its last chunk.

    Parameters
    ----------
    data : bytes
        The whole file.
    image : PIL.Image.Image
        What Pillow made of it, loaded, before any change. Rows that never came are zero in it,
        and they are the last ones; so the stream is inflated a second time, and its bytes are
        counted, only where the last row is all zero, or the rows are interlaced.
    """
    if data.rfind(_PNG_END) < 0:
        raise ImageError("the PNG file is cut short: its last chunk is missing.")
    width, height = image.size
    last_row = image.crop((0, height - 1, width, height))
    if not image.info.get("interlace") and last_row.getbbox(alpha_only=False) is not None:
        return
    if _inflated(data) < _png_bytes(data):
        raise ImageError("the PNG file is cut short: rows of pixels are missing.")


def check_tiles(image: Image.Image) -> None:
    """Raise `ImageError` where a TIFF, open and not loaded yet, lists too few strips or tiles."""
    if image.format != "TIFF":
        return
    # A set, for each channel may have strips of its own.
    boxes = {tile.extents for tile in getattr(image, "tile", ()) if tile.extents}
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
    if covered < image.width * image.height:
        raise ImageError("the TIFF file lacks strips or tiles: it is damaged or cut short.")


def _png_bytes(data: bytes) -> int:
    """Return how many bytes the pixels of a PNG take, inflated, filter bytes included."""
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    depth, colour, interlaced = data[24], data[25], data[28]
    bits = depth * _CHANNELS[colour]
    if not interlaced:
        return height * (1 + (width * bits + 7) // 8)
    total = 0
    for x, y, dx, dy in _ADAM7:
        columns, rows = (width - x + dx - 1) // dx, (height - y + dy - 1) // dy
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _inflated(data: bytes) -> int:
    """Return how many bytes the IDAT chunks of a PNG inflate to."""
    inflate, total, at = zlib.decompressobj(), 0, 8
    needed = _png_bytes(data)
    try:
        while at + 8 <= len(data) and not inflate.eof and total < needed:
            length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
            if kind == b"IDAT":
                rest = data[at + 8 : at + 8 + length]
                while rest and not inflate.eof and total < needed:
                    total += len(inflate.decompress(rest, 1 << 20))
                    rest = inflate.unconsumed_tail
            at += 12 + length
        while total < needed and (more := inflate.decompress(b"", 1 << 20)):
            total += len(more)
    except zlib.error:
        pass  # Pillow has decoded what it could; what is counted so far decides
    return total


def without_end_marker(data: bytes) -> bytes:
    """Return a JPEG whose end marker is replaced by padding, so that a missing block is an error.

    At an end marker libjpeg makes up whatever blocks have not come yet, with a warning that Pillow
    does not pass on. Without one it asks for more data, and Pillow raises. The padding feeds the
    decoder's look-ahead past the last block, and is never decoded in a file that is complete.

    Only for a file with one sequential scan of all its components, which is what cameras and most
    encoders write; any other file is returned as it is.
    """
    at, components, sequential = 2, 0, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a length
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1):  # frame header, Huffman-coded and sequential
            sequential, components = True, data[at + 9] if at + 9 < len(data) else 0
        at += 2 + length
        if marker == 0xDA:  # the scan's header is behind us, its data ahead
            whole = at < len(data) and data[at - length + 2] == components
            end = data.find(b"\xff\xd9", at)
            return data[:end] + bytes(16) if sequential and whole and end >= 0 else data
    return data
