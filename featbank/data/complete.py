"""Completeness: whether a file holds the data of all the pixels that its header promises.

Pillow raises for most files that were cut short. Some slip through, and come out with black rows or
grey stripes: a PNG whose compressed stream ends early or is damaged, a TIFF with fewer strips than
its rows take or with JPEG data that end early, and a JPEG whose end marker comes early, as left
behind by tools that close what was cut.

Fax data in a TIFF (Group 3 and 4) do not say where they end, and are taken as libtiff reads them.
"""

from __future__ import annotations

import io
import zlib
from typing import Any, Literal

from PIL import Image

from featbank.errors import ImageError

__all__ = ["check_directory", "check_jpeg", "check_png", "check_tiles", "without_end_marker"]

_SAMPLES_PER_PIXEL, _COMPRESSION, _JPEG_IN_TIFF = 277, 259, 7
_BIG_TIFF, _MAX_ENTRIES = 43, 65_535
_LISTS, _MAX_TILES = (273, 279, 324, 325), 1 << 20  # offsets and lengths of strips, of tiles
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
    _check_chunks(data)
    width, height = image.size
    last_row = image.crop((0, height - 1, width, height))
    if not image.info.get("interlace") and last_row.getbbox(alpha_only=False) is not None:
        return
    if _inflated(data) < _png_bytes(data):
        raise ImageError("the PNG file is cut short: rows of pixels are missing.")


def _check_chunks(data: bytes) -> None:
    """Raise `ImageError` where a chunk that the pixels need fails its checksum, or the last lacks.

    Pillow skips the checksums of pixels.
    """
    view, at, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(data):
            raise ImageError("the PNG file is cut short: its last chunk is missing.")
        announced = int.from_bytes(data[end : end + 4], "big")
        if kind[:1].isupper() and zlib.crc32(view[at + 4 : end]) != announced:
            raise ImageError("the PNG file is damaged: a checksum of its pixels does not match.")
        at = end + 4


def check_directory(data: bytes, at: int | None = None) -> None:
    """Raise `ImageError` where a TIFF lists so many strips or tiles that opening it is too much.

    Pillow makes an object of each, some 50 times as large as what the file spends on it.

    Parameters
    ----------
    data : bytes
        The whole file.
    at : int, optional
        Where the directory begins; by default the first one.
    """
    orders: dict[bytes, Literal["little", "big"]] = {b"II": "little", b"MM": "big"}
    order = orders.get(data[:2])
    if order is None:
        return

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    big = number(2, 2) == _BIG_TIFF
    word, head = (8, 8) if big else (4, 2)
    at = number(word, word) if at is None else at
    entries, size = number(at, head), 4 + 2 * word
    if entries > _MAX_ENTRIES:
        raise ImageError(f"the TIFF file is damaged: its directory has {entries:,} entries.")
    for place in range(at + head, at + head + size * entries, size):
        count = number(place + 4, word)
        if number(place, 2) in _LISTS and count > _MAX_TILES:
            raise ImageError(
                f"the TIFF file lists {count:,} strips or tiles; more than {_MAX_TILES:,} are "
                "refused."
            )


def check_tiles(data: bytes, image: Image.Image) -> None:
    """Raise `ImageError` where the strips or tiles of a TIFF are not those of its pixels.

    Parameters
    ----------
    data : bytes
        The whole file.
    image : PIL.Image.Image
        Open and not loaded yet.
    """
    if image.format != "TIFF":
        return
    boxes = [tile.extents for tile in getattr(image, "tile", ()) if tile.extents]
    areas = {(x, y, right, lower): (right - x) * (lower - y) for x, y, right, lower in boxes}
    pixels = image.width * image.height
    if sum(areas.values()) < pixels:
        raise ImageError("the TIFF file lacks strips or tiles: it is damaged or cut short.")
    tags = getattr(image, "tag_v2", {})
    channels = tags.get(_SAMPLES_PER_PIXEL, 1)  # each may have strips of its own
    if sum(areas[box] for box in boxes) > pixels * channels:
        raise ImageError("the TIFF file lists more strips or tiles than its pixels take.")
    if tags.get(_COMPRESSION) == _JPEG_IN_TIFF:
        _check_jpeg_strips(data, tags)


def _check_jpeg_strips(data: bytes, tags: Any) -> None:
    """Raise `ImageError` where JPEG data in a TIFF stop before their end marker.

    libtiff makes up what is missing, in grey.
    """
    for offsets, lengths in ((273, 279), (324, 325)):
        for start, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False):
            if data.rfind(b"\xff\xd9", start, start + length) < 0:
                raise ImageError("the TIFF file is damaged: JPEG data in it end early.")


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


# What no encoder writes at the end of a scan, and decodes to anything but nothing; no 0xFF in it.
_PADDING = bytes(range(0x13, 0xF7, 5)) * 2


def check_jpeg(data: bytes, image: Image.Image) -> None:
    """Raise `ImageError` where blocks of a JPEG, progressive or of several scans, never came.

    Parameters
    ----------
    data : bytes
        The whole file.
    image : PIL.Image.Image
        What Pillow made of it, loaded, before any change. Blocks that never came are of middle grey
        in it, and they are the last ones. So only where the last one is grey, the file is decoded a
        second time, with other bytes behind each scan: they are seen only by a decoder that needs
        more than there was.
    """
    left, upper = (image.width - 1) // 8 * 8, (image.height - 1) // 8 * 8
    corner = image.crop((left, upper, image.width, image.height))
    if any(low < 127 or high > 128 for low, high in _extrema(corner)):
        return
    padded = _with_padded_scans(data)
    if padded is None:
        return
    again = Image.open(io.BytesIO(padded), formats=("JPEG",))
    if again.tobytes() != image.tobytes():
        raise ImageError("the JPEG file is cut short: blocks of pixels are missing.")


def _extrema(image: Image.Image) -> list[tuple[float, float]]:
    """Return the least and the largest value in each channel."""
    return [band.getextrema() for band in image.split()]  # type: ignore[misc]


def _with_padded_scans(data: bytes) -> bytes | None:
    """Return a JPEG with padding behind each scan's data; None if it is not Huffman-coded.

    Arithmetic coding lets an encoder leave out zeros at the end of a scan.
    """
    parts, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xD9:
        marker = data[at + 1]
        if marker in (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF):
            return None
        if marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # without a length
            end = at + (1 if marker == 0xFF else 2)
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            end = _end_of_scan(data, end)
        parts += [data[at:end], _PADDING if marker == 0xDA else b""]
        at = end
    parts.append(data[at:])
    return b"".join(parts)


def _end_of_scan(data: bytes, at: int) -> int:
    """Return where the marker is that ends a scan whose data begin at `at`."""
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        if data[at + 1] and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 2
    return len(data)
