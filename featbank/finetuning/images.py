"""Images: what is trained on and predicted, read one at a time, here or in a worker process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from featbank.data.decode import DecodePolicy, decode, read_bytes
from featbank.data.modes import to_rgb
from featbank.data.pages import file_of
from featbank.errors import DataError, ImageError

__all__ = ["Images"]

_POLICY = DecodePolicy()


@dataclass(frozen=True)
class Images:
    """A row of images; `of_files` and `of_arrays` make it. It can be pickled.

    Examples
    --------
    >>> images = Images.of_arrays(np.zeros((2, 40, 60, 3), np.uint8))
    >>> len(images), images.read(1).size
    (2, (60, 40))
    """

    _sources: Sequence[Any]
    _policy: DecodePolicy = field(default_factory=DecodePolicy)
    _digests: npt.NDArray[np.uint8] | None = None

    @classmethod
    def of_files(
        cls,
        paths: Iterable[str | bytes | os.PathLike[str]],
        policy: DecodePolicy = _POLICY,
        *,
        digests: npt.NDArray[np.uint8] | None = None,
    ) -> Images:
        """Return images that are read from files whenever they are needed.

        Parameters
        ----------
        paths : iterable of path
        policy : DecodePolicy, optional
            The recipe's.
        digests : ndarray of shape (n, 32), uint8, optional
            SHA-256 of each file, as an index has it, so that a training that goes on need not look
            at the files to know that they are the same.
        """
        return cls([os.fsencode(path) for path in paths], policy, digests)

    @classmethod
    def of_arrays(cls, images: Any) -> Images:
        """Return images in memory: PIL images, or arrays of shape (H, W, 3) and dtype uint8.

        Raises
        ------
        DataError
            One of them is neither.
        """
        sources = list(images)
        for i, image in enumerate(sources):
            if isinstance(image, Image.Image):
                continue
            array = np.asarray(image)
            if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
                raise DataError(
                    f"image {i} is neither a PIL image nor an array of shape (H, W, 3) and dtype "
                    f"uint8, but of shape {array.shape} and dtype {array.dtype}."
                )
        return cls(sources)

    def __len__(self) -> int:
        return len(self._sources)

    def read(self, row: int) -> Image.Image:
        """Return one image in mode RGB.

        Raises
        ------
        ImageError
            The file can't be read (any longer); the message begins with its path.
        """
        source = self._sources[row]
        if isinstance(source, bytes):
            try:
                return decode(read_bytes(source), self._policy)
            except ImageError as error:
                raise ImageError(f"{os.fsdecode(source)}: {error}") from None
        if isinstance(source, Image.Image):
            return to_rgb(source, b"", raw="", background=self._policy.background)
        return Image.fromarray(source)

    def digest(self, rows: npt.NDArray[np.intp]) -> str:
        """Return the SHA-256 over what these rows hold, in hexadecimal.

        Of a file without a digest of its own, the path, size and time of change stand for it.
        """
        found = hashlib.sha256()
        for row in rows:
            if self._digests is not None:
                found.update(self._digests[row].tobytes())
                continue
            source = self._sources[row]
            if isinstance(source, bytes):
                try:
                    stat = os.stat(file_of(source))
                except OSError as error:
                    raise ImageError(f"{os.fsdecode(source)}: {error.strerror}.") from None
                found.update(b"%s\0%d\0%d\0" % (source, stat.st_size, stat.st_mtime_ns))
            else:
                pixels = np.asarray(self.read(row))
                found.update(b"%d\0%d\0" % pixels.shape[:2])
                found.update(np.ascontiguousarray(pixels).data)
        return found.hexdigest()
