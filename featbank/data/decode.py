"""Decoding: the bytes of an image file become 8-bit RGB, upright; or one clear reason why not.

How each of Pillow's modes becomes RGB is written in `featbank.data.modes`, samples of more than
8 bits in `featbank.data.depth`. Embedded colour profiles are not applied. Of several frames or
pages the first is taken, of an HEIC file its primary image. A file is refused where a part of that
frame is missing. The container of an HEIC file turns its image, so its EXIF orientation is ignored,
as the standard says.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Registered here, so that Pillow need not import all its plugins to find these two.
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from featbank.data.complete import (
    check_directory,
    check_jpeg,
    check_png,
    check_tiles,
    without_end_marker,
)
from featbank.data.formats import FIRST_BYTES, NEEDS_HEIF, decoders_for, format_of, has_heif
from featbank.data.modes import raw_mode, to_rgb
from featbank.data.pages import directories, file_and_page, marked, seek_page, unmarked
from featbank.errors import ImageError

__all__ = ["DecodeLimits", "DecodePolicy", "decode", "read_bytes", "unreadable"]

_ORIENTATION = 0x0112
_SPELT = {"WEBP": "WebP", "HEIF": "HEIC"}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OTHER_STARTS = (
    (0, b"%!PS", "PostScript"),
    (0, b"%PDF", "a PDF document"),
    (4, b"ftyp", "a film"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"PK", "a ZIP archive"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\0\x0cjP", "JPEG 2000"),
    (128, b"DICM", "DICOM"),
    (0, b"version https://git-lfs", "a Git LFS pointer"),
    (0, b"<", "HTML, SVG or XML"),
)


@dataclass(frozen=True)
class DecodePolicy:
    """What changes the pixels, and is therefore part of the recipe.

    Attributes
    ----------
    version : int
        Raised whenever the same bytes come out as other pixels.
    exif : bool
        Turn the image upright, as its EXIF orientation says.
    background : tuple of (int, int, int)
        What shows through where an image is transparent, 0..255.
    """

    version: int = 2
    exif: bool = True
    background: tuple[int, int, int] = (255, 255, 255)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**dataclasses.asdict(self), "background": list(self.background)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DecodePolicy:
        """Build from what `to_dict` returned; an empty dict gives the defaults."""
        plain = dict(data)
        if "background" in plain:
            red, green, blue = plain["background"]
            plain["background"] = (int(red), int(green), int(blue))
        return cls(**plain)


@dataclass(frozen=True)
class DecodeLimits:
    """What only decides whether a file is refused, never what its pixels are.

    Attributes
    ----------
    max_bytes : int
        Of the file. 256 MiB hold any photograph, and stop a film or an archive.
    max_pixels : int
        Width times height, by the header. The default is where Pillow itself refuses: more than
        the largest cameras deliver, half a gigabyte as RGB. To go beyond it,
        ``PIL.Image.MAX_IMAGE_PIXELS`` must be raised as well, by whoever trusts the files.
    max_side : int
        Width or height; the default is the most that a JPEG can have.
    """

    max_bytes: int = 256 * 1024**2
    max_pixels: int = 178_956_970
    max_side: int = 65_535


_POLICY = DecodePolicy()
_LIMITS = DecodeLimits()


def decode(
    data: bytes,
    policy: DecodePolicy = _POLICY,
    *,
    limits: DecodeLimits = _LIMITS,
    grey: bool = False,
) -> Image.Image:
    """Decode the bytes of one image file to 8-bit RGB.

    Parameters
    ----------
    data : bytes
        The whole file: JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF or HEIF (the last two where they
        can be read, see `featbank.data.formats`), whatever its name says. Or what stands for a page
        of it; see `featbank.data.pages`.
    policy : DecodePolicy, optional
    limits : DecodeLimits, optional
        Checked against the header, before any pixel is decoded.
    grey : bool
        Whether an image without colours may stay in mode L: one channel is resized in a third of
        the time of three, to the same values.

    Returns
    -------
    PIL.Image.Image
        Of mode RGB, or of mode L where `grey` allows; loaded, upright.

    Raises
    ------
    ImageError
        For anything that can't be read whole: another format, a header over the limits, a file cut
        short, damage. No other exception leaves this function.

    Examples
    --------
    >>> decode(b"P6 1 1 255 " + bytes([10, 20, 30])).getpixel((0, 0))
    (10, 20, 30)
    """
    data, page = unmarked(data)
    if not data:
        raise ImageError("the file is empty.")
    if len(data) > limits.max_bytes:
        raise ImageError(_over_bytes(len(data), limits))
    try:
        with _quiet():
            image = _open(data, limits)
            if page > 1:
                _turn_to(page, image, data, limits)
            raw = raw_mode(image)  # known until the pixels are loaded
            check_tiles(data, image)
            image.load()
            if image.format == "HEIF":  # whose header may differ from its pixels
                _check_size(image, limits)
            if image.format == "PNG" and page == 1:
                check_png(data, image)
            elif image.format in ("JPEG", "MPO"):
                check_jpeg(data, image)
            frame = image.tell() if image.format == "TIFF" else 0
            rgb = to_rgb(image, data, raw=raw, background=policy.background, grey=grey, frame=frame)
            return _upright(rgb, image) if policy.exif else rgb
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_unknown(data)) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow warns at it, and refuses at twice it
        raise ImageError(
            f"the image has more than {limit:,} pixels, which is the limit; shrink or tile it."
        ) from None
    except MemoryError:
        raise ImageError("decoding the image takes more memory than there is.") from None
    except Exception as error:  # a hostile file can raise nearly anything inside Pillow
        words = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"the image is damaged or cut short: {words[:200]}.") from error


def read_bytes(path: str | bytes | os.PathLike[str], limits: DecodeLimits = _LIMITS) -> bytes:
    """Read a regular file whole.

    Parameters
    ----------
    path : str, bytes or path-like
        Of a file, or of a page of it; see `featbank.data.pages`.
    limits : DecodeLimits, optional
        Only `max_bytes` matters here.

    Returns
    -------
    bytes

    Raises
    ------
    ImageError
        Where there is no such file, it may not be read, is no regular file (a pipe is refused
        without waiting for its writer), is too large, or changed while it was read.
    """
    path, page = file_and_page(os.fsencode(path))
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
        try:
            before = os.fstat(handle)
            if not stat.S_ISREG(before.st_mode):
                raise ImageError(f"not a regular file but {_kind(before.st_mode)}.")
            if before.st_size > limits.max_bytes:
                raise ImageError(_over_bytes(before.st_size, limits))
            with open(handle, "rb", closefd=False) as stream:
                data = stream.read(before.st_size + 1)
            after = os.fstat(handle)
        finally:
            os.close(handle)
    except ImageError:  # is a ValueError as well
        raise
    except OSError as error:
        raise ImageError(unreadable(error)) from None
    except ValueError as error:  # a zero byte in the name
        raise ImageError(f"the file can't be read: {error}.") from None
    times = [(state.st_mtime_ns, state.st_ctime_ns) for state in (before, after)]
    if not len(data) == before.st_size == after.st_size or times[0] != times[1]:
        raise ImageError("the file changed while it was read; run again when it is finished.")
    return marked(data, page)


def unreadable(error: OSError) -> str:
    """Return in a sentence why the system can't open or look at a file."""
    reasons = {
        errno.ENOENT: "there is no such file.",
        errno.EACCES: "permission denied.",
        errno.ENXIO: "not a regular file but a socket or a device.",
        errno.ELOOP: "too many symbolic links.",
    }
    return reasons.get(error.errno or 0, f"the file can't be read: {error.strerror or error}.")


def _over_bytes(size: int, limits: DecodeLimits) -> str:
    return f"the file has {size:,} bytes, over the limit of {limits.max_bytes:,} (max_bytes)."


def _kind(mode: int) -> str:
    tests = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((words for test, words in tests if test(mode)), "something else")


def _unknown(data: bytes) -> str:
    """Return why Pillow recognised nothing, as far as the first bytes tell."""
    known = format_of(data[:FIRST_BYTES]) or ("BMP" if data.startswith(b"BM") else None)
    if known == "AVIF" and "AVIF" not in decoders_for(data):
        return "an AVIF image, which this Pillow can't read; install Pillow 11.3 or newer."
    if known == "HEIF" and not has_heif():
        return f"an HEIC image; {NEEDS_HEIF}, and extract with --retry-failed."
    if known:
        return f"the file starts as {_SPELT.get(known, known)}, but is damaged or cut short."
    other = next(
        (name for at, start, name in _OTHER_STARTS if data.startswith(start, at)), "unknown data"
    )
    return f"not a JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF or HEIC image but {other}."


def _open(data: bytes, limits: DecodeLimits) -> Image.Image:
    """Open the image and hold its header against the limits; no pixel is decoded."""
    check_directory(data)
    jpeg = data.startswith(b"\xff\xd8")
    stream = io.BytesIO(without_end_marker(data) if jpeg else data)
    image = Image.open(stream, formats=decoders_for(data))
    _check_size(image, limits)
    return image


def _turn_to(page: int, image: Image.Image, data: bytes, limits: DecodeLimits) -> None:
    """Bring an open image to a page beyond the first, and hold that against the limits."""
    if image.format == "TIFF":
        for at in directories(data):  # Pillow reads those before it too
            check_directory(data, at)
    seek_page(image, data, page)
    _check_size(image, limits)


def _check_size(image: Image.Image, limits: DecodeLimits) -> None:
    """Raise `ImageError` where an image is over the limits."""
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageError(
            f"the image has {width} x {height} pixels, over the limit of {limits.max_pixels:,} "
            "(max_pixels); shrink or tile it."
        )
    if max(width, height) > limits.max_side:
        raise ImageError(
            f"the image has {width} x {height} pixels, a side over the limit of "
            f"{limits.max_side:,} (max_side)."
        )


def _upright(rgb: Image.Image, image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data cost the image its orientation, not its pixels
        return rgb
    return rgb if turn is None else rgb.transpose(turn)


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_state: warnings.catch_warnings[None] | None = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings meanwhile: what matters of them is raised as `ImageError`.

    The first thread in changes the filters and the last one out restores them, for
    `warnings.catch_warnings` alone would leave them changed where threads overlap.
    """
    global _quiet_depth, _quiet_state
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_state = warnings.catch_warnings()
            _quiet_state.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_state is not None:
                _quiet_state.__exit__(None, None, None)
                _quiet_state = None
